//! Starts the processes of a lab: a holder and containers in each pod, and one agent.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use labkit::{Failure, fault};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::progress::Progress;
use crate::app::Listen;
use crate::edge::view::View;
use crate::edge::{cgroup, joined, namespace, process, rootfs, store};
use crate::model::container::{APP, ContainerSpec};
use crate::model::ledger::{Lab, Pod, ProcessId};
use crate::model::life;
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

/// What is to be started in one pod.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The process that holds its namespaces; none if it is to be started too.
    pub holder: Option<ProcessId>,
    /// The containers.
    pub containers: Vec<ContainerSpec>,
}

/// A process that was started: a container's first, or with no name the pod's holder.
#[derive(Debug, Clone)]
pub struct Started {
    /// The pod.
    pub pod: Label,
    /// The container.
    pub container: Option<Label>,
    /// The process.
    pub process: ProcessId,
}

/// Starts holders and containers and waits until each app listens and each command runs.
///
/// `started` hears of each process at once, ready or not.
pub fn containers(
    lab: &Lab,
    pods: &[Start],
    progress: &Progress,
    started: &Mutex<Vec<Started>>,
) -> Result<(), Failure> {
    let failed = |error: nix::Error| Failure::failed(format!("cannot make a pipe: {error}"));
    let (hears, tells) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    let view = View::new(&lab.name)?;
    let home = home()?;
    let own_pids = File::open("/proc/self/ns/pid")
        .map_err(|error| Failure::failed(format!("cannot open this pid namespace: {error}")))?;
    let returns = setns(&own_pids, CloneFlags::CLONE_NEWPID).is_ok();
    let launcher = Launcher {
        lab,
        view: view.path(),
        returns,
        own_pids,
        home: format!("/proc/{}/fd/{}", std::process::id(), home.as_raw_fd()),
        tells,
        started,
    };
    on_workers(
        pods,
        || Ok(()),
        |(), start| {
            launcher.pod(start)?;
            progress.tick("started the apps of pods", pods.len());
            Ok(())
        },
    )?;
    drop(launcher);
    let told = await_words(lab, pods, hears);
    // They must live until the last container has looked at them.
    drop((view, home));
    told
}

/// Starts processes from threads that enter the pod's namespaces for it.
struct Launcher<'a> {
    lab: &'a Lab,
    view: String,
    own_pids: File,
    /// A thread may come back to it, which takes privilege where that was made.
    returns: bool,
    home: String,
    tells: OwnedFd,
    started: &'a Mutex<Vec<Started>>,
}

