//! One Service as it is watched: the facts from which screen, sentences and JSON are made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::changes::Change;
use super::luck::{Verdict, Word, band, judge};
use super::services::{Key, Service};
use super::tally::{Got, HISTORY, Tally, share};
use super::watch::Watch;

/// Names of pods by their addresses.
pub type Names = BTreeMap<IpAddr, String>;

/// Everything about one Service.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The version of this form.
    pub schema: u32,
    /// `watch`
    pub kind: &'static str,
    /// `namespace/name:port`
    pub service: String,
    /// `TCP`
    pub protocol: &'static str,
    /// `ip:port` of the cluster IP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// How long was counted.
    pub seconds: u64,
    /// New connections, all of them.
    pub connections: u64,
    /// New connections in the last whole second.
    pub per_second: u64,
    /// The backends: those of the rules first, in their order, then those that were.
    pub backends: Vec<Row>,
    /// Connections that came to nobody.
    pub lost: Lost,
    /// What can be said about the shares.
    pub verdict: Verdict,
    /// Entries in the connection table whose backend is a backend no more.
    pub stale: u64,
    /// The rules' own counters.
    pub counters: CounterReport,
    /// The kernel's number of the rule set (nf_tables).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// Changes of this Service's rules, the newest first.
    pub changes: Vec<Change>,
    /// What one must know to read the figures.
    pub notes: Vec<String>,
    /// The first rule of the dice, as `iptables -S` prints it; empty where there is none.
    pub rule: String,
}

/// One backend.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its pod, or its address where no pod is known.
    pub name: String,
    /// `ip:port`
    pub address: String,
    /// What its rule rolls: `1/3`, or `rest`; nothing when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolls: Option<String>,
    /// Its rule, as `iptables -S` prints it; nothing when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The rules name it.
    pub in_rules: bool,
    /// New connections.
    pub connections: u64,
    /// New connections in the last whole second.
    pub per_second: u64,
    /// Its share of all new connections.
    pub share: f64,
    /// The share that the rules promised, over all that time.
    pub expected: f64,
    /// Between these luck alone stays 95 times in 100.
    pub luck: [f64; 2],
    /// Of its new connections, those that it never answered.
    pub lost: u64,
    /// Entries in the connection table of connections that neither end has closed.
    pub open: u64,
    /// Hits of its rule, as far as counters were kept.
    pub hits: u64,
    /// New connections in each of the last 30 seconds, the newest last.
    pub history: Vec<u64>,
}

/// Connections that came to nobody.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// No rule gave them a backend: they left for the Service's own address.
    pub no_backend: u64,
    /// The share of those that the rules let through, by their own dice.
    pub no_backend_expected: f64,
    /// A backend was chosen and never answered.
    pub unanswered: u64,
    /// All of them.
    pub connections: u64,
    /// Their share of all new connections.
    pub share: f64,
    /// Those of the last whole second.
    pub per_second: u64,
}

/// The rules' own counters, since counting began.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CounterReport {
    /// Hits of the jumps into the Service's chain.
    pub entered: u64,
    /// Hits of the rules that choose a backend.
    pub taken: u64,
    /// Entered, and taken by none.
    pub lost: u64,
    /// Hits of the rules that refuse where there is no backend.
    pub refused: u64,
    /// How often they began anew because somebody wrote the chain.
    pub restarts: u64,
}

impl Report {
    /// What is known of a Service now.
    pub fn of(watch: &Watch, key: &Key, names: &Names) -> Self {
        let (nothing, none) = (Service::default(), Tally::default());
        let service = watch.service(key).unwrap_or(&nothing);
        let tally = watch.tally(key).unwrap_or(&none);
        let counters = watch.counters(key);
        let open = watch.open(key);
        let connections = tally.connections();
        let mut rows: Vec<Row> = order(service, tally, open.by_backend.keys())
            .into_iter()
            .map(|backend| row(service, tally, backend, names))
            .collect();
        for row in &mut rows {
            let address = row.address.parse().ok();
            let of =
                |counts: &BTreeMap<SocketAddr, u64>| address.and_then(|found| counts.get(&found).copied());
            row.open = of(&open.by_backend).unwrap_or(0);
            row.lost += of(&open.waiting).unwrap_or(0);
            row.hits = of(&counters.taken).unwrap_or(0);
        }
        let unanswered = rows.iter().map(|row| row.lost).sum();
        let lost = lost(tally, unanswered);
        Self {
            schema: 1,
            kind: "watch",
            service: key.name.clone(),
            protocol: key.protocol.upper(),
            address: service.address.map(|address| address.to_string()),
            seconds: watch.seconds,
            connections,
            per_second: tally.per_second(),
            verdict: verdict(service, tally, &lost, &rows),
            backends: rows,
            lost,
            stale: open.stale,
            counters: CounterReport {
                entered: counters.entered,
                taken: counters.taken.values().sum(),
                lost: counters.lost(),
                refused: counters.refused,
                restarts: counters.restarts,
            },
            generation: watch.nodes.first().and_then(|node| node.generation),
            changes: watch
                .changes
                .iter()
                .rev()
                .filter(|change| change.service == key.name)
                .cloned()
                .collect(),
            notes: notes(watch, service, tally),
            rule: service
                .dice
                .first()
                .map(|die| die.text.clone())
                .unwrap_or_default(),
        }
    }
}

