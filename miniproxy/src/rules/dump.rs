//! The lines of a dump → tables and chains; what a rule says is read by [`super::parse`].

use super::parse::rule_line;
use super::rule::Rule;
use super::set::{Found, TableName};

/// A line of a dump that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct DumpError {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// Reads a dump; tables that kube-proxy does not use are passed over.
///
/// # Errors
/// The first line that no iptables prints, or a dump that ends inside a table.
pub fn parse(dump: &str) -> Result<Found, DumpError> {
    let mut reader = Reader::new(None);
    for line in dump.lines() {
        reader.line(line)?;
    }
    reader.finish()
}

/// Reads a dump line by line.
pub struct Reader<'a> {
    found: Found,
    place: Place,
    line: usize,
    /// What is likely to be there: a rule that is the same is shared, and kept once.
    like: Option<&'a Found>,
}

/// Where the next line stands.
#[derive(Clone, Copy)]
enum Place {
    Outside,
    /// In a table that kube-proxy does not use.
    PassedOver,
    In(TableName),
}

impl<'a> Reader<'a> {
    /// `like`: a rule set that much of the dump is likely to be the same as.
    pub fn new(like: Option<&'a Found>) -> Self {
        Self {
            found: Found::default(),
            place: Place::Outside,
            line: 0,
            like,
        }
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// When no iptables prints such a line.
    pub fn line(&mut self, line: &str) -> Result<(), DumpError> {
        self.line += 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(name) = line.strip_prefix('*') {
            self.place = TableName::parse(name).map_or(Place::PassedOver, Place::In);
            if let Place::In(name) = self.place {
                self.found.tables.entry(name).or_default();
            }
            return Ok(());
        }
        let current = match self.place {
            Place::In(table) => Some(table),
            Place::PassedOver => None,
            Place::Outside => {
                return Err(self.wrong("a line outside of any table; expected *nat or the like"));
            }
        };
        if line == "COMMIT" {
            self.place = Place::Outside;
        } else if let Some(chain) = line.strip_prefix(':') {
            let Some(name) = chain.split_whitespace().next() else {
                return Err(self.wrong("a chain without a name"));
            };
            if let Some(table) = current {
                let chains = self.found.tables.entry(table).or_default();
                chains.entry(name.to_string()).or_default();
            }
        } else if let Some(table) = current {
            let Some((chain, rule)) = rule_line(line) else {
                return Err(self.wrong("neither a chain, a rule, nor COMMIT"));
            };
            self.add(table, chain, rule);
        }
        Ok(())
    }

    fn add(&mut self, table: TableName, chain: String, rule: Rule) {
        let like = self
            .like
            .and_then(|like| like.chain(table, &chain))
            .unwrap_or_default();
        let rules = self
            .found
            .tables
            .entry(table)
            .or_default()
            .entry(chain)
            .or_default();
        let known = like.get(rules.len()).filter(|known| **known == rule);
        rules.push(known.cloned().unwrap_or(rule));
    }

    fn wrong(&self, what: &str) -> DumpError {
        DumpError {
            line: self.line,
            what: what.to_string(),
        }
    }

    /// All that was read.
    ///
    /// # Errors
    /// When the dump ends inside a table.
    pub fn finish(self) -> Result<Found, DumpError> {
        if !matches!(self.place, Place::Outside) {
            return Err(self.wrong("the dump ends inside a table; expected COMMIT"));
        }
        Ok(self.found)
    }
}
