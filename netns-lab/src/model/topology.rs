//! The topology: what the user asked for, before addresses and names of links.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::address::MAX_PODS;
use super::name::Label;

/// Nodes and the pods on them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// The nodes; this version takes one. Empty where nobody has named it.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_node_only"
    )]
    pub nodes: Vec<NodeSpec>,
    /// The pods, in the order in which addresses are given.
    #[serde(deserialize_with = "unique_pods")]
    pub pods: Vec<PodSpec>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Its name.
    pub name: Label,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodSpec {
    /// Its name.
    pub name: Label,
    /// The labels that Services select by.
    #[serde(default)]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// What runs in it.
    #[serde(default)]
    pub app: App,
    /// What the app listens on.
    #[serde(default = "default_ports", deserialize_with = "unique_ports")]
    pub ports: Vec<Port>,
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
                labels: web_labels(),
                app: App::Serve,
                ports: default_ports(),
            })
            .collect();
        Self {
            nodes: Vec::new(),
            pods,
        }
    }

    /// The number in `3-pods`; `None` when the text has another form.
    pub fn number_of_pods(text: &str) -> Option<Result<usize, String>> {
        let digits = text.strip_suffix("-pods").or_else(|| text.strip_suffix("-pod"))?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        if digits.len() > 1 && digits.starts_with('0') {
            let expected = "expected a number without leading zeros, such as 3-pods";
            return Some(Err(expected.to_string()));
        }
        let number = digits.parse().unwrap_or(usize::MAX);
        Some(check_number(number).map(|()| number))
    }

    /// Reads a topology file.
    ///
    /// # Errors
    /// `line 3 column 9, at pods[0].name: what was expected`.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let mut json = serde_json::Deserializer::from_slice(text);
        let topology: Self = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            describe(&path, error.inner())
        })?;
        json.end().map_err(|error| describe(".", &error))?;
        Ok(topology)
    }
}

fn describe(path: &str, error: &serde_json::Error) -> String {
    let message = error.to_string();
    // serde_json puts the place last; people look for it first.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = message.strip_suffix(&place).unwrap_or(&message);
    let field = if matches!(path, "." | "?") {
        String::new()
    } else {
        format!(", at {path}")
    };
    format!("line {} column {}{field}: {what}", error.line(), error.column())
}

fn check_number(pods: usize) -> Result<(), String> {
    match pods {
        0 => Err("a lab has at least one pod".into()),
        _ if pods > MAX_PODS => Err(format!("a bridge takes at most {MAX_PODS} pods")),
        _ => Ok(()),
    }
}

