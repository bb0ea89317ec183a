//! What lab an `up` means: its nodes and ranges, from the flags and the topology, else as it was made,
//! else what is free.

use labkit::Failure;
use labkit::rundir::network_namespace;

use crate::cli::UpArgs;
use crate::edge::cgroup;
use crate::engine::down::other_labs;
use crate::model::address::{self, room};
use crate::model::layout::{self, LayoutError};
use crate::model::ledger::{Lab, Ledger, Pod};
use crate::model::name::{self, Label};
use crate::model::name_server::NameServer;
use crate::model::schedule::Unschedulable;
use crate::model::topology::{NodeSpec, Topology};

/// The topology that is wanted: what the flags say goes for it, too.
pub(super) fn with_flags(args: &UpArgs, given: Option<Topology>, before: Option<&Ledger>) -> Topology {
    let mut topology = given
        .or_else(|| before.map(Ledger::topology))
        .unwrap_or_else(|| Topology::web_pods(3));
    topology.isolated |= args.isolated;
    topology.dual_stack |= args.dual_stack;
    topology.overlay = args.overlay.or(topology.overlay);
    topology.dns = match (args.dns, args.no_dns) {
        (_, true) => Some(false),
        (true, _) => Some(true),
        _ => args.dns_upstream.as_ref().map(|_| true).or(topology.dns),
    };
    topology.dns_upstream = args.dns_upstream.clone().or(topology.dns_upstream);
    topology
}

/// The lab.
pub(super) fn lab(args: &UpArgs, topology: &Topology, before: Option<&Ledger>) -> Result<Lab, Failure> {
    let mut lab = match before {
        Some(ledger) => {
            refuse_changes(args, topology, ledger)?;
            changed(topology, &ledger.lab)?
        }
        None if topology.has_own_nodes() => of_own_nodes(args, topology)?,
        None => on_this_node(args, topology)?,
    };
    lab.dns = name_server(topology, before, &lab)?;
    Ok(lab)
}

/// The name server: as said, else as it was, else where the nodes are the lab's own.
fn name_server(
    topology: &Topology,
    before: Option<&Ledger>,
    lab: &Lab,
) -> Result<Option<NameServer>, Failure> {
    let had = before.and_then(|ledger| ledger.lab.dns.as_ref());
    let usual = before.map_or(lab.underlay.is_some(), |_| had.is_some());
    if !topology.dns.unwrap_or(usual) {
        return Ok(None);
    }
    let name = Label::kube_dns();
    if topology.pods.iter().any(|pod| pod.name == name) {
        return Err(Failure::usage(format!(
            "a pod of the topology is named {name}, as the name server"
        ))
        .hint("expected another name, or --no-dns"));
    }
    if had.is_none() && lab.underlay.is_none() {
        refuse_second(lab)?;
    }
    let kept = had.and_then(|server| server.upstream.clone());
    Ok(Some(NameServer {
        upstream: topology.dns_upstream.clone().or(kept),
    }))
}

/// Labs of one node have one set of rules, in which one Service can have that name.
fn refuse_second(lab: &Lab) -> Result<(), Failure> {
    let here = network_namespace()?;
    let others = other_labs(&lab.name)?;
    let has = |other: &&Ledger| other.node_namespace == Some(here) && other.lab.dns.is_some();
    match others.iter().find(has) {
        None => Ok(()),
        Some(other) => Err(Failure::failed(format!(
            "the lab {} on this node has the Service kube-system/kube-dns already",
            other.lab.name
        ))
        .hint("give this one nodes of its own: --isolated")),
    }
}

