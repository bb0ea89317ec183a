//! A change as text for `iptables-restore`: one document, or several where it is large.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::ops::Range;

use super::delta::{Delta, TableDelta};
use super::edit::Edit;
use super::fixed;
use super::name::ChainKind;
use super::rule::Rule;
use super::set::TableName;
use super::text::{append_line, rule_text};
use crate::spread;

/// How much one document may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// New chains.
    pub chains: usize,
    /// Rules in new chains.
    pub rules: usize,
}

/// In which order chains are named in a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainOrder {
    /// Those of Services by name, behind the fixed ones. iptables-nft-restore 1.8 is quadratic in chain lines that are not.
    Rising,
    /// By name, from the last to the first. libiptc, which iptables-legacy is made of, keeps chains sorted
    /// in buckets and walks the last bucket for each that comes behind it: this takes a sixth less. And
    /// libxtables looks for a jump's chain among all names that it saw, from the last one back: so
    /// `KUBE-MARK-MASQ`, where every second rule leads to, is best named late.
    Falling,
}

impl Limit {
    /// All in one document.
    pub const NONE: Self = Self {
        chains: usize::MAX,
        rules: usize::MAX,
    };
}

/// The order in which kube-proxy writes its tables.
const SHOWN: [TableName; 3] = [TableName::Mangle, TableName::Filter, TableName::Nat];
/// The order in which they are sent. Each table is taken whole or not at all, and what a host may lack
/// (xt_statistic, xt_recent) only nat asks for: where that is refused, nothing is written.
const SENT: [TableName; 3] = [TableName::Nat, TableName::Filter, TableName::Mangle];

/// A new chain, or so many of its rules.
type Piece<'a> = (&'a str, Range<usize>);

/// One `iptables-restore --noflush` document. It is text where it is displayed and not before: a large
/// one need not be in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document<'a>(Content<'a>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content<'a> {
    /// These parts of new chains of nat, in this order.
    Early(&'a Delta, &'a [Piece<'a>]),
    /// All but these chains of nat, which are made already.
    Rest {
        delta: &'a Delta,
        done: &'a BTreeSet<&'a str>,
        tables: [TableName; 3],
        order: ChainOrder,
    },
}

impl Document<'_> {
    /// How many transactions it is: each table is one.
    pub fn transactions(&self) -> usize {
        match &self.0 {
            Content::Early(..) => 1,
            Content::Rest { delta, tables, .. } => tables
                .iter()
                .filter(|table| delta.tables.contains_key(table))
                .count(),
        }
    }
}

impl fmt::Display for Document<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Content::Early(delta, pieces) => delta.write_early(f, pieces),
            Content::Rest {
                delta,
                done,
                tables,
                order,
            } => delta.write_rest(f, done, *tables, *order),
        }
    }
}

/// A change as several documents.
#[derive(Debug)]
pub struct Documents<'a> {
    delta: &'a Delta,
    parts: Vec<Vec<Piece<'a>>>,
    done: BTreeSet<&'a str>,
    order: ChainOrder,
}

impl Documents<'_> {
    /// How many there are: one at least.
    pub fn count(&self) -> usize {
        self.parts.len() + 1
    }

    /// Each of them, in the order in which they are to be sent.
    pub fn iter(&self) -> impl Iterator<Item = Document<'_>> {
        let early = self.parts.iter().map(|pieces| Content::Early(self.delta, pieces));
        let last = Content::Rest {
            delta: self.delta,
            done: &self.done,
            tables: SENT,
            order: self.order,
        };
        early.chain([last]).map(Document)
    }
}

impl Delta {
    /// The `iptables-restore --noflush` document: one transaction for each table.
    pub fn document(&self) -> String {
        Document(Content::Rest {
            delta: self,
            done: &BTreeSet::new(),
            tables: SHOWN,
            order: ChainOrder::Rising,
        })
        .to_string()
    }

