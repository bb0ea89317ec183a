//! `iptables-save -c` → rules and how often each was hit.

use std::collections::BTreeMap;

use crate::rules::parse::{DumpError, Reader};
use crate::rules::set::{Found, TableName};

/// Rules, with the packets that each has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// The rules.
    pub found: Found,
    hits: BTreeMap<(TableName, String), Vec<u64>>,
}

impl Counted {
    /// How many packets a rule has matched; `index` from 0.
    pub fn hits(&self, table: TableName, chain: &str, index: usize) -> u64 {
        let hits = self.hits.get(&(table, chain.to_string()));
        hits.and_then(|hits| hits.get(index)).copied().unwrap_or(0)
    }
}

/// Reads line by line what `iptables-save -c` prints.
pub struct CountedReader<'a> {
    rules: Reader<'a>,
    table: Option<TableName>,
    hits: BTreeMap<(TableName, String), Vec<u64>>,
}

impl<'a> CountedReader<'a> {
    /// `like`: rules that most of it is likely to be the same as.
    pub fn new(like: Option<&'a Found>) -> Self {
        Self {
            rules: Reader::new(like),
            table: None,
            hits: BTreeMap::new(),
        }
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// When no iptables prints such a line.
    pub fn line(&mut self, line: &str) -> Result<(), DumpError> {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('*') {
            self.table = TableName::parse(name);
        }
        if let (Some(table), Some((hits, chain))) = (self.table, counted(line)) {
            self.hits
                .entry((table, chain.to_string()))
                .or_default()
                .push(hits);
        }
        self.rules.line(line)
    }

    /// All that was read.
    ///
    /// # Errors
    /// When it ends inside a table.
    pub fn finish(self) -> Result<Counted, DumpError> {
        Ok(Counted {
            found: self.rules.finish()?,
            hits: self.hits,
        })
    }
}

/// `[12:345] -A CHAIN …`: the packets and the chain.
fn counted(line: &str) -> Option<(u64, &str)> {
    let (counts, rule) = line.strip_prefix('[')?.split_once(']')?;
    let hits = counts.split_once(':')?.0.parse().ok()?;
    let words = rule.trim_start().strip_prefix("-A ")?;
    Some((hits, words.split_whitespace().next()?))
}

/// Reads a whole dump.
///
/// # Errors
/// The first line that no iptables prints.
pub fn parse(dump: &str) -> Result<Counted, DumpError> {
    let mut reader = CountedReader::new(None);
    dump.lines().try_for_each(|line| reader.line(line))?;
    reader.finish()
}
