//! How a request body is written down: its format and its content coding.
//!
//! [`BodyKind`] is made once from the two header values and then only says how to read; the bytes
//! are forwarded as they came.

use std::borrow::Cow;
use std::io::Read;

use flate2::bufread::MultiGzDecoder;

use super::error::BodyError;

/// How many times its size a packed body may have: prose packs to a quarter, a list of the same few
/// lines to a fiftieth; gzip can do 1,032, and a body of zeros is worth no work.
const MOST_RATIO: usize = 128;

/// What any packed body may unpack to: less than a request in text costs to read.
const SMALL: usize = 1 << 20;

/// The serialisation of a request body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// JSON in UTF-8.
    Json,
    /// MessagePack.
    MsgPack,
}

/// The content coding of a request body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// One or more gzip members.
    Gzip,
}

/// How the bytes of a request body are to be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BodyKind {
    /// What the decoded bytes are.
    pub format: Format,
    /// How the bytes sent are decoded.
    pub coding: Coding,
}

/// A body announced in a form that cannot be read; the text is for the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unsupported {
    /// The content type is none of those read here.
    #[error(
        "unsupported content type: send application/json, application/*+json, \
         application/vnd.msgpack, application/msgpack or application/x-msgpack"
    )]
    ContentType,
    /// JSON in a character set other than UTF-8.
    #[error("unsupported charset: JSON must be sent as utf-8")]
    Charset,
    /// The content coding is none of those read here.
    #[error("unsupported content encoding: send gzip, x-gzip or identity")]
    ContentEncoding,
}

impl BodyKind {
    /// The kind announced by the values of `Content-Type` and `Content-Encoding`.
    ///
    /// An absent or empty content type means JSON. Names are compared without regard to case and
    /// content type parameters are ignored, except the charset of JSON.
    ///
    /// # Errors
    ///
    /// [`Unsupported`] names what would have been accepted.
    pub fn from_headers(
        content_type: Option<&str>,
        content_encoding: Option<&str>,
    ) -> Result<Self, Unsupported> {
        Ok(Self {
            format: format(content_type.unwrap_or(""))?,
            coding: coding(content_encoding.unwrap_or(""))?,
        })
    }

    /// The bytes of the document in `body`: borrowed, or unpacked to at most `max` bytes.
    pub(super) fn decode(self, body: &[u8], max: usize) -> Result<Cow<'_, [u8]>, BodyError> {
        let too_large = BodyError::TooLarge { limit: max };
        match self.coding {
            Coding::Identity if body.len() > max => Err(too_large),
            Coding::Identity => Ok(Cow::Borrowed(body)),
            Coding::Gzip => {
                let most = max.min(body.len().saturating_mul(MOST_RATIO).max(SMALL));
                // Text packs to about a quarter; from there on the vector doubles.
                let mut decoded = Vec::with_capacity(body.len().saturating_mul(4).min(most));
                // One byte more than allowed tells a body that fits from one that was cut.
                let room = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
                match MultiGzDecoder::new(body).take(room).read_to_end(&mut decoded) {
                    Err(_) => Err(BodyError::Gzip),
                    Ok(_) if decoded.len() > max => Err(too_large),
                    Ok(_) if decoded.len() > most => Err(BodyError::Bomb { ratio: MOST_RATIO }),
                    Ok(_) => Ok(Cow::Owned(decoded)),
                }
            }
        }
    }
}

/// The format named by a content type.
fn format(content_type: &str) -> Result<Format, Unsupported> {
    let (essence, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    if is_json(essence) {
        return if parameters.split(';').all(keeps_utf8) {
            Ok(Format::Json)
        } else {
            Err(Unsupported::Charset)
        };
    }
    match essence.trim().to_ascii_lowercase().as_str() {
        "" => Ok(Format::Json),
        "application/vnd.msgpack" | "application/msgpack" | "application/x-msgpack" => {
            Ok(Format::MsgPack)
        }
        _ => Err(Unsupported::ContentType),
    }
}

/// Whether a media type, given without its parameters, is JSON.
pub(super) fn is_json(essence: &str) -> bool {
    let essence = essence.trim();
    let Some(subtype) = strip_prefix(essence, "application/") else { return false };
    let (_, suffix) = subtype.rsplit_once('+').unwrap_or(("", subtype));
    suffix.eq_ignore_ascii_case("json")
}

/// `text` without the prefix, in whatever case that is written.
fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Whether a content type parameter leaves the text in UTF-8.
fn keeps_utf8(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return true };
    if !name.trim().eq_ignore_ascii_case("charset") {
        return true;
    }
    let value = value.trim().trim_matches('"');
    value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8")
}

