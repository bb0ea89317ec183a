//! Which of a service port's endpoints are used, for which kind of traffic.
//!
//! Source: `CategorizeEndpoints` in `pkg/proxy/topology.go` of Kubernetes 1.30.

use crate::model::{Endpoint, Hints, ProxyConfig, ServicePort};

/// The endpoints chosen for one service port, each list in the order of the port's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<'a> {
    /// For traffic that may go to any node.
    pub cluster: Vec<&'a Endpoint>,
    /// For traffic that must stay on this node.
    pub local: Vec<&'a Endpoint>,
    /// Those of either list.
    pub reachable: Vec<&'a Endpoint>,
    /// Whether anything anywhere could answer.
    pub has_endpoints: bool,
}

impl<'a> Choice<'a> {
    /// Chooses for the node of this configuration.
    pub fn of(port: &'a ServicePort, config: &ProxyConfig) -> Self {
        let ready: Vec<&Endpoint> = port.endpoints.iter().filter(|endpoint| endpoint.ready).collect();
        // A fallback: endpoints on their way out are better than none.
        let leaving: Vec<&Endpoint> = port
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.serving && endpoint.terminating)
            .collect();
        let nearby = Nearby::of(port, &ready, config);

        let mut choice = Self {
            cluster: vec![],
            local: vec![],
            reachable: vec![],
            has_endpoints: false,
        };
        if port.uses_cluster_endpoints() {
            let admitted = ready.iter().filter(|endpoint| nearby.admits(endpoint));
            choice.cluster = admitted.copied().collect();
            if choice.cluster.is_empty() {
                choice.cluster.clone_from(&leaving);
            }
            choice.has_endpoints = !choice.cluster.is_empty();
        }
        if port.uses_local_endpoints() {
            choice.local = on_this_node(&ready);
            if choice.local.is_empty() {
                choice.local = on_this_node(&leaving);
            }
            choice.has_endpoints |= !ready.is_empty() || !leaving.is_empty();
        }
        choice.reachable = port
            .endpoints
            .iter()
            .filter(|endpoint| holds(&choice.cluster, endpoint) || holds(&choice.local, endpoint))
            .collect();
        choice
    }
}

/// Whether this very endpoint is in the list, which keeps the order of the port's own: no need to
/// look further than where it would stand.
fn holds(list: &[&Endpoint], endpoint: &Endpoint) -> bool {
    list.binary_search_by(|known| known.target.cmp(&endpoint.target))
        .is_ok()
}

fn on_this_node<'a>(endpoints: &[&'a Endpoint]) -> Vec<&'a Endpoint> {
    endpoints
        .iter()
        .filter(|endpoint| endpoint.local)
        .copied()
        .collect()
}

/// Which of the ready endpoints this node should keep to, by their hints.
enum Nearby<'a> {
    Anywhere,
    Zone(&'a str),
    Node(&'a str),
}

impl<'a> Nearby<'a> {
    /// Hints are followed only when every ready endpoint has one and at least one is for us.
    fn of(port: &ServicePort, ready: &[&Endpoint], config: &'a ProxyConfig) -> Self {
        if !port.follow_hints {
            return Self::Anywhere;
        }
        let usable = |hints: fn(&Endpoint) -> &[String], own: &str| {
            ready.iter().all(|endpoint| !hints(endpoint).is_empty())
                && ready
                    .iter()
                    .any(|endpoint| hints(endpoint).iter().any(|hint| hint == own))
        };
        let node = config.node_name.as_str();
        if config.hints == Hints::ByNode && usable(|endpoint| &endpoint.node_hints, node) {
            return Self::Node(node);
        }
        match config.zone.as_deref() {
            Some(zone) if usable(|endpoint| &endpoint.zone_hints, zone) => Self::Zone(zone),
            _ => Self::Anywhere,
        }
    }

    fn admits(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Zone(zone) => endpoint.zone_hints.iter().any(|hint| hint == zone),
            Self::Node(node) => endpoint.node_hints.iter().any(|hint| hint == node),
        }
    }
}
