//! Who a container is: its user, and the few capabilities it was given.

use std::collections::HashSet;
use std::fs;

use caps::{CapSet, Capability};
use labkit::Failure;
use nix::errno::Errno;
use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};

/// `nobody`, by its customary number.
pub const NOBODY: u32 = 65534;

/// A user and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The number of the user, and of its group.
    pub user: u32,
    /// What it may do beyond a plain user.
    pub capabilities: HashSet<Capability>,
}

impl Credentials {
    /// Those of a running process.
    pub fn of(pid: i32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next())
        };
        let bits = u64::from_str_radix(field("CapEff:")?, 16).ok()?;
        let all = caps::all().into_iter();
        Some(Self {
            user: field("Uid:")?.parse().ok()?,
            capabilities: all
                .filter(|capability| bits & capability.bitmask() != 0)
                .collect(),
        })
    }

    /// Makes this process have them and nothing more, for good; programs that it runs have the same.
    ///
    /// Where a single id is mapped there is no other user to become: it stays the caller's, and
    /// only capabilities are lost.
    pub fn take_on(&self) -> Result<(), Failure> {
        let failed =
            |what: &str, error: &dyn std::fmt::Display| Failure::failed(format!("cannot {what}: {error}"));
        let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
        if has(Capability::CAP_SETPCAP) {
            let bounding = caps::read(None, CapSet::Bounding)
                .map_err(|error| failed("read the bounding set", &error))?;
            for capability in bounding.difference(&self.capabilities) {
                caps::drop(None, CapSet::Bounding, *capability)
                    .map_err(|error| failed("shrink the bounding set", &error))?;
            }
        }
        // Else the kernel takes all capabilities away with root.
        nix::sys::prctl::set_keepcaps(true).map_err(|error| failed("keep capabilities", &error))?;
        self.become_user()
            .map_err(|error| failed(&format!("become the user {}", self.user), &error))?;
        caps::clear(None, CapSet::Ambient).map_err(|error| failed("drop capabilities", &error))?;
        // What is permitted goes last: the other two may hold nothing else.
        for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
            caps::set(None, set, &self.capabilities).map_err(|error| failed("set capabilities", &error))?;
        }
        for capability in &self.capabilities {
            caps::raise(None, CapSet::Ambient, *capability)
                .map_err(|error| failed(&format!("hand on {capability}"), &error))?;
        }
        nix::sys::prctl::set_no_new_privs().map_err(|error| failed("forbid new privileges", &error))
    }

    fn become_user(&self) -> nix::Result<()> {
        if !geteuid().is_root() {
            return Ok(());
        }
        let unmapped = |error: &Errno| matches!(error, Errno::EINVAL | Errno::EPERM);
        // Where setgroups is denied there are no groups of root's to lose.
        match setgroups(&[]) {
            Err(error) if !unmapped(&error) => return Err(error),
            _ => {}
        }
        let (user, group) = (Uid::from_raw(self.user), Gid::from_raw(self.user));
        match setgid(group).and_then(|()| setuid(user)) {
            Err(error) if unmapped(&error) && is_unmapped(self.user) => Ok(()),
            other => other,
        }
    }
}

/// Whether a user does not exist in this user namespace, as all others in a plain user's sandbox.
pub fn is_unmapped(user: u32) -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(|word| word.parse::<u64>().ok());
        let (first, length) = (numbers.next().flatten(), numbers.nth(1).flatten());
        first
            .zip(length)
            .is_some_and(|(first, length)| (first..first + length).contains(&u64::from(user)))
    })
}
