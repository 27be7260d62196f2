//! The single values of a request body: model, switch, numbers and tier.
//!
//! A refusal here carries no text: [`Reader`](super::reader::Reader) words it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, Visitor};

use super::demand::{OutputLimit, ServiceTier};

/// Longest model name, in bytes: names become map keys and metric labels, and real ones stay well
/// below a hundred.
const MODEL_MAX: usize = 256;

/// Most choices one request may ask for: eight times the 128 that the API's reference allows.
const CHOICES_MAX: u64 = 1024;

/// Largest output limit: the largest integer every JSON reader holds exactly.
const LIMIT_MAX: u64 = 1 << 53;

/// Makes a visitor its own seed.
macro_rules! seed {
    ($($seed:ty => $value:ty),+ $(,)?) => {$(
        impl<'de> DeserializeSeed<'de> for $seed {
            type Value = $value;

            fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<$value, D::Error> {
                from.deserialize_any(self)
            }
        }
    )+};
}
pub(super) use seed;

/// A model name.
pub(super) struct Model;
/// A boolean; null is false.
pub(super) struct Flag;
/// A number of choices; null is none given.
pub(super) struct Choices;
/// An output limit; null is none given.
pub(super) struct Limit;
/// A service tier; null is none given.
pub(super) struct Tier;

seed! {
    Model => String,
    Flag => bool,
    Choices => Option<u64>,
    Limit => Option<OutputLimit>,
    Tier => Option<ServiceTier>,
}

impl Visitor<'_> for Model {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a model name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<String, E> {
        let fits = (1..=MODEL_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
        if fits { Ok(name.to_owned()) } else { Err(E::custom("model")) }
    }
}

impl Visitor<'_> for Flag {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a boolean")
    }

    fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
        Ok(value)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }
}

impl Visitor<'_> for Choices {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of choices")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        if (1..=CHOICES_MAX).contains(&value) { Ok(Some(value)) } else { Err(E::custom("n")) }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        self.visit_u64(u64::try_from(value).map_err(E::custom)?)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        self.visit_i64(whole(value).ok_or_else(|| E::custom("n"))?)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

impl Visitor<'_> for Limit {
    type Value = Option<OutputLimit>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an output limit")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        if value <= LIMIT_MAX {
            Ok(Some(OutputLimit::Tokens(value)))
        } else {
            Err(E::custom("limit"))
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        if value == -1 {
            return Ok(Some(OutputLimit::Unlimited));
        }
        self.visit_u64(u64::try_from(value).map_err(E::custom)?)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        self.visit_i64(whole(value).ok_or_else(|| E::custom("limit"))?)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

impl Visitor<'_> for Tier {
    type Value = Option<ServiceTier>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a service tier")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Some(match name {
            "auto" => ServiceTier::Auto,
            "default" => ServiceTier::Default,
            "flex" => ServiceTier::Flex,
            "priority" => ServiceTier::Priority,
            _ => ServiceTier::Other,
        }))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// A whole number written as a float, such as `100.0`: lenient readers take it for 100.
fn whole(value: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "whole, and saturates out of any range")]
    (value.fract() == 0.0).then_some(value as i64)
}
