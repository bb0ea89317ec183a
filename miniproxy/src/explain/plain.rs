//! The report in sentences, one fact a line: for screen readers and for pasting.

use labkit::text::{count, printable};

use super::{Masquerade, NOTHING, Report, Verdict, fraction, percent};

/// The verdict in one sentence.
pub(super) fn sentence(report: &Report) -> String {
    let losses: Vec<String> = report
        .losses()
        .iter()
        .map(|(share, what)| format!("{} of all new connections {what}", percent(*share)))
        .collect();
    match report.verdict {
        Verdict::Dnat if losses.is_empty() => format!("{}.", sent(report)),
        Verdict::Dnat => format!("{}, and {}.", sent(report), losses.join("; ")),
        Verdict::Reject => "It is rejected: the caller is told at once.".into(),
        Verdict::Drop => "It is dropped: the caller waits until it gives up.".into(),
        Verdict::NoRule if !report.certain => {
            "No rule that is here takes it; whether others do, or reject it, is not known.".into()
        }
        Verdict::NoRule => "No rule takes it.".into(),
        Verdict::Accept if !report.end_known => {
            "No rule that is here rewrites it: it goes to the address as it is, if the others let it.".into()
        }
        Verdict::Accept => "No rule rewrites it: it goes to the address as it is.".into(),
        Verdict::Unknown => "Nobody can tell from these rules alone.".into(),
    }
}

fn sent(report: &Report) -> String {
    let condition = match (report.end_known, report.not_understood.is_empty()) {
        (true, _) => "",
        (_, true) => ", if rules that are not here let it pass",
        _ => ", if rules that are not understood here let it pass",
    };
    if report.not_known > NOTHING {
        let to = match report.backends.as_slice() {
            [only] => only.address.clone(),
            several => count(several.len(), "backend"),
        };
        let known: f64 = report.backends.iter().map(|backend| backend.share).sum();
        return format!(
            "{} of all new connections are sent to {to}{condition}; where {} go is not known",
            percent(known),
            percent(report.not_known)
        );
    }
    match report.backends.as_slice() {
        [only] => format!("It is sent to its one backend, {}{condition}", only.address),
        several => format!("It is sent to one of {} backends{condition}", several.len()),
    }
}

/// All of it.
pub fn plain(report: &Report) -> String {
    let mut lines = vec![
        packet(report),
        format!("Verdict: {}. {}", report.verdict.word(), report.sentence),
    ];
    lines.extend(report.notes.iter().map(|note| format!("Note: {note}.")));
    for hop in &report.hops {
        lines.push(format!(
            "Table {}, chain {}, rule {} of {}: asks for {}; {} ({}).",
            hop.table,
            hop.chain,
            hop.rule,
            hop.of,
            hop.asks,
            hop.did,
            match (hop.perhaps, hop.matched > 0.0) {
                (true, false) => "perhaps".to_string(),
                (true, true) => format!("{} of all new connections, perhaps more", percent(hop.matched)),
                (false, _) => format!("{} of all new connections", percent(hop.matched)),
            }
        ));
    }
    lines.extend(dice(report));
    lines.extend(ends(report));
    lines.extend(report.checks.iter().map(|check| {
        let word = match check.ok {
            Some(true) => "good",
            Some(false) => "BAD",
            None => "not known",
        };
        format!("Check, {word}: {}.", check.text)
    }));
    let safe: Vec<_> = lines.iter().map(|line| printable(line)).collect();
    safe.join("\n") + "\n"
}

fn packet(report: &Report) -> String {
    let packet = &report.packet;
    let from = packet
        .from
        .as_ref()
        .map(|name| format!(" ({name})"))
        .unwrap_or_default();
    let chosen = packet
        .chosen
        .as_ref()
        .map(|why| format!(", {why}"))
        .unwrap_or_default();
    let port = packet
        .port
        .map(|port| format!(" port {port}"))
        .unwrap_or_default();
    let service = packet
        .service
        .as_ref()
        .map(|name| format!(", the {} of {name}", packet.door));
    let way = match (&packet.interface, packet.made_here) {
        (_, true) => "made by the node itself".to_string(),
        (Some(interface), false) => format!("arrives by {interface}"),
        (None, false) => "arrives by an interface that is not known".to_string(),
    };
    format!(
        "A {} packet, the first of its connection, from {}{from}{chosen} to {}{port}{}; {way}. Rules: {} of {}.",
        packet.protocol,
        packet.source,
        packet.destination,
        service.unwrap_or_default(),
        count(report.rules.count, "rule"),
        report.rules.from
    )
}

fn dice(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for roll in &report.dice {
        let backend = &report.backends[roll.goes_to];
        let name = backend
            .name
            .as_ref()
            .map(|name| format!("{name}, "))
            .unwrap_or_default();
        let rolls = match roll.rolls {
            Some(chance) => format!("takes {} of what comes to it", fraction(chance)),
            None => "takes all that comes to it".into(),
        };
        let counted = roll
            .packets
            .map(|packets| format!(", {packets} so far"))
            .unwrap_or_default();
        lines.push(format!(
            "Dice, {} rule {}: {rolls}, which is {}: {} of ALL new connections go to {name}{}{counted}.",
            roll.chain,
            roll.rule,
            percent(roll.still_here),
            percent(roll.share),
            backend.address
        ));
    }
    if !report.dice.is_empty() {
        lines.push(format!(
            "Falls through all rules: {} of all new connections.",
            percent(report.falls_through)
        ));
    }
    if report.not_known > NOTHING {
        lines.push(format!(
            "Not known where they go: {} of all new connections.",
            percent(report.not_known)
        ));
    }
    lines
}

fn ends(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for end in &report.ends {
        if let Some(by) = &end.by {
            lines.push(format!(
                "The end of {}: {}, by {by}.",
                percent(end.share),
                end.verdict
            ));
        }
    }
    if report.verdict == Verdict::Dnat {
        lines.push(match report.masquerade {
            Masquerade::No => "No masquerade: the source stays as it is.".into(),
            Masquerade::Yes => format!("Masquerade (mark {}): the source is rewritten.", report.mark),
            Masquerade::Unknown => "Whether the source is rewritten is in doubt.".into(),
            Masquerade::Some => {
                let who = if report.only_itself() {
                    ": a caller that reaches itself"
                } else {
                    " backends"
                };
                format!("Masquerade (mark {}) for some{who}.", report.mark)
            }
        });
        let address = report
            .backend_sees
            .as_ref()
            .map(|ip| format!("{ip}, "))
            .unwrap_or_default();
        lines.push(format!(
            "The backend will see: {address}{}.",
            report.backend_sees_what
        ));
    }
    if let Some(near) = &report.nearest {
        lines.push(format!(
            "Why not: the nearest rule is {} {} rule {}: {}. It says: {}",
            near.table, near.chain, near.rule, near.what, near.text
        ));
    }
    for rule in &report.not_understood {
        let owner = rule
            .owner
            .map(|owner| format!(" (of {owner})"))
            .unwrap_or_default();
        let number = rule
            .rule
            .map_or("policy".into(), |number| format!("rule {number}"));
        lines.push(format!(
            "Not understood: {} {}{owner} {number}: {}; {} of all new connections hang on it. It says: {}",
            rule.table,
            rule.chain,
            rule.why,
            percent(rule.share),
            rule.text
        ));
    }
    lines.push(format!("The way back: {}.", report.way_back));
    lines
}
