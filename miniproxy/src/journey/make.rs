//! All that is known of a call → the story.

use std::net::SocketAddr;

use super::follow::{self, Leg};
use super::wire::{self, Seen};
use super::{
    Backend, Cable, Call, Capture, Conntrack, Deed, Event, Hop, Known, MARK, NotTaken, OnCable, Reply,
    Report, Texts, Word,
};

/// Tells the story.
pub fn journey(known: &Known) -> Report {
    let legs = follow::legs(known);
    let first = legs.first().and_then(|leg| leg.there.first());
    let mut hops = Vec::new();
    let mut destination = known.destination;
    for leg in &legs {
        hops.extend(on_node(leg, &mut destination));
    }
    let backend = backend(known, &hops);
    let cables = cables(known, first.and_then(|event| event.seen));
    let same_packet = matches!(&cables[..], [a, b] if a.sequence.is_some() && a.sequence == b.sequence);
    let reply = reply(known, &legs, &cables);
    let (sentence, cure) = super::plain::why(known, &hops, &cables, &reply, backend.as_ref());
    Report {
        schema: 1,
        kind: "trace",
        outcome: known.called.word,
        sentence,
        cure,
        milliseconds: (known.called.milliseconds * 1000.0).round() / 1000.0,
        answer: known.called.answer.clone(),
        call: Call {
            from: known.caller.clone(),
            source: known.source.to_string(),
            service: known.service.clone(),
            destination: known.destination.to_string(),
            protocol: known.protocol,
        },
        backend,
        cables,
        same_packet,
        not_taken: not_taken(known, &hops),
        hops,
        trace_id: first.map(|event| format!("{:08x}", event.id)),
        reply,
        masquerade: masquerade(&legs),
        conntrack: conntrack(&legs),
        lost: known.nodes.iter().map(|node| node.lost).sum(),
    }
}

/// Of what was heard, the packets of the connection: to and from the addresses that its caller had, and
/// where one of them is not known, those under which its first packet went on.
pub fn own(captures: Vec<Capture>, sources: &[SocketAddr]) -> Vec<Capture> {
    let seen: Vec<Option<Seen>> = captures
        .iter()
        .map(|capture| wire::of_frame(&capture.bytes))
        .collect();
    let opens = |packet: &&Seen| packet.tcp.is_some_and(|tcp| tcp.opens);
    let number = |packet: &Seen| packet.tcp.map(|tcp| tcp.sequence);
    let first = seen
        .iter()
        .flatten()
        .filter(opens)
        .find(|packet| sources.contains(&packet.source))
        .and_then(number);
    let ends: Vec<(SocketAddr, SocketAddr)> = seen
        .iter()
        .flatten()
        .filter(|packet| first.is_some() && opens(packet) && number(packet) == first)
        .map(|packet| (packet.source, packet.destination))
        .collect();
    let is_own = |packet: &Seen| {
        sources.contains(&packet.source)
            || sources.contains(&packet.destination)
            || ends.contains(&(packet.source, packet.destination))
            || ends.contains(&(packet.destination, packet.source))
    };
    let kept = captures.into_iter().zip(&seen);
    kept.filter(|(_, seen)| seen.as_ref().is_some_and(is_own))
        .map(|(capture, _)| capture)
        .collect()
}

const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// What the first packet met on one node, and where it goes then.
fn on_node(leg: &Leg<'_>, goes_to: &mut SocketAddr) -> Vec<Hop> {
    let mut hops: Vec<Hop> = Vec::new();
    let mut destination = *goes_to;
    let (mut hook, mut routed, mut marked) = (String::new(), false, false);
    for event in &leg.there {
        if HOOKS.contains(&event.chain.as_str()) {
            hook.clone_from(&event.chain);
        }
        if let Some(seen) = event.seen {
            destination = seen.destination;
        }
        if !routed && matches!(hook.as_str(), "INPUT" | "FORWARD") {
            routed = true;
            hops.push(routing(event, destination));
        }
        let hop = match event.deed {
            Deed::Policy { accepts } => policy(event, &hook, accepts, destination),
            Deed::Rule { number, stopped } => {
                let text = text(&leg.node.texts, event, number);
                if text.contains(MARK) && std::mem::replace(&mut marked, true) {
                    // One mark is enough; others are for the way back, or another trace's.
                    continue;
                }
                let mut told = told(&text, stopped);
                if is_rest(&leg.node.texts, event, &text) {
                    told.what = REST.into();
                }
                destination = told.to.unwrap_or(destination);
                Hop {
                    node: None,
                    stopped,
                    hook: hook.clone(),
                    table: event.table.clone(),
                    chain: event.chain.clone(),
                    rule: number,
                    what: told.what,
                    destination_now: destination.to_string(),
                    rewrites: told.to.is_some(),
                    dice: word_after(&text, "--probability").is_some(),
                    text,
                }
            }
        };
        hops.push(hop);
    }
    *goes_to = destination;
    for hop in &mut hops {
        hop.node.clone_from(&leg.node.node);
    }
    hops
}

