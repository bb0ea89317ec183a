//! The registry: JSON files of Kubernetes objects, read strictly. Pure: bytes in, objects or a problem out.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`problem`] | what is wrong, in which file, line, column and field |
//! | [`locate`] | the line and column of a field |
//! | [`parse`] | a file's bytes → objects |
//! | [`check`] | one object: what the API server would have refused |
//! | [`select`] | Pods that a selector finds → endpoints, as the EndpointSlice controller makes them |
//! | [`model`] | objects → the service ports of one IP family |

pub mod check;
pub mod locate;
pub mod model;
pub mod parse;
pub mod problem;
pub mod select;

use std::collections::BTreeMap;
use std::rc::Rc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use parse::{Item, Object};
use problem::Problem;

/// One file of the registry as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The path as messages name it.
    pub path: String,
    /// The content.
    pub bytes: Vec<u8>,
}

/// Everything the files say, checked.
#[derive(Debug, Default, Clone)]
pub struct Registry {
    /// All Services.
    pub services: Vec<Service>,
    /// All EndpointSlices.
    pub slices: Vec<EndpointSlice>,
    /// All Pods.
    pub pods: Vec<Pod>,
    /// All Nodes.
    pub nodes: Vec<Node>,
    /// What was passed over: `Deployment default/web in web.json`.
    pub ignored: Vec<String>,
}

impl Registry {
    /// Reads all files, in the order of their paths.
    ///
    /// # Errors
    /// Everything that is wrong, one problem for each object at most.
    pub fn read(files: &[SourceFile]) -> Result<Self, Vec<Problem>> {
        let mut registry = Self::default();
        let mut problems = Vec::new();
        let mut seen = Seen::default();
        for file in files {
            match parse::parse(file) {
                Ok(items) => {
                    for item in items {
                        match check::check(&item).and_then(|()| seen.add(&item)) {
                            Ok(()) => registry.add(item),
                            Err(problem) => problems.push(problem),
                        }
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() {
            Ok(registry)
        } else {
            Err(problems)
        }
    }

    fn add(&mut self, item: Item) {
        match item.object {
            Object::Service(service) => self.services.push(*service),
            Object::EndpointSlice(slice) => self.slices.push(*slice),
            Object::Pod(pod) => self.pods.push(*pod),
            Object::Node(node) => self.nodes.push(*node),
            Object::Other(what) => self.ignored.push(format!("{what} in {}", item.origin.file)),
        }
    }
}

/// What only one object may have: its name, and a Service its cluster IPs.
#[derive(Default)]
struct Seen {
    names: BTreeMap<(&'static str, String, String), Rc<str>>,
    addresses: BTreeMap<String, String>,
}

impl Seen {
    fn add(&mut self, item: &Item) -> Result<(), Problem> {
        let Some((kind, metadata)) = item.object.identity() else {
            return Ok(());
        };
        // A Node stands in no namespace.
        let namespace = if kind == "Node" {
            ""
        } else {
            namespace_of(metadata)
        };
        let key = (kind, namespace.to_string(), name_of(metadata).to_string());
        if let Some(first) = self.names.get(&key) {
            return Err(item.problem(
                "metadata.name",
                match kind {
                    "Node" => format!("there is another Node {}, in {first}", key.2),
                    _ => format!("there is another {kind} {}/{}, in {first}", key.1, key.2),
                },
                "one object for each kind, namespace and name",
            ));
        }
        if let Object::Service(service) = &item.object {
            for address in model::cluster_ips(service) {
                if let Some(owner) = self.addresses.get(&address) {
                    return Err(item.problem(
                        "spec.clusterIP",
                        format!("{address} belongs to Service {owner}"),
                        "an address that no other Service has",
                    ));
                }
                self.addresses.insert(address, format!("{}/{}", key.1, key.2));
            }
        }
        self.names.insert(key, Rc::clone(&item.origin.file));
        Ok(())
    }
}

/// The namespace; `default` when none is given, as kubectl would fill in.
pub fn namespace_of(metadata: &ObjectMeta) -> &str {
    metadata.namespace.as_deref().unwrap_or("default")
}

/// The name; empty when none is given, which the checks refuse.
pub fn name_of(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}
