//! `netns-lab exec`: becomes a command in a pod.

use labkit::{Failure, Outcome};

use super::find;
use crate::cli::ExecArgs;
use crate::edge::enter::{self, Surroundings};
use crate::edge::{namespace, registry, store};
use crate::model::pod_files;

/// Runs `exec`.
pub(super) fn run(args: ExecArgs) -> Result<Outcome, Failure> {
    let (ledger, record) = find::pod(args.name.as_ref(), &args.pod)?;
    let pod = &record.pod;
    let lab = &ledger.lab.name;
    let files = store::pod_files(lab, &pod.spec.name);
    store::write_pod_files(&files, &pod_files::all(&ledger, pod, &registry::names(lab)))?;
    let surroundings = Surroundings {
        namespace: namespace::open(&pod.namespace)?,
        hostname: pod.spec.name.as_str(),
        files: &files,
    };
    enter::enter(&surroundings)?;
    let command = if args.command.is_empty() {
        enter::shell_command()
    } else {
        args.command
    };
    enter::become_command(&command)
}
