//! What a file and the command line say, each value with its place, before anything is judged.

use labkit::text::printable;

use super::fields::{Verdict, judge};
use super::settle::RULE_GATES;
use super::tree::{self, Kind, Tree};
use super::{ConfigProblem, Given, Place};

/// Values as they were given. Flags write over what the file said.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Draft {
    /// `mode`
    pub mode: Option<Given<String>>,
    /// `featureGates`, in the order of the file.
    pub feature_gates: Vec<(String, Given<bool>)>,
    /// `hostnameOverride`
    pub hostname_override: Option<Given<String>>,
    /// `bindAddress`
    pub bind_address: Option<Given<String>>,
    /// `healthzBindAddress`
    pub healthz_bind_address: Option<Given<String>>,
    /// `metricsBindAddress`
    pub metrics_bind_address: Option<Given<String>>,
    /// `clusterCIDR`
    pub cluster_cidr: Option<Given<String>>,
    /// `detectLocalMode`
    pub detect_local_mode: Option<Given<String>>,
    /// `detectLocal.bridgeInterface`
    pub bridge_interface: Option<Given<String>>,
    /// `detectLocal.interfaceNamePrefix`
    pub interface_name_prefix: Option<Given<String>>,
    /// `nodePortAddresses`
    pub node_port_addresses: Vec<Given<String>>,
    /// `iptables.masqueradeBit`
    pub masquerade_bit: Option<Given<i64>>,
    /// `iptables.masqueradeAll`
    pub masquerade_all: Option<Given<bool>>,
    /// `iptables.localhostNodePorts`
    pub localhost_node_ports: Option<Given<bool>>,
    /// `iptables.snatNodeInternalIP`, which only the newest has.
    pub snat_node_internal_ip: Option<Given<bool>>,
    /// `iptables.syncPeriod`
    pub sync_period: Option<Given<String>>,
    /// `iptables.minSyncPeriod`
    pub min_sync_period: Option<Given<String>>,
    /// `conntrack.maxPerCore`
    pub max_per_core: Option<Given<i64>>,
    /// `conntrack.min`
    pub conntrack_min: Option<Given<i64>>,
    /// `conntrack.tcpEstablishedTimeout`
    pub tcp_established_timeout: Option<Given<String>>,
    /// `conntrack.tcpCloseWaitTimeout`
    pub tcp_close_wait_timeout: Option<Given<String>>,
    /// `conntrack.tcpBeLiberal`
    pub tcp_be_liberal: Option<Given<bool>>,
    /// `conntrack.udpTimeout`
    pub udp_timeout: Option<Given<String>>,
    /// `conntrack.udpStreamTimeout`
    pub udp_stream_timeout: Option<Given<String>>,
    /// A line for each field that was given and is not heeded.
    pub notes: Vec<String>,
}

/// The kind and version that are read.
const KIND: &str = "KubeProxyConfiguration";
const VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The key under which kubeadm keeps the configuration in its ConfigMap.
const CONFIG_MAP_KEY: &str = "config.conf";

impl Draft {
    /// Reads a `KubeProxyConfiguration`, or a ConfigMap that holds one.
    ///
    /// # Errors
    /// Everything that cannot be read, or that no kube-proxy knows.
    pub fn read(file: &str, text: &str) -> Result<Self, Vec<ConfigProblem>> {
        Self::read_document(file, text, true)
    }

    fn read_document(file: &str, text: &str, may_be_map: bool) -> Result<Self, Vec<ConfigProblem>> {
        let problem = |line, field: &str, what: &str, expected: &str| {
            vec![ConfigProblem {
                place: Place::File {
                    file: file.to_string(),
                    line,
                },
                field: field.to_string(),
                what: what.to_string(),
                expected: expected.to_string(),
            }]
        };
        let expected = format!("{KIND} ({VERSION}) in YAML or JSON, or the ConfigMap that holds it");
        let documents =
            tree::documents(text).map_err(|(line, words)| problem(line, "", &words, &expected))?;
        let root = one_of(documents).map_err(|(line, words)| problem(line, "", &words, &expected))?;
        let Kind::Map(fields) = root.kind else {
            return Err(problem(root.line.max(1), "", root.kind.noun(), &expected));
        };
        let kind = fields.iter().find(|(name, ..)| name == "kind");
        if let Some((
            _,
            _,
            Tree {
                kind: Kind::Text(kind),
                ..
            },
        )) = kind
            && kind == "ConfigMap"
            && may_be_map
        {
            return Self::read_config_map(file, &fields);
        }
        let mut reader = Reader {
            file,
            prefix: String::new(),
            fields,
            problems: Vec::new(),
        };
        reader.expect("apiVersion", VERSION, &expected);
        reader.expect("kind", KIND, &expected);
        let mut draft = Self::default();
        draft.fill(&mut reader);
        let gates = draft.feature_gates.iter();
        let idle = gates.filter(|(name, _)| !RULE_GATES.contains(&name.as_str()));
        let idle = idle.map(|(name, given)| {
            format!(
                "{}: featureGates.{name} is ignored: no rule depends on it",
                given.place,
                name = printable(name)
            )
        });
        draft.notes = idle.collect();
        draft.notes.extend(reader.rest());
        if reader.problems.is_empty() {
            Ok(draft)
        } else {
            Err(reader.problems)
        }
    }

