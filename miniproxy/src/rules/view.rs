//! A rule set → the Services that can be read out of it: what a rule set says, not what was asked for.

use std::collections::BTreeMap;

use serde::Serialize;

use super::fixed::SERVICES;
use super::rule::{Match, Rule, Target};
use super::set::{Chains, Found, TableName};
use crate::model::{Protocol, host_port};

/// One service port, as its rules tell it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServiceView {
    /// `namespace/name:port`
    pub name: String,
    /// `TCP`
    pub protocol: &'static str,
    /// `ip:port` of the cluster IP.
    pub address: String,
    /// `ip:port` of each endpoint, in the order of the rules.
    pub endpoints: Vec<String>,
    /// `REJECT` or `DROP` where there is no endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<&'static str>,
}

impl ServiceView {
    /// `default/web:http 10.96.0.80:80/TCP`
    pub fn title(&self) -> String {
        format!("{} {}/{}", self.name, self.address, self.protocol)
    }
}

/// What identifies a service port among all others.
pub type Key = (String, &'static str);

/// Every service port with a cluster IP, by name and protocol.
pub fn services(found: &Found) -> BTreeMap<Key, ServiceView> {
    let empty = Chains::new();
    let nat = found.tables.get(&TableName::Nat).unwrap_or(&empty);
    let mut views = BTreeMap::new();
    for rule in nat.get(SERVICES).into_iter().flatten() {
        let Some(mut view) = frontend(rule, " cluster IP") else {
            continue;
        };
        if let Some(Target::Jump(chain)) = &rule.target {
            view.endpoints = endpoints(nat, chain);
        }
        views.insert((view.name.clone(), view.protocol), view);
    }
    for rule in found.chain(TableName::Filter, SERVICES).into_iter().flatten() {
        let view = frontend(rule, " has no endpoints").or_else(|| frontend(rule, " has no local endpoints"));
        let Some(mut view) = view else { continue };
        view.refused = Some(if rule.target == Some(Target::Drop) {
            "DROP"
        } else {
            "REJECT"
        });
        views.insert((view.name.clone(), view.protocol), view);
    }
    views
}

fn frontend(rule: &Rule, ending: &str) -> Option<ServiceView> {
    let name = rule.comment_text()?.strip_suffix(ending)?.to_string();
    let mut protocol = Protocol::Tcp;
    let (mut address, mut port) = (None, None);
    for condition in &rule.matches {
        match condition {
            Match::Protocol(found) => protocol = *found,
            Match::Address { network, .. } => address = Some(network.addr().to_string()),
            Match::DestinationPort(found) => port = Some(*found),
            _ => {}
        }
    }
    let address = host_port(&address?, port?);
    Some(ServiceView {
        name,
        protocol: protocol.upper(),
        address,
        endpoints: Vec::new(),
        refused: None,
    })
}

/// Follows the balancing chain to each endpoint's DNAT.
fn endpoints(nat: &Chains, chain: &str) -> Vec<String> {
    let jumps = nat
        .get(chain)
        .into_iter()
        .flatten()
        .filter_map(|rule| match &rule.target {
            Some(Target::Jump(to)) => nat.get(to),
            _ => None,
        });
    let mut targets: Vec<String> = Vec::new();
    for rule in jumps.flatten() {
        if let Some(Target::Dnat(to)) = &rule.target {
            // With affinity each endpoint is led to twice.
            if !targets.contains(to) {
                targets.push(to.clone());
            }
        }
    }
    targets
}
