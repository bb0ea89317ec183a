//! What the floors are fed: documents of iptables-restore made from what `miniproxy render` prints.

use std::collections::{BTreeMap, HashSet};

/// The chain that holds one rule for each Service; their order is free.
const DISPATCH: &str = "KUBE-SERVICES";

/// The same document with the chain lines of each table in order; the rules stay where they are.
///
/// iptables-nft-restore 1.8.9 keeps new chains in a sorted list, which it walks for each that comes
/// out of order.
pub fn sorted_chain_lines(document: &str) -> String {
    let mut text = String::with_capacity(document.len());
    let mut chains: Vec<&str> = Vec::new();
    for line in document.lines() {
        if line.starts_with(':') {
            chains.push(line);
            continue;
        }
        chains.sort_unstable();
        for line in chains.drain(..).chain([line]) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// How many rules a document or a dump holds.
pub fn rules(document: &str) -> usize {
    rule_lines(document).count()
}

/// The rules of a dump, sorted: the same for two kernels with the same rules, whatever the order in
/// which their chains were filled.
pub fn sorted_rules(dump: &str) -> Vec<&str> {
    let mut found: Vec<&str> = rule_lines(dump).collect();
    found.sort_unstable();
    found
}

fn rule_lines(document: &str) -> impl Iterator<Item = &str> {
    document
        .lines()
        .filter(|line| line.starts_with("-A ") || line.starts_with("-I "))
}

/// The chains of the nat table, each with its rules without `-A CHAIN`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nat {
    chains: BTreeMap<String, Vec<String>>,
}

impl Nat {
    /// Of a whole document. Jumps from the built-in chains are left out: they never change.
    pub fn of(document: &str) -> Self {
        let mut chains: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let lines = document.lines().skip_while(|line| *line != "*nat");
        for line in lines.take_while(|line| *line != "COMMIT") {
            if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
                chains.entry(chain.to_string()).or_default();
            } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' '))
                && let Some(rules) = chains.get_mut(chain)
            {
                rules.push(rule.to_string());
            }
        }
        Self { chains }
    }

    /// The chain whose rules lead to this address and port, and of a Service's own chain the name.
    pub fn chain_with(&self, target: &str) -> Option<&str> {
        let found = |rule: &String| rule.split(' ').any(|word| word == target);
        let mut chains = self.chains.iter();
        chains
            .find(|(_, rules)| rules.iter().any(found))
            .map(|(chain, _)| chain.as_str())
    }

    /// Where the dispatch chain sends what is for this ClusterIP.
    pub fn service_chain(&self, address: &str) -> Option<&str> {
        let wanted = format!(" -d {address} ");
        let dispatch = self.chains.get(DISPATCH)?;
        dispatch
            .iter()
            .find(|rule| rule.contains(&wanted))
            .and_then(|rule| jump(rule))
    }

    /// A chain's rules and the jumps to it: what nf_tables counts as its uses.
    pub fn uses(&self, chain: &str) -> usize {
        let own = self.chains.get(chain).map_or(0, Vec::len);
        let all = self.chains.values().flatten();
        own + all.filter(|rule| jump(rule) == Some(chain)).count()
    }

    /// The smallest document for iptables-restore --noflush that leads from here to there. A rule
    /// that the dispatch chain lacks goes to its head, which costs least; see [`Nat::reached`].
    pub fn smallest(&self, wanted: &Self) -> String {
        let mut lines = vec!["*nat".to_string()];
        let added = wanted
            .chains
            .keys()
            .filter(|chain| !self.chains.contains_key(*chain));
        lines.extend(added.map(|chain| format!(":{chain} - [0:0]")));
        let gone: Vec<&String> = self
            .chains
            .keys()
            .filter(|chain| !wanted.chains.contains_key(*chain))
            .collect();
        let none = Vec::new();
        for (chain, rules) in &wanted.chains {
            let found = self.chains.get(chain).unwrap_or(&none);
            lines.extend(edits(chain, found, rules));
        }
        for chain in &gone {
            lines.push(format!("-F {chain}"));
        }
        lines.extend(gone.iter().map(|chain| format!("-X {chain}")));
        lines.push("COMMIT\n".to_string());
        lines.join("\n")
    }

    /// What the kernel holds once [`Nat::smallest`] was written: the new rules of the dispatch chain
    /// are at its head.
    #[must_use]
    pub fn reached(&self, wanted: &Self) -> Self {
        let mut reached = wanted.clone();
        if let (Some(found), Some(rules)) = (self.chains.get(DISPATCH), reached.chains.get_mut(DISPATCH)) {
            let (here, there) = (set(found), set(rules));
            let stays: Vec<String> = found
                .iter()
                .filter(|rule| there.contains(rule))
                .cloned()
                .collect();
            let mut new: Vec<String> = rules
                .iter()
                .filter(|rule| !here.contains(rule))
                .cloned()
                .collect();
            // Each goes to the head, so the last one is the first.
            new.reverse();
            new.extend(stays);
            *rules = new;
        }
        reached
    }
}