fn routing(event: &Event, destination: SocketAddr) -> Hop {
    let by = |name: &Option<String>| name.clone().unwrap_or_else(|| "?".into());
    let what = if event.chain == "INPUT" {
        "it is for this node itself".to_string()
    } else {
        format!("{} to {}", by(&event.arriving), by(&event.leaving))
    };
    Hop {
        node: None,
        stopped: false,
        hook: String::new(),
        table: String::new(),
        chain: "routing".into(),
        rule: None,
        text: String::new(),
        what,
        destination_now: destination.to_string(),
        rewrites: false,
        dice: false,
    }
}

fn policy(event: &Event, hook: &str, accepts: bool, destination: SocketAddr) -> Hop {
    let word = if accepts { "ACCEPT" } else { "DROP" };
    Hop {
        node: None,
        stopped: !accepts,
        hook: hook.to_string(),
        table: event.table.clone(),
        chain: event.chain.clone(),
        rule: None,
        text: format!(":{} {word}", event.chain),
        what: format!("policy {word}"),
        destination_now: destination.to_string(),
        rewrites: false,
        dice: false,
    }
}

fn text(texts: &Texts, event: &Event, number: Option<usize>) -> String {
    if event.table.contains(' ') {
        return format!("(a rule of nft chain {} {})", event.table, event.chain);
    }
    let chain = (event.table.clone(), event.chain.clone());
    let rules = texts.get(&chain);
    let found = number.and_then(|number| rules?.get(number - 1));
    found
        .cloned()
        .unwrap_or_else(|| "(a rule that is gone by now)".into())
}

/// What is said of the last rule of the dice, which takes what the others left over.
pub(super) const REST: &str = "takes what is left";

/// Whether the rule leads to an endpoint without a dice, behind others with one.
fn is_rest(texts: &Texts, event: &Event, text: &str) -> bool {
    let rolls = |rule: &str| word_after(rule, "--probability").is_some();
    let chain = (event.table.clone(), event.chain.clone());
    !rolls(text)
        && word_after(text, "-j").is_some_and(is_endpoint)
        && !text.contains("--rcheck")
        && texts
            .get(&chain)
            .is_some_and(|rules| rules.iter().any(|rule| rolls(rule)))
}

/// What a rule's text says that it does.
struct Told {
    what: String,
    /// The destination that it writes.
    to: Option<SocketAddr>,
}

fn told(text: &str, stopped: bool) -> Told {
    let target = word_after(text, "-j")
        .or_else(|| word_after(text, "-g"))
        .unwrap_or_default();
    let dice = word_after(text, "--probability").and_then(|chance| chance.parse::<f64>().ok());
    let to = word_after(text, "--to-destination").and_then(|to| to.parse().ok());
    let what = match (target, dice) {
        (chain, None) if is_endpoint(chain) && text.contains("--rcheck") => {
            "remembered: this client was here".into()
        }
        (_, Some(chance)) => format!("dice {}: HIT", one_in(chance)),
        ("TRACE", _) => "marked for tracing".into(),
        ("DNAT", _) => "DNAT".into(),
        ("MASQUERADE", _) => "masquerade".into(),
        ("SNAT", _) => "SNAT".into(),
        ("MARK", _) => mark(text),
        ("REJECT", _) => "REJECT: the sender is told".into(),
        ("DROP", _) => "DROP: nobody is told".into(),
        ("ACCEPT", _) => "ACCEPT".into(),
        ("RETURN", _) => "RETURN".into(),
        ("", _) if stopped => "it ends here".into(),
        ("", _) => "counted".into(),
        (chain, _) => format!("jump {chain}"),
    };
    Told { what, to }
}

fn mark(text: &str) -> String {
    let value = ["--set-xmark", "--or-mark", "--xor-mark", "--set-mark"]
        .into_iter()
        .find_map(|option| word_after(text, option));
    match value.and_then(|value| value.split('/').next()) {
        Some("0x0") => "the mark is cleared".into(),
        // Of the bits that are kept, these are turned over: a mark that was set is taken back.
        Some(bits) if value.is_some_and(|value| value.ends_with("/0x0")) => {
            format!("mark {bits} is taken back")
        }
        Some(value) => format!("marked {value}"),
        None => "marked".into(),
    }
}

