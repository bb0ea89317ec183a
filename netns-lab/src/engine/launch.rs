//! Starts the processes of a lab: an app in each pod, and one agent.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use labkit::{Failure, fault};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::progress::Progress;
use crate::app::Listen;
use crate::edge::{joined, namespace, process, store};
use crate::model::ledger::{Lab, Pod, ProcessId};
use crate::model::name::Label;

/// This program, whatever its path was and whether or not the file is still there.
const SELF: &str = "/proc/self/exe";

/// How long apps may take from their start to their first word.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many threads make pods or start apps; more than two gain nothing, for the kernel's rtnl
/// lock is one.
pub const WORKERS: usize = 2;

/// Runs `work` on each item, on [`WORKERS`] threads that may change their namespace.
///
/// `start` makes what a thread needs. After the first failure no new item is begun.
pub fn on_workers<I: Sync, W, T: Send>(
    items: &[I],
    start: impl Fn() -> Result<W, Failure> + Sync,
    work: impl Fn(&mut W, &I) -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    let next = AtomicUsize::new(0);
    let (start, work, next) = (&start, &work, &next);
    thread::scope(|scope| {
        let run = move || {
            let mut worker = start()?;
            let mut done = Vec::new();
            while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                let result = work(&mut worker, item);
                if result.is_err() {
                    next.store(items.len(), Ordering::Relaxed);
                }
                done.push(result?);
            }
            Ok(done)
        };
        let threads: Vec<_> = (0..WORKERS.min(items.len())).map(|_| scope.spawn(run)).collect();
        let results: Vec<Result<Vec<T>, Failure>> = threads.into_iter().map(joined).collect();
        let mut all = Vec::new();
        for result in results {
            all.extend(result?);
        }
        Ok(all)
    })
}

/// Starts the apps of these pods and waits until each listens.
///
/// `started` hears of each process at once, ready or not.
pub fn apps(
    lab: &Lab,
    pods: &[&Pod],
    progress: &Progress,
    started: &Mutex<Vec<(Label, ProcessId)>>,
) -> Result<(), Failure> {
    let failed = |error: nix::Error| Failure::failed(format!("cannot make a pipe: {error}"));
    let (hears, tells) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    on_workers(
        pods,
        || Ok(()),
        |(), pod| {
            let process = app(lab, pod, &tells)?;
            if let (Some(process), Ok(mut started)) = (process, started.lock()) {
                started.push((pod.spec.name.clone(), process));
            }
            fault::point("up:app");
            progress.tick("started the apps of pods", pods.len());
            Ok(())
        },
    )?;
    drop(tells);
    await_words(lab, pods, hears)
}

/// Starts one app from a thread that enters the pod's namespace for it.
fn app(lab: &Lab, pod: &Pod, tells: &OwnedFd) -> Result<Option<ProcessId>, Failure> {
    let name = &pod.spec.name;
    let failed = |error: std::io::Error| Failure::failed(format!("cannot start the app of {name}: {error}"));
    setns(namespace::open(&pod.namespace)?, CloneFlags::CLONE_NEWNET)
        .map_err(|error| failed(error.into()))?;
    let log = store::open_log(&lab.name, name)?;
    let errors = log.try_clone().map_err(failed)?;
    let mut command = own_command("serve", &lab.name);
    command.args(["--pod", name.as_str(), "--ip", &pod.ip.to_string()]);
    for port in &pod.spec.ports {
        let listen = Listen {
            answers: port.answers(),
            port: port.container_port.get(),
            protocol: port.protocol,
        };
        command.args(["--listen", &listen.to_string()]);
    }
    let tells = tells.try_clone().map_err(failed)?;
    let child = command
        .stdin(tells)
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(failed)?;
    Ok(identify(child.id()))
}

fn own_command(verb: &str, lab: &Label) -> Command {
    let mut command = Command::new(SELF);
    command.arg0("netns-lab").args([verb, "--lab", lab.as_str()]);
    // Nothing of the caller's environment belongs into a process that outlives it.
    command.env_clear().current_dir("/");
    command
}

fn identify(pid: u32) -> Option<ProcessId> {
    process::identify(i32::try_from(pid).ok()?)
}

/// Each app writes a line with its pod's name once it listens; the pipe ends when all have
/// written or died.
fn await_words(lab: &Lab, pods: &[&Pod], hears: OwnedFd) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    let mut pipe = File::from(hears);
    let mut words = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], left.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        match pipe.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => words.extend_from_slice(&buffer[..length]),
        }
    }
    let words = String::from_utf8_lossy(&words).into_owned();
    let ready: std::collections::BTreeSet<_> = words.lines().collect();
    let Some(silent) = pods.iter().find(|pod| !ready.contains(pod.spec.name.as_str())) else {
        return Ok(());
    };
    let name = &silent.spec.name;
    let log = std::fs::read_to_string(store::log(&lab.name, name)).unwrap_or_default();
    let last = log
        .lines()
        .last()
        .unwrap_or("it said nothing")
        .trim_start_matches("error: ")
        .to_string();
    Err(Failure::failed(format!(
        "the app of {name} did not start: {last}"
    )))
}

/// Starts the agent of a lab.
pub fn agent(lab: &Lab) -> Result<Option<ProcessId>, Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("cannot start the agent: {error}"));
    let mut command = own_command("agent", &lab.name);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    Ok(identify(child.id()))
}
