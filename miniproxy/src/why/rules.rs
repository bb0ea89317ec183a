//! The rules of a node walked beside those that are wanted, by the same packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use labkit::xtables::Family;

use super::evidence::{Evidence, Rules, Spot};
use super::{Finding, add};
use crate::model::ServicePort;
use crate::rules::fixed::SERVICES;
use crate::rules::pasted::{self, Pasted};
use crate::rules::rule::{Rule, Target};
use crate::rules::set::{Found, TableName};
use crate::rules::trace::{NodeFacts, Outcome, Packet, Place, SOME_INTERFACE, Transport, Verdict, trace};

/// So many endpoints are asked whether they reach themselves; the rules of the others are made alike.
const SELVES: usize = 32;
/// Old versions write chances with five digits; more than this is no rounding.
pub(super) const SLACK: f64 = 0.01;

/// Between who calls and where that ends.
pub(super) const ENDS: &str = " end at ";

/// A packet, and whose it is.
pub(super) struct Journey {
    pub(super) who: String,
    pub(super) packet: Packet,
    /// It comes by a node port.
    pub(super) by_node_port: bool,
}

/// What is told of rules.
#[derive(Debug, Default)]
pub struct Told {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What one should know.
    pub notes: Vec<String>,
    /// What a dump lacks, so that nothing can be said.
    pub untold: Vec<String>,
    /// What a dump lacks beside what can be said.
    pub missing: Vec<String>,
}

/// What is wrong with the rules of a node, and what cannot be told of them.
pub fn findings(evidence: &Evidence<'_>, spot: &Spot, told: &mut Told) {
    for (family, rules) in &spot.rules {
        let reading = pasted::read(&rules.text);
        let empty = Pasted::default();
        let found = reading.families.get(family).unwrap_or(&empty);
        if spot.seen.is_none() && told.notes.is_empty() {
            told.notes.extend(reading.notes.iter().cloned());
        }
        let walk = Walk {
            evidence,
            spot,
            rules,
            found,
            own: services_only(&found.found),
            facts: facts(spot, found),
        };
        if walk.has_tables(told) {
            for port in &rules.ports {
                for journey in walk.journeys(port, *family) {
                    walk.judge(port, &journey, told);
                }
            }
        }
        walk.other(*family, &mut told.findings);
    }
}

fn facts(spot: &Spot, found: &Pasted<'_>) -> NodeFacts {
    let host = spot.seen.as_ref().map(|seen| &seen.host);
    let own = host.into_iter().flat_map(|host| &host.interfaces);
    let mut facts = NodeFacts::new(own.map(|(_, network)| network.addr()));
    facts.policies.clone_from(&found.policies);
    if let Some(host) = host {
        let networks = host
            .interfaces
            .iter()
            .map(|(name, network)| (network.trunc(), name.clone()));
        let routes = host
            .routes
            .iter()
            .filter(|(network, _)| network.prefix_len() > 0)
            .cloned();
        facts.routes = networks.chain(routes).collect();
    }
    facts
}

/// The rules of one family on one node.
pub(super) struct Walk<'a> {
    pub(super) evidence: &'a Evidence<'a>,
    pub(super) spot: &'a Spot,
    pub(super) rules: &'a Rules,
    pub(super) found: &'a Pasted<'a>,
    /// The chains of Services, and the jumps to them.
    pub(super) own: Found,
    pub(super) facts: NodeFacts,
}

