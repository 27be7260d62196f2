//! The upstream: `POST` anything, get a fixed completion, whole or as a stream, at once.
//!
//! A prompt may say how a stream shall be: `chunks=100 ` events with text, and `pause=10000 `
//! microseconds between them.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::role::{self, Orders};
use crate::{Failure, Result};

/// Events of a streamed answer before the last: a short completion.
const EVENTS: u32 = 48;

/// The documented headers, saying a quota that never binds.
const RATE_LIMITS: [(&str, &str); 6] = [
    ("x-ratelimit-limit-requests-day", "1000000000"),
    ("x-ratelimit-limit-tokens-minute", "1000000000000000"),
    ("x-ratelimit-remaining-requests-day", "999997455"),
    ("x-ratelimit-remaining-tokens-minute", "999999999998298"),
    ("x-ratelimit-reset-requests-day", "33011.382867097855"),
    ("x-ratelimit-reset-tokens-minute", "11.382867097854614"),
];

/// Both answers, made once; handing them out copies nothing.
#[derive(Clone)]
struct Answers {
    whole: Bytes,
    event: Bytes,
    last: Bytes,
    rate_limits: bool,
}

impl Answers {
    fn new(spend: Option<u64>) -> Self {
        let completion = spend.unwrap_or(150);
        let usage = format!(
            r#""usage":{{"prompt_tokens":250,"completion_tokens":{completion},"total_tokens":{}}},"time_info":{{"queue_time":0.0001,"prompt_time":0.002,"completion_time":0.07,"total_time":0.0721}}"#,
            completion.saturating_add(250),
        );
        let head =
            r#""id":"chatcmpl-0","created":1700000000,"model":"bench","system_fingerprint":"fp_0""#;
        // 600 bytes of text bring the whole answer to about 1 KB, like a short completion.
        let text = "The tide waits for nobody. ".repeat(23);
        let whole = format!(
            r#"{{{head},"object":"chat.completion","choices":[{{"index":0,"finish_reason":"stop","message":{{"role":"assistant","content":"{text}"}}}}],{usage}}}"#
        );
        let event = format!(
            "data: {{{head},\"object\":\"chat.completion.chunk\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"The tide waits \"}}}}]}}\n\n"
        );
        let last = format!(
            "data: {{{head},\"object\":\"chat.completion.chunk\",\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}],{usage}}}\n\ndata: [DONE]\n\n"
        );
        Self {
            whole: whole.into(),
            event: event.into(),
            last: last.into(),
            rate_limits: spend.is_none(),
        }
    }

    fn body(&self, asked: &[u8]) -> impl Body<Data = Bytes, Error = Failure> + use<> {
        if !streamed(asked) {
            return Either::Left(Full::new(self.whole.clone()));
        }
        let (event, last) = (self.event.clone(), self.last.clone());
        let events = number(asked, b"chunks=").unwrap_or(EVENTS);
        let pause = number(asked, b"pause=").map(Duration::from_micros);
        let start = Instant::now();
        Either::Right(StreamBody::new(stream::unfold(0, move |sent: u32| {
            let frame = match sent {
                _ if sent < events => Some(event.clone()),
                _ if sent == events => Some(last.clone()),
                _ => None,
            };
            async move {
                match pause {
                    // The last one comes with the one before it, as it does from a real one.
                    Some(pause) if sent < events => {
                        tokio::time::sleep_until(start + pause * sent).await;
                    }
                    // Being pending once makes the connection write what it has: one write per event.
                    _ => tokio::task::yield_now().await,
                }
                frame.map(|frame| (Ok::<_, Failure>(Frame::data(frame)), sent + 1))
            }
        })))
    }

    async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<impl Body<Data = Bytes, Error = Failure> + use<>>> {
        let body = request.into_body().collect().await?.to_bytes();
        let mut response = Response::new(self.body(&body));
        let content_type = if streamed(&body) { "text/event-stream" } else { "application/json" };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if self.rate_limits {
            for (name, value) in RATE_LIMITS {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        Ok(response)
    }
}

/// Whether a stream is asked for; proxies that write the request anew may put a space there.
fn streamed(asked: &[u8]) -> bool {
    after(asked, br#""stream":"#).is_some_and(|value| value.trim_ascii_start().starts_with(b"true"))
}

/// The number that follows `name` in a prompt.
fn number<T: FromStr>(asked: &[u8], name: &[u8]) -> Option<T> {
    let value = after(asked, name)?.split(|byte| !byte.is_ascii_digit()).next()?;
    str::from_utf8(value).ok()?.parse().ok()
}

fn after<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    memchr::memmem::find(text, name).map(|at| &text[at + name.len()..])
}

/// Answers until told to stop; `spend` replaces the completion tokens reported as used.
pub(crate) async fn serve(spend: Option<u64>, orders: Orders) -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    role::say(&listener.local_addr()?.to_string())?;
    let answers = Answers::new(spend);
    let accept = async {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let answers = answers.clone();
            let service = service_fn(move |request| answers.clone().answer(request));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A client that hangs up is how every connection ends.
            tokio::spawn(async move { drop(connection.await) });
        }
    };
    tokio::select! {
        result = accept => result,
        () = role::ended(orders) => Ok(()),
    }
}
