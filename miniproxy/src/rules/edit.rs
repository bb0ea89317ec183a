//! Steps that turn a chain into another one in place.

use std::collections::HashMap;

use similar::{Algorithm, DiffOp, capture_diff_slices};

use super::rule::Rule;

/// One step of editing a chain in place; numbers count from 1 at the time the step is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// `-D CHAIN number`: iptables finds a rule by its words only if they come in the order in which
    /// it was made, and that order is not known of a rule that was read.
    Delete(usize),
    /// `-I CHAIN number rule`
    Insert(usize, Rule),
}

/// Chains with a rule for each of many Services, told apart by their destinations: no packet meets two
/// of them, so that their order says nothing (kube-proxy's is that of a hash map).
const DISPATCH: [&str; 3] = ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-FIREWALL"];

/// Steps that turn the rules of a chain into what is wanted.
pub(super) fn edits(chain: &str, there: &[Rule], wanted: &[Rule]) -> Vec<Edit> {
    let unordered = DISPATCH.contains(&chain).then(|| in_any_order(there, wanted));
    unordered.flatten().unwrap_or_else(|| in_order(there, wanted))
}

/// The rules of a chain that is as it should be, in the order in which the kernel has them.
pub(super) fn arranged(chain: &str, there: &[Rule], wanted: Vec<Rule>) -> Vec<Rule> {
    if !DISPATCH.contains(&chain) || there == wanted {
        return wanted;
    }
    let mut places: HashMap<_, Vec<usize>> = HashMap::with_capacity(there.len());
    for (place, rule) in there.iter().enumerate().rev() {
        places.entry(rule.meaning()).or_default().push(place);
    }
    let mut arranged: Vec<_> = wanted
        .iter()
        .map(|rule| (places.get_mut(&rule.meaning()).and_then(Vec::pop), rule))
        .collect();
    if arranged.len() != there.len() || arranged.iter().any(|(place, _)| place.is_none()) {
        return wanted;
    }
    arranged.sort_by_key(|(place, _)| *place);
    arranged.into_iter().map(|(_, rule)| rule.clone()).collect()
}

/// What is too much goes, what is missing comes at the head: iptables finds that place without asking
/// the kernel for all of a long chain. `None` where more than the rules with a destination differs.
fn in_any_order(there: &[Rule], wanted: &[Rule]) -> Option<Vec<Edit>> {
    let (there, last) = dispatch(there)?;
    let (wanted, wanted_last) = dispatch(wanted)?;
    if last != wanted_last {
        return None;
    }
    let mut missing: HashMap<_, usize> = HashMap::with_capacity(wanted.len());
    for rule in wanted {
        *missing.entry(rule.meaning()).or_default() += 1;
    }
    let mut edits = Vec::new();
    for (index, rule) in there.iter().enumerate() {
        match missing.get_mut(&rule.meaning()) {
            Some(count) if *count > 0 => *count -= 1,
            _ => edits.push(Edit::Delete(index + 1)),
        }
    }
    // From the end, so that no number moves.
    edits.reverse();
    for rule in wanted.iter().rev() {
        if let Some(count) = missing.get_mut(&rule.meaning()).filter(|count| **count > 0) {
            *count -= 1;
            edits.push(Edit::Insert(1, rule.clone()));
        }
    }
    Some(edits)
}

/// The rules with a destination, and those behind them; `None` where they are mixed.
fn dispatch(rules: &[Rule]) -> Option<(&[Rule], &[Rule])> {
    let length = rules
        .iter()
        .take_while(|rule| rule.destination().is_some())
        .count();
    let (first, last) = rules.split_at(length);
    last.iter()
        .all(|rule| rule.destination().is_none())
        .then_some((first, last))
}

