//! The ways between nodes, and between nodes and outside: which routes each namespace has.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::address;
use super::ledger::Lab;
use super::node::{Host, Node, OWN_END, Underlay, VXLAN};
use super::observed::{Route, View};

/// A route that a namespace of the lab has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Where to.
    pub destination: IpNet,
    /// By which routers; several share the connections.
    pub via: Vec<IpAddr>,
    /// Through which link.
    pub device: &'static str,
    /// The far end of the tunnel, where it leads through one.
    pub tunnel: Option<Tunnel>,
}

/// The far end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// The node's address on the underlay.
    pub node: Ipv4Addr,
    /// The MAC of its tunnel device.
    pub mac: [u8; 6],
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let via: Vec<_> = self.via.iter().map(ToString::to_string).collect();
        match &self.destination {
            net if net.prefix_len() == 0 => write!(f, "everything else")?,
            net => write!(f, "{net}")?,
        }
        write!(f, " via {} on {}", via.join(", "), self.device)
    }
}

impl Way {
    /// Whether this route is it.
    pub fn is(&self, route: &Route, view: &View) -> bool {
        let mut via = route.via.clone();
        let mut wanted = self.via.clone();
        via.sort();
        wanted.sort();
        route.destination == self.destination
            && via == wanted
            && view
                .link(self.device)
                .is_some_and(|link| link.index == route.index)
    }
}

impl Way {
    /// Whether the far end of its tunnel can be found, if it leads through one.
    pub fn finds_far_end(&self, view: &View) -> bool {
        self.tunnel.is_none_or(|tunnel| {
            let mut via = self.via.iter();
            view.far_ends.contains(&(tunnel.node, tunnel.mac))
                && via.all(|ip| view.neighbours.contains(&(*ip, tunnel.mac)))
        })
    }
}

/// The routes of a namespace on the underlay, besides those that its links bring.
pub fn ways(lab: &Lab, host: &Host) -> Vec<Way> {
    let Some(underlay) = &lab.underlay else {
        return Vec::new();
    };
    match host {
        Host::Underlay => Vec::new(),
        Host::Outside => from_outside(lab, underlay),
        Host::Node(name) => {
            let others = lab.nodes.iter().filter(|node| node.name() != name);
            let ways = others.flat_map(|node| to_node(underlay, node));
            ways.chain(defaults(underlay)).collect()
        }
    }
}

/// From a node to the pods of another.
fn to_node(underlay: &Underlay, node: &Node) -> Vec<Way> {
    let Some(machine) = &node.machine else {
        return Vec::new();
    };
    let tunnel = underlay.overlay.map(|_| Tunnel {
        node: machine.ip,
        mac: address::mac(tunnel_address(node)),
    });
    let device = if tunnel.is_some() { VXLAN } else { OWN_END };
    let way = |destination, by: IpAddr| Way {
        destination,
        via: vec![by],
        device,
        tunnel,
    };
    let v4 = match tunnel {
        Some(_) => tunnel_address(node),
        None => machine.ip,
    };
    let v6 = match tunnel {
        Some(_) => tunnel_address6(node),
        None => machine.ip6,
    };
    let first = way(node.pod_cidr.trunc().into(), v4.into());
    let second = node
        .pod_cidr6
        .zip(v6)
        .map(|(range, by)| way(range.into(), by.into()));
    std::iter::once(first).chain(second).collect()
}

/// Whatever is not the cluster's goes outside.
fn defaults(underlay: &Underlay) -> Vec<Way> {
    let outside = &underlay.outside;
    let way = |destination: IpNet, by: IpAddr| Way {
        destination,
        via: vec![by],
        device: OWN_END,
        tunnel: None,
    };
    let first = way(Ipv4Net::default().into(), outside.ip.into());
    let second = outside.ip6.map(|by| way(Ipv6Net::default().into(), by.into()));
    std::iter::once(first).chain(second).collect()
}

/// From outside, virtual IPs of load balancers are behind all nodes.
fn from_outside(lab: &Lab, underlay: &Underlay) -> Vec<Way> {
    let machines = || lab.nodes.iter().filter_map(|node| node.machine.as_ref());
    let way = |destination: IpNet, via: Vec<IpAddr>| Way {
        destination,
        via,
        device: OWN_END,
        tunnel: None,
    };
    let first = way(
        underlay.load_balancer_pool.into(),
        machines().map(|machine| machine.ip.into()).collect(),
    );
    let second = underlay.load_balancer_pool6.map(|pool| {
        let via = machines().filter_map(|machine| machine.ip6).map(IpAddr::from);
        way(pool.into(), via.collect())
    });
    std::iter::once(first).chain(second).collect()
}

/// The address of a node's tunnel device: the first of its range, which no pod has.
pub fn tunnel_address(node: &Node) -> Ipv4Addr {
    node.pod_cidr.network()
}

/// The same in IPv6.
pub fn tunnel_address6(node: &Node) -> Option<Ipv6Addr> {
    node.pod_cidr6.map(|range| range.network())
}

/// Routes that lead to nodes that are no more.
pub fn stale<'a>(lab: &Lab, wanted: &'a [Way], view: &'a View) -> Vec<&'a Route> {
    let lab_pods = [Some(IpNet::from(lab.pod_cidr)), lab.pod_cidr6.map(IpNet::from)];
    let among_nodes = |route: &&Route| {
        let on_way = [OWN_END, VXLAN]
            .iter()
            .any(|device| view.link(device).is_some_and(|link| link.index == route.index));
        let to_pods = lab_pods
            .iter()
            .flatten()
            .any(|range| range.contains(&route.destination));
        on_way && to_pods && !route.via.is_empty()
    };
    let wanted = |route: &&Route| wanted.iter().any(|way| way.destination == route.destination);
    view.routes
        .iter()
        .filter(among_nodes)
        .filter(|route| !wanted(route))
        .collect()
}
