//! A key: what it begins with, and 256 random bits.

use sha2::{Digest, Sha256};

use super::Failure;

/// Letters and digits only: a key is one word to a double click, a shell and a URL.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// 62^43 is just above 2^256.
const LENGTH: usize = 43;

/// The largest multiple of 62 that a byte can be below: what is above would make some letters likelier.
const FAIR: u8 = 248;

/// Makes a key that begins with `prefix`.
pub(super) fn make(prefix: &str) -> Result<String, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if prefix.len() > 32 || !prefix.chars().all(plain) {
        let message = "--prefix: at most 32 letters, digits, '-', '_' and '.' are expected";
        return Err(Failure::Usage(message.to_owned()));
    }
    let random = |bytes: &mut [u8]| {
        getrandom::fill(bytes)
            .map_err(|error| Failure::Failed(format!("no random numbers: {error}")))
    };
    Ok(format!("{prefix}{}", word(random)?))
}

/// A word of letters and digits, each as likely as any other if the bytes are.
fn word<E>(mut random: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<String, E> {
    let mut word = String::with_capacity(LENGTH);
    let mut bytes = [0; 64];
    while word.len() < LENGTH {
        random(&mut bytes)?;
        let letters = bytes.iter().filter_map(|byte| letter(*byte));
        word.extend(letters.take(LENGTH - word.len()));
    }
    Ok(word)
}

/// The letter that a byte stands for, if it stands for one.
fn letter(byte: u8) -> Option<char> {
    (byte < FAIR).then(|| char::from(ALPHABET[usize::from(byte % 62)]))
}

/// What is kept of a key.
pub(super) fn hash(key: &str) -> String {
    let digest = Sha256::digest(key);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn every_letter_is_as_likely_as_any_other() {
        let mut counts = BTreeMap::new();
        for letter in (0..=u8::MAX).filter_map(letter) {
            *counts.entry(letter).or_insert(0) += 1;
        }
        assert!(counts.len() == 62 && counts.values().all(|count| *count == 4), "{counts:?}");
    }

    #[test]
    fn a_word_takes_as_many_bytes_as_it_needs() {
        let mut calls = 0;
        let word = word(|bytes| {
            calls += 1;
            // Most of the first stand for nothing.
            bytes.fill(if calls == 1 { 255 } else { 10 });
            bytes[0] = 0;
            Ok::<_, Infallible>(())
        });
        assert_eq!((word.unwrap(), calls), (format!("00{}", "A".repeat(41)), 2));
    }

    #[test]
    fn no_two_keys_are_alike() {
        let keys: BTreeSet<_> = (0..100).map(|_| make("tg-").unwrap()).collect();
        assert_eq!(keys.len(), 100);
        for key in &keys {
            assert!(key.len() == 46 && key.starts_with("tg-"), "{key}");
            assert!(key[3..].bytes().all(|byte| byte.is_ascii_alphanumeric()), "{key}");
        }
        for wrong in ["tg key", "tg\n", "täg-", "0123456789012345678901234567890123"] {
            assert!(matches!(make(wrong), Err(Failure::Usage(_))), "{wrong}");
        }
    }

    #[test]
    fn a_hash_is_what_the_documents_say() {
        // printf %s key | sha256sum
        let expected = "sha256:2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683";
        assert_eq!(hash("key"), expected);
    }
}