/// A chance as people say it: `1/3`, else in percent.
pub(super) fn one_in(chance: f64) -> String {
    let whole = (1.0 / chance).round();
    if chance > 0.0 && (1.0 / whole - chance).abs() < 1e-5 {
        format!("1/{whole}")
    } else {
        format!("{:.1} %", chance * 100.0)
    }
}

pub(super) fn word_after<'a>(text: &'a str, option: &str) -> Option<&'a str> {
    let mut words = text.split_whitespace();
    words.find(|word| *word == option)?;
    words.next()
}

fn backend(known: &Known, hops: &[Hop]) -> Option<Backend> {
    let rewritten = hops.iter().rfind(|hop| hop.rewrites)?;
    Some(named(known, rewritten.destination_now.parse().ok()?))
}

fn named(known: &Known, address: SocketAddr) -> Backend {
    Backend {
        name: known.names.get(&address.ip()).cloned(),
        address: address.to_string(),
    }
}

/// The rules beside the one that was hit, that lead to other endpoints.
fn not_taken(known: &Known, hops: &[Hop]) -> Vec<NotTaken> {
    let is_choice = |hop: &&Hop| hop.table == "nat" && hop.what.starts_with("dice");
    let jump_to_endpoint =
        |hop: &&Hop| hop.table == "nat" && word_after(&hop.text, "-j").is_some_and(is_endpoint);
    let Some(hit) = hops
        .iter()
        .find(is_choice)
        .or_else(|| hops.iter().find(jump_to_endpoint))
    else {
        return Vec::new();
    };
    let node = known.nodes.iter().find(|node| node.node == hit.node);
    let rules = |table: &str, chain: &str| -> &[String] {
        let texts = node.and_then(|node| node.texts.get(&(table.to_string(), chain.to_string())));
        texts.map(Vec::as_slice).unwrap_or_default()
    };
    let roads = rules(&hit.table, &hit.chain)
        .iter()
        .enumerate()
        .filter_map(|(index, text)| {
            let goes_to = word_after(text, "-j").filter(|chain| is_endpoint(chain))?;
            // With affinity two rules lead to each endpoint: one remembers, one rolls the dice.
            if Some(goes_to) == word_after(&hit.text, "-j") || text.contains("--rcheck") {
                return None;
            }
            let rolls = word_after(text, "--probability").and_then(|chance| chance.parse().ok());
            let mut endpoint = rules("nat", goes_to).iter();
            let to = endpoint.find_map(|rule| word_after(rule, "--to-destination"));
            Some(NotTaken {
                rule: index + 1,
                rolls: rolls.unwrap_or(1.0),
                goes_to: goes_to.to_string(),
                backend: to.and_then(|to| to.parse().ok()).map(|to| named(known, to)),
            })
        });
    roads.collect()
}

fn is_endpoint(chain: &str) -> bool {
    chain.starts_with("KUBE-SEP-")
}

/// The packet on the caller's cable, and the same packet on a backend's.
fn cables(known: &Known, first: Option<Seen>) -> Vec<OnCable> {
    let seen = |capture: &Capture| wire::of_frame(&capture.bytes);
    let opens = |found: &Seen| found.tcp.is_none_or(|tcp| tcp.opens);
    let mut found = Vec::new();
    let mut sequence = first.and_then(|packet| packet.tcp).map(|tcp| tcp.sequence);
    let at_caller = known.captures.iter().find_map(|capture| {
        let cable = known.cables.get(capture.cable).filter(|cable| cable.is_callers)?;
        let packet = seen(capture).filter(|packet| packet.source == known.source && opens(packet))?;
        (packet.destination == known.destination).then_some((cable, packet))
    });
    if let Some((cable, packet)) = at_caller {
        sequence = packet.tcp.map(|tcp| tcp.sequence);
        found.push(on_cable("caller", cable, &packet));
    }
    let at_backend = known.captures.iter().find_map(|capture| {
        let cable = known.cables.get(capture.cable)?;
        let packet = seen(capture).filter(opens)?;
        let same = match packet.tcp {
            Some(tcp) => sequence.is_none_or(|wanted| wanted == tcp.sequence),
            // What was kept has the caller's address, or the one that was written in its place.
            None => packet.destination.ip() == cable.address && packet.source.ip() != cable.address,
        };
        (same && packet.destination.ip() == cable.address && packet.destination != known.destination)
            .then_some((cable, packet))
    });
    if let Some((cable, packet)) = at_backend {
        found.push(on_cable("backend", cable, &packet));
    }
    found
}

