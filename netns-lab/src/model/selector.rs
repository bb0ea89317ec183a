//! Label selectors as kubectl takes them.

use std::collections::BTreeMap;
use std::str::FromStr;

/// What labels must be like: all of these.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    Is(String, String),
    IsNot(String, String),
    Has(String),
    HasNot(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

impl Selector {
    /// Whether labels are so.
    pub fn accepts(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|one| match one {
            Requirement::Is(key, value) => labels.get(key) == Some(value),
            Requirement::IsNot(key, value) => labels.get(key) != Some(value),
            Requirement::Has(key) => labels.contains_key(key),
            Requirement::HasNot(key) => !labels.contains_key(key),
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => !labels.get(key).is_some_and(|value| values.contains(value)),
        })
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parts(text).map(requirement).collect::<Result<_, _>>().map(Self)
    }
}

/// What commas separate, but for those in parentheses.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.split(move |letter| {
        inside = (inside || letter == '(') && letter != ')';
        letter == ',' && !inside
    })
}

/// `KEY in (A,B)` or `KEY notin (A,B)`.
fn of_a_set(text: &str) -> Option<Result<Requirement, String>> {
    let (before, values) = text.strip_suffix(')')?.split_once('(')?;
    let (key, operator) = before.trim_end().rsplit_once(char::is_whitespace)?;
    let both = || {
        let values = values.split(',').map(word).collect::<Result<Vec<_>, _>>()?;
        Ok((word(key)?, values))
    };
    Some(match operator {
        "in" => both().map(|(key, values)| Requirement::In(key, values)),
        "notin" => both().map(|(key, values)| Requirement::NotIn(key, values)),
        _ => Err(expected(text)),
    })
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let text = text.trim();
    if let Some(found) = of_a_set(text) {
        return found;
    }
    let pair = |key: &str, value: &str| Ok((word(key)?, word(value)?));
    if let Some((key, value)) = text.split_once("!=") {
        return pair(key, value).map(|(key, value)| Requirement::IsNot(key, value));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return pair(key, value).map(|(key, value)| Requirement::Is(key, value));
    }
    let (key, has) = match text.strip_prefix('!') {
        Some(key) => (key, false),
        None => (text, true),
    };
    let key = word(key)?;
    match (key.is_empty(), has) {
        (true, _) => Err(expected(text)),
        (false, true) => Ok(Requirement::Has(key)),
        (false, false) => Ok(Requirement::HasNot(key)),
    }
}

fn word(text: &str) -> Result<String, String> {
    let text = text.trim();
    let good = |char: char| char.is_ascii_alphanumeric() || "-_./".contains(char);
    if text.chars().all(good) {
        Ok(text.to_string())
    } else {
        Err(expected(text))
    }
}

fn expected(text: &str) -> String {
    format!("expected KEY=VALUE, KEY!=VALUE, KEY, !KEY or KEY in (A,B), separated by commas, got {text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_selected_as_kubectl_does() {
        let labels = BTreeMap::from([("app".into(), "web".into()), ("tier".into(), String::new())]);
        for (text, wanted) in [
            ("app=web", true),
            ("app==web,tier", true),
            ("app = web , !zone", true),
            ("app!=web", false),
            ("zone!=a", true),
            ("app=shop", false),
            ("tier=", true),
            ("!tier", false),
            ("app in (shop, web),tier", true),
            ("app in (shop)", false),
            ("app notin (shop,web)", false),
            ("zone notin (a)", true),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.accepts(&labels), wanted, "{text}");
        }
        for text in [
            "",
            "app=web,",
            "!",
            "app of (web)",
            "app in (web",
            "in (web)",
            "a=\u{1b}",
        ] {
            assert!(text.parse::<Selector>().is_err(), "{text:?}");
        }
    }
}
