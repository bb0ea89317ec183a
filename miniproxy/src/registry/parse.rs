//! The bytes of one file → objects that remember where they stand.

use std::rc::Rc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::SourceFile;
use super::locate::{Step, parse_path, path_text, position};
use super::problem::Problem;

/// An object of one of the kinds that rules are made from.
#[derive(Debug, Clone)]
pub enum Object {
    /// v1 Service
    Service(Box<Service>),
    /// discovery.k8s.io/v1 EndpointSlice
    EndpointSlice(Box<EndpointSlice>),
    /// v1 Pod
    Pod(Box<Pod>),
    /// v1 Node
    Node(Box<Node>),
    /// A kind that is known and has nothing to do with rules.
    Other(String),
}

impl Object {
    /// Kind and metadata; `None` for kinds that are passed over.
    pub fn identity(&self) -> Option<(&'static str, &ObjectMeta)> {
        match self {
            Self::Service(service) => Some(("Service", &service.metadata)),
            Self::EndpointSlice(slice) => Some(("EndpointSlice", &slice.metadata)),
            Self::Pod(pod) => Some(("Pod", &pod.metadata)),
            Self::Node(node) => Some(("Node", &node.metadata)),
            Self::Other(_) => None,
        }
    }
}

/// Where an object stands.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The file.
    pub file: Rc<str>,
    text: Rc<str>,
    path: Vec<Step>,
}

impl Origin {
    fn problem(&self, field: &str, what: impl Into<String>, expected: impl Into<String>) -> Problem {
        let mut path = self.path.clone();
        path.extend(parse_path(field));
        let (line, column) = position(&self.text, &path);
        let (what, expected) = (what.into(), expected.into());
        Problem {
            file: self.file.to_string(),
            line,
            column,
            field: path_text(&path),
            what,
            expected,
        }
    }

    fn item(&self, index: usize) -> Self {
        let mut item = self.clone();
        item.path.extend([Step::Key("items".into()), Step::Index(index)]);
        item
    }
}

/// One object and where it stands.
#[derive(Debug, Clone)]
pub struct Item {
    /// The object.
    pub object: Object,
    /// Where it stands.
    pub origin: Origin,
}

impl Item {
    /// A problem with one field of this object.
    pub fn problem(&self, field: &str, what: impl Into<String>, expected: impl Into<String>) -> Problem {
        self.origin.problem(field, what, expected)
    }
}

/// Reads one file: a single object, or a list of them as kubectl prints it.
///
/// # Errors
/// The first thing that is wrong with its JSON or with the shape of an object.
pub fn parse(file: &SourceFile) -> Result<Vec<Item>, Problem> {
    let broken = |line, column, what: String| Problem {
        file: file.path.clone(),
        line,
        column,
        field: String::new(),
        what,
        expected: "JSON of one Kubernetes object or a v1.List, as `kubectl get -o json` prints it".into(),
    };
    let text = std::str::from_utf8(&file.bytes).map_err(|error| {
        let before = &file.bytes[..error.valid_up_to()];
        let line = before.split(|byte| *byte == b'\n').count();
        broken(line, 1, "this is not UTF-8 text".into())
    })?;
    if text.trim().is_empty() {
        return Err(broken(1, 1, "the file is empty".into()));
    }
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or(&what).to_string();
        broken(error.line(), error.column().max(1), what)
    })?;
    let origin = Origin {
        file: file.path.as_str().into(),
        text: text.into(),
        path: Vec::new(),
    };
    let is_list = value
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.ends_with("List"));
    if !is_list {
        return Ok(vec![object(&value, origin)?]);
    }
    match value.get("items") {
        Some(Value::Array(items)) => items
            .iter()
            .enumerate()
            .map(|(index, item)| object(item, origin.item(index)))
            .collect(),
        Some(Value::Null) => Ok(Vec::new()),
        _ => Err(origin.problem("items", "a list without items", "an array of objects")),
    }
}

