//! Rules as people have them: whole, pasted, cut off, with a prompt above and another dump below.
//!
//! Read as liberally as possible, and without claims that the text does not bear: where something
//! is missing, a rule that nobody can judge stands in its place ([`super::trace`] then tells a doubt).
//! Kernels are written to by [`super::dump`], which takes nothing but a whole dump.

use std::collections::{BTreeMap, BTreeSet};

use labkit::text::count;
use labkit::xtables::Family;

use super::parse::rule_line;
use super::rule::{Clauses, Match, Rule, Target};
use super::set::{Chains, Found, TableName};
use super::trace::{Place, Verdict};

/// The rules of one family, with the very lines they were read from.
#[derive(Debug, Clone, Default)]
pub struct Pasted<'t> {
    /// The rules.
    pub found: Found,
    /// Policies of built-in chains, where they do not accept.
    pub policies: BTreeMap<(TableName, String), Verdict>,
    /// Tables with rules that nobody walks: `raw`, `security`.
    pub other_tables: BTreeSet<String>,
    /// Tables whose end is missing.
    pub cut: BTreeSet<TableName>,
    lines: BTreeMap<TableName, BTreeMap<String, Vec<&'t str>>>,
}

impl<'t> Pasted<'t> {
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
            .get(&TableName::parse(place.table)?)?
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
    let mut reader = Reader::default();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let whole = lines.peek().is_some() || text.ends_with('\n');
        reader.line(line, whole);
    }
    reader.finish()
}

/// What a text is that holds no rule at all, and what to do; `None` when nothing is known of it.
pub fn something_else(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return Some("it is compressed: gunzip it first");
    }
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]);
    if text.contains("Chain ") && text.contains("target") && text.contains("prot") {
        return Some("iptables -L leaves out half of each rule: save them with iptables-save");
    }
    if text.contains("chain ") && text.contains("table ") && text.contains('{') {
        return Some("this is how nft prints rules: save them with iptables-save");
    }
    if text.trim_start().starts_with(['{', '[']) {
        return Some("this is JSON: a registry is given by --registry");
    }
    None
}

/// Stands where a line is that cannot be read.
pub const UNREADABLE: &str = "(a line that cannot be read)";
/// Stands where the rest of a table is missing.
pub const CUT: &str = "(the dump is cut off here)";

#[derive(Debug)]
struct Section<'t> {
    /// `None` for rules without a table's name, as `iptables -S` prints them.
    table: Option<String>,
    /// Chains in the order in which they are named, with their policies.
    chains: Vec<(&'t str, Option<Verdict>)>,
    rules: Vec<(String, &'t str, Rule)>,
    four: bool,
    six: bool,
}

#[derive(Debug, Default)]
struct Reader<'t> {
    reading: Reading<'t>,
    open: Option<Section<'t>>,
    header: Option<Family>,
    strange: usize,
    broken: usize,
    seen: bool,
    without_table: usize,
}

impl<'t> Reader<'t> {
    fn line(&mut self, line: &'t str, whole: bool) {
        // Mails and tickets quote.
        let line = line.trim().trim_start_matches(['>', '|']).trim_start();
        if line.is_empty() {
            return;
        }
        if let Some(comment) = line.strip_prefix('#') {
            self.comment(comment);
        } else if let Some(table) = line.strip_prefix('*').filter(|name| is_word(name)) {
            self.close(false);
            self.begin(Some(table));
        } else if line == "COMMIT" {
            self.close(true);
        } else if let Some(chain) = line.strip_prefix(':').or_else(|| line.strip_prefix("-N ")) {
            self.chain(chain);
        } else if let Some(policy) = line.strip_prefix("-P ") {
            // Where one table ends and the next one begins `iptables -S` does not say.
            if self
                .open
                .as_ref()
                .is_some_and(|open| open.table.is_none() && !open.rules.is_empty())
            {
                self.close(true);
            }
            self.chain(policy);
        } else if line.starts_with("-A ") || line.starts_with('[') {
            self.rule(line, whole);
        } else if line.starts_with("-I ") {
            self.inserted(line);
        } else {
            self.strange += 1;
        }
    }

    fn comment(&mut self, comment: &str) {
        if !comment.contains("tables-save") && !comment.contains("Generated by") {
            return;
        }
        self.close(false);
        self.header = Some(if comment.contains("ip6tables") {
            Family::V6
        } else {
            Family::V4
        });
    }

