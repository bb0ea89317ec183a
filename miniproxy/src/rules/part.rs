//! What one service port contributes to the rules: its own chains, and its rules in shared ones.

use std::collections::BTreeMap;

use super::rule::Rule;
use super::set::TableName;
use super::view::Holder;

/// The rules of one service port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// Chains of the table nat that only this service port has, each with its rules.
    pub own: Vec<(String, Vec<Rule>)>,
    /// Rules in chains that all service ports share, in order.
    pub shared: Vec<(TableName, &'static str, Rule)>,
}

impl Part {
    /// The rules of a chain of its own, made empty if it is not there yet.
    pub fn chain(&mut self, name: String) -> &mut Vec<Rule> {
        let known = self.own.iter().rposition(|(known, _)| *known == name);
        let index = known.unwrap_or_else(|| {
            self.own.push((name, Vec::new()));
            self.own.len() - 1
        });
        &mut self.own[index].1
    }

    /// Adds a rule to a shared chain.
    pub fn share(&mut self, table: TableName, chain: &'static str, rule: Rule) {
        self.shared.push((table, chain, rule));
    }
}

/// The rules of some service ports where they stand, to be looked up by chain: a Service may have ten
/// thousand chains.
pub struct ByChain<'a> {
    own: BTreeMap<&'a str, &'a [Rule]>,
    shared: Vec<&'a (TableName, &'static str, Rule)>,
}

impl<'a> ByChain<'a> {
    /// Copies no rule.
    pub fn of(parts: impl Iterator<Item = &'a Part> + Clone) -> Self {
        let own = parts.clone().flat_map(|part| &part.own);
        Self {
            own: own
                .map(|(chain, rules)| (chain.as_str(), rules.as_slice()))
                .collect(),
            shared: parts.flat_map(|part| &part.shared).collect(),
        }
    }
}

impl Holder for ByChain<'_> {
    fn rules<'a>(&'a self, table: TableName, chain: &'a str) -> impl Iterator<Item = &'a Rule> {
        let own = self.own.get(chain).filter(|_| table == TableName::Nat);
        // No chain is both.
        let shared = if own.is_some() { &[][..] } else { &self.shared };
        let shared = shared
            .iter()
            .filter(move |(within, known, _)| *within == table && *known == chain);
        let own = own.into_iter().flat_map(|rules| rules.iter());
        own.chain(shared.map(|(_, _, rule)| rule))
    }
}
