//! `tidegate top`: a running gateway, live in a terminal.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use super::access::Access;
use super::{block_on, failed, misused, on_signals, say};
use crate::top::{self, Feed, Theme, View};

/// What is asked more often changes nothing that a person could see.
const FASTEST: Duration = Duration::from_millis(100);

/// An answer that takes longer is none: the next question is due.
const PATIENCE: Duration = Duration::from_secs(5);

/// Columns of a terminal that does not say.
const USUAL_WIDTH: u16 = 100;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The gateway's admin port
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:9464")]
    url: String,
    /// How often to ask
    #[arg(long, short, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Print the picture once and end, as also happens where there is no terminal
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    access: Access,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let client = match args.access.client(PATIENCE) {
        Ok(client) => client,
        Err(message) => return misused(message),
    };
    let feed = match Feed::new(&args.url, client) {
        Ok(feed) => feed,
        Err(error) => return misused(error),
    };
    let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    block_on(async {
        if args.once || !terminal {
            return once(&feed).await;
        }
        let (stop, _abort) = match on_signals() {
            Ok(tokens) => tokens,
            Err(error) => return failed(error),
        };
        // https://no-color.org: set and not empty.
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let theme = if plain { Theme::Plain } else { Theme::Colours };
        match top::run(feed, args.interval, theme, &stop).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(format_args!("the terminal: {error}")),
        }
    })
}

async fn once(feed: &Feed) -> ExitCode {
    match feed.ask().await {
        Ok(snapshot) => {
            let mut view = View::new(feed.url());
            view.update(snapshot);
            let width = crossterm::terminal::size().map_or(USUAL_WIDTH, |(columns, _)| columns);
            say(top::print(&view, usize::from(width.max(USUAL_WIDTH))).trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => failed(error),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval < FASTEST {
        return Err(format!("at least {} is expected", humantime::format_duration(FASTEST)));
    }
    Ok(interval)
}