impl Launcher<'_> {
    fn pod(&self, start: &Start) -> Result<(), Failure> {
        let pod = start.pod;
        let name = &pod.spec.name;
        let failed = |error: nix::Error| Failure::failed(format!("cannot enter the pod {name}: {error}"));
        setns(namespace::open(&pod.namespace)?, CloneFlags::CLONE_NEWNET).map_err(failed)?;
        if let Some(holder) = start.holder {
            process::enter(holder, &["uts", "ipc"]).map_err(failed)?;
        } else {
            unshare(CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC).map_err(failed)?;
            nix::unistd::sethostname(name.as_str()).map_err(failed)?;
            let holder = self.holder(pod)?;
            self.note(name, None, holder);
            fault::point("up:holder");
        }
        for container in &start.containers {
            let process = self.container(pod, container)?;
            self.note(name, Some(&container.name), process);
            fault::point("up:app");
        }
        Ok(())
    }

    fn note(&self, pod: &Label, container: Option<&Label>, process: Option<ProcessId>) {
        if let (Some(process), Ok(mut started)) = (process, self.started.lock()) {
            started.push(Started {
                pod: pod.clone(),
                container: container.cloned(),
                process,
            });
        }
    }

    fn holder(&self, pod: &Pod) -> Result<Option<ProcessId>, Failure> {
        let mut command = own_command("holder", &self.lab.name);
        let child = command
            .args(["--pod", pod.spec.name.as_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.map_err(|error| {
            Failure::failed(format!("cannot start the holder of {}: {error}", pod.spec.name))
        })?;
        Ok(identify(child.id()))
    }

    /// The first process of a container, which is number 1 of a new pid namespace.
    fn container(&self, pod: &Pod, container: &ContainerSpec) -> Result<Option<ProcessId>, Failure> {
        let name = &pod.spec.name;
        let failed = |error: std::io::Error| {
            Failure::failed(format!(
                "cannot start the container {} of {name}: {error}",
                container.name
            ))
        };
        let lab = &self.lab.name;
        let group = cgroup::make(lab, name, container)?;
        let rootfs = container
            .rootfs
            .as_deref()
            .map(|rootfs| rootfs::ready(lab, name, &container.name, rootfs))
            .transpose()?;
        let log = store::open_log(lab, name, &container.name)?;
        let errors = log.try_clone().map_err(failed)?;
        let mut command = self.first_process(pod, container);
        let paths = [("--rootfs", rootfs), ("--cgroup", group)];
        for (flag, path) in paths
            .iter()
            .filter_map(|(flag, path)| Some((flag, path.as_ref()?)))
        {
            command.arg(flag).arg(path);
        }
        if pod.system {
            // Its command is this program's, told where it is to be besides.
            command.args(container.command.iter().skip(2));
        } else if !container.is_app() {
            command.arg("--").args(&container.command);
        }
        command
            .stdin(self.tells.try_clone().map_err(failed)?)
            .stdout(log)
            .stderr(errors);
        let child = self.among_own_processes(&mut command).map_err(failed)?;
        Ok(identify(child.id()))
    }

    /// Starts a process as number 1 of a new pid namespace.
    fn among_own_processes(&self, command: &mut Command) -> io::Result<Child> {
        let mut start = || {
            unshare(CloneFlags::CLONE_NEWPID)?;
            command.spawn()
        };
        // Only once may a thread leave: it comes back each time, or another one goes.
        if self.returns {
            let child = start();
            setns(&self.own_pids, CloneFlags::CLONE_NEWPID)?;
            return child;
        }
        thread::scope(|scope| {
            let ended = || io::Error::other("a thread ended abnormally");
            scope.spawn(start).join().unwrap_or_else(|_| Err(ended()))
        })
    }

    fn first_process(&self, pod: &Pod, container: &ContainerSpec) -> Command {
        let verb = match (pod.system, container.is_app()) {
            (true, _) => "name-server",
            (false, true) => "serve",
            (false, false) => "container",
        };
        let mut command = own_command(verb, &self.lab.name);
        command.args(["--pod", pod.spec.name.as_str()]);
        command.args(["--container", container.name.as_str(), "--inside", &self.view]);
        if container.is_app() {
            command.args(["--ip", &pod.ip.to_string()]);
            if let Some(version) = life::version(&pod.spec) {
                command.args(["--app-version", version]);
            }
            for port in &container.ports {
                let listen = Listen {
                    answers: port.answers(),
                    port: port.container_port.get(),
                    protocol: port.protocol,
                };
                command.args(["--listen", &listen.to_string()]);
            }
        }
        if pod.system {
            command.arg("--see-registry").args(["--from", &self.home]);
        }
        if let Some(user) = container.user {
            command.args(["--user", &user.to_string()]);
        }
        for capability in &container.capabilities {
            command.args(["--cap", capability.as_str()]);
        }
        command
    }
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

/// Each container writes a line with its pod's name and its own once it listens or runs; the pipe
/// ends when all have written or died.
fn await_words(lab: &Lab, pods: &[Start], hears: OwnedFd) -> Result<(), Failure> {
    let words = read_until_end(hears);
    let words = String::from_utf8_lossy(&words).into_owned();
    let ready: BTreeSet<_> = words.lines().collect();
    let all = pods.iter().flat_map(|start| {
        let containers = start.containers.iter();
        containers.map(|container| (&start.pod.spec.name, &container.name))
    });
    let mut silent = all.filter(|(pod, container)| !ready.contains(word(pod, container).as_str()));
    let Some((pod, container)) = silent.next() else {
        return Ok(());
    };
    let log = std::fs::read_to_string(store::log(&lab.name, pod, container)).unwrap_or_default();
    let what = if container.as_str() == APP {
        format!("the app of {pod}")
    } else {
        format!("the container {container} of {pod}")
    };
    let (last, hints) = last_words(&log);
    let failure = Failure::failed(format!("{what} did not start: {last}"));
    Err(hints.into_iter().fold(failure, Failure::hint))
}

/// What a program that did not start said last, and the hints below it if it was one of ours.
fn last_words(log: &str) -> (&str, Vec<&str>) {
    let mut hints = Vec::new();
    for line in log.lines().rev() {
        match line.trim_start().strip_prefix("hint: ") {
            Some(hint) => hints.insert(0, hint),
            None => return (line.trim_start_matches("error: "), hints),
        }
    }
    ("it said nothing", hints)
}

/// What a container says when it is ready.
pub fn word(pod: &Label, container: &Label) -> String {
    format!("{pod} {container}")
}

fn read_until_end(hears: OwnedFd) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    let mut pipe = File::from(hears);
    let mut words = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], left.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(0) | Err(_) => return words,
            Ok(_) => {}
        }
        match pipe.read(&mut buffer) {
            Ok(0) | Err(_) => return words,
            Ok(length) => words.extend_from_slice(&buffer[..length]),
        }
    }
}

