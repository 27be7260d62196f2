//! Weighs a prompt without keeping any of it.
//!
//! Every visitor adds to one [`Scale`] and accepts any value: whether a message has the
//! right shape is for the upstream to say. What is not known to be media counts as text, so that a
//! spelling unknown here makes a prompt heavier, never lighter.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::demand::PromptWeight;
use super::scalar::seed;
use super::texture::Counter;
use super::tokenizer::Tokenizer;

/// Bytes around an entry of an object in compact JSON: `"":"",`.
const ENTRY: u64 = 6;
/// Bytes around an entry of a list in compact JSON: `"",`.
const ITEM: u64 = 3;
/// Bytes around an object or a list.
const BRACKETS: u64 = 2;
/// Longest boolean.
const BOOL: u64 = 5;
/// Longest float in its shortest exact form, such as `-2.2250738585072014e-308`.
const FLOAT: u64 = 24;

/// Any value, weighed as text: strings by their bytes, structures by their compact JSON.
pub(super) struct Text<'a>(pub(super) &'a mut Scale);
/// The value of `tools` or `functions`.
pub(super) struct Tools<'a>(pub(super) &'a mut Scale);
/// The value of `prompt`; reads as the number of prompts in it.
pub(super) struct Prompt<'a>(pub(super) &'a mut Scale);
/// One entry of a list under `prompt`.
struct Item<'a>(&'a mut Scale);

/// What a prompt is put on.
#[derive(Debug, Default)]
pub(super) struct Scale {
    /// What has been weighed, but for its texture.
    pub(super) weight: PromptWeight,
    /// What its texts are made of.
    pub(super) counter: Counter,
    /// Counts each text exactly, where somebody has the time for it.
    pub(super) tokenizer: Option<Tokenizer>,
    /// Tokens it has counted.
    pub(super) counted: u64,
}

impl Scale {
    /// Adds a text.
    fn add_text(&mut self, text: &str) {
        self.weight.text_bytes = self.weight.text_bytes.saturating_add(len(text.as_bytes()));
        match &self.tokenizer {
            None => self.counter.add(text.as_bytes()),
            Some(tokenizer) => self.counted = self.counted.saturating_add(tokenizer.count(text)),
        }
    }

    /// Adds so many bytes that hold structured values together, or stand for one that is no text.
    fn add_structure(&mut self, bytes: u64) {
        self.weight.text_bytes = self.weight.text_bytes.saturating_add(bytes);
        self.weight.structure = self.weight.structure.saturating_add(bytes);
    }
}

/// Length as a count that cannot overflow.
fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Lets a visitor take each number as text, and then read as `$value`.
macro_rules! numbers_are_text {
    ($value:expr) => {
        fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
            Text(self.0).visit_bool(value).map(|()| $value)
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
            Text(self.0).visit_i64(value).map(|()| $value)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
            Text(self.0).visit_u64(value).map(|()| $value)
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
            Text(self.0).visit_f64(value).map(|()| $value)
        }
    };
}
pub(super) use numbers_are_text;

/// Lets a visitor take each string as text, null as nothing, and then read as `$value`.
macro_rules! strings_are_text {
    ($value:expr) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("prompt text")
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
            Text(self.0).visit_str(value).map(|()| $value)
        }

        fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<Self::Value, E> {
            Text(self.0).visit_bytes(value).map(|()| $value)
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok($value)
        }
    };
}
pub(super) use strings_are_text;

seed! { Text<'_> => (), Tools<'_> => (), Prompt<'_> => u64, Item<'_> => Entry }

impl<'de> Visitor<'de> for Text<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("prompt text")
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.0.add_text(value);
        Ok(())
    }

    /// Bytes in MessagePack: text if they are UTF-8, and otherwise nothing a prompt can hold.
    fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<(), E> {
        self.visit_str(std::str::from_utf8(value).map_err(|_| E::custom("bytes"))?)
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.0.add_structure(BOOL);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.0.add_structure(u64::from(value.checked_ilog10().unwrap_or(0)) + 1);
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.0.add_structure(u64::from(value < 0));
        self.visit_u64(value.unsigned_abs())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.0.add_structure(FLOAT);
        Ok(())
    }

    /// Null is an absent value; inside a structure the bytes around it stand for it.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.0.add_structure(BRACKETS);
        while list.next_element_seed(Text(self.0))?.is_some() {
            self.0.add_structure(ITEM);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.add_structure(BRACKETS);
        while map.next_key_seed(Text(self.0))?.is_some() {
            map.next_value_seed(Text(self.0))?;
            self.0.add_structure(ENTRY);
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Tools<'_> {
    type Value = ();

    strings_are_text!(());
    numbers_are_text!(());

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Text(self.0))?.is_some() {
            self.0.weight.tools += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.0.weight.tools += 1;
        Text(self.0).visit_map(map)
    }
}

impl<'de> Visitor<'de> for Prompt<'_> {
    type Value = u64;

    strings_are_text!(1);
    numbers_are_text!(1);

    /// A list holds either prompts, as strings or lists of ids, or the ids of one prompt.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<u64, A::Error> {
        let (mut prompts, mut ids) = (0_u64, 0_u64);
        while let Some(entry) = list.next_element_seed(Item(self.0))? {
            match entry {
                Entry::Prompt => prompts += 1,
                Entry::Id => ids = 1,
            }
        }
        Ok((prompts + ids).max(1))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<u64, A::Error> {
        Text(self.0).visit_map(map).map(|()| 1)
    }
}

/// What an entry of a list under `prompt` is.
enum Entry {
    /// A prompt of its own.
    Prompt,
    /// A token of the list's one prompt.
    Id,
}

impl Item<'_> {
    /// Counts one token given by number, whatever the number.
    fn id<E>(self) -> Result<Entry, E> {
        self.0.weight.token_ids += 1;
        Ok(Entry::Id)
    }
}

impl<'de> Visitor<'de> for Item<'_> {
    type Value = Entry;

    strings_are_text!(Entry::Prompt);

    fn visit_u64<E>(self, _: u64) -> Result<Entry, E> {
        self.id()
    }

    fn visit_i64<E>(self, _: i64) -> Result<Entry, E> {
        self.id()
    }

    fn visit_f64<E>(self, _: f64) -> Result<Entry, E> {
        self.id()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entry, A::Error> {
        while list.next_element_seed(Item(self.0))?.is_some() {}
        Ok(Entry::Prompt)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
        Text(self.0).visit_map(map).map(|()| Entry::Prompt)
    }
}