    fn begin(&mut self, table: Option<&str>) -> &mut Section<'t> {
        self.seen |= table.is_some();
        self.open.insert(Section {
            table: table.map(str::to_string),
            chains: Vec::new(),
            rules: Vec::new(),
            four: false,
            six: false,
        })
    }

    fn section(&mut self) -> &mut Section<'t> {
        if self.open.is_none() {
            self.begin(None);
        }
        self.open.get_or_insert_with(|| Section {
            table: None,
            chains: Vec::new(),
            rules: Vec::new(),
            four: false,
            six: false,
        })
    }

    fn chain(&mut self, words: &'t str) {
        let mut words = words.split_whitespace();
        let Some(name) = words.next() else {
            self.strange += 1;
            return;
        };
        self.seen = true;
        let policy = match words.next() {
            Some("DROP") => Some(Verdict::Drop),
            Some("ACCEPT") => Some(Verdict::Accept),
            _ => None,
        };
        self.section().chains.push((name, policy));
    }

    fn rule(&mut self, line: &'t str, whole: bool) {
        let open_end = self.open.as_ref().is_some_and(|open| open.table.is_some()) && !whole;
        let read = rule_line(line).filter(|_| !open_end);
        let (chain, rule) = match read {
            Some((chain, rule)) => (chain, without_kept_counters(rule)),
            None => match chain_of(line) {
                Some(chain) => {
                    self.broken += 1;
                    (chain.to_string(), unknown(&[UNREADABLE]))
                }
                None => {
                    self.strange += 1;
                    return;
                }
            },
        };
        self.seen = true;
        self.reading.rules += 1;
        let section = self.section();
        let (four, six) = families(&rule, line);
        section.four |= four;
        section.six |= six;
        section.rules.push((chain, line, rule));
    }

    /// `-I CHAIN`, as in what iptables-restore is given: the rule goes to the head of its chain.
    fn inserted(&mut self, line: &'t str) {
        let appended = format!("-A {}", line.trim_start_matches("-I "));
        let Some((chain, rule)) = rule_line(&appended) else {
            self.strange += 1;
            return;
        };
        // At another place than the head: nobody knows what the chain holds.
        let numbered = matches!(rule.matches.first(), Some(Match::Other(words)) if words.first().is_some_and(|word| word.parse::<usize>().is_ok()));
        let rule = if numbered { unknown(&[UNREADABLE]) } else { rule };
        self.seen = true;
        self.reading.rules += 1;
        let section = self.section();
        let head = section.rules.iter().position(|(name, _, _)| *name == chain);
        let place = head.unwrap_or(section.rules.len());
        section.rules.insert(place, (chain, line, rule));
    }

    fn close(&mut self, whole: bool) {
        let Some(mut section) = self.open.take() else {
            return;
        };
        let table = match &section.table {
            Some(name) => name.clone(),
            None => {
                self.without_table += 1;
                guessed_table(&section).name().to_string()
            }
        };
        let family = self.family(&section, &table);
        let pasted = self.reading.families.entry(family).or_default();
        let Some(name) = TableName::parse(&table) else {
            if !section.rules.is_empty() {
                pasted.other_tables.insert(table);
            }
            return;
        };
        if section.table.is_some() && !whole {
            cut_off(&mut section);
            pasted.cut.insert(name);
        }
        let twice = pasted
            .found
            .tables
            .get(&name)
            .is_some_and(|chains| !chains.is_empty());
        if twice && section.rules.is_empty() {
            return;
        }
        if twice {
            self.reading.notes.push(format!(
                "table {table} comes more than once for {}: the last one counts",
                family.name()
            ));
        }
        enter(pasted, name, section);
    }

    fn family(&self, section: &Section<'_>, table: &str) -> Family {
        match (section.four, section.six, self.header) {
            (false, true, _) => return Family::V6,
            (true, false, _) => return Family::V4,
            (_, _, Some(header)) => return header,
            _ => {}
        }
        let four = self.reading.families.get(&Family::V4);
        let there = TableName::parse(table)
            .is_some_and(|name| four.is_some_and(|four| four.found.tables.contains_key(&name)));
        if there { Family::V6 } else { Family::V4 }
    }

    fn finish(mut self) -> Reading<'t> {
        self.close(false);
        let mut reading = self.reading;
        reading.is_nothing = !self.seen;
        if self.strange > 0 {
            let were = if self.strange == 1 { "was" } else { "were" };
            reading
                .notes
                .push(format!("{} {were} not rules", count(self.strange, "line")));
        }
        if self.broken > 0 {
            reading.notes.push(format!(
                "{} cannot be read; what depends on them is told as a doubt",
                count(self.broken, "rule")
            ));
        }
        if self.without_table > 0 {
            reading
                .notes
                .push("rules without a table's name: the table is guessed from what they do".into());
        }
        for (family, pasted) in &reading.families {
            for table in &pasted.cut {
                reading.notes.push(format!(
                    "the end of table {} is missing ({}): rules after it are not known",
                    table.name(),
                    family.name()
                ));
            }
            for table in &pasted.other_tables {
                reading.notes.push(format!(
                    "the rules of table {table} are not walked ({})",
                    family.name()
                ));
            }
        }
        reading.notes.dedup();
        reading
    }
}

