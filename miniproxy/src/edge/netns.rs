//! Network namespaces of nodes.

use std::fs::File;
use std::path::Path;

use labkit::Failure;
use nix::sched::{CloneFlags, setns};

/// Moves this thread, and every process and thread that it starts from now on, into a network namespace.
///
/// # Errors
/// When it is not there, or not to be entered.
pub fn enter(namespace: &Path) -> Result<(), Failure> {
    let shown = namespace.display();
    let file = File::open(namespace).map_err(|error| {
        Failure::failed(format!("cannot open the network namespace {shown}: {error}"))
            .hint("is the lab whole? see: netns-lab status")
    })?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| {
        let failure = Failure::host_lacks(format!("cannot enter the network namespace {shown}: {error}"));
        failure.hint("run as root (sudo), or inside `netns-lab sandbox`")
    })
}
