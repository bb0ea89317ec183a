//! Takes a lab down: everything in its ledger goes, nothing else does.

use std::collections::BTreeSet;
use std::thread;

use labkit::rundir::RunDirectory;
use labkit::{Failure, fault, footprint};

use super::breakage;
use super::settle::{self, Place};
use crate::edge::node::Node;
use crate::edge::rules::Rules;
use crate::edge::{cgroup, host, joined, namespace, process, store};
use crate::model::ledger::{HostRecord, Ledger, PodRecord};
use crate::model::name::Label;
use crate::model::rule;

/// The name under which a lab holds the footprint of iptables.
pub fn holder(lab: &Label) -> String {
    format!("netns-lab/{lab}")
}

/// Takes a lab down. All parts are tried; the failures come together.
///
/// # Errors
/// What could not be removed. The ledger then stays, and another `down` goes on.
pub fn take_down(run: &RunDirectory, mut ledger: Ledger) -> Result<(), Failure> {
    let place = settle::place(&ledger)?;
    if let Place::Elsewhere(pid) = place {
        return Err(settle::elsewhere(&ledger, pid));
    }
    let stray = if ledger.unsettled || ledger.leaving {
        settle::strays(&ledger)
    } else {
        Vec::new()
    };
    ledger.leaving = true;
    // A killed `up` has not written them down; by these, too, the next `down` finds what it has started.
    settle::note_namespaces(&mut ledger);
    store::write_ledger(&ledger)?;
    fault::point("down:announced");
    // What was broken on purpose, as long as all it hangs on is there.
    let mended = if place == Place::Here {
        breakage::undo_all(&ledger)
    } else {
        Vec::new()
    };
    let agent: Vec<_> = ledger.agent.into_iter().collect();
    let apps: Vec<_> = ledger
        .pods
        .iter()
        .flat_map(PodRecord::processes)
        .chain(stray)
        .collect();
    let mut failures = thread::scope(|scope| {
        let ended = scope.spawn(|| {
            // First the agent, which would take the end of each app for news.
            process::end(&agent);
            fault::point("down:agent");
            process::end(&apps);
            fault::point("down:apps");
            Ok(())
        });
        let mut failures = Vec::new();
        if place == Place::Here && ledger.node_namespace.is_some() {
            failures.extend(take_down_network(run, &ledger));
        }
        failures.extend(remove_names(run, &ledger));
        failures.extend(joined(ended).err());
        failures
    });
    failures.extend(mended);
    if place == Place::Gone {
        let forgotten = ledger.node_namespace.map(|node| footprint::forget(run, node));
        failures.extend(forgotten.and_then(Result::err));
    }
    failures.extend(cgroup::remove_all(&ledger.lab.name).err());
    fault::point("down:cgroups");
    if failures.is_empty() {
        failures.extend(forget(&ledger, place));
    }
    Failure::all(failures).map_or(Ok(()), Err)
}

/// The kernel takes a namespace apart when its last process has ended, if it has no name then. All links,
/// rules and settings of nodes of their own go with them.
fn remove_names(run: &RunDirectory, ledger: &Ledger) -> Vec<Failure> {
    let mut failures = remove_namespaces(&ledger.pods);
    failures.extend(remove_hosts(run, &ledger.hosts));
    fault::point("down:namespaces");
    failures
}

/// Links and rules, at the same time: each waits for the kernel in its own way.
fn take_down_network(run: &RunDirectory, ledger: &Ledger) -> Vec<Failure> {
    let lab = &ledger.lab;
    thread::scope(|scope| {
        let rules = scope.spawn(|| {
            let rules = lab.caller_node().map(|node| rule::rules(lab, node));
            Rules::new(&ledger.iptables).remove(&rules.unwrap_or_default())?;
            fault::point("down:rules");
            Ok(())
        });
        let links = Node::open().and_then(|node| {
            node.delete_group(lab.group())?;
            node.delete_group(lab.group() | crate::model::name::LEAVING_BIT)
        });
        fault::point("down:links");
        let rules = joined(rules).and_then(|()| footprint::release(run, &holder(&lab.name)));
        fault::point("down:footprint");
        links.err().into_iter().chain(rules.err()).collect()
    })
}