/// What stands in a table, put in place of what was known of it.
fn enter<'t>(pasted: &mut Pasted<'t>, table: TableName, section: Section<'t>) {
    let mut chains = Chains::new();
    let mut lines: BTreeMap<String, Vec<&'t str>> = BTreeMap::new();
    for (chain, policy) in section.chains {
        chains.entry(chain.to_string()).or_default();
        if let Some(policy) = policy {
            pasted.policies.insert((table, chain.to_string()), policy);
        }
    }
    for (chain, line, rule) in section.rules {
        match lines.get_mut(&chain) {
            Some(lines) => lines.push(line),
            None => drop(lines.insert(chain.clone(), vec![line])),
        }
        match chains.get_mut(&chain) {
            Some(rules) => rules.push(rule),
            None => drop(chains.insert(chain, vec![rule])),
        }
    }
    pasted.found.tables.insert(table, chains);
    pasted.lines.insert(table, lines);
}

/// Chains are printed one after the other: where the text ends, the last one may lack rules, and those
/// named after it have none yet.
fn cut_off(section: &mut Section<'_>) {
    let last = section.rules.last().map(|(chain, _, _)| chain.clone());
    if let Some((chain, _, rule)) = section.rules.last_mut()
        && rule.target.is_none()
    {
        *rule = unknown(&[UNREADABLE]);
        let _ = chain;
    }
    let from = last
        .as_ref()
        .and_then(|last| section.chains.iter().position(|(name, _)| name == last));
    let mut open: Vec<String> = section
        .chains
        .iter()
        .skip(from.unwrap_or(0))
        .map(|(name, _)| (*name).to_string())
        .collect();
    open.extend(last.filter(|_| from.is_none()));
    let end = Rule::from(Clauses {
        matches: Vec::new(),
        target: Some(Target::Other(vec!["-j".into(), "?".into()])),
    });
    section
        .rules
        .extend(open.into_iter().map(|chain| (chain, CUT, end.clone())));
}

/// Neither what it asks nor what it does is known.
fn unknown(words: &[&str]) -> Rule {
    Rule::from(Clauses {
        matches: vec![Match::Other(
            words.iter().map(|word| (*word).to_string()).collect(),
        )],
        target: Some(Target::Other(vec!["-j".into(), "?".into()])),
    })
}

/// `iptables -S -v` and some old versions print counters behind the rule: `-c 12 345`.
fn without_kept_counters(rule: Rule) -> Rule {
    let is_counter = |condition: &Match| matches!(condition, Match::Other(words) if matches!(words.as_slice(), [option, _, _] if option == "-c"));
    if !rule.matches.iter().any(is_counter) {
        return rule;
    }
    let matches = rule.matches.iter().filter(|condition| !is_counter(condition));
    Rule::from(Clauses {
        matches: matches.cloned().collect(),
        target: rule.target.clone(),
    })
}

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

fn chain_of(line: &str) -> Option<&str> {
    let words = without_counters(line).1.strip_prefix("-A ")?;
    words.split_whitespace().next()
}

fn is_word(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether a rule is one for IPv4, and for IPv6.
fn families(rule: &Rule, line: &str) -> (bool, bool) {
    let mut four = line.contains("icmp-port") || line.contains("-p icmp");
    let mut six = line.contains("icmp6-") || line.contains("ipv6-icmp");
    for condition in &rule.matches {
        if let Match::Address { network, .. } = condition {
            four |= network.addr().is_ipv4();
            six |= network.addr().is_ipv6();
        }
    }
    if let Some(Target::Dnat(to)) = &rule.target {
        six |= to.starts_with('[');
        four |= !to.starts_with('[');
    }
    (four, six)
}

/// Chains that only one table has, and targets that only it takes.
fn guessed_table(section: &Section<'_>) -> TableName {
    let named = section.chains.iter().map(|(name, _)| *name);
    let used = section.rules.iter().map(|(chain, _, _)| chain.as_str());
    let is_nat = |chain: &str| {
        matches!(
            chain,
            "PREROUTING" | "POSTROUTING" | "KUBE-MARK-MASQ" | "KUBE-POSTROUTING" | "KUBE-SERVICES"
        ) || ["KUBE-SVC-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-"]
            .iter()
            .any(|prefix| chain.starts_with(prefix))
    };
    let is_filter = |chain: &str| matches!(chain, "FORWARD" | "KUBE-FORWARD" | "KUBE-FIREWALL");
    let rewrites = |rule: &Rule| matches!(rule.target, Some(Target::Dnat(_) | Target::Masquerade { .. }));
    let all: Vec<&str> = named.chain(used).collect();
    if section.rules.iter().any(|(_, _, rule)| rewrites(rule)) {
        return TableName::Nat;
    }
    if all.iter().any(|chain| is_filter(chain)) || !all.iter().any(|chain| is_nat(chain)) {
        return TableName::Filter;
    }
    TableName::Nat
}

#[cfg(test)]
#[path = "pasted_tests.rs"]
mod tests;
