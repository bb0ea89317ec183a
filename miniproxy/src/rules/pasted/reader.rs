//! Line by line into sections, each of one table.

use labkit::text::count;
use labkit::xtables::{Family, Flavour};

use super::super::parse::rule_line;
use super::super::rule::{Clauses, Match, Rule, Target};
use super::super::set::TableName;
use super::super::trace::Verdict;
use super::guess::families;
use super::mend::unquoted;
use super::{CUT, LEFT_OUT, Reading, UNREADABLE, other, without_counters};

/// What stands between a table's name and its COMMIT.
#[derive(Debug, Default)]
pub(super) struct Section<'t> {
    /// `None` for rules without a table's name, as `iptables -S` prints them.
    pub(super) table: Option<String>,
    /// Chains in the order in which they are named, with their policies.
    pub(super) chains: Vec<(&'t str, Option<Verdict>)>,
    pub(super) rules: Vec<(String, &'t str, Rule)>,
    pub(super) four: bool,
    pub(super) six: bool,
    /// The family that the line above it names.
    pub(super) header: Option<Family>,
    /// Its COMMIT is there.
    pub(super) whole: bool,
    /// Lines are left out.
    pub(super) gaps: usize,
    /// Some of them where the built-in chains stand.
    pub(super) gap_in_head: bool,
    /// The iptables that the line above it names.
    pub(super) flavour: Option<Flavour>,
    /// Rules in it cannot be read.
    pub(super) broken: bool,
    /// The line it begins at.
    pub(super) line: usize,
}

impl Section<'_> {
    /// Few rules of a table, as `grep` finds them: without the built-in chains' policies.
    pub(super) fn is_fragment(&self) -> bool {
        self.table.is_none() && self.chains.iter().all(|(_, policy)| policy.is_none())
    }
}

/// Reads line by line.
#[derive(Debug, Default)]
pub(super) struct Reader<'t> {
    sections: Vec<Section<'t>>,
    open: Option<Section<'t>>,
    header: Option<Family>,
    flavour: Option<Flavour>,
    /// What comments say of rules that are not here.
    hidden: Vec<&'static str>,
    rules: usize,
    strange: usize,
    broken: usize,
    gap: bool,
    seen: bool,
    line: usize,
    /// The longest line: where rules are cut off, they are all as long as that.
    width: usize,
    /// So long, if some of the longest lines are no whole rules: none of them can be trusted then.
    cut_at: Option<usize>,
}

impl<'t> Reader<'t> {
    /// For this text.
    pub(super) fn new(text: &str) -> Self {
        let width = text.lines().map(str::len).max().unwrap_or(0);
        let longest = || text.lines().filter(|line| line.len() == width);
        let broken = longest().filter(|line| is_broken(unquoted(line))).count();
        Self {
            width,
            cut_at: (broken > 1 && longest().count() > 2).then_some(width),
            ..Self::default()
        }
    }

    /// Takes the next line; `whole` unless the text ends inside of it.
    pub(super) fn line(&mut self, line: &'t str, whole: bool) {
        self.line += 1;
        let whole = whole && self.cut_at != Some(line.len());
        // Mails and tickets quote.
        let line = unquoted(line);
        if line.is_empty() {
            return;
        }
        if let Some(comment) = line.strip_prefix('#') {
            self.comment(comment);
        } else if let Some(table) = line.strip_prefix('*').filter(|name| is_word(name)) {
            self.close(false);
            self.begin(table);
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
        } else if line.starts_with("-A ") || (line.starts_with('[') && line.contains("-A ")) {
            self.rule(line, whole);
        } else if line.starts_with("-I ") {
            self.inserted(line);
        } else if says_left_out(line) && self.open.is_some() {
            self.left_out();
        } else {
            self.strange += 1;
            self.goes_on();
            if holds_a_rule(line) && self.open.is_some() {
                self.left_out();
            }
        }
    }

    /// What is no rule may be the rest of the one before, if that lacks its target.
    fn goes_on(&mut self) {
        let Some(open) = &mut self.open else { return };
        let last = open.rules.last_mut();
        if let Some((_, _, rule)) = last.filter(|(chain, _, rule)| lacks_target(chain, rule)) {
            self.broken += 1;
            *rule = unknown(UNREADABLE);
            open.broken = true;
        }
    }

