//! `tidegate healthcheck`: a container has no curl.

use std::process::ExitCode;
use std::time::Duration;

use super::{block_on, failed, say};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// What to ask.
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:9464/readyz")]
    url: String,
    /// Seconds to wait for the answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    timeout: u64,
}

pub(super) fn run(args: &Args) -> ExitCode {
    block_on(async {
        match ask(args).await {
            Ok((true, text)) => {
                say(text.trim_end());
                ExitCode::SUCCESS
            }
            Ok((false, text)) => failed(text.trim_end()),
            Err(error) => failed(error),
        }
    })
}

async fn ask(args: &Args) -> reqwest::Result<(bool, String)> {
    let timeout = Duration::from_secs(args.timeout);
    let client = reqwest::Client::builder().timeout(timeout).no_proxy().build()?;
    let answer = client.get(&args.url).send().await?;
    Ok((answer.status().is_success(), answer.text().await?))
}
