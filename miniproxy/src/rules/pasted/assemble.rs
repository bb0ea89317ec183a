//! Sections → the rules of each family. A text may hold several dumps: of both families, of two nodes, of both
//! flavours of iptables, or the same one twice.

use std::collections::{BTreeMap, BTreeSet};

use labkit::xtables::Family;

use super::super::rule::Rule;
use super::super::set::{Chains, TableName};
use super::super::trace::Verdict;
use super::fragment;
use super::guess::{guessed_table, is_of_filter};
use super::reader::{Section, cut_off, end};
use super::{LEFT_OUT, Pasted, other, without_counters};

/// The sections of one dump, by table.
type Dump<'t> = BTreeMap<String, Section<'t>>;
type Families<'t> = BTreeMap<Family, Pasted<'t>>;

/// Puts them together, with what is to be said of it.
pub(super) fn assemble<'t>(
    sections: Vec<Section<'t>>,
    hidden: &[&'static str],
) -> (Families<'t>, Vec<String>) {
    let mut notes = Vec::new();
    let mut families = Families::new();
    for (family, dumps) in by_family(dumps(sections)) {
        let pasted = families.entry(family).or_default();
        let (dump, beside) = one_of(dumps, family, &mut notes);
        pasted.beside = beside;
        for (table, section) in dump {
            match TableName::walked(&table) {
                Some(name) => enter(pasted, name, section, &mut notes),
                None if section.rules.is_empty() => {}
                None => drop(pasted.other_tables.insert(table)),
            }
        }
        pasted.elsewhere = other::elsewhere(&pasted.found, hidden);
        notes.extend(told(family, pasted));
    }
    (families, notes)
}

fn told(family: Family, pasted: &Pasted<'_>) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for table in &pasted.cut {
        notes.push(format!(
            "the end of table {}, or a part of it, is missing ({}): what stood there is not known",
            table.name(),
            family.name()
        ));
    }
    for table in &pasted.other_tables {
        notes.push(format!(
            "the rules of table {table} are not walked ({})",
            family.name()
        ));
    }
    if let Some(who) = pasted.elsewhere {
        notes.push(format!(
            "packets to Services are sent to pods by {who}, not by these rules"
        ));
    }
    notes
}

fn evidence(section: &Section<'_>) -> Option<Family> {
    match (section.four, section.six, section.header) {
        (true, false, _) => Some(Family::V4),
        (false, true, _) => Some(Family::V6),
        (_, _, header) => header,
    }
}

