//! The data of the plots in docs/LIMITS.md: simulated runs of the real ledger and scheduler in
//! virtual time, as CSV files. `make plots` runs it and draws them.
//!
//! Everything follows from one seed (`SIM_SEED`, by default always the same), so the files are the
//! same wherever they are made. It stands beside the simulations because it shares their modules.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use self::seed::{say, seed};

#[path = "plots/curves.rs"]
mod curves;
#[path = "plots/fairness.rs"]
mod fairness;
#[path = "plots/table.rs"]
mod table;
#[path = "plots/timeline.rs"]
mod timeline;

// What the simulations are made of; their judgement is for tests.
mod best;
mod law;
mod oracle;
#[expect(dead_code, reason = "runs are shown here, not judged")]
mod run;
#[expect(dead_code, reason = "one purpose prints its seed, this program prints it once")]
mod seed;
mod workload;
#[expect(dead_code, reason = "not everything that is traced is drawn")]
mod world;

fn main() -> ExitCode {
    let Some(folder) = std::env::args().skip(1).find(|it| !it.starts_with("--")) else {
        say(format_args!("plots: name a folder for the data; `make plots` does"));
        return ExitCode::FAILURE;
    };
    match write(Path::new(&folder)) {
        Ok(()) => {
            say(format_args!("data in {folder}, SIM_SEED={}", seed()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(format_args!("{folder}: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    timeline::write(folder)?;
    curves::reservation(folder)?;
    curves::latency(folder)?;
    curves::cut(folder)?;
    curves::foreign(folder)?;
    curves::bound(folder)?;
    fairness::write(folder)
}
