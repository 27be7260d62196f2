//! What goes to and comes from the script `log.lua`: frames, publications, replies. Pure.
//!
//! A frame is one line, `KIND SEQ MICROS REPLICA NUMBER LENGTH`, and LENGTH bytes.

use bytes::Bytes;
use redis::Value;

use super::position::{Entry, EntryKind, Epoch, ReplicaId};
use crate::time::Timestamp;

/// The server answered something that the script does not say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Malformed;

/// Whether the pool's log can be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// Replicas bring what they know.
    Gather,
    Open,
}

/// What a channel carries.
#[derive(Debug, PartialEq)]
pub(super) struct Publication {
    pub(super) phase: Phase,
    pub(super) epoch: Epoch,
    pub(super) entries: Vec<Entry>,
}

/// The head of every reply.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: String,
    pub(super) epoch: Epoch,
    /// The last entry before the call.
    pub(super) before: u64,
    /// The log's time, in microseconds since the Unix epoch.
    pub(super) micros: u64,
    /// The last entry that the snapshot includes.
    pub(super) snapshot: u64,
    /// The last entry after the call.
    pub(super) seq: u64,
    /// What depends on the status.
    pub(super) rest: Vec<Value>,
}

impl Reply {
    /// Takes a reply apart; the two formats where the script refuses ours.
    pub(super) fn read(value: Value) -> Result<Result<Self, (String, String)>, Malformed> {
        let Value::Array(values) = value else { return Err(Malformed) };
        let mut values = values.into_iter();
        let status = string(values.next())?;
        if status == "format" {
            return Ok(Err((string(values.next())?, string(values.next())?)));
        }
        let id = string(values.next())?;
        let mut numbers = [0; 5];
        for number in &mut numbers {
            *number = int(values.next())?;
        }
        let [number, before, micros, snapshot, seq] = numbers;
        let epoch = Epoch { id: id.into(), number };
        let rest = values.collect();
        Ok(Ok(Self { status, epoch, before, micros, snapshot, seq, rest }))
    }

    /// The next of what depends on the status.
    pub(super) fn take(&mut self) -> Option<Value> {
        (!self.rest.is_empty()).then(|| self.rest.remove(0))
    }
}

pub(super) fn string(value: Option<Value>) -> Result<String, Malformed> {
    match value {
        Some(Value::BulkString(bytes)) => String::from_utf8(bytes).map_err(|_| Malformed),
        Some(Value::SimpleString(text)) => Ok(text),
        _ => Err(Malformed),
    }
}

