//! Rules as people have them: whole, pasted, cut off, with a prompt above and another dump below.
//!
//! Read as liberally as possible, and without claims that the text does not bear: where something
//! is missing, a rule that nobody can judge stands in its place ([`super::trace`] then tells a doubt).
//! Wrapped lines, line numbers and typographers' quotes are put right by [`mended`] before.
//! Kernels are written to by [`super::dump`], which takes nothing but a whole dump.

use std::collections::{BTreeMap, BTreeSet};

use labkit::xtables::Family;

use super::set::{Found, TableName};
use super::trace::{Place, Verdict};
use reader::Reader;

mod assemble;
mod fragment;
mod guess;
mod mend;
mod other;
mod reader;
#[cfg(test)]
mod tests;
mod wrapped;

pub use mend::{mended, text_of};
pub use other::{compressed, something_else};

/// The rules of one family, with the very lines they were read from.
#[derive(Debug, Clone, Default)]
pub struct Pasted<'t> {
    /// The rules.
    pub found: Found,
    /// Policies of built-in chains, where they do not accept.
    pub policies: BTreeMap<(TableName, String), Verdict>,
    /// Tables with rules that nobody walks.
    pub other_tables: BTreeSet<String>,
    /// Tables of which rules are missing: the end, or lines left out.
    pub cut: BTreeSet<TableName>,
    /// All of the filter table is here, but for what [`Self::cut`] says.
    pub has_filter: bool,
    /// Other rules of the same node stand beside these and are not walked: those of the other iptables.
    pub beside: bool,
    /// The nat table is a few of its rules, without its built-in chains.
    pub is_fragment: bool,
    /// Who, by the looks of the rules, sends packets to pods by other means than these.
    pub elsewhere: Option<&'static str>,
    lines: BTreeMap<TableName, BTreeMap<String, Vec<&'t str>>>,
}

impl<'t> Pasted<'t> {
    /// Whether rules that this node has are known to be missing here.
    pub fn is_in_part(&self) -> bool {
        !self.cut.is_empty() || self.is_fragment || self.beside
    }

    /// The line that a rule was read from, without its counters.
    pub fn line(&self, place: &Place) -> Option<&'t str> {
        Some(without_counters(self.raw(place)?).1)
    }

    /// How many packets a rule has met, where the dump has counters.
    pub fn packets(&self, place: &Place) -> Option<u64> {
        without_counters(self.raw(place)?).0
    }

    /// How many rules a chain has.
    pub fn length(&self, table: TableName, chain: &str) -> usize {
        let lines = self.lines.get(&table).and_then(|chains| chains.get(chain));
        lines.map_or(0, Vec::len)
    }

    fn raw(&self, place: &Place) -> Option<&'t str> {
        let chain = self
            .lines
            .get(&TableName::walked(place.table)?)?
            .get(&place.chain)?;
        chain.get(place.number?.checked_sub(1)?).copied()
    }
}

/// All that a text says.
#[derive(Debug, Clone, Default)]
pub struct Reading<'t> {
    /// By family.
    pub families: BTreeMap<Family, Pasted<'t>>,
    /// How many rules there are.
    pub rules: usize,
    /// What the reader should know of the text: `3 lines were not rules`.
    pub notes: Vec<String>,
    /// Not even a table's or a chain's name was found.
    pub is_nothing: bool,
}

/// Reads a text.
pub fn read(text: &str) -> Reading<'_> {
    let mut reader = Reader::new(text);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let whole = lines.peek().is_some() || text.ends_with('\n');
        reader.line(line, whole);
    }
    reader.finish()
}

/// Stands where a line is that cannot be read.
pub const UNREADABLE: &str = "(a line that cannot be read)";
/// Stands where the rest of a table is missing.
pub const CUT: &str = "(the dump is cut off here)";
/// Stands where lines were left out.
pub const LEFT_OUT: &str = "(lines are left out here)";

fn without_counters(line: &str) -> (Option<u64>, &str) {
    let Some((counters, rest)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) else {
        let behind = line
            .split_once(" -c ")
            .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        return (behind, line);
    };
    let packets = counters
        .split(':')
        .next()
        .and_then(|packets| packets.parse().ok());
    (packets, rest.trim_start())
}
