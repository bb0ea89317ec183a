//! `netns-lab holder`: holds a pod's namespaces and does nothing else.
//!
//! As the pause container of a pod, it is what stays when containers come and go. There is one for
//! each pod, so it must be small: it is reached before the command line is parsed.

use std::ffi::OsStr;

use labkit::{Failure, Outcome};

/// The word on the command line.
const VERB: &str = "holder";

/// Whether this process was started as one.
pub fn is_meant(verb: Option<&OsStr>) -> bool {
    verb.is_some_and(|verb| verb == VERB)
}

/// Holds until it is ended.
pub fn run() -> Result<Outcome, Failure> {
    // A session of its own: a Ctrl-C at the terminal of `up` is not meant for it.
    let _ = nix::unistd::setsid();
    loop {
        nix::unistd::pause();
    }
}
