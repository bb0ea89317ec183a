//! How a topology file is read: each check while its place in the file is known.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::super::container::ContainerSpec;
use super::{
    Answers, LabelKey, LabelValue, MAX_PODS, NodeSpec, PodSpec, Port, Protocol, Topology, check_nodes,
    check_number, default_ports,
};
use crate::model::name::{OUTSIDE, UNDERLAY};

pub(super) fn unique_nodes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NodeSpec>, D::Error> {
    let mut names = BTreeSet::new();
    let nodes = collect(deserializer, "a list of nodes", |nodes: &[NodeSpec], node| {
        check_nodes(nodes.len() + 1)?;
        let taken = match node.name.as_str() {
            OUTSIDE => Some("the host beside the nodes"),
            UNDERLAY => Some("the network between the nodes"),
            _ => None,
        };
        if let Some(taken) = taken {
            return Err(format!(
                "[{}].name: {} is {taken}; expected another name",
                nodes.len(),
                node.name
            ));
        }
        if names.insert(node.name.clone()) {
            Ok(())
        } else {
            Err(format!(
                "[{}].name: two nodes are named {}; expected another name",
                nodes.len(),
                node.name
            ))
        }
    })?;
    if nodes.is_empty() {
        return Err(de::Error::custom("expected at least one node, got an empty list"));
    }
    Ok(nodes)
}

/// How many pods a node takes: at least one, at most what a bridge does.
pub(super) fn room_for_pods<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let number = i64::deserialize(deserializer)?;
    match usize::try_from(number) {
        Ok(number @ 1..=MAX_PODS) => Ok(Some(number)),
        _ => Err(de::Error::custom(format!(
            "expected a number of pods from 1 to {MAX_PODS}, got {number}"
        ))),
    }
}

pub(super) fn unique_pods<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PodSpec>, D::Error> {
    let mut names = BTreeSet::new();
    let pods = collect(deserializer, "a list of pods", |pods: &[PodSpec], pod| {
        check_number(pods.len() + 1)?;
        if names.insert(pod.name.clone()) {
            Ok(())
        } else {
            Err(format!(
                "[{}].name: two pods are named {}; expected another name",
                pods.len(),
                pod.name
            ))
        }
    })?;
    check_number(pods.len()).map_err(de::Error::custom)?;
    Ok(pods)
}

/// Containers share the pod's network, and so its ports.
pub(super) fn unique_containers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<ContainerSpec>, D::Error> {
    let mut taken = BTreeSet::new();
    let containers = collect(
        deserializer,
        "a list of containers",
        |before: &[ContainerSpec], container| {
            let place = before.len();
            if before.iter().any(|other| other.name == container.name) {
                return Err(format!(
                    "[{place}].name: two containers are named {}; expected another name",
                    container.name
                ));
            }
            if let Some(why) = container.contradiction() {
                return Err(format!("[{place}]: {why}"));
            }
            let usual = if container.is_app() && container.ports.is_empty() {
                default_ports()
            } else {
                Vec::new()
            };
            for port in usual.iter().chain(&container.ports) {
                let (number, protocol) = (port.container_port.get(), port.protocol.name());
                if !taken.insert((number, protocol)) {
                    return Err(format!(
                        "[{place}].ports: another container of the pod has {number}/{protocol}; expected another port"
                    ));
                }
            }
            Ok(())
        },
    )?;
    Ok(containers)
}

pub(in super::super) fn unique_ports<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Port>, D::Error> {
    collect(deserializer, "a list of ports", |ports: &[Port], port| {
        if port.protocol == Protocol::Udp && port.answers == Some(Answers::Http) {
            return Err("expected \"echo\" on a UDP port: HTTP here is HTTP/1.1".to_string());
        }
        for other in ports {
            if other.name == port.name {
                return Err(format!(
                    "[{}].name: two ports are named {}; expected another name",
                    ports.len(),
                    port.name.as_str()
                ));
            }
            if (other.container_port, other.protocol) == (port.container_port, port.protocol) {
                let (number, protocol) = (port.container_port.get(), port.protocol.name());
                return Err(format!(
                    "{number}/{protocol} is there twice: expected another port"
                ));
            }
        }
        Ok(())
    })
}

