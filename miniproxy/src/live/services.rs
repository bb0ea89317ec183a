//! Rules → the Services in them as a connection meets them: where it may knock, the dice, who gets it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::model::Protocol;
use crate::rules::fixed::{EXTERNAL_SERVICES, NODE_PORTS, SERVICES};
use crate::rules::rule::{Clauses, Match, Rule, Target};
use crate::rules::set::{Chains, Found, TableName};
use crate::rules::text::rule_text;
use crate::rules::trace::{NodeFacts, Packet, Transport, trace};

/// A service port: `namespace/name:port` and its protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `namespace/name:port`
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
}

/// A door of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Door {
    /// A cluster IP, an external IP, a load balancer's address.
    Address(SocketAddr),
    /// A port of every address that the node has.
    NodePort(u16),
}

/// One rule of the chain that chooses.
#[derive(Debug, Clone, PartialEq)]
pub struct Die {
    /// The rule's number, as `iptables -L --line-numbers` counts.
    pub number: usize,
    /// Where it sends connections.
    pub backend: SocketAddr,
    /// `1/3`, or `rest` for a rule that rolls no dice.
    pub rolls: String,
    /// The rule as `iptables -S` prints it.
    pub text: String,
}

/// One service port, as the rules of one node have it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Service {
    /// The address that everybody calls; `None` where only other doors are left.
    pub address: Option<SocketAddr>,
    /// Each door, and the chain behind it; none where calls are refused.
    pub doors: BTreeMap<Door, Option<String>>,
    /// The chain that chooses, for calls to the cluster IP.
    pub chain: Option<String>,
    /// Its dice, in the order of the rules.
    pub dice: Vec<Die>,
    /// Clients come back to the backend they had: the dice do not decide alone.
    pub affinity: bool,
}

impl Service {
    /// The backends that the rules name.
    pub fn backends(&self) -> BTreeSet<SocketAddr> {
        self.dice.iter().map(|die| die.backend).collect()
    }
}

/// Every service port that has a door.
pub fn services(found: &Found) -> BTreeMap<Key, Service> {
    let mut services: BTreeMap<Key, Service> = BTreeMap::new();
    let tables = [
        (TableName::Nat, SERVICES),
        (TableName::Nat, NODE_PORTS),
        (TableName::Filter, SERVICES),
        (TableName::Filter, EXTERNAL_SERVICES),
    ];
    for (table, chain) in tables {
        for rule in found.chain(table, chain).into_iter().flatten() {
            let Some((key, door)) = door(rule) else { continue };
            let service = services.entry(key).or_default();
            let behind = match &rule.target {
                Some(Target::Jump(chain)) if table == TableName::Nat => Some(chain.clone()),
                _ => None,
            };
            if let (Door::Address(address), true) = (door, is_for(rule, &CLUSTER)) {
                service.address = Some(address);
                service.chain = behind.clone().or(service.chain.take());
            }
            let known = service.doors.entry(door).or_default();
            *known = known.take().or(behind);
        }
    }
    let empty = Chains::new();
    let nat = found.tables.get(&TableName::Nat).unwrap_or(&empty);
    for service in services.values_mut() {
        let chain = service
            .chain
            .clone()
            .or_else(|| service.doors.values().flatten().next().cloned());
        if let Some(chain) = chain {
            service.dice = dice(nat, &chain);
            service.affinity = has_affinity(nat, &chain);
        }
    }
    services
}

/// How the comments of rules for a cluster IP end.
const CLUSTER: [&str; 3] = [" cluster IP", " has no endpoints", " has no local endpoints"];
const OTHERS: [&str; 2] = [" external IP", " loadbalancer IP"];

fn is_for(rule: &Rule, endings: &[&str]) -> bool {
    let comment = rule.comment_text();
    comment.is_some_and(|text| endings.iter().any(|ending| text.ends_with(ending)))
}

/// Which Service a rule of the common chains is for, and by which door.
fn door(rule: &Rule) -> Option<(Key, Door)> {
    let comment = rule.comment_text()?;
    let mut endings = CLUSTER.iter().chain(&OTHERS);
    let name = endings
        .find_map(|ending| comment.strip_suffix(ending))
        .unwrap_or(comment);
    name.contains('/').then_some(())?;
    let (mut protocol, mut ip, mut port) = (Protocol::Tcp, None, None);
    for condition in &rule.matches {
        match condition {
            Match::Protocol(found) => protocol = *found,
            Match::DestinationPort(found) => port = Some(*found),
            Match::Address {
                network,
                negated: false,
                ..
            } => ip = Some(network.addr()),
            _ => {}
        }
    }
    let port = port?;
    let door = ip.map_or(Door::NodePort(port), |ip| {
        Door::Address(SocketAddr::new(ip, port))
    });
    let key = Key {
        name: name.to_string(),
        protocol,
    };
    Some((key, door))
}