    /// Each file of a ConfigMap is text of its own, with lines of its own.
    fn read_config_map(file: &str, fields: &[(String, u64, Tree)]) -> Result<Self, Vec<ConfigProblem>> {
        let data = fields.iter().find(|(name, ..)| name == "data");
        let entries = match data {
            Some((
                _,
                _,
                Tree {
                    kind: Kind::Map(entries),
                    ..
                },
            )) => entries.as_slice(),
            _ => &[],
        };
        let texts = || {
            entries.iter().filter_map(|(key, _, value)| match &value.kind {
                Kind::Text(text) => Some((key, text)),
                _ => None,
            })
        };
        let named = texts().find(|(key, _)| *key == CONFIG_MAP_KEY);
        match named.or_else(|| texts().find(|(_, text)| text.contains(KIND))) {
            Some((key, text)) => Self::read_document(&format!("{file}({key})"), text, false),
            None => Err(vec![ConfigProblem {
                place: Place::File {
                    file: file.to_string(),
                    line: data.map_or(1, |(_, line, _)| *line),
                },
                field: "data".into(),
                what: format!("no {KIND} in this ConfigMap"),
                expected: format!("the text of one under {CONFIG_MAP_KEY}, as kubeadm keeps it"),
            }]),
        }
    }

    fn fill(&mut self, reader: &mut Reader<'_>) {
        self.mode = reader.text("mode");
        self.feature_gates = reader.gates();
        self.hostname_override = reader.text("hostnameOverride");
        self.bind_address = reader.text("bindAddress");
        self.healthz_bind_address = reader.text("healthzBindAddress");
        self.metrics_bind_address = reader.text("metricsBindAddress");
        self.cluster_cidr = reader.text("clusterCIDR");
        self.detect_local_mode = reader.text("detectLocalMode");
        self.node_port_addresses = reader.texts("nodePortAddresses");
        reader.within("detectLocal", |part| {
            self.bridge_interface = part.text("bridgeInterface");
            self.interface_name_prefix = part.text("interfaceNamePrefix");
        });
        reader.within("iptables", |part| {
            self.masquerade_bit = part.integer("masqueradeBit");
            self.masquerade_all = part.switch("masqueradeAll");
            self.localhost_node_ports = part.switch("localhostNodePorts");
            self.snat_node_internal_ip = part.switch("snatNodeInternalIP");
            self.sync_period = part.text("syncPeriod");
            self.min_sync_period = part.text("minSyncPeriod");
        });
        reader.within("conntrack", |part| {
            self.max_per_core = part.integer("maxPerCore");
            self.conntrack_min = part.integer("min");
            self.tcp_established_timeout = part.text("tcpEstablishedTimeout");
            self.tcp_close_wait_timeout = part.text("tcpCloseWaitTimeout");
            self.tcp_be_liberal = part.switch("tcpBeLiberal");
            self.udp_timeout = part.text("udpTimeout");
            self.udp_stream_timeout = part.text("udpStreamTimeout");
        });
    }
}

/// The document that is meant: of several the configuration, else the ConfigMap.
fn one_of(mut documents: Vec<Tree>) -> Result<Tree, (u64, String)> {
    if documents.len() <= 1 {
        return documents.pop().ok_or_else(|| (1, Kind::Null.noun().to_string()));
    }
    let is = |tree: &Tree, wanted: &str| match &tree.kind {
        Kind::Map(fields) => fields.iter().any(|(name, _, value)| {
            name == "kind" && matches!(&value.kind, Kind::Text(kind) if kind == wanted)
        }),
        _ => false,
    };
    let found = [KIND, "ConfigMap"]
        .into_iter()
        .find_map(|kind| documents.iter().position(|tree| is(tree, kind)));
    match found {
        Some(place) => Ok(documents.swap_remove(place)),
        None => Err((
            documents[0].line,
            format!("{} documents of other kinds", documents.len()),
        )),
    }
}

/// Takes fields out of one object; what is left at the end was not asked for.
struct Reader<'a> {
    file: &'a str,
    /// The object's own path with a dot at its end, or nothing.
    prefix: String,
    fields: Vec<(String, u64, Tree)>,
    problems: Vec<ConfigProblem>,
}

