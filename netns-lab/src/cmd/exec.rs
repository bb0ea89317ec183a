//! `netns-lab exec`: a command in a pod.

use std::ffi::OsString;

use labkit::{Failure, Outcome, shell};

use super::find::{self, Spot};
use super::namespaces;
use crate::cli::{EnterArgs, ExecArgs};
use crate::edge::enter::{self, Surroundings};
use crate::edge::{namespace, process, registry, store};
use crate::engine::settle::{self, Place};
use crate::model::ledger::{Ledger, PodRecord, ProcessId};
use crate::model::name::Label;
use crate::model::node::Machine;
use crate::model::pod_files;

/// Runs `exec`.
pub(super) fn run(args: ExecArgs) -> Result<Outcome, Failure> {
    let (ledger, spot) = find::place(args.name.as_ref(), &args.pod)?;
    let command = if args.command.is_empty() {
        shell_for(&spot, args.container.as_ref())
    } else {
        args.command
    };
    let record = match &spot {
        Spot::Pod(record) => record,
        elsewhere => return on_machine(&ledger, &args.pod, elsewhere, args.container.as_ref(), &command),
    };
    refresh_files(&ledger, record)?;
    match args.container {
        Some(name) => {
            let process = running(record, &name)?;
            enter::in_container(process, true, &command)
        }
        // A pod whose first container has ended is still a pod.
        None => match record.first_process().filter(|process| process::runs(*process)) {
            Some(process) => enter::in_container(process, false, &command),
            None => in_pod(&ledger, record, &command),
        },
    }
}

/// The caller's shell, or where it is not seen the one that an image has.
fn shell_for(spot: &Spot, container: Option<&Label>) -> Vec<OsString> {
    let has_root = |record: &PodRecord| {
        let added = record.containers.iter().filter_map(|one| one.added.clone());
        let mut all = record.pod.containers().into_iter().chain(added);
        let found = all.find(|spec| container.is_none_or(|name| spec.name == *name));
        found.is_some_and(|spec| spec.rootfs.is_some())
    };
    match spot {
        Spot::Pod(record) if has_root(record) => vec![OsString::from("/bin/sh")],
        _ => enter::shell_command(),
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
    enter_pod(ledger, record)?;
    enter::become_command(command)
}

fn enter_pod(ledger: &Ledger, record: &PodRecord) -> Result<(), Failure> {
    let pod = &record.pod;
    enter::enter(&Surroundings {
        namespace: namespace::open(&pod.namespace)?,
        hostname: pod.spec.name.as_str(),
        files: &store::pod_files(&ledger.lab.name, &pod.spec.name),
    })
}

/// Takes this process, which has a single thread, to a place, with what is seen of the network there.
pub(super) fn go(ledger: &Ledger, name: &Label, spot: &Spot) -> Result<(), Failure> {
    match spot {
        Spot::Pod(record) => {
            refresh_files(ledger, record)?;
            enter_pod(ledger, record)
        }
        elsewhere => go_to_machine(ledger, name, elsewhere),
    }
}

/// The process that `exec` starts, once its pid namespace is the container's.
pub(super) fn enter(args: &EnterArgs) -> Result<Outcome, Failure> {
    enter::join(args.process, args.same_user)?;
    if args.ask {
        shell::emit_json(&namespaces::ask())?;
        return Ok(Outcome::Done);
    }
    enter::become_command(&args.command)
}

/// On a node or on the host outside, which have no containers.
fn on_machine(
    ledger: &Ledger,
    name: &Label,
    spot: &Spot,
    container: Option<&Label>,
    command: &[OsString],
) -> Result<Outcome, Failure> {
    if container.is_some() {
        return Err(
            Failure::usage(format!("{name} is no pod, and has no containers")).hint("leave --container out")
        );
    }
    go_to_machine(ledger, name, spot)?;
    enter::become_command(command)
}

fn go_to_machine(ledger: &Ledger, name: &Label, spot: &Spot) -> Result<(), Failure> {
    let machine = match spot {
        Spot::Outside(machine) => Some(machine),
        Spot::Node(node) => node.machine.as_ref(),
        Spot::Pod(_) => None,
    };
    match machine {
        Some(machine) => enter_machine(ledger, name, machine),
        // Whoever calls this is on the node already, or cannot get there.
        None => match settle::place(ledger)? {
            Place::Elsewhere(pid) => Err(settle::elsewhere(ledger, pid)),
            _ => Ok(()),
        },
    }
}

/// A node or the host outside, whose files are named as its namespace, which no pod's is.
fn enter_machine(ledger: &Ledger, name: &Label, machine: &Machine) -> Result<(), Failure> {
    let files = store::host_files(&ledger.lab.name, &machine.namespace);
    store::write_pod_files(&files, &pod_files::of_machine(ledger, name, machine))?;
    enter::enter(&Surroundings {
        namespace: namespace::open(&machine.namespace)?,
        hostname: name.as_str(),
        files: &files,
    })
}
