//! What the commands on the life of pods share: who comes, who goes, and in which order.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use labkit::{Failure, fault, shell};

use super::objects::{Open, now};
use crate::cli::life::EndArgs;
use crate::edge::process;
use crate::engine::retire::{self, Grace};
use crate::engine::settle::{self, Place};
use crate::model::ledger::{Leaving, ProcessId};
use crate::model::life;
use crate::model::name::Label;
use crate::model::topology::PodSpec;

/// Fails where the lab cannot be changed from here.
pub(super) fn here(open: &Open) -> Result<(), Failure> {
    match settle::place(&open.ledger)? {
        Place::Elsewhere(pid) => Err(settle::elsewhere(&open.ledger, pid)),
        Place::Here | Place::Gone => Ok(()),
    }
}

/// Ends pods gracefully; others may change the lab meanwhile. What is left of the pods goes with the
/// next change of shape.
pub(super) fn retire(
    mut open: Open,
    pods: &[Label],
    leaving: Leaving,
    end: &EndArgs,
) -> Result<Open, Failure> {
    let known: Vec<_> = pods
        .iter()
        .filter(|pod| open.ledger.pod(pod).is_some())
        .cloned()
        .collect();
    if known.is_empty() {
        return Ok(open);
    }
    here(&open)?;
    open = free(open, &known)?;
    retire::announce(&mut open.ledger, &known, leaving, &now())?;
    let ledger = open.ledger.clone();
    drop(open);
    let grace = Grace {
        rules: end.grace,
        connections: end.drain,
    };
    retire::finish(&ledger, &known, grace);
    Open::new(Some(&ledger.lab.name))
}

/// Fails where another command rolls out an app: each would count on pods that the other ends.
pub(super) fn refuse_during_rollout(open: &Open, app: &str) -> Result<(), Failure> {
    let rollouts = open.ledger.rollouts.iter();
    let mut of_app = rollouts.filter(|(name, _)| name.as_str() == app);
    let others = |by: ProcessId| process::own() != Some(by) && process::runs(by);
    match of_app.find(|(_, rollout)| others(rollout.by)) {
        None => Ok(()),
        Some((_, rollout)) => Err(Failure::failed(format!(
            "another command is rolling out {app}, the process {}",
            rollout.by.pid
        ))
        .hint("wait until it has ended, then again")),
    }
}

/// Waits until no other command ends any of these pods.
pub(super) fn free(mut open: Open, pods: &[Label]) -> Result<Open, Failure> {
    const PATIENCE: Duration = Duration::from_secs(120);
    const LOOK_AGAIN: Duration = Duration::from_millis(50);
    let deadline = Instant::now() + PATIENCE;
    let mut told = false;
    loop {
        let others = open.ledger.pods_of_others();
        let others: BTreeSet<_> = others.map(|record| record.pod.spec.name.clone()).collect();
        let Some(pod) = pods.iter().find(|pod| others.contains(*pod)) else {
            return Ok(open);
        };
        if Instant::now() >= deadline {
            let failure = Failure::failed(format!("another command is still ending the pod {pod}"));
            return Err(failure.hint("`netns-lab status` tells when it has ended"));
        }
        if !told {
            shell::tell(&format!("waiting: another command is ending the pod {pod}"));
            told = true;
        }
        let lab = open.ledger.lab.name.clone();
        drop(open);
        thread::sleep(LOOK_AGAIN);
        open = Open::new(Some(&lab))?;
    }
}

/// Who goes and who comes on the way from the pods of a lab to these.
fn old_and_new(open: &Open, wanted: &[PodSpec]) -> (Vec<Label>, Vec<PodSpec>) {
    let standing = open.ledger.topology().pods;
    let there: BTreeSet<_> = standing.iter().map(|pod| &pod.name).collect();
    let stays: BTreeSet<_> = wanted.iter().map(|pod| &pod.name).collect();
    let old = standing.iter().map(|pod| &pod.name);
    let old = old.filter(|name| !stays.contains(name)).cloned().collect();
    let new = wanted.iter().filter(|pod| !there.contains(&pod.name));
    (old, new.cloned().collect())
}

/// Fails if there is no room for these pods, or for those that are there on the way to them. Asked
/// before anything is written: a wish that cannot be had must not stay in the registry.
pub(super) fn check_way(open: &Open, wanted: &[PodSpec], pace: life::Pace) -> Result<(), Failure> {
    let (old, new) = old_and_new(open, wanted);
    let mut pods = open.ledger.topology().pods;
    for (come, go) in life::batches(&old, &new, pace) {
        if !come.is_empty() {
            pods.extend(come);
            open.check(pods.clone())?;
        }
        pods.retain(|pod| !go.contains(&pod.name));
    }
    open.check(wanted.to_vec())
}

/// Leads the lab to these pods, batch by batch, and tells who came and who went.
pub(super) fn transition(
    mut open: Open,
    wanted: &[PodSpec],
    pace: life::Pace,
    end: &EndArgs,
) -> Result<(Open, String), Failure> {
    here(&open)?;
    let (old, new) = old_and_new(&open, wanted);
    let mut said = String::new();
    for (come, go) in life::batches(&old, &new, pace) {
        if !come.is_empty() {
            let mut pods = open.ledger.topology().pods;
            pods.retain(|pod| !come.iter().any(|other| other.name == pod.name));
            pods.extend(come.iter().cloned());
            open.shape(pods)?;
            fault::point("rollout:came");
            said.extend(come.iter().map(|pod| format!("pod/{} created\n", pod.name)));
        }
        if !go.is_empty() {
            open = retire(open, &go, Leaving::ForGood, end)?;
            said.extend(go.iter().map(|pod| format!("pod/{pod} deleted\n")));
        }
    }
    if !old.is_empty() {
        open.shape(open.ledger.topology().pods)?;
    }
    Ok((open, said))
}

/// The pods of an app that no Deployment has.
pub(super) fn of_app(open: &Open, app: &Label) -> Result<Vec<PodSpec>, Failure> {
    let carries = |pod: &PodSpec| {
        let mut labels = pod.labels.iter();
        labels.any(|(key, value)| key.as_str() == "app" && value.as_str() == app.as_str())
    };
    let pods: Vec<_> = open
        .single_pods(&open.files)
        .into_iter()
        .filter(carries)
        .collect();
    if pods.is_empty() {
        let failure = Failure::failed(format!(
            "there is no Deployment {app} and no pod labelled app={app}"
        ));
        return Err(failure.hint(format!(
            "add a first pod: netns-lab pod add {app}-1 --labels app={app}"
        )));
    }
    Ok(pods)
}

/// More pods of an app.
pub(super) fn more(open: &Open, app: &Label, like: &PodSpec, number: usize) -> Result<Vec<PodSpec>, Failure> {
    let taken: Vec<_> = open
        .ledger
        .pods
        .iter()
        .map(|record| record.pod.spec.clone())
        .collect();
    life::more(app.as_str(), like, number, &taken)
        .map_err(|name| Failure::failed(format!("{name:?} would be too long for the name of a pod")))
}
