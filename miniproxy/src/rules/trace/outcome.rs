//! From where the states ended to what a reader is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::super::rule::Rule;
use super::super::set::{Found, TableName};
use super::super::text::rule_text;
use super::effect::{ConnMark, Effect, effect};
use super::nearest;
use super::state::{Spot, State};
use super::walk::Walk;
use super::{Doubt, DoubtfulRule, Hop, NodeFacts, Outcome, Packet, Place, Trace, Verdict, Why, total};

/// An outcome without its chance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Ending<'a> {
    verdict: Verdict,
    destination: Option<SocketAddr>,
    mark: u32,
    masqueraded: bool,
    by: Option<Spot<'a>>,
    claimed: bool,
}

impl<'a> Ending<'a> {
    fn of(state: &State<'a>, verdict: Verdict, by: Option<Spot<'a>>) -> Self {
        Self {
            verdict,
            destination: state
                .rewritten
                .then(|| SocketAddr::new(state.destination, state.port)),
            mark: state.mark_before.unwrap_or(state.mark),
            masqueraded: state.masqueraded,
            by,
            claimed: state.claimed,
        }
    }

    fn outcome(&self, probability: f64) -> Outcome {
        Outcome {
            verdict: self.verdict,
            destination: self.destination,
            probability,
            mark: self.mark,
            masqueraded: self.masqueraded,
            by: self.by.map(Place::from),
        }
    }

    /// No rule rewrote it, though it looks as if one should have.
    fn is_lost(&self) -> bool {
        self.destination.is_none() && (self.verdict == Verdict::Accept || self.claimed)
    }
}

impl From<Spot<'_>> for Place {
    fn from(spot: Spot<'_>) -> Self {
        Self {
            table: spot.table.name(),
            chain: spot.chain.to_string(),
            number: (spot.number > 0).then_some(spot.number),
        }
    }
}

type Endings<'a> = BTreeMap<Ending<'a>, f64>;

/// Sums up a walk.
pub(super) fn conclude(walk: &Walk<'_>, found: &Found, node: &NodeFacts, packet: &Packet) -> Trace {
    let (mut sure, unsure) = endings(walk);
    let mut doubts = Vec::new();
    let open = walk.doubts.iter().enumerate().filter(|(_, doubt)| !doubt.settled);
    for (index, doubt) in open {
        let possible = unsure.get(&index).cloned().unwrap_or_default();
        match only_ending(&possible) {
            Some(only) => *sure.entry(only).or_default() += doubt.share,
            None => doubts.push(Doubt {
                probability: doubt.share,
                rules: doubt
                    .rules
                    .iter()
                    .map(|(spot, why)| doubtful(found, *spot, *why))
                    .collect(),
                possible: outcomes(&possible, doubt.share),
            }),
        }
    }
    sure.retain(|ending, share| {
        let unknown = ending.verdict == Verdict::Unknown;
        if let (true, Some(spot)) = (unknown, ending.by) {
            let why = walk.unknown.get(&spot).copied().unwrap_or(Why::Target);
            doubts.push(Doubt {
                probability: *share,
                rules: vec![doubtful(found, spot, why)],
                possible: Vec::new(),
            });
        }
        !unknown
    });
    let lost = sure.keys().any(Ending::is_lost);
    let search = lost.then(|| nearest::Search::new(found, node, packet));
    let virtual_ip = search.as_ref().is_some_and(nearest::Search::is_virtual_ip);
    let fallen = sure.iter().filter(|(ending, _)| {
        ending.is_lost() && ending.verdict == Verdict::Accept && (ending.claimed || virtual_ip)
    });
    Trace {
        falls_through: total(fallen.map(|(_, share)| *share)),
        outcomes: outcomes(&sure, 1.0),
        doubts,
        hops: hops(walk),
        nearest: search.and_then(nearest::Search::nearest),
    }
}

/// What becomes of a share in doubt, if that is the same whatever the rules in doubt do.
fn only_ending<'a>(possible: &Endings<'a>) -> Option<Ending<'a>> {
    let told = |ending: &Ending<'a>| Ending {
        by: None,
        claimed: false,
        ..ending.clone()
    };
    let mut endings = possible.keys();
    let first = endings.next()?;
    let same = endings.clone().all(|other| told(other) == told(first));
    if !same || first.verdict == Verdict::Unknown {
        return None;
    }
    let by = endings
        .all(|other| other.by == first.by)
        .then_some(first.by)
        .flatten();
    Some(Ending { by, ..first.clone() })
}