fn jump(rule: &str) -> Option<&str> {
    let (_, chain) = rule.rsplit_once("-j ")?;
    chain.split(' ').next()
}

fn set(rules: &[String]) -> HashSet<&String> {
    rules.iter().collect()
}

/// Single inserts, deletes and replacements of one chain's rules.
fn edits(chain: &str, found: &[String], wanted: &[String]) -> Vec<String> {
    if found == wanted {
        return Vec::new();
    }
    if chain == DISPATCH {
        return dispatch_edits(found, wanted);
    }
    if found.is_empty() {
        return wanted.iter().map(|rule| format!("-A {chain} {rule}")).collect();
    }
    let same = found
        .iter()
        .zip(wanted)
        .take_while(|(one, other)| one == other)
        .count();
    let (left, right) = (&found[same..], &wanted[same..]);
    let tail = left.iter().rev().zip(right.iter().rev());
    let tail = tail.take_while(|(one, other)| one == other).count();
    let (left, right) = (&left[..left.len() - tail], &right[..right.len() - tail]);
    let both = left.len().min(right.len());
    let place = same + 1;
    let replaced = right[..both].iter().enumerate();
    let mut lines: Vec<String> = replaced
        .map(|(index, rule)| format!("-R {chain} {} {rule}", place + index))
        .collect();
    let more = right[both..].iter().enumerate();
    lines.extend(more.map(|(index, rule)| format!("-I {chain} {} {rule}", place + both + index)));
    lines.extend(
        left[both..]
            .iter()
            .map(|_| format!("-D {chain} {}", place + both)),
    );
    lines
}

