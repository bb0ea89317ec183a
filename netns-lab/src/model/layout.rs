//! The layout: which ranges, addresses and names the nodes and pods of a lab get.
//!
//! All of it follows from the topology and from what the lab had before: who stays keeps what it
//! has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::address::{self, AddressError};
use super::ledger::{Lab, Leaving, Ledger, Pod, PodRecord};
use super::name::{self, Label};
use super::name_server::with_system_pods;
use super::node::{Machine, Node, Underlay};
use super::schedule::{self, Unschedulable};
use super::topology::{NodeSpec, Overlay, Topology};

/// Why a topology cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A range of pods is too small.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A pod has no node.
    #[error(transparent)]
    Unschedulable(#[from] Unschedulable),
    /// The lab's range has no part left for a node.
    #[error("{cidr} has room for {room} nodes with a /{prefix} each, and {wanted} are wanted")]
    TooManyNodes {
        /// The range of all pods.
        cidr: Ipv4Net,
        /// How many nodes fit.
        room: usize,
        /// The length of a node's range.
        prefix: u8,
        /// How many were asked for.
        wanted: usize,
    },
}

/// The range of the nodes' own addresses; nobody but the lab sees it.
const UNDERLAY: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 18, 0, 0), 16);
const UNDERLAY6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 0), 64);
/// Where the host outside is in it, far behind the nodes.
const OUTSIDE_HOST: u32 = 0xfffe;
/// Virtual IPs of load balancers: ranges that are set aside for documentation (RFC 5737, RFC 3849).
const POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24);
const POOL6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 112);
/// The pods' range of a dual-stack lab; each node has a /64 of it.
pub const PODS6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0), 48);
/// The Services' range of a dual-stack lab.
pub const SERVICES6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0), 112);

/// The underlay of a new lab.
pub fn underlay(lab: &Label, dual_stack: bool, overlay: Option<Overlay>) -> Underlay {
    let outside = name::outside_namespace(lab);
    Underlay {
        namespace: name::underlay_namespace(lab),
        cidr: UNDERLAY,
        cidr6: dual_stack.then_some(UNDERLAY6),
        overlay,
        outside: Machine {
            interface: name::underlay_interface(&outside),
            namespace: outside,
            ip: address::host(UNDERLAY, OUTSIDE_HOST),
            ip6: dual_stack.then(|| address::host6(UNDERLAY6, OUTSIDE_HOST)),
        },
        load_balancer_pool: POOL,
        load_balancer_pool6: dual_stack.then_some(POOL6),
    }
}

/// The one node of a lab whose node is the namespace that `up` was called in.
pub fn only_node(spec: NodeSpec, pod_cidr: Ipv4Net, bridge: &str) -> Node {
    Node {
        spec,
        pod_cidr,
        pod_cidr6: None,
        bridge: bridge.to_string(),
        machine: None,
    }
}

/// How long the range of each node of a new lab is: large enough for twice an even share of the
/// pods, for what a node says it takes, and for the pods that name it.
pub fn node_prefix(topology: &Topology) -> u8 {
    let mut named: BTreeMap<&Label, usize> = BTreeMap::new();
    for node in topology.pods.iter().filter_map(|pod| pod.node_name.as_ref()) {
        *named.entry(node).or_default() += 1;
    }
    let share = topology.pods.len().div_ceil(topology.nodes.len().max(1));
    let said = topology.nodes.iter().filter_map(|node| node.pods);
    let need = said.chain(named.into_values()).chain([share]).max().unwrap_or(1);
    address::prefix_for(need.saturating_add(need / 2).clamp(1, address::MAX_PODS)).unwrap_or(22)
}

/// The shortest prefix of which a range has so many parts.
pub fn shortest_prefix(cidr: Ipv4Net, parts: usize) -> u8 {
    let bits = parts.max(1).next_power_of_two().trailing_zeros();
    cidr.prefix_len()
        .saturating_add(u8::try_from(bits).unwrap_or(32))
        .min(29)
}

/// The nodes of a lab that are namespaces of their own.
///
/// `prefix` is the length of a new node's range.
///
/// # Errors
/// When the lab's range is used up.
pub fn nodes(lab: &Lab, specs: &[NodeSpec], prefix: u8) -> Result<Vec<Node>, LayoutError> {
    let full = |room| LayoutError::TooManyNodes {
        cidr: lab.pod_cidr,
        room,
        prefix,
        wanted: specs.len(),
    };
    let before: BTreeMap<&Label, &Node> = lab.nodes.iter().map(|node| (node.name(), node)).collect();
    let staying: Vec<_> = specs.iter().filter_map(|spec| before.get(&spec.name)).collect();
    let ranges: BTreeSet<_> = staying.iter().map(|node| node.pod_cidr).collect();
    let addresses: BTreeSet<_> = staying
        .iter()
        .filter_map(|node| Some(node.machine.as_ref()?.ip))
        .collect();
    let subnets = lab.pod_cidr.subnets(prefix).map_err(|_| full(0))?;
    let room = subnets.count();
    let mut ranges = subnets.filter(|range| !ranges.contains(range));
    let mut offsets =
        (1..OUTSIDE_HOST).filter(|offset| !addresses.contains(&address::host(UNDERLAY, *offset)));
    let mut found = Vec::with_capacity(specs.len());
    for spec in specs {
        if let Some(node) = before.get(&spec.name) {
            found.push(Node {
                spec: spec.clone(),
                ..(*node).clone()
            });
            continue;
        }
        let (range, offset) = (ranges.next(), offsets.next());
        let (Some(range), Some(offset)) = (range, offset) else {
            return Err(full(room));
        };
        found.push(new_node(lab, spec, range, offset));
    }
    Ok(found)
}