    fn comment(&mut self, comment: &str) {
        if let Some(hidden) = other::hidden(comment) {
            self.hidden.push(hidden);
        }
        if !comment.contains("tables-save") && !comment.contains("Generated by") {
            return;
        }
        self.close(false);
        self.flavour = if comment.contains("legacy") {
            Some(Flavour::Legacy)
        } else if comment.contains("nft") || comment.contains("nf_tables") {
            Some(Flavour::Nft)
        } else {
            None
        };
        self.header = if comment.contains("ip6tables") {
            Some(Family::V6)
        } else if comment.contains("xtables-save") {
            // Some versions write so for both families.
            None
        } else {
            Some(Family::V4)
        };
    }

    fn begin(&mut self, table: &str) {
        self.seen = true;
        self.open = Some(Section {
            table: Some(table.to_string()),
            line: self.line,
            ..Section::default()
        });
    }

    fn section(&mut self) -> &mut Section<'t> {
        let line = self.line;
        self.open.get_or_insert_with(|| Section {
            line,
            ..Section::default()
        })
    }

    fn chain(&mut self, words: &'t str) {
        let mut words = words.split_whitespace();
        let Some(name) = words.next() else {
            self.strange += 1;
            return;
        };
        self.seen = true;
        self.leave_nat(name);
        let policy = match words.next() {
            Some("DROP") => Some(Verdict::Drop),
            Some("ACCEPT") => Some(Verdict::Accept),
            _ => None,
        };
        self.section().chains.push((name, policy));
    }

    /// The nat table has no chain for what is forwarded: the line where another one begins is lost.
    fn leave_nat(&mut self, chain: &str) {
        let in_nat = |open: &Section<'_>| open.table.as_deref() == Some("nat");
        if chain == "FORWARD" && self.open.as_ref().is_some_and(in_nat) {
            self.close(false);
            self.begin("filter");
            self.section().gaps = 1;
        }
    }

    fn rule(&mut self, line: &'t str, whole: bool) {
        let in_table = self.open.as_ref().is_some_and(|open| open.table.is_some());
        let open_end = !whole && (in_table || self.cut_at.is_some());
        let read = rule_line(line).filter(|(chain, rule)| !open_end && !self.is_cut(chain, rule, line));
        let (chain, rule) = if let Some((chain, rule)) = read {
            (chain, without_kept_counters(rule))
        } else {
            let Some(chain) = chain_of(line) else {
                self.strange += 1;
                return;
            };
            self.broken += 1;
            self.section().broken = true;
            (chain.to_string(), unknown(UNREADABLE))
        };
        self.seen = true;
        self.rules += 1;
        self.leave_nat(&chain);
        let after_gap = std::mem::take(&mut self.gap);
        let section = self.section();
        let (four, six) = families(&rule, line);
        section.four |= four;
        section.six |= six;
        let same_chain = section.rules.last().is_some_and(|(last, _, _)| *last == chain);
        if after_gap && !same_chain {
            section.rules.push((chain.clone(), LEFT_OUT, unknown(LEFT_OUT)));
        }
        section.rules.push((chain, line, rule));
    }

    /// Cut off at the width of a screen.
    fn is_cut(&self, chain: &str, rule: &Rule, line: &str) -> bool {
        let shortened = line.ends_with("...") || line.ends_with('…');
        let name_cut = matches!(&rule.target, Some(Target::Other(words)) if words.len() == 1);
        shortened || name_cut || (lacks_target(chain, rule) && line.len() + 1 >= self.width)
    }

    /// Rules may be missing behind the last one, and before the next one.
    fn left_out(&mut self) {
        self.gap = true;
        if let Some(open) = &mut self.open {
            open.gaps += 1;
            let last = open.rules.last().map(|(chain, _, _)| chain.clone());
            let built_in = |(name, policy): &(&str, Option<Verdict>)| {
                policy.is_some() && last.as_deref().is_none_or(|last| last == *name)
            };
            open.gap_in_head |= last.is_none() || open.chains.iter().any(built_in);
            if let Some(chain) = last {
                open.rules.push((chain, LEFT_OUT, unknown(LEFT_OUT)));
            }
        }
    }

    /// `-I CHAIN`, as in what iptables-restore is given: the rule goes to the head of its chain.
    fn inserted(&mut self, line: &'t str) {
        let appended = format!("-A {}", line.trim_start_matches("-I "));
        let Some((chain, rule)) = rule_line(&appended) else {
            self.strange += 1;
            return;
        };
        // At another place than the head: nobody knows what the chain holds.
        let numbered = matches!(rule.matches.first(), Some(Match::Other(words)) if words.first().is_some_and(|word| word.parse::<usize>().is_ok_and(|number| number != 1)));
        let rule = if numbered { unknown(UNREADABLE) } else { rule };
        self.seen = true;
        self.rules += 1;
        let section = self.section();
        let head = section.rules.iter().position(|(name, _, _)| *name == chain);
        let place = head.unwrap_or(section.rules.len());
        section.rules.insert(place, (chain, line, rule));
    }

    fn close(&mut self, whole: bool) {
        self.gap = false;
        if let Some(section) = self.open.take() {
            self.sections.push(Section {
                whole,
                header: self.header,
                flavour: self.flavour,
                ..section
            });
        }
    }

    /// All that was read.
    pub(super) fn finish(mut self) -> Reading<'t> {
        self.close(false);
        let without_table = self.sections.iter().any(|section| section.table.is_none());
        let (families, notes) = super::assemble::assemble(self.sections, &self.hidden);
        let mut reading = Reading {
            families,
            rules: self.rules,
            notes,
            is_nothing: !self.seen,
        };
        let were = |number| if number == 1 { "was" } else { "were" };
        let mut first = Vec::new();
        if self.strange > 0 {
            let lines = count(self.strange, "line");
            first.push(format!("{lines} {} not rules", were(self.strange)));
        }
        if self.broken > 0 {
            first.push(format!(
                "{} cannot be read; what depends on them is told as a doubt",
                count(self.broken, "rule")
            ));
        }
        if without_table {
            first.push("rules without a table's name: the table is guessed from what they do".into());
        }
        self.hidden.sort_unstable();
        self.hidden.dedup();
        first.extend(
            self.hidden
                .iter()
                .map(|hidden| format!("there is more than is here: {hidden}")),
        );
        first.append(&mut reading.notes);
        first.dedup();
        reading.notes = first;
        reading
    }
}