/// A dump ends where a table comes again, or rules of the other family.
fn dumps(sections: Vec<Section<'_>>) -> Vec<(Option<Family>, Dump<'_>)> {
    let mut dumps: Vec<(Option<Family>, Dump<'_>)> = Vec::new();
    for section in sections.into_iter().flat_map(fragment::split) {
        let guessed = || {
            let all = section
                .rules
                .iter()
                .all(|(chain, _, rule)| is_of_filter(chain, rule));
            let filter = all && section.is_fragment() && !section.rules.is_empty();
            let table = if filter {
                TableName::Filter
            } else {
                guessed_table(&section)
            };
            table.name().to_string()
        };
        let table = section.table.clone().unwrap_or_else(guessed);
        let family = evidence(&section);
        let fits = |dump: &&mut (Option<Family>, Dump<'_>)| {
            let one_family = dump.0.is_none() || family.is_none() || dump.0 == family;
            one_family && !dump.1.contains_key(&table)
        };
        match dumps.last_mut().filter(fits) {
            Some((of, dump)) => {
                *of = of.or(family);
                dump.insert(table, section);
            }
            None => dumps.push((family, Dump::from([(table, section)]))),
        }
    }
    dumps
}

/// Where nothing tells the family, the first one is IPv4.
fn by_family(dumps: Vec<(Option<Family>, Dump<'_>)>) -> BTreeMap<Family, Vec<Dump<'_>>> {
    let mut families: BTreeMap<Family, Vec<Dump<'_>>> = BTreeMap::new();
    for (family, dump) in dumps {
        let family = family.unwrap_or_else(|| {
            let four = families.get(&Family::V4);
            let there =
                |table: &String| four.is_some_and(|four| four.iter().any(|dump| dump.contains_key(table)));
            if dump.keys().any(there) {
                Family::V6
            } else {
                Family::V4
            }
        });
        families.entry(family).or_default().push(dump);
    }
    families
}

/// The dump that counts, with the tables that it lacks from the others; and whether rules of the other
/// iptables stand beside it.
fn one_of<'t>(mut dumps: Vec<Dump<'t>>, family: Family, notes: &mut Vec<String>) -> (Dump<'t>, bool) {
    let counts = |(_, dump): &(usize, &Dump<'_>)| (rank(dump), dump.len() > 1);
    let chosen = dumps
        .iter()
        .enumerate()
        .max_by_key(|(at, dump)| (counts(&(*at, dump)), *at));
    let Some(chosen) = chosen.map(|(at, _)| at) else {
        return (Dump::new(), false);
    };
    let mut dump = dumps.remove(chosen);
    let differs = |other: &Dump<'_>| {
        other.iter().any(|(table, section)| {
            let same = |known: &Section<'_>| lines(known).eq(lines(section));
            !section.rules.is_empty() && dump.get(table).is_some_and(|known| !same(known))
        })
    };
    let flavour = |dump: &Dump<'_>| dump.values().find_map(|section| section.flavour);
    let own = flavour(&dump);
    let acts = |section: &Section<'_>| {
        let stops =
            |(_, policy): &(&str, Option<Verdict>)| policy.is_some_and(|policy| policy != Verdict::Accept);
        !section.rules.is_empty() || section.chains.iter().any(stops)
    };
    let beside = dumps
        .iter()
        .any(|other| flavour(other) != own && other.values().any(acts));
    if beside {
        let from = dump.values().map(|section| section.line).min().unwrap_or(1);
        notes.push(format!(
            "there are rules of both iptables ({}), and the kernel asks both: only those from line {from} on are walked, and whether the others let it pass is not known",
            family.name()
        ));
    } else if dumps.iter().any(differs) {
        let from = dump.values().map(|section| section.line).min().unwrap_or(1);
        notes.push(format!(
            "some tables come more than once for {}: those from line {from} on count; for the others make a file of its own",
            family.name()
        ));
    }
    for other in dumps.into_iter().rev() {
        for (table, section) in other {
            dump.entry(table).or_insert(section);
        }
    }
    (dump, beside)
}

/// Rules of kube-proxy are what is asked for; any rules are better than none.
fn rank(dump: &Dump<'_>) -> u8 {
    let Some(nat) = dump.get("nat") else {
        return 0;
    };
    let services = nat.rules.iter().any(|(chain, _, _)| chain == "KUBE-SERVICES");
    1 + u8::from(!nat.rules.is_empty()) + u8::from(services)
}

fn lines<'s>(section: &'s Section<'_>) -> impl Iterator<Item = &'s str> {
    section.rules.iter().map(|(_, line, _)| without_counters(line).1)
}

/// What stands in a table, put in place.
fn enter<'t>(pasted: &mut Pasted<'t>, table: TableName, mut section: Section<'t>, notes: &mut Vec<String>) {
    if section.is_fragment() {
        notes.extend(fragment::complete(table, &mut section));
        pasted.is_fragment |= table == TableName::Nat;
    }
    if section.table.is_some() && !section.whole {
        cut_off(&mut section);
        pasted.cut.insert(table);
    }
    if section.broken {
        pasted.cut.insert(table);
    }
    pasted.has_filter |= table == TableName::Filter && !section.is_fragment();
    if section.gaps > 0 {
        fill_gaps(&mut section);
        pasted.cut.insert(table);
    }
    let mut chains = Chains::new();
    let mut lines: BTreeMap<String, Vec<&'t str>> = BTreeMap::new();
    for (chain, policy) in section.chains {
        chains.entry(chain.to_string()).or_default();
        if let Some(policy) = policy {
            pasted.policies.insert((table, chain.to_string()), policy);
        }
    }
    for (chain, line, rule) in section.rules {
        append(&mut lines, &chain, line);
        append(&mut chains, &chain, rule);
    }
    pasted.found.tables.insert(table, chains);
    pasted.lines.insert(table, lines);
}

/// Without a copy of the name where it is known already: there are a hundred thousand.
fn append<T>(chains: &mut BTreeMap<String, Vec<T>>, chain: &str, what: T) {
    match chains.get_mut(chain) {
        Some(all) => all.push(what),
        None => drop(chains.insert(chain.to_string(), vec![what])),
    }
}

/// Where lines are left out, chains without rules may have some.
fn fill_gaps(section: &mut Section<'_>) {
    let known: BTreeSet<&str> = section.rules.iter().map(|(chain, _, _)| chain.as_str()).collect();
    let bare = section
        .chains
        .iter()
        .filter(|(name, policy)| (policy.is_none() || section.gap_in_head) && !known.contains(name));
    let ends: Vec<(String, &'static str, Rule)> = bare
        .map(|(name, _)| ((*name).to_string(), LEFT_OUT, end()))
        .collect();
    section.rules.extend(ends);
}