/// Those that are certain, and those of each doubt.
fn endings<'a>(walk: &Walk<'a>) -> (Endings<'a>, BTreeMap<usize, Endings<'a>>) {
    let arrived = walk
        .arrived
        .iter()
        .map(|(state, share)| (state, Verdict::Accept, state.by, share));
    let stopped = walk
        .stopped
        .iter()
        .map(|((state, verdict, spot), share)| (state, *verdict, Some(*spot), share));
    let mut sure = Endings::new();
    let mut unsure: BTreeMap<usize, Endings<'a>> = BTreeMap::new();
    for (state, verdict, by, share) in arrived.chain(stopped) {
        let endings = match state.doubt {
            None => &mut sure,
            Some(doubt) => unsure.entry(doubt).or_default(),
        };
        *endings.entry(Ending::of(state, verdict, by)).or_default() += share;
    }
    (sure, unsure)
}

fn outcomes(endings: &Endings<'_>, at_most: f64) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for (ending, share) in endings.iter().filter(|(_, share)| **share > 0.0) {
        let outcome = ending.outcome(share.min(at_most));
        // Two endings can differ in what a reader is not told.
        let same = |known: &&mut Outcome| {
            (known.verdict, known.destination, known.mark, known.masqueraded)
                == (
                    outcome.verdict,
                    outcome.destination,
                    outcome.mark,
                    outcome.masqueraded,
                )
                && known.by == outcome.by
        };
        match outcomes.last_mut().filter(same) {
            Some(known) => known.probability = (known.probability + outcome.probability).min(at_most),
            None => outcomes.push(outcome),
        }
    }
    outcomes
}

fn doubtful(found: &Found, spot: Spot<'_>, why: Why) -> DoubtfulRule {
    let rule = found
        .chain(spot.table, spot.chain)
        .and_then(|rules| rules.get(spot.number.checked_sub(1)?));
    DoubtfulRule {
        place: spot.into(),
        rule: rule.map(rule_text).unwrap_or_default(),
        why,
    }
}

fn hops(walk: &Walk<'_>) -> Vec<Hop> {
    let hops = walk.hops.iter().map(|hop| Hop {
        place: hop.spot.into(),
        rule: rule_text(hop.rule),
        reached: hop.reached.min(1.0),
        matched: hop.matched.min(1.0),
        perhaps: hop.perhaps,
        did: did(hop.rule, hop.spot.table),
    });
    hops.collect()
}

fn did(rule: &Rule, table: TableName) -> String {
    match effect(rule) {
        Effect::Nothing => "counts it and goes on".to_string(),
        Effect::Call {
            chain,
            comes_back: true,
        } => format!("goes to {chain}"),
        Effect::Call { chain, .. } => format!("goes to {chain} and does not come back"),
        Effect::Return => "goes back".to_string(),
        Effect::Accept if table == TableName::Filter => "accepts".to_string(),
        Effect::Accept => format!("is done with the {} table", table.name()),
        Effect::Stop(Verdict::Reject) => "rejects".to_string(),
        Effect::Stop(_) => "drops".to_string(),
        Effect::Mark { value, mask: 0 } => format!("flips mark {value:#x}"),
        Effect::Mark { value, mask } if value == mask => format!("marks {value:#x}"),
        Effect::Mark { value, mask } => format!("sets mark {value:#x} of {mask:#x}"),
        Effect::ConnMark(ConnMark::Restore { .. }) => "takes over the mark of the connection".to_string(),
        Effect::ConnMark(_) => "marks the connection".to_string(),
        Effect::Dnat { ip, port: Some(port) } => format!("sends it to {}", SocketAddr::new(ip, port)),
        Effect::Dnat { ip, port: None } => format!("sends it to {ip}"),
        Effect::Redirect { port: Some(port) } => format!("sends it to the node itself, port {port}"),
        Effect::Redirect { port: None } => "sends it to the node itself".to_string(),
        Effect::NoTrack => "leaves its connection untracked: the nat table is not asked".to_string(),
        Effect::Masquerade => "rewrites its source".to_string(),
        Effect::Unknown => "does what this program does not know".to_string(),
    }
}
