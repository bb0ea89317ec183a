//! `netns-lab doctor`.

use labkit::{Failure, Outcome};

use crate::cli::DoctorArgs;

/// Runs `doctor`.
pub(super) fn run(_args: &DoctorArgs) -> Result<Outcome, Failure> {
    Err(Failure::failed("soon"))
}