/// A lab that is up, with the nodes that are wanted now.
fn changed(topology: &Topology, before: &Lab) -> Result<Lab, Failure> {
    let mut lab = before.clone();
    if topology.nodes.is_empty() {
        return Ok(lab);
    }
    if lab.underlay.is_some() {
        let first = lab.nodes.first().map(|node| node.pod_cidr.prefix_len());
        let prefix = first.unwrap_or_else(|| layout::node_prefix(topology));
        lab.nodes = layout::nodes(&lab, &topology.nodes, prefix).map_err(|error| refused(&error))?;
    } else {
        for (node, spec) in lab.nodes.iter_mut().zip(&topology.nodes) {
            node.spec = spec.clone();
        }
    }
    Ok(lab)
}

/// A new lab whose nodes have namespaces of their own. Nobody else sees its ranges.
fn of_own_nodes(args: &UpArgs, topology: &Topology) -> Result<Lab, Failure> {
    let dual_stack = topology.dual_stack;
    let mut lab = Lab {
        name: args.name.clone(),
        nodes: Vec::new(),
        pod_cidr: args.pod_cidr.unwrap_or(address::CLUSTER),
        pod_cidr6: dual_stack.then_some(layout::PODS6),
        service_cidr: match args.service_cidr {
            Some(cidr) => cidr,
            None => address::default_service_cidr(&[]).ok_or_else(|| none_free(SERVICE_CIDR))?,
        },
        service_cidr6: dual_stack.then_some(layout::SERVICES6),
        bridge: args.bridge.clone().unwrap_or_else(|| "cni0".to_string()),
        underlay: Some(layout::underlay(&args.name, dual_stack, topology.overlay)),
        dns: None,
    };
    let default = [NodeSpec::named(Label::default_node(&args.name))];
    let specs = if topology.nodes.is_empty() {
        &default[..]
    } else {
        &topology.nodes
    };
    let prefix = layout::node_prefix(topology).max(layout::shortest_prefix(lab.pod_cidr, specs.len()));
    lab.nodes = layout::nodes(&lab, specs, prefix).map_err(|error| refused(&error))?;
    Ok(lab)
}

const POD_CIDR: &str = "--pod-cidr 10.50.0.0/24";
const SERVICE_CIDR: &str = "--service-cidr 10.51.0.0/16";

fn none_free(flag: &str) -> Failure {
    Failure::failed("other labs have all the default ranges").hint(format!("choose one: {flag}"))
}

/// A new lab whose node is the namespace that `up` was called in.
fn on_this_node(args: &UpArgs, topology: &Topology) -> Result<Lab, Failure> {
    let others = other_labs(&args.name)?;
    let taken: Vec<_> = others
        .iter()
        .filter(|other| other.node_namespace.is_some())
        .flat_map(|other| [other.lab.pod_cidr, other.lab.service_cidr])
        .collect();
    let pod_cidr = args
        .pod_cidr
        .or_else(|| address::default_pod_cidr(topology.pods.len(), &taken))
        .ok_or_else(|| none_free(POD_CIDR))?;
    let service_cidr = args
        .service_cidr
        .or_else(|| address::default_service_cidr(&taken))
        .ok_or_else(|| none_free(SERVICE_CIDR))?;
    let bridge = args.bridge.clone().unwrap_or_else(|| name::bridge(&args.name));
    let spec = topology.nodes.first().cloned();
    let spec = spec.unwrap_or_else(|| NodeSpec::named(Label::default_node(&args.name)));
    let lab = Lab {
        name: args.name.clone(),
        nodes: vec![layout::only_node(spec, pod_cidr, &bridge)],
        pod_cidr,
        pod_cidr6: None,
        service_cidr,
        service_cidr6: None,
        bridge,
        underlay: None,
        dns: None,
    };
    let overlapping = taken.iter().find_map(|other| {
        let flags = [(lab.pod_cidr, "--pod-cidr"), (lab.service_cidr, "--service-cidr")];
        flags
            .into_iter()
            .find(|(range, _)| address::overlap(*range, *other))
            .map(|(range, flag)| (range, flag, other))
    });
    match overlapping {
        Some((range, flag, other)) => Err(Failure::failed(format!(
            "{range} overlaps {other} of another lab"
        ))
        .hint(format!("choose another range: {flag}"))),
        None => Ok(lab),
    }
}

