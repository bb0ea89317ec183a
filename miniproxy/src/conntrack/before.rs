//! What was there before: from an earlier model, or from the rules that a kernel has.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::{addresses, is_udp, serving};
use crate::model::{Protocol, ServicePort};
use crate::rules::fixed::{EXTERNAL_SERVICES, NODE_PORTS, SERVICES};
use crate::rules::rule::{Match, Rule, Target};
use crate::rules::set::{Chains, Found, TableName};

/// Where UDP Services were reached, for [`super::Frontends::add_before`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Before {
    pub(super) addresses: HashSet<SocketAddr>,
    /// Node ports, with the endpoints that they led to.
    pub(super) node_ports: HashMap<u16, HashSet<SocketAddr>>,
}

/// `KUBE-NODEPORTS` → `KUBE-EXT-` → `KUBE-SVC-` → `KUBE-SEP-`: a jump deeper is no rule of ours.
const DEPTH: usize = 3;

impl Before {
    /// Adds a port of a Service that was deleted, or whose addresses or endpoints changed.
    pub fn add_port(&mut self, port: &ServicePort) {
        if !is_udp(port) {
            return;
        }
        self.addresses.extend(addresses(port));
        if let Some(number) = port.node_port {
            self.node_ports.entry(number).or_default().extend(serving(port));
        }
    }

    /// Adds what is owed from an earlier time.
    pub fn add(&mut self, other: Self) {
        self.addresses.extend(other.addresses);
        for (number, endpoints) in other.node_ports {
            self.node_ports.entry(number).or_default().extend(endpoints);
        }
    }

    /// Everything that these rules lead to: all that a program knows which has just been started.
    pub fn of_rules(found: &Found) -> Self {
        let mut before = Self::default();
        let empty = Chains::new();
        let nat = found.tables.get(&TableName::Nat).unwrap_or(&empty);
        let refused = [SERVICES, EXTERNAL_SERVICES].map(|chain| found.chain(TableName::Filter, chain));
        let translated = nat.get(SERVICES).map(Vec::as_slice);
        for rule in refused.into_iter().chain([translated]).flatten().flatten() {
            before.addresses.extend(udp_address(rule));
        }
        for rule in nat.get(NODE_PORTS).into_iter().flatten() {
            if let (Some(number), Some(Target::Jump(chain))) = (udp_port(rule), &rule.target) {
                let endpoints = before.node_ports.entry(number).or_default();
                collect_endpoints(nat, chain, DEPTH, endpoints);
            }
        }
        before
    }
}

fn udp_port(rule: &Rule) -> Option<u16> {
    let udp = rule.matches.contains(&Match::Protocol(Protocol::Udp));
    let port = rule.matches.iter().find_map(|condition| match condition {
        Match::DestinationPort(port) => Some(*port),
        _ => None,
    });
    port.filter(|_| udp)
}

/// `-d ADDRESS -p udp --dport PORT`
fn udp_address(rule: &Rule) -> Option<SocketAddr> {
    Some(SocketAddr::new(rule.destination()?, udp_port(rule)?))
}

fn collect_endpoints(nat: &Chains, chain: &str, depth: usize, into: &mut HashSet<SocketAddr>) {
    for rule in nat.get(chain).into_iter().flatten() {
        match &rule.target {
            Some(Target::Dnat(to)) => into.extend(to.parse::<SocketAddr>().ok()),
            Some(Target::Jump(next)) if depth > 0 && next.starts_with("KUBE-") => {
                collect_endpoints(nat, next, depth - 1, into);
            }
            _ => {}
        }
    }
}
