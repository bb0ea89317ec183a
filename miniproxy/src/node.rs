//! Whose rules are built: the node, how it is configured, and what its host has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use labkit::xtables::Family;

use crate::address::{parse_ip, parse_network};
use crate::config::{Compat, DetectLocal, NodePortAddress, Settings};
use crate::model::{Counters, Hints, LocalDetector, Model, ProxyConfig};
use crate::registry::check::passed_over;
use crate::registry::{Registry, model};
use crate::rules::build::build;
use crate::rules::set::Wanted;

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// What of the host itself goes into the rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// The host's name.
    pub name: String,
    /// The addresses of its interfaces, for nodePortAddresses.
    pub addresses: Vec<IpAddr>,
    /// Its kernel calls no packet of a TCP connection INVALID (`nf_conntrack_tcp_be_liberal`).
    pub tcp_be_liberal: bool,
    /// Its kernel's packet counters.
    pub counters: Counters,
}

/// Everything that the rules depend on besides the registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeOptions {
    /// How it is configured.
    pub settings: Settings,
    /// The host.
    pub host: Host,
}

impl NodeOptions {
    /// The service ports of one family, as this node's proxy sees them.
    pub fn model(&self, registry: &Registry, family: Family) -> Model {
        model::model(registry, self.config(registry, family))
    }

    /// Everything the kernel should have for one family.
    pub fn wanted(&self, registry: &Registry, family: Family) -> Wanted {
        build(&self.model(registry, family))
    }

    /// The configuration of one family's rules.
    pub fn config(&self, registry: &Registry, family: Family) -> ProxyConfig {
        let settings = &self.settings;
        let node_name = self.node_name(registry);
        let node = find(registry, &node_name);
        let networks = self.node_port_networks(node, family);
        let localhost = IpAddr::from(Ipv4Addr::new(127, 0, 0, 0));
        let loopback = |network: &IpNet| network.addr().is_loopback() || network.contains(&localhost);
        ProxyConfig {
            family,
            compat: settings.compat,
            zone: node.and_then(zone),
            node_ip: Some(self.node_ip(node, family)),
            local_detector: self.local_detector(node, family),
            masquerade_all: settings.masquerade_all,
            masquerade_bit: settings.masquerade_bit,
            localhost_node_ports: settings.localhost_node_ports
                && family == Family::V4
                && (networks.is_empty() || networks.iter().any(loopback)),
            node_port_addresses: self.covered_addresses(&networks),
            drop_invalid: !settings.conntrack.tcp_be_liberal && !self.host.tcp_be_liberal,
            hints: self.hints(),
            heed_ip_mode: settings.gates.load_balancer_ip_mode,
            counters: match settings.compat {
                Compat::V1_30 => Counters::default(),
                Compat::Latest => self.host.counters,
            },
            node_name,
        }
    }

    /// What kube-proxy would not start with, or what hardly anybody wants: for the reader of stderr.
    pub fn remarks(&self, registry: &Registry) -> Vec<String> {
        let mut remarks = passed_over(registry);
        let name = self.node_name(registry);
        let node = find(registry, &name);
        if node.is_none() && !registry.nodes.is_empty() {
            remarks.push(format!(
                "the registry has no Node {name}: its zone is unknown, and its address is taken to be 127.0.0.1"
            ));
        }
        let by_node = self.settings.detect_local == DetectLocal::NodeCidr;
        if by_node && node.is_none_or(|node| pod_networks(node).next().is_none()) {
            remarks.push(format!(
                "detectLocalMode is NodeCIDR and Node {name} has no podCIDRs: pods' traffic is not told from other traffic"
            ));
        }
        remarks
    }

    /// The name of this node, spelt as kube-proxy spells it.
    pub fn node_name(&self, registry: &Registry) -> String {
        let mut nodes = registry.nodes.keys();
        match (&self.settings.node_name, nodes.next(), nodes.next()) {
            (Some(name), _, _) => name.clone(),
            (None, Some(only), None) => only.clone(),
            _ => self.host.name.trim().to_lowercase(),
        }
    }

    fn hints(&self) -> Hints {
        let gates = &self.settings.gates;
        match (gates.service_traffic_distribution, gates.prefer_same_node) {
            (true, true) => Hints::ByNode,
            (true, false) => Hints::ByZone,
            (false, _) if gates.topology_aware_hints => Hints::Annotated,
            (false, _) => Hints::Ignored,
        }
    }

    /// The bind address if it is one, else the Node's, else loopback.
    fn node_ip(&self, node: Option<&Node>, family: Family) -> IpAddr {
        let bind = self.settings.bind_address;
        if !bind.is_unspecified() && is_of(bind, family) {
            return bind;
        }
        node.and_then(|node| address(node, family))
            .unwrap_or(match family {
                Family::V4 => Ipv4Addr::LOCALHOST.into(),
                Family::V6 => Ipv6Addr::LOCALHOST.into(),
            })
    }

    /// The Node's own address; where it is not known the host's first one that others can reach. Without
    /// either node ports answer on loopback only: no address at all would mean all of them.
    fn primary(&self, node: Option<&Node>, family: Family) -> IpAddr {
        let known = self.node_ip(node, family);
        let reachable = |ip: &&IpAddr| {
            let link_local = match ip {
                IpAddr::V4(ip) => ip.is_link_local(),
                IpAddr::V6(ip) => ip.is_unicast_link_local(),
            };
            is_of(**ip, family) && !ip.is_loopback() && !link_local
        };
        let of_host = || self.host.addresses.iter().find(reachable).copied();
        Some(known)
            .filter(|ip| !ip.is_loopback())
            .or_else(of_host)
            .unwrap_or(known)
    }

