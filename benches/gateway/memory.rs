//! Memory of waiting requests: resident bytes of the gateway before and while they wait.
//!
//! The quota is overdrawn first: one completion reports that it used a quarter of an hour's worth
//! more than there was, so that every later request has the same long but bearable wait. A limit
//! of one request an hour would not do: a gateway that forecasts refuses all but the first few.

use crate::load::request_body;
use crate::options::Options;
use crate::process::{Gateway, Role, SPARE_FILES, resident_bytes, wait_for};
use crate::{Result, http};

/// Tokens an hour.
const LIMIT: u64 = 12_000_000;

/// Tokens the first completion reports: a quarter more than the limit, so 15 minutes to earn. No answer
/// is believed to have used more than 16.7 million.
const SPENT: u64 = LIMIT / 4 * 5;

/// Bytes of each waiting request's body.
const BODY_BYTES: usize = 4_096;

/// Streams on one HTTP/2 connection: the number that servers commonly allow.
const STREAMS: usize = 200;

/// Measures both ways in which requests can wait.
pub(crate) fn run(options: &Options, files: u64) -> Result {
    let wanted = options.waiting();
    let alone = usize::try_from(files.saturating_sub(SPARE_FILES))?.min(wanted);
    println!("memory of waiting requests with {BODY_BYTES} B bodies");
    if alone < wanted {
        println!("  (only {alone} connections at once: {files} open files are permitted)");
    }
    wait("HTTP/1.1, a connection each", alone, 1)?;
    wait(&format!("HTTP/2, {STREAMS} on a connection"), wanted, STREAMS)
}

fn wait(name: &str, requests: usize, streams: usize) -> Result {
    let dir = tempfile::tempdir()?;
    let spend = ["mock", "--spend", &SPENT.to_string()].map(str::to_owned);
    let (_mock, upstream) = Role::serve(&spend)?;
    let limits = format!(r#"{{ unit = "tokens", limit = {LIMIT}, per = "1h" }}"#);
    let gateway = Gateway::start(dir.path(), upstream, &limits)?;
    let (status, answer) = http::complete(gateway.listen, &request_body(BODY_BYTES, false, ""))?;
    if status != 200 {
        return Err(format!("the first request was answered {status}: {answer}").into());
    }
    // What it used is settled after its answer.
    if !wait_for(|| Ok(gateway.gauge("tidegate_held_units")? == 0.0))? {
        return Err("the first request was not settled".into());
    }

    let idle = resident_bytes(gateway.id())?;
    let mut hold = Role::start(
        &[
            "hold",
            "--target",
            &gateway.listen.to_string(),
            "--requests",
            &requests.to_string(),
            "--streams",
            &streams.to_string(),
            "--body-bytes",
            &BODY_BYTES.to_string(),
        ]
        .map(str::to_owned),
    )?;
    hold.line()?;
    // The kernel completes a connection before the gateway accepts it.
    let connections = requests.div_ceil(streams) as f64;
    if !wait_for(|| Ok(gateway.gauge("tidegate_connections")? >= connections))? {
        return Err("not all connections were accepted".into());
    }
    let connected = resident_bytes(gateway.id())?;
    hold.go()?;
    let mut depth = 0.0;
    let all_wait = wait_for(|| {
        depth = gateway.gauge("tidegate_queue_depth")?;
        Ok(depth >= requests as f64)
    })?;
    let waiting = resident_bytes(gateway.id())?;
    let answered = hold.end()?;
    if !all_wait {
        return Err(format!("{depth} of {requests} wait, {answered} were answered").into());
    }
    let left = wait_for(|| Ok(gateway.gauge("tidegate_queue_depth")? == 0.0))?;
    let after = resident_bytes(gateway.id())?;
    report(name, requests, streams, [idle, connected, waiting, after]);
    if left { Ok(()) } else { Err("requests wait although their clients are gone".into()) }
}

/// Prints what each request costs, from resident bytes: idle, connected, waiting, after.
fn report(name: &str, requests: usize, streams: usize, resident: [f64; 4]) {
    let [idle, connected, waiting, after] = resident;
    let each = |bytes: f64, count: usize| bytes / count as f64;
    println!("  {name}: {requests} waiting");
    println!(
        "    per idle connection     {:>9.0} B",
        each(connected - idle, requests.div_ceil(streams))
    );
    println!(
        "    per waiting request     {:>9.0} B (its connection and body included)",
        each(waiting - idle, requests)
    );
    println!(
        "    the same without body   {:>9.0} B",
        each(waiting - idle, requests) - BODY_BYTES as f64
    );
    println!(
        "    resident: {:.1} MiB idle, {:.1} MiB waiting, {:.1} MiB after all hung up\n",
        mebibytes(idle),
        mebibytes(waiting),
        mebibytes(after)
    );
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}
