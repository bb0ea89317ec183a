//! How this node proxies: kube-proxy's own configuration, with its names and its defaults. Pure.
//!
//! | module | from → to |
//! | --- | --- |
//! | [`tree`] | YAML or JSON text → values that know their lines |
//! | [`fields`] | every field of `KubeProxyConfiguration` v1alpha1: read, or ignored and why |
//! | [`draft`] | the fields of a file, and the flags that win over them |
//! | [`settle`] | a draft → [`Settings`], or everything that is wrong with it |
//! | [`duration`] | Go's durations |
//!
//! Source: `staging/src/k8s.io/kube-proxy/config/v1alpha1/types.go`, `pkg/proxy/apis/config` of
//! Kubernetes 1.30.

pub mod draft;
pub mod duration;
pub mod fields;
pub mod settle;
pub mod tree;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::ValueEnum;
use ipnet::IpNet;
use labkit::Failure;
use labkit::text::printable;

/// Which kube-proxy the rules are to be those of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Compat {
    /// What version 1.30.5 writes
    #[default]
    #[value(name = "1.30")]
    V1_30,
    /// What the newest writes: hints by node, endpoint addresses in one spelling, more nodePortAddresses
    Latest,
}

impl Compat {
    /// As `--compat` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1_30 => "1.30",
            Self::Latest => "latest",
        }
    }
}

/// How the traffic of local pods is told from other traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DetectLocal {
    /// By the pods' networks; of each family the first counts, and none means that there is no way.
    ClusterCidr(Vec<IpNet>),
    /// By this Node's `podCIDRs`.
    NodeCidr,
    /// By the bridge that it comes from.
    BridgeInterface(String),
    /// By the beginning of the name of the interface that it comes from.
    InterfaceNamePrefix(String),
}

/// An entry of `nodePortAddresses`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePortAddress {
    /// Every address of the node in this network.
    Network(IpNet),
    /// The Node's own address, of each family.
    Primary,
}

/// Sizes and times of the connection table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conntrack {
    /// Entries for each CPU; 0 leaves the limit alone.
    pub max_per_core: u32,
    /// At least so many entries.
    pub min: u32,
    /// How long an idle TCP connection is kept; `None` leaves it alone.
    pub tcp_established_timeout: Option<Duration>,
    /// How long a half-closed one is kept.
    pub tcp_close_wait_timeout: Option<Duration>,
    /// Packets outside the TCP window are no longer INVALID.
    pub tcp_be_liberal: bool,
    /// How long a UDP entry without an answer is kept.
    pub udp_timeout: Option<Duration>,
    /// How long a UDP entry with answers is kept.
    pub udp_stream_timeout: Option<Duration>,
}

/// The feature gates that change rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gates {
    /// Hints are followed where an annotation of the Service asks for it.
    pub topology_aware_hints: bool,
    /// Hints are followed wherever there are any.
    pub service_traffic_distribution: bool,
    /// `ipMode: Proxy` of a load balancer's address is heeded.
    pub load_balancer_ip_mode: bool,
    /// Hints by node are followed, before those by zone.
    pub prefer_same_node: bool,
}

impl Gates {
    /// As a kube-proxy of that version has them when nothing is said.
    pub fn defaults(compat: Compat) -> Self {
        let latest = compat == Compat::Latest;
        Self {
            topology_aware_hints: true,
            service_traffic_distribution: latest,
            load_balancer_ip_mode: true,
            prefer_same_node: latest,
        }
    }
}

/// Everything that can be configured and that this program heeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Which kube-proxy the rules are to be those of.
    pub compat: Compat,
    /// The Node's name, if it is not the host's.
    pub node_name: Option<String>,
    /// Stands in for the Node's own address, unless it is unspecified; says by its family where
    /// servers listen.
    pub bind_address: IpAddr,
    /// Where `/healthz` and `/livez` are served.
    pub healthz_bind_address: SocketAddr,
    /// Where `/metrics` and `/proxyMode` are served.
    pub metrics_bind_address: SocketAddr,
    /// How to tell the traffic of local pods.
    pub detect_local: DetectLocal,
    /// Masquerade all traffic to cluster IPs.
    pub masquerade_all: bool,
    /// Which bit of the packet mark says "masquerade".
    pub masquerade_bit: u8,
    /// Node ports answer on 127.0.0.0/8 too (IPv4 only).
    pub localhost_node_ports: bool,
    /// Where node ports answer; empty means on every address of the node.
    pub node_port_addresses: Vec<NodePortAddress>,
    /// How often everything is looked at again.
    pub sync_period: Duration,
    /// The shortest time between two writes.
    pub min_sync_period: Duration,
    /// The connection table.
    pub conntrack: Conntrack,
    /// Feature gates.
    pub gates: Gates,
}

impl Settings {
    /// kube-proxy's defaults.
    pub fn defaults(compat: Compat) -> Self {
        Self {
            compat,
            node_name: None,
            bind_address: Ipv4Addr::UNSPECIFIED.into(),
            healthz_bind_address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, settle::HEALTHZ_PORT)),
            metrics_bind_address: SocketAddr::from((Ipv4Addr::LOCALHOST, settle::METRICS_PORT)),
            detect_local: DetectLocal::ClusterCidr(Vec::new()),
            masquerade_all: false,
            masquerade_bit: 14,
            localhost_node_ports: true,
            node_port_addresses: Vec::new(),
            sync_period: Duration::from_secs(30),
            min_sync_period: Duration::from_secs(1),
            conntrack: Conntrack {
                max_per_core: 32 * 1024,
                min: 128 * 1024,
                tcp_established_timeout: Some(Duration::from_secs(24 * 60 * 60)),
                tcp_close_wait_timeout: Some(Duration::from_secs(60 * 60)),
                tcp_be_liberal: false,
                udp_timeout: None,
                udp_stream_timeout: None,
            },
            gates: Gates::defaults(compat),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::defaults(Compat::default())
    }
}

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file and the line in it.
    File {
        /// The file as messages name it.
        file: String,
        /// From 1.
        line: u64,
    },
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{}:{line}", printable(file)),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A value and where it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub place: Place,
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Where.
    pub place: Place,
    /// The field, such as `iptables.masqueradeBit`; empty when the text as a whole is meant.
    pub field: String,
    /// What is there.
    pub what: String,
    /// What should be.
    pub expected: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", printable(&self.field))?;
        }
        write!(
            f,
            "{}; expected {}",
            printable(&self.what),
            printable(&self.expected)
        )
    }
}

/// All problems as one failure of kind `Usage`.
pub fn failure(problems: &[ConfigProblem]) -> Failure {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Failure::usage(lines.join("\n")).hint("nothing was changed; mend the configuration and try again")
}
