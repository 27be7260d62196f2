//! Sends the cases of a theme and checks what comes of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::case::{Case, Sees, Theme, Then, Words};
use super::reply::{Replies, Reply};
use crate::support::upstream::{Seen, Upstream, completion};
use crate::support::wire::{Wire, request};
use crate::support::{Gateway, PATIENCE, config_text, merge};

/// Cases at once: most of their time is pauses.
const AT_ONCE: usize = 24;

/// Longer cases come in pieces of a few hundred bytes where others come byte by byte.
const BYTES_ONE_BY_ONE: usize = 700;

/// How a case is written to the socket.
#[derive(Clone, Copy, Debug)]
enum Pieces {
    Whole,
    Single,
    Random(u64),
}

/// Runs a file, each case in every way.
pub(super) async fn run_theme(file: &str) {
    let theme = Theme::read(file);
    let (words, config) = (Arc::new(theme.words()), Arc::new(theme.config.clone()));
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for case in theme.cases.into_iter().map(Arc::new) {
        let ways = [Pieces::Whole, Pieces::Single, Pieces::Random(1), Pieces::Random(2)];
        for way in ways.into_iter().take(if case.timed { 1 } else { 4 }) {
            let (case, words, config) =
                (Arc::clone(&case), Arc::clone(&words), Arc::clone(&config));
            let room = Arc::clone(&room);
            running.spawn(async move {
                let _place = room.acquire_owned().await.expect("it stays open");
                let name = format!("{} ({way:?})", case.name);
                let ran = tokio::spawn(async move { run(&case, way, &words, &config).await });
                match ran.await {
                    Ok(Ok(())) => None,
                    Ok(Err(wrong)) => Some(format!("{name}: {wrong}")),
                    Err(_) => Some(format!("{name}: a panic, see above")),
                }
            });
        }
    }
    let mut wrong: Vec<_> = running.join_all().await.into_iter().flatten().collect();
    wrong.sort_unstable();
    assert!(wrong.is_empty(), "{} of {file}:\n{}", wrong.len(), wrong.join("\n"));
}

async fn run(case: &Case, way: Pieces, words: &Words, config: &str) -> Result<(), String> {
    let upstream = case.upstream.as_ref().map_or_else(completion, |text| words.bytes(text));
    let upstream = Upstream::answering(upstream).await;
    let mut tree: toml::Table = config_text(&upstream.url(), config).parse().expect("TOML");
    merge(&mut tree, case.config.parse().expect("TOML"));
    let gateway = Gateway::start_text(&tree.to_string());
    let socket = TcpStream::connect(gateway.api).await.expect("it listens");
    socket.set_nodelay(true).expect("an open socket");
    let (read, write) = socket.into_split();
    let raw = words.bytes(&case.raw);
    let writing = tokio::spawn(async move { write_in(way, &raw, write).await });
    let mut replies = Replies::new(read);
    let last = answers(case, &mut replies).await?;
    if case.then == Then::Closed {
        replies.end().await?;
    }
    let written = timeout(3 * PATIENCE, writing).await;
    let mut write = written.map_err(|_| "it does not take what is sent")?.expect("no panic");
    if case.then == Then::Kept {
        // What was left of the case, if anything was, stands before this.
        let good = b"GET /v1/tcp_warming HTTP/1.1\r\nhost: g\r\n\r\n";
        write.write_all(good).await.map_err(|error| format!("not kept: {error}"))?;
        let reply = replies.next(true).await.map_err(|error| format!("not kept: {error}"))?;
        if (reply.status, &reply.body[..]) != (200, b"{}") {
            return Err(format!("out of step: {reply:?}"));
        }
        replies.silent().await?;
    }
    if let Some(last) = &last {
        lines(&last.headers, &case.has, &case.lacks).map_err(|it| format!("{it} in {last:?}"))?;
        let says = case.says.as_ref().map(|text| words.bytes(text));
        if let Some(says) = says
            && !last.body.windows(says.len().max(1)).any(|it| it == says)
        {
            return Err(format!("it says {:?}", String::from_utf8_lossy(&last.body)));
        }
    }
    drop((replies, write));
    nothing_is_left(case, gateway, &upstream, words).await
}

