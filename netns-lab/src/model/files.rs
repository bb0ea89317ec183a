//! Objects in the files of a registry: where each is, and how a file changes with it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::registry::{Identity, identity, values};

/// What a file is to become; `None`: it goes.
pub type Change = (String, Option<Vec<u8>>);

/// All objects of a registry with the file that each stands in.
#[derive(Debug, Clone, Default)]
pub struct Files {
    found: Vec<(String, Value)>,
}

impl Files {
    /// Reads files; what is no JSON is passed over.
    pub fn new(files: &BTreeMap<String, Vec<u8>>) -> Self {
        let mut found = Vec::new();
        for (file, text) in files {
            for value in values(text).unwrap_or_default() {
                found.push((file.clone(), value));
            }
        }
        Self { found }
    }

    /// All objects, in the order of files.
    pub fn objects(&self) -> impl Iterator<Item = &Value> {
        self.found.iter().map(|(_, value)| value)
    }

    /// The object with this identity.
    pub fn get(&self, wanted: &Identity) -> Option<&Value> {
        self.objects()
            .find(|value| identity(value).as_ref() == Some(wanted))
    }

    /// Puts an object into its file: the one that it stands in, else one of its own.
    pub fn put(&mut self, object: &Value) -> Option<Change> {
        let own = identity(object)?;
        let file = if let Some(index) = self.place(&own) {
            self.found[index].1 = object.clone();
            self.found[index].0.clone()
        } else {
            let file = file_name(&own);
            // Somebody's file may have that name and hold something else: then it holds both.
            self.found.push((file.clone(), object.clone()));
            file
        };
        let content = self.content(&file);
        Some((file, content))
    }

    /// Takes an object out of its file; the file goes with its last one.
    pub fn remove(&mut self, wanted: &Identity) -> Option<Change> {
        let index = self.place(wanted)?;
        let (file, _) = self.found.remove(index);
        let content = self.content(&file);
        Some((file, content))
    }

    fn place(&self, wanted: &Identity) -> Option<usize> {
        self.found
            .iter()
            .position(|(_, value)| identity(value).as_ref() == Some(wanted))
    }

    fn content(&self, file: &str) -> Option<Vec<u8>> {
        let inside: Vec<&Value> = self
            .found
            .iter()
            .filter(|(name, _)| name == file)
            .map(|(_, value)| value)
            .collect();
        let whole = match inside.as_slice() {
            [] => return None,
            [one] => (*one).clone(),
            several => json!({"apiVersion": "v1", "kind": "List", "items": several}),
        };
        let mut text = serde_json::to_vec_pretty(&whole).unwrap_or_default();
        text.push(b'\n');
        Some(text)
    }
}

/// `web.service.json`, `shop_web.service.json`: an underscore is in no name.
fn file_name(own: &Identity) -> String {
    let kind = own.kind.to_ascii_lowercase();
    if matches!(own.namespace.as_str(), "" | super::registry::DEFAULT_NAMESPACE) {
        format!("{}.{kind}.json", own.name)
    } else {
        format!("{}_{}.{kind}.json", own.namespace, own.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, color: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "color": color})
    }

    fn text(change: Option<Change>) -> (String, Value) {
        let (file, content) = change.unwrap();
        (
            file,
            content.map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap()),
        )
    }

    #[test]
    fn an_object_changes_where_it_stands() {
        let list = json!({"kind": "List", "items": [object("a", "red"), object("b", "red")]});
        let mut files = Files::new(&BTreeMap::from([
            ("all.json".to_string(), list.to_string().into_bytes()),
            ("half.json".to_string(), b"{".to_vec()),
        ]));
        let (file, whole) = text(files.put(&object("b", "blue")));
        assert_eq!(
            (file.as_str(), &whole["items"][1]["color"]),
            ("all.json", &json!("blue"))
        );
        let own = identity(&object("a", "")).unwrap();
        let (_, whole) = text(files.remove(&own));
        assert_eq!(whole["metadata"]["name"], "b");
        let own = identity(&object("b", "")).unwrap();
        assert_eq!(text(files.remove(&own)), ("all.json".to_string(), Value::Null));
        assert_eq!(files.remove(&own), None);
    }

    #[test]
    fn a_new_object_has_a_file_of_its_own() {
        let mut files = Files::default();
        assert_eq!(text(files.put(&object("a", "red"))).0, "a.service.json");
        let mut other = object("a", "red");
        other["metadata"]["namespace"] = json!("shop");
        assert_eq!(text(files.put(&other)).0, "shop_a.service.json");
        assert_eq!(files.put(&json!({"kind": "Service"})), None);
    }
}