fn web_labels() -> BTreeMap<LabelKey, LabelValue> {
    BTreeMap::from([(LabelKey("app".into()), LabelValue("web".into()))])
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

fn one_node_only<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NodeSpec>, D::Error> {
    collect(deserializer, "a list with one node", |nodes: &[NodeSpec], _| {
        if nodes.is_empty() {
            Ok(())
        } else {
            Err("this version puts all pods on one node: expected a single node".to_string())
        }
    })
    .and_then(|nodes| {
        if nodes.is_empty() {
            Err(de::Error::custom("expected one node, got an empty list"))
        } else {
            Ok(nodes)
        }
    })
}

fn unique_pods<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PodSpec>, D::Error> {
    let mut names = BTreeSet::new();
    let pods = collect(deserializer, "a list of pods", |pods: &[PodSpec], pod| {
        check_number(pods.len() + 1)?;
        if names.insert(pod.name.clone()) {
            Ok(())
        } else {
            Err(format!("two pods are named {}: expected another name", pod.name))
        }
    })?;
    check_number(pods.len()).map_err(de::Error::custom)?;
    Ok(pods)
}

fn unique_ports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Port>, D::Error> {
    collect(deserializer, "a list of ports", |ports: &[Port], port| {
        if port.protocol == Protocol::Udp && port.answers == Some(Answers::Http) {
            return Err("expected \"echo\" on a UDP port: HTTP here is HTTP/1.1".to_string());
        }
        for other in ports {
            if other.name == port.name {
                return Err(format!(
                    "two ports are named {}: expected another name",
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

/// Reads a list and checks each element as soon as it is read, so that an error knows its line.
fn collect<'de, D, T, F>(deserializer: D, expected: &'static str, check: F) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
    F: FnMut(&[T], &T) -> Result<(), String>,
{
    struct List<T, F> {
        expected: &'static str,
        check: F,
        element: std::marker::PhantomData<T>,
    }
    impl<'de, T: Deserialize<'de>, F: FnMut(&[T], &T) -> Result<(), String>> Visitor<'de> for List<T, F> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.expected)
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut read = Vec::new();
            while let Some(element) = list.next_element()? {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Topology::from_json(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn n_pods_is_a_number_and_a_word() {
        assert_eq!(Topology::number_of_pods("3-pods"), Some(Ok(3)));
        assert_eq!(Topology::number_of_pods("1-pod"), Some(Ok(1)));
        assert_eq!(Topology::number_of_pods("three-pods"), None);
        assert!(Topology::number_of_pods("03-pods").unwrap().is_err());
        assert_eq!(Topology::number_of_pods("-pods"), None);
        assert!(Topology::number_of_pods("0-pods").unwrap().is_err());
        assert_eq!(
            Topology::number_of_pods("1024-pods"),
            Some(Err("a bridge takes at most 1023 pods".into()))
        );
        assert!(
            Topology::number_of_pods("99999999999999999999999-pods")
                .unwrap()
                .is_err()
        );
    }

    #[test]
    fn what_n_pods_means_is_what_its_json_means() {
        let topology = Topology::web_pods(3);
        let text = serde_json::to_vec(&topology).unwrap();
        assert_eq!(Topology::from_json(&text), Ok(topology));
    }

    #[test]
    fn a_short_file_is_enough() {
        let topology = Topology::from_json(br#"{"pods":[{"name":"db"}]}"#).unwrap();
        assert_eq!(topology.nodes, Vec::new());
        assert_eq!(topology.pods[0].ports, default_ports());
    }

    #[test]
    fn errors_say_where_and_what_was_expected() {
        insta::assert_snapshot!(refused("{\n  \"pods\": [{\"name\": \"Web\"}]\n}"), @r#"line 2 column 26, at pods[0].name: expected a DNS label (1 to 63 of a-z, 0-9 and "-", starting and ending with a letter or a digit), got "Web""#);
        insta::assert_snapshot!(refused("{\"pods\": [{\"name\": \"a\", \"image\": 1}]}"), @"line 1 column 31, at pods[0].image: unknown field `image`, expected one of `name`, `labels`, `app`, `ports`");
        insta::assert_snapshot!(refused("{\"pods\": [\n {\"name\": \"a\"},\n {\"name\": \"a\"}]}"), @"line 3 column 15, at pods: two pods are named a: expected another name");
        insta::assert_snapshot!(refused("{\"pods\": []}"), @"line 1 column 12, at pods: a lab has at least one pod");
        insta::assert_snapshot!(refused("{\"pods\": [{\"name\":\"a\",\"ports\":[{\"name\":\"x\",\"containerPort\":70000}]}]}"), @"line 1 column 65, at pods[0].ports[0].containerPort: expected a port from 1 to 65535, got 70000");
        insta::assert_snapshot!(refused("{\"nodes\":[{\"name\":\"a\"},{\"name\":\"b\"}],\"pods\": [{\"name\":\"a\"}]}"), @"line 1 column 36, at nodes: this version puts all pods on one node: expected a single node");
        insta::assert_snapshot!(refused("{\"pods\": [{\"name\":\"a\"}]"), @"line 1 column 23: EOF while parsing an object");
        insta::assert_snapshot!(refused("{\"pods\": [{\"name\":\"a\"}]} x"), @"line 1 column 26: trailing characters");
    }

    #[test]
    fn hostile_labels_are_refused() {
        for (key, value) in [
            ("a b", "x"),
            ("app", "a\u{1b}"),
            ("/x", "y"),
            ("", "y"),
            ("app", "-"),
        ] {
            let text = serde_json::json!({"pods": [{"name": "a", "labels": {key: value}}]}).to_string();
            assert!(Topology::from_json(text.as_bytes()).is_err(), "{key:?}={value:?}");
        }
    }
}
