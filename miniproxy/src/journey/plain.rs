//! The story in sentences, and the one that explains its end.

use std::net::SocketAddr;

use super::{Backend, Hop, Known, OnCable, Reply, Report, Word};

/// Why it ended as it did, and what would cure it.
pub(super) fn why(
    known: &Known,
    hops: &[Hop],
    cables: &[OnCable],
    reply: &Reply,
    backend: Option<&Backend>,
) -> (String, Option<String>) {
    let called = known.destination;
    let chosen = backend.map(|backend| match &backend.name {
        Some(name) => format!("{name} ({})", backend.address),
        None => backend.address.clone(),
    });
    if known.called.word == Word::Answered {
        let who = chosen.unwrap_or_else(|| called.to_string());
        return (format!("{who} answered"), None);
    }
    if let Some(hop) = stopped_by(hops) {
        let (sentence, cure) = stopped(hop);
        return (sentence, Some(cure));
    }
    let Some(chosen) = chosen else {
        return no_rule(known, hops);
    };
    if let Some(sentence) = stranger(known, reply) {
        return (
            sentence,
            Some("sysctl -w net.bridge.bridge-nf-call-iptables=1".into()),
        );
    }
    unanswered(known, cables, reply, &chosen)
}

/// A rule threw the packet away: what that was, and how to look at it.
fn stopped(hop: &Hop) -> (String, String) {
    let place = place(hop);
    let list = format!("iptables -t {} -S {}", hop.table, hop.chain);
    if let Some((family, table)) = hop.table.split_once(' ') {
        (
            format!("{place} dropped it"),
            format!("nft list chain {family} {table} {}", hop.chain),
        )
    } else if !hop.text.contains("-j REJECT") {
        (format!("{place} dropped it"), list)
    } else if hop.text.contains("has no endpoints") {
        (
            format!("{place} rejected it: the Service has no endpoint"),
            "netns-lab get endpointslices".into(),
        )
    } else {
        (format!("{place} rejected it"), list)
    }
}

/// The answer came, from an address that was not called.
fn stranger(known: &Known, reply: &Reply) -> Option<String> {
    let called = known.destination;
    let seen = reply.seen_as.as_ref();
    let stranger = seen.is_some_and(|seen| *seen != called.to_string());
    let unseen = reply.source.is_some() && seen.is_none() && bridge_nf(known) == Some("0");
    let source = seen.or(reply.source.as_ref());
    (stranger || unseen).then(|| {
        format!(
            "the caller asked {called} and hears {}, a stranger: the answer crossed the bridge past netfilter",
            source.map_or("another address", String::as_str)
        )
    })
}

/// The rules chose a backend, and the caller got nothing of use from it.
fn unanswered(known: &Known, cables: &[OnCable], reply: &Reply, chosen: &str) -> (String, Option<String>) {
    let arrived = cables.iter().any(|cable| cable.end == "backend");
    match known.called.word {
        Word::Refused | Word::Reset if reply.source.is_some() || (arrived && known.protocol == "udp") => (
            format!("{chosen} refused: nothing listens on that port"),
            Some("compare targetPort with what the pod listens on".into()),
        ),
        _ if arrived && reply.source.is_none() && from_itself(cables) => (
            format!(
                "{chosen} was sent to itself and sees its own address as the sender, for nobody masqueraded it: it throws the packet away"
            ),
            Some("miniproxy sync".into()),
        ),
        Word::Timeout if arrived && reply.source.is_none() && known.protocol == "udp" => (
            format!(
                "the datagram came to {chosen}'s cable; no answer to it came, and whoever listens need not answer"
            ),
            Some(ask(known)),
        ),
        _ if arrived && reply.source.is_none() => (
            format!("the packet came to {chosen}'s cable, and the pod did not answer"),
            Some("netns-lab status".into()),
        ),
        _ if !arrived => (
            format!(
                "the rules sent it to {chosen}, and it never came to that pod's cable: the pod is gone, \
                     a cable is cut, hairpin is off, or another rule set (iptables-legacy, nftables) took it"
            ),
            Some(ask(known)),
        ),
        _ => (
            "the answer did not come back to the caller".into(),
            Some(ask(known)),
        ),
    }
}

/// Whether the backend's cable has a packet that the backend seems to have sent.
fn from_itself(cables: &[OnCable]) -> bool {
    let ip = |text: &str| text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let mut arrived = cables.iter().filter(|cable| cable.end == "backend");
    arrived.any(|cable| ip(&cable.source) == ip(&cable.destination))
}

/// The command that looks at all of it.
fn ask(known: &Known) -> String {
    match &known.service {
        Some(service) => format!("miniproxy why {}", service.split(':').next().unwrap_or(service)),
        None => format!("miniproxy explain {} --from {}", known.destination, known.caller),
    }
}

