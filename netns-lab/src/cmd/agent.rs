//! `netns-lab agent`: marks a pod as not ready as soon as one of its containers, or its holder, ends.
//!
//! The kernel tells it (a pidfd becomes readable), so that nothing is polled.

use std::os::fd::OwnedFd;

use labkit::rundir::RunDirectory;
use labkit::{Failure, Outcome};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::event::{PollFd, PollFlags, poll};

use crate::cli::AgentArgs;
use crate::edge::{process, store};
use crate::model::ledger::{Ledger, PodRecord, ProcessId};
use crate::model::name::Label;
use crate::model::object;

/// A process that is watched: its pod, itself, and a handle that stays with it.
struct Watched {
    pod: Label,
    process: ProcessId,
    handle: OwnedFd,
}

/// Runs `agent`.
pub(super) fn run(args: &AgentArgs) -> Result<Outcome, Failure> {
    let _ = nix::unistd::setsid();
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // A handle is a file; a thousand pods need more than the usual limit.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let mut watched = begin(&args.lab)?;
    while !watched.is_empty() {
        let ended = wait(&watched)?;
        let mut gone = Vec::new();
        for index in ended.into_iter().rev() {
            let app = watched.swap_remove(index);
            gone.push((app.pod, app.process));
        }
        let run = RunDirectory::lock()?;
        mark(&args.lab, &gone)?;
        drop(run);
    }
    Ok(Outcome::Done)
}

/// The processes without which a pod is not ready: not those of containers that were added.
fn needed(record: &PodRecord) -> impl Iterator<Item = ProcessId> {
    let containers = record.containers.iter();
    let containers = containers.filter(|container| container.added.is_none());
    record
        .holder
        .into_iter()
        .chain(containers.filter_map(|container| container.process))
}

/// Waits until `up`, which started this process, has written its ledger, and takes the apps from it.
fn begin(lab: &Label) -> Result<Vec<Watched>, Failure> {
    let _run = RunDirectory::lock()?;
    let Some(ledger) = store::ledger(lab)? else {
        return Ok(Vec::new());
    };
    let (mut watched, mut gone) = (Vec::new(), Vec::new());
    for record in &ledger.pods {
        for process in needed(record) {
            let pod = record.pod.spec.name.clone();
            match process::handle(process) {
                Some(handle) => watched.push(Watched { pod, process, handle }),
                None => gone.push((pod, process)),
            }
        }
    }
    mark(lab, &gone)?;
    Ok(watched)
}

/// The places of those that have ended.
fn wait(watched: &[Watched]) -> Result<Vec<usize>, Failure> {
    loop {
        let mut polled: Vec<_> = watched
            .iter()
            .map(|app| PollFd::new(&app.handle, PollFlags::IN))
            .collect();
        match poll(&mut polled, None) {
            Ok(_) => {
                let ended = polled
                    .iter()
                    .enumerate()
                    .filter(|(_, fd)| !fd.revents().is_empty());
                return Ok(ended.map(|(index, _)| index).collect());
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::failed(format!("cannot wait for the apps: {error}"))),
        }
    }
}

/// Publishes the pods as not ready, unless they have another app by now or are gone.
fn mark(lab: &Label, gone: &[(Label, ProcessId)]) -> Result<(), Failure> {
    let Some(ledger) = store::ledger(lab)?.filter(|ledger| !ledger.leaving) else {
        return Ok(());
    };
    let still = |ledger: &Ledger, pod: &Label, process: ProcessId| {
        let record = ledger
            .pod(pod)
            .filter(|record| needed(record).any(|needed| needed == process))?;
        Some(record.pod.clone())
    };
    for (pod, process) in gone {
        if let Some(pod) = still(&ledger, pod, *process) {
            store::publish(
                lab,
                &object::pod_file(&pod),
                &object::pod(&ledger.lab, &pod, false),
            )?;
        }
    }
    Ok(())
}
