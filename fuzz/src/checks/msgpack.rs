//! A request's body as MessagePack: it is read as another reader reads it, and as JSON it is the same.

use rmpv::Value;
use serde_json::{Map, Value as Tree};

use super::body::{DEEP, JSON, MAX, PACK, depth};
use super::request::{FIELDS, Request, Scalar};
use crate::usage::{BodyError, Demand};

/// Deeper than the gateway reads: a level counts twice here.
const DEEPEST: usize = 400;

/// One whole document.
pub(super) fn document(data: &[u8]) -> Option<Value> {
    let mut rest = data;
    let value = rmpv::decode::read_value_with_max_depth(&mut rest, DEEPEST).ok()?;
    rest.is_empty().then_some(value)
}

/// A key, as lenient readers compare it.
pub(super) fn name(key: &Value) -> Option<&[u8]> {
    match key {
        Value::String(text) => Some(text.as_bytes()),
        Value::Binary(bytes) => Some(bytes),
        _ => None,
    }
}

pub fn check(data: &[u8]) {
    let seen = Demand::read(PACK, data, MAX);
    let Some(Value::Map(members)) = document(data) else {
        assert!(seen.is_err(), "what is no map was read");
        return;
    };
    let known = |key: &Value| {
        let name = std::str::from_utf8(name(key)?).ok()?;
        FIELDS.contains(&name).then(|| name.to_owned())
    };
    let read = members.iter().filter_map(|(key, value)| Some((known(key)?, scalar(value))));
    Request(read.collect()).compare(&seen);
    if let Ok(demand) = &seen
        && let Some(tree) = tree(&Value::Map(members))
    {
        let text = tree.to_string();
        if depth(&text) >= DEEP {
            return;
        }
        assert_eq!(Demand::read(JSON, text.as_bytes(), MAX).as_ref(), Ok(demand), "{text}");
    }
    assert_ne!(seen, Err(BodyError::NotUtf8), "only JSON is");
}

fn scalar(value: &Value) -> Scalar {
    match value {
        Value::Nil => Scalar::Null,
        Value::Boolean(value) => Scalar::Bool(*value),
        Value::Integer(number) => {
            let whole = number.as_u64().map(i128::from).or(number.as_i64().map(i128::from));
            whole.map_or(Scalar::Unknown, Scalar::Whole)
        }
        Value::F32(number) => Scalar::Float(f64::from(*number)),
        Value::F64(number) => Scalar::Float(*number),
        Value::String(text) => text.as_str().map_or(Scalar::Unknown, |it| Scalar::Text(it.into())),
        Value::Binary(_) | Value::Array(_) | Value::Map(_) | Value::Ext(..) => Scalar::Else,
    }
}

/// The same as JSON, if it can be written so: no key twice, nothing that JSON has not.
fn tree(value: &Value) -> Option<Tree> {
    Some(match value {
        Value::Nil => Tree::Null,
        Value::Boolean(value) => Tree::from(*value),
        Value::Integer(number) => match number.as_u64() {
            Some(number) => Tree::from(number),
            None => Tree::from(number.as_i64()?),
        },
        Value::F32(_) | Value::Binary(_) | Value::Ext(..) => return None,
        Value::F64(number) => Tree::Number(serde_json::Number::from_f64(*number)?),
        Value::String(text) => Tree::from(text.as_str()?),
        Value::Array(items) => Tree::Array(items.iter().map(tree).collect::<Option<_>>()?),
        Value::Map(members) => {
            let mut map = Map::new();
            for (key, value) in members {
                let Value::String(key) = key else { return None };
                if map.insert(key.as_str()?.to_owned(), tree(value)?).is_some() {
                    return None;
                }
            }
            Tree::Object(map)
        }
    })
}
