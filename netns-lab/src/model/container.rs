//! What runs in a pod: its containers, what each may do, and how much it may use.

use std::path::PathBuf;
use std::str::FromStr as _;

use caps::Capability;
use serde::{Deserialize, Serialize};

use super::name::Label;
use super::quantity;
use super::topology::{App, PodSpec, Port, default_ports};

/// The container of a pod that names none.
pub const APP: &str = "app";

/// One container, as a topology says it or as `run` adds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// Its name, of which a pod has one each.
    pub name: Label,
    /// What it runs; without one the built-in app.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// `serve`, the built-in app, unless there is a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<App>,
    /// What it listens on; the built-in app without any has the usual three.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "super::topology::read_ports"
    )]
    pub ports: Vec<Port>,
    /// The folder or the tar archive that is its `/`; without one it sees the node's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<PathBuf>,
    /// How much of the processors it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// How much memory it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// What it may do beyond a plain user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<CapabilityName>,
    /// The number of its user; `nobody`'s unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
}

impl ContainerSpec {
    /// The built-in app on these ports.
    pub fn app(ports: Vec<Port>) -> Self {
        Self {
            ports,
            ..Self::named(Label::app())
        }
    }

    /// A container without anything special.
    pub fn named(name: Label) -> Self {
        Self {
            name,
            command: Vec::new(),
            app: None,
            ports: Vec::new(),
            rootfs: None,
            cpu: None,
            memory: None,
            capabilities: Vec::new(),
            user: None,
        }
    }

    /// Whether it runs the built-in app.
    pub fn is_app(&self) -> bool {
        self.command.is_empty()
    }

    /// Whether it asks for a limit.
    pub fn is_limited(&self) -> bool {
        self.cpu.is_some() || self.memory.is_some()
    }

    /// What is asked for in vain: an app and a command, or neither.
    pub(super) fn contradiction(&self) -> Option<String> {
        match (self.app, self.is_app()) {
            (Some(App::Serve), false) => Some("it has a command and an app; expected one of them".into()),
            (Some(App::None), true) => Some("it runs nothing; expected a command".into()),
            _ => None,
        }
    }
}

/// The containers of a pod: those it names, else its app.
pub fn containers(pod: &PodSpec) -> Vec<ContainerSpec> {
    if pod.containers.is_empty() {
        return match pod.app {
            App::Serve => vec![ContainerSpec::app(pod.ports.clone())],
            App::None => Vec::new(),
        };
    }
    let with_ports = |container: &ContainerSpec| {
        let mut container = container.clone();
        if container.is_app() && container.ports.is_empty() {
            container.ports = default_ports();
        }
        container
    };
    pod.containers.iter().map(with_ports).collect()
}

/// A text with a value behind it, checked while it is read.
macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident($value:ty), $parse:expr, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name {
            text: String,
            value: $value,
        }

        impl $name {
            /// Its value.
            pub fn value(&self) -> $value {
                self.value
            }

            /// As it was written.
            pub fn as_str(&self) -> &str {
                &self.text
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                let parse: fn(&str) -> Option<$value> = $parse;
                match parse(&text) {
                    Some(value) => Ok(Self { text, value }),
                    None => Err(format!("expected {}, got {text:?}", $expected)),
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::try_from(text.to_string())
            }
        }

        impl From<$name> for String {
            fn from(quantity: $name) -> Self {
                quantity.text
            }
        }
    };
}

quantity!(
    /// A share of processors, in thousandths of one: `500m`, `2`.
    Cpu(u32),
    parse_cpu,
    "processors such as \"500m\" (half of one), \"1\" or \"2\", at least \"10m\""
);

quantity!(
    /// An amount of memory in bytes: `64Mi`, `1Gi`.
    Memory(u64),
    parse_memory,
    "memory such as \"64Mi\" or \"1Gi\", at least \"1Mi\""
);

quantity!(
    /// A capability of the kernel, with or without its prefix: `NET_RAW`.
    CapabilityName(Capability),
    |text| {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        Capability::from_str(&format!("CAP_{name}")).ok()
    },
    "a capability such as \"NET_RAW\" (`man capabilities` lists them)"
);

fn parse_cpu(text: &str) -> Option<u32> {
    let quantity::Cpu(thousandths) = quantity::Cpu::parse(text).ok()?;
    // The kernel hands out time in slices of 1 ms of each 100.
    u32::try_from(thousandths)
        .ok()
        .filter(|value| (10..=1_000_000).contains(value))
}

fn parse_memory(text: &str) -> Option<u64> {
    let quantity::Memory(bytes) = quantity::Memory::parse(text).ok()?;
    Some(bytes).filter(|bytes| *bytes >= 1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::topology::Topology;

    fn pod(text: &str) -> Result<PodSpec, String> {
        Topology::from_json(format!(r#"{{"pods":[{text}]}}"#).as_bytes()).map(|mut read| read.pods.remove(0))
    }

    #[test]
    fn the_short_form_means_one_container_named_app() {
        let short = containers(&pod(r#"{"name":"db"}"#).unwrap());
        assert_eq!(short, [ContainerSpec::app(default_ports())]);
        assert!(containers(&pod(r#"{"name":"db","app":"none"}"#).unwrap()).is_empty());
    }

    #[test]
    fn a_pod_may_name_its_containers() {
        let text = r#"{"name":"db","containers":[
            {"name":"app"},
            {"name":"side","command":["sleep","9"],"cpu":"500m","memory":"64Mi","capabilities":["net_raw"]}]}"#;
        let both = containers(&pod(text).unwrap());
        assert_eq!(both[0].ports, default_ports());
        assert_eq!(both[1].cpu.as_ref().map(Cpu::value), Some(500));
        assert_eq!(both[1].memory.as_ref().map(Memory::value), Some(64 << 20));
        assert_eq!(both[1].capabilities[0].value(), Capability::CAP_NET_RAW);
        assert!(both[1].ports.is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_place() {
        for (text, word) in [
            (
                r#"[{"name":"a"},{"name":"a"}]"#,
                "[1].name: two containers are named a",
            ),
            (r#"[{"name":"a"},{"name":"b"}]"#, "8080/TCP"),
            (
                r#"[{"name":"a","app":"serve","command":["x"]}]"#,
                "a command and an app",
            ),
            (r#"[{"name":"a","app":"none"}]"#, "expected a command"),
            (r#"[{"name":"a","cpu":"-1"}]"#, "expected processors"),
            (r#"[{"name":"a","memory":"64 Mi"}]"#, "expected memory"),
            (
                r#"[{"name":"a","capabilities":["ROOT"]}]"#,
                "expected a capability",
            ),
        ] {
            let error = pod(&format!(r#"{{"name":"db","containers":{text}}}"#)).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn quantities_are_kubernetes_ones() {
        for (text, value) in [("500m", 500), ("2", 2000), ("10m", 10), ("1.5", 1500)] {
            assert_eq!(parse_cpu(text), Some(value), "{text}");
        }
        for text in ["", "m", "5m", "-1", "1.2.3", "99999999999"] {
            assert_eq!(parse_cpu(text), None, "{text}");
        }
        for (text, value) in [
            ("64Mi", 64 << 20),
            ("1Gi", 1 << 30),
            ("2M", 2_000_000),
            ("1048576", 1 << 20),
        ] {
            assert_eq!(parse_memory(text), Some(value), "{text}");
        }
        for text in ["", "Mi", "1", "-1Mi", "99999999999999Gi"] {
            assert_eq!(parse_memory(text), None, "{text}");
        }
    }
}
