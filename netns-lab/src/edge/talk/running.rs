//! A command that runs, and what it says while it does.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use labkit::Failure;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::talk::verdict::End;

/// How often it is looked at.
const GLANCE: Duration = Duration::from_millis(5);
/// How long a command that is asked to end may take.
const LEAVE: Duration = Duration::from_secs(2);
/// What a command leaves behind may hold its output open; this long its last words are waited for.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// More than this nobody reads.
const MOST: usize = 4 << 20;
/// Said in place of the rest.
const CUT: &str = "\n(more than 4 MiB were said: the rest is cut)\n";

/// What was said, each piece with the time since the start.
pub type Pieces = Vec<(Duration, String)>;

/// A running command, alone in its process group, which ends with this value.
#[derive(Debug)]
pub struct Running {
    child: Child,
    end: Option<u8>,
    said: Arc<Mutex<Pieces>>,
    silent: Arc<AtomicBool>,
    ear: io::PipeReader,
}

impl Running {
    /// Starts it. What it says on stdout and stderr is one text.
    pub fn start(mut command: Command) -> Result<Self, Failure> {
        let failed =
            |error: io::Error| Failure::failed(format!("cannot start a command of the talk: {error}"));
        let (reader, writer) = io::pipe().map_err(failed)?;
        command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(failed)?)
            .stderr(writer)
            .process_group(0);
        let child = command.spawn().map_err(failed)?;
        // It holds the writing end, and the reader waits for all of those to close.
        drop(command);
        let said = Arc::new(Mutex::new(Vec::new()));
        let silent = Arc::new(AtomicBool::new(false));
        let (into, closed) = (Arc::clone(&said), Arc::clone(&silent));
        let ear = reader.try_clone().map_err(failed)?;
        thread::spawn(move || {
            listen(reader, &into);
            closed.store(true, Ordering::Release);
        });
        Ok(Self {
            child,
            end: None,
            said,
            silent,
            ear,
        })
    }

    /// What it said so far.
    pub fn pieces(&self) -> Pieces {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same in one.
    pub fn text(&self) -> String {
        self.pieces().into_iter().map(|(_, text)| text).collect()
    }

    /// Its exit code, once it has ended and its last words are here.
    pub fn ended(&mut self) -> Option<u8> {
        use std::os::unix::process::ExitStatusExt as _;
        if self.end.is_none() {
            let status = self.child.try_wait().ok().flatten()?;
            let signal = status.signal().map_or(1, |signal| 128 + signal);
            self.end = Some(u8::try_from(status.code().unwrap_or(signal) & 0xff).unwrap_or(1));
            let until = Instant::now() + LAST_WORDS;
            while !self.silent.load(Ordering::Acquire) && (Instant::now() < until || self.unread()) {
                thread::sleep(GLANCE);
            }
        }
        self.end
    }

    /// Whether something was said that nobody has taken yet: the listener may be late on a busy machine.
    fn unread(&self) -> bool {
        let _no_one_takes_it_now = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        readable(&self.ear, PollTimeout::ZERO)
    }

    /// Waits until it ends, and ends it when that takes too long.
    pub fn wait(&mut self, patience: Duration) -> End {
        let until = Instant::now() + patience;
        loop {
            if let Some(code) = self.ended() {
                return End::Code(code);
            }
            if Instant::now() >= until {
                self.leave();
                return End::TooLong;
            }
            thread::sleep(GLANCE);
        }
    }

    /// Waits until what it said is enough, or it ends, or time is up.
    pub fn wait_for(&mut self, patience: Duration, enough: impl Fn(&str) -> bool) {
        let until = Instant::now() + patience;
        while !enough(&self.text()) && self.ended().is_none() && Instant::now() < until {
            thread::sleep(GLANCE);
        }
    }

    /// Asks it to end, and makes it end.
    pub fn leave(&mut self) {
        if self.ended().is_some() {
            return;
        }
        self.signal(Signal::SIGTERM);
        let until = Instant::now() + LEAVE;
        while self.ended().is_none() && Instant::now() < until {
            thread::sleep(GLANCE);
        }
        if self.end.is_none() {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }

    fn signal(&self, signal: Signal) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(group), signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Takes what is said until nobody can say more. It is taken from the pipe and put down under one
/// lock: what is in neither place was not said.
fn listen(mut from: io::PipeReader, into: &Mutex<Pieces>) {
    let began = Instant::now();
    let mut buffer = [0; 1 << 14];
    let mut rest = Vec::new();
    let mut size = 0;
    loop {
        while !readable(&from, PollTimeout::NONE) {}
        let mut said = into.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(count @ 1..) = from.read(&mut buffer) else {
            return;
        };
        let before = size;
        size += count;
        if size > MOST {
            if before <= MOST {
                said.push((began.elapsed(), CUT.to_string()));
            }
            continue;
        }
        rest.extend_from_slice(&buffer[..count]);
        let text = whole(&mut rest);
        if !text.is_empty() {
            said.push((began.elapsed(), text));
        }
    }
}

/// Whether a read would find something, be it the end.
fn readable(pipe: &io::PipeReader, patience: PollTimeout) -> bool {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, patience).is_ok_and(|count| count > 0)
}

/// The text of the bytes; those of a letter that is not complete yet stay.
fn whole(bytes: &mut Vec<u8>) -> String {
    let cut = match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    };
    let text = String::from_utf8_lossy(&bytes[..cut]).into_owned();
    bytes.drain(..cut);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Running::start(command).unwrap()
    }

    #[test]
    fn what_it_says_is_heard_in_order() {
        let mut running = sh("echo a; echo b >&2; echo c; exit 3");
        assert_eq!(running.wait(Duration::from_secs(9)), End::Code(3));
        assert_eq!(running.text(), "a\nb\nc\n");
    }

    #[test]
    fn what_takes_too_long_is_ended_with_its_children() {
        let began = Instant::now();
        let mut running = sh("sleep 600 | cat");
        assert_eq!(running.wait(Duration::from_millis(100)), End::TooLong);
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn what_stays_behind_is_not_waited_for() {
        let began = Instant::now();
        let mut running = sh("sleep 5 & echo done");
        assert_eq!(running.wait(Duration::from_secs(9)), End::Code(0));
        assert_eq!(running.text(), "done\n");
        assert!(began.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn half_a_letter_waits_for_its_other_half() {
        let mut bytes = vec![b'a', 0xc3];
        assert_eq!(whole(&mut bytes), "a");
        bytes.push(0xa4);
        assert_eq!(whole(&mut bytes), "ä");
        assert_eq!(whole(&mut vec![0xff, b'b']), "\u{fffd}b");
    }
}
