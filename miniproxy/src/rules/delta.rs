//! What the kernel has and what is wanted → the smallest change, as one `iptables-restore` document.
//!
//! A chain of a service port is written anew when it differs, as kube-proxy does; a chain that all
//! Services share is edited rule by rule, so that the counters of its other rules live on.

use std::collections::{BTreeMap, BTreeSet};

use super::edit::{self, Edit};
use super::fixed;
use super::name::ChainKind;
use super::rule::{Rule, Target};
use super::set::{Chains, Found, TableName, Wanted};
use super::text::rule_text;

/// The changes to one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableDelta {
    /// Chains that are made, or emptied and filled again.
    pub rewritten: Chains,
    /// Those of them that were there, and that something in the kernel may lead to. All others are made.
    pub reused: BTreeSet<String>,
    /// Chains in which single rules come or go.
    pub edited: BTreeMap<String, Vec<Edit>>,
    /// Chains that go.
    pub removed: BTreeSet<String>,
    /// Rules put at the head of built-in chains, in this order.
    pub jumps: Vec<(String, Rule)>,
    /// Rules taken out of built-in chains.
    pub unjumps: Vec<(String, Rule)>,
}

impl TableDelta {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How many of our chains it makes, changes or removes.
    pub fn chain_count(&self) -> usize {
        self.rewritten.len() + self.edited.len() + self.removed.len()
    }

    /// How many rules it sends for our chains. As kube-proxy counts: no jumps from built-in chains, and
    /// nothing that is removed.
    pub fn rule_count(&self) -> usize {
        let inserts = |edits: &Vec<Edit>| {
            edits
                .iter()
                .filter(|edit| matches!(edit, Edit::Insert(..)))
                .count()
        };
        self.rewritten.values().map(Vec::len).sum::<usize>()
            + self.edited.values().map(inserts).sum::<usize>()
    }
}

impl TableDelta {
    /// What an earlier write has left half made is as good as new: nothing leads to it.
    fn leave_unreached(&mut self, found: &Found, table: TableName) {
        let rules = found.tables.get(&table).into_iter().flat_map(BTreeMap::values);
        let reached: BTreeSet<&String> = rules.flatten().flat_map(leads_to).collect();
        self.reused
            .retain(|chain| ChainKind::of(chain).is_none() || reached.contains(chain));
    }

    /// The chains that nothing in the kernel leads to, for they are not there yet or not finished.
    pub fn made(&self) -> impl Iterator<Item = &String> {
        self.rewritten
            .keys()
            .filter(|chain| !self.reused.contains(*chain))
    }

    /// Whether this chain is one of [`Self::made`].
    pub fn is_made(&self, chain: &str) -> bool {
        self.rewritten.contains_key(chain) && !self.reused.contains(chain)
    }
}

/// The changes to all tables of one family. Tables without a change are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// By table.
    pub tables: BTreeMap<TableName, TableDelta>,
    /// Rules of others that lead into chains which would go: those chains stay, without rules.
    pub held: Vec<String>,
}

/// Whether a chain of this table can only be ours, by its name.
pub fn is_ours(table: TableName, chain: &str) -> bool {
    fixed::chains(table).contains(&chain) || (table == TableName::Nat && ChainKind::of(chain).is_some())
}

impl Delta {
    /// From what was found to what is wanted.
    pub fn between(found: &Found, wanted: &Wanted) -> Self {
        let mut delta = Self::default();
        delta.add_chains(found, wanted);
        for (table, chains) in &wanted.tables {
            let there = found.tables.get(table).into_iter().flat_map(BTreeMap::keys);
            let stale = there.filter(|chain| is_ours(*table, chain) && !chains.contains_key(*chain));
            delta.tables.entry(*table).or_default().removed = stale.cloned().collect();
            delta.hold(found, *table);
        }
        delta.add_jumps(found, wanted);
        delta.tables.retain(|_, changes| !changes.is_empty());
        delta
    }

    /// The same as [`Self::between`]. Where nothing of ours is there yet, what is wanted becomes the change, and is
    /// not copied for it: there may be a hundred thousand rules. Else it is handed back.
    pub fn onto(found: &Found, wanted: Wanted) -> (Self, Option<Wanted>) {
        let mut tables = found.tables.iter();
        if tables.any(|(table, chains)| chains.keys().any(|chain| is_ours(*table, chain))) {
            return (Self::between(found, &wanted), Some(wanted));
        }
        let mut delta = Self::default();
        delta.add_jumps(found, &wanted);
        for (table, chains) in wanted.tables {
            delta.tables.entry(table).or_default().rewritten = chains;
        }
        delta.tables.retain(|_, changes| !changes.is_empty());
        (delta, None)
    }

    /// From a kernel that has nothing yet.
    pub fn from_nothing(wanted: Wanted) -> Self {
        Self::onto(&Found::default(), wanted).0
    }

