//! Tells when the registry's files may have changed.
//!
//! Events are hints: they name the files to look at, or say that anything may have changed. Directories are watched, not
//! files: an editor that writes a new file and renames it over the old one leaves a watch on the
//! old file deaf.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use inotify::{EventStream, Inotify, WatchDescriptor, WatchMask};

/// Watches the directories of a registry.
///
/// The parent of each path is watched too, for the path itself being replaced; of what else happens
/// there nothing is told.
pub struct Watch {
    events: EventStream<[u8; 4096]>,
    paths: Vec<PathBuf>,
    /// Watches on parents, and the only names in them that count.
    parents: HashMap<WatchDescriptor, Vec<OsString>>,
    /// Watches on directories of the registry.
    directories: HashMap<WatchDescriptor, PathBuf>,
    /// What was heard and not told yet: a caller that stops waiting loses none of it.
    heard: Option<Changed>,
}

/// The files that changed; `None` when it can be any of them.
pub type Changed = Option<BTreeSet<PathBuf>>;

impl Watch {
    /// Begins to watch; a path that is not there is watched once it is, see [`Watch::renew`].
    ///
    /// # Errors
    /// When the kernel has no inotify instance left.
    pub fn new(paths: &[PathBuf]) -> io::Result<Self> {
        let mut watch = Self {
            events: Inotify::init()?.into_event_stream([0; 4096])?,
            paths: paths.to_vec(),
            parents: HashMap::new(),
            directories: HashMap::new(),
            heard: None,
        };
        watch.renew();
        Ok(watch)
    }

    /// Watches again what may have been replaced: a directory that came back is another directory.
    pub fn renew(&mut self) {
        let entries = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        let mask = entries | WatchMask::CLOSE_WRITE | WatchMask::MODIFY;
        self.parents.clear();
        self.directories.clear();
        for path in &self.paths {
            let Some(name) = path.file_name() else { continue };
            // A directory that vanished meanwhile is noticed by the caller's own look.
            // Of a directory only its coming and going counts there; its neighbours, in /tmp say, may
            // be written to all the time.
            let mask = if path.is_dir() { entries } else { mask } | WatchMask::MASK_ADD;
            if let Ok(parent) = self.events.watches().add(parent(path), mask) {
                self.parents.entry(parent).or_default().push(name.to_os_string());
            }
        }
        for path in self.paths.iter().filter(|path| path.is_dir()) {
            if let Ok(whole) = self.events.watches().add(path, mask | WatchMask::MASK_ADD) {
                self.parents.remove(&whole);
                self.directories.insert(whole, path.clone());
            }
        }
    }

    /// Returns after something changed and then nothing more for `quiet`. Who drops it before its end
    /// hears the same the next time.
    ///
    /// # Errors
    /// When the kernel tells no more.
    pub async fn changed(&mut self, quiet: Duration) -> io::Result<Changed> {
        if self.heard.is_none() {
            self.heard = Some(self.wait().await?);
        }
        // A writer that truncates and then writes makes several events; one look is enough. Bounded,
        // so that a file that never rests cannot keep us waiting.
        for _ in 0..20 {
            let Ok(more) = tokio::time::timeout(quiet, self.wait()).await else {
                break;
            };
            self.heard = match (self.heard.take(), more?) {
                (Some(Some(mut known)), Some(more)) => {
                    known.extend(more);
                    Some(Some(known))
                }
                _ => Some(None),
            };
        }
        let changed = self.heard.take().flatten();
        if changed.is_none() {
            self.renew();
        }
        Ok(changed)
    }

    async fn wait(&mut self) -> io::Result<Changed> {
        loop {
            let Some(event) = self.events.next().await else {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "inotify ended"));
            };
            let event = event?;
            match (
                self.parents.get(&event.wd),
                self.directories.get(&event.wd),
                event.name,
            ) {
                (Some(names), _, Some(name)) if !names.contains(&name) => {}
                (None, Some(directory), Some(name)) => {
                    return Ok(Some(BTreeSet::from([directory.join(name)])));
                }
                _ => return Ok(None),
            }
        }
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Somebody who looks at the clock meanwhile must not forget what he heard.
    #[test]
    fn what_was_heard_outlives_a_wait_that_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("web.json");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut watch = Watch::new(&[directory.path().to_path_buf()]).unwrap();
            fs::write(&file, "{}").unwrap();
            let long = Duration::from_secs(60);
            let dropped = tokio::time::timeout(Duration::from_millis(50), watch.changed(long)).await;
            assert!(dropped.is_err());
            let told = tokio::time::timeout(long, watch.changed(Duration::from_millis(1))).await;
            assert_eq!(told.unwrap().unwrap(), Some(BTreeSet::from([file.clone()])));
        });
    }
}
