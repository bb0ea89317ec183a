//! Looks at the host: all that a plan is made from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;

use labkit::Failure;

use super::launch::on_workers;
use super::visit::visit;
use crate::edge::rules::Rules;
use crate::edge::{self, host, joined, namespace, process, store};
use crate::model::ledger::{Lab, Ledger, Pod, PodRecord};
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
    let of_hosts = named(host_names(lab, ledger));
    let there: Vec<Host> = hosts_to_look_at(lab, ledger, &of_hosts);
    let iptables = iptables.filter(|_| ledger.is_some());
    thread::scope(|scope| {
        let standing = scope.spawn(|| standing(lab, &there, iptables));
        let alive = scope.spawn(|| alive(lab, ledger));
        let of_pods = scope.spawn(|| Ok(named(pod_names(pods, ledger))));
        let published = ledger.map(|_| store::registry_files(&lab.name));
        let published = published.unwrap_or_default();
        let has_service = store::has_service(&published);
        let published = without_times(published);
        let views = visit(lab, &there, |host| Ok((host.clone(), view(lab, host)?)))?;
        let mut views: BTreeMap<Host, View> = views.into_iter().collect();
        for (host, rules) in joined(standing)? {
            views.entry(host).or_default().rules = rules;
        }
        let mut namespaces = of_hosts;
        namespaces.extend(joined(of_pods)?);
        let alive = joined(alive)?;
        Ok(Observed {
            views,
            namespaces,
            netns_directory: namespace::directory_is_mounted(),
            bridge_netfilter: host::has_bridge_netfilter(),
            exit_codes: exit_codes(lab, ledger, &alive.running),
            running: alive.running,
            held: alive.held,
            cut_off: alive.cut_off,
            agent: ledger.and_then(|ledger| ledger.agent).is_some_and(process::runs),
            has_service,
            published,
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
        links: edge::links::all()?,
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

fn host_names<'a>(lab: &'a Lab, ledger: Option<&'a Ledger>) -> BTreeSet<&'a str> {
    let recorded = ledger.into_iter().flat_map(|ledger| &ledger.hosts);
    let recorded = recorded.map(|record| record.namespace.as_str());
    let wanted = lab.hosts().into_iter().map(|(_, namespace)| namespace);
    wanted.chain(recorded).collect()
}

fn pod_names<'a>(pods: &'a [Pod], ledger: Option<&'a Ledger>) -> BTreeSet<&'a str> {
    let recorded = ledger.into_iter().flat_map(|ledger| &ledger.pods);
    let recorded = recorded.map(|record| &record.pod);
    pods.iter()
        .chain(recorded)
        .map(|pod| pod.namespace.as_str())
        .collect()
}

/// Those names that are there, and the namespace behind each.
fn named(names: BTreeSet<&str>) -> BTreeMap<String, u64> {
    let names = names.into_iter();
    names
        .filter_map(|name| Some((name.to_string(), namespace::look(name)?)))
        .collect()
}

/// What lives in the pods of a ledger.
#[derive(Default)]
struct Alive {
    /// Pods whose recorded holder runs.
    held: BTreeSet<Label>,
    /// Those of them that have no way to the bridge any more.
    cut_off: BTreeSet<Label>,
    /// The recorded containers that run, each with its pod.
    running: BTreeSet<(Label, Label)>,
}

/// Looks at the processes of all pods: thousands of files, which two threads read in half the time.
fn alive(lab: &Lab, ledger: Option<&Ledger>) -> Result<Alive, Failure> {
    const AT_A_TIME: usize = 32;
    let gateways: BTreeMap<_, _> = lab
        .nodes
        .iter()
        .map(|node| (node.name(), node.bridge_address().addr()))
        .collect();
    let records = ledger.map_or(&[][..], |ledger| &ledger.pods);
    let parts: Vec<_> = records.chunks(AT_A_TIME).collect();
    let parts = on_workers(
        &parts,
        || Ok(()),
        |(), records| {
            let mut part = Alive::default();
            for record in *records {
                look_at(record, gateways.get(&record.pod.node).copied(), &mut part);
            }
            Ok(part)
        },
    )?;
    let mut all = Alive::default();
    for mut part in parts {
        all.held.append(&mut part.held);
        all.cut_off.append(&mut part.cut_off);
        all.running.append(&mut part.running);
    }
    Ok(all)
}

/// What containers that were added and have ended have left. Those of the topology are started again.
fn exit_codes(
    lab: &Lab,
    ledger: Option<&Ledger>,
    running: &BTreeSet<(Label, Label)>,
) -> BTreeMap<(Label, Label), u8> {
    let records = ledger.into_iter().flat_map(|ledger| &ledger.pods);
    let added = records.flat_map(|record| {
        let containers = record
            .containers
            .iter()
            .filter(|container| container.added.is_some());
        containers.map(|container| (record.pod.spec.name.clone(), container.name.clone()))
    });
    let ended = added.filter(|key| !running.contains(key));
    let codes = ended.filter_map(|key| {
        let code = store::exit_code(&lab.name, &key.0, &key.1)?;
        Some((key, code))
    });
    codes.collect()
}

fn look_at(record: &PodRecord, gateway: Option<Ipv4Addr>, found: &mut Alive) {
    found.running.extend(running_in(record));
    let Some(holder) = record.holder.filter(|holder| process::runs(*holder)) else {
        return;
    };
    let name = &record.pod.spec.name;
    found.held.insert(name.clone());
    if gateway.is_some_and(|gateway| !process::has_default_route(holder, gateway)) {
        found.cut_off.insert(name.clone());
    }
}

/// The recorded containers that run, each with its pod.
fn running_in(record: &PodRecord) -> impl Iterator<Item = (Label, Label)> {
    let alive = record.containers.iter();
    let alive = alive.filter(|container| container.process.is_some_and(process::runs));
    alive.map(|container| (record.pod.spec.name.clone(), container.name.clone()))
}
