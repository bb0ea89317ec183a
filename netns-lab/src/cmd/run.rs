//! `netns-lab run`: adds a container to a pod.

use std::fs;

use labkit::rundir::RunDirectory;
use labkit::shell;
use labkit::{Failure, Outcome};

use super::find;
use crate::cli::RunArgs;
use crate::edge::credentials::{NOBODY, is_unmapped};
use crate::engine::join::add_container;
use crate::engine::settle::{self, Place};
use crate::model::container::ContainerSpec;
use crate::model::name::DEFAULT_LAB;

/// Runs `run`.
pub(super) fn run(args: RunArgs) -> Result<Outcome, Failure> {
    let _run = RunDirectory::lock()?;
    let (ledger, record) = find::pod(args.lab.as_ref(), &args.pod)?;
    if ledger.leaving {
        return Err(find::no_lab(Some(&ledger.lab.name)));
    }
    if let Place::Elsewhere(pid) = settle::place(&ledger)? {
        return Err(settle::elsewhere(&ledger, pid));
    }
    let rootfs = args.rootfs.map(|path| {
        // The command that starts it again may run in another folder.
        fs::canonicalize(&path).unwrap_or(path)
    });
    let spec = ContainerSpec {
        command: args.command,
        rootfs,
        cpu: args.cpu,
        memory: args.memory,
        capabilities: args.cap,
        user: args.user,
        ..ContainerSpec::named(args.name)
    };
    let lab = if ledger.lab.name.as_str() == DEFAULT_LAB {
        String::new()
    } else {
        format!(" --name {}", ledger.lab.name)
    };
    add_container(ledger, &args.pod, &spec, args.once)?;
    if is_unmapped(spec.user.unwrap_or(NOBODY)) {
        shell::tell(
            "note: no other user exists in this sandbox: the container stays user 0, which is you\n      \
             outside, but has no capability it was not given",
        );
    }
    let (pod, name) = (&record.pod.spec.name, &spec.name);
    shell::emit(&format!(
        "the container {name} runs in {pod}\nnext: netns-lab exec{lab} {pod} -c {name}\n      \
         netns-lab logs{lab} {pod} -c {name}\n"
    ))?;
    Ok(Outcome::Done)
}
