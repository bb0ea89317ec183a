//! One Service drawn: each rule of the dice is a question with yes → out and no ↓ next. Pure.
//!
//! Made of the report that `explain` makes. Never the whole table: a node has thousands of rules.

mod dot;
mod mermaid;
mod svg;
mod text;

#[cfg(test)]
mod tests;

use labkit::screen::{Look, Mark};
use labkit::text::printable;

use crate::explain::heading::destination;
use crate::explain::{Backend, NOTHING, Report, Roll, fraction, percent};

pub use dot::dot;
pub use mermaid::mermaid;
pub use svg::svg;
pub use text::text;

/// What is drawn.
struct Drawing {
    title: String,
    caller: String,
    service: String,
    questions: Vec<Question>,
    /// The chain whose rules are the questions, if it is one: `rules of KUBE-SVC-…`
    rules: Option<String>,
    /// What becomes of packets that reach no backend, or of which nobody can tell.
    ends: Vec<Stop>,
    /// How it ends where no dice are thrown.
    verdict: String,
}

/// Where packets end that are not answered, and where nobody knows it.
struct Stop {
    /// `LOST 29.6%`, `DROP 100.0%: filter FORWARD policy`
    words: String,
    from: From,
    /// It may be no failure.
    open: bool,
}

/// What leads to a stop.
#[derive(PartialEq, Eq)]
enum From {
    /// The last of the dice.
    Dice,
    /// These backends' packets.
    Backends(Vec<usize>),
}

/// One rule of the dice.
struct Question {
    /// `1/3 ?`, or `the rest`
    asks: String,
    /// `#3`, with its chain where there are several.
    place: String,
    yes: String,
    /// `None` where nothing is left.
    no: Option<String>,
    backend: String,
    /// Counters are there, and it never matched.
    never: bool,
    index: usize,
}

impl Drawing {
    fn of(report: &Report) -> Self {
        let packet = &report.packet;
        let from = packet.from.clone().unwrap_or_else(|| packet.source.clone());
        let address = format!("{}/{}", destination(packet), packet.protocol);
        let service = packet
            .service
            .clone()
            .map_or_else(String::new, |name| format!("svc/{name} "));
        let counted = report
            .dice
            .iter()
            .any(|roll| roll.packets.is_some_and(|packets| packets > 0));
        let first = report.dice.first().map(|roll| roll.chain.as_str());
        let chain = first.filter(|first| report.dice.iter().all(|roll| roll.chain == *first));
        let asked = |roll| question(report, roll, counted, chain.is_some());
        Self {
            rules: chain.map(|chain| safe(&format!("rules of {chain}"))),
            title: safe(&format!("{service}{address}: where new connections go")),
            caller: safe(&from),
            service: safe(&format!("{service}{address}")),
            questions: report.dice.iter().map(asked).collect(),
            ends: stops(report),
            verdict: format!("{}: {}", report.verdict.word(), report.sentence),
        }
    }

    /// Those that the dice leave.
    fn left_over(&self) -> impl Iterator<Item = (usize, &Stop)> {
        self.ends
            .iter()
            .enumerate()
            .filter(|(_, stop)| stop.from == From::Dice)
    }
}

fn stops(report: &Report) -> Vec<Stop> {
    let mut stops = Vec::new();
    let mut add = |words: String, from, open| {
        stops.push(Stop {
            words: safe(&words),
            from,
            open,
        });
    };
    if report.falls_through > NOTHING {
        add(
            format!("LOST {}", percent(report.falls_through)),
            From::Dice,
            false,
        );
    }
    if report.not_known > NOTHING {
        add(
            format!("NOT KNOWN HERE {}", percent(report.not_known)),
            From::Dice,
            true,
        );
    }
    if report.dice.is_empty() {
        return stops;
    }
    let all: Vec<usize> = (0..report.backends.len()).collect();
    let stopped = |index: &usize| {
        let backend = &report.backends[*index];
        backend
            .arrives
            .is_none_or(|arrives| backend.share - arrives > NOTHING)
    };
    let stopped: Vec<usize> = all.iter().copied().filter(stopped).collect();
    for end in &report.ends {
        if matches!(end.verdict, "drop" | "reject") && end.share > NOTHING {
            let by = end.by.as_ref().map(|by| format!(": {by}")).unwrap_or_default();
            let words = format!("{} {}{by}", end.verdict.to_uppercase(), percent(end.share));
            add(words, From::Backends(stopped.clone()), false);
        }
    }
    for check in report.checks.iter().filter(|check| check.ok == Some(false)) {
        if let Some(share) = check.costs.filter(|share| *share > NOTHING) {
            let words = format!("FAIL {}: {}", percent(share), check.text);
            add(words, From::Backends(all.clone()), false);
        }
    }
    if !report.end_known {
        let why = match report.not_understood.first() {
            Some(rule) => {
                let number = rule.rule.map(|number| format!(" #{number}")).unwrap_or_default();
                format!("{} {}{number} is not understood", rule.table, rule.chain)
            }
            None => "the filter table is not all here".to_string(),
        };
        add(format!("LET THROUGH OR NOT: {why}"), From::Backends(all), true);
    }
    stops
}

fn question(report: &Report, roll: &Roll, counted: bool, one_chain: bool) -> Question {
    let backend = &report.backends[roll.goes_to];
    let left = roll.still_here - roll.share;
    let packets = roll.packets.filter(|_| counted);
    let count = packets.map(|packets| format!(" ({packets})")).unwrap_or_default();
    Question {
        asks: match roll.rolls {
            Some(chance) => format!("{} ?", fraction(chance)),
            None if report.dice.len() == 1 => "no dice".into(),
            None => "the rest".into(),
        },
        place: if one_chain {
            format!("#{}", roll.rule)
        } else {
            safe(&format!("{} #{}", roll.chain, roll.rule))
        },
        yes: format!("yes {}{count}", percent(roll.share)),
        no: (left > 1e-9).then(|| format!("no {}", percent(left))),
        backend: safe(&label(backend, roll.goes_to)),
        never: packets == Some(0),
        index: roll.goes_to,
    }
}

fn label(backend: &Backend, index: usize) -> String {
    let shape = Mark::of(index).shape(&Look::default());
    match &backend.name {
        Some(name) => format!("{shape} {name} {}", backend.address),
        None => format!("{shape} {}", backend.address),
    }
}

fn safe(text: &str) -> String {
    printable(text).into_owned()
}

/// Colours of Okabe and Ito, pale enough for dark text.
const FILLS: [&str; 4] = ["#cfe5f5", "#fbe3b0", "#c5eadd", "#f0d4e4"];

fn fill(index: usize) -> &'static str {
    FILLS[index % FILLS.len()]
}
