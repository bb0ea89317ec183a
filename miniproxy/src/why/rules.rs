//! The rules of a node walked beside those that are wanted, by the same packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use labkit::xtables::Family;

use super::evidence::{Evidence, Rules, Spot};
use super::{Finding, add};
use crate::model::{ServicePort, host_port};
use crate::rules::fixed::SERVICES;
use crate::rules::pasted::{self, Pasted};
use crate::rules::rule::{Rule, Target};
use crate::rules::set::{Found, TableName};
use crate::rules::trace::{
    NodeFacts, Outcome, Packet, Place, SOME_INTERFACE, Trace, Transport, Verdict, trace,
};

/// So many endpoints are asked whether they reach themselves; the rules of the others are made alike.
const SELVES: usize = 32;
/// Old versions write chances with five digits; more than this is no rounding.
const SLACK: f64 = 0.01;

/// Between who calls and where that ends.
const ENDS: &str = " end at ";

/// A packet, and whose it is.
struct Journey {
    who: String,
    packet: Packet,
}

/// What is wrong with the rules of a node, and what cannot be told of them.
pub fn findings(evidence: &Evidence<'_>, spot: &Spot, findings: &mut Vec<Finding>, notes: &mut Vec<String>) {
    for (family, rules) in &spot.rules {
        let reading = pasted::read(&rules.text);
        let empty = Pasted::default();
        let found = reading.families.get(family).unwrap_or(&empty);
        let walk = Walk {
            evidence,
            spot,
            rules,
            found,
            own: services_only(&found.found),
            facts: facts(spot, found),
        };
        for port in &rules.ports {
            for journey in walk.journeys(port, *family) {
                walk.judge(port, &journey, findings, notes);
            }
        }
        walk.other(*family, findings);
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

struct Walk<'a> {
    evidence: &'a Evidence<'a>,
    spot: &'a Spot,
    rules: &'a Rules,
    found: &'a Pasted<'a>,
    /// The chains of Services, and the jumps to them.
    own: Found,
    facts: NodeFacts,
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
            });
        }
        let node = self.own_address(family);
        let from_node = node.unwrap_or(some_node(family));
        journeys.push(Journey {
            who: "the node itself".into(),
            packet: packet(from_node, port.cluster_ip, port.port, None),
        });
        let outside = port.external_ips.iter().chain(&port.load_balancer_ips);
        let mut doors: Vec<(IpAddr, u16)> = outside.map(|ip| (*ip, port.port)).collect();
        doors.extend(node.zip(port.node_port));
        let restricted = !port.source_ranges.is_empty();
        for (ip, number) in doors.into_iter().filter(|_| !restricted) {
            journeys.push(Journey {
                who: "a host outside".into(),
                packet: packet(stranger(family), ip, number, Some(SOME_INTERFACE.into())),
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

    fn own_address(&self, family: Family) -> Option<IpAddr> {
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

    fn judge(
        &self,
        port: &ServicePort,
        journey: &Journey,
        findings: &mut Vec<Finding>,
        notes: &mut Vec<String>,
    ) {
        let mut facts = self.facts.clone();
        facts
            .addresses
            .extend(self.own_address(family_of(&journey.packet)));
        let is = trace(&self.found.found, &facts, &journey.packet);
        if let Some(finding) = self.foreign(&is, journey) {
            add_once(findings, finding);
            return;
        }
        facts.policies.clear();
        let should = trace(&self.rules.wanted, &facts, &journey.packet);
        let is = if is.unknown() > SLACK {
            // Rules of others that nobody here can judge: those of Services are walked without them.
            let rule = is.doubts.iter().flat_map(|doubt| &doubt.rules).next();
            let note = rule.map(|rule| format!("only the kernel can judge this rule: {}", rule.rule));
            notes.extend(note.filter(|note| !notes.contains(note)));
            trace(&self.own, &facts, &journey.packet)
        } else {
            is
        };
        if is.unknown() > SLACK {
            return;
        }
        if let Some(finding) = self.destinations(port, &is, &should, journey) {
            add(findings, finding);
        } else if let Some(finding) = self.masquerade(&is, &should, journey) {
            add(findings, finding);
        }
    }

    /// A rule or a policy that is no Service's stops it.
    fn foreign(&self, is: &Trace, journey: &Journey) -> Option<Finding> {
        let stops = |outcome: &&Outcome| {
            let verdict = matches!(outcome.verdict, Verdict::Drop | Verdict::Reject);
            verdict
                && outcome
                    .by
                    .as_ref()
                    .is_some_and(|place| !place.chain.starts_with("KUBE-"))
        };
        let outcome = is.outcomes.iter().find(stops)?;
        let place = outcome.by.as_ref()?;
        let cause = if place.chain == "FORWARD" {
            "forward-drop"
        } else {
            "foreign-drop"
        };
        let here = is.outcomes.iter().filter(|one| one.by.as_ref() == Some(place));
        let share = percent(here.map(|one| one.probability).sum());
        let sentence = format!(
            "A rule that is no Service's throws away packets to {}.",
            self.evidence.name()
        );
        let text = self.text(place);
        let seen = format!(
            "{}: {share} of the calls of {}{ENDS}{}: {text}",
            self.spot.node,
            journey.who,
            named(place)
        );
        Some(
            Finding::certain(cause, sentence)
                .seen(seen)
                .cured_by(self.removal(&self.spot.program, place)),
        )
    }

    fn text(&self, place: &Place) -> String {
        let line = self.found.line(place).map(str::to_string);
        line.unwrap_or_else(|| format!("the policy of {}", place.chain))
    }

    fn removal(&self, program: &str, place: &Place) -> String {
        let Spot { prefix, .. } = self.spot;
        let (table, chain) = (place.table, &place.chain);
        let table = if table == "filter" {
            String::new()
        } else {
            format!("-t {table} ")
        };
        match place.number {
            Some(number) => format!("{prefix}{program} {table}-D {chain} {number}"),
            None => format!("{prefix}{program} {table}-P {chain} ACCEPT"),
        }
    }

    /// Who gets which share, and who should.
    fn destinations(
        &self,
        port: &ServicePort,
        is: &Trace,
        should: &Trace,
        journey: &Journey,
    ) -> Option<Finding> {
        let (has, wants) = (is.endpoints(), should.endpoints());
        let address = host_port(&journey.packet.destination.to_string(), journey.packet.port);
        let node = &self.spot.node;
        let refuses = is.share(Verdict::Reject) > SLACK;
        if has.is_empty() && !refuses && is.share(Verdict::Drop) < SLACK {
            if wants.is_empty() && should.share(Verdict::Reject) < SLACK {
                return None;
            }
            return Some(self.no_rule(port, &address, !wants.is_empty()));
        }
        let list = |ends: &std::collections::BTreeMap<SocketAddr, f64>| {
            let ends = ends.iter().map(|(to, share)| format!("{to} {}", percent(*share)));
            let text = ends.collect::<Vec<_>>().join(", ");
            if text.is_empty() { "nobody".into() } else { text }
        };
        let seen = format!(
            "{node}: calls of {} to {address} go to {}; they should go to {}",
            journey.who,
            list(&has),
            list(&wants)
        );
        if !has.keys().eq(wants.keys()) {
            let finding = Finding::certain("stale-rules", "The rules are not those that the objects want.");
            return Some(finding.seen(seen).cured_by("miniproxy sync"));
        }
        let off = has
            .iter()
            .any(|(to, share)| (share - wants[to]).abs() > SLACK * wants[to]);
        if !off && is.falls_through < 1e-6 {
            return None;
        }
        let finding = Finding::certain(
            "wrong-probabilities",
            format!(
                "The chances in the rules of {} are wrong: {} of the calls fall through all of them.",
                port.name,
                percent(is.falls_through)
            ),
        );
        Some(finding.seen(seen).cured_by("miniproxy sync"))
    }

    fn no_rule(&self, port: &ServicePort, address: &str, has_endpoints: bool) -> Finding {
        let node = &self.spot.node;
        let any = self.found.found.chain(TableName::Nat, SERVICES).is_some();
        let (cause, sentence) = if any {
            let sentence = format!(
                "No rule speaks of {}: neither one that translates its address nor one that rejects it.",
                port.name
            );
            ("no-reject", sentence)
        } else {
            (
                "no-rules",
                "There are no rules of Services at all: nobody wrote them yet.".to_string(),
            )
        };
        let should = if has_endpoints {
            "it has endpoints"
        } else {
            "it has no endpoints, and a REJECT belongs there"
        };
        Finding::certain(cause, sentence)
            .seen(format!("{node}: no rule for {address}; {should}"))
            .cured_by("miniproxy sync")
    }

    /// Who is sent to itself, or comes from outside, must be masqueraded.
    fn masquerade(&self, is: &Trace, should: &Trace, journey: &Journey) -> Option<Finding> {
        let bare = |outcome: &&Outcome| outcome.verdict == Verdict::Accept && !outcome.masqueraded;
        let wanted =
            |to| move |outcome: &&Outcome| outcome.destination == to && outcome.masqueraded && to.is_some();
        let outcome = is
            .outcomes
            .iter()
            .filter(bare)
            .find(|outcome| should.outcomes.iter().any(|o| wanted(outcome.destination)(&o)))?;
        let to = outcome.destination?;
        let sentence = "Service traffic that must be masqueraded is not: a pod that is sent to itself sees a packet from itself.";
        let seen = format!(
            "{}: a packet of {} goes to {to} with its own source address",
            self.spot.node, journey.who
        );
        Some(
            Finding::certain("masquerade-missing", sentence)
                .seen(seen)
                .cured_by("miniproxy sync"),
        )
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

/// Adds a finding, but not the same end of one more caller.
fn add_once(findings: &mut Vec<Finding>, mut new: Finding) {
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

fn family_of(packet: &Packet) -> Family {
    if packet.destination.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    }
}

/// `filter FORWARD rule 1`
fn named(place: &Place) -> String {
    match place.number {
        Some(number) => format!("{} {} rule {number}", place.table, place.chain),
        None => format!("{} {} (its policy)", place.table, place.chain),
    }
}

/// `33.3 %`
fn percent(share: f64) -> String {
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
