//! Whether a packet comes to the rules of Services at all.

use super::rules::SLACK;
use crate::model::Protocol;
use crate::rules::fixed::{EXTERNAL_SERVICES, NODE_PORTS, SERVICES};
use crate::rules::rule::{Match, Rule, Side};
use crate::rules::set::{Found, TableName};
use crate::rules::text::rule_text;
use crate::rules::trace::{Hop, Packet, Place, Trace, Transport};

/// Whether a rule of nat sends it there.
pub fn comes_to_services(is: &Trace) -> bool {
    on_the_way(is).any(|hop| target(&hop.rule) == Some(SERVICES))
}

/// The rule of nat that takes it before the rules of Services have chosen, and is none of theirs.
pub fn taken(is: &Trace) -> Option<&Place> {
    let comes = comes_to_services(is);
    let takes = |hop: &&Hop| {
        let chain = hop.place.chain.as_str();
        let own = chain.starts_with("KUBE-");
        match target(&hop.rule) {
            // Proxies return and accept nowhere on this way.
            Some("RETURN" | "ACCEPT") if own => true,
            Some("RETURN") => !comes && matches!(chain, "PREROUTING" | "OUTPUT"),
            Some("ACCEPT" | "DNAT" | "REDIRECT") => !own && !comes,
            _ => false,
        }
    };
    on_the_way(is)
        .find(|hop| hop.matched > SLACK && !hop.perhaps && takes(hop))
        .map(|hop| &hop.place)
}

/// Whether it comes to an endpoint where it should, as far as can be told.
pub fn may_arrive(is: &Trace, should: &Trace) -> bool {
    let wanted = should.endpoints();
    let doubtful = is.doubts.iter().flat_map(|doubt| &doubt.possible);
    let mut ends = is.outcomes.iter().chain(doubtful);
    ends.any(|end| end.destination.is_some_and(|to| wanted.contains_key(&to)))
}

/// The rules of nat before the packet is routed.
fn on_the_way(is: &Trace) -> impl Iterator<Item = &Hop> {
    let before = is.hops.iter().take_while(|hop| hop.place.chain != "POSTROUTING");
    before.filter(|hop| hop.place.table == "nat")
}

fn target(rule: &str) -> Option<&str> {
    let mut words = rule.split_whitespace();
    words.find(|word| matches!(*word, "-j" | "-g"))?;
    words.next()
}

/// A rule of the common chains that names where the packet goes.
pub fn speaks_of(found: &Found, packet: &Packet) -> Option<String> {
    let chains = [
        (TableName::Nat, SERVICES),
        (TableName::Nat, NODE_PORTS),
        (TableName::Filter, SERVICES),
        (TableName::Filter, EXTERNAL_SERVICES),
    ];
    chains.into_iter().find_map(|(table, chain)| {
        let rules = found.chain(table, chain)?;
        let rule = rules.iter().find(|rule| names(rule, packet))?;
        Some(format!("-A {chain} {}", rule_text(rule)))
    })
}

fn names(rule: &Rule, packet: &Packet) -> bool {
    let (mut protocol, mut address, mut port) = (Protocol::Tcp, false, false);
    for condition in &rule.matches {
        match condition {
            Match::Protocol(found) => protocol = *found,
            Match::DestinationPort(found) => port = *found == packet.port,
            Match::Address {
                side: Side::Destination,
                network,
                negated: false,
            } => address |= network.contains(&packet.destination),
            _ => {}
        }
    }
    port && address && packet.protocol == Transport::Of(protocol)
}
