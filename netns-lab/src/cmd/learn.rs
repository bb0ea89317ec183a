//! `netns-lab learn`.

use labkit::{Failure, Outcome};

use crate::cli::talk::LearnArgs;

/// Runs `learn`.
pub(super) fn run(_args: &LearnArgs) -> Result<Outcome, Failure> {
    Ok(Outcome::Done)
}
