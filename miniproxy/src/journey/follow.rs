//! Which of the kernel's words are about the connection, on each node that it came to.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Event, Known, OnNode, Tracked};

/// What a node saw of the connection.
pub struct Leg<'k> {
    /// The node.
    pub node: &'k OnNode,
    /// The events of the first packet.
    pub there: Vec<&'k Event>,
    /// The events of the first answer.
    pub back: Vec<&'k Event>,
    /// What its connection table told of it.
    pub tracked: Vec<&'k Tracked>,
}

/// The nodes in the order in which the first packet came to them.
///
/// Clocks of threads do not tell that order. Addresses do: as a packet leaves one node, so it comes to
/// the next, and the connection table tells how it leaves.
pub fn legs(known: &Known) -> Vec<Leg<'_>> {
    let mut rest: Vec<&OnNode> = known.nodes.iter().collect();
    let mut legs: Vec<Leg<'_>> = Vec::new();
    let (mut source, mut destination) = (known.source, known.destination);
    loop {
        let comes = |node: &&OnNode| {
            let mut seen = node.events.iter().filter_map(|event| event.seen);
            seen.any(|seen| seen.source == source && seen.destination == destination)
        };
        let Some(node) = rest.iter().position(comes).map(|at| rest.remove(at)) else {
            return legs;
        };
        let tracked: Vec<&Tracked> = node
            .tracked
            .iter()
            .filter(|told| told.source == source && told.destination == destination)
            .collect();
        let leaves = tracked.last().map_or(source, |told| told.reply_destination);
        let (there, back) = ways(node, source, &[source, leaves]);
        let rewritten = there
            .iter()
            .rev()
            .find_map(|event| event.seen)
            .map(|seen| seen.destination);
        destination = tracked
            .last()
            .map(|told| told.reply_source)
            .or(rewritten)
            .unwrap_or(destination);
        source = leaves;
        legs.push(Leg {
            node,
            there,
            back,
            tracked,
        });
    }
}

/// The addresses and ports that the caller had on the way: its own, and those written in their place.
pub fn sources(known: &Known) -> Vec<SocketAddr> {
    let mut found = vec![known.source];
    for leg in legs(known) {
        for told in leg.tracked {
            if !found.contains(&told.reply_destination) {
                found.push(told.reply_destination);
            }
        }
    }
    found
}

/// The events of the first packet from `source`, and those of the first answer to one of `answered`.
///
/// An id may come back for another packet, so a packet is told by its addresses, which the kernel
/// repeats at the start of each built-in chain, and a second visit to the first chain begins another.
fn ways<'k>(
    node: &'k OnNode,
    source: SocketAddr,
    answered: &[SocketAddr],
) -> (Vec<&'k Event>, Vec<&'k Event>) {
    let (mut there, mut back) = (Vec::new(), Vec::new());
    // By id: which way its packet goes, or that it is none of ours.
    let mut now: BTreeMap<u32, Option<bool>> = BTreeMap::new();
    let (mut there_done, mut back_done) = (false, false);
    for event in &node.events {
        if let Some(seen) = event.seen {
            let begins = event.table == "raw" && matches!(event.chain.as_str(), "PREROUTING" | "OUTPUT");
            let way = if seen.source == source {
                there_done |= begins && !there.is_empty();
                (!there_done).then_some(true)
            } else if answered.contains(&seen.destination) {
                back_done |= begins && !back.is_empty();
                (!back_done).then_some(false)
            } else {
                None
            };
            now.insert(event.id, way);
        }
        match now.get(&event.id) {
            Some(Some(true)) => there.push(event),
            Some(Some(false)) => back.push(event),
            _ => {}
        }
    }
    (there, back)
}
