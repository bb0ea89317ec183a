//! What the kernel has after it took a change: knowledge that need not be read back.

use super::delta::{Delta, TableDelta};
use super::edit::{Edit, arranged};
use super::rule::Rule;
use super::set::{Chains, Found, Wanted};

impl Found {
    /// Follows a change that was written as a whole.
    pub fn apply(&mut self, delta: &Delta) {
        for (table, changes) in &delta.tables {
            apply(self.tables.entry(*table).or_default(), changes);
        }
    }
}

impl Found {
    /// Follows a change of a kernel that had nothing of ours, and takes its rules over.
    pub fn take_over(&mut self, delta: Delta) {
        for (table, mut changes) in delta.tables {
            let chains = self.tables.entry(table).or_default();
            chains.append(&mut changes.rewritten);
            edited(chains, &changes);
            besides(chains, &changes);
        }
    }

    /// Follows a change after which every chain is as it is wanted, and shares its rules from then on.
    pub fn become_as(&mut self, wanted: Wanted, delta: &Delta) {
        for (table, changes) in &delta.tables {
            let chains = self.tables.entry(*table).or_default();
            edited(chains, changes);
            besides(chains, changes);
        }
        for (table, chains) in wanted.tables {
            let there = self.tables.entry(table).or_default();
            let rewritten = delta.tables.get(&table).map(|changes| &changes.rewritten);
            for (chain, rules) in chains {
                let kept = there
                    .get(&chain)
                    .filter(|_| !rewritten.is_some_and(|rewritten| rewritten.contains_key(&chain)));
                let rules = match kept {
                    Some(kept) => arranged(&chain, kept, rules),
                    None => rules,
                };
                there.insert(chain, rules);
            }
        }
    }
}

fn apply(chains: &mut Chains, changes: &TableDelta) {
    for (chain, rules) in &changes.rewritten {
        chains.insert(chain.clone(), rules.clone());
    }
    edited(chains, changes);
    besides(chains, changes);
}

fn edited(chains: &mut Chains, changes: &TableDelta) {
    for (chain, edits) in &changes.edited {
        edit(chains.entry(chain.clone()).or_default(), edits);
    }
}

fn besides(chains: &mut Chains, changes: &TableDelta) {
    for (chain, rule) in &changes.unjumps {
        let rules = chains.entry(chain.clone()).or_default();
        if let Some(at) = rules.iter().position(|known| known == rule) {
            rules.remove(at);
        }
    }
    for (chain, rule) in &changes.jumps {
        chains.entry(chain.clone()).or_default().insert(0, rule.clone());
    }
    for chain in &changes.removed {
        chains.remove(chain);
    }
}

/// Does the steps in turn; one that fits nowhere, which the kernel would have refused, is left out.
pub(super) fn edit(rules: &mut Vec<Rule>, edits: &[Edit]) {
    for edit in edits {
        match edit {
            Edit::Delete(number) if (1..=rules.len()).contains(number) => drop(rules.remove(number - 1)),
            Edit::Insert(number, rule) if (1..=rules.len() + 1).contains(number) => {
                rules.insert(number - 1, rule.clone());
            }
            _ => {}
        }
    }
}