/// The backends of the rules in their order, then all others.
fn order<'a>(
    service: &Service,
    tally: &'a Tally,
    open: impl Iterator<Item = &'a SocketAddr>,
) -> Vec<SocketAddr> {
    let mut order: Vec<SocketAddr> = service.dice.iter().map(|die| die.backend).collect();
    let named: BTreeSet<SocketAddr> = order.iter().copied().collect();
    let counted = tally
        .backends()
        .iter()
        .filter(|(_, got)| got.connections > 0)
        .map(|(backend, _)| backend);
    let others: BTreeSet<SocketAddr> = counted.chain(open).copied().collect();
    order.extend(others.difference(&named));
    order
}

fn row(service: &Service, tally: &Tally, backend: SocketAddr, names: &Names) -> Row {
    let nothing = Got::default();
    let got = tally.backends().get(&backend).unwrap_or(&nothing);
    let die = service.dice.iter().find(|die| die.backend == backend);
    let all = tally.connections();
    let expected = if tally.settled() == 0 {
        tally.promised(backend)
    } else {
        share(got.expected, tally.settled())
    };
    let (low, high) = band(all, expected);
    let mut history: Vec<u64> = got.history.iter().copied().collect();
    // The second that is not over is none to compare with.
    history.pop();
    let missing = HISTORY.saturating_sub(history.len());
    history.splice(0..0, std::iter::repeat_n(0, missing));
    Row {
        name: names
            .get(&backend.ip())
            .cloned()
            .unwrap_or_else(|| backend.ip().to_string()),
        address: backend.to_string(),
        rolls: die.map(|die| die.rolls.clone()),
        rule: die.map(|die| die.text.clone()),
        in_rules: die.is_some(),
        connections: got.connections,
        per_second: got.history.iter().rev().nth(1).copied().unwrap_or(0),
        lost: got.unanswered,
        share: share(super::luck::float(got.connections), all),
        expected,
        luck: [low, high],
        open: 0,
        hits: 0,
        history,
    }
}

fn lost(tally: &Tally, unanswered: u64) -> Lost {
    let connections = tally.unmatched + unanswered;
    let all = tally.connections();
    Lost {
        no_backend: tally.unmatched,
        no_backend_expected: share(tally.unmatched_expected, tally.settled()),
        unanswered,
        connections,
        share: share(super::luck::float(connections), all),
        per_second: tally.unmatched_per_second(),
    }
}

fn verdict(service: &Service, tally: &Tally, lost: &Lost, rows: &[Row]) -> Verdict {
    let mut verdict = if service.affinity {
        Verdict::plain(
            Word::Affinity,
            "not judged: with session affinity a client stays with its backend",
        )
    } else {
        match judge(&tally.groups(), tally.equal()) {
            none if none.word == Word::None && tally.unjudged > 0 => Verdict::plain(
                Word::TooFew,
                "not judged: all came while rules were being changed",
            ),
            none if none.word == Word::None && tally.connections() > 0 => {
                Verdict::plain(Word::TooFew, "not judged yet: the rules are read again first")
            }
            verdict => verdict,
        }
    };
    verdict.sentence.push_str(&loss(lost, rows));
    verdict
}

/// What is said of lost connections: how many, and whose they were.
fn loss(lost: &Lost, rows: &[Row]) -> String {
    let silent = rows.iter().filter(|row| row.lost > 0);
    let mut whose: Vec<String> = silent
        .map(|row| format!("{} at {}", row.lost, row.name))
        .collect();
    if lost.no_backend > 0 {
        whose.push(format!("{} fell through the rules", lost.no_backend));
    }
    let more = whose.len().saturating_sub(3);
    whose.truncate(3);
    if more > 0 {
        whose.push(format!("{more} more"));
    }
    if whose.is_empty() {
        return String::new();
    }
    format!("; but {} LOST: {}", lost.connections, whose.join(", "))
}

fn notes(watch: &Watch, service: &Service, tally: &Tally) -> Vec<String> {
    let mut notes = watch.notes.clone();
    if tally.unjudged > 0 {
        notes.push(format!(
            "{} new connections came while rules were being changed: counted, not judged",
            tally.unjudged
        ));
    }
    if service.doors.is_empty() {
        notes.push("no rule of this Service is in the kernel".to_string());
    } else if service.dice.is_empty() {
        notes.push("the Service has no backend: calls are refused, and no connection begins".into());
    }
    if watch.gaps > 0 {
        notes.push(format!(
            "the kernel lost news {} times; what was still in its table is counted, so at least so many",
            watch.gaps
        ));
    }
    notes
}
