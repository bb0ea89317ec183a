//! One folder for all that a bench writes, gone with it however it ends.

use std::fs;
use std::io;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use tempfile::TempDir;

/// The folder. Every temporary file of this process lies in it.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: TempDir,
}

impl Scratch {
    /// Makes it, and sees to it that it goes when a signal or a panic ends the process. What runs in
    /// machines ends then too: their first process waits for the end of this one.
    ///
    /// # Errors
    /// When there is no place for it.
    pub(super) fn new() -> io::Result<Self> {
        // Before any other thread starts, so that all have them blocked and `wait` is their only taker.
        let mut ends = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            ends.add(signal);
        }
        ends.thread_block()?;
        let folder = tempfile::Builder::new().prefix("lab-bench-").tempdir()?;
        let path = folder.path().to_path_buf();
        let _ = tempfile::env::override_temp_dir(&path);
        remove_on_panic(path.clone());
        thread::spawn(move || {
            let signal = ends.wait();
            // The other threads may still be writing into it.
            for _ in 0..100 {
                if fs::remove_dir_all(&path).is_ok() {
                    break;
                }
                thread::sleep(Duration::from_millis(1));
            }
            exit(128 + signal.map_or(0, |signal| signal as i32));
        });
        Ok(Self { folder })
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A release build does not unwind, so nothing is dropped.
fn remove_on_panic(path: PathBuf) {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        before(info);
        let _ = fs::remove_dir_all(&path);
    }));
}
