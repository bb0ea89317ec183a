//! One node with one Service, and the words in which the tables are written.

use std::net::{IpAddr, SocketAddr};

use labkit::xtables::Family;
use miniproxy::model::{LocalDetector, Protocol, ProxyConfig};
use miniproxy::registry::{Registry, SourceFile, model};
use miniproxy::rules::build::build;
use miniproxy::rules::set::Found;
use miniproxy::rules::trace::{NodeFacts, Outcome, Packet, Trace, Verdict, trace};
use serde_json::{Value, json};

pub(crate) const NODE_NAME: &str = "node-1";
pub(crate) const PORT: u16 = 80;
pub(crate) const NODE_PORT: u16 = 30_080;
/// Where the pods listen.
pub(crate) const TARGET_PORT: u16 = 8080;
pub(crate) const MARK: u32 = 0x4000;

/// Who is where, in one family.
#[derive(Debug)]
pub(crate) struct Addresses {
    pub(crate) family: Family,
    pub(crate) pods: &'static str,
    pub(crate) pod: &'static str,
    pub(crate) node: &'static str,
    pub(crate) second: &'static str,
    pub(crate) loopback: &'static str,
    pub(crate) external: &'static str,
    pub(crate) cluster_ip: &'static str,
    pub(crate) balancer: &'static str,
    pub(crate) external_ip: &'static str,
    /// An endpoint of this node, and one of another.
    pub(crate) local: &'static str,
    pub(crate) remote: &'static str,
}

pub(crate) const V4: Addresses = Addresses {
    family: Family::V4,
    pods: "10.0.0.0/8",
    pod: "10.180.0.9",
    node: "192.168.0.2",
    second: "192.168.99.5",
    loopback: "127.0.0.1",
    external: "203.0.113.1",
    cluster_ip: "172.30.0.41",
    balancer: "198.51.100.4",
    external_ip: "198.51.100.200",
    local: "10.180.0.1",
    remote: "10.180.1.1",
};

pub(crate) const V6: Addresses = Addresses {
    family: Family::V6,
    pods: "fd00:180::/32",
    pod: "fd00:180::9",
    node: "2001:db8::2",
    second: "2001:db8:99::5",
    loopback: "::1",
    external: "2001:db8:113::1",
    cluster_ip: "fd00:30::41",
    balancer: "2001:db8:51::4",
    external_ip: "2001:db8:51::200",
    local: "fd00:180::1",
    remote: "fd00:180:1::1",
};

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Pod,
    Node,
    Localhost,
    External,
}

/// To which of the Service's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    ClusterIp,
    NodePort,
    LocalhostNodePort,
    LoadBalancer,
    ExternalIp,
}

/// What rules are built from.
pub(crate) struct World {
    pub(crate) addresses: &'static Addresses,
    pub(crate) config: ProxyConfig,
    pub(crate) facts: NodeFacts,
    items: Vec<Value>,
}

/// An endpoint on its way through life: ready, serving, terminating.
pub(crate) const READY: [bool; 3] = [true, true, false];
pub(crate) const LEAVING: [bool; 3] = [false, true, true];
pub(crate) const GONE: [bool; 3] = [false, false, true];
pub(crate) const NOT_READY: [bool; 3] = [false, false, false];

impl World {
    /// kube-proxy's defaults, and pods told by their addresses.
    pub(crate) fn new(addresses: &'static Addresses) -> Self {
        let config = ProxyConfig {
            node_name: NODE_NAME.into(),
            local_detector: LocalDetector::Cidr(addresses.pods.parse().unwrap()),
            node_ip: Some(ip(addresses.node)),
            ..ProxyConfig::defaults(addresses.family)
        };
        Self {
            addresses,
            config,
            facts: NodeFacts::new([ip(addresses.node), ip(addresses.second)]),
            items: Vec::new(),
        }
    }