    fn add_chains(&mut self, found: &Found, wanted: &Wanted) {
        for (table, chains) in &wanted.tables {
            let changes = self.tables.entry(*table).or_default();
            // Collected in order, then made into maps at once: there may be fifty thousand.
            let (mut reused, mut rewritten) = (Vec::new(), Vec::new());
            for (chain, rules) in chains {
                match found.chain(*table, chain) {
                    Some(there) if there == rules.as_slice() => {}
                    Some(there) if ChainKind::of(chain).is_none() && !there.is_empty() => {
                        let edits = edit::edits(chain, there, rules);
                        if edits.len() > FEW && !is_reached(found, *table, chain) {
                            // A first write that was cut short: it goes on as if nothing were there.
                            rewritten.push((chain.clone(), rules.clone()));
                        } else if !edits.is_empty() {
                            changes.edited.insert(chain.clone(), edits);
                        }
                    }
                    there => {
                        if there.is_some() {
                            reused.push(chain.clone());
                        }
                        rewritten.push((chain.clone(), rules.clone()));
                    }
                }
            }
            changes.reused = reused.into_iter().collect();
            changes.rewritten = rewritten.into_iter().collect();
            if !changes.reused.is_empty() {
                changes.leave_unreached(found, *table);
            }
        }
    }

    /// The kernel removes no chain that a rule leads to: such a chain is only emptied, so that one rule
    /// of somebody else does not hold up all of ours.
    fn hold(&mut self, found: &Found, table: TableName) {
        let changes = self.tables.entry(table).or_default();
        if changes.removed.is_empty() {
            return;
        }
        let stale = changes.removed.clone();
        let chains = found.tables.get(&table).into_iter().flatten();
        for (from, rules) in chains.filter(|(chain, _)| !is_ours(table, chain)) {
            for rule in rules {
                for chain in leads_to(rule).filter(|chain| stale.contains(*chain)) {
                    let rule = rule_text(rule);
                    self.held.push(format!("-t {} -A {from} {rule}", table.name()));
                    changes.removed.remove(chain);
                    // What is empty already needs no emptying.
                    if found.chain(table, chain).is_some_and(|rules| !rules.is_empty()) {
                        changes.reused.insert(chain.clone());
                        changes.rewritten.insert(chain.clone(), Vec::new());
                    }
                }
            }
        }
    }

    /// Puts missing jumps at the heads of built-in chains. Ours that are there stay where they are,
    /// unless their order among themselves is not the one kube-proxy makes: then all of ours are
    /// taken out and put in again. Rules of others are never touched.
    fn add_jumps(&mut self, found: &Found, wanted: &Wanted) {
        let mut by_chain: BTreeMap<(TableName, &str), Vec<&Rule>> = BTreeMap::new();
        for jump in &wanted.jumps {
            // Each goes to the head, so that the last one ends up first.
            by_chain
                .entry((jump.table, jump.from))
                .or_default()
                .insert(0, &jump.rule);
        }
        for ((table, from), wanted) in by_chain {
            let rules = found.chain(table, from).unwrap_or_default();
            let there: Vec<&Rule> = rules.iter().filter(|rule| wanted.contains(rule)).collect();
            let (missing, kept) = wanted.split_at(wanted.len().saturating_sub(there.len()));
            let (out, into) = if there == kept {
                (vec![], missing)
            } else {
                (there, wanted.as_slice())
            };
            let changes = self.tables.entry(table).or_default();
            let named = |rule: &&Rule| (from.to_string(), (*rule).clone());
            changes.unjumps.extend(out.iter().map(named));
            changes.jumps.extend(into.iter().rev().map(named));
        }
    }

    /// From what was found to a kernel without any chain of ours.
    ///
    /// # Errors
    /// The foreign rules that lead into our chains: those chains cannot go while such a rule is there,
    /// and the rule is not ours to remove.
    pub fn removal(found: &Found) -> Result<Self, Vec<String>> {
        let mut delta = Self::default();
        let mut foreign = Vec::new();
        let jumps = fixed::base(&crate::model::ProxyConfig::defaults(labkit::xtables::Family::V4)).jumps;
        for (table, chains) in &found.tables {
            let changes = delta.tables.entry(*table).or_default();
            for (chain, rules) in chains.iter().filter(|(chain, _)| !is_ours(*table, chain)) {
                for rule in rules.iter().filter(|rule| leads_to_ours(*table, rule)) {
                    let ours = |jump: &super::set::Jump| {
                        jump.table == *table && jump.from == chain && jump.rule == *rule
                    };
                    if jumps.iter().any(ours) {
                        changes.unjumps.push((chain.clone(), rule.clone()));
                    } else {
                        foreign.push(format!("-t {} -A {chain} {}", table.name(), rule_text(rule)));
                    }
                }
            }
            changes.removed = chains
                .keys()
                .filter(|chain| is_ours(*table, chain))
                .cloned()
                .collect();
        }
        delta.tables.retain(|_, changes| !changes.is_empty());
        if foreign.is_empty() {
            Ok(delta)
        } else {
            Err(foreign)
        }
    }

