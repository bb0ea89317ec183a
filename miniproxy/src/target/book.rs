//! What is known of names and addresses: from a registry, or from the comments in rules alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use labkit::xtables::Family;

use crate::address::parse_ip;
use crate::lab::INTERFACE_ANNOTATION;
use crate::model::{Protocol, ServicePort, ServicePortName};
use crate::registry::Registry;
use crate::rules::fixed::{EXTERNAL_SERVICES, NODE_PORTS, SERVICES};
use crate::rules::rule::{Match, Rule, Side};
use crate::rules::set::{Found, TableName};

/// One port of one Service, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPort {
    /// Its name.
    pub name: ServicePortName,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its virtual IP.
    pub cluster_ip: Option<IpAddr>,
    /// Other addresses at which it is reached: external IPs, load balancers.
    pub external_ips: BTreeSet<IpAddr>,
    /// The port at these addresses; 0 where only the node port is known.
    pub port: u16,
    /// The port at every node.
    pub node_port: Option<u16>,
    /// Addresses of its endpoints, where a registry tells.
    pub endpoints: BTreeSet<IpAddr>,
}

impl KnownPort {
    /// All addresses but the nodes'.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.cluster_ip
            .into_iter()
            .chain(self.external_ips.iter().copied())
    }
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The node it is on.
    pub node: Option<String>,
    /// The node's end of its cable, where its object tells.
    pub interface: Option<String>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownNode {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What is known of names and addresses, for rules of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    /// Ports of Services.
    pub ports: Vec<KnownPort>,
    /// Services that no rule can be for, by namespace and name, with why.
    pub without_address: Vec<(String, String, String)>,
    /// Pods.
    pub pods: Vec<KnownPod>,
    /// Nodes.
    pub nodes: Vec<KnownNode>,
    /// The node whose rules are looked at.
    pub here: Option<String>,
    /// Addresses of the interfaces of that node, as far as they are known.
    pub own: BTreeSet<IpAddr>,
    /// Networks that rules take for the pods'.
    pub pod_networks: Vec<IpNet>,
}

impl Book {
    /// Adds what a registry says; `ports` are the ports of its Services as the node sees them.
    pub fn add_registry(&mut self, registry: &Registry, ports: &[ServicePort], family: Family) {
        let of_family = |ip: &IpAddr| ip.is_ipv4() == (family == Family::V4);
        self.ports.extend(ports.iter().map(known));
        for (key, service) in &registry.services {
            let why = service.spec.as_ref().and_then(|spec| {
                match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
                    (Some("ExternalName"), _) => Some(format!(
                        "is of type ExternalName: its name is another one for {}",
                        spec.external_name.as_deref().unwrap_or("somebody outside")
                    )),
                    (_, Some("None")) => {
                        Some("is headless: its name stands for the addresses of its pods".into())
                    }
                    _ => None,
                }
            });
            let of = |why| (key.0.clone(), key.1.clone(), why);
            self.without_address.extend(why.map(of));
        }
        for (namespace, pods) in &registry.pods {
            for (name, pod) in pods {
                let status = pod.status.as_ref();
                let several = status
                    .and_then(|status| status.pod_ips.as_deref())
                    .unwrap_or_default();
                let several = several.iter().map(|ip| ip.ip.as_str());
                let one = status.and_then(|status| status.pod_ip.as_deref());
                let all: BTreeSet<IpAddr> = several
                    .chain(one)
                    .filter_map(parse_ip)
                    .filter(of_family)
                    .collect();
                self.pods.push(KnownPod {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    addresses: all.into_iter().collect(),
                    node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
                    interface: pod
                        .metadata
                        .annotations
                        .as_ref()
                        .and_then(|all| all.get(INTERFACE_ANNOTATION).cloned()),
                });
            }
        }
        for (name, node) in &registry.nodes {
            let addresses = node
                .status
                .iter()
                .flat_map(|status| status.addresses.iter().flatten());
            let addresses = addresses
                .filter_map(|address| parse_ip(&address.address))
                .filter(of_family);
            self.nodes.push(KnownNode {
                name: name.clone(),
                addresses: addresses.collect(),
            });
            let networks = node
                .spec
                .iter()
                .flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
            let networks = networks.filter_map(|network| crate::address::parse_network(network));
            self.pod_networks
                .extend(networks.filter(|network| of_family(&network.addr())));
        }
        let here = self.here.as_ref();
        let own = self.nodes.iter().filter(|node| Some(&node.name) == here);
        self.own.extend(own.flat_map(|node| &node.addresses));
    }

    /// Adds what the rules themselves say, in the comments that kube-proxy gives them.
    pub fn add_rules(&mut self, found: &Found) {
        let mut told: BTreeMap<(ServicePortName, Protocol), KnownPort> = BTreeMap::new();
        let chains = [
            (TableName::Nat, SERVICES),
            (TableName::Nat, NODE_PORTS),
            (TableName::Filter, SERVICES),
            (TableName::Filter, EXTERNAL_SERVICES),
        ];
        for (table, chain) in chains {
            for rule in found.chain(table, chain).unwrap_or_default() {
                if let Some((name, protocol)) = rule.comment_text().and_then(named).zip(protocol_of(rule)) {
                    let key = (name, protocol);
                    let known = told.entry(key.clone()).or_insert_with(|| unknown_port(key));
                    learn(known, rule, chain);
                }
            }
        }
        for port in &mut self.ports {
            if let Some(told) = told.remove(&(port.name.clone(), port.protocol)) {
                fill(port, &told);
            }
        }
        self.ports.extend(told.into_values());
        let nat = found.tables.get(&TableName::Nat);
        let rules = nat.into_iter().flat_map(|chains| chains.values().flatten());
        for network in rules.flat_map(pods_networks) {
            if !self.pod_networks.contains(&network) {
                self.pod_networks.push(network);
            }
        }
    }

    /// The pod that has an address.
    pub fn pod_at(&self, ip: IpAddr) -> Option<&KnownPod> {
        self.pods.iter().find(|pod| pod.addresses.contains(&ip))
    }

    /// What has an address: `default/web-1`, `node-1`.
    pub fn name_of(&self, ip: IpAddr) -> Option<String> {
        if let Some(pod) = self.pod_at(ip) {
            return Some(format!("{}/{}", pod.namespace, pod.name));
        }
        let node = self.nodes.iter().find(|node| node.addresses.contains(&ip));
        node.map(|node| node.name.clone())
    }
}

