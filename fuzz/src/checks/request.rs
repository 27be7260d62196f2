//! What a request asks for, by a reading of it that shares nothing with the gateway's: whole, into a
//! list of members, and judged afterwards.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::usage::{BodyError, Demand, OutputLimit, ServiceTier};

/// The fields that are read; each may stand once.
pub const FIELDS: [&str; 14] = [
    "model",
    "stream",
    "n",
    "best_of",
    "max_tokens",
    "max_completion_tokens",
    "service_tier",
    "messages",
    "prompt",
    "suffix",
    "tools",
    "functions",
    "response_format",
    "prediction",
];

/// A field's value, as far as it can be told apart.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Null,
    Bool(bool),
    Whole(i128),
    Float(f64),
    Text(String),
    /// A list, an object, or what only MessagePack has.
    Else,
    /// It cannot be held, because of its depth or size: nothing is known of it.
    Unknown,
}

impl From<&Value> for Scalar {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => {
                let whole = number.as_u64().map(i128::from).or(number.as_i64().map(i128::from));
                whole.map_or_else(|| Self::Float(number.as_f64().unwrap_or(0.0)), Self::Whole)
            }
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(_) | Value::Object(_) => Self::Else,
        }
    }
}

impl Scalar {
    fn whole(&self) -> Option<i128> {
        match self {
            Self::Whole(number) => Some(*number),
            Self::Float(number) if number.fract() == 0.0 && number.abs() < 1e18 => {
                Some(*number as i128)
            }
            _ => None,
        }
    }
}

/// What a field is found to say: nothing, something, or something that it must not.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Said<T> {
    Nothing,
    This(T),
    Wrong,
    Unknown,
}

impl<T> Said<T> {
    fn or(self, default: T) -> Option<T> {
        match self {
            Self::Nothing => Some(default),
            Self::This(value) => Some(value),
            Self::Wrong | Self::Unknown => None,
        }
    }
}

/// The members of a request's top level that are read, in order.
pub struct Request(pub Vec<(String, Scalar)>);

impl Request {
    fn say<T>(&self, name: &str, read: impl Fn(&Scalar) -> Option<T>) -> Said<T> {
        match self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value) {
            None | Some(Scalar::Null) => Said::Nothing,
            Some(Scalar::Unknown) => Said::Unknown,
            Some(value) => read(value).map_or(Said::Wrong, Said::This),
        }
    }

    fn limit(&self, name: &str) -> Said<OutputLimit> {
        self.say(name, |value| match value.whole()? {
            -1 => Some(OutputLimit::Unlimited),
            tokens @ 0..=0x20_0000_0000_0000 => Some(OutputLimit::Tokens(tokens as u64)),
            _ => None,
        })
    }

    fn choices(&self, name: &str) -> Said<u64> {
        let fits = |number: &i128| (1..=1024).contains(number);
        self.say(name, |value| value.whole().filter(fits).map(|number| number as u64))
    }

    fn model(&self) -> Said<String> {
        match self.0.iter().find(|(key, _)| key == "model").map(|(_, value)| value) {
            None => Said::Nothing,
            Some(Scalar::Unknown) => Said::Unknown,
            Some(Scalar::Text(name))
                if (1..=256).contains(&name.len()) && !name.chars().any(char::is_control) =>
            {
                Said::This(name.clone())
            }
            Some(_) => Said::Wrong,
        }
    }

    /// Both readers must come to the same.
    pub fn compare(&self, seen: &Result<Demand, BodyError>) {
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for (key, _) in &self.0 {
            *times.entry(key).or_default() += 1;
        }
        let once = times.values().all(|count| *count == 1);
        let (old, new) = (self.limit("max_tokens"), self.limit("max_completion_tokens"));
        match seen {
            Ok(demand) => {
                assert!(once, "a field stands twice");
                assert_eq!(Said::This(demand.model.clone()), self.model());
                let flag = self.say("stream", |value| match value {
                    Scalar::Bool(value) => Some(*value),
                    _ => None,
                });
                assert_eq!(flag.or(false), Some(demand.stream));
                let choices =
                    ["n", "best_of"].map(|name| self.choices(name).or(0).expect("a number"));
                assert_eq!(demand.choices, choices[0].max(choices[1]).max(1));
                let limit = match (old, new) {
                    (Said::Nothing, other) | (other, Said::Nothing) => {
                        other.or(OutputLimit::Unlimited)
                    }
                    (one, other) => {
                        assert_eq!(one, other, "two limits");
                        one.or(OutputLimit::Unlimited)
                    }
                };
                assert_eq!(limit, Some(demand.output_limit));
                let tier = self.say("service_tier", |value| match value {
                    Scalar::Text(name) => Some(match name.as_str() {
                        "auto" => ServiceTier::Auto,
                        "default" => ServiceTier::Default,
                        "flex" => ServiceTier::Flex,
                        "priority" => ServiceTier::Priority,
                        _ => ServiceTier::Other,
                    }),
                    _ => None,
                });
                let tier = match tier {
                    Said::Nothing => None,
                    Said::This(tier) => Some(tier),
                    Said::Wrong | Said::Unknown => panic!("a tier that is none"),
                };
                assert_eq!(tier, demand.service_tier);
            }
            Err(BodyError::Missing { param }) => {
                assert_eq!((*param, self.model()), ("model", Said::Nothing));
            }
            Err(BodyError::Duplicate { param }) => assert!(times[param] > 1, "{param} stands once"),
            Err(BodyError::Conflict) => assert_ne!(old, new, "they do not differ"),
            Err(BodyError::Invalid { param, .. }) => {
                let good = match *param {
                    "model" => matches!(self.model(), Said::This(_)),
                    "n" | "best_of" => matches!(self.choices(param), Said::This(_)),
                    "max_tokens" => matches!(old, Said::This(_)),
                    "max_completion_tokens" => matches!(new, Said::This(_)),
                    _ => false,
                };
                assert!(!good || !once, "{param} is refused and good");
            }
            Err(_) => {}
        }
    }
}
