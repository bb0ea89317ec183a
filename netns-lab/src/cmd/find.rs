//! Finds the lab and the pod that a command means.

use labkit::{Failure, Kind, shell};

use crate::edge::store;
use crate::model::ledger::{Ledger, PodRecord};
use crate::model::name::{DEFAULT_LAB, Label, OUTSIDE};
use crate::model::node::{Machine, Node};

/// The ledgers of all labs, or of the one that is named.
///
/// # Errors
/// When the named lab is not up. One whose ledger cannot be read does not stop a command that may
/// mean another: it is told of.
pub(super) fn ledgers(name: Option<&Label>) -> Result<Vec<Ledger>, Failure> {
    if let Some(name) = name {
        let ledger = store::ledger(name)?.ok_or_else(|| no_lab(Some(name)))?;
        return Ok(vec![ledger]);
    }
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for lab in store::labs()? {
        match store::ledger(&lab) {
            Ok(ledger) => found.extend(ledger),
            Err(failure) if failure.kind() == Kind::HostLacks => return Err(failure),
            Err(failure) => failures.push(failure),
        }
    }
    if found.is_empty() && !failures.is_empty() {
        return Err(failures.remove(0));
    }
    for failure in failures {
        let hint = failure.hints().join("; ");
        shell::tell(&format!("warning: {}\n   hint: {hint}", failure.message()));
    }
    Ok(found)
}

/// The failure of a command that needs a lab where there is none.
pub(super) fn no_lab(name: Option<&Label>) -> Failure {
    match name {
        Some(name) => {
            Failure::failed(format!("no lab named {name} is up")).hint("`netns-lab status` lists the labs")
        }
        None => Failure::failed("no lab is up").hint("make one: netns-lab up 3-pods"),
    }
}

/// The named lab, else the default one, else the only one.
pub(super) fn lab(name: Option<&Label>) -> Result<Ledger, Failure> {
    let mut found = prefer_default(ledgers(name)?, |ledger| &ledger.lab.name);
    match found.len() {
        0 => Err(no_lab(name)),
        1 => Ok(found.remove(0)),
        _ => {
            let names: Vec<_> = found.iter().map(|ledger| ledger.lab.name.to_string()).collect();
            Err(
                Failure::usage(format!("several labs are up: {}", names.join(", ")))
                    .hint("say which: --name LAB"),
            )
        }
    }
}

/// Only the default lab, where it is among several: whoever names no lab means that one, as with
/// `up`.
fn prefer_default<T>(found: Vec<T>, name: impl Fn(&T) -> &Label) -> Vec<T> {
    let is_default = |one: &T| name(one).as_str() == DEFAULT_LAB;
    if found.iter().any(&is_default) {
        found.into_iter().filter(is_default).collect()
    } else {
        found
    }
}

/// The lab that has a pod, and the pod; of several the default lab.
pub(super) fn pod(name: Option<&Label>, pod: &Label) -> Result<(Ledger, PodRecord), Failure> {
    let labs = ledgers(name)?;
    if labs.is_empty() {
        return Err(no_lab(name));
    }
    let having: Vec<_> = labs
        .into_iter()
        .filter_map(|ledger| {
            let record = ledger.pod(pod)?.clone();
            Some((ledger, record))
        })
        .collect();
    let mut found = prefer_default(having, |(ledger, _)| &ledger.lab.name);
    match found.len() {
        0 => Err(Failure::failed(format!("there is no pod {pod}")).hint("`netns-lab status` lists the pods")),
        1 => Ok(found.remove(0)),
        _ => Err(Failure::usage(format!("several labs have a pod {pod}")).hint("say which: --name LAB")),
    }
}

/// Where a command can be run.
pub(super) enum Spot {
    /// In a pod.
    Pod(PodRecord),
    /// On a node.
    Node(Node),
    /// On the host outside of the cluster.
    Outside(Machine),
}

/// The lab that has a pod or a node of this name, or a host outside, and that; of several the
/// default lab.
pub(super) fn place(lab: Option<&Label>, name: &Label) -> Result<(Ledger, Spot), Failure> {
    let labs = ledgers(lab)?;
    if labs.is_empty() {
        return Err(no_lab(lab));
    }
    let having: Vec<_> = labs
        .into_iter()
        .filter_map(|ledger| {
            let found = spot(&ledger, name)?;
            Some((ledger, found))
        })
        .collect();
    let mut found = prefer_default(having, |(ledger, _)| &ledger.lab.name);
    match found.len() {
        0 => Err(Failure::failed(format!("there is no pod and no node {name}"))
            .hint("`netns-lab status` lists the nodes and pods")),
        1 => Ok(found.remove(0)),
        _ => Err(Failure::usage(format!("several labs have a {name}")).hint("say which: --name LAB")),
    }
}

fn spot(ledger: &Ledger, name: &Label) -> Option<Spot> {
    if let Some(record) = ledger.pod(name) {
        return Some(Spot::Pod(record.clone()));
    }
    if let Some(node) = ledger.lab.node(name) {
        return Some(Spot::Node(node.clone()));
    }
    let underlay = ledger.lab.underlay.as_ref()?;
    (name.as_str() == OUTSIDE).then(|| Spot::Outside(underlay.outside.clone()))
}

/// The names of a pod's containers: those that were started, else those that are wanted.
pub(super) fn container_names(record: &PodRecord) -> Vec<Label> {
    let mut names: Vec<_> = record
        .containers
        .iter()
        .map(|container| container.name.clone())
        .collect();
    for wanted in record.pod.containers() {
        if !names.contains(&wanted.name) {
            names.push(wanted.name);
        }
    }
    names
}

/// Fails if a pod has no container of this name.
pub(super) fn container(record: &PodRecord, name: &Label) -> Result<(), Failure> {
    let names = container_names(record);
    if names.contains(name) {
        return Ok(());
    }
    let pod = &record.pod.spec.name;
    let failure = Failure::failed(format!("the pod {pod} has no container {name}"));
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    Err(if names.is_empty() {
        failure.hint(format!("add one: netns-lab run {pod} --name {name} -- CMD"))
    } else {
        failure.hint(format!("it has: {}", names.join(", ")))
    })
}