fn on_cable(end: &'static str, cable: &Cable, packet: &Seen) -> OnCable {
    OnCable {
        end,
        pod: cable.pod.clone(),
        interface: cable.interface.clone(),
        source: packet.source.to_string(),
        destination: packet.destination.to_string(),
        sequence: packet.tcp.map(|tcp| tcp.sequence),
    }
}

fn reply(known: &Known, legs: &[Leg<'_>], cables: &[OnCable]) -> Reply {
    // The way back goes by the same nodes.
    let events: Vec<&&Event> = legs.iter().rev().flat_map(|leg| &leg.back).collect();
    let tables: Vec<String> = events.iter().fold(Vec::new(), |mut tables, event| {
        if !tables.contains(&event.table) {
            tables.push(event.table.clone());
        }
        tables
    });
    let traced = !legs.is_empty() && legs.iter().all(|leg| !leg.back.is_empty());
    let nat_rules = traced.then(|| events.iter().filter(|event| event.table == "nat").count());
    let packets = || {
        known
            .captures
            .iter()
            .filter_map(|capture| Some((capture, wire::of_frame(&capture.bytes)?)))
    };
    let backend = cables.iter().find(|cable| cable.end == "backend");
    let source = backend.and_then(|backend| {
        packets().find_map(|(_, packet)| {
            let answers = packet.tcp.is_none_or(|tcp| tcp.answers || tcp.resets);
            (answers && packet.source.to_string() == backend.destination).then_some(packet.source)
        })
    });
    let seen_as = packets().find_map(|(capture, packet)| {
        let cable = known.cables.get(capture.cable).filter(|cable| cable.is_callers)?;
        let answers = packet.tcp.is_none_or(|tcp| tcp.answers || tcp.resets);
        let arrives = packet.destination == known.source && packet.destination.ip() == cable.address;
        (answers && arrives).then_some(packet.source)
    });
    let came_in = |leg: &Leg<'_>| leg.there.iter().any(|event| event.chain == "INPUT");
    let sentence = match (source, seen_as) {
        (Some(_), Some(seen)) if seen == known.destination && nat_rules.is_none() => {
            "conntrack wrote the called address back; the way was not traced"
        }
        (Some(_), Some(seen)) if seen == known.destination => {
            "no nat rule was read; conntrack wrote the called address back as source"
        }
        (_, Some(seen)) if seen != known.destination => {
            "it came past conntrack: the caller hears a stranger and answers with a reset"
        }
        (Some(_), None) if known.cables.iter().any(|cable| cable.is_callers) => {
            "the answer left the backend and never came to the caller"
        }
        (None, Some(_)) if known.called.word == Word::Answered && !legs.iter().any(came_in) => {
            "nothing had been rewritten, so nothing was undone"
        }
        (None, Some(_)) => "the node itself answered",
        _ if known.called.word == Word::Answered && nat_rules == Some(0) => {
            "no nat rule was read; conntrack undid what was rewritten"
        }
        _ if known.called.word == Word::Answered => {
            "conntrack undid what was rewritten; the way was not traced"
        }
        _ => "there was none",
    };
    Reply {
        source: source.map(|source| source.to_string()),
        seen_as: seen_as.map(|source| source.to_string()),
        nat_rules,
        tables,
        sentence: sentence.into(),
    }
}

/// As the connection tables tell it; they know it when the answer is expected elsewhere.
fn masquerade(legs: &[Leg<'_>]) -> bool {
    let mut told = legs.iter().flat_map(|leg| &leg.tracked);
    told.any(|told| told.reply_destination != told.source)
}

fn conntrack(legs: &[Leg<'_>]) -> Option<Conntrack> {
    // That of the node that chose the backend, else the first.
    let rewrites = |leg: &&Leg<'_>| {
        let mut told = leg.tracked.iter();
        told.any(|told| told.reply_source != told.destination)
    };
    let is_told = |leg: &&Leg<'_>| !leg.tracked.is_empty();
    let leg = legs.iter().find(rewrites).or_else(|| legs.iter().find(is_told))?;
    let tracked = &leg.tracked;
    let last = tracked
        .iter()
        .rfind(|told| told.kind != "DESTROY")
        .or(tracked.last())?;
    let events = tracked.iter().map(|told| match told.state {
        Some(state) => format!("{} {state}", told.kind),
        None => told.kind.to_string(),
    });
    Some(Conntrack {
        expects_from: last.reply_source.to_string(),
        expects_to: last.reply_destination.to_string(),
        // When the answer is shown, the other end has often closed already.
        state: tracked
            .iter()
            .find_map(|told| told.state.filter(|state| *state == "ESTABLISHED"))
            .or(last.state),
        assured: tracked.iter().any(|told| told.assured),
        events: events.collect(),
    })
}
