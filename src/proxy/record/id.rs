//! What a request is called.

/// A random name for a request.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct RequestId([u8; 20]);

impl RequestId {
    /// A new one: "req_" and 64 random bits, enough to find one in a day of logs.
    pub(in crate::proxy) fn new() -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut bits = fastrand::u64(..);
        let mut text = *b"req_0000000000000000";
        for digit in &mut text[4..] {
            *digit = DIGITS[(bits & 0xf) as usize];
            bits >>= 4;
        }
        Self(text)
    }

    /// Its text: visible ASCII.
    pub(in crate::proxy) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}
