//! Faults of pods' links.

use labkit::rundir::RunDirectory;
use labkit::{Failure, fault};

use super::ground::Ground;
use crate::edge::breakage::{inside, links, record, shaping};
use crate::edge::namespace;
use crate::model::breakage::link::LinkFault;
use crate::model::breakage::record::Record;
use crate::model::ledger::Ledger;
use crate::model::name::Label;
use crate::model::rule;

/// Changes what is wrong with a pod's link: `change` is told what it is so far. Returns what it is
/// then.
///
/// # Errors
/// What the kernel lacks or refused; what was so before is so again then.
pub fn set_link(
    _run: &RunDirectory,
    ledger: &Ledger,
    pod: &Label,
    change: impl FnOnce(&mut LinkFault),
) -> Result<LinkFault, Failure> {
    let ground = Ground::of(ledger)?;
    let found = ground.all_pods().find(|(_, known)| known.spec.name == *pod);
    let (spot, known) = found.ok_or_else(|| match ledger.pod(pod) {
        Some(_) => Failure::failed(format!(
            "the pod {pod} is the lab's own, and its link is left as it is"
        ))
        .hint(format!(
            "a name server that does not answer: netns-lab pod unready {pod}"
        )),
        None => Failure::failed(format!("there is no pod {pod}")).hint("`netns-lab status` lists the pods"),
    })?;
    let mut all = record::read(&ledger.lab.name)?;
    let at = all.links.iter().position(|fault| fault.pod == *pod);
    let before = at.map_or_else(
        || LinkFault {
            pod: pod.clone(),
            interface: known.interface.clone(),
            namespace: spot.namespace.clone(),
            down: false,
            loss: None,
            delay: None,
            rate: None,
            by_rules: false,
        },
        |at| all.links.remove(at),
    );
    let mut wanted = before.clone();
    change(&mut wanted);
    // Loss is for rules only where nothing else can make it.
    wanted.by_rules = wanted.loss.is_some()
        && wanted.delay.is_none()
        && !inside(spot.namespace.as_deref(), || netem(&before))?;
    // Both are on record until the one has taken the other's place.
    let settled = all.links.clone();
    all.links.push(LinkFault {
        by_rules: before.by_rules || wanted.by_rules,
        down: before.down || wanted.down,
        ..wanted.clone()
    });
    record::write(&ledger.lab.name, &all)?;
    fault::point("link:recorded");
    let made = apply(ledger, &before, &wanted);
    let stays = if made.is_ok() { &wanted } else { &before };
    if made.is_err() {
        apply(ledger, &wanted, &before)?;
    }
    fault::point("link:changed");
    all.links = settled;
    if !stays.is_none() {
        all.links.push(stays.clone());
    }
    record::write(&ledger.lab.name, &all)?;
    made.map(|()| wanted)
}

/// Whether the kernel can lose and delay; a discipline that is there by now is not tried over.
fn netem(before: &LinkFault) -> Result<bool, Failure> {
    match before.qdisc() {
        Some(words) if words.first().is_some_and(|kind| kind == "netem") => Ok(true),
        _ => shaping::has_netem(&before.interface),
    }
}

/// Makes a link as `wanted` says.
fn apply(ledger: &Ledger, before: &LinkFault, wanted: &LinkFault) -> Result<(), Failure> {
    let pod = ledger.pod(&wanted.pod).map(|record| record.pod.ip.to_string());
    let mark = rule::mark(&ledger.lab.name);
    inside(wanted.namespace.as_deref(), || {
        let link = &wanted.interface;
        if !links::exists(link) {
            return Ok(());
        }
        shaping::set(link, wanted.qdisc().as_deref())?;
        if let Some(pod) = pod.filter(|_| before.by_rules || wanted.by_rules) {
            shaping::set_loss_rules(&ledger.iptables, &mark, &pod, wanted.rule_probability())?;
        }
        if before.down != wanted.down {
            links::set_up(link, !wanted.down)?;
        }
        Ok(())
    })
}

/// Undoes all link faults of a record.
///
/// # Errors
/// What could not be undone.
pub fn clear_links(ledger: &Ledger, record: &Record) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for fault in &record.links {
        let gone = fault
            .namespace
            .as_deref()
            .is_some_and(|name| namespace::inode(name).is_none());
        if gone {
            continue;
        }
        let healthy = LinkFault {
            down: false,
            loss: None,
            delay: None,
            rate: None,
            by_rules: false,
            ..fault.clone()
        };
        failures.extend(apply(ledger, fault, &healthy).err());
    }
    Failure::all(failures).map_or(Ok(()), Err)
}
