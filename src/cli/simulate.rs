//! `tidegate simulate`.

use std::process::ExitCode;

use super::{block_on, failed, misused, on_signals, raise_descriptor_limit, say};
use crate::simulator::{SimulateArgs, Simulator};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    simulator: SimulateArgs,
}

pub(super) fn run(args: Args) -> ExitCode {
    let listen = args.simulator.listen;
    let options = args.simulator.into_options();
    if let Err(problem) = options.check() {
        return misused(problem);
    }
    block_on(async move {
        raise_descriptor_limit();
        let (stop, _) = match on_signals() {
            Ok(tokens) => tokens,
            Err(error) => return failed(error),
        };
        match Simulator::start(options, listen).await {
            Ok(simulator) => {
                say(format_args!("simulator ready: {}/v1", simulator.base_url()));
                stop.cancelled().await;
                simulator.shutdown().await;
                ExitCode::SUCCESS
            }
            Err(error) => failed(format_args!("{listen}: {error}")),
        }
    })
}
