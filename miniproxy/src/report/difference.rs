//! Two rule sets compared by meaning, told in words: which Service, which rule, what differs.
//!
//! What kube-proxy itself leaves open is no difference: the order of chains, and the order of
//! service ports inside the chains that all Services share.

use std::collections::{BTreeMap, BTreeSet};

use labkit::text::printable;
use serde::Serialize;

use super::pair::{Pair, pairs};
use super::words::{Side, differing, role};
use crate::rules::delta::is_ours;
use crate::rules::edit::meaning_key;
use crate::rules::fixed;
use crate::rules::name::ChainKind;
use crate::rules::rule::{Rule, Target};
use crate::rules::set::{Chains, Found, TableName};
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
        let (mut left, mut right) = (part(left, table), part(right, table));
        // kube-proxy leaves a large cluster's unused chains until later; both sides then agree on the rest.
        let (left_stale, right_stale) = (stale(&left), stale(&right));
        left.retain(|chain, _| !left_stale.contains(chain) || right.contains_key(chain));
        right.retain(|chain, _| !right_stale.contains(chain) || left.contains_key(chain));
        let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
        let mut owners = owners_of(&right);
        owners.extend(owners_of(&left));
        for chain in names {
            let comparison = Comparison {
                table,
                chain,
                left: Side {
                    name: sides.left,
                    chains: &left,
                },
                right: Side {
                    name: sides.right,
                    chains: &right,
                },
                owners: &owners,
            };
            match (left.get(chain), right.get(chain)) {
                (Some(left), Some(right)) => comparison.rules(left, right, &mut findings),
                (Some(rules), None) => findings.push(comparison.only(rules, true)),
                (None, Some(rules)) => findings.push(comparison.only(rules, false)),
                (None, None) => {}
            }
        }
    }
    findings
}

/// Chains of service ports that nothing leads to, in a large cluster, which is known by endpoints
/// without comments. In a small one they go at once, and one that stays is a difference.
fn stale(chains: &Chains) -> BTreeSet<String> {
    let kind = |chain: &String| ChainKind::of(chain);
    let endpoints = chains
        .iter()
        .filter(|(chain, _)| kind(chain) == Some(ChainKind::Endpoint));
    let mut rules = endpoints.flat_map(|(_, rules)| rules);
    if !rules.any(|rule| rule.comment_text().is_none()) {
        return BTreeSet::new();
    }
    let mut unseen: BTreeSet<String> = chains
        .keys()
        .filter(|chain| kind(chain).is_some())
        .cloned()
        .collect();
    let mut open: Vec<&String> = chains.keys().filter(|chain| kind(chain).is_none()).collect();
    while let Some(chain) = open.pop() {
        for rule in chains.get(chain).into_iter().flatten() {
            if let Some(Target::Jump(to)) = &rule.target
                && unseen.remove(to)
            {
                open.push(to);
            }
        }
    }
    unseen
}

/// Which service port each chain belongs to, by the comments in it and of the rules that lead there:
/// some rules carry none, and in large clusters most do not.
fn owners_of(chains: &Chains) -> BTreeMap<String, String> {
    let mut owners = BTreeMap::new();
    for (chain, rules) in chains {
        for rule in rules {
            let Some(service) = named_in(rule) else { continue };
            if ChainKind::of(chain).is_some() {
                owners.entry(chain.clone()).or_insert_with(|| service.clone());
            }
            if let Some(Target::Jump(to)) = &rule.target
                && ChainKind::of(to).is_some()
            {
                owners.entry(to.clone()).or_insert(service);
            }
        }
    }
    owners
}

/// The chains that the kernel itself enters; kube-proxy's jumps stand in these. Others may use our chains in theirs,
/// as CNI plugins do.
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Our chains of one table in a comparable order, and of built-in chains only the jumps to ours.
fn part(found: &Found, table: TableName) -> Chains {
    let mut part = Chains::new();
    for (chain, rules) in found.tables.get(&table).into_iter().flatten() {
        if is_ours(table, chain) {
            part.insert(chain.clone(), comparable(chain, rules));
        } else if BUILT_IN.contains(&chain.as_str()) {
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
        let services = rules.iter().rposition(|rule| service_of(rule).is_some());
        let (first, last) = rules.split_at_mut(services.map_or(0, |place| place + 1));
        // One that leads to the node ports from among the Services comes too early: it is put where the
        // other side has none.
        first.sort_by_cached_key(service_of);
        // The last rules lead to the node ports; among themselves they stand in any order.
        last.sort_by_cached_key(meaning_key);
    }
    rules
}

/// `ns/name:port` at the beginning of a comment.
fn service_of(rule: &Rule) -> Option<String> {
    let first = rule.comment_text()?.split(' ').next()?;
    first.contains('/').then(|| first.to_string())
}

/// The same, wherever in the comment it stands: `masquerade traffic for ns/name:port external …`.
fn named_in(rule: &Rule) -> Option<String> {
    let mut words = rule.comment_text()?.split(' ');
    words.find(|word| word.contains('/')).map(str::to_string)
}

struct Comparison<'a> {
    table: TableName,
    chain: &'a str,
    left: Side<'a>,
    right: Side<'a>,
    owners: &'a BTreeMap<String, String>,
}

