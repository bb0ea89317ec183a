//! `netns-lab talk`: tells a talk on stage.

pub(super) mod file;

use labkit::{Failure, Outcome};

use crate::cli::talk::TalkArgs;

/// Runs `talk`.
pub(super) fn run(args: &TalkArgs) -> Result<Outcome, Failure> {
    let talk = file::load(&args.talk)?;
    file::step(&talk, args.step)?;
    let _ = talk.cast;
    Ok(Outcome::Done)
}
