//! `netns-lab rollout`: the pods of an app become another version, a few at a time.

use std::collections::BTreeMap;

use labkit::{Failure, Outcome, fault};

use super::life::{check_way, more, of_app, refuse_during_rollout, transition};
use super::objects::Open;
use crate::cli::life::RolloutArgs;
use crate::edge::{process, store};
use crate::model::deployment;
use crate::model::ledger::Rollout;
use crate::model::life::{self, Pace, VERSION_LABEL};
use crate::model::name::Label;
use crate::model::topology::PodSpec;

/// Runs `rollout`.
pub(super) fn run(args: &RolloutArgs) -> Result<Outcome, Failure> {
    let mut open = Open::new(args.lab.as_ref())?;
    refuse_during_rollout(&open, args.app.as_str())?;
    let before = open.ledger.topology().pods;
    let (wanted, pods, said) = if let Some(mut deployment) = open.deployment(args.app.as_str()) {
        if let Some(spec) = &mut deployment.spec {
            let metadata = spec.template.metadata.get_or_insert_default();
            let labels = metadata.labels.get_or_insert_with(BTreeMap::new);
            labels.insert(VERSION_LABEL.into(), args.version.as_str().into());
        }
        let wanted = open.wanted_with(&deployment)?;
        let pace = deployment::pace(&deployment);
        check_way(&open, &wanted, pace)?;
        open.put_object(&deployment)?;
        let pods = wanted
            .iter()
            .filter(|pod| deployment::owns(args.app.as_str(), pod));
        let pods = pods.count();
        (wanted, pods, Some(pace))
    } else {
        let (wanted, pods) = of_label(&open, args)?;
        (wanted, pods, None)
    };
    let staying = |pod: &&PodSpec| wanted.iter().any(|other| other.name == pod.name);
    let replaced = before.iter().filter(|pod| !staying(pod)).count();
    let pace = said.unwrap_or_else(|| Pace::careful(replaced));
    begin(&mut open, &args.app, pods)?;
    let (mut open, said) = transition(open, &wanted, pace, &args.end)?;
    open.ledger.rollouts.remove(&args.app);
    store::write_ledger(&open.ledger)?;
    let version = args.version.as_str().trim_start_matches('v');
    let what = if replaced == 0 && said.is_empty() {
        format!("{} is v{version} already", args.app)
    } else {
        format!("{said}{} is v{version} now", args.app)
    };
    open.finish(&what, &[])?;
    Ok(Outcome::Done)
}

/// Writes down that the rollout begins, and how many pods there are to be in the end.
fn begin(open: &mut Open, app: &Label, pods: usize) -> Result<(), Failure> {
    if let Some(by) = process::own() {
        open.ledger.rollouts.insert(app.clone(), Rollout { pods, by });
        store::write_ledger(&open.ledger)?;
    }
    fault::point("rollout:begun");
    Ok(())
}

/// All pods of the lab, when those of an app that are another version are replaced, and how many pods
/// the app has then: as many as now, or as when a rollout began that somebody has cut short.
fn of_label(open: &Open, args: &RolloutArgs) -> Result<(Vec<PodSpec>, usize), Failure> {
    let own = of_app(open, &args.app)?;
    let begun = open.ledger.rollouts.get(&args.app);
    let pods = begun.map_or(own.len(), |rollout| rollout.pods);
    let is_old = |pod: &PodSpec| life::version(pod) != Some(args.version.as_str());
    let (old, new): (Vec<_>, Vec<_>) = own.into_iter().partition(is_old);
    let mut wanted = open.ledger.topology().pods;
    let Some(last) = old.last() else {
        return Ok((wanted, new.len()));
    };
    let like = life::with_version(last, &args.version).map_err(Failure::usage)?;
    wanted.retain(|pod| !old.iter().any(|other| other.name == pod.name));
    let missing = pods.saturating_sub(new.len());
    wanted.extend(more(open, &args.app, &like, missing)?);
    Ok((wanted, pods))
}