    fn write_rest(
        &self,
        to: &mut dyn Write,
        done: &BTreeSet<&str>,
        tables: [TableName; 3],
        order: ChainOrder,
    ) -> fmt::Result {
        let none = BTreeSet::new();
        for table in tables {
            if let Some(changes) = self.tables.get(&table) {
                // Chains of the same name are in other tables, too.
                let done = if table == TableName::Nat { done } else { &none };
                write_table(to, table, changes, done, order)?;
            }
        }
        Ok(())
    }

    /// The same change as several documents, none of them making more than `limit` at once where
    /// that can be helped.
    ///
    /// New chains of Services come first: nothing leads to them, so no packet sees them. The last
    /// document hooks all of them in at once; traffic sees the old world, then the new one. A crash
    /// in between leaves chains that the next sync finds in place.
    ///
    /// Two costs of iptables-nft 1.8 decide the rest. Its restore walks a list of the document's new
    /// chains for each new chain, so documents are short. Its save sorts what it finds by a
    /// quicksort that takes the first element as pivot, and the kernel keeps the order in which
    /// chains were made, so they are made in the order of their names read backwards, which are
    /// hashes: with 20,000 sorted chains every later `iptables-save` takes 6 s, with these 0.6 s.
    pub fn documents(&self, limit: Limit, order: ChainOrder) -> Documents<'_> {
        let parts = self.early_parts(limit);
        Documents {
            delta: self,
            done: parts.iter().flatten().map(|(chain, _)| *chain).collect(),
            parts,
            order,
        }
    }

    /// What is made before all is hooked in, a document each; nothing where it all fits into one.
    fn early_parts(&self, limit: Limit) -> Vec<Vec<Piece<'_>>> {
        if limit == Limit::NONE {
            return Vec::new();
        }
        let mut early = self.unseen_chains();
        // Those lead to all others, and hold a rule for each Service.
        let shared = [fixed::NODE_PORTS, fixed::SERVICES];
        if self.rules_of(fixed::SERVICES).len() > limit.rules {
            early.extend(shared.iter().filter(|chain| self.is_new(chain)));
        }
        let rules: usize = early.iter().map(|chain| self.rules_of(chain).len()).sum();
        if early.len() <= limit.chains && rules <= limit.rules {
            return Vec::new();
        }
        let mut parts = Vec::new();
        if self.is_new(fixed::MARK_MASQ) {
            parts.push(vec![(fixed::MARK_MASQ, 0..self.rules_of(fixed::MARK_MASQ).len())]);
        }
        let (mut part, mut held) = (Vec::new(), 0);
        for chain in early {
            let all = self.rules_of(chain).len();
            let mut from = 0_usize;
            loop {
                let to = all.min(from.saturating_add(limit.rules.max(1)));
                let full = part.len() >= limit.chains || held + (to - from) > limit.rules.max(1);
                if full && !part.is_empty() {
                    parts.push(std::mem::take(&mut part));
                    held = 0;
                }
                part.push((chain, from..to));
                held += to - from;
                from = to;
                if from == all {
                    break;
                }
            }
        }
        parts.push(part);
        parts
    }

    /// The rules of a chain of nat that is made or written anew.
    fn rules_of(&self, chain: &str) -> &[Rule] {
        let nat = self.tables.get(&TableName::Nat);
        nat.and_then(|nat| nat.rewritten.get(chain))
            .map_or(&[], Vec::as_slice)
    }

    /// New chains of Services: each after all that it leads to.
    fn unseen_chains(&self) -> Vec<&str> {
        let nat = self.tables.get(&TableName::Nat);
        let made = nat.into_iter().flat_map(TableDelta::made);
        let mut chains: Vec<_> = made
            .filter_map(|chain| Some((ChainKind::of(chain)?, chain.as_str())))
            .collect();
        // Names that end alike are rare, so this compares a byte or two.
        chains.sort_unstable_by(|(kind, chain), (other_kind, other)| {
            let rank = |kind: &ChainKind| (*kind != ChainKind::Endpoint, *kind);
            let kinds = rank(kind).cmp(&rank(other_kind));
            kinds.then_with(|| chain.bytes().rev().cmp(other.bytes().rev()))
        });
        chains.into_iter().map(|(_, chain)| chain).collect()
    }

    fn is_new(&self, chain: &str) -> bool {
        let nat = self.tables.get(&TableName::Nat);
        nat.is_some_and(|nat| nat.is_made(chain))
    }

    fn write_early(&self, to: &mut dyn Write, pieces: &[Piece<'_>]) -> fmt::Result {
        to.write_str("*nat\n")?;
        for (name, _) in pieces.iter().filter(|(_, part)| part.start == 0) {
            writeln!(to, ":{name} - [0:0]")?;
        }
        let mut rules = String::new();
        for (name, part) in pieces {
            for rule in self.rules_of(name).get(part.clone()).unwrap_or_default() {
                append_line(&mut rules, name, rule);
            }
        }
        to.write_str(&rules)?;
        to.write_str("COMMIT\n")
    }
}

