//! A collector that takes spans as a real one does: OTLP over HTTP, in protobuf.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::support::{ANY, eventually};

/// What the collector answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// It takes everything.
    Take,
    /// It takes all but so many spans.
    Reject(i64),
    /// Something is wrong.
    Status(u16),
    /// Nothing, until it is told to go on.
    Nothing,
}

#[derive(Debug)]
struct Kept {
    messages: Mutex<Vec<(HeaderMap, Bytes)>>,
    answer: Mutex<Answer>,
    go_on: Notify,
}

/// The collector; dropping it closes its port.
pub(crate) struct Collector {
    addr: SocketAddr,
    kept: Arc<Kept>,
    task: AbortHandle,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(
    State(kept): State<Arc<Kept>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    kept.messages.lock().push((headers, body));
    let answer = *kept.answer.lock();
    let partial = match answer {
        Answer::Take => None,
        Answer::Reject(rejected_spans) => {
            let error_message = "too many".to_owned();
            Some(ExportTracePartialSuccess { rejected_spans, error_message })
        }
        Answer::Status(status) => {
            return (StatusCode::from_u16(status).expect("a status"), b"no".to_vec());
        }
        Answer::Nothing => {
            kept.go_on.notified().await;
            None
        }
    };
    let response = ExportTraceServiceResponse { partial_success: partial };
    (StatusCode::OK, response.encode_to_vec())
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::start_at(ANY).await
    }

    pub(crate) async fn start_at(addr: SocketAddr) -> Self {
        let kept = Arc::new(Kept {
            messages: Mutex::default(),
            answer: Mutex::new(Answer::Take),
            go_on: Notify::new(),
        });
        let app = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&kept));
        let listener = TcpListener::bind(addr).await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let serving =
            tokio::spawn(async move { axum::serve(listener, app).await.expect("served") });
        Self { addr, kept, task: serving.abort_handle() }
    }

    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The configuration of a gateway that sends its spans here, with more of the section.
    pub(crate) fn config(&self, more: &str) -> String {
        format!("[traces]\nendpoint = \"http://{}\"\n{more}\n", self.addr)
    }

    pub(crate) fn answer(&self, answer: Answer) {
        *self.kept.answer.lock() = answer;
        self.kept.go_on.notify_waiters();
    }

    /// Every message: its headers and its bytes.
    pub(crate) fn messages(&self) -> Vec<(HeaderMap, Bytes)> {
        self.kept.messages.lock().clone()
    }

    pub(crate) async fn wait_messages(&self, count: usize) {
        let come = async || (self.messages().len() >= count).then_some(());
        eventually(&format!("{count} messages"), come).await;
    }

    fn decoded(&self) -> Vec<ExportTraceServiceRequest> {
        let decode = |(_, body)| ExportTraceServiceRequest::decode(body).expect("a message");
        self.messages().into_iter().map(decode).collect()
    }

    /// Every span.
    pub(crate) fn spans(&self) -> Vec<Seen> {
        let all = self.decoded().into_iter().flat_map(|message| message.resource_spans);
        all.flat_map(|it| it.scope_spans).flat_map(|it| it.spans).map(Seen).collect()
    }

    /// The spans with this name, in the order of their beginnings.
    pub(crate) fn named(&self, name: &str) -> Vec<Seen> {
        let mut spans: Vec<_> = self.spans().into_iter().filter(|it| it.0.name == name).collect();
        spans.sort_by_key(|span| span.0.start_time_unix_nano);
        spans
    }

    /// The only span with this name.
    pub(crate) fn only(&self, name: &str) -> Seen {
        let mut spans = self.named(name);
        assert_eq!(spans.len(), 1, "{name}: {:#?}", self.spans());
        spans.remove(0)
    }

    /// What every message says of the process that sent it.
    pub(crate) fn resource(&self) -> BTreeMap<String, String> {
        let mut all = self.decoded().into_iter().flat_map(|message| message.resource_spans);
        let attributes = all.next().expect("a message").resource.expect("it is said").attributes;
        attributes.iter().map(|it| (it.key.clone(), shown(it))).collect()
    }
}

/// A span as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen(pub(crate) Span);

impl Seen {
    /// Its attributes as text.
    pub(crate) fn attributes(&self) -> BTreeMap<&str, String> {
        self.0.attributes.iter().map(|it| (it.key.as_str(), shown(it))).collect()
    }

    /// One of them; empty if it is not there.
    pub(crate) fn get(&self, name: &str) -> String {
        self.attributes().remove(name).unwrap_or_default()
    }

    pub(crate) fn trace(&self) -> String {
        hex(&self.0.trace_id)
    }

    pub(crate) fn id(&self) -> String {
        hex(&self.0.span_id)
    }

    pub(crate) fn parent(&self) -> String {
        hex(&self.0.parent_span_id)
    }

    pub(crate) fn millis(&self) -> u64 {
        (self.0.end_time_unix_nano - self.0.start_time_unix_nano) / 1_000_000
    }

    /// Whether it is said to have failed.
    pub(crate) fn failed(&self) -> bool {
        self.0.status.as_ref().is_some_and(|status| status.code == 2)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn shown(pair: &KeyValue) -> String {
    fn value(given: Option<&Value>) -> String {
        match given {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            Some(Value::BoolValue(it)) => it.to_string(),
            Some(Value::DoubleValue(number)) => number.to_string(),
            Some(Value::ArrayValue(list)) => {
                let values = list.values.iter().map(|it| value(it.value.as_ref()));
                format!("[{}]", values.collect::<Vec<_>>().join(","))
            }
            other => format!("{other:?}"),
        }
    }
    value(pair.value.as_ref().and_then(|it| it.value.as_ref()))
}
