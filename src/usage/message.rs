//! Weighs chat messages: what is text, what is media and what is neither.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::scalar::seed;
use super::weigh::{Scale, Text, numbers_are_text, strings_are_text};

/// The value of `messages`.
pub(super) struct Messages<'a>(pub(super) &'a mut Scale);
/// One entry of `messages`.
struct Message<'a>(&'a mut Scale);
/// The `content` of a message.
struct Content<'a>(&'a mut Scale);
/// One part of a message's content.
struct Part<'a>(&'a mut Scale);
/// The `type` of a part; a name of ours is no text, anything else is weighed.
struct Kind<'a>(&'a mut Scale);

seed! {
    Messages<'_> => (), Message<'_> => (), Content<'_> => (), Part<'_> => (),
    Kind<'_> => Option<Medium>, Name => Named,
}

impl<'de> Visitor<'de> for Messages<'_> {
    type Value = ();

    strings_are_text!(());
    numbers_are_text!(());

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Message(self.0))?.is_some() {
            self.0.weight.messages += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.0.weight.messages += 1;
        Message(self.0).visit_map(map)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ();

    strings_are_text!(());
    numbers_are_text!(());

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        Text(self.0).visit_seq(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Name)? {
            match name {
                Named::Role => {
                    map.next_value::<IgnoredAny>()?;
                }
                Named::Content => map.next_value_seed(Content(self.0))?,
                Named::Type | Named::Media(_) | Named::Else => map.next_value_seed(Text(self.0))?,
            }
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Content<'_> {
    type Value = ();

    strings_are_text!(());
    numbers_are_text!(());

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Part(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        Part(self.0).visit_map(map)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = ();

    strings_are_text!(());
    numbers_are_text!(());

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        Text(self.0).visit_seq(list)
    }

    /// The part's type may come before or after its data, so each alone tells the medium.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut image, mut other) = (false, false);
        let mut note = |medium| match medium {
            Some(Medium::Image) => image = true,
            Some(Medium::Other) => other = true,
            None => {}
        };
        while let Some(name) = map.next_key_seed(Name)? {
            match name {
                Named::Type => note(map.next_value_seed(Kind(self.0))?),
                Named::Media(medium) => {
                    note(Some(medium));
                    map.next_value::<IgnoredAny>()?;
                }
                Named::Role | Named::Content | Named::Else => {
                    map.next_value_seed(Text(self.0))?;
                }
            }
        }
        self.0.weight.images += u64::from(image);
        self.0.weight.other_parts += u64::from(other);
        Ok(())
    }
}

/// What a part holds, if not text.
#[derive(Clone, Copy)]
enum Medium {
    Image,
    Other,
}

impl Medium {
    /// The medium named by a part's type, or by the field that holds its data.
    fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"image_url" | b"input_image" | b"image" => Some(Self::Image),
            b"input_audio" | b"audio" | b"audio_url" | b"file" | b"input_file" | b"video"
            | b"video_url" | b"input_video" => Some(Self::Other),
            _ => None,
        }
    }
}

impl<'de> Visitor<'de> for Kind<'_> {
    type Value = Option<Medium>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a part's type")
    }

    numbers_are_text!(None);

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        let medium = Medium::named(name.as_bytes());
        if medium.is_none() && name != "text" {
            Text(self.0).visit_str(name)?;
        }
        Ok(medium)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        Text(self.0).visit_seq(list).map(|()| None)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Text(self.0).visit_map(map).map(|()| None)
    }
}

/// A key of a message or of a part.
enum Named {
    Role,
    Content,
    Type,
    Media(Medium),
    /// Any other; its own bytes are no prompt.
    Else,
}

struct Name;

impl Visitor<'_> for Name {
    type Value = Named;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Named, E> {
        self.visit_bytes(name.as_bytes())
    }

    fn visit_bytes<E>(self, name: &[u8]) -> Result<Named, E> {
        Ok(match name {
            b"role" => Named::Role,
            b"content" => Named::Content,
            b"type" => Named::Type,
            _ => Medium::named(name).map_or(Named::Else, Named::Media),
        })
    }
}