fn object(value: &Value, origin: Origin) -> Result<Item, Problem> {
    let field = |name: &str| match value.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(origin.problem(name, format!("{name} is no text"), "text in quotes")),
        None => Err(origin.problem(
            name,
            format!("{name} is missing"),
            "apiVersion and kind, as kubectl prints them",
        )),
    };
    let (version, kind) = (field("apiVersion")?, field("kind")?);
    let object = match (version, kind) {
        ("v1", "Service") => Object::Service(typed(value, &origin)?),
        ("discovery.k8s.io/v1", "EndpointSlice") => Object::EndpointSlice(typed(value, &origin)?),
        ("v1", "Pod") => Object::Pod(typed(value, &origin)?),
        ("v1", "Node") => Object::Node(typed(value, &origin)?),
        (_, "Service" | "Pod" | "Node") => {
            return Err(origin.problem("apiVersion", format!("{kind} of version {version}"), "v1"));
        }
        (_, "EndpointSlice") => {
            return Err(origin.problem(
                "apiVersion",
                format!("{kind} of version {version}"),
                "discovery.k8s.io/v1",
            ));
        }
        // Other groups are other people's objects; in the core group a kind that nobody knows is a slip.
        (_, kind) if version.contains('/') || CORE_KINDS.contains(&kind) => Object::Other(kind.to_string()),
        (_, kind) => {
            let expected = "Service, EndpointSlice, Pod or Node (other kinds of Kubernetes are passed over)";
            return Err(origin.problem("kind", format!("there is no kind {kind} in {version}"), expected));
        }
    };
    Ok(Item { object, origin })
}

/// Kinds of the core group that a dump of a whole namespace holds.
const CORE_KINDS: [&str; 15] = [
    "Binding",
    "ComponentStatus",
    "ConfigMap",
    "Endpoints",
    "Event",
    "LimitRange",
    "Namespace",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "ServiceAccount",
    "Status",
];

fn typed<T: DeserializeOwned>(value: &Value, origin: &Origin) -> Result<Box<T>, Problem> {
    serde_path_to_error::deserialize(value)
        .map(Box::new)
        .map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." { String::new() } else { path };
            let words = error.into_inner().to_string();
            let (what, expected) = match words.split_once(", expected ") {
                Some((what, expected)) => (what.to_string(), expected.to_string()),
                None => (words, "a field as the Kubernetes API has it".to_string()),
            };
            origin.problem(&field, what, expected)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<Vec<Item>, Problem> {
        parse(&SourceFile {
            path: "web.json".into(),
            bytes: text.as_bytes().to_vec(),
        })
    }

    #[test]
    fn half_a_file_is_named_with_its_place() {
        let problem = parse_text("{\"kind\": \"Service\",\n \"spec\": {").unwrap_err();
        assert_eq!((problem.line, problem.file.as_str()), (2, "web.json"));
        assert!(problem.what.contains("EOF"), "{problem}");
        assert_eq!(parse_text("").unwrap_err().what, "the file is empty");
    }

    #[test]
    fn a_wrong_type_names_the_field_inside_the_list() {
        let text = r#"{"apiVersion":"v1","kind":"List","items":[
  {"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},
   "spec":{"ports":[{"port":"eighty"}]}}]}"#;
        let problem = parse_text(text).unwrap_err();
        assert_eq!(problem.field, "items[0].spec.ports[0].port");
        assert_eq!((problem.line, problem.column), (3, 29));
        assert_eq!(problem.expected, "i32");
    }

    #[test]
    fn other_kinds_are_passed_over_and_slips_are_not() {
        let deployment = parse_text(r#"{"apiVersion":"apps/v1","kind":"Deployment"}"#).unwrap();
        assert!(matches!(&deployment[0].object, Object::Other(kind) if kind == "Deployment"));
        let slip = parse_text(r#"{"apiVersion":"v1","kind":"Servise"}"#).unwrap_err();
        assert_eq!(
            slip.to_string(),
            "web.json:1:27: kind: there is no kind Servise in v1; expected Service, EndpointSlice, Pod or Node (other kinds of Kubernetes are passed over)"
        );
    }
}