    fn local_detector(&self, node: Option<&Node>, family: Family) -> LocalDetector {
        let first = |mut networks: Box<dyn Iterator<Item = IpNet> + '_>| {
            let found = networks.find(|network| is_of(network.addr(), family));
            found.map_or(LocalDetector::None, |network| {
                LocalDetector::Cidr(network.trunc())
            })
        };
        match &self.settings.detect_local {
            DetectLocal::ClusterCidr(networks) => first(Box::new(networks.iter().copied())),
            DetectLocal::NodeCidr => first(Box::new(node.into_iter().flat_map(pod_networks))),
            DetectLocal::BridgeInterface(name) => LocalDetector::Interface(name.clone()),
            DetectLocal::InterfaceNamePrefix(prefix) => LocalDetector::Interface(format!("{prefix}+")),
        }
    }

    /// The networks of this family in which node ports answer; none means everywhere.
    fn node_port_networks(&self, node: Option<&Node>, family: Family) -> Vec<IpNet> {
        let meant = self
            .settings
            .node_port_addresses
            .iter()
            .map(|address| match address {
                NodePortAddress::Network(network) => *network,
                NodePortAddress::Primary => self.primary(node, family).into(),
            });
        meant.filter(|network| is_of(network.addr(), family)).collect()
    }

    /// The host's addresses in these networks; `None` when every address is meant.
    fn covered_addresses(&self, networks: &[IpNet]) -> Option<Vec<IpAddr>> {
        if networks.is_empty() || networks.iter().any(|network| network.prefix_len() == 0) {
            return None;
        }
        let covered = |ip: &&IpAddr| networks.iter().any(|network| network.contains(*ip));
        let mut addresses: Vec<IpAddr> = self.host.addresses.iter().filter(covered).copied().collect();
        addresses.sort_unstable();
        addresses.dedup();
        Some(addresses)
    }
}

impl Settings {
    /// Whether rules depend on which addresses the host's interfaces have.
    pub fn needs_host_addresses(&self) -> bool {
        !self.node_port_addresses.is_empty()
    }

    /// The least time between two writes that somebody asked for.
    ///
    /// kube-proxy's own default of a second is there because its syncs are dear; ours are not.
    pub fn asked_min_sync_period(&self) -> Option<Duration> {
        let usual = Self::defaults(self.compat).min_sync_period;
        (self.min_sync_period != usual).then_some(self.min_sync_period)
    }
}

fn find<'a>(registry: &'a Registry, name: &str) -> Option<&'a Node> {
    registry.nodes.get(name).map(Arc::as_ref)
}

fn is_of(ip: IpAddr, family: Family) -> bool {
    ip.is_ipv4() == (family == Family::V4)
}

fn zone(node: &Node) -> Option<String> {
    let labels = node.metadata.labels.as_ref()?;
    labels.get(ZONE_LABEL).filter(|zone| !zone.is_empty()).cloned()
}

/// The first internal address of the family, else the first external one.
fn address(node: &Node, family: Family) -> Option<IpAddr> {
    let addresses = || {
        node.status
            .iter()
            .flat_map(|status| status.addresses.iter().flatten())
    };
    ["InternalIP", "ExternalIP"].iter().find_map(|kind| {
        let of_kind = addresses().filter(|address| address.type_ == *kind);
        of_kind
            .filter_map(|address| parse_ip(&address.address))
            .find(|ip| is_of(*ip, family))
    })
}

/// The API server keeps `podCIDR` as the first of `podCIDRs`; a hand-written Node may have only one.
fn pod_networks(node: &Node) -> impl Iterator<Item = IpNet> {
    let spec = node.spec.as_ref();
    let several = spec
        .and_then(|spec| spec.pod_cidrs.as_deref())
        .unwrap_or_default();
    let one = spec
        .and_then(|spec| spec.pod_cidr.as_ref())
        .filter(|_| several.is_empty());
    several
        .iter()
        .chain(one)
        .filter_map(|network| parse_network(network))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where node ports answer; no list means everywhere.
    fn answering(addresses: &[&str], family: Family) -> Option<Vec<IpAddr>> {
        let mut node = NodeOptions::default();
        node.settings.node_port_addresses = vec![NodePortAddress::Primary];
        node.host.addresses = addresses.iter().filter_map(|ip| parse_ip(ip)).collect();
        node.config(&Registry::default(), family).node_port_addresses
    }

    #[test]
    fn primary_without_a_node_is_the_hosts_own_address_and_never_all() {
        let host = [
            "127.0.0.1",
            "169.254.0.9",
            "192.0.2.7",
            "10.0.0.1",
            "::1",
            "fe80::1",
        ];
        assert_eq!(
            answering(&host, Family::V4),
            Some(vec![IpAddr::from([192, 0, 2, 7])])
        );
        assert_eq!(
            answering(&host, Family::V6),
            Some(vec![Ipv6Addr::LOCALHOST.into()])
        );
        assert_eq!(answering(&[], Family::V4), Some(Vec::new()));
    }
}