impl Comparison<'_> {
    fn rules(&self, left: &[Rule], right: &[Rule], findings: &mut Vec<Finding>) {
        for pair in pairs(left, right, service_of) {
            findings.push(match pair {
                Pair::Moved(rule) => {
                    let what = format!(
                        "{} and {} have this rule in another order",
                        self.left.name, self.right.name
                    );
                    self.finding(Some(rule), Some(rule), what)
                }
                Pair::Differ(left, right) => {
                    let what = differing((left, &self.left), (right, &self.right));
                    self.finding(Some(left), Some(right), what)
                }
                Pair::Left(rule) => self.finding(Some(rule), None, alone(&self.left, rule)),
                Pair::Right(rule) => self.finding(None, Some(rule), alone(&self.right, rule)),
            });
        }
    }

    fn finding(&self, left: Option<&Rule>, right: Option<&Rule>, what: String) -> Finding {
        let service = left.and_then(named_in).or_else(|| right.and_then(named_in));
        Finding {
            table: self.table.name(),
            chain: self.chain.to_string(),
            service: service.or_else(|| self.owners.get(self.chain).cloned()),
            left: left.map(rule_text),
            right: right.map(rule_text),
            what,
        }
    }

    fn only(&self, rules: &[Rule], left: bool) -> Finding {
        let text = (!rules.is_empty()).then(|| rules.iter().map(rule_text).collect::<Vec<_>>().join("\n"));
        let side = if left { &self.left } else { &self.right };
        // Of a chain that is not ours only the jumps to ours are looked at.
        let what = if is_ours(self.table, self.chain) {
            format!("only {} has this chain", side.name)
        } else {
            let to = rules.iter().filter_map(|rule| match &rule.target {
                Some(Target::Jump(to)) => Some(to.as_str()),
                _ => None,
            });
            let other = if left { &self.right } else { &self.left };
            let to = to
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
                .join(", ");
            format!(
                "only {} leads to {to} here; in {} nothing does",
                side.name, other.name
            )
        };
        let (left, right) = if left { (text, None) } else { (None, text) };
        Finding {
            table: self.table.name(),
            chain: self.chain.to_string(),
            service: self.owners.get(self.chain).cloned(),
            left,
            right,
            what,
        }
    }
}

fn alone(side: &Side<'_>, rule: &Rule) -> String {
    match role(rule, side) {
        Some(role) => format!("only {} {role}", side.name),
        None => format!("only {} has this rule", side.name),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::parse;

    const SIDES: Sides<'_> = Sides {
        left: "one",
        right: "other",
    };

    fn services(rules: &[&str]) -> Found {
        let rules: String = rules
            .iter()
            .flat_map(|rule| ["-A KUBE-SERVICES ", rule, "\n"])
            .collect();
        parse::parse(&format!("*nat\n:KUBE-SERVICES - [0:0]\n{rules}COMMIT\n")).unwrap()
    }

    #[test]
    fn a_jump_that_is_gone_is_told_as_that() {
        let with = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n";
        let without = with.replace("-A PREROUTING -j KUBE-SERVICES\n", "");
        let findings = compare(
            &parse::parse(with).unwrap(),
            &parse::parse(&without).unwrap(),
            SIDES,
        );
        let told: Vec<_> = findings.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(
            told,
            ["only one leads to KUBE-SERVICES here; in other nothing does"]
        );
    }

    #[test]
    fn foreign_chains_may_use_ours() {
        let ours = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-MARK-MASQ - [0:0]\nCOMMIT\n";
        let theirs = ours.replace(
            "COMMIT",
            ":CNI-HOSTPORT-SETMARK - [0:0]\n-A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ\nCOMMIT",
        );
        let findings = compare(
            &parse::parse(ours).unwrap(),
            &parse::parse(&theirs).unwrap(),
            SIDES,
        );
        assert_eq!(findings, []);
    }

    #[test]
    fn services_stand_in_any_order_and_the_node_ports_behind_them() {
        let one = "-d 10.96.0.1/32 -p tcp -m comment --comment \"default/a\" -m tcp --dport 80 -j KUBE-SVC-A";
        let two = "-d 10.96.0.2/32 -p tcp -m comment --comment \"default/b\" -m tcp --dport 80 -j KUBE-SVC-B";
        let last = "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS";
        let right = services(&[one, two, last]);
        for (left, findings) in [
            ([two, one, last], 0),
            ([last, one, two], 1),
            ([one, last, two], 1),
        ] {
            assert_eq!(
                compare(&services(&left), &right, SIDES).len(),
                findings,
                "{left:?}"
            );
        }
    }
}
