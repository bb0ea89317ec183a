//! The first process of a container: it takes leave of every process that ends in it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread;

use labkit::{Failure, Outcome};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::enter;

/// Those that are handed on to the command.
const HANDED_ON: [Signal; 5] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Where commands are looked for; nothing of the caller's environment is known here.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a command until it ends, and answers with its exit code. `started` is called once it runs.
pub fn run(
    command: &[OsString],
    environment: &[(&str, &str)],
    started: impl FnOnce() -> Result<(), Failure>,
) -> Result<Outcome, Failure> {
    let Some((program, args)) = command.split_first() else {
        return Err(Failure::usage("no command was given"));
    };
    let mut child = Command::new(program);
    child
        .args(args)
        .env("PATH", PATH)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        // A group of its own: what the command sends to its group does not come back here.
        .process_group(0);
    let awaited = awaited();
    awaited
        .thread_block()
        .map_err(|error| Failure::failed(format!("cannot hold back signals: {error}")))?;
    // A new process has the mask of the thread that makes it.
    let spawned = thread::scope(|scope| {
        let spawn = || {
            let _ = SigSet::all().thread_unblock();
            child.spawn()
        };
        scope.spawn(spawn).join()
    });
    let child = match spawned {
        Ok(Ok(child)) => Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)),
        Ok(Err(error)) => return Ok(enter::not_started(program, PATH.as_ref(), &error)),
        Err(_) => return Err(Failure::failed("cannot start the command")),
    };
    started()?;
    Ok(Outcome::Code(wait(child, &awaited)))
}

fn awaited() -> SigSet {
    let mut set = SigSet::empty();
    for signal in HANDED_ON {
        set.add(signal);
    }
    set.add(Signal::SIGCHLD);
    set
}

/// Hands signals on to a child and takes leave of all that end, until the child has.
pub fn wait(child: Pid, awaited: &SigSet) -> u8 {
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                return u8::try_from(code & 0xff).unwrap_or(1);
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                return u8::try_from(128 + signal as i32).unwrap_or(255);
            }
            Ok(WaitStatus::StillAlive) => match awaited.wait() {
                Ok(Signal::SIGCHLD) | Err(_) => {}
                Ok(signal) => {
                    let _ = kill(child, signal);
                }
            },
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return 1,
        }
    }
}
