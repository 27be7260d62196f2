//! A log line for people: time, level, target, message, then `name=value` for each field.
//!
//! One is written for every request, so it is written straight through, without the styles and
//! spans that the general formatter provides for.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::time::Epoch;

/// Formats an event as a line, at the time that the epoch shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line(pub(super) Epoch);

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = self.0.now().rfc3339();
        // Digits and punctuation.
        writer.write_str(std::str::from_utf8(&now).unwrap_or_default())?;
        let metadata = event.metadata();
        writer.write_str(" ")?;
        writer.write_str(metadata.level().as_str())?;
        writer.write_str(" ")?;
        writer.write_str(metadata.target())?;
        let mut fields = Fields { writer, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        fields.writer.write_str("\n")
    }
}

struct Fields<'a> {
    writer: Writer<'a>,
    result: fmt::Result,
}

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        let put = || {
            self.writer.write_str(" ")?;
            if field.name() != "message" {
                self.writer.write_str(field.name())?;
                self.writer.write_str("=")?;
            }
            value(&mut self.writer)
        };
        let result = put();
        self.result = self.result.and(result);
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        // What came from a caller can neither end the line nor look like another field.
        let plain = !value.is_empty()
            && value
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\'));
        self.put(
            field,
            |writer| {
                if plain { writer.write_str(value) } else { write!(writer, "{value:?}") }
            },
        );
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, |writer| digits(value, writer));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, |writer| write!(writer, "{value:?}"));
    }
}

/// A number in decimal, without the general machinery for it.
fn digits(value: u64, writer: &mut Writer<'_>) -> fmt::Result {
    let (mut text, mut first, mut rest) = ([b'0'; 20], 20, value);
    while rest > 0 || first == 20 {
        first -= 1;
        text[first] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    writer.write_str(std::str::from_utf8(&text[first..]).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_is_one_line_whatever_a_caller_sends() {
        let kept = Kept::default();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(kept.clone())
            .event_format(Line(Epoch::start()));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let (model, none) = ("a b\n\"outcome=completed", None::<u64>);
            let most = u64::MAX;
            tracing::info!(target: "t", model, tenant = "team-a", none, zero = 0_u64, most, "request");
        });
        let text = String::from_utf8(kept.0.lock().clone()).unwrap();
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.ends_with('Z'), "{time}");
        let expected = "INFO t request model=\"a b\\n\\\"outcome=completed\" tenant=team-a zero=0 \
             most=18446744073709551615\n";
        assert_eq!(rest, expected);
    }
}
