//! Two lists of rules → which rule of the one stands for which of the other.

use std::collections::{BTreeMap, VecDeque};

use crate::rules::edit::meaning_key;
use crate::rules::rule::Rule;

/// What does not agree between two lists.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pair<'a> {
    /// Both have it, in another order.
    Moved(&'a Rule),
    /// The one has it where the other has this.
    Differ(&'a Rule, &'a Rule),
    /// Only the left list has it.
    Left(&'a Rule),
    /// Only the right list has it.
    Right(&'a Rule),
}

/// Places in a list by what stands there.
type Places = BTreeMap<String, VecDeque<usize>>;

/// The fewest disagreements that explain the two lists: equal rules belong together, then those that
/// differ in one part, then those of one group.
pub(super) fn pairs<'a>(
    left: &'a [Rule],
    right: &'a [Rule],
    group: fn(&Rule) -> Option<String>,
) -> Vec<Pair<'a>> {
    let mut found: BTreeMap<usize, Pair<'a>> = BTreeMap::new();
    let mut lefts: Vec<usize> = (0..left.len()).collect();
    let mut rights: Vec<usize> = (0..right.len()).collect();

    let same = take_pairs(
        &mut lefts,
        &mut rights,
        |index| vec![meaning_key(&left[index])],
        |index| vec![meaning_key(&right[index])],
    );
    for index in out_of_order(&same) {
        found.insert(index, Pair::Moved(&left[index]));
    }
    let close = take_pairs(
        &mut lefts,
        &mut rights,
        |index| all_but_one(&left[index]),
        |index| all_but_one(&right[index]),
    );
    let grouped = take_pairs(
        &mut lefts,
        &mut rights,
        |index| vec![group(&left[index]).unwrap_or_default()],
        |index| vec![group(&right[index]).unwrap_or_default()],
    );
    for (one, other) in close.into_iter().chain(grouped) {
        found.insert(one, Pair::Differ(&left[one], &right[other]));
    }
    for index in lefts {
        found.insert(index, Pair::Left(&left[index]));
    }
    let mut all: Vec<Pair<'a>> = found.into_values().collect();
    all.extend(rights.into_iter().map(|index| Pair::Right(&right[index])));
    all
}

/// Takes out of both lists those that share a key, the first of each with the first.
fn take_pairs(
    lefts: &mut Vec<usize>,
    rights: &mut Vec<usize>,
    left_keys: impl Fn(usize) -> Vec<String>,
    right_keys: impl Fn(usize) -> Vec<String>,
) -> Vec<(usize, usize)> {
    let mut places = Places::new();
    for index in rights.iter() {
        for key in right_keys(*index) {
            places.entry(key).or_default().push_back(*index);
        }
    }
    let mut taken = std::collections::BTreeSet::new();
    let mut found = Vec::new();
    lefts.retain(|index| {
        for key in left_keys(*index) {
            let Some(candidates) = places.get_mut(&key) else {
                continue;
            };
            while let Some(other) = candidates.pop_front() {
                if taken.insert(other) {
                    found.push((*index, other));
                    return false;
                }
            }
        }
        true
    });
    rights.retain(|index| !taken.contains(index));
    found
}

/// What is left of a rule without each of its parts in turn, and the whole of it: two rules that
/// share one of these differ in one part.
fn all_but_one(rule: &Rule) -> Vec<String> {
    let (matches, target) = rule.meaning();
    let mut parts: Vec<String> = matches.iter().map(|part| format!("{part:?}")).collect();
    parts.push(format!("{target:?}"));
    // The whole first: then a rule with one condition more finds its like.
    let mut keys = vec![parts.join(" ")];
    for index in 0..parts.len() {
        let mut rest = parts.clone();
        rest.remove(index);
        keys.push(rest.join(" "));
    }
    keys
}

/// Of pairs of places, sorted by the first, the fewest whose second place breaks the order.
fn out_of_order(pairs: &[(usize, usize)]) -> Vec<usize> {
    // Longest increasing subsequence: `tails[n]` ends the best run of length n + 1.
    let mut tails: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = vec![None; pairs.len()];
    for (index, (_, place)) in pairs.iter().enumerate() {
        let length = tails.partition_point(|tail| pairs[*tail].1 < *place);
        before[index] = length.checked_sub(1).map(|shorter| tails[shorter]);
        if length == tails.len() {
            tails.push(index);
        } else {
            tails[length] = index;
        }
    }
    let mut in_order = vec![false; pairs.len()];
    let mut at = tails.last().copied();
    while let Some(index) = at {
        in_order[index] = true;
        at = before[index];
    }
    let moved = pairs.iter().zip(in_order).filter(|(_, in_order)| !in_order);
    moved.map(|((left, _), _)| *left).collect()
}
