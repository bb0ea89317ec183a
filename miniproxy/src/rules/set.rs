//! Tables of chains of rules, as wanted or as found.

use std::collections::BTreeMap;

use super::part::Part;
use super::rule::Rule;

/// A table of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableName {
    /// Where packets are let through, dropped or rejected.
    Filter,
    /// Where addresses are rewritten, at the first packet of a connection.
    Nat,
    /// Here only for the canary.
    Mangle,
    /// Before connections are tracked; kube-proxy has nothing here.
    Raw,
    /// After filter; kube-proxy has nothing here.
    Security,
}

impl TableName {
    /// The three that kube-proxy writes to, in the order in which they are written.
    pub const ALL: [Self; 3] = [Self::Mangle, Self::Filter, Self::Nat];

    /// All that a packet walks through.
    pub const WALKED: [Self; 5] = [Self::Raw, Self::Mangle, Self::Nat, Self::Filter, Self::Security];

    /// `nat`
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Mangle => "mangle",
            Self::Raw => "raw",
            Self::Security => "security",
        }
    }

    /// The table of that name, of all that a packet walks through.
    pub fn walked(name: &str) -> Option<Self> {
        Self::WALKED.into_iter().find(|table| table.name() == name)
    }

    /// The table of that name, of those that kube-proxy writes to.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }
}

/// Chains by name, each with its rules in order.
pub type Chains = BTreeMap<String, Vec<Rule>>;

/// A rule that leads from a built-in chain into one of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jump {
    /// The table.
    pub table: TableName,
    /// The built-in chain.
    pub from: &'static str,
    /// The rule.
    pub rule: Rule,
}

/// Everything one IP family should have in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Our chains of each table.
    pub tables: BTreeMap<TableName, Chains>,
    /// The jumps in the order in which they are inserted, each at the head of its chain.
    pub jumps: Vec<Jump>,
}

impl Wanted {
    /// The rules of a chain, made empty if it is not there yet.
    pub fn chain(&mut self, table: TableName, name: &str) -> &mut Vec<Rule> {
        self.tables
            .entry(table)
            .or_default()
            .entry(name.to_string())
            .or_default()
    }

    /// Adds the rules of a service port.
    pub fn add(&mut self, part: &Part) {
        self.add_shared(part);
        let nat = self.tables.entry(TableName::Nat).or_default();
        nat.extend(part.own.iter().cloned());
    }

    /// Adds chains of service ports, of which there may be a hundred thousand: the map is made at once
    /// from all of them, not chain by chain.
    pub fn add_own(&mut self, own: impl IntoIterator<Item = (String, Vec<Rule>)>) {
        let nat = self.tables.entry(TableName::Nat).or_default();
        let mut all: Vec<_> = std::mem::take(nat).into_iter().chain(own).collect();
        // The map sorts too, but it would look for each name where that is in memory.
        all.sort_by_cached_key(|(name, _)| beginning(name));
        *nat = all.into_iter().collect();
    }

    /// Adds its rules in shared chains only.
    pub fn add_shared(&mut self, part: &Part) {
        for (table, chain, rule) in &part.shared {
            let chains = self.tables.entry(*table).or_default();
            match chains.get_mut(*chain) {
                Some(rules) => rules.push(rule.clone()),
                None => drop(chains.insert((*chain).to_string(), vec![rule.clone()])),
            }
        }
    }

    /// All rules of one table's chains, counted.
    pub fn rule_count(&self, table: TableName) -> usize {
        self.tables
            .get(&table)
            .map_or(0, |chains| chains.values().map(Vec::len).sum())
    }
}

/// The first bytes of a name, padded; names of chains are no longer.
fn beginning(name: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bytes
}

/// What a dump says is there: our chains, everybody else's, and the built-in ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Chains of each table that kube-proxy uses; other tables are passed over.
    pub tables: BTreeMap<TableName, Chains>,
}

impl Found {
    /// The rules of a chain, if it is there.
    pub fn chain(&self, table: TableName, name: &str) -> Option<&[Rule]> {
        Some(self.tables.get(&table)?.get(name)?.as_slice())
    }
}

impl From<&Wanted> for Found {
    /// What a kernel that had nothing would show after everything wanted was written.
    fn from(wanted: &Wanted) -> Self {
        let mut tables = wanted.tables.clone();
        for jump in &wanted.jumps {
            let chain = tables
                .entry(jump.table)
                .or_default()
                .entry(jump.from.to_string())
                .or_default();
            chain.insert(0, jump.rule.clone());
        }
        Self { tables }
    }
}
