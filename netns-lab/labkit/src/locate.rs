//! Where in a JSON text a field stands.

use jsonc_parser::ast::Value;
use jsonc_parser::common::Ranged as _;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

/// One step into a JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A field of an object.
    Key(String),
    /// A place in an array, from 0.
    Index(usize),
}

/// `items[2].spec.ports[0].port`
pub fn path_text(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// Reads `spec.ports[0].port`; the inverse of [`path_text`] for keys without dots and brackets.
pub fn parse_path(text: &str) -> Vec<Step> {
    let mut path = Vec::new();
    for part in text.split('.').filter(|part| !part.is_empty()) {
        let (key, rest) = part.split_at(part.find('[').unwrap_or(part.len()));
        if !key.is_empty() {
            path.push(Step::Key(key.to_string()));
        }
        let indices = rest.split(['[', ']']).filter_map(|index| index.parse().ok());
        path.extend(indices.map(Step::Index));
    }
    path
}

/// Line and column, both from 1, of the value at `path`, or of the deepest one that holds it.
pub fn position(text: &str, path: &[Step]) -> (usize, usize) {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &ParseOptions::default());
    let Some(mut value) = parsed.ok().and_then(|parsed| parsed.value) else {
        return (1, 1);
    };
    for step in path {
        let next = match (step, value) {
            (Step::Key(key), Value::Object(object)) => {
                // Of two fields of one name the last one counts, as everywhere in JSON.
                let start = object.range.start;
                let last = object
                    .properties
                    .into_iter()
                    .rfind(|property| property.name.as_str() == key);
                last.map(|property| property.value).ok_or(start)
            }
            (Step::Index(index), Value::Array(array)) => {
                let start = array.range.start;
                array.elements.into_iter().nth(*index).ok_or(start)
            }
            (_, other) => Err(other.start()),
        };
        match next {
            Ok(found) => value = found,
            Err(start) => return line_and_column(text, start),
        }
    }
    line_and_column(text, value.start())
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "{\n  \"spec\": {\n    \"ports\": [\n      {\"größe\": 1, \"port\": 70000}\n    ]\n  }\n}";

    #[test]
    fn a_field_is_found_by_its_path() {
        assert_eq!(position(TEXT, &parse_path("spec.ports[0].port")), (4, 28));
    }

    #[test]
    fn a_missing_field_is_where_it_should_be() {
        assert_eq!(position(TEXT, &parse_path("spec.ports[0].name")), (4, 7));
        assert_eq!(position(TEXT, &parse_path("spec.ports[3].name")), (3, 14));
        assert_eq!(position("not json", &parse_path("a")), (1, 1));
    }

    #[test]
    fn paths_read_as_they_are_written() {
        for text in ["items[2].spec.ports[0].port", "metadata.name", "a[1][2]"] {
            assert_eq!(path_text(&parse_path(text)), text);
        }
    }
}
