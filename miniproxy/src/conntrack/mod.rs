//! Which entries of the connection table have outlived their endpoint, and must go.
//!
//! The kernel translates an address once, at the first packet of a flow; every later packet follows
//! what stands in the connection table. A UDP client that keeps its source port would so talk for ever
//! to an endpoint that is gone, or to nobody where there was no endpoint when it began. Deleting the
//! entry makes its next datagram a first one again. (TCP notices by itself, and a connection through an
//! endpoint on its way out must not be cut: TCP and SCTP are never touched.)
//!
//! As the newest kube-proxy (`pkg/proxy/conntrack/cleanup.go`) this compares the table with what should
//! be, instead of counting events, and heeds every *serving* endpoint, whatever traffic policies and
//! topology say. Two things are done with more care, see [`Frontends::is_stale`].

mod before;
mod needs;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

pub use before::Before;
pub use needs::needs;

use crate::model::{Model, Protocol, ServicePort};

/// UDP, as the IP header numbers it.
pub const UDP: u8 = 17;

/// One entry of the connection table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The transport protocol, as the IP header numbers it.
    pub protocol: u8,
    /// Who began.
    pub source: SocketAddr,
    /// Whom they asked, before any translation.
    pub destination: SocketAddr,
    /// Who answers: the endpoint, where the destination was translated.
    pub reply_source: SocketAddr,
    /// To whom the answer goes: this node, where it was masqueraded.
    pub reply_destination: SocketAddr,
    /// The zone of its original direction; 0 unless somebody made zones.
    pub zone: Zone,
    /// What tells this entry from a later one of the same addresses.
    pub id: Option<u32>,
}

/// Tables inside the table: the same addresses may stand in several zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Zone {
    /// The one that everything is in which nobody has put elsewhere.
    #[default]
    Usual,
    /// Both directions are in this one.
    Both(u16),
    /// Only the original direction is.
    Original(u16),
}

/// The addresses that a node calls its own: what iptables calls `--dst-type LOCAL`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    hosts: HashSet<IpAddr>,
    networks: Vec<IpNet>,
}

impl NodeAddresses {
    /// Whether it is one of them.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.hosts.contains(&ip) || self.networks.iter().any(|network| network.contains(&ip))
    }
}

impl FromIterator<IpNet> for NodeAddresses {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        let mut own = Self::default();
        for network in networks {
            if network.prefix_len() == network.max_prefix_len() {
                own.hosts.insert(network.addr());
            } else {
                own.networks.push(network);
            }
        }
        own
    }
}

/// Where the UDP Services of one family are reached, and who serves there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontends {
    /// By address and port.
    addresses: HashMap<SocketAddr, HashSet<SocketAddr>>,
    /// Where a Service was reached before.
    former: HashSet<SocketAddr>,
    node_ports: HashMap<u16, NodePort>,
    /// Node ports answer on these addresses; `None` means on every address of the node.
    answering: Option<HashSet<IpAddr>>,
    /// Node ports answer on loopback addresses, too.
    localhost: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct NodePort {
    serving: HashSet<SocketAddr>,
    former: HashSet<SocketAddr>,
}

/// Whether flows to a service port can be stale.
pub fn concerns(port: &ServicePort) -> bool {
    is_udp(port)
}

impl Frontends {
    /// Those that should be there: every UDP port of the model, with an empty set where nobody serves.
    pub fn of(model: &Model) -> Self {
        let config = &model.config;
        let mut frontends = Self {
            answering: config
                .node_port_addresses
                .as_ref()
                .map(|addresses| addresses.iter().copied().collect()),
            localhost: config.localhost_node_ports,
            ..Self::default()
        };
        for port in model.ports.iter().filter(|port| is_udp(port)) {
            let serving: Vec<SocketAddr> = serving(port).collect();
            for address in addresses(port) {
                frontends.addresses.entry(address).or_default().extend(&serving);
            }
            if let Some(number) = port.node_port {
                let entry = frontends.node_ports.entry(number).or_default();
                entry.serving.extend(&serving);
            }
        }
        frontends
    }

    /// Adds what was there before. What is still there stays as it is; of what is not, every flow is
    /// stale.
    pub fn add_before(&mut self, before: &Before) {
        self.former.extend(&before.addresses);
        for (number, endpoints) in &before.node_ports {
            let entry = self.node_ports.entry(*number).or_default();
            entry.former.extend(endpoints);
        }
    }

    /// Whether no flow can be stale, so that nobody need look.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.former.is_empty() && self.node_ports.is_empty()
    }

    /// Whether it matters which addresses are the node's own.
    pub fn has_node_ports(&self) -> bool {
        self.node_ports.values().any(|port| !port.serving.is_empty())
    }

    /// Whether the flow goes to one of these, and is answered by none of its serving endpoints.
    ///
    /// An address and port say exactly what is meant; a node port is only a number, which flows of
    /// others may have too. kube-proxy takes every flow to this number, wherever it goes, passes over
    /// node ports without serving endpoints for that reason, and lets a cluster IP of the same port
    /// suffer. Here:
    ///
    /// - the address of a Service comes first: what is right there is right;
    /// - with serving endpoints, only flows to an address of this node where node ports answer count
    ///   (also those never translated: they began before the rules were there), for only those does
    ///   `KUBE-NODEPORTS` translate;
    /// - without, only flows count that lead to an endpoint which this node port is known to have had.
    pub fn is_stale(&self, flow: &Flow, node: &NodeAddresses) -> bool {
        if flow.protocol != UDP {
            return false;
        }
        if let Some(serving) = self.addresses.get(&flow.destination) {
            return !serving.contains(&flow.reply_source);
        }
        let port = self.node_ports.get(&flow.destination.port());
        // An external IP that is gone may have been an address of this node.
        if port.is_some_and(|port| port.serving.contains(&flow.reply_source)) {
            return false;
        }
        let led_there = |port: &NodePort| {
            let known = flow.reply_source != flow.destination && port.former.contains(&flow.reply_source);
            known || !port.serving.is_empty() && self.answers_at(flow.destination.ip(), node)
        };
        self.former.contains(&flow.destination) || port.is_some_and(led_there)
    }

    fn answers_at(&self, ip: IpAddr, node: &NodeAddresses) -> bool {
        let meant = self
            .answering
            .as_ref()
            .is_none_or(|answering| answering.contains(&ip));
        meant && (self.localhost || !ip.is_loopback()) && node.contains(ip)
    }
}

/// Of these flows, those that must go.
pub fn stale(
    frontends: &Frontends,
    node: &NodeAddresses,
    flows: impl IntoIterator<Item = Flow>,
) -> Vec<Flow> {
    flows
        .into_iter()
        .filter(|flow| frontends.is_stale(flow, node))
        .collect()
}

fn is_udp(port: &ServicePort) -> bool {
    port.protocol == Protocol::Udp
}

/// Where it is reached, but for its node port.
fn addresses(port: &ServicePort) -> impl Iterator<Item = SocketAddr> {
    let more = port.external_ips.iter().chain(&port.load_balancer_ips);
    std::iter::once(&port.cluster_ip)
        .chain(more)
        .map(|ip| SocketAddr::new(*ip, port.port))
}

fn serving(port: &ServicePort) -> impl Iterator<Item = SocketAddr> {
    let serving = port.endpoints.iter().filter(|endpoint| endpoint.serving);
    serving.map(|endpoint| SocketAddr::new(endpoint.ip, endpoint.port))
}

#[cfg(test)]
mod tests;
