//! The fault matrix: every stage of a call to the upstream, every way in which it can fail there, streamed or
//! not. The caller gets what is documented, and after each case nothing is left of it: see [`run::Case`].
//!
//! The rows are those of `docs/FAULTS.md`, and a test compares them.

mod h2;
mod relay;
mod rows;
mod run;
mod storms;
mod table;
mod tls;
mod unmetered;

use std::collections::BTreeSet;
use std::fs;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use futures_util::stream::{StreamExt, iter};
use tidegate::simulator::HeaderStyle;

use self::relay::{Fault, Relay, Silent};
use self::run::{Case, simulator};
use self::table::{Charge, Entry, Expect, GOOD, How, Row};
use self::tls::{Authority, Front};

/// Runs the cases of these rows, several at once: what most of them do is wait.
async fn matrix(rows: impl Iterator<Item = Row>) {
    let cases = rows.flat_map(|row| row.streamed.iter().map(move |streamed| (row, *streamed)));
    let mut count = 0;
    let cases = cases.map(|(row, streamed)| async move {
        let ended = AssertUnwindSafe(run(row, streamed)).catch_unwind().await;
        ended.is_err().then(|| format!("{}: {}, streamed: {streamed}", row.stage, row.fault))
    });
    let mut running = iter(cases).buffer_unordered(8);
    let mut failed = Vec::new();
    while let Some(ended) = running.next().await {
        count += 1;
        failed.extend(ended);
    }
    assert!(failed.is_empty() && count > 0, "of {count} failed:\n{}", failed.join("\n"));
}

async fn run(row: Row, streamed: bool) {
    match row.how {
        How::Connect(entry) => unconnected(row, entry, streamed).await,
        How::Relay(fault) | How::Http2(fault) => {
            let again = row.expect.retry.is_some();
            relayed(row, fault, streamed, if again { 2 } else { 1 }).await;
            if again {
                recovered(row, fault, streamed).await;
            }
        }
        How::Kept(fault) => relayed(row, fault, streamed, 1).await,
    }
}

/// A relay, TLS in front of it where the row wants HTTP/2, and a gateway in front of that.
struct Setting {
    relay: Relay,
    case: Case,
    _front: Option<(Front, Authority)>,
}

impl Setting {
    async fn new(row: Row, streamed: bool, what: &str) -> Self {
        let name = format!("{}: {}, {what}, streamed: {streamed}", row.stage, row.fault);
        let http2 = matches!(row.how, How::Http2(_));
        let relay = Relay::start(simulator(HeaderStyle::Omit).await, http2).await;
        if !http2 {
            let case = Case::start(name, &format!("http://{}", relay.addr), row.changes);
            return Self { relay, case, _front: None };
        }
        let authority = Authority::new();
        let front = Front::start(&authority, relay.addr, "h2", (None, 0)).await;
        let changes = format!("upstream.ca_file = {:?}\n{}", authority.file(), row.changes);
        let case = Case::start(name, &format!("https://{}", front.addr), &changes);
        Self { relay, case, _front: Some((front, authority)) }
    }
}

/// The fault meets every attempt.
async fn relayed(row: Row, fault: Fault, streamed: bool, times: usize) {
    let Setting { relay, mut case, _front } = Setting::new(row, streamed, "each time").await;
    let (expect, mut charged) = (row.expect, Vec::new());
    let mut sent = times;
    if matches!(row.how, How::Kept(_)) {
        case.good(streamed).await;
        charged.push((Charge::Used, 0));
        // The second attempt is answered well.
        let again = expect.retry.is_some();
        sent += 1 + usize::from(again);
        charged.extend(again.then_some((Charge::Used, 0)));
    }
    relay.plan(fault, times);
    let held = case.meet(streamed, expect, || relay.body()).await;
    relay.heal();
    relay.let_go().await;
    charged.extend(std::iter::repeat_n((expect.charge, held), times));
    case.at_rest().await;
    assert_eq!(relay.seen(), sent, "{case:?}: attempts");
    let count = u32::try_from(times).expect("few");
    let retries = if matches!(row.how, How::Kept(_)) { 1 } else { count - 1 };
    case.counted(expect, count, retries).await;
    case.ledgers(relay.simulator(), &charged).await;
    let before = relay.connections();
    case.good(streamed).await;
    assert_eq!(relay.connections() == before, expect.reused, "{case:?}: the connection");
    charged.push((Charge::Used, 0));
    case.ledgers(relay.simulator(), &charged).await;
    case.use_up(relay.simulator()).await;
    case.close().await;
}