    /// How many of our chains it makes, changes or removes.
    pub fn chain_count(&self) -> usize {
        self.tables.values().map(TableDelta::chain_count).sum()
    }

    /// How many rules it sends for our chains.
    pub fn rule_count(&self) -> usize {
        self.tables.values().map(TableDelta::rule_count).sum()
    }

    /// Writes chains anew instead of editing them by numbers: right whatever they hold by then.
    pub fn rewrite_edited(&mut self, wanted: &Wanted) {
        for (table, changes) in &mut self.tables {
            for chain in std::mem::take(&mut changes.edited).into_keys() {
                let rules = wanted.tables.get(table).and_then(|chains| chains.get(&chain));
                changes.reused.insert(chain.clone());
                changes
                    .rewritten
                    .insert(chain, rules.cloned().unwrap_or_default());
            }
        }
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
}

/// So many edits fit into any document.
const FEW: usize = 50;

/// Whether any rule leads to a chain.
fn is_reached(found: &Found, table: TableName, chain: &str) -> bool {
    let rules = found.tables.get(&table).into_iter().flat_map(BTreeMap::values);
    rules.flatten().flat_map(leads_to).any(|to| to == chain)
}

fn leads_to_ours(table: TableName, rule: &Rule) -> bool {
    leads_to(rule).any(|chain| is_ours(table, chain))
}

/// Words of the rule's target that may be names of chains.
fn leads_to(rule: &Rule) -> impl Iterator<Item = &String> {
    let (jump, words) = match &rule.target {
        Some(Target::Jump(chain)) => (Some(chain), &[][..]),
        Some(Target::Other(words)) => (None, words.as_slice()),
        _ => (None, &[][..]),
    };
    jump.into_iter().chain(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(comment: &str) -> Rule {
        Rule::new().comment(comment).to(Target::Accept)
    }

    #[test]
    fn a_jump_that_was_removed_comes_back_in_its_place_and_foreign_rules_stay() {
        let wanted = fixed::base(&crate::model::ProxyConfig::defaults(labkit::xtables::Family::V4));
        let delta = Delta::between(&Found::default(), &wanted);
        assert_eq!(Delta::from_nothing(wanted.clone()), delta);
        let mut found = Found::from(&wanted);
        assert!(Delta::between(&found, &wanted).is_empty());
        let forward = found
            .tables
            .get_mut(&TableName::Filter)
            .unwrap()
            .get_mut("FORWARD")
            .unwrap();
        forward.insert(1, rule("foreign"));
        assert!(Delta::between(&found, &wanted).is_empty());
        found
            .tables
            .get_mut(&TableName::Filter)
            .unwrap()
            .get_mut("FORWARD")
            .unwrap()
            .remove(2);
        let delta = Delta::between(&found, &wanted);
        let changes = &delta.tables[&TableName::Filter];
        assert_eq!(
            (delta.tables.len(), changes.unjumps.len(), changes.jumps.len()),
            (1, 3, 4)
        );
    }

    #[test]
    fn onto_a_kernel_without_ours_is_the_same_change_and_the_same_knowledge() {
        let wanted = fixed::base(&crate::model::ProxyConfig::defaults(labkit::xtables::Family::V4));
        let foreign = super::super::parse::parse(
            "*nat\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n-A OUTPUT -j DOCKER\n-A DOCKER -j RETURN\nCOMMIT\n",
        )
        .unwrap();
        let between = Delta::between(&foreign, &wanted);
        assert_eq!(Delta::onto(&foreign, wanted.clone()), (between.clone(), None));
        let (mut taken, mut applied, mut become_as) = (foreign.clone(), foreign.clone(), foreign);
        taken.take_over(between.clone());
        applied.apply(&between);
        become_as.become_as(wanted.clone(), &between);
        assert_eq!((&taken, &taken), (&applied, &become_as));
        // What is ours already is not made again.
        assert_eq!(
            Delta::onto(&taken, wanted.clone()),
            (Delta::default(), Some(wanted))
        );
    }

    #[test]
    fn a_foreign_rule_that_leads_to_us_is_told_and_not_removed() {
        let found = super::super::parse::parse(
            "*nat\n:OUTPUT ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n-A OUTPUT -d 10.0.0.1/32 -j KUBE-SERVICES\nCOMMIT\n",
        )
        .unwrap();
        assert_eq!(
            Delta::removal(&found).unwrap_err(),
            vec!["-t nat -A OUTPUT -d 10.0.0.1 -j KUBE-SERVICES"]
        );
    }
}
