//! `netns-lab rollout`: the pods of an app become another version, a few at a time.

use std::collections::BTreeMap;

use labkit::{Failure, Outcome};

use super::life::{more, of_app, transition};
use super::objects::Open;
use crate::cli::life::RolloutArgs;
use crate::model::deployment;
use crate::model::life::{self, Pace, VERSION_LABEL};
use crate::model::topology::PodSpec;

/// Runs `rollout`.
pub(super) fn run(args: &RolloutArgs) -> Result<Outcome, Failure> {
    let mut open = Open::new(args.lab.as_ref())?;
    let before = open.ledger.topology().pods;
    let (wanted, said) = match open.deployment(args.app.as_str()) {
        Some(mut deployment) => {
            if let Some(spec) = &mut deployment.spec {
                let metadata = spec.template.metadata.get_or_insert_default();
                let labels = metadata.labels.get_or_insert_with(BTreeMap::new);
                labels.insert(VERSION_LABEL.into(), args.version.as_str().into());
            }
            let wanted = open.wanted_with(&deployment)?;
            open.put_object(&deployment)?;
            (wanted, Some(deployment::pace(&deployment)))
        }
        None => (of_label(&open, args)?, None),
    };
    let staying = |pod: &&PodSpec| wanted.iter().any(|other| other.name == pod.name);
    let replaced = before.iter().filter(|pod| !staying(pod)).count();
    let pace = said.unwrap_or_else(|| Pace::careful(replaced));
    let (open, said) = transition(open, &wanted, pace, &args.end)?;
    let version = args.version.as_str().trim_start_matches('v');
    let what = if replaced == 0 && said.is_empty() {
        format!("{} is v{version} already", args.app)
    } else {
        format!("{said}{} is v{version} now", args.app)
    };
    open.finish(&what, &[])?;
    Ok(Outcome::Done)
}

/// All pods of the lab, when those of an app that are another version are replaced.
fn of_label(open: &Open, args: &RolloutArgs) -> Result<Vec<PodSpec>, Failure> {
    let own = of_app(open, &args.app)?;
    let old: Vec<_> = own
        .into_iter()
        .filter(|pod| life::version(pod) != Some(args.version.as_str()))
        .collect();
    let mut wanted = open.ledger.topology().pods;
    let Some(last) = old.last() else {
        return Ok(wanted);
    };
    let like = life::with_version(last, &args.version).map_err(Failure::usage)?;
    wanted.retain(|pod| !old.iter().any(|other| other.name == pod.name));
    wanted.extend(more(open, &args.app, &like, old.len())?);
    Ok(wanted)
}
