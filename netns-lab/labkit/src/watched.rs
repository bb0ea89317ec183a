//! A child process that does not take for ever.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Set once this process is to end; see [`stop_with_signals`].
static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
/// How often it is asked whether the child is to be killed.
const LOOK: Duration = Duration::from_millis(100);
/// How often at most whether it has ended, where the kernel does not tell.
const SHORTEST: Duration = Duration::from_micros(200);

/// From now on, watched children end as soon as SIGINT or SIGTERM asks this process to: whoever waits
/// for a child hears no signal himself.
///
/// # Errors
/// When the signals cannot be heard.
pub fn stop_with_signals() -> io::Result<()> {
    if STOP.get().is_some() {
        return Ok(());
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    // Who comes second finds the first one's flag, which is set by the same signals.
    let _ = STOP.set(stop);
    Ok(())
}

/// A child that is killed when it takes too long, or when this process is to end.
pub(crate) struct Watched {
    child: Child,
    began: Instant,
    longest: Duration,
    /// Tells at once that it has ended; kernels before 5.3 have no such thing.
    handle: Option<OwnedFd>,
    killed: Option<String>,
}

impl Watched {
    pub(crate) fn new(child: Child, longest: Duration) -> Self {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Self {
            child,
            began: Instant::now(),
            longest,
            handle: pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()),
            killed: None,
        }
    }

    /// Why it was killed, if it was.
    pub(crate) fn killed(&self) -> Option<&str> {
        self.killed.as_deref()
    }

    /// Waits until it has ended.
    pub(crate) fn end(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            self.doze();
            self.kill_if_it_must()?;
        }
    }

    /// Waits for its end or for a moment; which of the two it was is asked next.
    fn doze(&self) {
        let moment = Timespec::try_from(LOOK).ok();
        match &self.handle {
            Some(handle) => drop(poll(&mut [PollFd::new(handle, PollFlags::IN)], moment.as_ref())),
            // A twentieth of the time is lost at most.
            None => thread::sleep((self.began.elapsed() / 20).clamp(SHORTEST, LOOK)),
        }
    }

    fn kill_if_it_must(&mut self) -> io::Result<()> {
        let stops = STOP.get().is_some_and(|stop| stop.load(Ordering::Relaxed));
        if self.killed.is_none() && (stops || self.began.elapsed() > self.longest) {
            self.killed = Some(if stops {
                "was stopped, as this program is to end".to_string()
            } else {
                format!("had not ended after {} s and was stopped", self.longest.as_secs())
            });
            self.child.kill()?;
        }
        Ok(())
    }
}

impl Drop for Watched {
    /// Nobody waits for it any more: it does not go on behind the back of whoever tries again.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
