//! `tidegate healthcheck`: a container has no curl.

use std::process::ExitCode;
use std::time::Duration;

use super::access::Access;
use super::{block_on, failed, misused, say};
use crate::admin::Address;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// What to ask.
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:9464/readyz")]
    url: String,
    /// Seconds to wait for the answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    timeout: u64,
    #[command(flatten)]
    access: Access,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let address = match Address::parse(&args.url) {
        Ok(address) => address,
        Err(error) => return misused(error),
    };
    let client = match args.access.client(Duration::from_secs(args.timeout)) {
        Ok(client) => client,
        Err(message) => return misused(message),
    };
    block_on(async {
        match client.get(address.as_given()).await {
            Ok((status, text)) => {
                let text = String::from_utf8_lossy(&text);
                match (status.is_success(), text.trim_end()) {
                    (true, text) => {
                        say(text);
                        ExitCode::SUCCESS
                    }
                    (false, "") => failed(status),
                    (false, text) => failed(text),
                }
            }
            Err(error) => failed(error),
        }
    })
}