fn no_rule(known: &Known, hops: &[Hop]) -> (String, Option<String>) {
    let called = known.destination;
    let served = hops
        .iter()
        .any(|hop| hop.chain.starts_with("KUBE-SVC-") || hop.chain.starts_with("KUBE-EXT-"));
    if served {
        return (
            format!("the dice of {called} left it over: no rule of the chain took it"),
            Some("miniproxy sync".into()),
        );
    }
    let words = match known.called.word {
        Word::Unreachable => "no rule rewrites it, and there is no route to an address that nobody has",
        _ => "no rule rewrites it, and nobody has that address",
    };
    (
        format!("{called}: {words}"),
        Some(format!("miniproxy explain {called} --from {}", known.caller)),
    )
}

/// The rule or policy that ended the packet.
fn stopped_by(hops: &[Hop]) -> Option<&Hop> {
    let last = hops.last()?;
    let dropped =
        last.text.contains("-j REJECT") || last.text.contains("-j DROP") || last.what == "policy DROP";
    (dropped || last.stopped).then_some(last)
}

/// The setting of the node that the caller is on.
fn bridge_nf(known: &Known) -> Option<&str> {
    known.nodes.first()?.bridge_nf.as_deref()
}

fn place(hop: &Hop) -> String {
    let node = hop
        .node
        .as_ref()
        .map_or(String::new(), |node| format!(" on {node}"));
    match hop.rule {
        _ if hop.table.contains(' ') => {
            let what = if hop.what.starts_with("policy") {
                "the policy"
            } else {
                "a rule"
            };
            format!("{what} of nft chain {} {}{node}", hop.table, hop.chain)
        }
        Some(number) => format!("rule {number} of {} {}{node}", hop.table, hop.chain),
        None => format!("the policy of {} {}{node}", hop.table, hop.chain),
    }
}

/// That the story may have gaps.
pub(super) fn lost(report: &Report) -> Option<String> {
    let events = match report.lost {
        0 => return None,
        1 => "1 event was lost".to_string(),
        several => format!("{several} events were lost"),
    };
    Some(format!(
        "{events}: the kernel had too much to tell at once; look again."
    ))
}

/// The report in sentences, one fact a line.
pub fn plain(report: &Report) -> String {
    let call = &report.call;
    let mut lines = vec![format!(
        "{} calls {}{} by {} from {}.",
        call.from,
        call.destination,
        call.service
            .as_ref()
            .map(|name| format!(" (Service {name})"))
            .unwrap_or_default(),
        call.protocol,
        call.source
    )];
    for cable in &report.cables {
        let sequence = cable
            .sequence
            .map(|n| format!(", sequence number {n}"))
            .unwrap_or_default();
        lines.push(format!(
            "On the {}'s cable {}: from {} to {}{sequence}.",
            cable.end, cable.interface, cable.source, cable.destination
        ));
    }
    if report.same_packet {
        let rewritten = if report.masquerade {
            "its source and its destination were"
        } else {
            "only its destination was"
        };
        lines.push(format!("It is the same packet: {rewritten} rewritten."));
    }
    lines.extend(met(report));
    lines.push(format!("The way back: {}.", report.reply.sentence));
    if let Some(entry) = &report.conntrack {
        lines.push(format!(
            "Conntrack expects the reply from {} to {}{}.",
            entry.expects_from,
            entry.expects_to,
            entry
                .state
                .map(|state| format!(", state {state}"))
                .unwrap_or_default()
        ));
    }
    lines.extend(lost(report));
    lines.push(format!(
        "The call was {} after {:.1} ms: {}.",
        report.outcome.word(),
        report.milliseconds,
        report.sentence
    ));
    lines.extend(report.cure.iter().map(|cure| format!("Try: {cure}")));
    lines.push(String::new());
    lines.join("\n")
}

/// The rules that the packet met, and those of the dice that it did not take.
fn met(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let mut node = None;
    for hop in &report.hops {
        if hop.node != node {
            node.clone_from(&hop.node);
            lines.extend(node.iter().map(|node| format!("On {node}:")));
        }
        let place = match (hop.rule, hop.table.as_str()) {
            (_, "") => "Routing".to_string(),
            (Some(number), table) => format!("Table {table}, chain {}, rule {number}", hop.chain),
            (None, table) => format!("Table {table}, chain {}", hop.chain),
        };
        lines.push(format!(
            "{place}: {}. Destination now {}.",
            hop.what, hop.destination_now
        ));
        if !hop.text.is_empty() {
            lines.push(format!("  {}", hop.text));
        }
    }
    for road in &report.not_taken {
        let to = road
            .backend
            .as_ref()
            .map_or(&road.goes_to, |backend| &backend.address);
        lines.push(format!(
            "Not taken: rule {} ({}), to {to}.",
            road.rule,
            super::make::one_in(road.rolls)
        ));
    }
    lines
}
