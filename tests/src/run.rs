//! A child process with a time limit, and what became of it.

use std::fmt;
use std::io::{Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a command may take unless a test says otherwise: far more than any needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
    /// Wall time from start to end.
    pub took: Duration,
}

impl Ran {
    /// The exit code, or 128 + the signal as a shell counts.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Itself, if the exit code was 0.
    ///
    /// # Panics
    /// With all that the command said, if it was not.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// Itself, if the exit code is this one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(
            self.code() == code,
            "exit code {} and not {code}:\n{self}",
            self.code()
        );
        self
    }

    /// Itself, if stdout holds this text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "stdout lacks {text:?}:\n{self}");
        self
    }

    /// Itself, if stderr holds this text.
    #[track_caller]
    pub fn complains(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "stderr lacks {text:?}:\n{self}");
        self
    }

    /// Itself, if neither output holds this text.
    #[track_caller]
    pub fn never_says(self, text: &str) -> Self {
        let both = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(!both, "it says {text:?}:\n{self}");
        self
    }

    /// Stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}):\n{self}"))
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  $ {}", self.line)?;
        writeln!(f, "  ({}, {} ms)", self.status, self.took.as_millis())?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            for line in text.lines() {
                writeln!(f, "  {name}| {line}")?;
            }
        }
        Ok(())
    }
}

/// Runs a command to its end and to the end of its output.
///
/// # Panics
/// When it cannot start, does not end in time, or has ended while something it started still holds
/// its output open: a shell that waits for that output would hang.
#[track_caller]
pub fn run(mut command: Command, line: String, input: &[u8], patience: Duration) -> Ran {
    let begin = Instant::now();
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start `{line}`: {error}"));
    let stdout = collect(child.stdout.take().expect("a pipe"));
    let stderr = collect(child.stderr.take().expect("a pipe"));
    feed(&mut child, input.to_vec());
    let status = wait(&mut child, begin + patience).unwrap_or_else(|| {
        let _ = child.kill();
        let said = stderr.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        panic!("`{line}` did not end within {patience:?}; stderr: {said}")
    });
    let took = begin.elapsed();
    // Its output ends with it, unless it left something behind that holds the pipe.
    let rest = |end: &mpsc::Receiver<String>| {
        end.recv_timeout(Duration::from_secs(5))
            .unwrap_or_else(|_| panic!("`{line}` ended, but something it started holds its output open"))
    };
    let (stdout, stderr) = (rest(&stdout), rest(&stderr));
    Ran {
        line,
        status,
        stdout,
        stderr,
        took,
    }
}

/// Asks again and again until the answer is there.
///
/// # Panics
/// When it is not there in time.
#[track_caller]
pub fn wait_for<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {patience:?} in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The child's status, or nothing if it still runs at that time.
pub fn wait(child: &mut Child, end: Instant) -> Option<ExitStatus> {
    let mut pause = Duration::from_micros(300);
    loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn collect(mut from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (done, end) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        let _ = done.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    end
}

fn feed(child: &mut Child, input: Vec<u8>) {
    let mut stdin = child.stdin.take().expect("a pipe");
    // A thread, since a program that does not read would block us once the pipe is full.
    thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
}
