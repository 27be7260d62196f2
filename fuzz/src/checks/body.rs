//! A request's body as JSON: it is read as a parser reads it, and as MessagePack it is the same.

use std::fmt;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::request::{FIELDS, Request, Scalar};
use crate::usage::{BodyError, BodyKind, Coding, Demand, EstimateRule, Format};

pub(super) const JSON: BodyKind = BodyKind { format: Format::Json, coding: Coding::Identity };
pub(super) const PACK: BodyKind = BodyKind { format: Format::MsgPack, coding: Coding::Identity };
pub(super) const MAX: usize = 1 << 20;

/// From here on readers differ in what they take to be too deep, by a level or two below 128.
pub(super) const DEEP: usize = 120;

/// The members of an object as they stand, those that stand twice included.
pub(super) struct Members<'a>(pub(super) Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(List)
    }
}

pub(super) fn members(data: &[u8]) -> Option<Members<'_>> {
    serde_json::from_str(std::str::from_utf8(data).ok()?).ok()
}

pub fn check(data: &[u8]) {
    let seen = Demand::read(JSON, data, MAX);
    let Some(Members(list)) = members(data) else {
        assert!(seen.is_err(), "what is no object was read");
        return;
    };
    let mut whole = true;
    let mut read = Vec::new();
    for (key, raw) in &list {
        let value = serde_json::from_str::<Value>(raw.get());
        whole &= value.is_ok();
        let value = value.ok().filter(|_| depth(raw.get()) < DEEP);
        if FIELDS.contains(&key.as_str()) {
            read.push((key.clone(), value.as_ref().map_or(Scalar::Unknown, Scalar::from)));
        }
    }
    let unknown = read.iter().any(|(_, value)| *value == Scalar::Unknown);
    Request(read).compare(&seen);
    if !unknown {
        let refused = matches!(seen, Err(BodyError::Json { .. } | BodyError::NotAnObject { .. }));
        assert!(!refused, "an object was taken for something else: {seen:?}");
    }
    if let Ok(demand) = &seen {
        estimates(demand);
        packed(data, demand);
    }
    if whole && std::str::from_utf8(data).is_ok_and(|text| depth(text) < DEEP) {
        either_way(data);
    }
}

/// How deeply a valid document is nested.
pub(super) fn depth(text: &str) -> usize {
    let (mut depth, mut most, mut bytes) = (0_usize, 0, text.bytes());
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next().filter(|byte| *byte != b'"') {
                    // Whatever is escaped ends nothing.
                    let _ = (byte == b'\\').then(|| bytes.next());
                }
            }
            _ => {}
        }
        most = most.max(depth);
    }
    most
}

/// The bound is above what is certain, and nothing overflows.
fn estimates(demand: &Demand) {
    let rule = EstimateRule::assumed(16_384);
    let (most, least) = (rule.estimate(demand), rule.least(demand));
    assert!(most.prompt >= least.prompt && most.output == least.output);
    assert!(most.total() >= least.total());
}

/// Packed it is the same, and no larger than is allowed.
fn packed(data: &[u8], demand: &Demand) {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
    gzip.write_all(data).expect("a vector takes it");
    let gzip = gzip.finish().expect("a vector takes it");
    let kind = BodyKind { coding: Coding::Gzip, ..JSON };
    assert_eq!(Demand::read(kind, &gzip, data.len()).as_ref(), Ok(demand));
    let limit = data.len() - 1;
    assert_eq!(Demand::read(kind, &gzip, limit), Err(BodyError::TooLarge { limit }));
}

/// The same tree, written down as JSON and as MessagePack.
fn either_way(data: &[u8]) {
    let Ok(tree) = serde_json::from_slice::<Value>(data) else { return };
    let text = Demand::read(JSON, tree.to_string().as_bytes(), MAX);
    let pack = rmp_serde::to_vec_named(&tree).expect("a tree can be written");
    assert_eq!(text, Demand::read(PACK, &pack, MAX), "{tree}");
}
