//! Spans as they are sent: the protocol's own messages, built by name and value.

use opentelemetry_proto::tonic::common::v1::any_value::Value as Inner;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
pub use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::Status;
use opentelemetry_proto::tonic::trace::v1::span::Link;
pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind as Kind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tokio::time::Instant;

use super::{Clock, Context, Parent, SpanId, TraceId};
use crate::config;

/// The sampled flag of a span, as the protocol has it.
const SAMPLED: u32 = 1;
/// It is known whether the parent is another process's.
const KNOWS_REMOTE: u32 = 0x100;
/// It is.
const IS_REMOTE: u32 = 0x200;

/// Builds a span.
#[derive(Debug)]
pub struct Builder(Span);

/// What an attribute may be.
#[derive(Debug)]
pub enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// A list of texts.
    List(Vec<String>),
}

impl Builder {
    /// The span of a request itself: its caller's is its parent, if there is one.
    pub fn request(context: &Context, state: &str) -> Self {
        let parent = context.parent.map(|parent| parent.span);
        let flags = if parent.is_some() { IS_REMOTE } else { 0 };
        Self::new(context, context.span, parent, flags, state)
    }

    /// A span within another one of the same request; without a name of its own it gets a random one.
    pub fn within(context: &Context, parent: SpanId, own: Option<SpanId>, state: &str) -> Self {
        let own = own.unwrap_or_else(|| RandomIdGenerator::default().new_span_id());
        Self::new(context, own, Some(parent), 0, state)
    }

    fn new(
        context: &Context,
        span: SpanId,
        parent: Option<SpanId>,
        flags: u32,
        state: &str,
    ) -> Self {
        Self(Span {
            trace_id: context.trace.to_bytes().to_vec(),
            span_id: span.to_bytes().to_vec(),
            parent_span_id: parent.map_or_else(Vec::new, |parent| parent.to_bytes().to_vec()),
            trace_state: state.to_owned(),
            flags: SAMPLED | KNOWS_REMOTE | flags,
            ..Span::default()
        })
    }

    /// Gives it a name and a kind.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>, kind: Kind) -> Self {
        self.0.name = name.into();
        self.0.kind = kind.into();
        self
    }

    /// When it was.
    #[must_use]
    pub fn lasting(mut self, clock: &Clock, from: Instant, until: Instant) -> Self {
        self.0.start_time_unix_nano = clock.nanos(from);
        self.0.end_time_unix_nano = clock.nanos(until.max(from));
        self
    }

    /// Adds an attribute.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.attributes.push(pair(name, value.into()));
    }

    /// Adds an attribute that may not be known.
    pub fn set_known(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// Links it to a span of another trace.
    pub fn link(&mut self, to: &Parent) {
        self.0.links.push(Link {
            trace_id: to.trace.to_bytes().to_vec(),
            span_id: to.span.to_bytes().to_vec(),
            flags: u32::from(to.sampled),
            ..Link::default()
        });
    }

    /// Says that it failed.
    pub fn fail(&mut self) {
        self.0.status = Some(Status { code: StatusCode::Error.into(), message: String::new() });
    }

    /// The span.
    pub fn build(self) -> Span {
        self.0
    }
}

/// What is said of this process, of which `instance` is a random name.
pub(super) fn resource(config: &config::Traces, instance: TraceId) -> Resource {
    let mut attributes = vec![
        pair("service.name", config.service_name.as_str().into()),
        pair("service.version", env!("CARGO_PKG_VERSION").into()),
    ];
    if !config.resource.iter().any(|(name, _)| name == "service.instance.id") {
        attributes.push(pair("service.instance.id", uuid(instance).into()));
    }
    let more = config.resource.iter().map(|(name, value)| pair(name, value.as_str().into()));
    attributes.extend(more);
    Resource { attributes, ..Resource::default() }
}

/// Random bits in the shape that the conventions ask for.
fn uuid(bits: TraceId) -> String {
    let mut bytes = bits.to_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn pair(name: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value.into()) });
    KeyValue { key: name.to_owned(), value, ..KeyValue::default() }
}

impl From<Value> for Inner {
    fn from(value: Value) -> Self {
        match value {
            Value::Text(text) => Self::StringValue(text),
            Value::Int(int) => Self::IntValue(int),
            Value::Float(float) => Self::DoubleValue(float),
            Value::Bool(bool) => Self::BoolValue(bool),
            Value::List(texts) => {
                let values =
                    texts.into_iter().map(|text| AnyValue { value: Some(Self::StringValue(text)) });
                Self::ArrayValue(ArrayValue { values: values.collect() })
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Int(i64::from(number))
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Int(i64::from(number))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<Vec<String>> for Value {
    fn from(texts: Vec<String>) -> Self {
        Self::List(texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_a_random_name_of_the_usual_shape() {
        let name = uuid(TraceId::from(u128::MAX));
        assert_eq!(name, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid(TraceId::from(0)), "00000000-0000-4000-8000-000000000000");
    }
}
