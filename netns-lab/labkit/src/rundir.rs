//! `/run/netns-lab`: where both programs keep what they must remember, under one lock.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::{Failure, files, shell};

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

/// What is remembered of a network namespace, to be put back one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// The iptables tables that were there.
    Tables,
    /// The same, before a packet was traced: that ends long before the lab does.
    Traced,
    /// The settings of the kernel.
    Sysctls,
    /// The setting that says where the kernel tells traces of iptables-legacy.
    Logger,
    /// The packet counters that were made.
    Counters,
}

impl Record {
    /// Each kind.
    pub const ALL: [Self; 5] = [
        Self::Tables,
        Self::Traced,
        Self::Sysctls,
        Self::Logger,
        Self::Counters,
    ];

    /// The file about one network namespace, for who only reads it: it is always whole.
    pub fn path(self, namespace: u64) -> PathBuf {
        self.path_in(Path::new(RUN_DIRECTORY), namespace)
    }

    fn path_in(self, folder: &Path, namespace: u64) -> PathBuf {
        let kind = match self {
            Self::Tables => "tables",
            Self::Traced => "traced",
            Self::Sysctls => "sysctls",
            Self::Logger => "logger",
            Self::Counters => "counters",
        };
        folder.join(format!(".{kind}-{namespace}.json"))
    }
}

/// How long a command waits for the others; making a thousand pods takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// A wait longer than this is told.
const SILENT: Duration = Duration::from_secs(1);
/// Whether it was, since the lock was last had: who tries again and again tells it once.
static TOLD: AtomicBool = AtomicBool::new(false);
/// How often to try again.
const TRY_AGAIN: Duration = Duration::from_millis(10);

impl RunDirectory {
    /// Waits for the lock of [`RUN_DIRECTORY`], making the directory first.
    ///
    /// # Errors
    /// `HostLacks` when it cannot be made (no privilege) or is not ours alone; `Failed` when another
    /// command does not let go of it.
    pub fn lock() -> Result<Self, Failure> {
        Self::lock_within(PATIENCE)
    }

    /// As [`RunDirectory::lock`], with another patience.
    pub fn lock_within(patience: Duration) -> Result<Self, Failure> {
        Self::lock_at(Path::new(RUN_DIRECTORY), patience)
    }

    /// As [`RunDirectory::lock_within`], for a directory elsewhere.
    pub fn lock_at(path: &Path, patience: Duration) -> Result<Self, Failure> {
        let began = Instant::now();
        loop {
            if let Some(held) = Self::try_lock(path).map_err(|error| refused(path, &error))? {
                TOLD.store(false, Ordering::Relaxed);
                return Ok(held);
            }
            if began.elapsed() > patience {
                let busy = format!(
                    "another netns-lab or miniproxy has held {} for {patience:?}",
                    path.display()
                );
                return Err(
                    Failure::failed(busy).hint("is one stopped (Ctrl-Z)? see: fuser -v /run/netns-lab")
                );
            }
            if began.elapsed() > SILENT && !TOLD.swap(true, Ordering::Relaxed) {
                shell::tell("waiting for another netns-lab or miniproxy to finish …");
            }
            std::thread::sleep(TRY_AGAIN);
        }
    }

    /// `None` while another process holds the lock, or when the directory was removed meanwhile.
    fn try_lock(path: &Path) -> io::Result<Option<Self>> {
        let directory = match files::private_directory(path) {
            // Another holder removed it between our making and our opening it.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::exists) =>
            {
                return Ok(None);
            }
            other => other?,
        };
        match directory.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever held it before us may have removed it; then our lock is on a ghost.
        match fs::symlink_metadata(path) {
            Ok(found) if found.ino() == directory.metadata()?.ino() => Ok(Some(Self {
                path: path.to_path_buf(),
                _lock: directory,
            })),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(None),
        }
    }

    /// The file of one kind of record about one network namespace: several nodes may share one /run.
    pub fn record(&self, kind: Record, namespace: u64) -> PathBuf {
        kind.path_in(&self.path, namespace)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn refused(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::host_lacks(format!("cannot use {}: {error}", path.display()));
    if nix::unistd::geteuid().is_root() && path.symlink_metadata().is_ok() {
        return failure.hint(format!(
            "see who made it (ls -ld {0}), then remove it: rm -r {0}",
            path.display()
        ));
    }
    failure.hint("run as root (sudo), or inside `netns-lab sandbox`")
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
        drop(RunDirectory::lock_at(&path, PATIENCE).unwrap());
        assert!(!path.exists());
        let held = RunDirectory::lock_at(&path, PATIENCE).unwrap();
        fs::write(held.path().join("x"), "").unwrap();
        drop(held);
        assert!(path.exists());
    }

    #[test]
    fn a_lock_that_is_not_let_go_is_told_and_not_waited_for_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let _held = RunDirectory::lock_at(&path, PATIENCE).unwrap();
        let failure = RunDirectory::lock_at(&path, Duration::from_millis(30)).unwrap_err();
        assert!(
            failure
                .message()
                .starts_with("another netns-lab or miniproxy has held"),
            "{failure}"
        );
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
                        let _held = RunDirectory::lock_at(&path, PATIENCE).unwrap();
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