fn known(port: &ServicePort) -> KnownPort {
    let external = port.external_ips.iter().chain(&port.load_balancer_ips);
    KnownPort {
        name: port.name.clone(),
        protocol: port.protocol,
        cluster_ip: Some(port.cluster_ip),
        external_ips: external.copied().collect(),
        port: port.port,
        node_port: port.node_port,
        endpoints: port.endpoints.iter().map(|endpoint| endpoint.ip).collect(),
    }
}

fn unknown_port((name, protocol): (ServicePortName, Protocol)) -> KnownPort {
    KnownPort {
        name,
        protocol,
        cluster_ip: None,
        external_ips: BTreeSet::new(),
        port: 0,
        node_port: None,
        endpoints: BTreeSet::new(),
    }
}

/// What one rule of a shared chain says of its Service.
fn learn(known: &mut KnownPort, rule: &Rule, chain: &str) {
    let port = rule.matches.iter().find_map(|condition| match condition {
        Match::DestinationPort(port) => Some(*port),
        _ => None,
    });
    let local = rule
        .matches
        .iter()
        .any(|condition| matches!(condition, Match::LocalAddress(Side::Destination)));
    match (rule.destination(), port) {
        (Some(ip), Some(port)) => {
            let comment = rule.comment_text().unwrap_or_default();
            let external = chain == EXTERNAL_SERVICES
                || comment.ends_with("external IP")
                || comment.to_ascii_lowercase().ends_with("loadbalancer ip");
            if external {
                known.external_ips.insert(ip);
            } else {
                known.cluster_ip = Some(ip);
            }
            known.port = port;
        }
        (None, Some(port)) if chain == NODE_PORTS || local => known.node_port = Some(port),
        _ => {}
    }
}

/// What the rules have and the registry has not.
fn fill(known: &mut KnownPort, told: &KnownPort) {
    known.cluster_ip = known.cluster_ip.or(told.cluster_ip);
    known.node_port = known.node_port.or(told.node_port);
    if known.port == 0 {
        known.port = told.port;
    }
    known.external_ips.extend(&told.external_ips);
}

/// `ns/name:port cluster IP` → the name. Versions before 1.16 write the colon of a port without a name.
fn named(comment: &str) -> Option<ServicePortName> {
    let head = comment.split_whitespace().next()?;
    let (namespace, rest) = head.split_once('/')?;
    let (name, port) = rest.split_once(':').unwrap_or((rest, ""));
    if namespace.is_empty() || name.is_empty() {
        return None;
    }
    Some(ServicePortName {
        namespace: namespace.to_string(),
        name: name.to_string(),
        port: port.to_string(),
    })
}

fn protocol_of(rule: &Rule) -> Option<Protocol> {
    rule.matches.iter().find_map(|condition| match condition {
        Match::Protocol(protocol) => Some(*protocol),
        _ => None,
    })
}

/// `! -s 10.244.0.0/16 … -j KUBE-MARK-MASQ`: who is not of this network is no pod. flannel's
/// `! -s 10.244.0.0/16 -d 10.244.1.0/24` names that of the node's own pods, too.
fn pods_networks(rule: &Rule) -> Vec<IpNet> {
    let network = |wanted: Side, not: bool| {
        rule.matches.iter().find_map(|condition| match condition {
            Match::Address {
                side,
                network,
                negated,
            } if *side == wanted && *negated == not => Some(*network),
            _ => None,
        })
    };
    let Some(all) = network(Side::Source, true).filter(|all| !all.addr().is_loopback()) else {
        return Vec::new();
    };
    let own = network(Side::Destination, false)
        .filter(|own| all != *own && all.contains(own) && own.prefix_len() < own.max_prefix_len());
    let told = rule.comment_text().map(|_| all);
    told.into_iter().chain(own).collect()
}
