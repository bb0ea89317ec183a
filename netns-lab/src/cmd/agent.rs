//! `netns-lab agent`: what a kubelet is to the containers of a node.
//!
//! It marks a pod as not ready as soon as one of its containers, or its holder, ends, and starts
//! containers again: at once the first time, then after pauses that double. The kernel tells it (a
//! pidfd becomes readable), so that nothing is polled.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use labkit::rundir::RunDirectory;
use labkit::{Failure, Outcome};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cli::AgentArgs;
use crate::edge::{process, store};
use crate::engine::revive;
use crate::model::ledger::{Ledger, PodRecord, ProcessId};
use crate::model::life;
use crate::model::name::Label;

/// A process without which a pod is not ready.
#[derive(Debug, Clone)]
struct Needed {
    pod: Label,
    /// None is the holder.
    container: Option<Label>,
    process: ProcessId,
}

/// A container that is to be started again.
struct Due {
    at: Instant,
    pod: Label,
    container: Label,
    dead: ProcessId,
    streak: u32,
}

/// What the agent has in mind.
struct Agent {
    lab: Label,
    back_off: Duration,
    watched: Vec<(Needed, OwnedFd)>,
    due: Vec<Due>,
    nudges: SignalFd,
}

/// Runs `agent`.
pub(super) fn run(args: &AgentArgs) -> Result<Outcome, Failure> {
    let _ = nix::unistd::setsid();
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // A handle is a file; a thousand pods need more than the usual limit.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let mut agent = Agent {
        lab: args.lab.clone(),
        back_off: args.restart_backoff.map_or(life::BACK_OFF, Duration::from_millis),
        watched: Vec::new(),
        due: Vec::new(),
        // Before the ledger is read: what is nudged about earlier is in it.
        nudges: process::nudges()
            .map_err(|error| Failure::failed(format!("cannot wait for signals: {error}")))?,
    };
    agent.begin()?;
    while !agent.watched.is_empty() || !agent.due.is_empty() {
        let ended = agent.wait()?;
        reap();
        agent.take_turn(&ended)?;
    }
    Ok(Outcome::Done)
}

/// Containers that the agent started are its children.
fn reap() {
    while matches!(
        waitpid(None::<nix::unistd::Pid>, Some(WaitPidFlag::WNOHANG)),
        Ok(status) if status != WaitStatus::StillAlive
    ) {}
}