impl Walk<'_> {
    /// A pod, the endpoints themselves and the node to the virtual IP; a stranger to the other addresses.
    fn journeys(&self, port: &ServicePort, family: Family) -> Vec<Journey> {
        let packet = |source: IpAddr, to: IpAddr, number: u16, arriving: Option<String>| Packet {
            source,
            protocol: Transport::Of(port.protocol),
            destination: to,
            port: number,
            arriving,
            remembered: None,
        };
        let mut journeys = Vec::new();
        let pods = self.callers(port, family);
        for (who, ip) in pods {
            let arriving = Some(self.arriving(ip));
            journeys.push(Journey {
                who,
                packet: packet(ip, port.cluster_ip, port.port, arriving),
                by_node_port: false,
            });
        }
        let node = self.own_address(family);
        let from_node = node.unwrap_or(some_node(family));
        journeys.push(Journey {
            who: "the node itself".into(),
            packet: packet(from_node, port.cluster_ip, port.port, None),
            by_node_port: false,
        });
        let outside = port.external_ips.iter().chain(&port.load_balancer_ips);
        let mut doors: Vec<(IpAddr, u16, bool)> = outside.map(|ip| (*ip, port.port, false)).collect();
        doors.extend(node.zip(port.node_port).map(|(ip, number)| (ip, number, true)));
        let restricted = !port.source_ranges.is_empty();
        for (ip, number, by_node_port) in doors.into_iter().filter(|_| !restricted) {
            journeys.push(Journey {
                who: "a host outside".into(),
                packet: packet(stranger(family), ip, number, Some(SOME_INTERFACE.into())),
                by_node_port,
            });
        }
        journeys
    }

    /// A pod that is no endpoint, and then endpoints.
    fn callers(&self, port: &ServicePort, family: Family) -> Vec<(String, IpAddr)> {
        let endpoints: Vec<IpAddr> = port.endpoints.iter().map(|endpoint| endpoint.ip).collect();
        let v4 = family == Family::V4;
        let here = self.spot.pods.iter().flat_map(|pod| &pod.addresses);
        let other = here
            .copied()
            .find(|ip| ip.is_ipv4() == v4 && !endpoints.contains(ip));
        let other = other.or_else(|| endpoints.first().copied().map(neighbour));
        let other = other.unwrap_or(some_pod(family));
        let mut callers = vec![("another pod".to_string(), other)];
        let on_node = |ip: &&IpAddr| {
            self.spot.seen.is_none() || self.spot.pods.iter().any(|pod| pod.addresses.contains(ip))
        };
        let own = endpoints.iter().filter(on_node).take(SELVES);
        callers.extend(own.map(|ip| (self.evidence.called(*ip), *ip)));
        callers
    }

    fn arriving(&self, ip: IpAddr) -> String {
        let host = self.spot.seen.as_ref().map(|seen| &seen.host);
        let interface = host.and_then(|host| host.interface_to(ip));
        interface
            .filter(|name| *name != "*")
            .unwrap_or(SOME_INTERFACE)
            .to_string()
    }

    pub(super) fn own_address(&self, family: Family) -> Option<IpAddr> {
        let v4 = family == Family::V4;
        let good =
            |ip: &IpAddr| ip.is_ipv4() == v4 && !ip.is_loopback() && !ip.to_string().starts_with("fe80");
        let seen = self.facts.addresses.iter().copied().find(good);
        let node = self.evidence.registry.nodes.get(&self.spot.node);
        let told = node
            .and_then(|node| node.status.as_ref())
            .and_then(|status| status.addresses.as_ref());
        let told = told
            .into_iter()
            .flatten()
            .filter_map(|address| crate::address::parse_ip(&address.address));
        seen.or_else(|| told.into_iter().find(good))
    }

    /// The other flavour of iptables, which packets pass as well.
    fn other(&self, family: Family, findings: &mut Vec<Finding>) {
        let Some((program, text)) = &self.rules.other else {
            return;
        };
        let reading = pasted::read(text);
        let Some(other) = reading.families.get(&family) else {
            return;
        };
        findings.extend(self.both_flavours(program, other));
        let mut facts = self.facts.clone();
        facts.policies.clone_from(&other.policies);
        for port in &self.rules.ports {
            let endpoints = port.endpoints.iter().filter(|endpoint| endpoint.ready);
            for endpoint in endpoints.take(SELVES) {
                // Where it goes after the Service's rules have translated it.
                let caller = self.callers(port, family).into_iter().next();
                let Some((_, source)) = caller else { continue };
                let packet = Packet {
                    source,
                    protocol: Transport::Of(port.protocol),
                    destination: endpoint.ip,
                    port: endpoint.port,
                    arriving: Some(self.arriving(source)),
                    remembered: None,
                };
                let walked = trace(&other.found, &facts, &packet);
                let stops = |outcome: &&Outcome| matches!(outcome.verdict, Verdict::Drop | Verdict::Reject);
                let place = walked
                    .outcomes
                    .iter()
                    .find(stops)
                    .and_then(|outcome| outcome.by.as_ref());
                let Some(place) = place else { continue };
                let line = other
                    .line(place)
                    .map_or_else(|| format!("the policy of {}", place.chain), str::to_string);
                let sentence = format!(
                    "The other iptables ({program}) throws away packets to the pods; `{} -S` does not show it.",
                    self.spot.program
                );
                let finding = Finding::certain("other-iptables-drop", sentence)
                    .seen(format!("{}: {program}, {}: {line}", self.spot.node, named(place)))
                    .cured_by(self.removal(program, place));
                add(findings, finding);
            }
        }
    }
}