fn new_node(lab: &Lab, spec: &NodeSpec, pod_cidr: Ipv4Net, offset: u32) -> Node {
    let namespace = name::host_namespace(&lab.name, &spec.name);
    let dual_stack = lab.pod_cidr6.is_some();
    Node {
        pod_cidr,
        pod_cidr6: lab
            .pod_cidr6
            .and_then(|all| node_range6(lab.pod_cidr, pod_cidr, all)),
        bridge: lab.bridge.clone(),
        machine: Some(Machine {
            interface: name::underlay_interface(&namespace),
            namespace,
            ip: address::host(UNDERLAY, offset),
            ip6: dual_stack.then(|| address::host6(UNDERLAY6, offset)),
        }),
        spec: spec.clone(),
    }
}

/// The IPv6 range that goes with an IPv4 range: the same number among the parts of the lab's.
fn node_range6(all: Ipv4Net, one: Ipv4Net, all6: Ipv6Net) -> Option<Ipv6Net> {
    let size = 32 - u32::from(one.prefix_len());
    let number = (one.network().to_bits() - all.network().to_bits()) >> size;
    let network = all6.network().to_bits() | (u128::from(number) << 64);
    Ipv6Net::new(Ipv6Addr::from_bits(network), 64).ok()
}

/// Gives each pod of a topology its node, its addresses and its names.
///
/// # Errors
/// When there is no room.
pub fn lay_out(lab: &Lab, topology: &Topology, before: Option<&Ledger>) -> Result<Vec<Pod>, LayoutError> {
    let records = || {
        before
            .iter()
            .flat_map(|ledger| &ledger.pods)
            .map(|record| &record.pod)
    };
    let specs = with_system_pods(lab, &topology.pods);
    if let [only] = &lab.nodes[..] {
        // Said as what it is: nothing has to be chosen here.
        let (room, wanted) = (address::room(only.pod_cidr), specs.len());
        if wanted > room {
            let cidr = only.pod_cidr;
            return Err(AddressError::Full { cidr, room, wanted }.into());
        }
    }
    let placed = records()
        .map(|pod| (pod.spec.name.clone(), pod.node.clone()))
        .collect();
    let places = schedule::schedule(&lab.nodes, &specs, &placed)?;
    let mut kept: BTreeMap<&Label, BTreeMap<Label, Ipv4Addr>> = BTreeMap::new();
    let given_back = before.map(Ledger::given_back).unwrap_or_default();
    let held = before.iter().flat_map(|ledger| ledger.pods_of_others());
    let held = held.map(|record| record.pod.ip).collect();
    let staying = before.iter().flat_map(|ledger| &ledger.pods);
    let stays = |record: &&PodRecord| {
        record.leaving.is_none() || record.leaving_by_others() == Some(Leaving::ToReturn)
    };
    for pod in staying.filter(stays).map(|record| &record.pod) {
        kept.entry(&pod.node)
            .or_default()
            .insert(pod.spec.name.clone(), pod.ip);
    }
    let mut addresses: BTreeMap<&Label, _> = BTreeMap::new();
    for node in &lab.nodes {
        let here = specs
            .iter()
            .zip(&places)
            .filter(|(_, place)| *place == node.name());
        let names: Vec<_> = here.map(|(pod, _)| pod.name.clone()).collect();
        let kept = kept.remove(node.name()).unwrap_or_default();
        let given = address::assign(node.pod_cidr, &kept, &given_back, &held, &names)?;
        addresses.insert(node.name(), (node, given.into_iter()));
    }
    let pods = specs.iter().zip(&places).enumerate();
    Ok(pods
        .filter_map(|(index, (spec, place))| {
            let (node, given) = addresses.get_mut(place)?;
            let ip = given.next()?;
            Some(Pod {
                node: place.clone(),
                ip,
                ip6: node
                    .pod_cidr6
                    .map(|range| address::beside(node.pod_cidr, ip, range)),
                namespace: name::namespace(&lab.name, &spec.name),
                interface: name::host_interface(&lab.name, &spec.name),
                system: index >= topology.pods.len(),
                spec: spec.clone(),
            })
        })
        .collect())
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
