//! The bytes of one file → objects that remember where they stand.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use labkit::locate::{Step, parse_path, path_text, position};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use super::head::Head;
use super::problem::Problem;
use super::{Identity, SERVICE_NAME_LABEL, SourceFile};

/// An object of one of the kinds that rules are made from.
#[derive(Debug, Clone)]
pub enum Object {
    /// v1 Service
    Service(Arc<Service>),
    /// discovery.k8s.io/v1 EndpointSlice
    EndpointSlice(Arc<EndpointSlice>),
    /// v1 Pod
    Pod(Arc<Pod>),
    /// v1 Node
    Node(Arc<Node>),
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
    pub file: Arc<str>,
    /// Where in the text the object is.
    range: (usize, usize),
    /// Line and column of the object's beginning.
    begin: (usize, usize),
    /// Which item of a list it is.
    index: Option<usize>,
}

impl Origin {
    /// A problem with one field of the object that stands here; where in the file's text the field
    /// is can only be told with that text.
    pub fn problem(
        &self,
        text: Option<&str>,
        field: impl Display,
        what: impl Into<String>,
        expected: impl Into<String>,
    ) -> Problem {
        let inner = parse_path(&field.to_string());
        let object = text.and_then(|text| text.get(self.range.0..self.range.1));
        let (line, column) = object.map_or(self.begin, |object| self.position(object, &inner));
        let mut path = Vec::new();
        if let Some(index) = self.index {
            path.extend([Step::Key("items".into()), Step::Index(index)]);
        }
        path.extend(inner);
        Problem {
            file: self.file.to_string(),
            line,
            column,
            field: path_text(&path),
            what: what.into(),
            expected: expected.into(),
            object: None,
        }
    }

    fn position(&self, object: &str, path: &[Step]) -> (usize, usize) {
        let (line, column) = self.begin;
        match position(object, path) {
            (1, inner) => (line, column + inner - 1),
            (below, inner) => (line + below - 1, inner),
        }
    }
}

/// Where an object stands, and the text of the whole file: places of fields are looked for in it.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// Where it stands.
    pub origin: Origin,
    text: &'a str,
}

impl Place<'_> {
    /// A problem with one field of the object that stands here.
    pub fn problem(
        &self,
        field: impl Display,
        what: impl Into<String>,
        expected: impl Into<String>,
    ) -> Problem {
        self.origin.problem(Some(self.text), field, what, expected)
    }
}

/// One object and where it stands.
#[derive(Debug, Clone)]
pub struct Item<'a> {
    /// The object.
    pub object: Object,
    /// Where it stands.
    pub place: Place<'a>,
}

impl Item<'_> {
    /// A problem with one field of this object.
    pub fn problem(
        &self,
        field: impl Display,
        what: impl Into<String>,
        expected: impl Into<String>,
    ) -> Problem {
        self.place.problem(field, what, expected)
    }
}

/// An object that cannot be taken, and what can still be told of it.
#[derive(Debug, Clone)]
pub struct Refused {
    /// What is wrong.
    pub problem: Problem,
    /// Which object it is, if that can be read.
    pub identity: Option<Identity>,
    /// The Service that a slice is of.
    pub service: Option<String>,
}

/// An object of a file, or why it is none.
pub type Parsed<'a> = Result<Item<'a>, Box<Refused>>;

/// Reads one file: a single object, or a list of them as kubectl prints it.
///
/// # Errors
/// What is wrong with its JSON. Objects that cannot be taken are told one by one.
pub fn parse(file: &SourceFile) -> Result<Vec<Parsed<'_>>, Problem> {
    let broken = |line, column, what: String| Problem {
        file: file.path.clone(),
        line,
        column,
        field: String::new(),
        what,
        expected: "JSON of one Kubernetes object or a v1.List, as `kubectl get -o json` prints it".into(),
        object: None,
    };
    let text = std::str::from_utf8(&file.bytes).map_err(|error| {
        let before = &file.bytes[..error.valid_up_to()];
        let line = before.split(|byte| *byte == b'\n').count();
        broken(line, 1, "this is not UTF-8 text".into())
    })?;
    if text.trim().is_empty() {
        return Err(broken(1, 1, "the file is empty".into()));
    }
    let items = list(text).map_err(|error| {
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or(&what).to_string();
        broken(error.line(), error.column().max(1), what)
    })?;
    let whole = text.trim();
    let mut places = Places::new(&file.path, text);
    let place = places.place(whole, None);
    match items {
        None => Ok(vec![object(whole, place)]),
        Some(Items::Of(items)) => {
            let one =
                |(index, item): (usize, &RawValue)| object(item.get(), places.place(item.get(), Some(index)));
            Ok(items.into_iter().enumerate().map(one).collect())
        }
        Some(Items::Missing) => Err(place.problem("items", "a list without items", "an array of objects")),
    }
}

