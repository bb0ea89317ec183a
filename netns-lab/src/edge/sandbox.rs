//! A private machine: new namespaces for one command, and an init that makes them usable.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use caps::{CapSet, Capability, has_cap};
use labkit::screen::Foreground;
use labkit::{Failure, Outcome};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getegid, geteuid};

use super::node::Node;
use super::{enter, first, process};
use crate::model::ledger::ProcessId;

const NONE: Option<&str> = None;
/// This program, whatever its path was.
const SELF: &str = "/proc/self/exe";
/// The name of the private machine.
const HOSTNAME: &str = "sandbox";

/// What the mapper waits for.
const SIGN: &[u8] = b"map";

/// Runs a command as root of a private machine, and returns its exit code.
pub fn run(command: &[OsString]) -> Result<Outcome, Failure> {
    become_root_of_users()?;
    // Only now: the owner of what these hold is the root that the map has named, and files such
    // as /proc/net/ip_tables_names, which iptables-legacy reads, belong to root, not to nobody.
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    )
    .map_err(refused)?;
    let mut init = Command::new(SELF);
    init.arg0("netns-lab").arg("sandbox-init").arg("--").args(command);
    let failed =
        |error: io::Error| Failure::failed(format!("cannot start the sandbox's first process: {error}"));
    let terminal = Foreground::of_this_process();
    let mut init = init.spawn().map_err(failed)?;
    hold_back_signals();
    let ended = init.wait().map_err(failed)?;
    if let Some(terminal) = terminal {
        terminal.take_back_if_free();
    }
    Ok(Outcome::Code(code(ended)))
}

/// Enters a user namespace in which this process is root.
fn become_root_of_users() -> Result<(), Failure> {
    let (uid, gid) = (geteuid(), getegid());
    let mapper = if uid.is_root() {
        Some(start_mapper()?)
    } else {
        None
    };
    match (unshare(CloneFlags::CLONE_NEWUSER), mapper) {
        (Ok(()), Some(mapper)) => let_map(mapper),
        (Ok(()), None) => map_caller(uid.as_raw(), gid.as_raw()).map_err(|error| refused(to_errno(&error))),
        (Err(error), mapper) => {
            // Its stdin ends without the sign, and it goes without a word.
            if let Some(mut mapper) = mapper {
                drop(mapper.stdin.take());
                let _ = mapper.wait();
            }
            // Root needs no user namespace to make the others; where they are switched off, it
            // goes without one.
            if has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false) {
                tracing::debug!(%error, "a sandbox without a user namespace");
                return Ok(());
            }
            Err(refused(error))
        }
    }
}

/// Ctrl-C and Ctrl-\ are meant for the command; this process only waits for it. Blocked after the
/// start, for a blocked signal would be inherited.
fn hold_back_signals() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGQUIT);
    let _ = signals.thread_block();
}

/// A process that stays outside and maps all ids, which nobody inside may.
fn start_mapper() -> Result<Child, Failure> {
    let mut command = Command::new(SELF);
    command
        .arg0("netns-lab")
        .args(["sandbox-map", &std::process::id().to_string()])
        .stdin(Stdio::piped());
    command
        .spawn()
        .map_err(|error| Failure::failed(format!("cannot start the mapper of user ids: {error}")))
}

fn let_map(mut mapper: Child) -> Result<(), Failure> {
    let failed = || Failure::failed("cannot map the user ids of the sandbox");
    if let Some(mut stdin) = mapper.stdin.take() {
        stdin.write_all(SIGN).map_err(|_| failed())?;
    }
    let ended = mapper.wait().map_err(|_| failed())?;
    if ended.success() {
        Ok(())
    } else {
        Err(failed().hint("use `sudo netns-lab up` instead"))
    }
}

