//! Tells when files have become other files.
//!
//! What is watched is their directories: editors and Kubernetes put another file in the place of one,
//! or a link to one. What happens there only has the files looked at; whether they are others is told
//! by what the file system says of them, so that nothing else in a directory matters.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Files that are written one after the other are taken together: when nothing has happened for so
/// long, and at the latest so long after the first.
const QUIET: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(2);

/// How often files are looked at where the system does not tell.
const EVERY: Duration = Duration::from_secs(2);

/// Files, as they were when they were looked at last.
#[derive(Debug)]
pub(super) struct Watch {
    events: Events,
    seen: BTreeMap<PathBuf, Option<Known>>,
    directories: BTreeSet<PathBuf>,
}

/// What tells one file from another in its place: where it really is, its number and size there, and
/// when it was written.
#[derive(Debug, Eq, PartialEq)]
struct Known {
    place: PathBuf,
    number: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Watch {
    /// Looks at these files from now on; `None` if there are none.
    pub(super) fn start(files: &[PathBuf]) -> Option<Self> {
        let (seen, directories) = Default::default();
        let mut watch = Self { events: Events::new(), seen, directories };
        watch.look_at(files);
        (!files.is_empty()).then_some(watch)
    }

    /// Looks at these files; those that were looked at before have changed if they did since then.
    pub(super) fn look_at(&mut self, files: &[PathBuf]) {
        self.seen.retain(|path, _| files.contains(path));
        for path in files {
            self.follow(path);
            self.seen.entry(path.clone()).or_insert_with(|| known(path));
        }
    }

    /// Watches the directory that a file is in, and the one that it is a link to.
    fn follow(&mut self, path: &Path) {
        let real = fs::canonicalize(path).ok();
        let directory = |path: &Path| match path.parent() {
            Some(parent) if parent != Path::new("") => Some(parent.to_owned()),
            Some(_) => Some(PathBuf::from(".")),
            None => None,
        };
        let all = [directory(path), real.as_deref().and_then(directory)];
        for directory in all.into_iter().flatten() {
            // One that is watched already and was replaced is another one by the same name.
            if let Err(error) = self.events.add(&directory) {
                let told = self.directories.insert(directory.clone());
                if told {
                    let place = directory.display();
                    tracing::warn!(%place, %error, "changes here are not noticed: use SIGHUP");
                }
            }
        }
    }

    /// Waits until a file is another one than when it was looked at last.
    pub(super) async fn changed(&mut self) {
        loop {
            self.events.next().await;
            let latest = Instant::now() + LONGEST;
            while Instant::now() < latest && timeout(QUIET, self.events.next()).await.is_ok() {}
            if self.look_again() {
                return;
            }
        }
    }

    fn look_again(&mut self) -> bool {
        let mut changed = false;
        let paths: Vec<_> = self.seen.keys().cloned().collect();
        for path in paths {
            let now = known(&path);
            if self.seen.get(&path) != Some(&now) {
                changed = true;
                self.seen.insert(path.clone(), now);
                self.follow(&path);
            }
        }
        changed
    }
}

/// What is known of a file, if there is one.
fn known(path: &Path) -> Option<Known> {
    let (place, found) = (fs::canonicalize(path).ok()?, fs::metadata(path).ok()?);
    Some(Known {
        place,
        number: (found.dev(), found.ino()),
        size: found.len(),
        written: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

/// What happens in directories, as far as the system tells; where it does not, time passing.
#[derive(Debug)]
enum Events {
    #[cfg(target_os = "linux")]
    Told(tokio::io::unix::AsyncFd<rustix::fd::OwnedFd>),
    Untold,
}

impl Events {
    #[cfg(target_os = "linux")]
    fn new() -> Self {
        use rustix::fs::inotify::{CreateFlags, init};
        let made = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(io::Error::from);
        #[expect(deprecated, reason = "unsound for descriptors that are not owned; this one is")]
        let watched = made.and_then(tokio::io::unix::AsyncFd::new);
        match watched {
            Ok(events) => Self::Told(events),
            Err(error) => {
                tracing::warn!(%error, "changes of files are looked for every two seconds");
                Self::Untold
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    const fn new() -> Self {
        Self::Untold
    }

    /// Tells of this directory as well.
    #[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "nothing is told"))]
    fn add(&self, directory: &Path) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Told(events) => {
                use rustix::fs::inotify::{WatchFlags, add_watch};
                let what = WatchFlags::CLOSE_WRITE
                    | WatchFlags::CREATE
                    | WatchFlags::DELETE
                    | WatchFlags::MOVE
                    | WatchFlags::DELETE_SELF
                    | WatchFlags::MOVE_SELF
                    | WatchFlags::ONLYDIR;
                add_watch(events.get_ref(), directory, what)?;
                Ok(())
            }
            Self::Untold => Ok(()),
        }
    }

    /// Waits until something may have happened. What that was does not matter.
    async fn next(&self) {
        match self {
            #[cfg(target_os = "linux")]
            Self::Told(events) => loop {
                let Ok(mut ready) = events.readable().await else { return sleep(EVERY).await };
                let mut buffer = [0; 4_096];
                let read = ready.try_io(|it| Ok(rustix::io::read(it.get_ref(), &mut buffer)?));
                if let Ok(read) = read {
                    // Whatever is left makes it ready again.
                    if read.is_err() {
                        sleep(EVERY).await;
                    }
                    return;
                }
            },
            Self::Untold => sleep(EVERY).await,
        }
    }
}
