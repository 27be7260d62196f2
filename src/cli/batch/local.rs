//! Works a file off in this program: a gateway without ports, whose batches lie beside the output.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::progress::{Shown, View};
use super::{Ended, Failure, Place, Run};
use crate::batch::{self, Batches};
use crate::config::{Config, Overrides};
use crate::server::Server;
use crate::store::archive::State;
use crate::telemetry;

/// How often it is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A file of one's own may be as long as lines can be numbered.
const MAX_LINES: &str = "10000000";

fn config(run: &Run, place: &Place) -> Result<Config, Failure> {
    let overrides = Overrides {
        upstream: run.upstream.clone(),
        state_dir: run.state_dir.clone(),
        stateless: run.stateless,
        batch_dir: Some(place.work.join("batch").display().to_string()),
        ..Overrides::default()
    };
    // Quiet, unless the environment says otherwise: the bar says what there is to say.
    let quiet = [("TIDEGATE_LOG_LEVEL", "warn"), ("TIDEGATE_BATCH_MAX_LINES", MAX_LINES)];
    let said: Vec<_> = std::env::vars().collect();
    let quiet = quiet.into_iter().filter(|(name, _)| said.iter().all(|(other, _)| other != name));
    let environment =
        quiet.map(|(name, value)| (name.to_owned(), value.to_owned())).chain(said.clone());
    let config = Config::load(run.config.as_deref(), environment, &overrides);
    let mut config = config.map_err(|problems| Failure::Usage(problems.to_string()))?;
    let chosen = config.state.choose(|name| std::env::var(name).ok());
    chosen.map_err(|problem| Failure::Usage(problem.to_string()))?;
    Ok(config)
}

pub(super) async fn run(
    run: &Run,
    place: &Place,
    stop: CancellationToken,
    abort: CancellationToken,
) -> Result<Ended, Failure> {
    let config = config(run, place)?;
    let _flush = telemetry::start(&config.log)?;
    let server = Server::unbound(Arc::new(config)).map_err(|error| in_use(&error))?;
    let Some(batches) = server.batches().map(Arc::clone) else {
        return Err(Failure::Failed("there is no place for the results".to_owned()));
    };
    if batches.last().await?.is_none() {
        batches.submit(&place.input, &run.endpoint, run.completion_window).await?;
    }
    let end = CancellationToken::new();
    let serving = tokio::spawn(server.run(end.clone(), abort));
    let watched = watch(&batches, &stop).await;
    end.cancel();
    serving.await?;
    let (view, last) = watched?;
    if !last.batch.record.state.is_final() {
        let what = "the same command goes on from here".to_owned();
        return Ok(Ended::Interrupted(view, what));
    }
    deliver(&batches, &last, view, place)
}

/// Another gateway has the quota's state: it could do the work.
fn in_use(error: &io::Error) -> Failure {
    let hint = "if that is a gateway that runs here, have it do the work: --gateway URL";
    let text = error.to_string();
    if text.contains("is in use by") {
        Failure::Usage(format!("{text}; {hint}"))
    } else {
        Failure::Failed(text)
    }
}

/// Shows how it gets on until it has ended, or is to be stopped.
async fn watch(
    batches: &Batches,
    stop: &CancellationToken,
) -> Result<(View, batch::View), Failure> {
    let mut shown = Shown::new();
    loop {
        let Some(last) = batches.last().await? else {
            return Err(Failure::Failed("the batch is not there any more".to_owned()));
        };
        let view = view(&last);
        if last.batch.record.state.is_final() || stop.is_cancelled() {
            return Ok((view, last));
        }
        shown.show(&view);
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => {}
        }
    }
}

fn view(last: &batch::View) -> View {
    let batch::View { batch, progress } = last;
    let count = |count: fn(&batch::Progress) -> u32| progress.as_ref().map_or(0, count).into();
    View {
        total: batch.record.total.into(),
        completed: batch.counts.completed,
        failed: batch.counts.failed,
        prompt: batch.counts.prompt,
        completion: batch.counts.completion,
        at_upstream: count(|it| it.at_upstream),
        to_retry: count(|it| it.to_retry),
        limited_by: progress.as_ref().and_then(|it| it.limited_by.clone()),
        trouble: progress.as_ref().and_then(|it| it.last_trouble.clone()),
    }
}

fn deliver(
    batches: &Batches,
    last: &batch::View,
    view: View,
    place: &Place,
) -> Result<Ended, Failure> {
    let record = &last.batch.record;
    if record.state == State::Failed {
        place.clear()?;
        return Ok(Ended::Invalid(record.problems.clone()));
    }
    for (file, to) in [(&record.output_file, &place.output), (&record.error_file, &place.errors)] {
        if let Some(id) = file {
            place.deliver(&batches.path(id), to)?;
        }
    }
    place.clear()?;
    Ok(Ended::Done(view))
}
