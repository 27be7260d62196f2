//! `tidegate healthcheck`: a container has no curl.

use std::process::ExitCode;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::access::Token;
use super::{block_on, failed, misused, say};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// What to ask.
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:9464/readyz")]
    url: String,
    /// Seconds to wait for the answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    timeout: u64,
    #[command(flatten)]
    token: Token,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let bearer = match args.token.bearer() {
        Ok(bearer) => bearer,
        Err(message) => return misused(message),
    };
    block_on(async {
        match ask(args, bearer).await {
            Ok((true, text)) => {
                say(text.trim_end());
                ExitCode::SUCCESS
            }
            Ok((false, text)) => failed(text.trim_end()),
            Err(error) => failed(error),
        }
    })
}

async fn ask(args: &Args, bearer: Option<HeaderValue>) -> reqwest::Result<(bool, String)> {
    let timeout = Duration::from_secs(args.timeout);
    let client = reqwest::Client::builder().timeout(timeout).no_proxy().build()?;
    let headers: HeaderMap = bearer.map(|it| (AUTHORIZATION, it)).into_iter().collect();
    let answer = client.get(&args.url).headers(headers).send().await?;
    Ok((answer.status().is_success(), answer.text().await?))
}
