//! `/run/netns-lab`: where both programs keep what they must remember, under one lock.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::{Failure, files};

/// The directory; root's only, and gone when nothing is remembered.
pub const RUN_DIRECTORY: &str = "/run/netns-lab";

/// The directory, held under an exclusive lock until dropped.
///
/// The lock is on the directory itself, so that no lock file is left behind. Dropping it removes
/// the directory if it is empty.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    _lock: File,
}

impl RunDirectory {
    /// Waits for the lock of [`RUN_DIRECTORY`], making the directory first.
    ///
    /// # Errors
    /// `HostLacks` when it cannot be made (no privilege) or is not ours alone.
    pub fn lock() -> Result<Self, Failure> {
        Self::lock_at(Path::new(RUN_DIRECTORY))
    }

    /// As [`RunDirectory::lock`], for a directory elsewhere.
    pub fn lock_at(path: &Path) -> Result<Self, Failure> {
        Self::try_lock_at(path).map_err(|error| {
            Failure::host_lacks(format!("cannot use {}: {error}", path.display()))
                .hint("run as root (sudo), or inside `netns-lab sandbox`")
        })
    }

    fn try_lock_at(path: &Path) -> io::Result<Self> {
        loop {
            let directory = match files::private_directory(path) {
                // Another holder removed it between our making and our opening it.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::exists) =>
                {
                    continue;
                }
                other => other?,
            };
            directory.lock()?;
            // Whoever held it before us may have removed it; then our lock is on a ghost.
            match fs::symlink_metadata(path) {
                Ok(found) if found.ino() == directory.metadata()?.ino() => {
                    return Ok(Self {
                        path: path.to_path_buf(),
                        _lock: directory,
                    });
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        // Fails when something is remembered, as it should.
        let _ = fs::remove_dir(&self.path);
    }
}

/// The inode of this thread's network namespace: what names a node to itself and to no other.
///
/// # Errors
/// `HostLacks` when `/proc` is not mounted.
pub fn network_namespace() -> Result<u64, Failure> {
    fs::metadata("/proc/thread-self/ns/net")
        .map(|metadata| metadata.ino())
        .map_err(|error| Failure::host_lacks(format!("cannot read /proc/thread-self/ns/net: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_gone_when_empty_and_stays_when_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        drop(RunDirectory::lock_at(&path).unwrap());
        assert!(!path.exists());
        let held = RunDirectory::lock_at(&path).unwrap();
        fs::write(held.path().join("x"), "").unwrap();
        drop(held);
        assert!(path.exists());
    }

    #[test]
    fn only_one_at_a_time_even_while_it_comes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _held = RunDirectory::lock_at(&path).unwrap();
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
