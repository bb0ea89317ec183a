//! Brings the ledger of a command that died back in line with what is there.

use std::collections::BTreeSet;

use labkit::Failure;
use labkit::rundir::network_namespace;

use crate::edge::{namespace, process};
use crate::model::ledger::{Ledger, PodRecord, ProcessId};

/// The namespaces of a lab as they are now: those recorded, and those under announced names.
pub fn namespaces(ledger: &Ledger) -> BTreeSet<u64> {
    let pods = ledger.pods.iter();
    let pods = pods.map(|record| (record.namespace_inode, &record.pod.namespace));
    let hosts = ledger.hosts.iter();
    let hosts = hosts.map(|record| (record.namespace_inode, &record.namespace));
    pods.chain(hosts)
        .filter_map(|(inode, name)| inode.or_else(|| namespace::inode(name)))
        .collect()
}

/// Writes down the namespaces that announced names stand for.
pub fn note_namespaces(ledger: &mut Ledger) {
    let pods = ledger.pods.iter_mut();
    let pods = pods.map(|record| (&mut record.namespace_inode, &record.pod.namespace));
    let hosts = ledger.hosts.iter_mut();
    let hosts = hosts.map(|record| (&mut record.namespace_inode, &record.namespace));
    for (inode, name) in pods.chain(hosts) {
        *inode = inode.or_else(|| namespace::inode(name));
    }
}

/// Processes of the lab that run and are not in its ledger.
pub fn strays(ledger: &Ledger) -> Vec<ProcessId> {
    let mut places: Vec<_> = namespaces(ledger).into_iter().collect();
    places.extend(ledger.node_namespace);
    let found = process::strays(ledger.lab.name.as_str(), &places);
    let known: Vec<_> = ledger
        .pods
        .iter()
        .flat_map(PodRecord::processes)
        .chain(ledger.agent)
        .collect();
    found
        .into_iter()
        .filter(|process| !known.contains(process))
        .collect()
}

/// Where a lab's node is, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// This network namespace is its node, or its nodes have namespaces of their own.
    Here,
    /// Its node is another one, which this process is in.
    Elsewhere(Option<i32>),
    /// Its node does not exist any more.
    Gone,
}

/// Finds out where a lab's node is.
pub fn place(ledger: &Ledger) -> Result<Place, Failure> {
    let Some(node) = ledger.node_namespace else {
        return Ok(Place::Here);
    };
    if network_namespace()? == node {
        return Ok(Place::Here);
    }
    let own: Vec<_> = ledger
        .agent
        .iter()
        .map(|agent| agent.pid)
        .chain(strays(ledger).iter().map(|p| p.pid))
        .collect();
    if let Some(pid) = process::anyone_in(node, &own) {
        return Ok(Place::Elsewhere(Some(pid)));
    }
    Ok(if namespace::is_named(node) {
        Place::Elsewhere(None)
    } else {
        Place::Gone
    })
}

/// The failure of a command that was called outside the lab's node.
pub fn elsewhere(ledger: &Ledger, pid: Option<i32>) -> Failure {
    let lab = &ledger.lab.name;
    let failure = Failure::failed(format!(
        "the lab {lab} belongs to another network namespace than this one"
    ));
    match pid {
        Some(pid) => failure.hint(format!(
            "go there first: nsenter --net=/proc/{pid}/ns/net netns-lab …"
        )),
        None => failure.hint("go there first: `ip netns identify`, `ip netns exec NAME netns-lab …`"),
    }
}
