//! The files of a registry as a list of objects, whatever kind they are.

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The label of a slice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// What tells one object from all others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Its kind, as `Service`.
    pub kind: String,
    /// Its namespace; empty for a Node, which stands in none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for Identity {
    /// `Service default/web`, `Node node-1`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// Kind, namespace and name of an object; `None` where one that it must have is missing.
pub fn identity(value: &Value) -> Option<Identity> {
    let kind = value["kind"].as_str()?.to_string();
    let metadata = &value["metadata"];
    let name = metadata["name"].as_str().filter(|name| !name.is_empty())?;
    let namespace = match metadata["namespace"].as_str() {
        _ if kind == "Node" => "",
        Some(namespace) if !namespace.is_empty() => namespace,
        _ => DEFAULT_NAMESPACE,
    };
    Some(Identity {
        namespace: namespace.to_string(),
        name: name.to_string(),
        kind,
    })
}

/// The objects in a file: the one that it is, or those of its list.
///
/// # Errors
/// When it is no JSON.
pub fn values(text: &[u8]) -> Result<Vec<Value>, serde_json::Error> {
    Ok(flattened(serde_json::from_slice(text)?))
}

/// An object, or those that a list of it holds.
pub fn flattened(value: Value) -> Vec<Value> {
    match value {
        Value::Object(mut fields) if is_list(&fields) => match fields.remove("items") {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        },
        other => vec![other],
    }
}

fn is_list(fields: &serde_json::Map<String, Value>) -> bool {
    let kind = fields.get("kind").and_then(Value::as_str);
    kind.is_some_and(|kind| kind.ends_with("List")) && fields.get("items").is_some_and(Value::is_array)
}

/// An object of a kind that names and endpoints come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// v1 Service
    Service(Box<Service>),
    /// discovery.k8s.io/v1 EndpointSlice
    Slice(Box<EndpointSlice>),
    /// v1 Pod
    Pod(Box<Pod>),
}

impl Object {
    /// The typed object; `None` for other kinds and for what does not fit its type.
    pub fn of(value: &Value) -> Option<Self> {
        // Two groups could have kinds of one name; of these three they do not, but for Knative's.
        match (value["apiVersion"].as_str()?, value["kind"].as_str()?) {
            ("v1", "Service") => typed(value).map(Self::Service),
            ("v1", "Pod") => typed(value).map(Self::Pod),
            ("discovery.k8s.io/v1", "EndpointSlice") => typed(value).map(Self::Slice),
            _ => None,
        }
    }
}

fn typed<T: DeserializeOwned>(value: &Value) -> Option<Box<T>> {
    T::deserialize(value).ok().map(Box::new)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_is_an_object_or_a_list_of_them() {
        let list =
            br#"{"apiVersion":"v1","kind":"List","items":[{"kind":"Node","metadata":{"name":"a"}},7]}"#;
        let found = values(list).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(identity(&found[0]).unwrap().to_string(), "Node a");
        assert_eq!(identity(&found[1]), None);
        assert_eq!(values(b"{}").unwrap(), [json!({})]);
        assert!(values(b"{").is_err());
    }

    #[test]
    fn only_what_fits_its_type_is_an_object() {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {}});
        assert!(matches!(Object::of(&service), Some(Object::Service(_))));
        assert_eq!(identity(&service).unwrap().to_string(), "Service default/web");
        let foreign = json!({"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {}});
        assert_eq!(Object::of(&foreign), None);
        let wrong = json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": 7}});
        assert_eq!(Object::of(&wrong), None);
    }
}
