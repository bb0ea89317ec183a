//! A change of one place in one chain, and the way back to the same place.

use serde::{Deserialize, Serialize};

/// What is taken out of a chain and what is put there instead, as lines of `iptables-save`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hunk {
    /// How many rules stood above the place.
    pub index: usize,
    /// The last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<String>,
    /// The rules that were there.
    pub removed: Vec<String>,
    /// The rules that are there instead.
    pub added: Vec<String>,
}

/// What is to be done to a chain: first the deletions, then the insertions, in this order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Edits {
    /// Rules to delete, by what they say.
    pub delete: Vec<String>,
    /// Rules to insert, each with its number (from 1) at that moment.
    pub insert: Vec<(usize, String)>,
}

impl Hunk {
    /// What leads from one state of a chain to another.
    pub fn between(before: &[String], after: &[String]) -> Self {
        let same = |pairs: &mut dyn Iterator<Item = (&String, &String)>| pairs.take_while(|(a, b)| a == b).count();
        let head = same(&mut before.iter().zip(after));
        let (before_rest, after_rest) = (&before[head..], &after[head..]);
        let tail = same(&mut before_rest.iter().rev().zip(after_rest.iter().rev()));
        Self {
            index: head,
            above: head.checked_sub(1).map(|last| before[last].clone()),
            removed: before_rest[..before_rest.len() - tail].to_vec(),
            added: after_rest[..after_rest.len() - tail].to_vec(),
        }
    }

    /// The way there.
    pub fn edits(&self) -> Edits {
        Edits {
            delete: self.removed.clone(),
            insert: numbered(self.index, &self.added),
        }
    }

    /// The way back, from what the chain holds now; the same place where nobody else changed it.
    ///
    /// Where rules were replaced and none of the new ones is left, somebody has written the chain
    /// anew, and nothing is to be done. (Nothing is ever half done: both go in one transaction.)
    pub fn way_back(&self, now: &[String]) -> Edits {
        let delete: Vec<String> = present(&self.added, now);
        if delete.is_empty() && !self.added.is_empty() {
            return Edits::default();
        }
        let mut left = now.to_vec();
        let mut place = None;
        for line in &delete {
            if let Some(at) = left.iter().position(|known| known == line) {
                place.get_or_insert(at);
                left.remove(at);
            }
        }
        let there = present(&self.removed, &left);
        let mut missing = self.removed.clone();
        for line in &there {
            if let Some(at) = missing.iter().position(|known| known == line) {
                missing.remove(at);
            }
        }
        let place = place.unwrap_or_else(|| self.place(&left));
        Edits {
            delete,
            insert: numbered(place, &missing),
        }
    }

    /// Where the place is in a chain that has none of the new rules.
    fn place(&self, now: &[String]) -> usize {
        let Some(above) = &self.above else { return 0 };
        let before = self.index.saturating_sub(1);
        if now.get(before) == Some(above) {
            return self.index;
        }
        now.iter()
            .position(|line| line == above)
            .map_or(self.index.min(now.len()), |at| at + 1)
    }
}

/// Those of the lines that are there, each as often as it is.
fn present(lines: &[String], now: &[String]) -> Vec<String> {
    let mut left: Vec<&String> = now.iter().collect();
    lines
        .iter()
        .filter(|line| {
            let at = left.iter().position(|known| known == line);
            at.map(|at| left.remove(at)).is_some()
        })
        .cloned()
        .collect()
}

fn numbered(index: usize, lines: &[String]) -> Vec<(usize, String)> {
    (index + 1..).zip(lines.iter().cloned()).collect()
}

/// The rules of a chain in a dump by `iptables-save` of one table; `None` when it has no such chain.
pub fn chain(dump: &str, chain: &str) -> Option<Vec<String>> {
    let declared = format!(":{chain} ");
    let rule = format!("-A {chain} ");
    let there = dump.lines().any(|line| line.starts_with(&declared));
    let rules = dump.lines().filter_map(|line| line.strip_prefix(&rule));
    there.then(|| rules.map(str::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_string).collect()
    }

    fn applied(edits: &Edits, chain: &[String]) -> Vec<String> {
        let mut chain = chain.to_vec();
        for line in &edits.delete {
            let at = chain.iter().position(|known| known == line).expect("there");
            chain.remove(at);
        }
        for (number, line) in &edits.insert {
            chain.insert(number - 1, line.clone());
        }
        chain
    }

    #[test]
    fn there_and_back_is_where_it_was() {
        for (before, after) in [
            ("a b c", "x a b c"),
            ("a b c", "a b"),
            ("a b c", "a c"),
            ("a b c", "a x y z"),
            ("a b c", "b c"),
            ("", "x"),
            ("a b", "a b"),
        ] {
            let (before, after) = (lines(before), lines(after));
            let hunk = Hunk::between(&before, &after);
            assert_eq!(applied(&hunk.edits(), &before), after);
            assert_eq!(applied(&hunk.way_back(&after), &after), before);
            assert_eq!(applied(&hunk.way_back(&before), &before), before, "twice");
        }
    }

    #[test]
    fn what_others_wrote_meanwhile_stays() {
        let taken_out = Hunk::between(&lines("a b c"), &lines("a c"));
        assert_eq!(
            applied(&taken_out.way_back(&lines("n a m c")), &lines("n a m c")),
            lines("n a b m c")
        );
        let put_first = Hunk::between(&lines("a"), &lines("x a"));
        assert_eq!(
            applied(&put_first.way_back(&lines("n x a")), &lines("n x a")),
            lines("n a")
        );
    }

    #[test]
    fn a_chain_that_was_written_anew_is_left_alone() {
        let replaced = Hunk::between(&lines("a b c"), &lines("a x y"));
        assert_eq!(replaced.way_back(&lines("a p q r")), Edits::default());
    }

    #[test]
    fn a_chain_is_found_in_a_dump() {
        let dump = "*nat\n:A - [0:0]\n:AB - [0:0]\n-A A -j AB\n-A AB -j RETURN\nCOMMIT\n";
        assert_eq!(chain(dump, "A"), Some(vec!["-j AB".to_string()]));
        assert_eq!(chain(dump, "B"), None);
    }
}