fn write_table(
    to: &mut dyn Write,
    table: TableName,
    changes: &TableDelta,
    done: &BTreeSet<&str>,
    order: ChainOrder,
) -> fmt::Result {
    writeln!(to, "*{}", table.name())?;
    for chain in chain_lines(table, changes, done, order) {
        writeln!(to, ":{chain} - [0:0]")?;
    }
    write_chains(to, changes, done)?;
    for (chain, edits) in &changes.edited {
        for edit in edits {
            match edit {
                Edit::Delete(number) => writeln!(to, "-D {chain} {number}"),
                // Without a number iptables need not list the chain to find the place.
                Edit::Insert(1, rule) => writeln!(to, "-I {chain} {}", rule_text(rule)),
                Edit::Insert(number, rule) => writeln!(to, "-I {chain} {number} {}", rule_text(rule)),
            }?;
        }
    }
    for (chain, rule) in &changes.unjumps {
        writeln!(to, "-D {chain} {}", rule_text(rule))?;
    }
    for (chain, rule) in &changes.jumps {
        writeln!(to, "-I {chain} {}", rule_text(rule))?;
    }
    for chain in &changes.removed {
        writeln!(to, "-X {chain}")?;
    }
    to.write_str("COMMIT\n")
}

/// Chains that one processor writes in one go.
const CHAINS_AT_ONCE: usize = 64;
/// As many times that are held as text.
const GOES: usize = 128;

fn write_chains(to: &mut dyn Write, changes: &TableDelta, done: &BTreeSet<&str>) -> fmt::Result {
    let chains = changes.rewritten.iter();
    let chains: Vec<_> = chains
        .filter(|(chain, _)| !done.contains(chain.as_str()))
        .collect();
    let goes: Vec<_> = chains.chunks(CHAINS_AT_ONCE).collect();
    for some in goes.chunks(GOES) {
        let lines = |chains: &&[(&String, &Vec<Rule>)]| {
            let mut lines = String::new();
            for (chain, rules) in *chains {
                rules.iter().for_each(|rule| append_line(&mut lines, chain, rule));
            }
            lines
        };
        for lines in spread::map(some, lines) {
            to.write_str(&lines)?;
        }
    }
    Ok(())
}