/// Reads one answer to each request.
async fn answers(case: &Case, replies: &mut Replies) -> Result<Option<Reply>, String> {
    let mut last = None;
    for (number, right) in case.answers.iter().enumerate() {
        let (statuses, has_body) = match right.strip_suffix(" head") {
            Some(statuses) => (statuses, false),
            None => (right.as_str(), true),
        };
        let reply = replies.next(has_body).await;
        let reply = reply.map_err(|error| format!("answer {number}: {error}"))?;
        if !statuses.split('|').any(|it| it.parse() == Ok(reply.status)) {
            let body = String::from_utf8_lossy(&reply.body);
            return Err(format!("answer {number}: {} and not {right}: {body}", reply.status));
        }
        let is_last = number + 1 == case.answers.len();
        let says = |option: &str| reply.all("connection").contains(&option);
        let closes = says("close") || (reply.old && !says("keep-alive"));
        if closes && !(is_last && case.then == Then::Closed) {
            return Err(format!("answer {number} closes the connection"));
        }
        if !closes && is_last && case.then == Then::Closed && !case.timed && reply.status >= 200 {
            return Err(format!("answer {number} does not say that the connection closes"));
        }
        last = Some(reply);
    }
    Ok(last)
}

/// Checks the upstream's side, and that the gateway goes on as if nothing had been.
async fn nothing_is_left(
    case: &Case,
    gateway: Gateway,
    upstream: &Upstream,
    words: &Words,
) -> Result<(), String> {
    let next = Wire::open(gateway.api, request("GET /v1/tcp_warming", "", "")).await.answer().await;
    if next.status != 200 {
        return Err(format!("the next one gets {next:?}"));
    }
    gateway.settled().await;
    let seen = upstream.seen();
    let lines: Vec<_> = seen.iter().map(Seen::line).collect();
    let expected = case.sees.iter().map(|sees| words.bytes(&sees.line));
    if !expected.eq(lines.iter().map(|line| line.as_bytes().to_vec())) {
        return Err(format!("the upstream saw {seen:#?}"));
    }
    for (seen, sees) in seen.iter().zip(&case.sees) {
        meaning(seen, sees, &upstream.addr.to_string(), words)?;
    }
    gateway.close().await;
    Ok(())
}

/// Checks a request at the upstream: as the gateway writes all of them, and as this one was meant.
fn meaning(seen: &Seen, sees: &Sees, host: &str, words: &Words) -> Result<(), String> {
    let bad = |why: String| Err(format!("{why}: {seen:#?}"));
    for line in seen.head.split("\r\n") {
        if line.contains(['\r', '\n', '\0']) || line.starts_with([' ', '\t']) {
            return bad(format!("{line:?} is more than a line"));
        }
    }
    if seen.all("host") != [host] {
        return bad("another host".to_owned());
    }
    let length = seen.body.len().to_string();
    let lengths = seen.all("content-length");
    let is_post = seen.line().starts_with("POST ");
    if lengths != [length.as_str()] && (is_post || !lengths.is_empty()) {
        return bad("another length".to_owned());
    }
    let hop = |name: &String| {
        let stays = [
            "connection",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "expect",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        stays.contains(&name.as_str()) || name.starts_with("x-tidegate-")
    };
    if let Some(name) = seen.names().iter().find(|name| hop(name)) {
        return bad(format!("{name} stays on its hop"));
    }
    let body = words.bytes(sees.body.as_deref().unwrap_or(if is_post { "<chat>" } else { "" }));
    if seen.body != body {
        return bad("another body".to_owned());
    }
    let headers = seen.head.split("\r\n").skip(1).filter_map(|it| it.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    lines(&headers.collect::<Vec<_>>(), &sees.has, &sees.lacks).or_else(bad)
}

/// Checks that header lines are there once, and others are not.
fn lines(headers: &[(String, String)], has: &[String], lacks: &[String]) -> Result<(), String> {
    for line in has {
        let (name, value) = line.split_once(": ").expect("a header line");
        let values: Vec<_> = headers.iter().filter(|(key, _)| key == name).collect();
        if values.len() != 1 || values[0].1 != value {
            return Err(format!("{line:?} is not there"));
        }
    }
    match lacks.iter().find(|name| headers.iter().any(|(key, _)| key == *name)) {
        Some(name) => Err(format!("{name} is there")),
        None => Ok(()),
    }
}

/// Writes until everything is written, or nobody takes it any more.
async fn write_in(way: Pieces, raw: &[u8], mut socket: OwnedWriteHalf) -> OwnedWriteHalf {
    let mut dice = match way {
        Pieces::Random(seed) => fastrand::Rng::with_seed(seed),
        _ => fastrand::Rng::with_seed(raw.len() as u64),
    };
    let mut rest = raw;
    while !rest.is_empty() {
        let size = match way {
            Pieces::Whole => rest.len(),
            Pieces::Single if raw.len() <= BYTES_ONE_BY_ONE => 1,
            // Some fifty pieces, whatever there is.
            Pieces::Single | Pieces::Random(_) => dice.usize(1..=raw.len().div_ceil(25)),
        };
        let (piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        if socket.write_all(piece).await.is_err() {
            break;
        }
        // Long enough for the piece to be read by itself, mostly.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    socket
}