/// The coding named by a content encoding: a list, of which at most one member may be gzip.
fn coding(content_encoding: &str) -> Result<Coding, Unsupported> {
    let mut found = Coding::Identity;
    for name in content_encoding.split(',').map(|name| name.trim().to_ascii_lowercase()) {
        match (name.as_str(), found) {
            ("" | "identity", _) => {}
            ("gzip" | "x-gzip", Coding::Identity) => found = Coding::Gzip,
            _ => return Err(Unsupported::ContentEncoding),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    const GZIPPED: BodyKind = BodyKind { format: Format::Json, coding: Coding::Gzip };

    #[test]
    fn headers_name_the_kind() {
        use Unsupported::{Charset, ContentEncoding, ContentType};
        let json = |coding| Ok(BodyKind { format: Format::Json, coding });
        let pack = |coding| Ok(BodyKind { format: Format::MsgPack, coding });
        for (content_type, encoding, expected) in [
            (None, None, json(Coding::Identity)),
            (Some(""), Some(""), json(Coding::Identity)),
            (Some("application/json"), Some("identity"), json(Coding::Identity)),
            (Some(" Application/JSON ; charset=\"UTF-8\""), Some("GZIP"), json(Coding::Gzip)),
            (Some("application/json;charset=utf8;x=y"), None, json(Coding::Identity)),
            (Some("application/vnd.api+json"), Some("x-gzip"), json(Coding::Gzip)),
            (Some("application/json; charset=utf-16"), None, Err(Charset)),
            (Some("application/json; charset=utf-8; charset=latin1"), None, Err(Charset)),
            (Some("application/vnd.msgpack"), None, pack(Coding::Identity)),
            (Some("application/msgpack; charset=x"), Some(" gzip , identity"), pack(Coding::Gzip)),
            (Some("APPLICATION/X-MSGPACK"), None, pack(Coding::Identity)),
            (Some("text/json"), None, Err(ContentType)),
            (Some("text/plain"), None, Err(ContentType)),
            (Some("application/x-www-form-urlencoded"), None, Err(ContentType)),
            (None, Some("br"), Err(ContentEncoding)),
            (None, Some("gzip, gzip"), Err(ContentEncoding)),
        ] {
            assert_eq!(
                BodyKind::from_headers(content_type, encoding),
                expected,
                "{content_type:?} {encoding:?}"
            );
        }
    }

    #[test]
    fn a_refusal_names_what_is_accepted() {
        let text = BodyKind::from_headers(Some("text/plain"), None).unwrap_err().to_string();
        assert!(text.contains("application/json") && text.contains("application/vnd.msgpack"));
        let text = BodyKind::from_headers(None, Some("br")).unwrap_err().to_string();
        assert!(text.contains("gzip") && text.contains("identity"));
    }

    #[test]
    fn gzip_is_unpacked_up_to_the_limit_and_not_beyond() {
        let text = b"a fairly repetitive, repetitive, repetitive text".repeat(100);
        let packed = gzip(&text);
        assert_eq!(GZIPPED.decode(&packed, text.len()).unwrap().as_ref(), text);
        let limit = text.len() - 1;
        assert_eq!(GZIPPED.decode(&packed, limit), Err(BodyError::TooLarge { limit }));
        let bomb = gzip(&vec![b' '; 50 << 20]);
        assert!(bomb.len() < 100 << 10);
        assert_eq!(GZIPPED.decode(&bomb, 4096), Err(BodyError::TooLarge { limit: 4096 }));
        let far = Err(BodyError::Bomb { ratio: MOST_RATIO });
        assert_eq!(GZIPPED.decode(&bomb, 100 << 20), far, "long before it is unpacked");
        let small = gzip(&vec![b' '; SMALL]);
        assert_eq!(GZIPPED.decode(&small, SMALL).unwrap().len(), SMALL, "however well it packs");
    }

    #[test]
    fn gzip_members_are_joined_and_anything_else_is_refused() {
        let two = [gzip(b"{\"a\""), gzip(b":1}")].concat();
        assert_eq!(GZIPPED.decode(&two, 100).unwrap().as_ref(), b"{\"a\":1}");
        let whole = gzip(b"{}");
        for bad in [
            [whole.as_slice(), b"x"].concat(),
            [whole.as_slice(), b"{}{}{}{}{}{}{}{}{}{}"].concat(),
            whole[..whole.len() - 1].to_vec(),
            whole[..5].to_vec(),
            b"{}".to_vec(),
            Vec::new(),
        ] {
            assert_eq!(GZIPPED.decode(&bad, 100), Err(BodyError::Gzip), "{bad:?}");
        }
    }

    #[test]
    fn a_plain_body_is_borrowed_and_bounded_too() {
        let plain = BodyKind { format: Format::Json, coding: Coding::Identity };
        assert!(matches!(plain.decode(b"12345", 5), Ok(Cow::Borrowed(b"12345"))));
        assert_eq!(plain.decode(b"123456", 5), Err(BodyError::TooLarge { limit: 5 }));
    }
}
