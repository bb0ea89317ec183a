//! Two rule sets compared by meaning, told in words: which Service, which rule, what differs.
//!
//! What kube-proxy itself leaves open is no difference: the order of chains, and the order of
//! service ports inside the chains that all Services share.

use std::collections::{BTreeMap, BTreeSet};

use labkit::text::printable;
use serde::Serialize;
use similar::{Algorithm, DiffTag, capture_diff_slices};

use crate::rules::delta::{is_ours, meaning_key};
use crate::rules::fixed;
use crate::rules::rule::{Rule, Target};
use crate::rules::set::{Found, TableName};
use crate::rules::text::rule_text;

/// One difference. `left` is what is there, `right` what should be (or the second dump).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The table.
    pub table: &'static str,
    /// The chain.
    pub chain: String,
    /// The service port the rule is for, where its comment says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The rule on the left; none when only the right side has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
    /// The rule on the right; none when only the left side has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<String>,
    /// The sentence.
    pub what: String,
}

/// Names of the two sides, as sentences call them.
#[derive(Debug, Clone, Copy)]
pub struct Sides<'a> {
    /// The first.
    pub left: &'a str,
    /// The second.
    pub right: &'a str,
}

/// Compares our chains, and the jumps that lead to them.
pub fn compare(left: &Found, right: &Found, sides: Sides<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for table in TableName::ALL {
        let (left, right) = (part(left, table), part(right, table));
        let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
        for chain in names {
            let comparison = Comparison { table, chain, sides };
            match (left.get(chain), right.get(chain)) {
                (Some(left), Some(right)) => comparison.rules(left, right, &mut findings),
                (Some(rules), None) => findings.push(comparison.only(sides.left, rules, true)),
                (None, Some(rules)) => findings.push(comparison.only(sides.right, rules, false)),
                (None, None) => {}
            }
        }
    }
    findings
}

/// Our chains of one table in a comparable order, and of built-in chains only the jumps to ours.
fn part(found: &Found, table: TableName) -> BTreeMap<String, Vec<Rule>> {
    let mut part = BTreeMap::new();
    for (chain, rules) in found.tables.get(&table).into_iter().flatten() {
        if is_ours(table, chain) {
            part.insert(chain.clone(), comparable(chain, rules));
        } else {
            let leads_to_us =
                |rule: &&Rule| matches!(&rule.target, Some(Target::Jump(to)) if is_ours(table, to));
            let jumps: Vec<Rule> = rules.iter().filter(leads_to_us).cloned().collect();
            if !jumps.is_empty() {
                part.insert(chain.clone(), jumps);
            }
        }
    }
    part
}

/// The chains in which service ports stand in any order.
const SHARED: [&str; 4] = [
    fixed::SERVICES,
    fixed::NODE_PORTS,
    fixed::EXTERNAL_SERVICES,
    fixed::PROXY_FIREWALL,
];

fn comparable(chain: &str, rules: &[Rule]) -> Vec<Rule> {
    let mut rules = rules.to_vec();
    if SHARED.contains(&chain) {
        // The last rules lead to the node ports; among themselves they stand in any order.
        rules.sort_by_cached_key(|rule| match service_of(rule) {
            Some(service) => (false, service, String::new()),
            None => (true, String::new(), meaning_key(rule)),
        });
    }
    rules
}

/// `ns/name:port` at the beginning of a comment.
fn service_of(rule: &Rule) -> Option<String> {
    let first = rule.comment_text()?.split(' ').next()?;
    first.contains('/').then(|| first.to_string())
}

struct Comparison<'a> {
    table: TableName,
    chain: &'a str,
    sides: Sides<'a>,
}

impl Comparison<'_> {
    fn rules(&self, left: &[Rule], right: &[Rule], findings: &mut Vec<Finding>) {
        let key = |rules: &[Rule]| -> Vec<String> { rules.iter().map(meaning_key).collect() };
        for operation in capture_diff_slices(Algorithm::Myers, &key(left), &key(right)) {
            let (tag, old, new) = operation.as_tag_tuple();
            if tag == DiffTag::Equal {
                continue;
            }
            let (old, new) = (&left[old], &right[new]);
            // A rule replaced by another is one difference, not two.
            for index in 0..old.len().max(new.len()) {
                findings.push(self.finding(old.get(index), new.get(index)));
            }
        }
    }

    fn finding(&self, left: Option<&Rule>, right: Option<&Rule>) -> Finding {
        let what = match (left, right) {
            (Some(_), Some(_)) => format!("{} and {} differ", self.sides.left, self.sides.right),
            (Some(_), None) => format!("only {} has this rule", self.sides.left),
            _ => format!("only {} has this rule", self.sides.right),
        };
        Finding {
            table: self.table.name(),
            chain: self.chain.to_string(),
            service: left.or(right).and_then(service_of),
            left: left.map(rule_text),
            right: right.map(rule_text),
            what,
        }
    }

    fn only(&self, side: &str, rules: &[Rule], left: bool) -> Finding {
        let service = rules.iter().find_map(service_of);
        let text = (!rules.is_empty()).then(|| rules.iter().map(rule_text).collect::<Vec<_>>().join("\n"));
        let what = format!("only {side} has this chain");
        let (left, right) = if left { (text, None) } else { (None, text) };
        Finding {
            table: self.table.name(),
            chain: self.chain.to_string(),
            service,
            left,
            right,
            what,
        }
    }
}

impl Finding {
    /// A heading, then the rules: `-` is the left side, `+` the right side.
    pub fn text(&self) -> String {
        let mut text = format!("{} {}", self.table, self.chain);
        if let Some(service) = &self.service {
            text.push_str(&format!(" (Service {service})"));
        }
        text.push_str(&format!(": {}\n", self.what));
        for (sign, rules) in [('-', &self.left), ('+', &self.right)] {
            for rule in rules.iter().flat_map(|rules| rules.lines()) {
                text.push_str(&format!("  {sign} {rule}\n"));
            }
        }
        // Line by line: a line break is ours, any other control character is not.
        let lines: Vec<_> = text.lines().map(printable).collect();
        lines.join("\n") + "\n"
    }
}
