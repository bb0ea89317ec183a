//! Steps that turn a chain into another one in place.

use std::collections::HashMap;

use similar::{Algorithm, DiffOp, capture_diff_slices};

use super::fixed;
use super::rule::{Rule, Target};

/// One step of editing a chain in place; numbers count from 1 at the time the step is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// `-D CHAIN number`: iptables finds a rule by its words only if they come in the order in which
    /// it was made, and that order is not known of a rule that was read.
    Delete(usize),
    /// `-I CHAIN number rule`
    Insert(usize, Rule),
}

/// Chains with rules for each of many Services, told apart by their destinations and ports: no packet
/// meets those of two, so that their order says nothing (kube-proxy's is that of a hash map).
const DISPATCH: [&str; 4] = [
    fixed::SERVICES,
    fixed::EXTERNAL_SERVICES,
    fixed::PROXY_FIREWALL,
    fixed::NODE_PORTS,
];

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
/// the kernel for all of a long chain. `None` where what must be last differs.
fn in_any_order(there: &[Rule], wanted: &[Rule]) -> Option<Vec<Edit>> {
    let (there, last) = dispatch(there)?;
    let (wanted, wanted_last) = dispatch(wanted)?;
    if last != wanted_last {
        return None;
    }
    let surplus = beyond(there.iter(), wanted.iter());
    Some(steps(surplus, &beyond(wanted.iter(), there.iter())))
}

/// Steps that take out of a chain what some Services had, and put in what they want.
///
/// Copies of a rule are found by what they share, so that the others are not even read.
pub(super) fn exchange(there: &[Rule], had: &[&Rule], wanted: &[&Rule]) -> Vec<Edit> {
    let (had, wanted) = (|| had.iter().copied(), || wanted.iter().copied());
    let mut out: Vec<(usize, &Rule)> = Vec::new();
    for (_, rule) in beyond(had(), wanted()) {
        let place = |same: fn(&Rule, &Rule) -> bool| {
            let mut places = there.iter().enumerate().filter(|(_, known)| same(known, rule));
            places.find(|(place, _)| out.iter().all(|(taken, _)| taken != place))
        };
        out.extend(place(Rule::is_copy_of).or_else(|| place(Rule::eq)));
    }
    out.sort_by_key(|(place, _)| *place);
    steps(out, &beyond(wanted(), had()))
}

/// From the end, so that no number moves.
fn steps(out: Vec<(usize, &Rule)>, into: &[(usize, &Rule)]) -> Vec<Edit> {
    let out = out.into_iter().rev().map(|(place, _)| Edit::Delete(place + 1));
    let into = into
        .iter()
        .rev()
        .map(|(_, rule)| Edit::Insert(1, (*rule).clone()));
    out.chain(into).collect()
}

/// The rules that the others do not have, or have fewer of, with their places.
fn beyond<'a>(
    rules: impl Iterator<Item = &'a Rule>,
    others: impl Iterator<Item = &'a Rule>,
) -> Vec<(usize, &'a Rule)> {
    let mut there: HashMap<_, usize> = HashMap::with_capacity(others.size_hint().0);
    for rule in others {
        *there.entry(rule.meaning()).or_default() += 1;
    }
    let mut is_new = |rule: &'a Rule| match there.get_mut(&rule.meaning()) {
        Some(count) if *count > 0 => {
            *count -= 1;
            false
        }
        _ => true,
    };
    let rules = rules.enumerate();
    rules.filter(|(_, rule)| is_new(rule)).collect()
}

/// The rules of Services, and what must come last; `None` where they are mixed.
fn dispatch(rules: &[Rule]) -> Option<(&[Rule], &[Rule])> {
    let is_last =
        |rule: &Rule| matches!(&rule.target, Some(Target::Jump(chain)) if chain == fixed::NODE_PORTS);
    let length = rules.iter().take_while(|rule| !is_last(rule)).count();
    let (first, last) = rules.split_at(length);
    last.iter().all(is_last).then_some((first, last))
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
    use super::super::rule::Side;
    use super::*;

    fn rule(comment: &str) -> Rule {
        Rule::new().comment(comment).to(Target::Accept)
    }

    /// `a` to `z` are Services, told apart by their addresses; `!` is what comes behind them.
    fn dispatching(text: &str) -> Vec<Rule> {
        let rules = text.bytes().map(|byte| match byte {
            b'!' => Rule::new().jump(fixed::NODE_PORTS),
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
        let steps = edits("KUBE-FORWARD", &there, &wanted);
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
