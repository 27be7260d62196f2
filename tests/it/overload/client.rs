//! A client that keeps a number of requests open for as long as it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Traffic;

/// A client and its one connection.
#[derive(Clone)]
pub(crate) struct Client {
    http: Http<HttpConnector, Full<Bytes>>,
    url: String,
    authorization: String,
    seed: u64,
    next: Arc<AtomicU64>,
}

/// What a client got.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Requests answered in full.
    pub(crate) answered: u64,
    /// The longest from asking to the answer's end.
    pub(crate) longest: Duration,
    /// The first request that was not answered.
    pub(crate) failed: Option<String>,
}

impl Client {
    pub(crate) fn new(gateway: SocketAddr, key: &str, seed: u64) -> Self {
        Self {
            http: Http::builder(TokioExecutor::new()).http2_only(true).build_http(),
            url: format!("http://{gateway}/v1/chat/completions"),
            authorization: format!("Bearer {key}"),
            seed,
            next: Arc::default(),
        }
    }

    /// Keeps `open` requests open until `done`, then waits for the last answers.
    pub(crate) async fn load(
        self,
        index: usize,
        open: usize,
        traffic: Traffic,
        done: CancellationToken,
    ) -> (usize, Tally) {
        let mut loops = JoinSet::new();
        for _ in 0..open {
            let (client, done) = (self.clone(), done.clone());
            loops.spawn(async move {
                let mut tally = Tally::default();
                while !done.is_cancelled() && tally.failed.is_none() {
                    let asked = Instant::now();
                    match client.ask(traffic).await {
                        Ok(()) => tally.answered += 1,
                        Err(error) => tally.failed = Some(error),
                    }
                    tally.longest = tally.longest.max(asked.elapsed());
                }
                tally
            });
        }
        let mut sum = Tally::default();
        while let Some(tally) = loops.join_next().await {
            let tally = tally.expect("no panic");
            sum.answered += tally.answered;
            sum.longest = sum.longest.max(tally.longest);
            sum.failed = sum.failed.or(tally.failed);
        }
        (index, sum)
    }

    /// One request, streamed or not, to the end of its answer.
    async fn ask(&self, traffic: Traffic) -> Result<(), String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let request = Request::post(&self.url)
            .header("authorization", &self.authorization)
            .header("content-type", "application/json")
            .body(Full::from(self.body(traffic, number)))
            .map_err(|error| error.to_string())?;
        let response = self.http.request(request).await.map_err(|error| format!("{error:?}"))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
        if status == StatusCode::OK {
            Ok(())
        } else {
            Err(format!("{status}: {}", String::from_utf8_lossy(&body.to_bytes())))
        }
    }

    /// Streamed or not by turns; no two requests are the same, so that neither are two answers.
    fn body(&self, traffic: Traffic, number: u64) -> String {
        let (seed, stream) = (self.seed, number.is_multiple_of(2));
        let Traffic { best_of, output: (_, most), .. } = traffic;
        let prompt = "Which way does the tide run? ".repeat(20);
        format!(
            r#"{{"model":"any","stream":{stream},"max_completion_tokens":{most},"best_of":{best_of},
            "user":"{seed}-{number}","messages":[{{"role":"user","content":"{prompt}"}}]}}"#
        )
    }
}
