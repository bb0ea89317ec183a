//! YAML (and with it JSON) → a tree whose every value knows its line.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Options, Spanned};

/// A value and the line it stands at, from 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// The line.
    pub line: u64,
    /// The value.
    pub kind: Kind,
}

/// What a value can be.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Tree>),
    /// Fields in the order of the file, each with the line of its name.
    Map(Vec<(String, u64, Tree)>),
}

impl Kind {
    /// As a sentence names it.
    pub fn noun(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Integer(_) => "a number",
            Self::Float(_) => "a fraction",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "an object",
        }
    }

    /// Whether it says no more than a field that is left out: the form in which tools write a
    /// configuration with every field in it.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(value) => !value,
            Self::Integer(number) => *number == 0,
            Self::Float(number) => *number == 0.0,
            Self::Text(text) => matches!(text.as_str(), "" | "0" | "0s"),
            Self::List(list) => list.is_empty(),
            Self::Map(fields) => fields.iter().all(|(_, _, value)| value.kind.is_empty()),
        }
    }
}

/// Reads the documents that say anything: tools write a line `---` before, behind and between them.
///
/// # Errors
/// The line and what is wrong there.
pub fn documents(text: &str) -> Result<Vec<Tree>, (u64, String)> {
    let mut options = Options::default();
    options.with_snippet = false;
    // A whole cluster's configuration has some 60 fields; references to earlier parts could make
    // little text into much.
    options.alias_limits.max_total_replayed_events = 1000;
    match serde_saphyr::from_multiple_with_options::<Spanned<Kind>>(text, options) {
        Ok(roots) => Ok(roots.into_iter().map(tree).collect()),
        Err(error) => {
            let place = error.location();
            let line = place.map_or(1, |place| place.line()).max(1);
            let column = place.map_or(1, |place| place.column()).max(1);
            let twice = error.to_string().contains("duplicate");
            Err((line, unreadable(text, line, column, twice)))
        }
    }
}

/// So much of a line is shown.
const SHOWN: usize = 40;

/// What is wrong there, in our words: the library's are about its own insides.
fn unreadable(text: &str, line: u64, column: u64, twice: bool) -> String {
    let number = usize::try_from(line).unwrap_or(usize::MAX);
    let there = text.lines().nth(number - 1).unwrap_or_default();
    let begin = there.len() - there.trim_start().len();
    if there[..begin].contains('\t') {
        return format!("column {}: a tab, where YAML takes blanks only", begin.max(1));
    }
    let shown: String = there.trim().chars().take(SHOWN).collect();
    let what = match (twice, shown.is_empty()) {
        (true, _) => "a field that is there already",
        (false, false) => "this is no YAML",
        (false, true) => {
            return format!("column {column}: the text ends too early; is a bracket or a quote open?");
        }
    };
    format!("column {column}: {what}: {shown}")
}

fn tree(spanned: Spanned<Kind>) -> Tree {
    Tree {
        line: spanned.referenced.line(),
        kind: spanned.value,
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        Kind::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        // Too large for any field: as text it is refused with its own digits.
        Ok(i64::try_from(value).map_or_else(|_| Kind::Text(value.to_string()), Kind::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Text(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<Spanned<Kind>>()? {
            items.push(tree(item));
        }
        Ok(Kind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, value)) = map.next_entry::<Spanned<String>, Spanned<Kind>>()? {
            fields.push((name.value, name.referenced.line(), tree(value)));
        }
        Ok(Kind::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Tree, (u64, String)> {
        documents(text).map(|mut all| all.remove(0))
    }

    fn map(tree: &Tree) -> &[(String, u64, Tree)] {
        match &tree.kind {
            Kind::Map(fields) => fields,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_field_knows_its_line() {
        let text = "# comment\nmode: iptables\niptables:\n  masqueradeBit: 14\n  syncPeriod: 30s\nlist:\n- a\n- 1.5\nempty:\nquoted: \"true\"\n";
        let tree = parse(text).unwrap();
        let fields = map(&tree);
        let lines: Vec<_> = fields
            .iter()
            .map(|(name, line, _)| (name.as_str(), *line))
            .collect();
        assert_eq!(
            lines,
            [
                ("mode", 2),
                ("iptables", 3),
                ("list", 6),
                ("empty", 9),
                ("quoted", 10)
            ]
        );
        let inner = map(&fields[1].2);
        assert_eq!((inner[0].1, &inner[0].2.kind), (4, &Kind::Integer(14)));
        assert_eq!(inner[1].2.kind, Kind::Text("30s".into()));
        assert_eq!(fields[3].2.kind, Kind::Null);
        assert_eq!(fields[4].2.kind, Kind::Text("true".into()));
    }

    #[test]
    fn documents_may_be_several() {
        let found = documents("---\na: 1\n---\n# nothing\n---\nb: 2\n---\n").unwrap();
        let lines: Vec<_> = found.iter().map(|tree| map(tree)[0].1).collect();
        assert_eq!(lines, [2, 6]);
        assert_eq!(documents("").unwrap(), []);
    }

    #[test]
    fn json_is_yaml_with_or_without_tabs() {
        let tree = parse("{\n\t\"mode\": \"\",\n\t\"a\": {\"b\": [true, null]}\n}\n").unwrap();
        let fields = map(&tree);
        assert_eq!((fields[0].0.as_str(), fields[0].1), ("mode", 2));
        assert_eq!(map(&fields[1].2)[0].1, 3);
    }

    #[test]
    fn what_is_wrong_is_told_in_our_words() {
        for (text, words) in [
            ("a: 1\na: 2\n", "a field that is there already: a: 2"),
            ("a:\n\tb: 1\n", "a tab, where YAML takes blanks only"),
            ("a: \"open\nb: 1\n", "column "),
            ("a: b: c\n", "this is no YAML: a: b: c"),
        ] {
            let (_, found) = parse(text).unwrap_err();
            assert!(found.contains(words), "{text:?}: {found}");
        }
    }

    #[test]
    fn broken_text_is_named_with_its_line() {
        for (text, line) in [("a: 1\nb: [", 2), ("a: 1\na: 2\n", 2), ("{\"a\": 1", 1)] {
            let (found, words) = parse(text).unwrap_err();
            assert!(found >= line && !words.is_empty(), "{text:?}: {found} {words}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(&deep).is_err());
        let bomb = "a: &a [1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]\n";
        assert!(parse(bomb).is_err());
    }
}
