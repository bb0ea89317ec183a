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

/// One kind or several, as kubectl takes them: `svc,po`, `all`, or `svc/web` for one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kinds {
    /// The kinds, in the order in which they were said.
    pub kinds: Vec<Kind>,
    /// The object that was named with its kind.
    pub name: Option<String>,
}

impl Kinds {
    /// The name in a further word: `svc/web` or just `web`.
    pub fn name_in<'a>(&self, word: &'a str) -> &'a str {
        match word.split_once('/') {
            Some((kind, name)) if kind.parse().is_ok_and(|kind| self.kinds == [kind]) => name,
            _ => word,
        }
    }
}

impl FromStr for Kinds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((kind, name)) = text.split_once('/') {
            return Ok(Self {
                kinds: vec![kind.parse()?],
                name: Some(name.to_string()),
            });
        }
        let mut kinds: Vec<Kind> = Vec::new();
        // What kubectl means by it: what runs, and what leads to it.
        let all = format!("{},{},{}", Kind::Pod, Kind::Service, Kind::Deployment);
        let text = if text == "all" { &all } else { text };
        for word in text.split(',') {
            match word.parse()? {
                kind if kinds.contains(&kind) => {}
                kind => kinds.push(kind),
            }
        }
        Ok(Self { kinds, name: None })
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
            "endpointslice" | "endpointslices" | "endpoints" | "ep" => Ok(Self::EndpointSlice),
            _ => Err(
                "expected services (svc), pods (po), nodes (no), deployments (deploy) or endpointslices"
                    .into(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_called_as_kubectl_calls_them() {
        let kinds = |text: &str| text.parse::<Kinds>().unwrap();
        assert_eq!(kinds("svc,po,svc").kinds, [Kind::Service, Kind::Pod]);
        assert_eq!(kinds("ep").kinds, [Kind::EndpointSlice]);
        assert_eq!(kinds("all").kinds, [Kind::Pod, Kind::Service, Kind::Deployment]);
        let one = kinds("svc/web");
        assert_eq!(
            (&one.kinds[..], one.name.as_deref()),
            (&[Kind::Service][..], Some("web"))
        );
        assert_eq!(
            (one.name_in("service/door"), one.name_in("pod/x")),
            ("door", "pod/x")
        );
        for text in ["", "secrets", "svc,", "secret/web"] {
            assert!(text.parse::<Kinds>().is_err(), "{text:?}");
        }
    }
}
