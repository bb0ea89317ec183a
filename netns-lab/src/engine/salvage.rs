//! What is left of a lab's ledger when the file is damaged or another version's.
//!
//! The lab's marks are on all that it made: the group of its links, the comment of its rules, the
//! command lines of its processes. From them a ledger is made that `down` can work by.

use std::collections::BTreeMap;
use std::thread;

use labkit::rundir::network_namespace;
use labkit::xtables::{Family, Flavour, Xtables, legacy_tables_exist};
use labkit::{Failure, tool};

use super::settle::{self, Place};
use crate::edge::{joined, links, namespace, pod, process, rules, store};
use crate::model::layout::{self, lay_out};
use crate::model::ledger::{HostRecord, Lab, Ledger, Pod, PodRecord, VERSION};
use crate::model::name::{self, Label};
use crate::model::observed::Link;
use crate::model::rule;
use crate::model::topology::{NodeSpec, Topology};

/// An inode that no namespace has: the name is left to whoever it belongs to.
const NOBODYS: u64 = u64::MAX;

/// A ledger of what is recognised, after the removal of the rules, whose words are not known.
pub fn salvage(lab: &Label) -> Result<Ledger, Failure> {
    let (recorded, pods) = store::remains(lab);
    let here = network_namespace()?;
    let nominal = nominal(lab)?;
    let (hosts, links_there) = match recorded {
        Some(_) => (Vec::new(), Vec::new()),
        None => own_hosts(&nominal, here)?,
    };
    let agents = || process::node_of_agent(lab.as_str());
    let node_namespace = if hosts.is_empty() {
        Some(recorded.or_else(agents).unwrap_or(here))
    } else {
        None
    };
    let xtables = Xtables::detect(None)?;
    let mut ledger = Ledger {
        version: VERSION,
        lab: nominal,
        node_namespace,
        iptables: xtables.iptables(Family::V4),
        unsettled: true,
        leaving: true,
        hosts,
        pods: Vec::new(),
        released: Vec::new(),
        agent: None,
        rollouts: BTreeMap::new(),
    };
    if let Place::Elsewhere(pid) = settle::place(&ledger)? {
        return Err(settle::elsewhere(&ledger, pid));
    }
    let mut links = links::all()?;
    links.extend(links_there);
    let mut topology = Topology::web_pods(1);
    let pattern = topology.pods.remove(0);
    topology.pods = pods
        .into_iter()
        .map(|name| crate::model::topology::PodSpec {
            name,
            ..pattern.clone()
        })
        .collect();
    let laid_out =
        lay_out(&ledger.lab, &topology, None).map_err(|error| Failure::failed(error.to_string()))?;
    let records = laid_out.into_iter().map(|pod| record(&ledger.lab, pod, &links));
    ledger.pods = records.collect();
    if node_namespace == Some(here) {
        remove_rules(lab, &xtables)?;
    }
    Ok(ledger)
}

/// The namespaces of a lab whose nodes are its own, and the links in them: those under a name that
/// have links of the lab's group. Without its underlay there are none.
fn own_hosts(lab: &Lab, here: u64) -> Result<(Vec<HostRecord>, Vec<Link>), Failure> {
    let (mut hosts, mut all) = (Vec::new(), Vec::new());
    let host = |name: &str, inode| HostRecord {
        namespace: name.to_string(),
        namespace_inode: Some(inode),
    };
    let underlay = name::underlay_namespace(&lab.name);
    if namespace::inode(&underlay).is_none() {
        return Ok((hosts, all));
    }
    for name in namespace::names() {
        let Some(inode) = namespace::inode(&name).filter(|inode| *inode != here) else {
            continue;
        };
        let file = namespace::open(&name)?;
        let links = thread::scope(|scope| {
            joined(scope.spawn(|| {
                pod::enter(&file)?;
                links::all()
            }))
        })?;
        if links.iter().any(|link| link.group == lab.group()) {
            hosts.push(host(&name, inode));
            all.extend(links);
        }
    }
    if !hosts.iter().any(|host| host.namespace == underlay) {
        return Ok((Vec::new(), Vec::new()));
    }
    let outside = name::outside_namespace(&lab.name);
    hosts.extend(namespace::inode(&outside).map(|inode| host(&outside, inode)));
    Ok((hosts, all))
}

/// The lab with ranges that nobody asks for any more.
fn nominal(lab: &Label) -> Result<Lab, Failure> {
    let range = |text: &str| {
        text.parse()
            .map_err(|error| Failure::failed(format!("{text}: {error}")))
    };
    let pod_cidr = range("10.244.0.0/16")?;
    let bridge = name::bridge(lab);
    let node = NodeSpec::named(Label::default_node(lab));
    Ok(Lab {
        name: lab.clone(),
        nodes: vec![layout::only_node(node, pod_cidr, &bridge)],
        pod_cidr,
        pod_cidr6: None,
        service_cidr: range("10.96.0.0/16")?,
        service_cidr6: None,
        bridge,
        underlay: None,
        dns: None,
    })
}

/// A pod's namespace is ours if our app runs in it, or if our link leads to it.
fn record(lab: &Lab, pod: Pod, links: &[Link]) -> PodRecord {
    let inode = namespace::inode(&pod.namespace);
    let linked = links
        .iter()
        .any(|link| link.name == pod.interface && link.group == lab.group());
    let ours = inode.is_some_and(|inode| linked || !process::strays(lab.name.as_str(), &[inode]).is_empty());
    PodRecord {
        namespace_inode: Some(inode.filter(|_| ours).unwrap_or(NOBODYS)),
        ..PodRecord::announced(pod)
    }
}

/// By both flavours: which one wrote them is not known any more.
fn remove_rules(lab: &Label, detected: &Xtables) -> Result<(), Failure> {
    let mark = rule::mark(lab);
    rules::remove_marked(detected, &mark)?;
    let (other, program) = match detected.flavour {
        Flavour::Nft => (Flavour::Legacy, "iptables-legacy"),
        Flavour::Legacy => (Flavour::Nft, "iptables-nft"),
    };
    // iptables-legacy-save would make the tables that it asks about.
    if other == Flavour::Legacy && legacy_tables_exist(Family::V4) == Some(false) {
        return Ok(());
    }
    match tool::find(program) {
        Some(program) => rules::remove_marked(&Xtables::detect(Some(&program))?, &mark),
        None => Ok(()),
    }
}