/// Without the lock nothing can be done, and to give up would leave the pods alone.
fn lock() -> RunDirectory {
    loop {
        match RunDirectory::lock() {
            Ok(run) => return run,
            Err(failure) => {
                tracing::debug!(%failure, "the agent waits");
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

/// All but containers that were added to run once, which are nobody's to start again.
fn needed(record: &PodRecord) -> Vec<Needed> {
    let pod = &record.pod.spec.name;
    let of = |container: Option<&Label>, process| Needed {
        pod: pod.clone(),
        container: container.cloned(),
        process,
    };
    let containers = record.containers.iter();
    let containers = containers.filter(|container| !container.once);
    let containers = containers.filter_map(|container| Some(of(Some(&container.name), container.process?)));
    let holder = record.holder.map(|holder| of(None, holder));
    holder.into_iter().chain(containers).collect()
}

impl Agent {
    /// Waits until `up`, which started this process, has written its ledger, and takes the apps from
    /// it.
    fn begin(&mut self) -> Result<(), Failure> {
        let _run = lock();
        let Some(ledger) = self.ledger()? else {
            return Ok(());
        };
        for needed in ledger.pods.iter().flat_map(needed) {
            self.watch(&ledger, needed)?;
        }
        Ok(())
    }

    /// The ledger of the lab, if that is to stay.
    fn ledger(&self) -> Result<Option<Ledger>, Failure> {
        Ok(store::ledger(&self.lab)?.filter(|ledger| !ledger.leaving))
    }

    /// The places of those that have ended; none when a container is due or there is something new.
    fn wait(&self) -> Result<Vec<usize>, Failure> {
        loop {
            let next = self.due.iter().map(|due| due.at).min();
            let left = next.map(|at| at.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let fds = self.watched.iter().map(|(_, handle)| handle);
            let mut polled: Vec<_> = fds.map(|handle| PollFd::new(handle, PollFlags::IN)).collect();
            polled.push(PollFd::new(&self.nudges, PollFlags::IN));
            match poll(&mut polled, left.as_ref()) {
                Ok(_) => {
                    let ended = polled.iter().take(self.watched.len()).enumerate();
                    let ended = ended.filter(|(_, fd)| !fd.revents().is_empty());
                    return Ok(ended.map(|(index, _)| index).collect());
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Failure::failed(format!("cannot wait for the apps: {error}"))),
            }
        }
    }

    /// Marks the pods of those that have ended, and starts those that are due.
    fn take_turn(&mut self, ended: &[usize]) -> Result<(), Failure> {
        let gone: Vec<_> = ended
            .iter()
            .rev()
            .map(|index| self.watched.swap_remove(*index).0)
            .collect();
        let _run = lock();
        let Some(mut ledger) = self.ledger()? else {
            self.watched.clear();
            self.due.clear();
            return Ok(());
        };
        for needed in gone {
            self.mourn(&ledger, needed)?;
        }
        self.hear_of_new(&ledger)?;
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.due)
            .into_iter()
            .partition(|due| due.at <= now);
        self.due = later;
        let due: Vec<Due> = due;
        for due in due {
            self.revive(&mut ledger, due)?;
        }
        Ok(())
    }

    /// Takes over what was added since.
    fn hear_of_new(&mut self, ledger: &Ledger) -> Result<(), Failure> {
        if !matches!(self.nudges.read_signal(), Ok(Some(_))) {
            return Ok(());
        }
        for needed in ledger.pods.iter().flat_map(needed) {
            let mut known = self.watched.iter().map(|(one, _)| one.process);
            let is_due = self.due.iter().any(|due| due.dead == needed.process);
            if !is_due && !known.any(|process| process == needed.process) {
                self.watch(ledger, needed)?;
            }
        }
        Ok(())
    }

    /// Watches a process, or sees that it has ended already.
    fn watch(&mut self, ledger: &Ledger, needed: Needed) -> Result<(), Failure> {
        match process::handle(needed.process) {
            Some(handle) => {
                self.watched.push((needed, handle));
                Ok(())
            }
            None => self.mourn(ledger, needed),
        }
    }

    /// Publishes that the pod is not ready, unless it has another process by now or goes itself, and
    /// plans the next start.
    fn mourn(&mut self, ledger: &Ledger, gone: Needed) -> Result<(), Failure> {
        let record = ledger.pod(&gone.pod).filter(|record| record.leaving.is_none());
        let still = |record: &&PodRecord| needed(record).iter().any(|one| one.process == gone.process);
        let Some(record) = record.filter(still) else {
            return Ok(());
        };
        revive::publish(ledger, &gone.pod)?;
        let Some(container) = gone.container else {
            // A pod without its holder is made anew by `up`.
            return Ok(());
        };
        let before = record.container(&container).map_or(0, |known| known.streak);
        let streak = life::streak(before, process::age(gone.process));
        self.due.push(Due {
            at: Instant::now() + life::pause(streak, self.back_off),
            pod: gone.pod,
            container,
            dead: gone.process,
            streak,
        });
        Ok(())
    }

    fn revive(&mut self, ledger: &mut Ledger, due: Due) -> Result<(), Failure> {
        let Due {
            pod,
            container,
            dead,
            streak,
            ..
        } = due;
        let started = revive::container(ledger, &pod, &container, dead, streak)?;
        let Some(process) = started else {
            return Ok(());
        };
        revive::publish(ledger, &pod)?;
        let needed = Needed {
            pod,
            container: Some(container),
            process,
        };
        self.watch(ledger, needed)
    }
}
