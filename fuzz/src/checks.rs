//! The laws, a module for each target.

pub mod batch;
pub mod body;
pub mod config;
pub mod headers;
pub mod msgpack;
pub mod replica;
pub mod request;
pub mod splice;
pub mod sse;
pub mod state;

/// What each target is fed to.
pub const ALL: [(&str, fn(&[u8])); 9] = [
    ("batch", batch::check),
    ("body", body::check),
    ("config", config::check),
    ("headers", headers::check),
    ("msgpack", msgpack::check),
    ("replica", replica::check),
    ("splice", splice::check),
    ("sse", sse::check),
    ("state", state::check),
];

/// Takes `N` bytes off the beginning; zeros where there are none.
pub(crate) fn take<const N: usize>(data: &mut &[u8]) -> [u8; N] {
    let (head, rest) = data.split_at(N.min(data.len()));
    *data = rest;
    let mut taken = [0; N];
    taken[..head.len()].copy_from_slice(head);
    taken
}

/// Bytes that were saved, some of which have become others since: so many of them, `AT AT BYTE` each.
pub(crate) fn spoilt(mut saved: Vec<u8>, data: &mut &[u8]) -> Vec<u8> {
    let [count] = take(data);
    for _ in 0..=count % 16 {
        let [low, high, byte] = take(data);
        let at = usize::from(u16::from_le_bytes([low, high])) % saved.len().max(1);
        if let Some(place) = saved.get_mut(at) {
            *place = byte;
        }
    }
    saved
}