/// Steps that turn one list of rules into another, from the end to the head, so that no step moves
/// the numbers of a later one.
///
/// What is the same at the head and at the end is cut off first: comparing texts is for the few
/// rules between, where a chain may have one for each of ten thousand Services.
fn in_order(there: &[Rule], wanted: &[Rule]) -> Vec<Edit> {
    let head = there
        .iter()
        .zip(wanted)
        .take_while(|(old, new)| old == new)
        .count();
    let (there, wanted) = (&there[head..], &wanted[head..]);
    let pairs = there.iter().rev().zip(wanted.iter().rev());
    let end = pairs.take_while(|(old, new)| old == new).count();
    let (there, wanted) = (&there[..there.len() - end], &wanted[..wanted.len() - end]);
    let key = |rules: &[Rule]| -> Vec<String> { rules.iter().map(meaning_key).collect() };
    let operations = capture_diff_slices(Algorithm::Myers, &key(there), &key(wanted));
    let mut edits = Vec::new();
    for operation in operations.into_iter().rev() {
        let (_, old, new) = match operation {
            DiffOp::Equal { .. } => continue,
            other => other.as_tag_tuple(),
        };
        edits.extend(old.clone().rev().map(|index| Edit::Delete(head + index + 1)));
        let insert = |rule: &Rule| Edit::Insert(head + old.start + 1, rule.clone());
        edits.extend(wanted[new].iter().rev().map(insert));
    }
    edits
}

/// Equal for two rules that mean the same.
pub fn meaning_key(rule: &Rule) -> String {
    let (matches, target) = rule.meaning();
    format!("{matches:?} {target:?}")
}

#[cfg(test)]
mod tests {
    use super::super::known::edit;
    use super::super::rule::{Side, Target};
    use super::*;

    fn rule(comment: &str) -> Rule {
        Rule::new().comment(comment).to(Target::Accept)
    }

    /// `a` to `z` are Services, told apart by their addresses; `!` is what comes behind them.
    fn dispatching(text: &str) -> Vec<Rule> {
        let rules = text.bytes().map(|byte| match byte {
            b'!' => rule("last"),
            byte => Rule::new()
                .host(Side::Destination, [10, 96, 0, byte].into())
                .jump("KUBE-SVC"),
        });
        rules.collect()
    }

    #[test]
    fn services_come_at_the_head_and_go_from_where_they_are() {
        for (from, to, then) in [
            ("abc!", "abc!", "abc!"),
            ("cab!", "abc!", "cab!"),
            ("abd!", "abcd!", "cabd!"),
            ("cabd!", "abd!", "abd!"),
            ("cabd!", "abxy!", "xyab!"),
            ("ab!", "ba", "ba"),
        ] {
            let (mut there, wanted) = (dispatching(from), dispatching(to));
            let steps = edits("KUBE-SERVICES", &there, &wanted);
            edit(&mut there, &steps);
            assert_eq!(there, dispatching(then), "{from} to {to}");
            assert_eq!(arranged("KUBE-SERVICES", &there, wanted), there, "{from} to {to}");
        }
    }

    #[test]
    fn where_order_counts_it_is_kept() {
        let (mut there, wanted) = (dispatching("cab"), dispatching("abc"));
        let steps = edits("KUBE-NODEPORTS", &there, &wanted);
        edit(&mut there, &steps);
        assert_eq!(there, wanted);
    }

    #[test]
    fn edits_lead_from_one_list_to_the_other() {
        let lists = ["", "a", "abc", "abd", "xabc", "cba", "aabb", "abxycd"];
        for from in lists {
            for to in lists {
                let make = |text: &str| -> Vec<Rule> { text.chars().map(|c| rule(&c.to_string())).collect() };
                let (mut there, wanted) = (make(from), make(to));
                let steps = in_order(&there, &wanted);
                super::super::known::edit(&mut there, &steps);
                assert_eq!(there, wanted, "{from} to {to}");
            }
        }
    }

    #[test]
    fn one_rule_more_is_one_insert() {
        let there = vec![rule("a"), rule("c"), rule("last")];
        let wanted = vec![rule("a"), rule("b"), rule("c"), rule("last")];
        assert_eq!(in_order(&there, &wanted), vec![Edit::Insert(2, rule("b"))]);
    }
}