/// Tells lines and columns of values that are asked for from the head of a text to its end.
struct Places<'a> {
    file: Arc<str>,
    text: &'a str,
    at: usize,
    line: usize,
    column: usize,
}

impl<'a> Places<'a> {
    fn new(path: &str, text: &'a str) -> Self {
        Self {
            file: path.into(),
            text,
            at: 0,
            line: 1,
            column: 1,
        }
    }

    /// Of a value that was borrowed from the text.
    fn place(&mut self, value: &str, index: Option<usize>) -> Place<'a> {
        let start = (value.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let passed = self.text.get(self.at..start).unwrap_or_default();
        if let Some(newline) = passed.rfind('\n') {
            self.line += passed.matches('\n').count();
            self.column = passed[newline + 1..].chars().count() + 1;
        } else {
            self.column += passed.chars().count();
        }
        self.at = self.at.max(start);
        Place {
            origin: Origin {
                file: Arc::clone(&self.file),
                range: (start, start + value.len()),
                begin: (self.line, self.column),
                index,
            },
            text: self.text,
        }
    }
}

enum Items<'a> {
    Of(Vec<&'a RawValue>),
    Missing,
}

/// The items of a list; `None` when this is no list.
///
/// # Errors
/// When the text is no JSON.
fn list(text: &str) -> Result<Option<Items<'_>>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Outline<'a> {
        #[serde(borrow)]
        kind: &'a str,
        #[serde(borrow)]
        items: Option<Vec<&'a RawValue>>,
    }
    // An array would be taken for the fields in their order.
    let is_object = text.trim_start().starts_with('{');
    Ok(match is_object.then(|| serde_json::from_str(text)) {
        Some(Ok(Outline { kind, .. })) if !kind.ends_with("List") => None,
        Some(Ok(Outline {
            items: Some(items), ..
        })) => Some(Items::Of(items)),
        // Slower, and exact about what is missing and what is said twice.
        _ => list_by_fields(serde_json::from_str::<&RawValue>(text)?.get()),
    })
}

fn list_by_fields(whole: &str) -> Option<Items<'_>> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(whole).ok()?;
    let kind: String = serde_json::from_str(fields.get("kind")?.get()).ok()?;
    if !kind.ends_with("List") {
        return None;
    }
    Some(match fields.get("items").map(|items| items.get()) {
        Some("null") => Items::Of(Vec::new()),
        Some(items) => serde_json::from_str(items).map_or(Items::Missing, Items::Of),
        None => Items::Missing,
    })
}

fn object<'a>(text: &str, place: Place<'a>) -> Parsed<'a> {
    if let Some(object) = directly(text) {
        return Ok(Item { object, place });
    }
    // Slower, and with words for what is wrong.
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        // The whole is JSON by its signs; half a UTF-16 pair in a text, say, is found only now.
        Err(error) => {
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or(&what);
            return Err(Box::new(Refused {
                problem: place.problem("", what, "text of whole characters, and numbers that can be"),
                identity: None,
                service: None,
            }));
        }
    };
    match object_of(&value, &place) {
        Ok(object) => Ok(Item { object, place }),
        Err(problem) => Err(Box::new(Refused {
            problem: *problem,
            identity: identity(&value),
            service: service(&value),
        })),
    }
}

/// Reads an object of a kind that counts in one go; `None` when anything is amiss.
fn directly(text: &str) -> Option<Object> {
    // These readers refuse another kind or version than theirs, wherever it is said.
    fn read<T: DeserializeOwned>(text: &str) -> Option<Arc<T>> {
        serde_json::from_str(text).ok().map(Arc::new)
    }
    match Head::of(text)? {
        ("v1", "Service") => read(text).map(Object::Service),
        ("discovery.k8s.io/v1", "EndpointSlice") => read(text).map(Object::EndpointSlice),
        ("v1", "Pod") => read(text).map(Object::Pod),
        ("v1", "Node") => read(text).map(Object::Node),
        _ => None,
    }
}

