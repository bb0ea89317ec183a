//! What people write: JSON or YAML, several documents, lists → objects and where they stand.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::refusal::Refusal;
use super::registry::flattened;

/// One object of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Where it begins: `shop.yaml:12`.
    pub place: String,
    /// The object.
    pub value: Value,
}

/// The objects of a text; `file` is what messages call it.
///
/// # Errors
/// `shop.yaml:12: what is wrong`.
pub fn documents(file: &str, text: &[u8]) -> Result<Vec<Document>, String> {
    let text = std::str::from_utf8(text).map_err(|error| {
        let line = lines(&text[..error.valid_up_to()]) + 1;
        format!("{file}:{line}: not UTF-8; expected JSON or YAML")
    })?;
    let mut found = Vec::new();
    for (line, part) in parts(text) {
        let value = parse(part).map_err(|(at, what)| format!("{file}:{}: {what}", line + at))?;
        if value.is_null() {
            continue;
        }
        for value in flattened(value) {
            let place = format!("{file}:{}", line + 1);
            found.push(Document { place, value });
        }
    }
    if found.is_empty() {
        return Err(format!(
            "{file}:1: nothing is in it; expected Kubernetes objects in JSON or YAML"
        ));
    }
    Ok(found)
}

/// The documents of a stream, each with the number of lines before its first one that says
/// something. A line that begins with `---` is always a boundary, also within a text of many lines.
fn parts(text: &str) -> Vec<(usize, &str)> {
    let (mut parts, mut begin, mut offset) = (Vec::new(), 0, 0);
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            parts.push((begin, offset));
            begin = offset + line.len();
        }
        offset += line.len();
    }
    parts.push((begin, text.len()));
    let with_lines = parts.into_iter().map(|(begin, end)| {
        let part = &text[begin..end];
        let silent = part
            .split_inclusive('\n')
            .take_while(|line| matches!(line.trim_start().chars().next(), None | Some('#' | '%')));
        let skipped: usize = silent.map(str::len).sum();
        (lines(&text.as_bytes()[..begin + skipped]), &part[skipped..])
    });
    with_lines.collect()
}

/// How many lines end in a text.
fn lines(text: &[u8]) -> usize {
    text.split(|byte| *byte == b'\n').count() - 1
}

/// The value, or how many lines below its first one something is wrong.
fn parse(text: &str) -> Result<Value, (usize, String)> {
    if text.trim_start().starts_with(['{', '[']) {
        return serde_json::from_str(text).map_err(|error| {
            let words = error.to_string();
            let place = format!(" at line {} column {}", error.line(), error.column());
            let words = words.strip_suffix(&place).unwrap_or(&words).to_string();
            (error.line(), words)
        });
    }
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    // References to earlier parts could make little text into much.
    options.alias_limits.max_total_replayed_events = 10_000;
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let words = error.to_string();
        let first = words.lines().next().unwrap_or("no YAML").to_string();
        (usize::try_from(line).unwrap_or(1).max(1), first)
    })
}

/// An object of a type, with nothing in it that the type does not know.
///
/// # Errors
/// The field that is wrong, missing or unknown.
pub fn typed<T: DeserializeOwned + serde::Serialize>(value: &Value) -> Result<T, Refusal> {
    let object: T = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "the object".into() } else { path };
        let words = error.into_inner().to_string();
        let (what, expected) = words
            .split_once(", expected ")
            .unwrap_or((words.as_str(), "what kubectl would take"));
        Refusal::new(field, what, expected)
    })?;
    let known = serde_json::to_value(&object)
        .map_err(|error| Refusal::new("the object", error.to_string(), "an object"))?;
    match unknown(value, &known, "") {
        Some(field) => Err(Refusal::new(
            field,
            "unknown field",
            "a field of the API, spelt as it has it",
        )),
        None => Ok(object),
    }
}

/// The first field that was written and not read.
fn unknown(written: &Value, read: &Value, path: &str) -> Option<String> {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => written.iter().find_map(|(key, value)| {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            match read.get(key) {
                Some(read) => unknown(value, read, &path),
                // What says nothing may be left out.
                None => (!value.is_null()).then_some(path),
            }
        }),
        (Value::Array(written), Value::Array(read)) => {
            let pairs = written.iter().zip(read).enumerate();
            pairs
                .into_iter()
                .find_map(|(index, (value, read))| unknown(value, read, &format!("{path}[{index}]")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    fn places(text: &str) -> Vec<String> {
        let found = documents("f", text.as_bytes()).unwrap();
        found
            .iter()
            .map(|document| format!("{} {}", document.place, document.value["kind"]))
            .collect()
    }

    #[test]
    fn json_yaml_several_documents_and_lists() {
        assert_eq!(places("{\"kind\": \"A\"}"), ["f:1 \"A\""]);
        assert_eq!(
            places("# hello\n\nkind: A\n---\n---\nkind: B\nx: |\n  a\n"),
            ["f:3 \"A\"", "f:6 \"B\""]
        );
        assert_eq!(
            places("kind: List\nitems:\n- kind: A\n- kind: B\n"),
            ["f:1 \"A\"", "f:1 \"B\""]
        );
    }

    #[test]
    fn what_cannot_be_read_has_its_line() {
        for (text, begin) in [
            ("", "f:1: nothing"),
            ("kind: A\n---\nkind: [\n", "f:"),
            ("{\"kind\":\n 1,}", "f:2:"),
            ("a: 1\na: 2\n", "f:2:"),
        ] {
            let problem = documents("f", text.as_bytes()).unwrap_err();
            assert!(problem.starts_with(begin), "{text:?}: {problem}");
        }
        assert!(
            documents("f", b"kind: A\n\xff")
                .unwrap_err()
                .starts_with("f:2: not UTF-8")
        );
    }

    #[test]
    fn a_field_that_nobody_knows_is_named() {
        let value = |text: &str| documents("f", text.as_bytes()).unwrap().remove(0).value;
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n";
        assert!(typed::<Service>(&value(text)).is_ok());
        let misspelt = value(&text.replace("port: 80", "port: 80, targetport: 8080"));
        let refusal = typed::<Service>(&misspelt).unwrap_err();
        assert_eq!(refusal.field, "spec.ports[0].targetport");
        let wrong = value(&text.replace("port: 80", "port: eighty"));
        let refusal = typed::<Service>(&wrong).unwrap_err();
        assert_eq!(refusal.field, "spec.ports[0].port");
    }
}
