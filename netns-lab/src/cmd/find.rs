//! Finds the lab and the pod that a command means.

use labkit::Failure;

use crate::edge::store;
use crate::model::ledger::{Ledger, PodRecord};
use crate::model::name::Label;

/// The ledgers of all labs, or of the one that is named.
pub(super) fn ledgers(name: Option<&Label>) -> Result<Vec<Ledger>, Failure> {
    let names = match name {
        Some(name) => vec![name.clone()],
        None => store::labs()?,
    };
    names
        .iter()
        .filter_map(|name| store::ledger(name).transpose())
        .collect()
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

/// The only lab, or the named one.
pub(super) fn lab(name: Option<&Label>) -> Result<Ledger, Failure> {
    let mut found = ledgers(name)?;
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

/// The lab that has a pod, and the pod.
pub(super) fn pod(name: Option<&Label>, pod: &Label) -> Result<(Ledger, PodRecord), Failure> {
    let labs = ledgers(name)?;
    if labs.is_empty() {
        return Err(no_lab(name));
    }
    let mut found: Vec<_> = labs
        .into_iter()
        .filter_map(|ledger| {
            let record = ledger.pod(pod)?.clone();
            Some((ledger, record))
        })
        .collect();
    match found.len() {
        0 => Err(Failure::failed(format!("there is no pod {pod}")).hint("`netns-lab status` lists the pods")),
        1 => Ok(found.remove(0)),
        _ => Err(Failure::usage(format!("several labs have a pod {pod}")).hint("say which: --name LAB")),
    }
}
