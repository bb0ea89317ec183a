//! The topology: what the user asked for, before addresses and names of links.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::address::MAX_PODS;
use super::agreement::agree;
use super::container::ContainerSpec;
use super::name::Label;
use super::quantity::{Cpu, Memory};
use crate::dns::upstream::UpstreamServer;
use reading::{
    InWords as _, Object, describe, room_for_pods, unique_containers, unique_labels, unique_nodes,
    unique_pods, unique_ports,
};

pub(super) use reading::unique_ports as read_ports;

#[path = "topology_reading.rs"]
mod reading;

/// The most nodes of a lab: as many as ranges of the usual size are in 10.244.0.0/16, and as the
/// underlay's bridge takes.
pub const MAX_NODES: usize = 100;
/// The most pods of a lab.
pub const MAX_PODS_OF_ALL: usize = 10_000;

/// Nodes and the pods on them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Topology {
    /// Where editors find what may be in such a file; nothing here asks.
    #[serde(default, rename = "$schema", skip_serializing)]
    pub schema: Option<String>,
    /// The nodes. Empty where nobody has named any.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "unique_nodes"
    )]
    pub nodes: Vec<NodeSpec>,
    /// Even a single node is a network namespace of its own; several always are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// Everything has an IPv6 address, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dual_stack: bool,
    /// How pods of different nodes reach each other; none is by plain routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
    /// Whether the lab has a name server of its own; where nobody says, it depends on its nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<bool>,
    /// Whom that asks for names of elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_upstream: Option<UpstreamServer>,
    /// The pods, in the order in which addresses are given.
    #[serde(deserialize_with = "unique_pods")]
    pub pods: Vec<PodSpec>,
}

/// A network of its own between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Overlay {
    /// Packets between pods travel in UDP packets between nodes.
    Vxlan,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Its name.
    pub name: Label,
    /// Labels of its object, besides those that every node has.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "unique_labels"
    )]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// The zone it is in (`topology.kubernetes.io/zone`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<LabelValue>,
    /// How many pods it takes at most.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "room_for_pods"
    )]
    pub pods: Option<usize>,
    /// How much CPU time its pods may ask for together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// How much memory its pods may ask for together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

impl NodeSpec {
    /// A node of which only the name is said.
    pub fn named(name: Label) -> Self {
        Self {
            name,
            labels: BTreeMap::new(),
            zone: None,
            pods: None,
            cpu: None,
            memory: None,
        }
    }
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodSpec {
    /// Its name.
    pub name: Label,
    /// The node that it must be on; the scheduler chooses one where none is said.
    #[serde(rename = "nodeName", default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Label>,
    /// The CPU time that it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// The memory that it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// The labels that Services select by.
    #[serde(default, deserialize_with = "unique_labels")]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// What runs in it.
    #[serde(default)]
    pub app: App,
    /// What the app listens on.
    #[serde(default = "default_ports", deserialize_with = "unique_ports")]
    pub ports: Vec<Port>,
    /// Its containers, where it is more than the one app; `app` and `ports` then say nothing.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "unique_containers"
    )]
    pub containers: Vec<ContainerSpec>,
}

/// What runs in a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum App {
    /// The built-in app, `netns-lab serve`, on the pod's ports.
    #[default]
    Serve,
    /// Nothing: start what you like with `netns-lab exec`.
    None,
}

/// A port that the app listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Port {
    /// Its name, which a Service may use as `targetPort`.
    pub name: PortName,
    /// Its number.
    pub container_port: PortNumber,
    /// TCP unless said otherwise.
    #[serde(default)]
    pub protocol: Protocol,
    /// What it answers: `http` on TCP and `echo` on UDP unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
}

/// A transport protocol, named as Kubernetes names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// `TCP` or `UDP`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// How the built-in app answers on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answers {
    /// HTTP/1.1.
    Http,
    /// One line for each line or datagram.
    Echo,
}

impl Port {
    /// What the app answers here.
    pub fn answers(&self) -> Answers {
        match (self.answers, self.protocol) {
            (_, Protocol::Udp) | (Some(Answers::Echo), _) => Answers::Echo,
            _ => Answers::Http,
        }
    }
}

impl Topology {
    /// `N-pods`: `web-1` to `web-N`, labelled `app=web`.
    pub fn web_pods(number: usize) -> Self {
        let pods = (1..=number)
            .map(|number| PodSpec {
                name: Label::web(number),
                node_name: None,
                cpu: None,
                memory: None,
                labels: web_labels(),
                app: App::Serve,
                ports: default_ports(),
                containers: Vec::new(),
            })
            .collect();
        Self {
            schema: None,
            nodes: Vec::new(),
            isolated: false,
            dual_stack: false,
            overlay: None,
            dns: None,
            dns_upstream: None,
            pods,
        }
    }

    /// What `3-pods` or `2-nodes-6-pods` means in a lab of this name; `None` when the text has
    /// another form.
    pub fn from_words(text: &str, lab: &Label) -> Option<Result<Self, String>> {
        let Some((nodes, pods)) = text.split_once("-nodes-").or_else(|| text.split_once("-node-")) else {
            return Self::number_of_pods(text).map(|number| number.map(Self::web_pods));
        };
        let (nodes, pods) = (number(nodes)?, Self::number_of_pods(pods)?);
        let both = nodes.and_then(|nodes| Ok((check_nodes(nodes)?, pods?)));
        Some(both.map(|(nodes, pods)| {
            Self {
                nodes: (1..=nodes)
                    .map(|number| NodeSpec::named(Label::node(lab, number)))
                    .collect(),
                isolated: true,
                ..Self::web_pods(pods)
            }
        }))
    }

