//! A rule set → the Services that can be read out of it: what a rule set says, not what was asked for.

use std::collections::BTreeMap;

use serde::Serialize;

use super::fixed::{EXTERNAL_SERVICES, NODE_PORTS, SERVICES};
use super::name::ChainKind;
use super::rule::{Match, Rule, Side, Target};
use super::set::{Found, TableName};
use crate::model::{Protocol, host_port};

/// One service port, as its rules tell it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
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
    /// The port on every node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// `ip:port` of external IPs and of load balancers' addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub external: Vec<String>,
    /// Calls from outside stay on the node: `externalTrafficPolicy: Local`.
    #[serde(skip_serializing_if = "is_false")]
    pub external_local: bool,
    /// Networks that may call the load balancer's addresses; all of them where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<String>,
    /// How long a client comes back to the endpoint it had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u32>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

impl ServiceView {
    /// `default/web:http 10.96.0.80:80/TCP`
    pub fn title(&self) -> String {
        format!("{} {}/{}", self.name, self.address, self.protocol)
    }
}

/// What identifies a service port among all others.
pub type Key = (String, &'static str);

/// Rules by table and chain: a kernel's, or those of one Service.
pub trait Holder {
    /// The rules of a chain in their order; none where there is no such chain.
    fn rules<'a>(&'a self, table: TableName, chain: &'a str) -> impl Iterator<Item = &'a Rule>;
}

impl Holder for Found {
    fn rules<'a>(&'a self, table: TableName, chain: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.chain(table, chain).unwrap_or_default().iter()
    }
}

/// Service ports by name and protocol.
pub type Views = BTreeMap<Key, ServiceView>;

/// Every service port with a cluster IP.
pub fn services(held: &impl Holder) -> Views {
    let mut views = Views::new();
    add_services(held, &mut views);
    views
}

/// Adds every service port with a cluster IP to what was read of others.
pub fn add_services(held: &impl Holder, views: &mut Views) {
    for rule in held.rules(TableName::Nat, SERVICES) {
        let Some(mut view) = frontend(rule, " cluster IP") else {
            continue;
        };
        if let Some(Target::Jump(chain)) = &rule.target {
            view.endpoints = endpoints(held, chain);
            view.affinity_seconds = affinity(held, chain);
        }
        views.insert((view.name.clone(), view.protocol), view);
    }
    for rule in held.rules(TableName::Filter, SERVICES) {
        let view = frontend(rule, " has no endpoints").or_else(|| frontend(rule, " has no local endpoints"));
        let Some(mut view) = view else { continue };
        view.refused = Some(if rule.target == Some(Target::Drop) {
            "DROP"
        } else {
            "REJECT"
        });
        views.insert((view.name.clone(), view.protocol), view);
    }
    let outside = [
        (TableName::Nat, SERVICES),
        (TableName::Nat, NODE_PORTS),
        (TableName::Filter, EXTERNAL_SERVICES),
    ];
    for (table, chain) in outside {
        for rule in held.rules(table, chain) {
            from_outside(rule, held, views);
        }
    }
}

/// How the comments of rules begin that lead from outside, behind the name of the service port.
const OUTSIDE: [&str; 5] = [
    " external IP",
    " loadbalancer IP",
    " has no endpoints",
    " has no local endpoints",
    "",
];

/// Adds what a rule tells of a service port's doors for those who come from outside.
fn from_outside(rule: &Rule, held: &impl Holder, views: &mut Views) {
    let Some(comment) = rule.comment_text() else {
        return;
    };
    let name = OUTSIDE.iter().find_map(|ending| comment.strip_suffix(ending));
    let Some(view) = name.and_then(|name| views.get_mut(&(name.to_string(), protocol(rule).upper()))) else {
        return;
    };
    match (destination(rule), port(rule)) {
        (Some(address), Some(port)) => {
            let door = host_port(&address, port);
            if !view.external.contains(&door) {
                view.external.push(door);
            }
        }
        (None, port) => view.node_port = port.or(view.node_port),
        _ => {}
    }
    let Some(Target::Jump(chain)) = &rule.target else {
        return;
    };
    let mut external = chain.as_str();
    if ChainKind::of(chain) == Some(ChainKind::Firewall) {
        let rules: Vec<&Rule> = held.rules(TableName::Nat, chain).collect();
        view.source_ranges = rules.iter().filter_map(|rule| source(rule)).collect();
        let last = rules.iter().rev().find_map(|rule| match &rule.target {
            Some(Target::Jump(to)) => Some(to.as_str()),
            _ => None,
        });
        external = last.unwrap_or(external);
    }
    if ChainKind::of(external) == Some(ChainKind::External) {
        // Only with the policy Cluster is everything masqueraded that comes from outside.
        let masquerades = |rule: &Rule| {
            let comment = rule.comment_text().unwrap_or_default();
            comment.starts_with("masquerade traffic for ")
        };
        view.external_local = !held.rules(TableName::Nat, external).any(masquerades);
    }
}

fn protocol(rule: &Rule) -> Protocol {
    let found = rule.matches.iter().find_map(|condition| match condition {
        Match::Protocol(found) => Some(*found),
        _ => None,
    });
    found.unwrap_or(Protocol::Tcp)
}

fn port(rule: &Rule) -> Option<u16> {
    rule.matches.iter().find_map(|condition| match condition {
        Match::DestinationPort(found) => Some(*found),
        _ => None,
    })
}

fn destination(rule: &Rule) -> Option<String> {
    rule.matches.iter().find_map(|condition| match condition {
        Match::Address {
            side: Side::Destination,
            network,
            ..
        } => Some(network.addr().to_string()),
        _ => None,
    })
}

fn source(rule: &Rule) -> Option<String> {
    rule.matches.iter().find_map(|condition| match condition {
        Match::Address {
            side: Side::Source,
            network,
            negated: false,
        } => Some(network.to_string()),
        _ => None,
    })
}

fn affinity(held: &impl Holder, chain: &str) -> Option<u32> {
    held.rules(TableName::Nat, chain)
        .flat_map(|rule| rule.matches.iter())
        .find_map(|condition| match condition {
            Match::RecentCheck { seconds, .. } => Some(*seconds),
            _ => None,
        })
}

fn frontend(rule: &Rule, ending: &str) -> Option<ServiceView> {
    let name = rule.comment_text()?.strip_suffix(ending)?.to_string();
    Some(ServiceView {
        name,
        protocol: protocol(rule).upper(),
        address: host_port(&destination(rule)?, port(rule)?),
        ..ServiceView::default()
    })
}

/// Follows the balancing chain to each endpoint's DNAT.
fn endpoints(held: &impl Holder, chain: &str) -> Vec<String> {
    let jumps = held
        .rules(TableName::Nat, chain)
        .filter_map(|rule| match &rule.target {
            Some(Target::Jump(to)) => Some(to),
            _ => None,
        });
    let mut targets: Vec<String> = Vec::new();
    for rule in jumps.flat_map(|to| held.rules(TableName::Nat, to)) {
        if let Some(Target::Dnat(to)) = &rule.target {
            // With affinity each endpoint is led to twice.
            if !targets.contains(to) {
                targets.push(to.clone());
            }
        }
    }
    targets
}