/// The network namespace from which a name server asks others: the one that `up` was called in. The
/// agent, which may be in another, has it as its stdin.
fn home() -> Result<File, Failure> {
    let stdin = "/proc/self/fd/0";
    let handed = std::fs::read_link(stdin).is_ok_and(|link| link.to_string_lossy().starts_with("net:["));
    let path = if handed { stdin } else { "/proc/self/ns/net" };
    File::open(path).map_err(|error| Failure::host_lacks(format!("cannot open {path}: {error}")))
}

/// What the agent gets as its stdin: where nobody asks others, no namespace is kept alive.
fn handed_on(lab: &Lab) -> Result<Stdio, Failure> {
    let asks = lab.dns.as_ref().is_some_and(|dns| dns.upstream.is_some());
    if asks {
        Ok(home()?.into())
    } else {
        Ok(Stdio::null())
    }
}

/// The environment variable that says how long, in milliseconds, the agent pauses before the second
/// start of a container.
pub const BACK_OFF_VARIABLE: &str = "NETNS_LAB_RESTART_BACKOFF_MS";

/// Whether a crash on demand is meant for the agent.
fn is_agents(step: &std::ffi::OsStr) -> bool {
    step.to_str().is_some_and(|step| step.starts_with("agent:"))
}

/// Starts the agent of a lab.
pub fn agent(lab: &Lab) -> Result<Option<ProcessId>, Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("cannot start the agent: {error}"));
    let mut command = own_command("agent", &lab.name);
    if let Some(pause) = std::env::var(BACK_OFF_VARIABLE)
        .ok()
        .and_then(|text| text.parse::<u64>().ok())
    {
        command.args(["--restart-backoff", &pause.to_string()]);
    }
    if let Some(step) = std::env::var_os(fault::VARIABLE).filter(|step| is_agents(step)) {
        command.env(fault::VARIABLE, step);
    }
    let child = command
        .stdin(handed_on(lab)?)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    Ok(identify(child.id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_no_hints() {
        let log = "web-1 listens\nerror: cannot listen on [::]:80\n hint: a\n hint: b\n";
        assert_eq!(last_words(log), ("cannot listen on [::]:80", vec!["a", "b"]));
        assert_eq!(last_words("one\nno such file\n"), ("no such file", vec![]));
        assert_eq!(last_words(""), ("it said nothing", vec![]));
    }
}
