//! Checks the protocol of the shared log: `cargo run --release`.
//!
//! First the protocol as it is, then once with each of its parts left out: every one of those must
//! be found, or the check is worth nothing. Exit code 1 if anything is not as expected.

#![expect(clippy::disallowed_types, reason = "nothing here runs in paused time")]

mod protocol;

use std::process::ExitCode;
use std::time::Instant;

use protocol::{Part, Protocol};
use stateright::{Checker, HasDiscoveries, Model};

fn main() -> ExitCode {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut good = true;
    for scene in Protocol::scenes() {
        let began = Instant::now();
        let name = scene.name;
        let checker = scene.checker().threads(threads).spawn_bfs().join();
        let found = checker.discoveries();
        println!(
            "the protocol, {name}: {} states, {:.1} s: {}",
            checker.unique_state_count(),
            began.elapsed().as_secs_f64(),
            if found.is_empty() { "holds" } else { "BROKEN" }
        );
        for (law, path) in &found {
            println!("{law}:\n{path}");
        }
        good &= found.is_empty();
    }
    for part in Part::ALL {
        let began = Instant::now();
        let broken = Protocol::scenes().into_iter().find_map(|scene| {
            let checker = scene
                .without(part)
                .checker()
                .threads(threads)
                .finish_when(HasDiscoveries::Any)
                .spawn_bfs()
                .join();
            let found = checker.discoveries();
            found.into_iter().next().map(|(law, path)| (law, path.into_actions().len()))
        });
        let seconds = began.elapsed().as_secs_f64();
        match broken {
            Some((law, steps)) => {
                println!("without {part:?}: {law:?} is broken after {steps} steps, {seconds:.1} s");
            }
            None => println!("without {part:?}: NOT NOTICED, {seconds:.1} s"),
        }
        good &= broken.is_some();
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