/// From the last to the first, so that no number moves before it is used.
fn dispatch_edits(found: &[String], wanted: &[String]) -> Vec<String> {
    let (here, there) = (set(found), set(wanted));
    let gone = found
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, rule)| !there.contains(rule));
    let mut lines: Vec<String> = gone
        .map(|(index, _)| format!("-D {DISPATCH} {}", index + 1))
        .collect();
    let new = wanted.iter().filter(|rule| !here.contains(rule));
    lines.extend(new.map(|rule| format!("-I {DISPATCH} {rule}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "\
*filter
:KUBE-SERVICES - [0:0]
-I INPUT -j KUBE-SERVICES
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-SEP-A - [0:0]
:KUBE-SVC-A - [0:0]
-A KUBE-SEP-A -s 10.0.0.1 -j KUBE-MARK-MASQ
-A KUBE-SEP-A -p tcp -j DNAT --to-destination 10.0.0.1:80
-A KUBE-SERVICES -p tcp -d 10.96.0.1 --dport 80 -j KUBE-SVC-A
-A KUBE-SERVICES -j KUBE-NODEPORTS
-A KUBE-SVC-A -j KUBE-SEP-A
-I OUTPUT -j KUBE-SERVICES
COMMIT
";

    fn nat(dispatch: &[&str], service: &[&str]) -> Nat {
        let chain = |name: &str, rules: &[&str]| {
            let rules = rules.iter().map(|rule| format!("-A {name} {rule}\n"));
            format!(":{name} - [0:0]\n{}", rules.collect::<String>())
        };
        let document = chain(DISPATCH, dispatch) + &chain("KUBE-SVC-A", service);
        Nat::of(&format!("*nat\n{document}COMMIT\n"))
    }

    #[test]
    fn chain_lines_are_sorted_within_their_table() {
        let sorted = sorted_chain_lines(DOCUMENT);
        assert!(
            sorted.contains("*nat\n:KUBE-SEP-A - [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n-A")
        );
        assert_eq!(sorted.lines().count(), DOCUMENT.lines().count());
        assert_eq!(rules(&sorted), 7);
        assert_eq!(sorted_chain_lines(&sorted), sorted);
    }

    #[test]
    fn chains_are_found_by_what_they_lead_to() {
        let nat = Nat::of(DOCUMENT);
        assert_eq!(nat.chain_with("10.0.0.1:80"), Some("KUBE-SEP-A"));
        assert_eq!(nat.service_chain("10.96.0.1"), Some("KUBE-SVC-A"));
        assert_eq!(nat.service_chain("10.96.0.10"), None);
        assert_eq!(nat.uses("KUBE-SEP-A"), 3);
        assert_eq!(nat.uses("KUBE-SVC-A"), 2);
    }

    #[test]
    fn nothing_to_do_is_an_empty_document() {
        let nat = Nat::of(DOCUMENT);
        assert_eq!(nat.smallest(&nat), "*nat\nCOMMIT\n");
        assert_eq!(nat.reached(&nat), nat);
    }

    #[test]
    fn a_service_less_is_one_delete_and_its_chains() {
        let before = Nat::of(DOCUMENT);
        let mut after = before.clone();
        after.chains.get_mut(DISPATCH).unwrap().remove(0);
        after.chains.retain(|chain, _| chain == DISPATCH);
        let text = before.smallest(&after);
        assert_eq!(
            text,
            "*nat\n-D KUBE-SERVICES 1\n-F KUBE-SEP-A\n-F KUBE-SVC-A\n-X KUBE-SEP-A\n-X KUBE-SVC-A\nCOMMIT\n"
        );
        assert!(
            after
                .smallest(&before)
                .contains("-I KUBE-SERVICES -p tcp -d 10.96.0.1")
        );
    }

    #[test]
    fn a_changed_rule_is_replaced_and_the_others_stay() {
        let text = |one: &[&str], other: &[&str]| {
            let text = nat(&[], one).smallest(&nat(&[], other));
            text.lines().map(str::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            text(&["a", "b", "c"], &["a", "x", "c"]),
            ["*nat", "-R KUBE-SVC-A 2 x", "COMMIT"]
        );
        assert_eq!(
            text(&["a", "c"], &["a", "x", "y", "c"])[1..3],
            ["-I KUBE-SVC-A 2 x", "-I KUBE-SVC-A 3 y"]
        );
        assert_eq!(
            text(&["a", "x", "y", "c"], &["a", "c"])[1..3],
            ["-D KUBE-SVC-A 2", "-D KUBE-SVC-A 2"]
        );
    }

    #[test]
    fn what_was_reached_knows_where_the_new_rule_is() {
        let (before, wanted) = (nat(&["a", "last"], &[]), nat(&["a", "new", "last"], &[]));
        let reached = before.reached(&wanted);
        assert_eq!(reached, nat(&["new", "a", "last"], &[]));
        assert_eq!(reached.smallest(&before), "*nat\n-D KUBE-SERVICES 1\nCOMMIT\n");
    }
}
