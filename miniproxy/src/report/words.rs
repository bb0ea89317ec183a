//! What a rule does and where two rules differ, in the words of Services.

use crate::rules::fixed::MARK_MASQ;
use crate::rules::name::ChainKind;
use crate::rules::rule::{Match, Probability, Rule, Side as End, Target};
use crate::rules::set::Chains;

/// One of the two rule sets, and what sentences call it.
pub(super) struct Side<'a> {
    /// `the kernel`
    pub(super) name: &'a str,
    /// Its chains of the table.
    pub(super) chains: &'a Chains,
}

/// Where two rules differ: `probability: the kernel has 1 in 3, the registry 1 in 2`.
pub(super) fn differing(left: (&Rule, &Side<'_>), right: (&Rule, &Side<'_>)) -> String {
    let (one, other) = (parts(left.0, left.1), parts(right.0, right.1));
    let mut texts = Vec::new();
    for (name, values) in &one {
        let theirs = value_of(&other, name);
        if theirs != Some(values.as_str()) {
            let theirs = theirs.unwrap_or("none");
            texts.push(format!(
                "{name}: {} has {values}, {} {theirs}",
                left.1.name, right.1.name
            ));
        }
    }
    for (name, values) in &other {
        if value_of(&one, name).is_none() {
            texts.push(format!(
                "{name}: {} has none, {} {values}",
                left.1.name, right.1.name
            ));
        }
    }
    if texts.is_empty() {
        texts.push(format!("{} and {} differ", left.1.name, right.1.name));
    }
    texts.join("; ")
}

fn value_of<'a>(parts: &'a [(&'static str, String)], name: &str) -> Option<&'a str> {
    parts
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value.as_str())
}

/// Every part by its name; parts of one name are put together.
fn parts(rule: &Rule, side: &Side<'_>) -> Vec<(&'static str, String)> {
    let (matches, _) = rule.meaning();
    let mut parts: Vec<(&'static str, String)> = Vec::new();
    let named = matches.into_iter().map(part).chain([target(rule, side)]);
    for (name, value) in named {
        match parts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push_str(&format!(" and {value}")),
            None => parts.push((name, value)),
        }
    }
    parts
}

fn part(condition: &Match) -> (&'static str, String) {
    let not = |negated: &bool, text: String| if *negated { format!("not {text}") } else { text };
    match condition {
        Match::Address {
            side: End::Source,
            network,
            negated,
        } => ("source", not(negated, network.to_string())),
        Match::Address {
            side: End::Destination,
            network,
            negated,
        } => ("destination", not(negated, network.to_string())),
        Match::Interface { name, negated, .. } => ("interface", not(negated, name.clone())),
        Match::Protocol(protocol) => ("protocol", protocol.upper().to_string()),
        Match::DestinationPort(port) => ("port", port.to_string()),
        Match::Comment(text) => ("comment", format!("{text:?}")),
        Match::Mark { value, mask, negated } => ("mark", not(negated, format!("{value:#x}/{mask:#x}"))),
        Match::CtState { states, negated } => ("connection state", not(negated, states.join(","))),
        Match::LocalAddress(End::Source) => ("source type", "LOCAL".to_string()),
        Match::LocalAddress(End::Destination) => ("destination type", "LOCAL".to_string()),
        Match::Statistic(chance) => ("probability", chance_text(*chance)),
        Match::RecentCheck { list, seconds, reap } => {
            let keeps = if *reap { "" } else { ", without --reap" };
            ("affinity", format!("{list} for {seconds} s{keeps}"))
        }
        Match::RecentSet { list } => ("affinity", format!("{list} is set")),
        Match::Counter(name) => ("counter", name.clone()),
        Match::Other(words) => ("other words", words.join(" ")),
    }
}

/// `1 in 3`, or a fraction that is no such chance.
fn chance_text(chance: Probability) -> String {
    // The cast cannot truncate: a chance is at least 2^-31.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let n = (1.0 / chance.fraction().max(f64::MIN_POSITIVE)).round().min(4e9) as u32;
    if chance == Probability::one_in(n) {
        format!("1 in {n}")
    } else {
        format!("{:.7}", chance.fraction())
    }
}

fn target(rule: &Rule, side: &Side<'_>) -> (&'static str, String) {
    match &rule.target {
        Some(Target::Jump(chain)) if chain == MARK_MASQ => ("target", "masquerade".to_string()),
        Some(Target::Jump(chain)) => match endpoint(chain, side) {
            Some(endpoint) => ("endpoint", endpoint),
            None => ("target", chain.clone()),
        },
        Some(Target::Dnat(to)) => ("endpoint", to.clone()),
        Some(Target::SetXmark { value, mask }) => ("target", format!("mark {value:#x}/{mask:#x}")),
        Some(Target::Masquerade { random_fully }) => (
            "target",
            if *random_fully {
                "MASQUERADE with random ports"
            } else {
                "MASQUERADE"
            }
            .to_string(),
        ),
        Some(Target::Other(words)) => ("target", words.join(" ")),
        Some(Target::Accept) => ("target", "ACCEPT".to_string()),
        Some(Target::Drop) => ("target", "DROP".to_string()),
        Some(Target::Return) => ("target", "RETURN".to_string()),
        Some(Target::Reject) => ("target", "REJECT".to_string()),
        None => ("target", "none".to_string()),
    }
}

/// Where an endpoint's chain leads; the chain's own name, when its rules are not there.
fn endpoint(chain: &str, side: &Side<'_>) -> Option<String> {
    if ChainKind::of(chain) != Some(ChainKind::Endpoint) {
        return None;
    }
    let rules = side.chains.get(chain).into_iter().flatten();
    let mut targets = rules.filter_map(|rule| match &rule.target {
        Some(Target::Dnat(to)) => Some(to.clone()),
        _ => None,
    });
    Some(targets.next().unwrap_or_else(|| chain.to_string()))
}

/// What a rule does that only one side has: `sends 1 in 2 to 10.244.1.5:8080`.
pub(super) fn role(rule: &Rule, side: &Side<'_>) -> Option<String> {
    let parts = parts(rule, side);
    let of = |name| value_of(&parts, name);
    Some(match (of("endpoint"), of("target")) {
        (Some(endpoint), _) => match (of("affinity"), of("probability")) {
            (Some(_), _) if matches!(rule.target, Some(Target::Jump(_))) => {
                format!("keeps clients at {endpoint}")
            }
            (_, Some(chance)) => format!("sends {chance} to {endpoint}"),
            _ => format!("sends what comes here to {endpoint}"),
        },
        (None, Some("masquerade")) => "masquerades here".to_string(),
        (None, Some("REJECT" | "DROP")) => "refuses here".to_string(),
        (None, Some(chain)) if ChainKind::of(chain).is_some() => match (of("destination"), of("port")) {
            (Some(address), Some(port)) => format!("answers at {address} port {port}"),
            (None, Some(port)) => format!("answers at port {port}"),
            _ => return None,
        },
        _ => return None,
    })
}
