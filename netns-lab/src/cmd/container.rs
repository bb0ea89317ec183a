//! `netns-lab container`: the first process of a container that runs a command.

use std::io::Write as _;

use labkit::{Failure, Outcome};

use crate::cli::{ContainerArgs, InsideArgs};
use crate::edge::container::{self, Inside};
use crate::edge::credentials::{Credentials, NOBODY};
use crate::edge::{first, stdio, store};
use crate::engine::launch;
use crate::model::container::CapabilityName;
use crate::model::name::Label;

/// Runs `container`.
pub(super) fn run(args: &ContainerArgs) -> Result<Outcome, Failure> {
    let _ = nix::unistd::setsid();
    leaving_code(&args.lab, &args.pod, &args.inside, || command(args))
}

/// Does the work of a container's first process, and leaves the exit code it ends with: nobody waits for this
/// process who could ask it.
pub(super) fn leaving_code(
    lab: &Label,
    pod: &Label,
    inside: &InsideArgs,
    work: impl FnOnce() -> Result<Outcome, Failure>,
) -> Result<Outcome, Failure> {
    // Before the container's own files are all that is seen.
    let exit = store::open_exit_file(lab, pod, &inside.container).ok();
    let ended = work();
    let code = match &ended {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::No) => 1,
        Ok(Outcome::Code(code)) => *code,
        Err(failure) => failure.exit_code(),
    };
    if let Some(mut exit) = exit {
        let _ = write!(exit, "{code}");
    }
    ended
}

fn command(args: &ContainerArgs) -> Result<Outcome, Failure> {
    furnish(&args.lab, &args.pod, &args.inside)?;
    credentials(&args.inside).take_on()?;
    let environment = [
        ("HOSTNAME", args.pod.as_str()),
        ("HOME", "/"),
        ("POD", args.pod.as_str()),
        ("CONTAINER", args.inside.container.as_str()),
    ];
    first::run(&args.command, &environment, || {
        stdio::tell_starter(&launch::word(&args.pod, &args.inside.container))
    })
}

/// Makes what a container sees, if this process is to be in one.
pub(super) fn furnish(lab: &Label, pod: &Label, args: &InsideArgs) -> Result<(), Failure> {
    let Some(view) = &args.inside else {
        return Ok(());
    };
    let inside = Inside {
        view: view.clone(),
        rootfs: args.rootfs.clone(),
        cgroup: args.cgroup.clone(),
        registry: args.see_registry,
    };
    container::furnish(lab, pod, &inside)
}

/// Who the container is.
pub(super) fn credentials(args: &InsideArgs) -> Credentials {
    Credentials {
        user: args.user.unwrap_or(NOBODY),
        capabilities: args.cap.iter().map(CapabilityName::value).collect(),
    }
}
