//! Some service ports had these rules and should have those: the change, whatever all others have.

use std::collections::BTreeMap;

use super::delta::Delta;
use super::edit;
use super::part::Part;
use super::rule::Rule;
use super::set::{Found, TableName};

/// What some service ports had and should have in one shared chain.
type Exchange<'a> = (Vec<&'a Rule>, Vec<&'a Rule>);

impl Delta {
    /// From a kernel that is known, and that has `before`, to one that has `after` in its place.
    ///
    /// Rules of other service ports are neither copied nor compared: what it costs does not grow with
    /// their number.
    pub fn exchange(known: &Found, before: &[&Part], after: &[&Part]) -> Self {
        let mut delta = Self::default();
        delta.exchange_own(known, before, after);
        for ((table, chain), (had, wants)) in shared(before, after) {
            let there = known.chain(table, chain).unwrap_or_default();
            let edits = edit::exchange(there, &had, &wants);
            if !edits.is_empty() {
                let changes = delta.tables.entry(table).or_default();
                changes.edited.insert(chain.to_string(), edits);
            }
        }
        delta.tables.retain(|_, changes| !changes.is_empty());
        delta
    }

    fn exchange_own(&mut self, known: &Found, before: &[&Part], after: &[&Part]) {
        let changes = self.tables.entry(TableName::Nat).or_default();
        let chains = |parts: &[&Part]| -> BTreeMap<String, Vec<Rule>> {
            parts.iter().flat_map(|part| part.own.iter().cloned()).collect()
        };
        let (had, wants) = (chains(before), chains(after));
        let there = |chain: &str| known.chain(TableName::Nat, chain);
        let stale = had.into_keys().filter(|chain| !wants.contains_key(chain));
        changes.removed = stale.filter(|chain| there(chain).is_some()).collect();
        changes.rewritten = wants;
        let wants = &mut changes.rewritten;
        wants.retain(|chain, rules| there(chain) != Some(rules.as_slice()));
        let reused = wants.keys().filter(|chain| there(chain).is_some());
        changes.reused = reused.cloned().collect();
    }
}

fn shared<'a>(before: &[&'a Part], after: &[&'a Part]) -> BTreeMap<(TableName, &'static str), Exchange<'a>> {
    let mut shared: BTreeMap<_, Exchange<'a>> = BTreeMap::new();
    for (table, chain, rule) in before.iter().flat_map(|part| &part.shared) {
        shared.entry((*table, *chain)).or_default().0.push(rule);
    }
    for (table, chain, rule) in after.iter().flat_map(|part| &part.shared) {
        shared.entry((*table, *chain)).or_default().1.push(rule);
    }
    shared
}
