//! A crash on demand, so that a test can ask what `kill -9` leaves behind at each step.

use nix::sys::signal::{Signal, kill};
use nix::unistd::getpid;

/// The environment variable that names the step at which the process kills itself.
pub const VARIABLE: &str = "NETNS_LAB_KILL_AT";

/// Ends this process by SIGKILL if [`VARIABLE`] names this step; does nothing otherwise.
///
/// Each program calls this between the steps of its plan. SIGKILL, not a panic or an exit: no
/// destructor may run, since none would run in the case that is tested.
pub fn point(step: &str) {
    if std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == step) {
        tracing::warn!(step, "killing this process, as {VARIABLE} asks");
        // If the kernel refused, the test that asked for it would notice.
        let _ = kill(getpid(), Signal::SIGKILL);
    }
}
