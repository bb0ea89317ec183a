//! `netns-lab exec`: becomes a command in a pod.

use labkit::{Failure, Outcome};

use super::find::{self, Spot};
use crate::cli::ExecArgs;
use crate::edge::enter::{self, Surroundings};
use crate::edge::{namespace, store};
use crate::engine::settle::{self, Place};
use crate::model::ledger::{Ledger, PodRecord};
use crate::model::name::Label;
use crate::model::node::Machine;
use crate::model::pod_files;

/// Runs `exec`.
pub(super) fn run(args: ExecArgs) -> Result<Outcome, Failure> {
    let (ledger, spot) = find::place(args.name.as_ref(), &args.pod)?;
    match &spot {
        Spot::Pod(record) => enter_pod(&ledger, record)?,
        Spot::Outside(machine) => enter_machine(&ledger, &args.pod, machine)?,
        Spot::Node(node) => match &node.machine {
            Some(machine) => enter_machine(&ledger, &args.pod, machine)?,
            // Whoever calls this is on the node already, or cannot get there.
            None => {
                if let Place::Elsewhere(pid) = settle::place(&ledger)? {
                    return Err(settle::elsewhere(&ledger, pid));
                }
            }
        },
    }
    let command = if args.command.is_empty() {
        enter::shell_command()
    } else {
        args.command
    };
    enter::become_command(&command)
}

fn enter_pod(ledger: &Ledger, record: &PodRecord) -> Result<(), Failure> {
    let pod = &record.pod;
    let files = store::pod_files(&ledger.lab.name, &pod.spec.name);
    store::write_pod_files(&files, &pod_files::all(ledger, pod))?;
    enter::enter(&Surroundings {
        namespace: namespace::open(&pod.namespace)?,
        hostname: pod.spec.name.as_str(),
        files: &files,
    })
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
