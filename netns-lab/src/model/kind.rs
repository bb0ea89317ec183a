//! The kinds of objects that commands know, and what people call them.

use std::fmt;
use std::str::FromStr;

/// A kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Where pods are.
    Node,
    /// What makes pods.
    Deployment,
    /// Containers that share an address.
    Pod,
    /// A name and an address for many pods.
    Service,
    /// The addresses behind a Service.
    EndpointSlice,
}

impl Kind {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 5] = [
        Self::Node,
        Self::Deployment,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
    ];

    /// As objects say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Deployment => "Deployment",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
        }
    }

    /// The version of the API that has it.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Node | Self::Pod | Self::Service => "v1",
            Self::Deployment => "apps/v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
        }
    }

    /// As kubectl names it with its group: `deployment.apps`.
    pub fn resource(self) -> String {
        let kind = self.name().to_ascii_lowercase();
        match self.api_version().split_once('/') {
            Some((group, _)) => format!("{kind}.{group}"),
            None => kind,
        }
    }

    /// Whether the lab has other pods when one of these comes, goes or changes.
    pub fn makes_pods(self) -> bool {
        matches!(self, Self::Deployment | Self::Pod)
    }

    /// The kind of an object.
    ///
    /// # Errors
    /// In words, when it is none that is known here.
    pub fn of(object: &serde_json::Value) -> Result<Self, String> {
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let (version, name) = (text("apiVersion"), text("kind"));
        let mut known = Self::ALL.into_iter().filter(|kind| kind.name() == name);
        match known.next() {
            Some(kind) if kind.api_version() == version => Ok(kind),
            Some(kind) => Err(format!(
                "apiVersion: {version:?}; expected {:?} for a {name}",
                kind.api_version()
            )),
            None => Err(format!("kind: {name:?}; expected {}", Self::words())),
        }
    }

    fn words() -> String {
        let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
        names.join(", ")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One kind or several, as kubectl takes them: `svc,po`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kinds(pub Vec<Kind>);

impl FromStr for Kinds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut kinds: Vec<Kind> = Vec::new();
        for word in text.split(',') {
            match word.parse()? {
                kind if kinds.contains(&kind) => {}
                kind => kinds.push(kind),
            }
        }
        Ok(Self(kinds))
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "node" | "nodes" | "no" => Ok(Self::Node),
            "deployment" | "deployments" | "deploy" | "deployment.apps" | "deployments.apps" => {
                Ok(Self::Deployment)
            }
            "pod" | "pods" | "po" => Ok(Self::Pod),
            "service" | "services" | "svc" => Ok(Self::Service),
            "endpointslice" | "endpointslices" => Ok(Self::EndpointSlice),
            _ => Err(
                "expected services (svc), pods (po), nodes (no), deployments (deploy) or endpointslices"
                    .into(),
            ),
        }
    }
}
