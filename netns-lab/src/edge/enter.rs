//! Goes into a pod and becomes another program there.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use labkit::screen::Foreground;
use labkit::{Failure, Outcome, shell};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::Pid;

use super::credentials::Credentials;
use super::{first, process};
use crate::model::ledger::ProcessId;

const NONE: Option<&str> = None;

/// What a shell exits with when a command is not found.
const NOT_FOUND: u8 = 127;
/// What a shell exits with when a command cannot be run.
const NOT_EXECUTABLE: u8 = 126;

/// What a process in a pod sees of its pod.
pub struct Surroundings<'a> {
    /// The pod's network namespace.
    pub namespace: File,
    /// Its hostname.
    pub hostname: &'a str,
    /// The folder with its `hosts` and `resolv.conf`.
    pub files: &'a Path,
}

/// Moves this process, which has a single thread, into a pod.
pub fn enter(pod: &Surroundings) -> Result<(), Failure> {
    let failed = |what: &str| {
        let message = format!("cannot enter the pod {}: {what}", pod.hostname);
        move |error: Errno| {
            let failure = Failure::failed(format!("{message}: {error}"));
            if error == Errno::EPERM {
                failure.hint("use sudo")
            } else {
                failure
            }
        }
    };
    setns(&pod.namespace, CloneFlags::CLONE_NEWNET).map_err(failed("its network namespace"))?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS).map_err(failed("new namespaces"))?;
    nix::unistd::sethostname(pod.hostname).map_err(failed("its hostname"))?;
    // Mounts made from here on stay here; those that the host makes later still arrive.
    mount(NONE, "/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE).map_err(failed("private mounts"))?;
    mount_sys(Path::new("/sys"));
    for name in ["hosts", "resolv.conf"] {
        let target = Path::new("/etc").join(name);
        // A host without the file has nobody who reads it.
        let mounted = mount(Some(&pod.files.join(name)), &target, NONE, MsFlags::MS_BIND, NONE);
        tracing::debug!(?target, ?mounted, "the pod's file");
    }
    Ok(())
}

/// Runs a command among the processes of a container, and answers with its exit code.
///
/// A pid namespace is for children only, so one is needed; it does everything else itself, for in
/// another root this program may not be able to start.
pub fn in_container(container: ProcessId, same_user: bool, command: &[OsString]) -> Result<Outcome, Failure> {
    let mut child = stage(container, same_user)?;
    let failed = |error: io::Error| Failure::failed(format!("cannot enter the container: {error}"));
    let terminal = Foreground::of_this_process();
    let child = child.arg("--").args(command).spawn().map_err(failed)?;
    let Ok(child) = i32::try_from(child.id()).map(Pid::from_raw) else {
        return Err(Failure::failed("the command's number is none"));
    };
    let code = first::wait(child, &hold_back_signals());
    if let Some(terminal) = terminal {
        terminal.take_back_if_free();
    }
    Ok(Outcome::Code(code))
}

/// A program on its way into a container; this thread has already half gone there.
pub fn stage(container: ProcessId, same_user: bool) -> Result<Command, Failure> {
    process::enter(container, &["pid"]).map_err(refused("the container's processes"))?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("netns-lab")
        .args(["enter", "--process", &container.to_string()]);
    if same_user {
        command.arg("--same-user");
    }
    Ok(command)
}

/// Ctrl-C and Ctrl-\ reach the command by themselves; others are handed on. Held back after the
/// start, for held back signals would be inherited.
pub(super) fn hold_back_signals() -> SigSet {
    let mut awaited = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGCHLD,
    ] {
        awaited.add(signal);
    }
    let mut blocked = awaited;
    blocked.add(Signal::SIGINT);
    blocked.add(Signal::SIGQUIT);
    let _ = blocked.thread_block();
    awaited
}

/// The rest of the way into a container.
pub fn join(container: ProcessId, same_user: bool) -> Result<(), Failure> {
    let credentials = Credentials::of(container.pid);
    let here = std::env::current_dir().ok();
    process::enter(container, &["net", "uts", "ipc", "mnt"]).map_err(refused("its namespaces"))?;
    if same_user {
        let gone = || Failure::failed("the container has just ended");
        credentials.ok_or_else(gone)?.take_on()?;
    } else if let Some(here) = here {
        // The same folder, where the container has it too.
        let _ = nix::unistd::chdir(&here);
    }
    // Whoever ends `exec` means the command.
    set_pdeathsig(Signal::SIGKILL)
        .map_err(|error| Failure::failed(format!("cannot tie the command's life: {error}")))
}

fn refused(what: &str) -> impl FnOnce(Errno) -> Failure {
    let what = what.to_string();
    move |error| {
        let failure = Failure::failed(format!("cannot enter {what}: {error}"));
        match error {
            Errno::EPERM => failure.hint("use sudo"),
            Errno::ESRCH => failure.hint("it has just ended: `netns-lab status`, `netns-lab up`"),
            _ => failure,
        }
    }
}

/// `/sys/class/net` shows the links of the namespace that was current when it was mounted.
pub(super) fn mount_sys(place: &Path) {
    let read_only = statvfs("/sys").is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY));
    let _ = umount2(place, MntFlags::MNT_DETACH);
    let flags = if read_only {
        MsFlags::MS_RDONLY
    } else {
        MsFlags::empty()
    };
    // A container may forbid it; then /sys tells of the node, and nothing else is amiss.
    let mounted = mount(Some("sysfs"), place, Some("sysfs"), flags, NONE);
    tracing::debug!(?mounted, "sysfs of the pod");
}

/// Becomes the command. Comes back only if that is impossible, with a shell's exit code.
pub fn become_command(command: &[OsString]) -> Result<Outcome, Failure> {
    let words = command
        .iter()
        .map(|word| CString::new(word.as_bytes()))
        .collect::<Result<Vec<_>, _>>();
    let words = words.map_err(|_| Failure::usage("a word of the command holds a NUL byte"))?;
    let Some(program) = words.first() else {
        return Err(Failure::usage("no command was given"));
    };
    let error: Errno = match nix::unistd::execvp(program, &words) {
        Err(error) => error,
        Ok(never) => match never {},
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(not_started(&command[0], &path, &error.into()))
}

/// Tells why a command could not be started, as a shell would: 127 when there is none.
pub fn not_started(program: &OsStr, path: &OsStr, error: &io::Error) -> Outcome {
    // A folder on PATH that may not be read makes the kernel speak of permissions, though the
    // command is nowhere.
    let bare = Path::new(program).components().count() == 1 && !program.as_bytes().contains(&b'/');
    let nowhere = bare && !std::env::split_paths(path).any(|folder| folder.join(program).is_file());
    let missing = nowhere || error.kind() == io::ErrorKind::NotFound;
    let (why, code) = if missing {
        ("command not found".to_string(), NOT_FOUND)
    } else {
        (error.to_string(), NOT_EXECUTABLE)
    };
    let name = program.to_string_lossy();
    shell::tell(&format!("error: {}: {why}", labkit::text::printable(&name)));
    Outcome::Code(code)
}

/// The caller's shell, or the one that is everywhere.
pub fn shell_command() -> Vec<OsString> {
    let shell = std::env::var_os("SHELL").filter(|shell| Path::new(shell).is_file());
    vec![shell.unwrap_or_else(|| OsStr::new("/bin/sh").to_os_string())]
}
