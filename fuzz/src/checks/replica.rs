//! What comes from a server that others write to: entries and snapshots of anybody's are refused, or
//! make a ledger that all replicas have alike.

use std::time::Duration;

use super::state::{NOW, limits};
use super::{spoilt, take};
use crate::limit::{ColdStart, Cost, Replica, Sharing};
use crate::time::Timestamp;

pub fn check(mut data: &[u8]) {
    let [which, mode] = take(&mut data);
    match which % 4 {
        0 => load(data, mode),
        1 | 2 => {
            let patches: [u8; 49] = take(&mut data);
            let saved = entries(data, mode);
            load(&spoilt(saved, &mut &patches[..]), mode);
        }
        _ => drop(entries(data, mode)),
    }
}

fn load(snapshot: &[u8], mode: u8) {
    let mut replica = replica(1, mode);
    if replica.load(Some(snapshot), 0, NOW).is_ok() {
        let saved = replica.save();
        assert!(replica.load(Some(&saved), 0, NOW).is_ok(), "what was saved");
        assert_eq!(replica.save(), saved);
    }
}

fn replica(own: u64, mode: u8) -> Replica {
    let sharing = Sharing { own, float: mode & 64 != 0, replicas: 2 };
    Replica::new(sharing, limits(mode), ColdStart::Full, NOW)
}

/// Two replicas apply the same entries, `OWNER AFTER LENGTH` and bytes, and agree on what is returned.
fn entries(mut data: &[u8], mode: u8) -> Vec<u8> {
    let (mut one, mut other) = (replica(1, mode), replica(2, mode));
    assert!(one.load(None, 0, NOW).is_ok() && other.load(None, 0, NOW).is_ok());
    let mut at = NOW;
    let mut number = 0;
    while !data.is_empty() {
        let [owner, after, length] = take(&mut data);
        let (bytes, rest) = data.split_at(usize::from(length).min(data.len()));
        data = rest;
        at = at.after(Duration::from_millis(100 * u64::from(after)));
        number += 1;
        let name = (u64::from(owner % 4), number);
        if owner & 128 != 0 {
            one.gone(name.0, at, |_| ());
            other.gone(name.0, at, |_| ());
            continue;
        }
        let said = one.apply(name, at, bytes, |_| ());
        assert_eq!(said, other.apply(name, at, bytes, |_| ()));
    }
    assert_eq!(one.save(), other.save(), "the log decides");
    let saved = one.save();
    assert!(other.load(Some(&saved), 0, at).is_ok(), "what was saved");
    assert_eq!(other.save(), saved);
    go_on(&mut one, at);
    saved
}

/// A replica that has heard strange things goes on, with no more than its limits.
fn go_on(replica: &mut Replica, at: Timestamp) {
    for after in [0, 1, 90, 200_000] {
        let now = at.after(Duration::from_secs(after));
        let _ = replica.check(Cost::new(1, 1_000), false, now);
        let (ledger, now, _) = replica.ledger(now);
        for level in ledger.levels(now) {
            let limit = i64::try_from(level.quota.limit()).expect("a limit fits");
            assert!(level.available <= limit, "{level:?}");
        }
        replica.mend();
        let _ = replica.question(now);
    }
    replica.leave(at);
    let _ = replica.check(Cost::new(1, 1_000), false, at);
}