/// Removes the names of pods that still stand for the pods' own namespaces.
pub fn remove_namespaces<'a>(records: impl IntoIterator<Item = &'a PodRecord>) -> Vec<Failure> {
    let mut failures = Vec::new();
    for record in records {
        let name = &record.pod.namespace;
        if is_ours(name, record.namespace_inode) {
            failures.extend(namespace::remove(name).err());
            fault::point("down:namespace");
        }
    }
    failures
}

/// As [`remove_namespaces`], with what else is remembered of them.
pub fn remove_hosts<'a>(
    run: &RunDirectory,
    records: impl IntoIterator<Item = &'a HostRecord>,
) -> Vec<Failure> {
    let mut failures = Vec::new();
    for record in records {
        let name = &record.namespace;
        if let Some(inode) = record.namespace_inode.or_else(|| namespace::inode(name)) {
            failures.extend(footprint::forget(run, inode).err());
        }
        if is_ours(name, record.namespace_inode) {
            failures.extend(namespace::remove(name).err());
            fault::point("down:host-removed");
        }
    }
    failures
}

/// Whether a name stands for the namespace that was recorded, or was announced and no more.
fn is_ours(name: &str, recorded: Option<u64>) -> bool {
    match (namespace::look(name), recorded) {
        (None, _) => false,
        (Some(0), _) | (Some(_), None) => true,
        (Some(found), Some(recorded)) => found == recorded,
    }
}

/// Removes a pod's files and the groups of its containers.
pub fn forget_pod(lab: &Label, record: &PodRecord) -> Result<(), Failure> {
    let name = &record.pod.spec.name;
    let containers: BTreeSet<Label> = record
        .containers
        .iter()
        .map(|container| container.name.clone())
        .chain(record.pod.containers().into_iter().map(|spec| spec.name))
        .collect();
    for container in &containers {
        cgroup::remove(lab, name, container)?;
    }
    store::forget_pod(lab, name, containers.iter())
}

/// Puts back what the last lab must put back, and removes the lab's folder.
fn forget(ledger: &Ledger, place: Place) -> Vec<Failure> {
    let lab = &ledger.lab.name;
    let (others, unsure) = match other_labs(lab).and_then(|others| Ok((others, another_is_unreadable(lab)?)))
    {
        Ok(found) => found,
        Err(failure) => return vec![failure],
    };
    let mut failures = Vec::new();
    match store::shared() {
        Err(failure) => failures.push(failure),
        Ok(mut shared) => {
            let others_here = |node: u64| others.iter().any(|other| other.node_namespace == Some(node));
            if let Some(node) = ledger
                .node_namespace
                .filter(|node| !unsure && !others_here(*node))
            {
                if place == Place::Here {
                    failures.extend(host::restore_settings(node, &mut shared));
                } else {
                    shared.settings.remove(&node);
                }
            }
            fault::point("down:settings");
            if !unsure && others.is_empty() {
                failures.extend(host::restore_shared(&mut shared));
            }
            fault::point("down:shared");
            failures.extend(store::write_shared(&shared).err());
        }
    }
    fault::point("down:recorded");
    if failures.is_empty() {
        failures.extend(store::remove_lab_directory(&ledger.lab.name).err());
    }
    fault::point("down:folder");
    failures
}

/// The ledgers of all other labs, but for those that cannot be read.
pub fn other_labs(lab: &Label) -> Result<Vec<Ledger>, Failure> {
    let names = store::labs()?.into_iter().filter(|name| name != lab);
    Ok(names
        .filter_map(|name| store::ledger(&name).ok().flatten())
        .collect())
}

/// Whether another lab has a ledger that cannot be read: it may need all that labs share.
fn another_is_unreadable(lab: &Label) -> Result<bool, Failure> {
    let mut names = store::labs()?.into_iter().filter(|name| name != lab);
    Ok(names.any(|name| store::ledger(&name).is_err()))
}