impl Walk<'_> {
    /// Rules of Services in both flavours: a packet meets both, and the first that translates it wins.
    fn both_flavours(&self, program: &str, other: &Pasted<'_>) -> Option<Finding> {
        let is_led_to = other
            .found
            .tables
            .get(&TableName::Nat)?
            .values()
            .flatten()
            .any(|rule| matches!(&rule.target, Some(Target::Jump(to)) if to == SERVICES));
        let rules = other.found.chain(TableName::Nat, SERVICES)?.len();
        self.found.found.chain(TableName::Nat, SERVICES)?;
        let sentence = format!(
            "The other iptables ({program}) has rules of Services, too: packets meet both, and the first that translates them wins."
        );
        (is_led_to && rules > 0).then(|| {
            Finding::certain("both-iptables", sentence)
                .seen(format!(
                    "{}: {program}: nat {SERVICES} has {rules} rules",
                    self.spot.node
                ))
                .cured_by(format!("miniproxy cleanup --iptables {program}"))
        })
    }
}

impl Told {
    /// Says of a dump that it does not tell, once.
    pub(super) fn leave(&mut self, gap: Option<String>) {
        self.untold.extend(gap.filter(|gap| !self.untold.contains(gap)));
    }
}

/// Adds a finding, but not the same end of one more caller.
pub(super) fn add_once(findings: &mut Vec<Finding>, mut new: Finding) {
    let end = |seen: &str| {
        let (node, rest) = seen.split_once(": ")?;
        let (_, end) = rest.split_once(ENDS)?;
        Some((node.to_string(), end.to_string()))
    };
    let known = findings.iter().filter(|known| known.cause == new.cause);
    let told: Vec<_> = known
        .flat_map(|known| known.evidence.iter().map(|seen| end(seen)))
        .collect();
    new.evidence.retain(|seen| !told.contains(&end(seen)));
    add(findings, new);
}

/// The chains of Services and the jumps to them, as if nobody else had rules.
fn services_only(found: &Found) -> Found {
    let own = |name: &str| name.starts_with("KUBE-");
    let leads = |rule: &&Rule| matches!(&rule.target, Some(Target::Jump(to)) if own(to));
    let mut only = Found::default();
    for (table, chains) in &found.tables {
        let chains = chains.iter().map(|(name, rules)| {
            let rules = if own(name) {
                rules.clone()
            } else {
                rules.iter().filter(leads).cloned().collect()
            };
            (name.clone(), rules)
        });
        only.tables.insert(*table, chains.collect());
    }
    only
}

pub(super) fn family_of(packet: &Packet) -> Family {
    if packet.destination.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    }
}

/// `filter FORWARD rule 1`
pub(super) fn named(place: &Place) -> String {
    match place.number {
        Some(number) => format!("{} {} rule {number}", place.table, place.chain),
        None => format!("{} {} (its policy)", place.table, place.chain),
    }
}

/// `33.3 %`
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// An address beside that of a pod: as another pod of its network would have.
fn neighbour(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() ^ 0x80).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() ^ 0x8000).into(),
    }
}

fn some_pod(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 244, 255, 250).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0xfffa).into(),
    }
}

/// Stands for a node of which no address is known (RFC 5737, RFC 3849).
fn some_node(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    }
}

fn stranger(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 9).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9).into(),
    }
}
