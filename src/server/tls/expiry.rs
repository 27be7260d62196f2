//! When a certificate ends: the one thing about it that an operator has to know in time.

use crate::time::Timestamp;

// Tags of ASN.1, as far as they stand before the dates.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of a certificate (DER), in seconds since 1970; 0 where it cannot be found.
pub(super) fn of(certificate: &[u8]) -> i64 {
    let end = not_after(certificate).map(|end| end.as_nanos() / 1_000_000_000);
    end.and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0)
}

fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = tagged(certificate, SEQUENCE)?;
    let (signed, _) = tagged(certificate, SEQUENCE)?;
    let rest = tagged(signed, VERSION).map_or(signed, |(_, rest)| rest);
    // Serial number, algorithm, issuer.
    let rest = element(element(element(rest)?.2)?.2)?.2;
    let (dates, _) = tagged(rest, SEQUENCE)?;
    let (tag, text, _) = element(element(dates)?.2)?;
    let text = std::str::from_utf8(text).ok()?;
    let (year, rest) = match tag {
        // Two digits: up to 2049.
        UTC_TIME if text.get(..2)? < "50" => (format!("20{}", &text[..2]), &text[2..]),
        UTC_TIME => (format!("19{}", &text[..2]), &text[2..]),
        GENERALIZED_TIME => (text.get(..4)?.to_owned(), &text[4..]),
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2);
    let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    Timestamp::parse_rfc3339(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"))
}

/// The content of an element with this tag, and what comes after it.
fn tagged(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(bytes)?;
    (found == tag).then_some((content, rest))
}

/// The first element: its tag, its content, and what comes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, bytes) = bytes.split_first()?;
    let (&first, bytes) = bytes.split_first()?;
    let (length, bytes) = match first {
        0..=0x7f => (usize::from(first), bytes),
        // So many bytes that say how long it is.
        0x81..=0x84 => {
            let (digits, bytes) = bytes.split_at_checked(usize::from(first - 0x80))?;
            let length = digits.iter().fold(0_u32, |sum, digit| sum << 8 | u32::from(*digit));
            (usize::try_from(length).ok()?, bytes)
        }
        _ => return None,
    };
    let (content, rest) = bytes.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::of;

    fn ending(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.not_before = date_time_ymd(1999, 1, 2);
        params.not_after = date_time_ymd(year, month, day);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn the_end_is_found_however_it_is_written() {
        for (year, month, day, seconds) in [
            (2026, 2, 5, 1_770_249_600),
            (2000, 2, 29, 951_782_400),
            (2049, 12, 31, 2_524_521_600),
            (2050, 1, 1, 2_524_608_000),
            (2399, 1, 1, 13_537_929_600),
        ] {
            assert_eq!(of(&ending(year, month, day)), seconds, "{year}-{month}-{day}");
        }
    }

    #[test]
    fn a_certificate_that_is_cut_has_no_end() {
        let whole = ending(2026, 2, 5);
        for length in 0..whole.len() {
            assert_eq!(of(&whole[..length]), 0, "{length} of {}", whole.len());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..300, byte: u8) {
            of(&bytes);
            let mut damaged = ending(2026, 2, 5);
            let at = at % damaged.len();
            damaged[at] = byte;
            of(&damaged);
        }
    }
}
