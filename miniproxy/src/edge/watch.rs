//! Tells when the registry's files may have changed.
//!
//! Events are hints only: whoever waits here reads everything again. Directories are watched, not
//! files: an editor that writes a new file and renames it over the old one leaves a watch on the
//! old file deaf.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};

/// Watches the directories of a registry.
pub struct Watch {
    events: EventStream<[u8; 4096]>,
    paths: Vec<PathBuf>,
}

impl Watch {
    /// Begins to watch; a path that is not there is watched once it is, see [`Watch::renew`].
    ///
    /// # Errors
    /// When the kernel has no inotify instance left.
    pub fn new(paths: &[PathBuf]) -> io::Result<Self> {
        let mut watch = Self {
            events: Inotify::init()?.into_event_stream([0; 4096])?,
            paths: paths.to_vec(),
        };
        watch.renew();
        Ok(watch)
    }

    /// Watches again what may have been replaced: a directory that came back is another directory.
    pub fn renew(&mut self) {
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::MODIFY
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        for path in &self.paths {
            // The parent sees the path itself being replaced, be it a file or a symlink.
            for directory in [path.as_path(), parent(path)] {
                if directory.is_dir() {
                    // A directory that vanished meanwhile is noticed by the caller's own look.
                    let _ = self.events.watches().add(directory, mask);
                }
            }
        }
    }

    /// Returns after something changed and then nothing more for `quiet`.
    pub async fn changed(&mut self, quiet: Duration) -> io::Result<()> {
        self.wait().await?;
        // A writer that truncates and then writes makes several events; one look is enough. Bounded,
        // so that a file that never rests cannot keep us waiting.
        for _ in 0..20 {
            if tokio::time::timeout(quiet, self.wait()).await.is_err() {
                break;
            }
        }
        self.renew();
        Ok(())
    }

    async fn wait(&mut self) -> io::Result<()> {
        match self.events.next().await {
            Some(event) => event.map(drop),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "inotify ended")),
        }
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