/// The mapper: waits for the sign, then maps every id onto itself, so that programs in the sandbox
/// can become other users.
pub fn map_all(pid: u32) -> Result<Outcome, Failure> {
    let mut told = Vec::new();
    let _ = io::Read::read_to_end(&mut io::stdin(), &mut told);
    if told != SIGN {
        // Whoever started it has gone, or got no namespace: there is nothing to map.
        return Ok(Outcome::No);
    }
    for file in ["uid_map", "gid_map"] {
        let own = fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
        let identity = own.lines().filter_map(|line| {
            let mut numbers = line.split_ascii_whitespace();
            let (inside, _, length) = (numbers.next()?, numbers.next()?, numbers.next()?);
            Some(format!("{inside} {inside} {length}\n"))
        });
        let path = format!("/proc/{pid}/{file}");
        write_whole(&path, &identity.collect::<String>())
            .map_err(|error| Failure::failed(format!("cannot write {path}: {error}")))?;
    }
    Ok(Outcome::Done)
}

/// A plain user may map one id: its own. Groups must be given up first, or a user could drop one
/// that denies something.
fn map_caller(uid: u32, gid: u32) -> io::Result<()> {
    write_whole("/proc/self/setgroups", "deny")?;
    write_whole("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write_whole("/proc/self/gid_map", &format!("0 {gid} 1"))
}

/// The kernel takes a map in one write or not at all.
fn write_whole(path: &str, text: &str) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

/// The first process: makes the machine, runs the command, and takes everything with it when it ends.
pub fn init(command: &[OsString]) -> Result<Outcome, Failure> {
    // Whoever kills the one outside means this one.
    set_pdeathsig(Signal::SIGKILL)
        .map_err(|error| Failure::failed(format!("cannot tie the sandbox's life: {error}")))?;
    mounts()
        .map_err(|(what, error)| refused(error).context(format!("cannot mount {what} in the sandbox")))?;
    nix::unistd::sethostname(HOSTNAME)
        .map_err(|error| Failure::failed(format!("cannot set the hostname: {error}")))?;
    Node::open()?.raise_loopback()?;
    let Some((program, args)) = command.split_first() else {
        return Err(Failure::usage("no command was given"));
    };
    let path = path();
    match inside(program, args, &path).spawn() {
        Ok(child) => Ok(Outcome::Code(reap_until(child.id()))),
        Err(error) => Ok(enter::not_started(program, &path, &error)),
    }
}

/// A command with the environment that it has in a sandbox.
fn inside(program: &OsStr, args: &[OsString], path: &OsStr) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .env("PATH", path)
        .env("NETNS_LAB_SANDBOX", "1")
        .env("PS1", "(sandbox) \\w # ");
    command
}

/// Runs one more command in a sandbox, whose first process this is, and returns its exit code. `front`
/// is for shells: such a command has the terminal as the leader of a group of its own.
pub fn join(init: ProcessId, front: bool, command: &[OsString]) -> Result<Outcome, Failure> {
    let Some((program, args)) = command.split_first() else {
        return Err(Failure::usage("no command was given"));
    };
    // Asked before: in there /proc knows nothing of this process.
    let (here, path) = (std::env::current_dir().ok(), path());
    let terminal = Foreground::of_this_process().filter(|_| front);
    let users = |pid: &str| {
        fs::metadata(format!("/proc/{pid}/ns/user"))
            .map(|found| found.ino())
            .ok()
    };
    // One cannot enter the users' namespace that one is in.
    let same = users("self") == users(&init.pid.to_string());
    let kinds = ["user", "mnt", "net", "pid", "uts", "ipc"];
    process::enter(init, &kinds[usize::from(same)..])
        .map_err(|error| Failure::failed(format!("cannot enter the sandbox: {error}")))?;
    if let Some(here) = here {
        let _ = nix::unistd::chdir(&here);
    }
    let mut joined = inside(program, args, &path);
    if terminal.is_some() {
        joined = inside(OsStr::new("sh"), &[], &path);
        // A shell that finds the terminal in other hands waits for it: so it begins when it has it.
        joined
            .args(["-c", r#"kill -STOP $$; exec "$@""#, "sh"])
            .args(command)
            .process_group(0);
    }
    match joined.spawn() {
        Ok(child) => {
            let child = i32::try_from(child.id()).map(Pid::from_raw);
            let child = child.map_err(|_| Failure::failed("the command's number is none"))?;
            if let Some(terminal) = &terminal {
                let _ = waitpid(child, Some(WaitPidFlag::WUNTRACED));
                let _ = terminal.give_to(child);
                let _ = killpg(child, Signal::SIGCONT);
            }
            let code = first::wait(child, &enter::hold_back_signals());
            if let Some(terminal) = terminal {
                terminal.take_back();
            }
            Ok(Outcome::Code(code))
        }
        Err(error) => Ok(enter::not_started(program, &path, &error)),
    }
}

fn mounts() -> Result<(), (&'static str, Errno)> {
    let at = |what| move |error| (what, error);
    mount(NONE, "/", NONE, MsFlags::MS_PRIVATE | MsFlags::MS_REC, NONE).map_err(at("anything privately"))?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), safe, NONE).map_err(at("/proc"))?;
    // A container may forbid it; then /sys shows the host's links, and nothing else is amiss.
    let sys = mount(Some("sysfs"), "/sys", Some("sysfs"), safe, NONE);
    tracing::debug!(?sys, "the sandbox's /sys");
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), plain, Some("mode=0755")).map_err(at("/run"))
}