/// A lab's ranges, its bridges, and what its nodes are stay as they are while it is up.
fn refuse_changes(args: &UpArgs, topology: &Topology, ledger: &Ledger) -> Result<(), Failure> {
    let lab = &ledger.lab;
    let own = lab.underlay.as_ref();
    let only = lab.caller_node();
    let renamed = |node: &NodeSpec| only.is_some_and(|only| *only.name() != node.name);
    let overlay = |wanted| own.is_none_or(|underlay| underlay.overlay != Some(wanted));
    let changed = [
        args.pod_cidr
            .is_some_and(|cidr| cidr != lab.pod_cidr)
            .then(|| format!("pods in {}", lab.pod_cidr)),
        args.service_cidr
            .is_some_and(|cidr| cidr != lab.service_cidr)
            .then(|| format!("Services in {}", lab.service_cidr)),
        args.bridge
            .as_ref()
            .is_some_and(|bridge| *bridge != lab.bridge)
            .then(|| format!("the bridge {}", lab.bridge)),
        (own.is_none() && (topology.isolated || topology.nodes.len() > 1))
            .then(|| "this network namespace as its only node".to_string()),
        topology
            .nodes
            .first()
            .filter(|node| renamed(node))
            .and(only)
            .map(|only| format!("the node {}", only.name())),
        (topology.dual_stack && lab.pod_cidr6.is_none()).then(|| "IPv4 alone".to_string()),
        topology
            .overlay
            .filter(|wanted| overlay(*wanted))
            .map(|_| "plain routes between its nodes".to_string()),
    ];
    match changed.into_iter().flatten().next() {
        None => Ok(()),
        Some(has) => Err(Failure::failed(format!(
            "the lab {} is up with {has}, which cannot change",
            lab.name
        ))
        .hint(format!("take it down first: netns-lab down {}", lab.name))),
    }
}

/// Each pod with its place, if there is room for all and new ones can have the limits they ask for.
pub(super) fn placed(lab: &Lab, topology: &Topology, before: Option<&Ledger>) -> Result<Vec<Pod>, Failure> {
    let pods = layout::lay_out(lab, topology, before).map_err(|error| refused(&error))?;
    let stands = |pod: &&Pod| {
        let record = before.and_then(|ledger| ledger.pod(&pod.spec.name));
        record.is_some_and(|record| record.pod.spec == pod.spec)
    };
    for pod in pods.iter().filter(|pod| !stands(pod)) {
        for container in pod.containers() {
            cgroup::check(&container).map_err(|failure| failure.hint("nothing was changed"))?;
        }
    }
    Ok(pods)
}

/// A topology that does not fit, and what helps.
fn refused(error: &LayoutError) -> Failure {
    let failure = Failure::usage(error.to_string());
    match error {
        LayoutError::Address(address::AddressError::Full { wanted, .. }) => failure.hint(format!(
            "give the lab a larger range when it is made: --pod-cidr {}",
            wider(*wanted)
        )),
        LayoutError::TooManyNodes { .. } => {
            failure.hint("give the lab a larger range when it is made: --pod-cidr 10.0.0.0/12")
        }
        LayoutError::Unschedulable(Unschedulable::NoRoom { pod, .. }) if *pod == Label::kube_dns() => failure
            .hint("it is the lab's own: a lab without a name server has --no-dns")
            .hint("or add a node, or say that a node has more; nothing was changed"),
        LayoutError::Unschedulable(_) => {
            failure.hint("ask for less, add a node, or say that a node has more; nothing was changed")
        }
    }
}

fn wider(pods: usize) -> String {
    let prefix = (16..=24).rev().find(|prefix| {
        let text = format!("10.244.0.0/{prefix}");
        text.parse().is_ok_and(|cidr| room(cidr) >= pods)
    });
    format!("10.244.0.0/{}", prefix.unwrap_or(16))
}