impl Reader<'_> {
    fn take(&mut self, name: &str) -> Option<(u64, Tree)> {
        let at = self.fields.iter().position(|(known, ..)| known == name)?;
        let (_, line, value) = self.fields.remove(at);
        (value.kind != Kind::Null).then_some((line, value))
    }

    fn place(&self, line: u64) -> Place {
        Place::File {
            file: self.file.to_string(),
            line,
        }
    }

    fn refuse(&mut self, line: u64, name: &str, what: impl Into<String>, expected: &str) {
        self.problems.push(ConfigProblem {
            place: self.place(line),
            field: format!("{}{name}", self.prefix),
            what: what.into(),
            expected: expected.to_string(),
        });
    }

    fn expect(&mut self, name: &str, wanted: &str, expected: &str) {
        match self.take(name) {
            Some((
                _,
                Tree {
                    kind: Kind::Text(text),
                    ..
                },
            )) if text == wanted => {}
            Some((
                line,
                Tree {
                    kind: Kind::Text(text),
                    ..
                },
            )) => {
                self.refuse(line, name, format!("{text:?}"), expected);
            }
            Some((line, value)) => self.refuse(line, name, value.kind.noun(), expected),
            None => self.refuse(1, name, format!("{name} is missing"), expected),
        }
    }

    fn typed<T>(&mut self, name: &str, expected: &str, pick: fn(&Kind) -> Option<T>) -> Option<Given<T>> {
        let (line, value) = self.take(name)?;
        if let Some(value) = pick(&value.kind) {
            let place = self.place(line);
            return Some(Given { value, place });
        }
        self.refuse(line, name, value.kind.noun(), expected);
        None
    }

    /// Text; the empty text is what the API takes for a field that is left out.
    fn text(&mut self, name: &str) -> Option<Given<String>> {
        let given = self.typed(name, "text (in quotes, if it looks like a number)", text_of);
        given.filter(|given| !given.value.is_empty())
    }

    fn switch(&mut self, name: &str) -> Option<Given<bool>> {
        self.typed(name, "true or false", |kind| match kind {
            Kind::Bool(value) => Some(*value),
            _ => None,
        })
    }

    fn integer(&mut self, name: &str) -> Option<Given<i64>> {
        self.typed(name, "a whole number", |kind| match kind {
            Kind::Integer(value) => Some(*value),
            _ => None,
        })
    }

    fn texts(&mut self, name: &str) -> Vec<Given<String>> {
        let expected = "a list of texts";
        let Some((line, value)) = self.take(name) else {
            return Vec::new();
        };
        let Kind::List(items) = &value.kind else {
            self.refuse(line, name, value.kind.noun(), expected);
            return Vec::new();
        };
        let mut texts = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match text_of(&item.kind) {
                Some(value) => texts.push(Given {
                    value,
                    place: self.place(item.line),
                }),
                None => self.refuse(item.line, &format!("{name}[{index}]"), item.kind.noun(), expected),
            }
        }
        texts
    }

    fn gates(&mut self) -> Vec<(String, Given<bool>)> {
        let mut gates = Vec::new();
        self.within("featureGates", |part| {
            let names: Vec<String> = part.fields.iter().map(|(name, ..)| name.clone()).collect();
            for name in names {
                if let Some(given) = part.switch(&name) {
                    gates.push((name, given));
                }
            }
        });
        gates
    }

    /// Reads the fields of an object inside this one. What is left of it goes back, to be judged
    /// with the rest.
    fn within(&mut self, name: &str, read: impl FnOnce(&mut Reader<'_>)) {
        let Some((line, value)) = self.take(name) else {
            return;
        };
        let Kind::Map(fields) = value.kind else {
            self.refuse(line, name, value.kind.noun(), "an object");
            return;
        };
        let mut part = Reader {
            file: self.file,
            prefix: format!("{}{name}.", self.prefix),
            fields,
            problems: Vec::new(),
        };
        read(&mut part);
        let left = part
            .fields
            .into_iter()
            .map(|(field, line, value)| (format!("{name}.{field}"), line, value));
        self.fields.extend(left);
        self.problems.append(&mut part.problems);
    }

    /// Judges what nobody asked for: a note for each field that is ignored, a problem for each that
    /// is not known.
    fn rest(&mut self) -> Vec<String> {
        let mut notes = Vec::new();
        let mut left = std::mem::take(&mut self.fields);
        left.reverse();
        while let Some((path, line, value)) = left.pop() {
            match (judge(&path, &value), value.kind) {
                (Verdict::Parent, Kind::Map(fields)) => {
                    let children = fields.into_iter().rev();
                    left.extend(children.map(|(name, line, value)| (format!("{path}.{name}"), line, value)));
                }
                (Verdict::Ignored(why), _) => {
                    notes.push(format!(
                        "{}: {} is ignored: {why}",
                        self.place(line),
                        printable(&path)
                    ));
                }
                (Verdict::Empty, _) => {}
                _ => self.refuse(
                    line,
                    &path,
                    "no kube-proxy knows this field",
                    "a field of v1alpha1, spelt as the API spells it",
                ),
            }
        }
        notes
    }
}

fn text_of(kind: &Kind) -> Option<String> {
    match kind {
        Kind::Text(text) => Some(text.clone()),
        _ => None,
    }
}
