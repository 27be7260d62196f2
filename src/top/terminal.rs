//! Runs the view in a terminal: asks once an interval, draws, and obeys keys.

use std::io;
use std::pin::pin;
use std::time::Duration;

use crossterm::event::{Event, EventStream};
use futures_util::{StreamExt, stream};
use tokio::time::{self, Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::screen::{self, Theme};
use super::view::Action;
use super::{Feed, View};

/// Shows the gateway until the user has seen enough or `stop` is cancelled; the terminal is as
/// before then.
///
/// # Errors
///
/// If the terminal cannot be read or written.
pub async fn run(
    feed: Feed,
    interval: Duration,
    theme: Theme,
    stop: &CancellationToken,
) -> io::Result<()> {
    // Puts the terminal back when the program panics, too.
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, feed, interval, theme, stop).await;
    ratatui::try_restore()?;
    shown
}

async fn show(
    terminal: &mut ratatui::DefaultTerminal,
    feed: Feed,
    interval: Duration,
    theme: Theme,
    stop: &CancellationToken,
) -> io::Result<()> {
    let mut view = View::new(feed.url());
    let mut keys = EventStream::new();
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A stream keeps its question when a key comes first, so that neither waits for the other.
    let answers = stream::unfold((feed, ticks), |(feed, mut ticks)| async {
        ticks.tick().await;
        Some((feed.ask().await, (feed, ticks)))
    });
    let mut answers = pin!(answers);
    let mut last = Instant::now();
    loop {
        terminal.draw(|frame| screen::draw(frame, &view, theme))?;
        tokio::select! {
            answer = answers.next() => match answer {
                Some(Ok(snapshot)) => {
                    last = Instant::now();
                    view.update(snapshot);
                }
                Some(Err(error)) => view.fail(error, last.elapsed()),
                None => return Ok(()),
            },
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) if view.press(key) == Some(Action::Quit) => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            () = stop.cancelled() => return Ok(()),
        }
    }
}
