//! One condition of a rule against one state of a packet: met, not met, a chance, or nobody knows.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::super::rule::{Match, Rule, Side, Target};
use super::super::set::{Found, TableName};
use super::Transport;
use super::state::State;
use super::{NodeFacts, Packet};
use super::{OUTSIDE_INTERFACE, SOME_INTERFACE};

/// What a condition, or a whole rule, says about a packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Met {
    No,
    /// 1 where no dice are thrown.
    Chance(f64),
    Unknown,
}

impl Met {
    pub(super) const YES: Self = Self::Chance(1.0);

    pub(super) fn of(met: bool, negated: bool) -> Self {
        if met == negated { Self::No } else { Self::YES }
    }
}

/// A built-in chain: the place in the kernel where its rules are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

impl Hook {
    pub(super) fn chain(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
        }
    }
}

/// What is known about one of the packet's interfaces.
#[derive(Debug, Clone, Copy)]
enum Link<'a> {
    /// There is none here: the kernel compares with an empty name.
    Absent,
    Named(&'a str),
    /// Routing decides; it is not loopback.
    Elsewhere,
    /// One that leads away from the node.
    Outside,
    Unknown,
}

/// Where the packet is, and all of it that no rule changes.
#[derive(Debug, Clone)]
pub(super) struct Scene<'a> {
    pub(super) node: &'a NodeFacts,
    pub(super) packet: &'a Packet,
    pub(super) hook: Hook,
    /// The interface it has come in by; changes once, for a packet that the node sends itself.
    pub(super) arriving: Option<&'a str>,
    /// The `recent` lists that hold this client.
    remembered: BTreeSet<&'a str>,
}

impl<'a> Scene<'a> {
    pub(super) fn new(found: &'a Found, node: &'a NodeFacts, packet: &'a Packet) -> Self {
        Self {
            node,
            packet,
            hook: if packet.arriving.is_some() {
                Hook::Prerouting
            } else {
                Hook::Output
            },
            arriving: packet.arriving.as_deref(),
            remembered: remembered(found, packet),
        }
    }

    /// All conditions of a rule.
    pub(super) fn rule(&self, rule: &Rule, state: &State) -> Met {
        let mut all = 1.0;
        let mut unknown = false;
        for condition in &rule.matches {
            match self.condition(condition, state) {
                Met::No => return Met::No,
                Met::Chance(chance) => all *= chance,
                Met::Unknown => unknown = true,
            }
        }
        match unknown {
            _ if all <= 0.0 => Met::No,
            true => Met::Unknown,
            false => Met::Chance(all),
        }
    }

    pub(super) fn condition(&self, condition: &Match, state: &State) -> Met {
        match condition {
            Match::Address {
                side,
                network,
                negated,
            } => self.address(*side, *network, *negated, state),
            Match::Interface { side, name, negated } => interface(self.link(*side, state), name, *negated),
            Match::Protocol(protocol) => Met::of(Transport::Of(*protocol) == self.packet.protocol, false),
            Match::DestinationPort(port) => {
                Met::of(self.packet.protocol.has_ports() && *port == state.port, false)
            }
            Match::Comment(_) | Match::Counter(_) | Match::RecentSet { .. } => Met::YES,
            Match::Mark { value, mask, negated } => Met::of(state.mark & mask == *value, *negated),
            Match::CtState { states, negated } => {
                self.ct_state(states.iter().map(String::as_str), *negated, state)
            }
            Match::LocalAddress(Side::Source) => {
                // MASQUERADE puts one of the node's own addresses there.
                Met::of(state.masqueraded || self.node.is_own(self.packet.source), false)
            }
            Match::LocalAddress(Side::Destination) => Met::of(self.node.is_own(state.destination), false),
            Match::Statistic(probability) => Met::Chance(probability.fraction()),
            Match::RecentCheck { list, .. } => Met::of(self.remembered.contains(list.as_str()), false),
            Match::Other(words) => {
                let texts: Vec<&str> = words.iter().map(String::as_str).collect();
                self.words(&texts, state)
            }
        }
    }

    fn address(&self, side: Side, network: IpNet, negated: bool, state: &State) -> Met {
        match side {
            Side::Destination => Met::of(network.contains(&state.destination), negated),
            Side::Source if state.masqueraded => {
                // Which of its addresses the node puts there, only routing can tell.
                let mut own = self.node.addresses.iter().map(|own| network.contains(own));
                match own.next() {
                    Some(first) if own.all(|other| other == first) => Met::of(first, negated),
                    _ => Met::Unknown,
                }
            }
            Side::Source => Met::of(network.contains(&self.packet.source), negated),
        }
    }

