//! The registry: JSON files of Kubernetes objects, read strictly. Pure: bytes in, objects or a problem out.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`problem`] | what is wrong, in which file, line, column and field |
//! | [`parse`] | a file's bytes → objects |
//! | [`check`] | one object: what the API server would have refused |
//! | [`store`] | files that come, change and go → the objects in force, and which Services that touches |
//! | [`touched`] | what such an update touches, and what it leaves untold |
//! | [`slice`] | what counts of an EndpointSlice |
//! | [`select`] | Pods that a selector finds → endpoints, as the EndpointSlice controller makes them |
//! | [`model`] | objects → the service ports of one IP family |

pub mod check;
mod claim;
mod content;
mod head;
pub mod model;
pub mod parse;
pub mod problem;
pub mod select;
pub mod slice;
pub mod store;
pub mod touched;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use serde::Serialize;

use problem::Problem;
use slice::Slice;
use store::Store;

/// The label of a slice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// One file of the registry as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The path as messages name it.
    pub path: String,
    /// The content.
    pub bytes: Vec<u8>,
}

/// What tells one object from all others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Identity {
    /// `Service`, `EndpointSlice`, `Pod` or `Node`.
    pub kind: &'static str,
    /// Empty for a Node, which stands in no namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl fmt::Display for Identity {
    /// `Service default/web`, `Node node-1`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// Namespace and name of a Service.
pub type ServiceKey = (String, String);

/// Objects that passed all checks, found by what they are asked for.
#[derive(Debug, Default, Clone)]
pub struct Registry {
    /// All Services.
    pub services: BTreeMap<ServiceKey, Arc<Service>>,
    /// EndpointSlices in the order of their names, under the Service that their label names.
    pub slices: BTreeMap<ServiceKey, Vec<(String, Arc<Slice>)>>,
    /// Pods by name, under their namespace.
    pub pods: BTreeMap<String, BTreeMap<String, Arc<Pod>>>,
    /// All Nodes.
    pub nodes: BTreeMap<String, Arc<Node>>,
    /// What was passed over: `Deployment in web.json`.
    pub ignored: Vec<String>,
}

impl Registry {
    /// Reads all files, in the order of their paths.
    ///
    /// # Errors
    /// Everything that is wrong, one problem for each object at most.
    pub fn read(files: &[SourceFile]) -> Result<Self, Vec<Problem>> {
        Store::read(files).map(Store::into_registry)
    }

    /// How many EndpointSlices there are.
    pub fn slice_count(&self) -> usize {
        self.slices.values().map(Vec::len).sum()
    }

    /// How many Pods there are.
    pub fn pod_count(&self) -> usize {
        self.pods.values().map(BTreeMap::len).sum()
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