    /// The number in `3-pods`; `None` when the text has another form.
    pub fn number_of_pods(text: &str) -> Option<Result<usize, String>> {
        let digits = text.strip_suffix("-pods").or_else(|| text.strip_suffix("-pod"))?;
        Some(number(digits)?.and_then(|number| check_number(number).map(|()| number)))
    }

    /// Whether the nodes are network namespaces of their own.
    pub fn has_own_nodes(&self) -> bool {
        self.isolated || self.dual_stack || self.overlay.is_some() || self.nodes.len() > 1
    }

    /// Reads a topology file.
    ///
    /// # Errors
    /// `3:9: pods[0].name: what is there; what was expected`.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        if text.trim_ascii().is_empty() {
            return Err(format!("1:1: the file is empty; expected {}", Self::WORDS));
        }
        let mut json = serde_json::Deserializer::from_slice(text);
        let Object(topology): Object<Self> =
            serde_path_to_error::deserialize(&mut json).map_err(|error| {
                let path = error.path().to_string();
                describe(&path, error.inner())
            })?;
        json.end().map_err(|error| describe(".", &error))?;
        agree(&topology, &String::from_utf8_lossy(text))?;
        Ok(topology)
    }
}

/// `12`; `None` when it is no number at all.
fn number(digits: &str) -> Option<Result<usize, String>> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return Some(Err(
            "expected a number without leading zeros, such as 3-pods".to_string()
        ));
    }
    Some(Ok(digits.parse().unwrap_or(usize::MAX)))
}

/// What all nodes of a lab may have together; each node's bridge has a limit of its own.
fn check_number(pods: usize) -> Result<(), String> {
    match pods {
        0 => Err("a lab has at least one pod".into()),
        _ if pods > MAX_PODS_OF_ALL => Err(format!("a lab takes at most {MAX_PODS_OF_ALL} pods")),
        _ => Ok(()),
    }
}

fn check_nodes(nodes: usize) -> Result<usize, String> {
    match nodes {
        0 => Err("a lab has at least one node".into()),
        _ if nodes > MAX_NODES => Err(format!("a lab takes at most {MAX_NODES} nodes")),
        _ => Ok(nodes),
    }
}

fn web_labels() -> BTreeMap<LabelKey, LabelValue> {
    BTreeMap::from([(LabelKey("app".into()), LabelValue("web".into()))])
}

/// The labels that the Service of the name server selects by.
pub fn name_server_labels() -> BTreeMap<LabelKey, LabelValue> {
    BTreeMap::from([(LabelKey("k8s-app".into()), LabelValue("kube-dns".into()))])
}

/// DNS over both protocols.
pub fn name_server_ports() -> Vec<Port> {
    let port = |name: &str, protocol| Port {
        name: PortName(name.into()),
        container_port: PortNumber(crate::dns::upstream::PORT),
        protocol,
        answers: None,
    };
    vec![port("dns", Protocol::Udp), port("dns-tcp", Protocol::Tcp)]
}

/// HTTP on 8080; TCP and UDP echo on 8081.
pub fn default_ports() -> Vec<Port> {
    let port = |name: &str, number, protocol, answers| Port {
        name: PortName(name.into()),
        container_port: PortNumber(number),
        protocol,
        answers,
    };
    vec![
        port("http", 8080, Protocol::Tcp, None),
        port("echo", 8081, Protocol::Tcp, Some(Answers::Echo)),
        port("echo-udp", 8081, Protocol::Udp, None),
    ]
}

/// A text with a rule of its own, checked while it is read so that an error knows its line.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:expr, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                let check: fn(&str) -> bool = $check;
                if check(&text) {
                    Ok(Self(text))
                } else {
                    Err(format!("expected {}, got {text:?}", $expected))
                }
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }
    };
}

checked_text!(
    /// The key of a label: a name, perhaps behind a DNS prefix and a slash.
    LabelKey,
    |text| match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_name(name),
        None => is_name(text),
    },
    "a label key such as \"app\" or \"example.com/tier\""
);

checked_text!(
    /// The value of a label; it may be empty.
    LabelValue,
    |text| text.is_empty() || is_name(text),
    "a label value (at most 63 of a-z, A-Z, 0-9, \"-\", \"_\" and \".\", with a letter or digit at both ends)"
);

checked_text!(
    /// The name of a port, as IANA names services.
    PortName,
    is_port_name,
    "a port name (1 to 15 of a-z, 0-9 and \"-\", with at least one letter)"
);

fn is_name(text: &str) -> bool {
    let ends = |byte: &u8| byte.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(ends)
        && bytes.last().is_some_and(ends)
        && bytes.iter().all(|byte| ends(byte) || b"-_.".contains(byte))
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|part| Label::new(part).is_ok())
}

fn is_port_name(text: &str) -> bool {
    text.len() <= 15
        && Label::new(text).is_ok()
        && !text.contains("--")
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// A port number, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u16")]
pub struct PortNumber(u16);

impl PortNumber {
    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<i64> for PortNumber {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        match u16::try_from(number) {
            Ok(number) if number > 0 => Ok(Self(number)),
            _ => Err(format!("expected a port from 1 to 65535, got {number}")),
        }
    }
}

impl From<PortNumber> for u16 {
    fn from(port: PortNumber) -> Self {
        port.0
    }
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
