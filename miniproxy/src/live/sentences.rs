//! The same facts in sentences, one a line: for screen readers, and for pasting.

use labkit::text::count;

use super::changes::Change;
use super::overview::Overview;
use super::report::{Report, Row};

/// One Service.
pub fn of_service(report: &Report) -> String {
    let at = report
        .address
        .as_ref()
        .map_or(String::new(), |address| format!(" at {address}"));
    let mut lines = vec![format!(
        "{}{at} ({}): {} in {}.",
        report.service,
        report.protocol,
        count_of(report.connections, "new connection"),
        count_of(report.seconds, "second"),
    )];
    lines.extend(report.backends.iter().map(backend));
    lines.push(format!(
        "Lost: {}; {} left without a backend, {} had no answer.",
        report.lost.connections, report.lost.no_backend, report.lost.unanswered
    ));
    lines.push(format!("Verdict: {}.", report.verdict.sentence));
    lines.push(format!(
        "Stale entries in the connection table: {}.",
        report.stale
    ));
    let counters = &report.counters;
    lines.push(format!(
        "Counters of the rules: {} entered the Service's chain, {} were sent to a backend, {} fell through, {} were refused; they began anew {}.",
        counters.entered, counters.taken, counters.lost, counters.refused,
        count_of(counters.restarts, "time"),
    ));
    lines.extend(report.changes.iter().map(change));
    lines.extend(report.notes.iter().map(|note| format!("Note: {note}.")));
    finished(&lines)
}

/// All Services.
pub fn of_all(overview: &Overview) -> String {
    let mut lines = vec![format!(
        "{} to {} in {}.",
        count_of(overview.connections, "new connection"),
        count(overview.services.len(), "Service"),
        count_of(overview.seconds, "second"),
    )];
    lines.extend(overview.services.iter().map(|service| {
        format!(
            "{} ({}): {}, {}, {} lost, {} open, {} stale; {}.",
            service.service,
            service.protocol,
            count(service.backends, "backend"),
            count_of(service.connections, "new connection"),
            service.lost,
            service.open,
            service.stale,
            service.verdict.sentence
        )
    }));
    lines.extend(overview.changes.iter().map(change));
    lines.extend(overview.notes.iter().map(|note| format!("Note: {note}.")));
    finished(&lines)
}

fn backend(row: &Row) -> String {
    let rule = match &row.rolls {
        Some(rolls) if rolls == "rest" => "its rule takes the rest".to_string(),
        Some(rolls) => format!("its rule rolls {rolls}"),
        None => "no rule leads to it any more".into(),
    };
    let lost = match row.lost {
        0 => String::new(),
        lost => format!(" ({lost} had no answer)"),
    };
    format!(
        "Backend {} at {}: {}{lost}, {:.1}% of all where {:.1}% were expected (luck: {:.1}% to {:.1}%); {rule}; {} open.",
        row.name,
        row.address,
        count_of(row.connections, "new connection"),
        row.share * 100.0,
        row.expected * 100.0,
        row.luck[0] * 100.0,
        row.luck[1] * 100.0,
        row.open,
    )
}

fn change(change: &Change) -> String {
    let node = change
        .node
        .as_ref()
        .map_or(String::new(), |node| format!(" on {node}"));
    format!(
        "At {}{node} the rules of {} changed: {} ({} came, {} went), by {}.",
        change.time,
        change.service,
        change.what.join(", "),
        change.added.len(),
        change.removed.len(),
        by(change),
    )
}

/// Who made a change, in words.
pub fn by(change: &Change) -> String {
    if change.by.is_empty() {
        return "somebody (the kernel does not say)".into();
    }
    change
        .by
        .iter()
        .map(super::changes::Who::text)
        .collect::<Vec<_>>()
        .join(", ")
}

fn count_of(number: u64, thing: &str) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), thing)
}

fn finished(lines: &[String]) -> String {
    lines.join("\n") + "\n"
}
