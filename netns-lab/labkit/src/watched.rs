//! A child process that does not take for ever.

use std::fmt::Display;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::process::{Child, ChildStdin, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Set once this process is to end; see [`stop_with_signals`].
static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
/// How often it is asked whether the child is to be killed.
const LOOK: Duration = Duration::from_millis(100);
/// How often at most whether it has ended, where the kernel does not tell.
const SHORTEST: Duration = Duration::from_micros(200);
/// As much text is made before the child has read it; the most that the kernel lets a plain user have.
const AHEAD: i32 = 1 << 20;

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

    /// Writes its input. A child that ends before it has read all of it has its reasons, and its exit
    /// code tells.
    pub(crate) fn feed(&mut self, stdin: ChildStdin, input: &impl Display) -> io::Result<()> {
        fcntl(&stdin, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // Where it may not be larger it stays as it is.
        let _ = fcntl(&stdin, FcntlArg::F_SETPIPE_SZ(AHEAD));
        let mut feed = BufWriter::with_capacity(1 << 16, Feed { child: self, stdin });
        let fed = write!(feed, "{input}").and_then(|()| feed.flush());
        // What is left in the buffer when it failed is nobody's any more.
        let _ = feed.into_parts();
        match fed {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// Waits until it has ended.
    pub(crate) fn end(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            match &self.handle {
                Some(handle) => wait(handle.as_fd(), PollFlags::IN),
                // A twentieth of the time is lost at most.
                None => thread::sleep((self.began.elapsed() / 20).clamp(SHORTEST, LOOK)),
            }
            self.kill_if_it_must()?;
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

/// Waits for something to happen to a file, or for a moment; which of the two is asked next.
fn wait(file: BorrowedFd<'_>, what: PollFlags) {
    let moment = Timespec::try_from(LOOK).ok();
    let _ = poll(&mut [PollFd::new(&file, what)], moment.as_ref());
}

/// The child's stdin, which does not hold up this process for longer than it has patience.
struct Feed<'a> {
    child: &'a mut Watched,
    stdin: ChildStdin,
}

impl Write for Feed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.stdin.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(self.stdin.as_fd(), PollFlags::OUT);
                    // Once it is dead, this pipe is broken.
                    self.child.kill_if_it_must()?;
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
