//! A few rules without their table, as `grep` finds them and people paste them: what kube-proxy always writes
//! is taken as there, and told.

use std::collections::BTreeSet;

use super::super::parse::rule_line;
use super::super::set::TableName;
use super::guess::is_of_filter;
use super::reader::Section;
use super::without_counters;

/// Rules of nat and filter, mixed, each to its own.
pub(super) fn split(section: Section<'_>) -> Vec<Section<'_>> {
    if !section.is_fragment() {
        return vec![section];
    }
    let (filter, nat): (Vec<_>, Vec<_>) = section
        .rules
        .into_iter()
        .partition(|(chain, _, rule)| is_of_filter(chain, rule));
    if nat.is_empty() || filter.is_empty() {
        let rules = if nat.is_empty() { filter } else { nat };
        return vec![Section { rules, ..section }];
    }
    let part = |rules| Section {
        rules,
        table: None,
        chains: Vec::new(),
        four: section.four,
        six: section.six,
        header: section.header,
        whole: section.whole,
        gaps: section.gaps,
        gap_in_head: section.gap_in_head,
        flavour: section.flavour,
        broken: section.broken,
        line: section.line,
    };
    let chains = section.chains.clone();
    vec![Section { chains, ..part(nat) }, part(filter)]
}

/// What the rules of a fragment take for granted, each with the chain that it is in.
const ASSUMED: [(&str, &str); 5] = [
    ("KUBE-SERVICES", "-A PREROUTING -j KUBE-SERVICES"),
    ("KUBE-SERVICES", "-A OUTPUT -j KUBE-SERVICES"),
    (
        "KUBE-MARK-MASQ",
        "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
    ),
    (
        "KUBE-MARK-DROP",
        "-A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000",
    ),
    (
        "KUBE-MARK-MASQ",
        "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE",
    ),
];

/// Leaves out what is there twice, as from several searches, and adds what is taken for granted.
pub(super) fn complete(table: TableName, section: &mut Section<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let mut seen = BTreeSet::new();
    let before = section.rules.len();
    section
        .rules
        .retain(|(_, line, _)| seen.insert(without_counters(line).1.to_string()));
    if section.rules.len() < before {
        notes.push("lines that come more than once are counted once".to_string());
    }
    // A chain that is only named has rules that are not here.
    section.chains.clear();
    if table != TableName::Nat {
        return notes;
    }
    let there: BTreeSet<String> = section.rules.iter().map(|(chain, _, _)| chain.clone()).collect();
    let has_services = there.contains("KUBE-SERVICES");
    let mut added = 0;
    for (owner, line) in ASSUMED {
        let Some((chain, rule)) = rule_line(line) else {
            continue;
        };
        let needed = if owner == "KUBE-SERVICES" {
            has_services
        } else {
            true
        };
        if needed && !there.contains(&chain) {
            section.rules.push((chain, line, rule));
            added += 1;
        }
    }
    if there.contains("KUBE-POSTROUTING") && !there.contains("POSTROUTING") {
        let line = "-A POSTROUTING -j KUBE-POSTROUTING";
        section.rules.retain(|(chain, _, _)| chain != "POSTROUTING");
        section
            .rules
            .extend(rule_line(line).map(|(chain, rule)| (chain, line, rule)));
    }
    if added > 0 {
        notes.push(
            "these are some of a node's rules: what is not here is taken as kube-proxy writes it, and numbers count the lines that are here"
                .to_string(),
        );
    }
    notes
}
