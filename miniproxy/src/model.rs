//! What the rules are made from: service ports, their endpoints, and how this node wants them.
//!
//! One [`Model`] is one IP family's view of the registry, as kube-proxy keeps one proxier per family.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use labkit::xtables::Family;

use crate::config::Compat;

/// A transport protocol that a Service can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// As iptables writes it: `tcp`.
    pub fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// As Kubernetes writes it: `TCP`.
    pub fn upper(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// Reads Kubernetes' spelling.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.upper() == text)
    }
}

/// The name of one port of a Service, as it stands in comments and is hashed into chain names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The port's name; empty for the only port of a Service.
    pub port: String,
}

impl fmt::Display for ServicePortName {
    /// `namespace/name:port`, or `namespace/name` without a port name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if self.port.is_empty() {
            Ok(())
        } else {
            write!(f, ":{}", self.port)
        }
    }
}

/// Whether traffic may go to every endpoint or only to those of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrafficPolicy {
    /// Every endpoint.
    #[default]
    Cluster,
    /// The endpoints of this node.
    Local,
}

/// One port of one Service, in one IP family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name.
    pub name: ServicePortName,
    /// Its protocol.
    pub protocol: Protocol,
    /// The virtual IP, of this family.
    pub cluster_ip: IpAddr,
    /// The port at the virtual IP.
    pub port: u16,
    /// The port at every node, if it has one.
    pub node_port: Option<u16>,
    /// External IPs of this family, in the order of the spec.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses of this family that this node answers for, in the order of the status.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may come through the load balancer, of this family; empty means everybody.
    pub source_ranges: Vec<IpNet>,
    /// `sessionAffinity: ClientIP`: how many seconds a client stays with its endpoint.
    pub affinity_seconds: Option<u32>,
    /// For traffic to the cluster IP.
    pub internal_policy: TrafficPolicy,
    /// For traffic from outside; `Cluster` unless the Service can be reached from there.
    pub external_policy: TrafficPolicy,
    /// Where a load balancer asks whether this node has endpoints.
    pub health_check_node_port: Option<u16>,
    /// Topology hints of the endpoints are to be followed.
    pub follow_hints: bool,
    /// The endpoints, sorted by [`Endpoint::target`].
    pub endpoints: Vec<Endpoint>,
}

impl ServicePort {
    /// Whether anything outside the cluster can reach it: a node port, a load balancer, an external IP.
    pub fn externally_accessible(&self) -> bool {
        self.node_port.is_some() || !self.load_balancer_ips.is_empty() || !self.external_ips.is_empty()
    }

    /// Whether any traffic may go to endpoints of other nodes.
    pub fn uses_cluster_endpoints(&self) -> bool {
        self.internal_policy != TrafficPolicy::Local || self.externally_accessible()
    }

    /// Whether any traffic must stay on this node.
    pub fn uses_local_endpoints(&self) -> bool {
        self.internal_policy == TrafficPolicy::Local
            || (self.external_policy == TrafficPolicy::Local && self.externally_accessible())
    }
}

/// One place a connection can be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `ip:port`, with brackets for IPv6, the address spelt as in the slice: it is hashed so.
    pub target: String,
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// Takes new connections.
    pub ready: bool,
    /// Would answer, though it may be on its way out.
    pub serving: bool,
    /// Is on its way out.
    pub terminating: bool,
    /// Is on this node.
    pub local: bool,
    /// The zones it should serve.
    pub zone_hints: Vec<String>,
    /// The nodes it should serve; only newer clusters say so.
    pub node_hints: Vec<String>,
}

/// How to tell traffic of this node's pods from other traffic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LocalDetector {
    /// There is no way.
    #[default]
    None,
    /// By source address.
    Cidr(IpNet),
    /// By the interface it comes from; a trailing `+` stands for any ending.
    Interface(String),
}

/// The node whose rules are built, and how it is configured. Defaults are those of kube-proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// The IP family.
    pub family: Family,
    /// Which kube-proxy's rules these are.
    pub compat: Compat,
    /// This node's name.
    pub node_name: String,
    /// This node's zone, from its label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// This node's own address of the family, for load balancers that admit it by range.
    pub node_ip: Option<IpAddr>,
    /// How to tell the traffic of local pods.
    pub local_detector: LocalDetector,
    /// Masquerade all traffic to cluster IPs.
    pub masquerade_all: bool,
    /// Which bit of the packet mark says "masquerade": 0 to 31.
    pub masquerade_bit: u8,
    /// Node ports answer on 127.0.0.0/8 too (IPv4 only).
    pub localhost_node_ports: bool,
    /// Node ports answer on these addresses; `None` means on every address of the node.
    pub node_port_addresses: Option<Vec<IpAddr>>,
    /// Packets that belong to no connection are dropped, not let through unrewritten.
    pub drop_invalid: bool,
    /// Which topology hints are followed.
    pub hints: Hints,
    /// A load balancer's address with `ipMode: Proxy` is left to the load balancer.
    pub heed_ip_mode: bool,
    /// Which packets are counted.
    pub counters: Counters,
}

/// The kernel's packet counters (nfacct) that rules of newer kube-proxies count with. Where the kernel
/// cannot make one, the rules go without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that belong to no connection, and are dropped.
    pub invalid: bool,
    /// Packets to node ports on 127.0.0.0/8.
    pub localhost: bool,
}

/// Which topology hints are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hints {
    /// None.
    Ignored,
    /// Those by zone, of Services with the annotation.
    Annotated,
    /// Those by zone.
    ByZone,
    /// Those by node, and where there are none those by zone.
    ByNode,
}

impl ProxyConfig {
    /// kube-proxy's defaults for one family.
    pub fn defaults(family: Family) -> Self {
        Self {
            family,
            compat: Compat::V1_30,
            node_name: String::new(),
            zone: None,
            node_ip: None,
            local_detector: LocalDetector::None,
            masquerade_all: false,
            masquerade_bit: 14,
            localhost_node_ports: true,
            node_port_addresses: None,
            drop_invalid: true,
            hints: Hints::Annotated,
            heed_ip_mode: true,
            counters: Counters::default(),
        }
    }

    /// The packet mark that means "masquerade".
    pub fn mark(&self) -> u32 {
        1_u32.checked_shl(u32::from(self.masquerade_bit)).unwrap_or(0)
    }
}

/// Every service port of one family, sorted by name and protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The node and its configuration.
    pub config: ProxyConfig,
    /// The service ports.
    pub ports: Vec<ServicePort>,
}

/// More endpoints than this in one family, and kube-proxy leaves out their comments.
pub const LARGE_CLUSTER_ENDPOINTS: usize = 1000;

impl Model {
    /// Whether comments of endpoints are left out to save memory.
    pub fn large_cluster(&self) -> bool {
        self.ports.iter().map(|port| port.endpoints.len()).sum::<usize>() > LARGE_CLUSTER_ENDPOINTS
    }
}

/// `ip:port`, with brackets around IPv6; `address` is kept as it is spelt.
pub fn host_port(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}
