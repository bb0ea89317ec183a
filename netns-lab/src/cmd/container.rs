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
    let mut exit = store::open_exit_file(&args.lab, &args.pod, &args.inside.container).ok();
    furnish(&args.lab, &args.pod, &args.inside)?;
    credentials(&args.inside).take_on()?;
    let environment = [
        ("HOSTNAME", args.pod.as_str()),
        ("HOME", "/"),
        ("POD", args.pod.as_str()),
        ("CONTAINER", args.inside.container.as_str()),
    ];
    let ended = first::run(&args.command, &environment, || {
        stdio::tell_starter(&launch::word(&args.pod, &args.inside.container))
    });
    if let (Ok(Outcome::Code(code)), Some(exit)) = (&ended, &mut exit) {
        // Nobody waits for this process who could ask it.
        let _ = write!(exit, "{code}");
    }
    ended
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