    /// Adds the Service of all kinds at once; `change` writes over parts of its spec.
    pub(crate) fn service(mut self, change: &Value) -> Self {
        let at = self.addresses;
        let mut spec = json!({
            "type": "LoadBalancer", "clusterIP": at.cluster_ip, "clusterIPs": [at.cluster_ip],
            "ipFamilies": [at.family.name()], "externalIPs": [at.external_ip],
            "ports": [{"name": "http", "port": PORT, "protocol": "TCP", "nodePort": NODE_PORT}],
        });
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        self.items.push(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "ns"},
            "spec": spec, "status": {"loadBalancer": {"ingress": [{"ip": at.balancer}]}},
        }));
        self
    }

    /// Adds endpoints with their conditions, this node's first.
    pub(crate) fn endpoints(self, local: Option<[bool; 3]>, remote: Option<[bool; 3]>) -> Self {
        let at = self.addresses;
        let endpoint = |address: &str, node: &str, conditions: [bool; 3]| {
            json!({"addresses": [address], "nodeName": node, "conditions": {
                "ready": conditions[0], "serving": conditions[1], "terminating": conditions[2]}})
        };
        let endpoints: Vec<Value> = local
            .map(|conditions| endpoint(at.local, NODE_NAME, conditions))
            .into_iter()
            .chain(remote.map(|conditions| endpoint(at.remote, "node-2", conditions)))
            .collect();
        let ports = json!([{"name": "http", "port": TARGET_PORT, "protocol": "TCP"}]);
        self.item(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": at.family.name(),
            "metadata": {"name": "web-x", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": ports, "endpoints": endpoints,
        }))
    }

    /// Adds any object.
    pub(crate) fn item(mut self, item: Value) -> Self {
        self.items.push(item);
        self
    }

    /// Changes how the proxy is configured.
    pub(crate) fn configured(mut self, change: impl FnOnce(&mut ProxyConfig)) -> Self {
        change(&mut self.config);
        self
    }

    pub(crate) fn rules(&self) -> Found {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": self.items}).to_string();
        let file = SourceFile {
            path: "list.json".into(),
            bytes: list.into_bytes(),
        };
        let registry = Registry::read(&[file]).expect("a good registry");
        Found::from(&build(&model::model(&registry, self.config.clone())))
    }

    pub(crate) fn packet(&self, from: From, to: To) -> Packet {
        let at = self.addresses;
        let (source, arriving) = match from {
            From::Pod => (at.pod, Some("cni0")),
            From::Node => (at.node, None),
            From::Localhost => (at.loopback, None),
            From::External => (at.external, Some("eth0")),
        };
        let (destination, port) = match to {
            To::ClusterIp => (at.cluster_ip, PORT),
            To::NodePort => (at.node, NODE_PORT),
            To::LocalhostNodePort => (at.loopback, NODE_PORT),
            To::LoadBalancer => (at.balancer, PORT),
            To::ExternalIp => (at.external_ip, PORT),
        };
        packet(
            source,
            arriving,
            &SocketAddr::new(ip(destination), port).to_string(),
        )
    }

    /// Sends, and says what came of it in the tables' words: `all+`, `local-`, `DROP`.
    pub(crate) fn send(&self, packet: &Packet) -> String {
        let trace = trace(&self.rules(), &self.facts, packet);
        self.word(&trace)
    }

    /// Checks a table of flows, all of it before it fails.
    pub(crate) fn check(&self, title: &str, table: &[(From, To, &str)]) {
        let mut wrong = Vec::new();
        for (from, to, expected) in table {
            let found = self.send(&self.packet(*from, *to));
            if found != *expected {
                wrong.push(format!("{from:?} → {to:?}: {found}, not {expected}"));
            }
        }
        let family = self.addresses.family;
        assert!(wrong.is_empty(), "{title}, {family:?}:\n{}", wrong.join("\n"));
    }

    /// `all`, `local` or `remote` endpoints in equal shares, with `+` when masqueraded; or the
    /// verdict; or `untouched`; or `lost` in a Service without being rewritten.
    fn word(&self, trace: &Trace) -> String {
        assert!(trace.doubts.is_empty(), "{trace:?}");
        if let [
            Outcome {
                verdict,
                destination: None,
                ..
            },
        ] = trace.outcomes.as_slice()
        {
            return match verdict {
                Verdict::Accept if trace.falls_through > 0.0 => "lost".into(),
                Verdict::Accept => "untouched".into(),
                Verdict::Drop => "DROP".into(),
                Verdict::Reject => "REJECT".into(),
                Verdict::Unknown => panic!("{trace:?}"),
            };
        }
        let at = self.addresses;
        let endpoints = trace.endpoints();
        let fair = 1.0 / f64::from(u32::try_from(endpoints.len()).unwrap());
        assert!(
            endpoints.values().all(|share| (share - fair).abs() < 1e-7),
            "{trace:?}"
        );
        let to: Vec<SocketAddr> = endpoints.into_keys().collect();
        let target = |address| SocketAddr::new(ip(address), TARGET_PORT);
        let (local, remote) = (target(at.local), target(at.remote));
        let which = match to.as_slice() {
            [first, second] if (*first, *second) == (local, remote) => "all".to_string(),
            [only] if *only == local => "local".to_string(),
            [only] if *only == remote => "remote".to_string(),
            others => format!("{others:?}"),
        };
        let masqueraded = trace.outcomes[0].masqueraded;
        for outcome in &trace.outcomes {
            assert_eq!(outcome.masqueraded, masqueraded, "{trace:?}");
            assert_eq!(outcome.mark, if masqueraded { MARK } else { 0 }, "{trace:?}");
            assert_eq!(outcome.verdict, Verdict::Accept, "{trace:?}");
        }
        format!("{which}{}", if masqueraded { "+" } else { "-" })
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn packet(source: &str, arriving: Option<&str>, to: &str) -> Packet {
    let to: SocketAddr = to.parse().unwrap();
    Packet {
        source: ip(source),
        protocol: Protocol::Tcp.into(),
        destination: to.ip(),
        port: to.port(),
        arriving: arriving.map(str::to_string),
        remembered: None,
    }
}
