//! `netns-lab exec`: a command in a pod.

use std::ffi::OsString;

use labkit::{Failure, Outcome, shell};

use super::{find, namespaces};
use crate::cli::{EnterArgs, ExecArgs};
use crate::edge::enter::{self, Surroundings};
use crate::edge::{namespace, process, registry, store};
use crate::model::ledger::{Ledger, PodRecord, ProcessId};
use crate::model::name::Label;
use crate::model::pod_files;

/// Runs `exec`.
pub(super) fn run(args: ExecArgs) -> Result<Outcome, Failure> {
    let (ledger, record) = find::pod(args.name.as_ref(), &args.pod)?;
    let command = if args.command.is_empty() {
        enter::shell_command()
    } else {
        args.command
    };
    refresh_files(&ledger, &record)?;
    match args.container {
        Some(name) => {
            let process = running(&record, &name)?;
            enter::in_container(process, true, &command)
        }
        // A pod whose first container has ended is still a pod.
        None => match record.first_process().filter(|process| process::runs(*process)) {
            Some(process) => enter::in_container(process, false, &command),
            None => in_pod(&ledger, &record, &command),
        },
    }
}

/// The first process of a container, if that runs.
pub(super) fn running(record: &PodRecord, name: &Label) -> Result<ProcessId, Failure> {
    let pod = &record.pod.spec.name;
    find::container(record, name)?;
    let process = record.process(name).filter(|process| process::runs(*process));
    process.ok_or_else(|| {
        Failure::failed(format!("the container {name} of {pod} does not run"))
            .hint(format!("what it said: netns-lab logs {pod} -c {name}"))
    })
}

fn refresh_files(ledger: &Ledger, record: &PodRecord) -> Result<(), Failure> {
    let pod = &record.pod;
    let files = store::pod_files(&ledger.lab.name, &pod.spec.name);
    store::write_pod_files(
        &files,
        &pod_files::all(ledger, pod, &registry::names(&ledger.lab.name)),
    )
}

/// A process of its own in the pod's network, with a view that is made for it.
fn in_pod(ledger: &Ledger, record: &PodRecord, command: &[OsString]) -> Result<Outcome, Failure> {
    let pod = &record.pod;
    let surroundings = Surroundings {
        namespace: namespace::open(&pod.namespace)?,
        hostname: pod.spec.name.as_str(),
        files: &store::pod_files(&ledger.lab.name, &pod.spec.name),
    };
    enter::enter(&surroundings)?;
    enter::become_command(command)
}

/// The process that `exec` starts, once its pid namespace is the container's.
pub(super) fn enter(args: EnterArgs) -> Result<Outcome, Failure> {
    enter::join(args.process, args.same_user)?;
    if args.ask {
        shell::emit_json(&namespaces::ask())?;
        return Ok(Outcome::Done);
    }
    enter::become_command(&args.command)
}
