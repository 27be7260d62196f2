//! The state that outlives the process: taken up before the first request, and handed over after the
//! last.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::config::State;
use crate::proxy::Gateway;
use crate::store::history::Keep;
use crate::store::local::{Batch, Local, Options, Running, Saved, Source};

/// How long the end waits for the last commit: a disk that takes longer has failed.
const LAST_COMMIT: Duration = Duration::from_secs(10);

/// Opens the state, if it is to be kept.
pub(super) fn open(state: &State) -> io::Result<Option<(Local, Saved)>> {
    let Some(dir) = state.place() else { return Ok(None) };
    let options = Options { sync: state.sync, keep: Keep::from(state) };
    Local::open(dir, options).map(Some).map_err(io::Error::other)
}

/// Hands the state to the gateway, and has it kept from now on.
pub(super) fn start(kept: (Local, Saved), gateway: &Arc<Gateway>) -> io::Result<Running> {
    let (local, _saved) = kept;
    let waker = local.waker();
    let metrics = Arc::clone(&gateway.metrics().store);
    let running = local.start(Box::new(Everything(Arc::clone(gateway))), metrics)?;
    gateway.history().attach(waker, running.desk().clone());
    Ok(running)
}

/// Has the last of it written.
pub(super) async fn stop(running: Running) {
    if !running.stop(LAST_COMMIT).await {
        tracing::error!("the last state was not written: the next start takes this for a crash");
    }
}

/// All that the gateway wants kept.
struct Everything(Arc<Gateway>);

impl Source for Everything {
    fn collect(&mut self, batch: &mut Batch, _full: bool) {
        self.0.history().collect(&mut batch.usage);
        batch.now = self.0.pools().epoch().now();
    }
}
