//! Follows directories of JSON files: the kernel tells (inotify) which file changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};

/// A directory that is gone is looked for this often.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Directories that are followed.
pub struct Watch {
    events: EventStream<[u8; 4096]>,
    directories: Vec<PathBuf>,
    watched: BTreeMap<i32, (WatchDescriptor, PathBuf)>,
}

impl Watch {
    /// Begins to follow directories, within a runtime.
    ///
    /// # Errors
    /// When the kernel has no inotify instance left.
    pub fn new(directories: &[PathBuf]) -> io::Result<Self> {
        let mut watch = Self {
            events: Inotify::init()?.into_event_stream([0; 4096])?,
            directories: directories.to_vec(),
            watched: BTreeMap::new(),
        };
        watch.renew();
        Ok(watch)
    }

    /// Follows those that are not followed yet; true when that is all.
    fn renew(&mut self) -> bool {
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        for directory in &self.directories {
            if self.watched.values().any(|(_, path)| path == directory) {
                continue;
            }
            if let Ok(added) = self.events.watches().add(directory, mask) {
                self.watched
                    .insert(added.get_watch_descriptor_id(), (added, directory.clone()));
            }
        }
        self.watched.len() == self.directories.len()
    }

    /// Waits until something changed: the file, or `None` when it may have been any.
    ///
    /// # Errors
    /// When the kernel tells no more.
    pub async fn changed(&mut self) -> io::Result<Option<PathBuf>> {
        loop {
            let event = if self.watched.len() == self.directories.len() {
                self.events.next().await
            } else {
                let Ok(event) = tokio::time::timeout(LOOK_AGAIN, self.events.next()).await else {
                    if self.renew() {
                        return Ok(None);
                    }
                    continue;
                };
                event
            };
            let event = event.ok_or(io::ErrorKind::UnexpectedEof)??;
            let gone = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED;
            if event.mask.intersects(gone) {
                self.forget(&event.wd);
                return Ok(None);
            }
            let directory = self.watched.get(&event.wd.get_watch_descriptor_id());
            match (directory, event.name) {
                (Some((_, directory)), Some(name)) => {
                    let file = directory.join(name);
                    if is_object_file(&file) {
                        return Ok(Some(file));
                    }
                }
                // More happened than the kernel could note down.
                _ => return Ok(None),
            }
        }
    }

    fn forget(&mut self, wd: &WatchDescriptor) {
        if let Some((wd, _)) = self.watched.remove(&wd.get_watch_descriptor_id()) {
            // One that was moved away is still followed by the kernel.
            let _ = self.events.watches().remove(wd);
        }
    }
}

/// The object files of a directory; none where there is no such directory.
pub fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|file| is_object_file(file))
        .collect()
}

/// `*.json`, but for names that begin with a dot: writers keep unfinished files there.
fn is_object_file(file: &Path) -> bool {
    let hidden = file
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && file.extension().is_some_and(|extension| extension == "json")
}
