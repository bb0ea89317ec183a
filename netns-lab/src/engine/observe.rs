//! Looks at the host: all that a plan is made from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;

use labkit::Failure;

use super::visit::visit;
use crate::edge::rules::Rules;
use crate::edge::{self, host, joined, namespace, process, store};
use crate::model::ledger::{Lab, Ledger, Pod};
use crate::model::name::Label;
use crate::model::node::{Host, Node};
use crate::model::observed::{Observed, View};
use crate::model::rule::{self, Rule};
use crate::model::stamp;

/// What the host has of a lab, and what could be in its way.
///
/// A lab without a ledger has made nothing, so that nothing of it is looked for. `iptables` is the
/// program to look with; none leaves the rules out.
pub fn observe(
    lab: &Lab,
    pods: &[Pod],
    ledger: Option<&Ledger>,
    iptables: Option<&Path>,
) -> Result<Observed, Failure> {
    let namespaces = namespaces(lab, pods, ledger);
    let there: Vec<Host> = hosts_to_look_at(lab, ledger, &namespaces);
    let iptables = iptables.filter(|_| ledger.is_some());
    thread::scope(|scope| {
        let holders = scope.spawn(|| Ok(held(lab, ledger)));
        let standing = scope.spawn(|| standing(lab, &there, iptables));
        let views = visit(lab, &there, |host| Ok((host.clone(), view(lab, host)?)))?;
        let published = ledger
            .map(|_| store::registry_files(&lab.name))
            .unwrap_or_default();
        let mut views: BTreeMap<Host, View> = views.into_iter().collect();
        for (host, rules) in joined(standing)? {
            views.entry(host).or_default().rules = rules;
        }
        let running = running(ledger);
        let (held, cut_off) = joined(holders)?;
        Ok(Observed {
            views,
            namespaces,
            netns_directory: namespace::directory_is_mounted(),
            bridge_netfilter: host::has_bridge_netfilter(),
            running,
            held,
            cut_off,
            agent: ledger.and_then(|ledger| ledger.agent).is_some_and(process::runs),
            has_service: store::has_service(&published),
            published: without_times(published),
        })
    })
}

/// Files as a plan has them.
fn without_times(files: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let files = files.into_iter();
    files
        .map(|(name, content)| (name, stamp::unstamped(content)))
        .collect()
}

/// The namespaces that are not pods' and can be looked into: the caller's if it is the node, and
/// those that are the lab's own as its ledger says.
fn hosts_to_look_at(lab: &Lab, ledger: Option<&Ledger>, namespaces: &BTreeMap<String, u64>) -> Vec<Host> {
    let ours = lab.hosts().into_iter().filter(|(_, namespace)| {
        let inode = ledger.and_then(|ledger| ledger.host(namespace)?.namespace_inode);
        inode.is_some() && namespaces.get(*namespace).copied() == inode
    });
    let caller = lab.caller_node().map(Node::host);
    ours.map(|(host, _)| host).chain(caller).collect()
}

fn view(lab: &Lab, host: &Host) -> Result<View, Failure> {
    let node = edge::node::Node::open()?;
    let tunnels = lab
        .underlay
        .as_ref()
        .is_some_and(|underlay| underlay.overlay.is_some());
    let (far_ends, neighbours) = match host {
        Host::Node(_) if tunnels => (node.far_ends()?, node.neighbours()?),
        _ => Default::default(),
    };
    Ok(View {
        far_ends,
        neighbours,
        links: node.links()?,
        addresses: node.addresses()?,
        routes: node.routes()?,
        rules: BTreeSet::new(),
        settings: host::settings(lab, host),
    })
}

/// The lab's rules that stand on each node.
fn standing(
    lab: &Lab,
    hosts: &[Host],
    iptables: Option<&Path>,
) -> Result<Vec<(Host, BTreeSet<Rule>)>, Failure> {
    let Some(program) = iptables else {
        return Ok(Vec::new());
    };
    let wanted = |host: &Host| match host {
        Host::Node(name) => lab.node(name).map(|node| rule::rules(lab, node)),
        _ => None,
    };
    let nodes: Vec<_> = hosts
        .iter()
        .filter(|host| wanted(host).is_some())
        .cloned()
        .collect();
    visit(lab, &nodes, |host| {
        let wanted = wanted(host).unwrap_or_default();
        let standing = Rules::new(program).standing(&wanted)?;
        Ok((host.clone(), standing.into_iter().collect()))
    })
}

fn namespaces(lab: &Lab, pods: &[Pod], ledger: Option<&Ledger>) -> BTreeMap<String, u64> {
    let recorded = ledger.iter().flat_map(|ledger| &ledger.pods);
    let recorded = recorded.map(|record| &record.pod);
    let of_pods = pods.iter().chain(recorded).map(|pod| pod.namespace.as_str());
    let recorded = ledger.iter().flat_map(|ledger| &ledger.hosts);
    let recorded = recorded.map(|record| record.namespace.as_str());
    let of_hosts = lab.hosts().into_iter().map(|(_, namespace)| namespace);
    let names: BTreeSet<_> = of_pods.chain(of_hosts).chain(recorded).collect();
    names
        .into_iter()
        .filter_map(|name| Some((name.to_string(), namespace::look(name)?)))
        .collect()
}

/// The pods whose recorded holder runs, and those of them that have no way to the bridge any more.
fn held(lab: &Lab, ledger: Option<&Ledger>) -> (BTreeSet<Label>, BTreeSet<Label>) {
    let gateways: BTreeMap<_, _> = lab
        .nodes
        .iter()
        .map(|node| (node.name(), node.bridge_address().addr()))
        .collect();
    let (mut held, mut cut_off) = (BTreeSet::new(), BTreeSet::new());
    for record in ledger.into_iter().flat_map(|ledger| &ledger.pods) {
        let Some(holder) = record.holder.filter(|holder| process::runs(*holder)) else {
            continue;
        };
        let name = &record.pod.spec.name;
        held.insert(name.clone());
        let gateway = gateways.get(&record.pod.node);
        if gateway.is_some_and(|gateway| !process::has_default_route(holder, *gateway)) {
            cut_off.insert(name.clone());
        }
    }
    (held, cut_off)
}

/// The recorded containers that run, each with its pod.
pub fn running(ledger: Option<&Ledger>) -> BTreeSet<(Label, Label)> {
    let records = ledger.iter().flat_map(|ledger| &ledger.pods);
    let containers = records.flat_map(|record| {
        let alive = record.containers.iter();
        let alive = alive.filter(|container| container.process.is_some_and(process::runs));
        alive.map(|container| (record.pod.spec.name.clone(), container.name.clone()))
    });
    containers.collect()
}
