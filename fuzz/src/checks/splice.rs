//! An output limit written into a body: nothing else of it changes.

use serde_json::value::RawValue;

use super::body::{JSON, MAX, Members, PACK, members};
use super::msgpack::{document, name};
use super::take;
use crate::usage::{BodyKind, Demand, Format, OutputLimit, limit_output};

const NAMES: [&str; 2] = ["max_tokens", "max_completion_tokens"];

pub fn check(mut data: &[u8]) {
    let [format] = take(&mut data);
    // Up to the largest that is read back.
    let tokens = u64::from_le_bytes(take(&mut data)) % ((1 << 53) + 1);
    let kind = if format % 2 == 0 { JSON } else { PACK };
    let after = limit_output(kind, data, MAX, tokens);
    // Who writes a limit has read the body.
    let Ok(demand) = Demand::read(kind, data, MAX) else { return };
    let Some(after) = after else {
        assert_eq!(named(kind, data), 2, "only two limits are left alone");
        return;
    };
    let changed = Demand { output_limit: OutputLimit::Tokens(tokens), ..demand };
    assert_eq!(Demand::read(kind, &after, MAX), Ok(changed));
    match kind.format {
        Format::Json => {
            let (before, after) = (members(data), members(&after));
            json(&before.expect("it was read").0, &after.expect("it was read").0, tokens);
        }
        Format::MsgPack => msgpack(data, &after, tokens),
    }
}

/// How many limits are named.
fn named(kind: BodyKind, data: &[u8]) -> usize {
    match kind.format {
        Format::Json => {
            let Some(Members(list)) = members(data) else { return 0 };
            let is = |(key, raw): &&(String, &RawValue)| {
                NAMES.contains(&key.as_str()) && raw.get() != "null"
            };
            list.iter().filter(is).count()
        }
        Format::MsgPack => {
            let Some(rmpv::Value::Map(list)) = document(data) else { return 0 };
            let is = |(key, value): &&(rmpv::Value, rmpv::Value)| {
                name(key).is_some_and(|key| NAMES.iter().any(|it| it.as_bytes() == key))
                    && *value != rmpv::Value::Nil
            };
            list.iter().filter(is).count()
        }
    }
}

fn json(before: &[(String, &RawValue)], after: &[(String, &RawValue)], tokens: u64) {
    let added = after.len() - before.len();
    assert!(added <= 1, "more than one member came");
    if added == 1 {
        assert!(NAMES.contains(&after[0].0.as_str()));
        assert_eq!(after[0].1.get(), tokens.to_string());
    }
    let same = before.iter().zip(&after[added..]).filter(|((key, raw), (other, new))| {
        assert_eq!(key, other);
        let same = raw.get() == new.get();
        if !same {
            assert!(NAMES.contains(&key.as_str()), "{key} was changed");
            assert_eq!(new.get(), tokens.to_string());
        }
        same
    });
    assert!(same.count() + 1 >= before.len() + added, "one member changed or came");
}

fn msgpack(before: &[u8], after: &[u8], tokens: u64) {
    let map = |data| match document(data) {
        Some(rmpv::Value::Map(list)) => list,
        other => panic!("it was read, and is {other:?}"),
    };
    let (before, after) = (map(before), map(after));
    let added = after.len() - before.len();
    assert!(added <= 1, "more than one member came");
    let limit = |(key, value): &(rmpv::Value, rmpv::Value)| {
        assert!(NAMES.iter().any(|it| Some(it.as_bytes()) == name(key)), "{key} was changed");
        assert_eq!(value.as_u64(), Some(tokens));
    };
    after.iter().take(added).for_each(limit);
    let changed = before.iter().zip(&after[added..]).filter(|(old, new)| {
        assert!(same(&old.0, &new.0));
        let same = same(&old.1, &new.1);
        if !same {
            limit(new);
        }
        !same
    });
    assert!(changed.count() + added <= 1, "one member changed or came");
}

/// Equal, where NaN is equal to itself.
fn same(one: &rmpv::Value, other: &rmpv::Value) -> bool {
    let bytes = |value| {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, value).map(|()| bytes).ok()
    };
    one == other || bytes(one) == bytes(other)
}
