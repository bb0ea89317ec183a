//! Nodes with all names and ranges, and what joins them.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::address;
use super::name::Label;
use super::topology::{NodeSpec, Overlay};

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// What was asked for.
    #[serde(flatten)]
    pub spec: NodeSpec,
    /// The range of its pods; its bridge has the first address.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Ipv4Net,
    /// The same in IPv6, in a dual-stack lab.
    #[serde(rename = "podCIDRv6", default, skip_serializing_if = "Option::is_none")]
    pub pod_cidr6: Option<Ipv6Net>,
    /// The name of its bridge.
    pub bridge: String,
    /// Its own network namespace; none where it is the one that `up` was called in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
}

/// A network namespace on the underlay: a node's, or that of the host outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Its name under `/run/netns`.
    pub namespace: String,
    /// The underlay's end of its veth pair; its own end is `eth0`.
    pub interface: String,
    /// Its address on the underlay.
    pub ip: Ipv4Addr,
    /// The same in IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip6: Option<Ipv6Addr>,
}

/// What joins nodes that are namespaces of their own: a bridge in one more namespace, and a host
/// that is no node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Underlay {
    /// Its name under `/run/netns`.
    pub namespace: String,
    /// The range of the nodes' own addresses.
    pub cidr: Ipv4Net,
    /// The same in IPv6.
    #[serde(rename = "cidrV6", default, skip_serializing_if = "Option::is_none")]
    pub cidr6: Option<Ipv6Net>,
    /// How pods of different nodes reach each other; none is by plain routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
    /// The host outside of the cluster.
    pub outside: Machine,
    /// Addresses for Services of the type LoadBalancer; outside routes them to the nodes.
    pub load_balancer_pool: Ipv4Net,
    /// The same in IPv6.
    #[serde(
        rename = "loadBalancerPoolV6",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub load_balancer_pool6: Option<Ipv6Net>,
}

/// The bridge in the underlay's namespace.
pub const UNDERLAY_BRIDGE: &str = "underlay";
/// A machine's own end on the underlay, and a pod's on its node's bridge.
pub const OWN_END: &str = "eth0";
/// A node's end of the tunnel to all others.
pub const VXLAN: &str = "vxlan0";

/// A namespace of the lab that is not a pod's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// The one with the bridge that joins the others.
    Underlay,
    /// The host outside of the cluster.
    Outside,
    /// A node.
    Node(Label),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Underlay => f.write_str("the underlay"),
            Self::Outside => f.write_str("outside"),
            Self::Node(name) => write!(f, "{name}"),
        }
    }
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &Label {
        &self.spec.name
    }

    /// What it is called among the lab's namespaces.
    pub fn host(&self) -> Host {
        Host::Node(self.spec.name.clone())
    }

    /// The bridge's address with the length of the range.
    pub fn bridge_address(&self) -> Ipv4Net {
        Ipv4Net::new(address::bridge_address(self.pod_cidr), self.pod_cidr.prefix_len())
            .unwrap_or(self.pod_cidr)
    }

    /// The bridge's IPv6 address with the length of the range.
    pub fn bridge_address6(&self) -> Option<Ipv6Net> {
        let range = self.pod_cidr6?;
        Ipv6Net::new(address::host6(range, 1), range.prefix_len()).ok()
    }

    /// The bridge's MAC.
    pub fn bridge_mac(&self) -> [u8; 6] {
        address::mac(address::bridge_address(self.pod_cidr))
    }

    /// The address that others know it by: its own on the underlay, or the bridge's.
    pub fn ip(&self) -> Ipv4Addr {
        self.machine
            .as_ref()
            .map_or(self.bridge_address().addr(), |machine| machine.ip)
    }

    /// The same in IPv6.
    pub fn ip6(&self) -> Option<Ipv6Addr> {
        self.machine.as_ref()?.ip6
    }

    /// How many pods it takes: what was said, as far as its range and its bridge allow.
    pub fn max_pods(&self) -> usize {
        let possible = address::room(self.pod_cidr).min(address::MAX_PODS);
        self.spec.pods.map_or(possible, |pods| pods.min(possible))
    }
}

impl Machine {
    /// The MAC of its own end.
    pub fn mac(&self) -> [u8; 6] {
        address::mac(self.ip)
    }
}
