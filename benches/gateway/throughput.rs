//! Time and CPU per request: every scenario against every target, round by round.

use std::net::SocketAddr;

use crate::load::Measured;
use crate::options::Options;
use crate::process::{Gateway, Role, cpu_seconds};
use crate::{Result, report};

/// Seconds of load before each measurement: pools fill, branches and caches learn.
const WARMUP: f64 = 0.15;

/// Limits of the gateway that never bind, in both units that a request costs.
const OPEN_LIMITS: &str = r#"
  { unit = "requests", limit = 1_000_000_000, per = "1m" },
  { unit = "tokens", limit = 1_000_000_000_000_000, per = "1m" },
"#;

/// A kind of traffic.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Requests at once, each on a connection of its own.
    pub(crate) connections: usize,
    body_bytes: usize,
    stream: bool,
}

fn scenarios(body_bytes: usize) -> [Scenario; 4] {
    [
        Scenario { name: "whole answer, 64 at once", connections: 64, body_bytes, stream: false },
        Scenario { name: "whole answer, 1 at once", connections: 1, body_bytes, stream: false },
        Scenario {
            name: "stream of 49 events, 16 at once",
            connections: 16,
            body_bytes,
            stream: true,
        },
        Scenario {
            name: "32 KiB request, 64 at once",
            connections: 64,
            body_bytes: 32_768,
            stream: false,
        },
    ]
}

/// Where the client sends its requests.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    address: SocketAddr,
    /// The process whose CPU is counted; none when there is no proxy.
    process: Option<u32>,
}

/// One run.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) measured: Measured,
    /// Microseconds of the proxy's CPU for each request.
    pub(crate) cpu: Option<f64>,
}

impl Sample {
    pub(crate) fn throughput(&self) -> f64 {
        self.measured.requests as f64 / self.measured.seconds
    }
}

/// The runs of one scenario: `samples[target][round]`.
pub(crate) struct Series {
    pub(crate) scenario: Scenario,
    pub(crate) samples: Vec<Vec<Sample>>,
}

/// Measures all scenarios and prints the report.
pub(crate) fn run(options: &Options) -> Result {
    let dir = tempfile::tempdir()?;
    let (_mock, upstream) = Role::serve(&["mock".to_owned()])?;
    let mut targets = vec![Target { name: "direct", address: upstream, process: None }];
    let mut bare = Vec::new();
    for (name, runtime) in [("bare", "work-stealing"), ("bare-per-core", "per-core")] {
        let to = upstream.to_string();
        let (role, address) =
            Role::serve(&["bare", "--upstream", &to, "--runtime", runtime].map(str::to_owned))?;
        targets.push(Target { name, address, process: Some(role.id()) });
        bare.push(role);
    }
    let _gateway = if options.without_tidegate {
        None
    } else {
        let gateway = Gateway::start(dir.path(), upstream, OPEN_LIMITS)?;
        let (address, process) = (gateway.listen, Some(gateway.id()));
        targets.push(Target { name: "tidegate", address, process });
        Some(gateway)
    };

    let (rounds, seconds) = (options.rounds(), options.seconds());
    println!("{rounds} rounds of {seconds} s a run; values are medians over the rounds\n");
    let mut series: Vec<Series> = scenarios(options.body_bytes)
        .into_iter()
        .map(|scenario| Series { scenario, samples: vec![Vec::new(); targets.len()] })
        .collect();
    for round in 0..rounds {
        for series in &mut series {
            for turn in 0..targets.len() {
                // Each round begins with another target, so that none always follows the same.
                let target = (turn + round) % targets.len();
                let sample = measure(&targets[target], series.scenario, seconds)
                    .map_err(|error| format!("{}: {error}", targets[target].name))?;
                series.samples[target].push(sample);
            }
            same_answers(series)?;
        }
    }
    for series in &series {
        report::series(&targets, series);
    }
    Ok(())
}

fn measure(target: &Target, scenario: Scenario, seconds: f64) -> Result<Sample> {
    let cpu = || target.process.map(cpu_seconds).transpose();
    let mut arguments: Vec<String> = [
        ("--target", target.address.to_string()),
        ("--connections", scenario.connections.to_string()),
        ("--body-bytes", scenario.body_bytes.to_string()),
        ("--seconds", seconds.to_string()),
        ("--warmup", WARMUP.to_string()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect();
    arguments.insert(0, "load".to_owned());
    if scenario.stream {
        arguments.push("--stream".to_owned());
    }
    let mut load = Role::start(&arguments)?;
    load.line()?;
    let before = cpu()?;
    load.go()?;
    let measured: Measured = serde_json::from_str(&load.line()?)?;
    let used = cpu()?.zip(before).map(|(after, before)| after - before);
    let cpu = used.map(|seconds| seconds * 1e6 / measured.requests as f64);
    Ok(Sample { measured, cpu })
}

/// A proxy that changes an answer's size is not measured but reported.
fn same_answers(series: &Series) -> Result {
    let mut sizes = series.samples.iter().flatten().map(|sample| sample.measured.answer_bytes);
    let first = sizes.next();
    match sizes.find(|size| Some(*size) != first) {
        Some(size) => Err(format!("answers of {first:?} and {size} bytes").into()),
        None => Ok(()),
    }
}