/// The caller's `PATH`, with this program's folder before it and the system tools behind it, which
/// a plain user's often lacks.
pub fn path() -> OsString {
    let before = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(Path::to_path_buf));
    let mut folders: Vec<_> = own.into_iter().chain(std::env::split_paths(&before)).collect();
    for system in ["/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        if !folders.iter().any(|folder| folder == Path::new(system)) {
            folders.push(system.into());
        }
    }
    folders.retain(|folder| !folder.as_os_str().is_empty());
    std::env::join_paths(folders).unwrap_or(before)
}

/// Takes leave of every process that ends, until it is this one.
fn reap_until(child: u32) -> u8 {
    let child = i32::try_from(child).map(Pid::from_raw).ok();
    loop {
        match waitpid(None::<Pid>, None) {
            Ok(WaitStatus::Exited(pid, code)) if Some(pid) == child => {
                return u8::try_from(code & 0xff).unwrap_or(1);
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if Some(pid) == child => {
                return signal_code(signal as i32);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return 1,
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(1),
        (None, Some(signal)) => signal_code(signal),
        (None, None) => 1,
    }
}

/// As a shell tells that a command was ended by a signal.
fn signal_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(255)
}

fn to_errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EPERM))
}

/// Why no sandbox can be had, by the knob that forbids it.
fn refused(error: Errno) -> Failure {
    let message = format!("this host does not let you have a sandbox: {error}");
    let failure = match knob() {
        Some(knob) => Failure::host_lacks(format!("{message}; {knob}")),
        None if error == Errno::ENOSPC => {
            Failure::host_lacks(format!("{message}; a limit under `sysctl user` is reached"))
        }
        None if error == Errno::EINVAL => Failure::host_lacks(format!(
            "{message}; the kernel has no user namespaces (CONFIG_USER_NS)"
        )),
        None => Failure::host_lacks(format!(
            "{message}; a container's seccomp or AppArmor profile may forbid it"
        )),
    };
    if geteuid().is_root() {
        return failure.hint("a container needs --privileged, or --cap-add SYS_ADMIN --cap-add NET_ADMIN");
    }
    failure.hint("use `sudo netns-lab sandbox`, or `sudo netns-lab up`, which needs no sandbox")
}

/// The setting that forbids user namespaces, if one does.
pub fn knob() -> Option<&'static str> {
    let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    if is("/proc/sys/user/max_user_namespaces", "0") {
        return Some("user.max_user_namespaces is 0");
    }
    if geteuid().is_root() {
        return None;
    }
    if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        return Some("kernel.unprivileged_userns_clone is 0");
    }
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        return Some("kernel.apparmor_restrict_unprivileged_userns is 1");
    }
    None
}