/// A chain line makes or empties a chain. Rising, the fixed ones come first, in kube-proxy's order; falling,
/// they stand among the others.
fn chain_lines<'a>(
    table: TableName,
    changes: &'a TableDelta,
    done: &BTreeSet<&str>,
    order: ChainOrder,
) -> Vec<&'a str> {
    let fixed = fixed::chains(table);
    let emptied = |chain: &str| changes.rewritten.contains_key(chain) || changes.removed.contains(chain);
    let mut lines: Vec<&str> = fixed
        .iter()
        .copied()
        .filter(|chain| emptied(chain) && !done.contains(chain))
        .collect();
    let others = changes
        .rewritten
        .keys()
        .chain(&changes.removed)
        .map(String::as_str);
    let mut others: Vec<&str> = others
        .filter(|chain| !fixed.contains(chain) && !done.contains(chain))
        .collect();
    if order == ChainOrder::Rising {
        // Both are sorted, so this is one merge.
        others.sort_unstable();
    }
    lines.extend(others);
    if order == ChainOrder::Falling {
        lines.sort_unstable_by(|one, other| other.cmp(one));
    }
    lines
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::rules::parse::parse;
    use crate::rules::set::{Found, Wanted};

    /// Two Services with an endpoint each.
    pub(in super::super) fn found() -> Found {
        let mut text =
            String::from("*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n");
        let (a, b) = ("AAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBB");
        for name in [a, b] {
            text += &format!(":KUBE-SVC-{name} - [0:0]\n:KUBE-SEP-{name} - [0:0]\n");
        }
        text += "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n";
        for name in [a, b] {
            text += &format!(
                "-A KUBE-SERVICES -j KUBE-SVC-{name}\n-A KUBE-SVC-{name} -j KUBE-SEP-{name}\n-A KUBE-SEP-{name} -j KUBE-MARK-MASQ\n"
            );
        }
        parse(&(text + "COMMIT\n")).unwrap()
    }

    #[test]
    fn what_a_host_may_lack_is_asked_for_first() {
        let wanted = fixed::base(&crate::model::ProxyConfig::defaults(labkit::xtables::Family::V4));
        let delta = Delta::from_nothing(wanted);
        let tables = |text: &str| {
            let heads = text
                .lines()
                .filter_map(|line| line.strip_prefix('*'))
                .map(String::from);
            heads.collect::<Vec<_>>()
        };
        assert_eq!(tables(&delta.document()), ["mangle", "filter", "nat"]);
        let sent = delta.documents(Limit::NONE, ChainOrder::Rising);
        let sent: Vec<String> = sent.iter().map(|document| document.to_string()).collect();
        assert_eq!(tables(&sent[0]), ["nat", "filter", "mangle"]);
    }

    #[test]
    fn chains_are_named_from_the_first_to_the_last_or_back() {
        let delta = Delta::between(
            &Found::default(),
            &Wanted {
                tables: found().tables,
                jumps: Vec::new(),
            },
        );
        let named = |order| {
            let documents = delta.documents(Limit::NONE, order);
            let text: String = documents.iter().map(|document| document.to_string()).collect();
            let names = text.lines().filter(|line| line.starts_with(":KUBE"));
            names.map(String::from).collect::<Vec<_>>()
        };
        let of_services = |line: &String| line.starts_with(":KUBE-S") && !line.contains("SERVICES");
        let mut rising = named(ChainOrder::Rising);
        rising.retain(of_services);
        assert!(rising.is_sorted() && rising.len() == 4, "{rising:?}");
        let falling = named(ChainOrder::Falling);
        assert!(falling.is_sorted_by(|one, other| one > other), "{falling:?}");
        assert_eq!(falling.iter().filter(|line| of_services(line)).count(), 4);
        assert_eq!(
            falling.last().map(String::as_str),
            Some(":KUBE-MARK-MASQ - [0:0]")
        );
    }

    #[test]
    fn a_document_knows_how_many_transactions_it_is() {
        let wanted = fixed::base(&crate::model::ProxyConfig::defaults(labkit::xtables::Family::V4));
        for limit in [Limit::NONE, Limit { chains: 1, rules: 1 }] {
            for delta in [
                Delta::from_nothing(wanted.clone()),
                Delta::removal(&found()).unwrap(),
            ] {
                for document in delta.documents(limit, ChainOrder::Rising).iter() {
                    let text = document.to_string();
                    assert_eq!(
                        document.transactions(),
                        text.matches("COMMIT\n").count(),
                        "{text}"
                    );
                }
            }
        }
    }
}