/// What an object is called where another thing stands in its place.
pub(super) trait InWords {
    const WORDS: &'static str;
}

impl InWords for Topology {
    const WORDS: &'static str = r#"an object such as {"pods": [{"name": "db"}]}"#;
}

impl InWords for NodeSpec {
    const WORDS: &'static str = r#"an object such as {"name": "node-1"}"#;
}

impl InWords for PodSpec {
    const WORDS: &'static str = r#"an object such as {"name": "db"}"#;
}

impl InWords for ContainerSpec {
    const WORDS: &'static str = r#"an object such as {"name": "side", "command": ["sleep", "60"]}"#;
}

impl InWords for Port {
    const WORDS: &'static str = r#"an object such as {"name": "sql", "containerPort": 5432}"#;
}

/// An object of JSON and nothing else: serde would take a list of the values, too.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de> + InWords> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de> + InWords> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::WORDS)
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(fields))
            }
        }
        deserializer
            .deserialize_map(Fields(std::marker::PhantomData))
            .map(Self)
    }
}

pub(super) fn unique_labels<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<LabelKey, LabelValue>, D::Error> {
    struct Labels;
    impl<'de> Visitor<'de> for Labels {
        type Value = BTreeMap<LabelKey, LabelValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(r#"an object such as {"app": "web"}"#)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
            let mut labels = BTreeMap::new();
            while let Some((key, value)) = fields.next_entry::<LabelKey, LabelValue>()? {
                if labels.contains_key(&key) {
                    return Err(de::Error::custom(format!(
                        "the label {} is there twice; expected it once",
                        key.as_str()
                    )));
                }
                labels.insert(key, value);
            }
            Ok(labels)
        }
    }
    deserializer.deserialize_map(Labels)
}

/// Reads a list and checks each element as soon as it is read, so that an error knows its line.
fn collect<'de, D, T, F>(deserializer: D, expected: &'static str, check: F) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
    F: FnMut(&[T], &T) -> Result<(), String>,
    T: InWords,
{
    struct List<T, F> {
        expected: &'static str,
        check: F,
        element: std::marker::PhantomData<T>,
    }
    impl<'de, T: Deserialize<'de> + InWords, F: FnMut(&[T], &T) -> Result<(), String>> Visitor<'de>
        for List<T, F>
    {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.expected)
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut read = Vec::new();
            while let Some(Object(element)) = list.next_element()? {
                (self.check)(&read, &element).map_err(de::Error::custom)?;
                read.push(element);
            }
            Ok(read)
        }
    }
    deserializer.deserialize_seq(List {
        expected,
        check,
        element: std::marker::PhantomData,
    })
}

/// A refusal, its place first.
pub(super) fn describe(path: &str, error: &serde_json::Error) -> String {
    let message = error.to_string();
    // serde_json puts the place last; people look for it first.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = in_plain_words(message.strip_suffix(&place).unwrap_or(&message));
    let path = if matches!(path, "." | "?") { "" } else { path };
    let field = match (path, what.starts_with('[')) {
        ("", _) => String::new(),
        // A check of a list names the element itself.
        (path, true) => path.to_string(),
        (path, false) => format!("{path}: "),
    };
    format!("{}:{}: {field}{what}", error.line(), error.column().max(1))
}

/// What serde says, for people who do not know its words.
fn in_plain_words(message: &str) -> String {
    if message.starts_with("EOF while parsing") {
        return "the file ends in the middle; expected the rest of the JSON".into();
    }
    [
        ("invalid type: sequence", "a list"),
        ("invalid type: map", "an object"),
        ("invalid type: ", ""),
        ("unknown variant", "unknown value"),
        (
            "trailing characters",
            "more text after the end; expected nothing there",
        ),
        (", expected", "; expected"),
    ]
    .iter()
    .fold(message.to_string(), |text, (from, to)| text.replacen(from, to, 1))
}
