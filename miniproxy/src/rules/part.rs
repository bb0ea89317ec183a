//! What one service port contributes to the rules: its own chains, and its rules in shared ones.

use super::rule::Rule;
use super::set::TableName;

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
