//! Processes: who runs, whether it is still the one we started, and its end.

use std::fs;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::model::ledger::ProcessId;

/// How long an ended process may take to go; it is only exiting, so this is a safety net.
const PATIENCE: Duration = Duration::from_secs(5);

/// The process of a number, if it runs; a zombie does not, once its last thread is gone.
pub fn identify(pid: i32) -> Option<ProcessId> {
    let stat = read_small(&format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything, so count from its end.
    let stat = str::from_utf8(stat.rsplit(|byte| *byte == b')').next()?).ok()?;
    let mut fields = stat.split_ascii_whitespace();
    let state = fields.next()?;
    let threads: u32 = fields.nth(16)?.parse().ok()?;
    let start_time = fields.nth(1)?.parse().ok()?;
    // The first thread may be a zombie while another still holds the sockets of the process.
    let ended = matches!(state, "Z" | "X") && threads <= 1;
    (!ended).then_some(ProcessId { pid, start_time })
}

/// This process.
pub fn own() -> Option<ProcessId> {
    identify(i32::try_from(std::process::id()).ok()?)
}

/// Whether it runs still, and is not another one with the same number.
pub fn runs(process: ProcessId) -> bool {
    identify(process.pid) == Some(process)
}

/// A file of `/proc`. Most fit into the first read, where a reader that knows no size asks many times.
fn read_small(path: &str) -> Option<Vec<u8>> {
    const LARGEST: u64 = 1 << 20;
    let file = fs::File::open(path).ok()?;
    let mut content = Vec::with_capacity(4096);
    file.take(LARGEST).read_to_end(&mut content).ok()?;
    Some(content)
}

/// Whether the process has a default route by this gateway in its network namespace.
///
/// Its own view in `/proc` tells without entering the namespace. `true` when it cannot be read.
pub fn has_default_route(process: ProcessId, gateway: Ipv4Addr) -> bool {
    let Some(routes) = read_small(&format!("/proc/{}/net/route", process.pid)) else {
        return true;
    };
    let routes = String::from_utf8_lossy(&routes);
    // The kernel prints addresses as numbers in its own byte order.
    let gateway = format!("{:08X}", u32::from_ne_bytes(gateway.octets()));
    routes.lines().any(|route| {
        let mut fields = route.split_ascii_whitespace();
        fields.nth(1) == Some("00000000") && fields.next() == Some(gateway.as_str())
    })
}

/// Moves this thread into namespaces of a process, by their names under `/proc/PID/ns`.
pub fn enter(process: ProcessId, kinds: &[&str]) -> nix::Result<()> {
    let mut files = Vec::new();
    for kind in kinds {
        let file = fs::File::open(format!("/proc/{}/ns/{kind}", process.pid));
        files.push(file.map_err(|_| nix::Error::ESRCH)?);
    }
    // Looked at after opening: the number cannot have been given on in between.
    if !runs(process) {
        return Err(nix::Error::ESRCH);
    }
    for file in files {
        nix::sched::setns(file, nix::sched::CloneFlags::empty())?;
    }
    Ok(())
}

/// A handle that stays with this very process.
pub fn handle(process: ProcessId) -> Option<OwnedFd> {
    let fd = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
    // Looked at after opening: the number cannot have been given on in between.
    runs(process).then_some(fd)
}

/// Ends processes and waits until they are gone. Others are never touched.
pub fn end(processes: &[ProcessId]) {
    let handles: Vec<_> = processes.iter().filter_map(|process| handle(*process)).collect();
    for handle in &handles {
        // It may have ended by itself meanwhile.
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
    await_end(handles, PATIENCE);
}

/// Tells an agent that its ledger has changed. Whoever does not listen for it never notices this
/// signal.
pub fn nudge(process: ProcessId) {
    if let Some(handle) = handle(process) {
        let _ = pidfd_send_signal(&handle, Signal::URG);
    }
}

/// Nudges of this process, as a file that can be waited for.
pub fn nudges() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(nix::sys::signal::Signal::SIGURG);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// Asks processes to end and waits until they have, but no longer than this.
pub fn end_gracefully(processes: &[ProcessId], patience: Duration) {
    let handles: Vec<_> = processes.iter().filter_map(|process| handle(*process)).collect();
    for handle in &handles {
        let _ = pidfd_send_signal(handle, Signal::TERM);
    }
    await_end(handles, patience);
}

fn await_end(mut handles: Vec<OwnedFd>, patience: Duration) {
    let deadline = Instant::now() + patience;
    while let Some(handle) = handles.last() {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok();
        let mut wait = [PollFd::new(handle, PollFlags::IN)];
        match poll(&mut wait, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => return,
            Ok(_) => drop(handles.pop()),
        }
    }
}

/// How long ago a process started.
pub fn age(process: ProcessId) -> Duration {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten();
    let ticks = ticks
        .and_then(|ticks| u32::try_from(ticks).ok())
        .filter(|ticks| *ticks > 0);
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime: u64 = uptime
        .split('.')
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(0);
    let started = process.start_time / u64::from(ticks.unwrap_or(100));
    Duration::from_secs(uptime.saturating_sub(started))
}

/// Processes of the lab that no ledger knows of: those whose command line says so, in the
/// namespaces that are the lab's.
///
/// A command that died between starting an app and writing it down leaves such ones.
pub fn strays(lab: &str, namespaces: &[u64]) -> Vec<ProcessId> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_ours(*pid, lab, namespaces))
        .filter_map(identify)
        .collect()
}

/// The network namespace of a lab's agent, which is that of its node.
pub fn node_of_agent(lab: &str) -> Option<u64> {
    let entries = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find_map(|pid| is_called(pid, lab, &[b"agent"]).then(|| namespace_of(pid))?)
}

fn is_ours(pid: i32, lab: &str, namespaces: &[u64]) -> bool {
    is_called(
        pid,
        lab,
        &[b"serve", b"container", b"name-server", b"holder", b"agent"],
    ) && namespace_of(pid).is_some_and(|inode| namespaces.contains(&inode))
}

fn namespace_of(pid: i32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/net"))
        .ok()
        .map(|found| found.ino())
}

/// Whether a process was started as this lab's, for one of these tasks.
fn is_called(pid: i32, lab: &str, tasks: &[&[u8]]) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let words: Vec<_> = line.split(|byte| *byte == 0).collect();
    let [program, verb, flag, name, ..] = words[..] else {
        return false;
    };
    program == b"netns-lab" && tasks.contains(&verb) && flag == b"--lab" && name == lab.as_bytes()
}

/// A process that is in a network namespace, other than these.
pub fn anyone_in(namespace: u64, except: &[i32]) -> Option<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let inode = fs::metadata(format!("/proc/{pid}/ns/net")).map(|found| found.ino());
        !except.contains(pid) && inode.is_ok_and(|inode| inode == namespace)
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn ends_the_one_it_means_and_waits_for_it() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = identify(i32::try_from(child.id()).unwrap()).unwrap();
        let another = ProcessId {
            start_time: process.start_time + 1,
            ..process
        };
        end(&[another]);
        assert!(runs(process), "the number alone must not be enough");
        end(&[process]);
        assert!(!runs(process));
        child.wait().unwrap();
    }

    #[test]
    fn finds_itself() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(identify(own).is_some());
        assert!(identify(i32::MAX).is_none());
    }
}