    fn link(&self, side: Side, state: &State) -> Link<'a> {
        let leaving_to = |destination: IpAddr| match self.node.leaving(destination) {
            Some(interface) => Link::Named(interface),
            None => Link::Elsewhere,
        };
        match (self.hook, side) {
            (Hook::Output, Side::Source) | (Hook::Prerouting | Hook::Input, Side::Destination) => {
                Link::Absent
            }
            (Hook::Postrouting, Side::Source) => match self.packet.arriving {
                None => Link::Absent,
                // Kernels differ in whether they still know it there.
                Some(_) => Link::Unknown,
            },
            (_, Side::Source) if self.arriving == Some(SOME_INTERFACE) => Link::Elsewhere,
            (_, Side::Source) if self.arriving == Some(OUTSIDE_INTERFACE) => Link::Outside,
            (_, Side::Source) => self.arriving.map_or(Link::Absent, Link::Named),
            // Routed before DNAT, and the hook keeps what routing said then.
            (Hook::Output, Side::Destination) => leaving_to(self.packet.destination),
            (Hook::Forward | Hook::Postrouting, Side::Destination) => leaving_to(state.destination),
        }
    }

    /// Where REDIRECT sends packets: to the node's own address, if there is but one to choose from.
    pub(super) fn redirected(&self) -> Option<IpAddr> {
        let v4 = self.packet.destination.is_ipv4();
        if self.hook == Hook::Output {
            let loopback = if v4 {
                IpAddr::from(Ipv4Addr::LOCALHOST)
            } else {
                Ipv6Addr::LOCALHOST.into()
            };
            return Some(loopback);
        }
        let mut own = self
            .node
            .addresses
            .iter()
            .filter(|ip| ip.is_ipv4() == v4 && !ip.is_loopback());
        own.next().filter(|_| own.next().is_none()).copied()
    }

    /// The packet is NEW; rewriting its addresses adds DNAT and SNAT.
    pub(super) fn ct_state<'w>(
        &self,
        words: impl Iterator<Item = &'w str>,
        negated: bool,
        state: &State,
    ) -> Met {
        let rewritten = (state.destination, state.port) != (self.packet.destination, self.packet.port);
        let mut unknown = false;
        for word in words {
            match word {
                "NEW" if !state.untracked => return Met::of(true, negated),
                "UNTRACKED" if state.untracked => return Met::of(true, negated),
                "DNAT" if rewritten => return Met::of(true, negated),
                "SNAT" if state.masqueraded => return Met::of(true, negated),
                "NEW" | "INVALID" | "RELATED" | "ESTABLISHED" | "UNTRACKED" | "SNAT" | "DNAT" => {}
                _ => unknown = true,
            }
        }
        if unknown {
            Met::Unknown
        } else {
            Met::of(false, negated)
        }
    }
}

/// The lists that the rules which lead to the remembered endpoint write to.
fn remembered<'a>(found: &'a Found, packet: &Packet) -> BTreeSet<&'a str> {
    let (Some(endpoint), Some(nat)) = (packet.remembered, found.tables.get(&TableName::Nat)) else {
        return BTreeSet::new();
    };
    let leads_there =
        |rule: &&Rule| matches!(&rule.target, Some(Target::Dnat(to)) if to.parse() == Ok(endpoint));
    let lists = nat
        .values()
        .flatten()
        .filter(leads_there)
        .flat_map(|rule| &rule.matches);
    lists
        .filter_map(|condition| match condition {
            Match::RecentSet { list } => Some(list.as_str()),
            _ => None,
        })
        .collect()
}

fn interface(link: Link<'_>, pattern: &str, negated: bool) -> Met {
    let fits = |name: &str| match pattern.strip_suffix('+') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    };
    match link {
        _ if pattern == "+" => Met::of(true, negated),
        Link::Absent => Met::of(false, negated),
        Link::Named(name) => Met::of(fits(name), negated),
        Link::Elsewhere | Link::Outside if pattern == "lo" => Met::of(false, negated),
        Link::Outside if leads_to_containers(pattern) => Met::of(false, negated),
        Link::Elsewhere | Link::Outside | Link::Unknown => Met::Unknown,
    }
}

/// Interfaces that container programs make, by the names that they give them.
fn leads_to_containers(pattern: &str) -> bool {
    let names = [
        "docker",
        "br-",
        "cni",
        "cbr",
        "cali",
        "veth",
        "lxc",
        "lxd",
        "virbr",
        "kube-bridge",
        "podman",
        "weave",
    ];
    names.iter().any(|name| pattern.starts_with(name))
}