/// Neither what it asks nor what it does is known.
pub(super) fn unknown(what: &str) -> Rule {
    Rule::from(Clauses {
        matches: vec![Match::Other(vec![what.to_string()])],
        target: Some(Target::Other(vec!["-j".into(), "?".into()])),
    })
}

/// What stands behind here is not known.
pub(super) fn end() -> Rule {
    Rule::from(Clauses {
        matches: Vec::new(),
        target: Some(Target::Other(vec!["-j".into(), "?".into()])),
    })
}

/// A rule that ends too early.
fn is_broken(line: &str) -> bool {
    let is_rule = line.starts_with("-A ") || line.starts_with('[');
    is_rule && rule_line(line).is_none_or(|(_, rule)| rule.target.is_none())
}

/// kube-proxy writes no rule without a target, but for one in these chains; people do, to count.
fn lacks_target(chain: &str, rule: &Rule) -> bool {
    rule.target.is_none() && chain.starts_with("KUBE-") && !chain.starts_with("KUBE-FW-")
}

/// What people put in the place of lines: `...`, `[snip]`, `<output omitted>`.
pub(super) fn says_left_out(line: &str) -> bool {
    let words: String = line
        .chars()
        .filter(|letter| letter.is_ascii_alphabetic() || *letter == ' ')
        .collect();
    let marks = |letter: char| ".…-*=~[]<>() ".contains(letter);
    let words = words.trim().to_ascii_lowercase();
    let said = [
        "snip",
        "snipped",
        "cut",
        "omitted",
        "truncated",
        "skipped",
        "output omitted",
        "lines omitted",
    ];
    line.chars().all(marks)
        || (said.contains(&words.as_str()) && line.starts_with(['.', '…', '-', '[', '<', '(', '=']))
}

/// A rule, or the name of a chain or a table, with something before it that was not taken away.
fn holds_a_rule(line: &str) -> bool {
    let rule = line
        .split_once("-A ")
        .is_some_and(|(_, rest)| rest.contains(" -j "));
    let chain = line.ends_with(']') && (line.contains(" ACCEPT [") || line.contains(" DROP ["));
    let frame = |end: &str| {
        line.strip_suffix(end)
            .is_some_and(|before| !before.ends_with(char::is_alphanumeric))
    };
    rule || chain
        || frame("COMMIT")
        || TableName::WALKED
            .iter()
            .any(|table| frame(&format!("*{}", table.name())))
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

/// Chains are printed one after the other: where the text ends, the last one may lack rules, and those
/// named after it have none yet.
pub(super) fn cut_off(section: &mut Section<'_>) {
    let last = section.rules.last().map(|(chain, _, _)| chain.clone());
    if let Some((_, _, rule)) = section.rules.last_mut()
        && rule.target.is_none()
    {
        *rule = unknown(UNREADABLE);
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
    section
        .rules
        .extend(open.into_iter().map(|chain| (chain, CUT, end())));
}