pub(super) fn bytes(value: Option<Value>) -> Result<Bytes, Malformed> {
    match value {
        Some(Value::BulkString(bytes)) => Ok(bytes.into()),
        _ => Err(Malformed),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as its neighbours: a reply is taken apart")]
pub(super) fn int(value: Option<Value>) -> Result<u64, Malformed> {
    match value {
        Some(Value::Int(number)) => u64::try_from(number).map_err(|_| Malformed),
        _ => Err(Malformed),
    }
}

pub(super) fn list(value: Option<Value>) -> Result<Vec<Value>, Malformed> {
    match value {
        Some(Value::Array(values)) => Ok(values),
        _ => Err(Malformed),
    }
}

/// The entries of a list of frames.
pub(super) fn entries(value: Option<Value>) -> Result<Vec<Entry>, Malformed> {
    let mut found = Vec::new();
    for value in list(value)? {
        let (entry, rest) = frame(&bytes(Some(value))?)?;
        if !rest.is_empty() {
            return Err(Malformed);
        }
        found.push(entry);
    }
    Ok(found)
}

/// The entry that `data` begins with, and what follows.
fn frame(data: &Bytes) -> Result<(Entry, Bytes), Malformed> {
    let (line, body) = line(data)?;
    let mut words = line.split(' ');
    let mut word = || words.next().ok_or(Malformed);
    let kind = match word()? {
        "e" => EntryKind::Own,
        "g" => EntryKind::Gone,
        _ => return Err(Malformed),
    };
    let mut number = || word()?.parse::<u64>().map_err(|_| Malformed);
    let (seq, micros) = (number()?, number()?);
    let replica = word()?.parse().map_err(|_| Malformed)?;
    let mut number = || word()?.parse::<u64>().map_err(|_| Malformed);
    let (number, length) = (number()?, number()?);
    let length = usize::try_from(length).map_err(|_| Malformed)?;
    if body.len() < length {
        return Err(Malformed);
    }
    let at = timestamp(micros);
    let entry = Entry { seq, at, replica, number, kind, bytes: body.slice(..length) };
    Ok((entry, body.slice(length..)))
}

/// The first line of `data`, and what follows.
fn line(data: &Bytes) -> Result<(String, Bytes), Malformed> {
    let end = memchr::memchr(b'\n', data).ok_or(Malformed)?;
    let line = std::str::from_utf8(&data[..end]).map_err(|_| Malformed)?;
    Ok((line.to_owned(), data.slice(end + 1..)))
}

/// Reads what a channel carries: `PHASE ID NUMBER`, and frames.
pub(super) fn publication(data: &Bytes) -> Result<Publication, Malformed> {
    let (line, mut rest) = line(data)?;
    let words: Vec<_> = line.split(' ').collect();
    let [phase, id, number] = words[..] else { return Err(Malformed) };
    let phase = match phase {
        "open" => Phase::Open,
        "gather" => Phase::Gather,
        _ => return Err(Malformed),
    };
    let number = number.parse().map_err(|_| Malformed)?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (entry, after) = frame(&rest)?;
        entries.push(entry);
        rest = after;
    }
    Ok(Publication { phase, epoch: Epoch { id: id.into(), number }, entries })
}

/// `REPLICA:NUMBER …`, and back.
pub(super) fn versions(text: &str) -> Result<Vec<(ReplicaId, u64)>, Malformed> {
    let pairs = text.split_ascii_whitespace().map(|pair| {
        let (replica, number) = pair.split_once(':').ok_or(Malformed)?;
        let replica = replica.parse().map_err(|_| Malformed)?;
        Ok((replica, number.parse().map_err(|_| Malformed)?))
    });
    pairs.collect()
}

/// The log counts in microseconds, everybody else in nanoseconds.
pub(super) fn timestamp(micros: u64) -> Timestamp {
    Timestamp::from_nanos(micros.saturating_mul(1_000))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(entry: &Entry) -> Vec<u8> {
        let kind = if entry.kind == EntryKind::Own { 'e' } else { 'g' };
        let Entry { seq, at, replica, number, bytes, .. } = entry;
        let micros = at.as_nanos() / 1_000;
        let line = format!("{kind} {seq} {micros} {replica} {number} {}\n", bytes.len());
        [line.as_bytes(), bytes].concat()
    }

    proptest! {
        /// Whatever bytes an entry has, it is found again, and so is what follows it.
        #[test]
        fn frames_come_back(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5),
            first in 1..1_u64 << 50,
            replica: u64,
        ) {
            let entries: Vec<_> = bodies
                .into_iter()
                .zip(first..)
                .map(|(bytes, seq)| Entry {
                    seq,
                    at: timestamp(1_763_775_845_123_456),
                    replica: ReplicaId(replica),
                    number: seq * 2,
                    kind: if bytes.is_empty() { EntryKind::Gone } else { EntryKind::Own },
                    bytes: bytes.into(),
                })
                .collect();
            let mut data = b"open 0af3 7\n".to_vec();
            data.extend(entries.iter().flat_map(written));
            let read = publication(&data.into()).expect("well formed");
            prop_assert_eq!(read.entries, entries);
            prop_assert_eq!(read.epoch, Epoch { id: "0af3".into(), number: 7 });
        }

        /// Whatever else comes, it is refused without a panic.
        #[test]
        fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut data = b"open x 1\n".to_vec();
            data.extend(&noise);
            let read = publication(&data.into());
            prop_assert!(read.is_err() || noise.is_empty());
        }
    }
}
