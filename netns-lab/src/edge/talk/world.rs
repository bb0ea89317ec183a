//! Where a talk happens.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use labkit::{Failure, Kind};

use crate::edge::{enter, process, sandbox};
use crate::model::ledger::ProcessId;

/// This program, whatever its path was.
const SELF: &str = "/proc/self/exe";

/// A machine that commands run on.
#[derive(Debug)]
pub enum World {
    /// A sandbox, which ends with this value, or with this process, however that ends.
    Private {
        /// The process that started it, and waits for it.
        outside: Child,
        /// Its first process.
        first: ProcessId,
    },
    /// The machine that this process is on.
    Host,
}

impl World {
    /// Makes a sandbox.
    pub fn private() -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("cannot start a sandbox: {error}"));
        // The last program in it reads until we are gone.
        let mut outside = Command::new(SELF)
            .args(["sandbox", "--", "sh", "-c", "echo; exec cat >/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut sign = String::new();
        if let Some(stdout) = outside.stdout.take() {
            BufReader::new(stdout).read_line(&mut sign).map_err(failed)?;
        }
        let first = child_of(outside.id()).filter(|_| sign == "\n");
        match first {
            Some(first) => Ok(Self::Private { outside, first }),
            None => Err(refused(outside)),
        }
    }

    /// A program with its words, ready to be started there.
    pub fn program<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let (program, args) = self.words(words);
        let mut command = Command::new(program);
        command.args(args);
        if matches!(self, Self::Host) {
            command.env("PATH", sandbox::path());
        }
        command
    }

    /// A shell there, which has the terminal while it runs; `words` are told when it begins.
    pub fn shell(&self, words: &str) -> Command {
        let script = format!("echo '{words}'; exec \"$0\"");
        let mut entered: Vec<OsString> = ["sh", "-c", &script].map(OsString::from).to_vec();
        entered.extend(enter::shell_command());
        match self {
            Self::Private { first, .. } => {
                let mut command = Command::new(SELF);
                command
                    .args(["sandbox-join", "--front", "--process", &first.to_string(), "--"])
                    .args(entered);
                command
            }
            Self::Host => self.program(&entered),
        }
    }

    /// The same as words.
    pub fn words<S: AsRef<OsStr>>(&self, words: &[S]) -> (PathBuf, Vec<OsString>) {
        let given = words.iter().map(|word| word.as_ref().to_os_string());
        match self {
            Self::Private { first, .. } => {
                let entry = ["sandbox-join", "--process", &first.to_string(), "--"];
                let entry = entry.map(OsString::from).into_iter();
                (PathBuf::from(SELF), entry.chain(given).collect())
            }
            Self::Host => {
                let mut given = given.collect::<Vec<_>>();
                let program = if given.is_empty() {
                    OsString::new()
                } else {
                    given.remove(0)
                };
                let own = program == "netns-lab";
                (if own { SELF.into() } else { program.into() }, given)
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Self::Private { outside, .. } = self {
            drop(outside.stdin.take());
            let _ = outside.wait();
        }
    }
}

/// The only child of a process.
fn child_of(parent: u32) -> Option<ProcessId> {
    let entries = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
        fields.and_then(|fields| fields.split_ascii_whitespace().nth(1)) == Some(parent.to_string().as_str())
    };
    process::identify(pids.find(is_child)?)
}

/// Why there is no sandbox, in its own words.
fn refused(mut outside: Child) -> Failure {
    drop(outside.stdin.take());
    let mut words = String::new();
    if let Some(mut stderr) = outside.stderr.take() {
        let _ = stderr.read_to_string(&mut words);
    }
    let code = outside.wait().ok().and_then(|status| status.code());
    let kind = if code == Some(3) {
        Kind::HostLacks
    } else {
        Kind::Failed
    };
    let first = words.lines().next().unwrap_or("it said nothing");
    let first = first.trim_start_matches("error: ");
    Failure::new(kind, format!("there is no sandbox to talk in: {first}"))
        .hint("`sudo netns-lab talk`, or on this machine itself: `sudo netns-lab talk --host`")
}
