//! `miniproxy render`: the rules as text.

use labkit::shell::emit;
use labkit::xtables::Family;
use labkit::{Failure, Outcome};

use super::sync::{options, remark};
use crate::cli::RenderArgs;
use crate::rules::delta::Delta;

/// Prints what a sync would send to a kernel that has nothing yet.
pub(super) fn run(args: &RenderArgs) -> Result<Outcome, Failure> {
    let (store, refused) = super::objects(&args.registry, args.strict)?;
    let node = options(&args.node)?;
    remark(&node, store.registry());
    let wanted = node.wanted(store.registry(), family(args.family)?);
    let delta = Delta::from_nothing(wanted);
    emit(&delta.document())?;
    // The process ends: giving back a million small pieces would take as long as making them did.
    std::mem::forget((store, delta));
    refused.map_or(Ok(Outcome::Done), Err)
}

/// 4 or 6.
pub(super) fn family(number: u8) -> Result<Family, Failure> {
    match number {
        4 => Ok(Family::V4),
        6 => Ok(Family::V6),
        other => Err(Failure::usage(format!(
            "there is no IP family {other}; expected 4 or 6"
        ))),
    }
}
