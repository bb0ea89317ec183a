//! Names that somebody may have meant.

/// The three nearest of the names that are near enough to be a slip of the fingers.
pub(super) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut near: Vec<(usize, &str)> = names
        .map(|name| (distance(word, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3 || name.contains(word))
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter()
        .take(3)
        .map(|(_, name)| name.to_string())
        .collect()
}

/// How many letters must be changed, added or taken away (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (place, with) in other.iter().enumerate() {
            let change = diagonal + usize::from(letter != *with);
            diagonal = row[place + 1];
            row[place + 1] = change.min(row[place] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_near_and_another_word_is_not() {
        let names = ["default/web", "default/api", "kube-system/kube-dns"];
        assert_eq!(
            nearest("default/wbe", names.into_iter()),
            ["default/web", "default/api"]
        );
        assert_eq!(nearest("dns", names.into_iter()), ["kube-system/kube-dns"]);
        assert!(nearest("nothing-like-it", names.into_iter()).is_empty());
    }
}
