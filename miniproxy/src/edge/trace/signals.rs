//! Ctrl-C and the like wait until the marks of a connection are taken back.

use labkit::Failure;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// While this lives, signals that end a program are held back. Once it is dropped they do their work,
/// so it must be dropped after all that they would cut short.
pub struct Held {
    before: SigSet,
    heard: SignalFd,
}

impl Held {
    /// Holds them back for this thread and those that it starts.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn begin() -> Result<Self, Failure> {
        let failed = |error: nix::Error| Failure::failed(format!("cannot hold signals back: {error}"));
        let ends: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .collect();
        let heard =
            SignalFd::with_flags(&ends, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(failed)?;
        let before = ends.thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(failed)?;
        Ok(Self { before, heard })
    }

    /// Fails once such a signal came, which is kept for the time after.
    ///
    /// # Errors
    /// When one came.
    pub fn check(&self) -> Result<(), Failure> {
        match self.heard.read_signal() {
            Ok(Some(told)) => {
                let signal = i32::try_from(told.ssi_signo).ok();
                if let Some(Ok(signal)) = signal.map(Signal::try_from) {
                    // To this thread, where it is held until the drop.
                    let _ = raise(signal);
                }
                Err(Failure::failed("interrupted"))
            }
            Ok(None) | Err(_) => Ok(()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A mask that was in force before cannot be refused.
        let _ = self.before.thread_set_mask();
    }
}