/// The fault meets the first attempt only: the caller sees nothing of it.
async fn recovered(row: Row, fault: Fault, streamed: bool) {
    let Setting { relay, mut case, _front } = Setting::new(row, streamed, "once").await;
    let expect = Expect { failure: row.expect.failure, retry: row.expect.retry, ..GOOD };
    relay.plan(fault, 1);
    let held = case.meet(streamed, expect, || relay.body()).await;
    relay.let_go().await;
    case.at_rest().await;
    assert_eq!(relay.seen(), 2, "{case:?}: attempts");
    case.counted(expect, 1, 1).await;
    let charged = [(row.expect.charge, held), (Charge::Used, 0)];
    case.ledgers(relay.simulator(), &charged).await;
    case.use_up(relay.simulator()).await;
    case.close().await;
}

/// There is no connection, and then there is.
async fn unconnected(row: Row, entry: Entry, streamed: bool) {
    let name = format!("{}: {}, streamed: {streamed}", row.stage, row.fault);
    let authority = Authority::new();
    let trust = format!("upstream.ca_file = {:?}\n{}", authority.file(), row.changes);
    let simulator = simulator(HeaderStyle::Omit).await;
    let (mut case, relay, _front) = match entry {
        Entry::Refused => {
            let silent = Silent::bind();
            let mut case = Case::start(name, &format!("http://{}", silent.addr()), row.changes);
            refused(&mut case, row, streamed).await;
            (case, Relay::on(silent.listen(), simulator, false), None)
        }
        Entry::Stalls => {
            let (listener, crowd) = Silent::crowded().await;
            let addr = listener.local_addr().expect("bound");
            let mut case = Case::start(name, &format!("http://{addr}"), row.changes);
            refused(&mut case, row, streamed).await;
            drop(crowd);
            (case, Relay::on(listener, simulator, false), None)
        }
        Entry::NoSuchHost => {
            // A label of 64 letters is one too long: no server has to be asked.
            let url = format!("http://{}.invalid", "x".repeat(64));
            let mut case = Case::start(name, &url, row.changes);
            refused(&mut case, row, streamed).await;
            case.close().await;
            return;
        }
        _ => {
            let relay = Relay::start(simulator, false).await;
            let front = Front::start(&authority, relay.addr, "http/1.1", (Some(entry), 2)).await;
            let mut case = Case::start(name, &format!("https://{}", front.addr), &trust);
            refused(&mut case, row, streamed).await;
            assert_eq!((relay.seen(), relay.connections()), (0, 0), "{case:?}");
            (case, relay, Some(front))
        }
    };
    case.good(streamed).await;
    case.ledgers(relay.simulator(), &[(Charge::Used, 0)]).await;
    case.use_up(relay.simulator()).await;
    case.close().await;
}

async fn refused(case: &mut Case, row: Row, streamed: bool) {
    case.meet(streamed, row.expect, Vec::new).await;
    case.at_rest().await;
    case.counted(row.expect, 2, 1).await;
    case.unspent().await;
}

fn at(stages: &'static [&'static str]) -> impl Iterator<Item = Row> {
    let all = rows::all().into_iter();
    all.filter(move |row| stages.contains(&row.stage))
}

#[tokio::test]
async fn faults_on_the_way_to_the_upstream() {
    matrix(at(&["connect", "TLS handshake", "request sent"])).await;
}

#[tokio::test]
async fn faults_of_the_head() {
    matrix(at(&["head", "interim answer"])).await;
}

#[tokio::test]
async fn faults_of_the_body() {
    matrix(at(&["body", "body's framing"])).await;
}

#[tokio::test]
async fn faults_of_events_and_encodings() {
    matrix(at(&["events", "packed body"])).await;
}

#[tokio::test]
async fn errors_of_the_upstream() {
    matrix(at(&["status", "error's body"])).await;
}

#[tokio::test]
async fn faults_of_http_2() {
    matrix(at(&["HTTP/2"])).await;
}

#[test]
fn the_page_of_faults_lists_the_matrix() {
    let page = fs::read_to_string("docs/FAULTS.md").expect("the page");
    let listed: Vec<&str> = page
        .lines()
        .filter(|line| line.ends_with("| kept |") || line.ends_with("| closed |"))
        .collect();
    let rows = rows::all();
    let lines: Vec<String> = rows.iter().map(Row::line).collect();
    assert_eq!(listed, lines, "the table should be\n{}", lines.join("\n"));
    let stages: BTreeSet<&str> = rows.iter().map(|row| row.stage).collect();
    let tried = [
        "connect",
        "TLS handshake",
        "request sent",
        "head",
        "interim answer",
        "body",
        "body's framing",
        "events",
        "packed body",
        "status",
        "error's body",
        "HTTP/2",
    ];
    assert_eq!(stages, BTreeSet::from(tried), "each stage has its test");
    assert!(lines.iter().collect::<BTreeSet<_>>().len() == lines.len() && lines.len() >= 60);
}