/// Which object this would be, if it says so in words.
fn identity(value: &Value) -> Option<Identity> {
    let kinds = ["Service", "EndpointSlice", "Pod", "Node"];
    let kind = value.get("kind")?.as_str()?;
    let kind = kinds.into_iter().find(|known| *known == kind)?;
    let metadata = value.get("metadata")?;
    let namespace = match (kind, metadata.get("namespace")) {
        ("Node", _) => "",
        (_, None | Some(Value::Null)) => "default",
        (_, Some(namespace)) => namespace.as_str()?,
    };
    Some(Identity {
        kind,
        namespace: namespace.to_string(),
        name: metadata.get("name")?.as_str()?.to_string(),
    })
}

fn service(value: &Value) -> Option<String> {
    let labels = value.get("metadata")?.get("labels")?;
    Some(labels.get(SERVICE_NAME_LABEL)?.as_str()?.to_string())
}

fn object_of(value: &Value, place: &Place<'_>) -> Result<Object, Box<Problem>> {
    let field = |name: &str| match value.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(place.problem(name, format!("{name} is no text"), "text in quotes")),
        None => Err(place.problem(
            name,
            format!("{name} is missing"),
            "apiVersion and kind, as kubectl prints them",
        )),
    };
    let (version, kind) = (field("apiVersion")?, field("kind")?);
    Ok(match (version, kind) {
        ("v1", "Service") => Object::Service(typed(value, place)?),
        ("discovery.k8s.io/v1", "EndpointSlice") => Object::EndpointSlice(typed(value, place)?),
        ("v1", "Pod") => Object::Pod(typed(value, place)?),
        ("v1", "Node") => Object::Node(typed(value, place)?),
        // Other groups are other people's objects; in the core group a kind that nobody knows is a slip.
        (_, kind) if !OUR_KINDS.contains(&kind) && (version.contains('/') || CORE_KINDS.contains(&kind)) => {
            Object::Other(kind.to_string())
        }
        (_, kind) => return Err(Box::new(wrong_kind(place, version, kind))),
    })
}

const OUR_KINDS: [&str; 4] = ["Service", "EndpointSlice", "Pod", "Node"];

fn wrong_kind(place: &Place<'_>, version: &str, kind: &str) -> Problem {
    let said = format!("{kind} of version {version}");
    match kind {
        "EndpointSlice" => place.problem("apiVersion", said, "discovery.k8s.io/v1"),
        kind if OUR_KINDS.contains(&kind) => place.problem("apiVersion", said, "v1"),
        kind => place.problem(
            "kind",
            format!("there is no kind {kind} in {version}"),
            "Service, EndpointSlice, Pod or Node (other kinds of Kubernetes are passed over)",
        ),
    }
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

fn typed<T: DeserializeOwned>(value: &Value, place: &Place<'_>) -> Result<Arc<T>, Problem> {
    serde_path_to_error::deserialize(value)
        .map(Arc::new)
        .map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." { String::new() } else { path };
            let words = error.into_inner().to_string();
            let (what, expected) = match words.split_once(", expected ") {
                Some((what, expected)) => (what.to_string(), expected.to_string()),
                None => (words, "a field as the Kubernetes API has it".to_string()),
            };
            place.problem(&field, what, expected)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<Vec<Object>, Problem> {
        let file = SourceFile {
            path: "web.json".into(),
            bytes: text.as_bytes().to_vec(),
        };
        let items = parse(&file)?.into_iter().map(|item| item.map(|item| item.object));
        items.collect::<Result<_, _>>().map_err(|refused| refused.problem)
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
        assert!(matches!(&deployment[0], Object::Other(kind) if kind == "Deployment"));
        let slip = parse_text(r#"{"apiVersion":"v1","kind":"Servise"}"#).unwrap_err();
        assert_eq!(
            slip.to_string(),
            "web.json:1:27: kind: there is no kind Servise in v1; expected Service, EndpointSlice, Pod or Node (other kinds of Kubernetes are passed over)"
        );
    }
}
