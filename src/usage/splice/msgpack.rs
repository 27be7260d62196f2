//! The same for MessagePack: a value is replaced where it stands, or a member is put first and the
//! map's length, which stands before it, written anew.

use super::{Members, Plan, Value};

/// Most members of a top-level map that one more may join: what its header can count.
const MOST: u64 = u32::MAX as u64;

pub(super) fn splice(document: &[u8], tokens: u64) -> Option<Vec<u8>> {
    let (count, first) = header(document)?;
    match outline(document, count, first)?.plan()? {
        Plan::Replace(span) => {
            let mut spliced = document.get(..span.start)?.to_vec();
            number(&mut spliced, tokens);
            spliced.extend_from_slice(document.get(span.end..)?);
            Some(spliced)
        }
        Plan::Insert(name) => {
            let mut spliced = Vec::with_capacity(document.len() + name.len() + 16);
            map(&mut spliced, count + 1)?;
            // Names are shorter than 32 bytes: one byte says so.
            spliced.push(0xa0 | u8::try_from(name.len()).ok().filter(|len| *len < 32)?);
            spliced.extend_from_slice(name.as_bytes());
            number(&mut spliced, tokens);
            spliced.extend_from_slice(document.get(first..)?);
            Some(spliced)
        }
    }
}

/// Where the members of a document stand.
pub(super) fn members(document: &[u8]) -> Option<Members> {
    let (count, first) = header(document)?;
    outline(document, count, first)
}

/// A text, in its shortest form.
pub(super) fn string(text: &str) -> Option<Vec<u8>> {
    let mut out = match text.len() {
        len @ ..=31 => vec![0xa0 | u8::try_from(len).ok()?],
        len @ 32..=255 => vec![0xd9, u8::try_from(len).ok()?],
        len => {
            let [high, low] = u16::try_from(len).ok()?.to_be_bytes();
            vec![0xda, high, low]
        }
    };
    out.extend_from_slice(text.as_bytes());
    Some(out)
}

/// Where the members of a document's map stand.
fn outline(document: &[u8], count: u64, first: usize) -> Option<Members> {
    let (mut members, mut at) = (Members::default(), first);
    for _ in 0..count {
        let key = text(document, at);
        let from = skip(document, at)?;
        at = skip(document, from)?;
        let value = || Value { span: from..at, null: document.get(from) == Some(&0xc0) };
        match key {
            Some(key) if key == super::NEW.as_bytes() => members.new = Some(value()),
            Some(key) if key == super::OLD.as_bytes() => members.old = Some(value()),
            Some(b"model") => members.model = Some(value()),
            Some(b"messages") => members.chat = true,
            _ => {}
        }
    }
    (at == document.len()).then_some(members)
}

/// The number of members of the map that begins a document, and where the first stands.
fn header(document: &[u8]) -> Option<(u64, usize)> {
    match *document.first()? {
        byte @ 0x80..=0x8f => Some((u64::from(byte & 0x0f), 1)),
        0xde => Some((be(document, 1, 2)?, 3)),
        0xdf => Some((be(document, 1, 4)?, 5)),
        _ => None,
    }
}

/// A text, or the bytes that a lenient reader takes for one.
fn text(document: &[u8], at: usize) -> Option<&[u8]> {
    let (len, from) = match *document.get(at)? {
        byte @ 0xa0..=0xbf => (u64::from(byte & 0x1f), at + 1),
        0xd9 | 0xc4 => (be(document, at + 1, 1)?, at + 2),
        0xda | 0xc5 => (be(document, at + 1, 2)?, at + 3),
        0xdb | 0xc6 => (be(document, at + 1, 4)?, at + 5),
        _ => return None,
    };
    document.get(from..from.checked_add(usize::try_from(len).ok()?)?)
}

/// Where the value that stands at `at` ends.
fn skip(document: &[u8], at: usize) -> Option<usize> {
    let (mut at, mut left) = (at, 1_u64);
    while left > 0 {
        left -= 1;
        let (head, bytes, values) = match *document.get(at)? {
            0x00..=0x7f | 0xc0..=0xc3 | 0xe0..=0xff => (1, 0, 0),
            byte @ 0x80..=0x8f => (1, 0, u64::from(byte & 0x0f) * 2),
            byte @ 0x90..=0x9f => (1, 0, u64::from(byte & 0x0f)),
            byte @ 0xa0..=0xbf => (1, u64::from(byte & 0x1f), 0),
            0xcc | 0xd0 => (2, 0, 0),
            0xcd | 0xd1 | 0xd4 => (3, 0, 0),
            0xce | 0xd2 | 0xca => (5, 0, 0),
            0xcf | 0xd3 | 0xcb => (9, 0, 0),
            0xd5 => (4, 0, 0),
            0xd6 => (6, 0, 0),
            0xd7 => (10, 0, 0),
            0xd8 => (18, 0, 0),
            0xc4 | 0xd9 => (2, be(document, at + 1, 1)?, 0),
            0xc5 | 0xda => (3, be(document, at + 1, 2)?, 0),
            0xc6 | 0xdb => (5, be(document, at + 1, 4)?, 0),
            // Extensions have a type byte as well.
            0xc7 => (3, be(document, at + 1, 1)?, 0),
            0xc8 => (4, be(document, at + 1, 2)?, 0),
            0xc9 => (6, be(document, at + 1, 4)?, 0),
            0xdc => (3, 0, be(document, at + 1, 2)?),
            0xdd => (5, 0, be(document, at + 1, 4)?),
            0xde => (3, 0, be(document, at + 1, 2)? * 2),
            0xdf => (5, 0, be(document, at + 1, 4)? * 2),
        };
        at = at.checked_add(head)?.checked_add(usize::try_from(bytes).ok()?)?;
        left = left.checked_add(values)?;
    }
    (at <= document.len()).then_some(at)
}

/// A number of so many bytes, the highest first.
fn be(document: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let digits = document.get(at..at.checked_add(bytes)?)?;
    Some(digits.iter().fold(0, |number, digit| number << 8 | u64::from(*digit)))
}

/// Appends a number in its shortest form.
fn number(out: &mut Vec<u8>, number: u64) {
    let (marker, bytes) = match number {
        0..=0x7f => (None, 1),
        0x80..=0xff => (Some(0xcc), 1),
        0x100..=0xffff => (Some(0xcd), 2),
        0x1_0000..=0xffff_ffff => (Some(0xce), 4),
        _ => (Some(0xcf), 8),
    };
    out.extend(marker);
    out.extend(number.to_be_bytes().into_iter().skip(8 - bytes));
}

/// Appends the header of a map.
fn map(out: &mut Vec<u8>, count: u64) -> Option<()> {
    let (marker, bytes) = match count {
        0..=15 => {
            out.push(0x80 | u8::try_from(count).ok()?);
            return Some(());
        }
        16..=0xffff => (0xde, 2),
        0x1_0000..=MOST => (0xdf, 4),
        _ => return None,
    };
    out.push(marker);
    out.extend(count.to_be_bytes().into_iter().skip(8 - bytes));
    Some(())
}
