//! Gives up root's powers for good.

use caps::CapSet;
use labkit::Failure;
use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

/// `nobody` and `nogroup`, by their customary numbers.
const NOBODY: u32 = 65534;

/// Lets go of everything that root has and an app does not need.
///
/// In a user namespace that maps a single id there is no other user to become; there the process
/// stays user 0, which is the caller outside, but without capabilities.
pub fn drop_all() -> Result<(), Failure> {
    drop_powers(become_nobody)
}

/// Lets go of root's capabilities and stays the same user, who may read files of its own.
pub fn drop_capabilities() -> Result<(), Failure> {
    drop_powers(|| Ok(()))
}

fn drop_powers(change_user: impl FnOnce() -> nix::Result<()>) -> Result<(), Failure> {
    let failed =
        |what: &str, error: &dyn std::fmt::Display| Failure::failed(format!("cannot {what}: {error}"));
    // Once it is empty, no program that is run later gets anything back, not even a setuid one.
    // It needs a capability to shrink it, so it goes first; who has none has nothing to drop.
    if caps::has_cap(None, CapSet::Effective, caps::Capability::CAP_SETPCAP).unwrap_or(false) {
        caps::clear(None, CapSet::Bounding).map_err(|error| failed("empty the bounding set", &error))?;
    }
    change_user().map_err(|error| failed("become nobody", &error))?;
    for set in [
        CapSet::Ambient,
        CapSet::Effective,
        CapSet::Inheritable,
        CapSet::Permitted,
    ] {
        caps::clear(None, set).map_err(|error| failed("drop capabilities", &error))?;
    }
    nix::sys::prctl::set_no_new_privs().map_err(|error| failed("forbid new privileges", &error))
}

fn become_nobody() -> nix::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let unmapped = |error: &Errno| matches!(error, Errno::EINVAL | Errno::EPERM);
    // Where setgroups is denied there are no groups of root's to lose.
    match setgroups(&[]) {
        Err(error) if !unmapped(&error) => return Err(error),
        _ => {}
    }
    match setgid(Gid::from_raw(NOBODY)).and_then(|()| setuid(Uid::from_raw(NOBODY))) {
        Err(error) if unmapped(&error) => Ok(()),
        other => other,
    }
}