/// The rules of the choosing chain that lead to a backend; with affinity each is led to twice, and
/// the one that remembers is no die.
fn dice(nat: &Chains, chain: &str) -> Vec<Die> {
    let Some(rules) = nat.get(chain) else {
        return Vec::new();
    };
    let numbered = rules.iter().enumerate().filter_map(|(index, rule)| {
        let Some(Target::Jump(to)) = &rule.target else {
            return None;
        };
        let backend = backend(nat, to)?;
        let remembers = rule
            .matches
            .iter()
            .any(|found| matches!(found, Match::RecentCheck { .. }));
        (!remembers).then(|| Die {
            number: index + 1,
            backend,
            rolls: rolls(rule),
            text: format!("-A {chain} {}", rule_text(rule)),
        })
    });
    let found: Vec<Die> = numbered.collect();
    if !found.is_empty() {
        return found;
    }
    // A door's own chain leads to the one that chooses.
    let inner = rules.iter().rev().find_map(|rule| match &rule.target {
        Some(Target::Jump(to)) if is_choosing(to) && to != chain => Some(to),
        _ => None,
    });
    inner.map_or_else(Vec::new, |inner| dice(nat, inner))
}

fn is_choosing(chain: &str) -> bool {
    chain.starts_with("KUBE-SVC-") || chain.starts_with("KUBE-SVL-")
}

fn has_affinity(nat: &Chains, chain: &str) -> bool {
    let remembers = |rule: &Rule| {
        rule.matches
            .iter()
            .any(|found| matches!(found, Match::RecentCheck { .. }))
    };
    nat.get(chain).is_some_and(|rules| rules.iter().any(remembers))
}

/// Where a backend's own chain sends a connection.
pub fn backend(nat: &Chains, chain: &str) -> Option<SocketAddr> {
    nat.get(chain)?.iter().find_map(|rule| match &rule.target {
        Some(Target::Dnat(to)) => to.parse().ok(),
        _ => None,
    })
}

/// `1/3`; a chance that is no such fraction in per cent.
fn rolls(rule: &Rule) -> String {
    let chance = rule.matches.iter().find_map(|found| match found {
        Match::Statistic(chance) => Some(chance.fraction()),
        _ => None,
    });
    let Some(chance) = chance else {
        return "rest".into();
    };
    let parts = (1.0 / chance.max(1e-9)).round();
    if (1.0 / parts - chance).abs() < 1e-6 {
        format!("1/{parts}")
    } else {
        format!("{:.1}%", chance * 100.0)
    }
}

/// The share of each backend among new connections that come by this door.
pub fn shares(found: &Found, door: Door, protocol: Protocol, chain: &str) -> BTreeMap<SocketAddr, f64> {
    let Some(nat) = found.tables.get(&TableName::Nat) else {
        return BTreeMap::new();
    };
    // Only what lies behind the door: the way to it is the same for all.
    let mut behind = Chains::new();
    let mut wanted = vec![chain.to_string()];
    while let Some(name) = wanted.pop() {
        let Some(rules) = nat.get(&name).filter(|_| !behind.contains_key(&name)) else {
            continue;
        };
        wanted.extend(rules.iter().filter_map(|rule| match &rule.target {
            Some(Target::Jump(to)) => Some(to.clone()),
            _ => None,
        }));
        behind.insert(name, rules.clone());
    }
    let enter = Clauses {
        matches: Vec::new(),
        target: Some(Target::Jump(chain.to_string())),
    };
    behind.insert("PREROUTING".into(), vec![Rule::from(enter)]);
    let six = nat.get(chain).is_some_and(|_| leads_to_six(&behind));
    let (source, anywhere) = strangers(six);
    let to = match door {
        Door::Address(address) => address,
        Door::NodePort(port) => SocketAddr::new(anywhere, port),
    };
    let packet = Packet {
        source,
        protocol: Transport::Of(protocol),
        destination: to.ip(),
        port: to.port(),
        arriving: Some("outside".into()),
        remembered: None,
    };
    let mut reduced = Found::default();
    reduced.tables.insert(TableName::Nat, behind);
    trace(&reduced, &NodeFacts::default(), &packet).endpoints()
}

fn leads_to_six(chains: &Chains) -> bool {
    let ends = chains.keys().filter_map(|chain| backend(chains, chain));
    ends.into_iter().any(|end| end.is_ipv6())
}

/// Addresses that nobody has: they are kept for documentation (RFC 5737, RFC 3849).
fn strangers(six: bool) -> (IpAddr, IpAddr) {
    if six {
        let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into();
        (address(1), address(2))
    } else {
        (
            Ipv4Addr::new(192, 0, 2, 1).into(),
            Ipv4Addr::new(192, 0, 2, 2).into(),
        )
    }
}
