//! A sample of the flows that `miniproxy/tests/flows` traces on paper, with real packets: the tracer
//! reads what the kernel shows, then connections are made and compared with what it said.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lab_tests::load::Tally;
use lab_tests::machine::Machine;
use lab_tests::run::Ran;
use lab_tests::stats::{REJECT_BELOW, p_of_equal_shares};
use lab_tests::uplink::ROUTER_ADDRESS;
use miniproxy::model::Protocol;
use miniproxy::rules::parse::parse;
use miniproxy::rules::set::Found;
use miniproxy::rules::trace::{NodeFacts, Packet, Trace, Verdict, trace};
use serde_json::{Value, json};

/// Connections of a flow that is answered.
const CONNECTIONS: u64 = 120;
/// Connections of one that is not.
const ATTEMPTS: u64 = 4;
/// Where masqueraded packets seem to come from: the bridge's own address.
const BRIDGE_ADDRESS: &str = "10.244.0.1";
const BRIDGE: &str = "cni0";

/// Node ports on 127.0.0.1 need the first, as kube-proxy sets it; the second lets a REJECT tell each
/// of several clients at one address, and not one in a second.
const SYSCTLS: [&str; 2] = ["net.ipv4.conf.all.route_localnet=1", "net.ipv4.icmp_ratelimit=0"];

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    /// `web-1`, an endpoint of each Service that has any.
    Pod,
    /// The node, from whatever address its routes choose.
    Node,
    /// A client outside of the cluster.
    External,
}
use Client::{External, Node, Pod};

/// Sender, protocol, destination, what must come of it.
type Flow = (Client, &'static str, &'static str, &'static str);

/// `3+` is three endpoints, masqueraded; `-` not; `±` where it depends on the endpoint.
const FLOWS: [Flow; 32] = [
    // Each source to each kind of address, policy Cluster. Who calls itself is masqueraded.
    (Pod, "http", "10.96.0.100:80", "3±"),
    (Node, "http", "10.96.0.100:80", "3-"),
    (External, "http", "10.96.0.100:80", "3+"),
    (Pod, "http", "192.0.2.2:30100", "3+"),
    (Node, "http", "192.0.2.2:30100", "3+"),
    (Node, "http", "127.0.0.1:30100", "3+"),
    (External, "http", "192.0.2.2:30100", "3+"),
    (Pod, "http", "203.0.113.100:80", "3+"),
    (Node, "http", "203.0.113.100:80", "3+"),
    (External, "http", "203.0.113.100:80", "3+"),
    (Pod, "http", "198.51.100.200:80", "3+"),
    (External, "http", "198.51.100.200:80", "3+"),
    (Pod, "udp", "10.96.0.100:81", "3±"),
    (External, "udp", "203.0.113.100:81", "3+"),
    // A port that the Service does not have.
    (External, "http", "203.0.113.100:82", "untouched"),
    // externalTrafficPolicy Local: strangers keep their address, pods and the node go by the short cut.
    (External, "http", "192.0.2.2:30101", "1-"),
    (External, "http", "203.0.113.101:80", "1-"),
    (Pod, "http", "203.0.113.101:80", "3±"),
    (Node, "http", "203.0.113.101:80", "3+"),
    // The same without a local endpoint.
    (External, "http", "203.0.113.102:80", "DROP"),
    (Pod, "http", "203.0.113.102:80", "2-"),
    (Pod, "http", "10.96.0.102:80", "2-"),
    // internalTrafficPolicy Local.
    (Pod, "http", "10.96.0.103:80", "1+"),
    (Node, "http", "10.96.0.103:80", "1-"),
    // Source ranges.
    (External, "http", "203.0.113.104:80", "3+"),
    (External, "http", "203.0.113.105:80", "DROP"),
    (Pod, "http", "203.0.113.105:80", "DROP"),
    (External, "http", "192.0.2.2:30105", "3+"),
    // No endpoints.
    (Pod, "http", "10.96.0.106:80", "REJECT"),
    (Node, "http", "127.0.0.1:30106", "REJECT"),
    (External, "http", "192.0.2.2:30106", "REJECT"),
    (External, "http", "203.0.113.106:80", "REJECT"),
];

/// A LoadBalancer Service whose addresses end in this number, and its endpoints `web-N`: those of this
/// node, then those that a slice says are elsewhere (their packets take the same way).
fn service(number: u8, change: &Value, here: &[u8], elsewhere: &[u8]) -> [Value; 2] {
    let (name, cluster_ip) = (format!("flow-{number}"), format!("10.96.0.{number}"));
    let mut spec = json!({
        "type": "LoadBalancer", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip],
        "ports": [
            { "name": "http", "port": 80, "protocol": "TCP", "nodePort": 30_000 + u16::from(number) },
            { "name": "line", "port": 81, "protocol": "UDP", "nodePort": 31_000 + u16::from(number) },
        ],
    });
    for (field, value) in change.as_object().expect("fields of a spec") {
        spec[field] = value.clone();
    }
    let endpoint = |pod: &u8, node: &str| {
        json!({ "addresses": [format!("10.244.0.{}", pod + 1)], "nodeName": node,
            "conditions": { "ready": true, "serving": true, "terminating": false } })
    };
    let here = here.iter().map(|pod| endpoint(pod, "here"));
    let elsewhere = elsewhere.iter().map(|pod| endpoint(pod, "elsewhere"));
    let endpoints: Vec<Value> = here.chain(elsewhere).collect();
    [
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "default" },
            "spec": spec, "status": { "loadBalancer": { "ingress": [{ "ip": format!("203.0.113.{number}") }] } } }),
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": format!("{name}-x"), "namespace": "default",
                "labels": { "kubernetes.io/service-name": name } },
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" },
                { "name": "line", "port": 8081, "protocol": "UDP" }],
            "endpoints": endpoints }),
    ]
}

fn registry() -> Value {
    let items = [
        service(
            100,
            &json!({ "externalIPs": ["198.51.100.200"] }),
            &[1, 2, 3],
            &[],
        ),
        service(101, &json!({ "externalTrafficPolicy": "Local" }), &[2], &[1, 3]),
        service(102, &json!({ "externalTrafficPolicy": "Local" }), &[], &[2, 3]),
        service(103, &json!({ "internalTrafficPolicy": "Local" }), &[1], &[2, 3]),
        service(
            104,
            &json!({ "loadBalancerSourceRanges": ["192.0.2.0/30"] }),
            &[1, 2, 3],
            &[],
        ),
        service(
            105,
            &json!({ "loadBalancerSourceRanges": ["198.51.100.0/24"] }),
            &[1, 2, 3],
            &[],
        ),
        service(106, &json!({}), &[], &[]),
        service(107, &json!({ "sessionAffinity": "ClientIP" }), &[1, 2, 3], &[]),
    ];
    json!({ "apiVersion": "v1", "kind": "List", "items": items.concat() })
}

/// A node with pods, rules, and a client outside.
struct World {
    machine: Machine,
    rules: Found,
    facts: NodeFacts,
}

impl World {
    /// `detector` are the flags that tell how pods are told from others.
    fn new(detector: &[&str]) -> Self {
        let machine = Machine::builder().uplink().start();
        machine.lab(["up", "3-pods"]).ok();
        machine.run(["sysctl", "-qw"].into_iter().chain(SYSCTLS)).ok();
        let registry = machine.file("flows.json", &registry().to_string());
        let sync = ["sync", "--registry", &registry, "--node", "here"];
        machine.proxy(sync.iter().chain(detector).copied()).ok();
        let dump = machine.run(["iptables-save"]).ok().stdout;
        let policies = dump
            .lines()
            .filter(|line| line.starts_with(':') && line.contains(" DROP "));
        assert_eq!(
            policies.count(),
            0,
            "the tracer was not told of these policies:\n{dump}"
        );
        let links = machine.run(["ip", "-j", "address"]).ok().json();
        let addresses = links.as_array().expect("links").iter().flat_map(|link| {
            let addresses = link["addr_info"].as_array().into_iter().flatten();
            addresses.map(|address| ip(address["local"].as_str().expect("an address")))
        });
        Self {
            rules: parse(&dump).expect("a dump"),
            facts: NodeFacts::new(addresses).route("10.244.0.0/24".parse().expect("a network"), BRIDGE),
            machine,
        }
    }

    /// The first packet of a connection.
    fn packet(&self, from: Client, protocol: &str, to: SocketAddr) -> Packet {
        let (source, arriving) = match from {
            Pod => (ip("10.244.0.2"), Some(BRIDGE)),
            External => (ip(ROUTER_ADDRESS), Some("uplink0")),
            Node => (self.own_source(to.ip()), None),
        };
        Packet {
            source,
            protocol: if protocol == "udp" {
                Protocol::Udp.into()
            } else {
                Protocol::Tcp.into()
            },
            destination: to.ip(),
            port: to.port(),
            arriving: arriving.map(str::to_string),
            remembered: None,
        }
    }

    fn own_source(&self, to: IpAddr) -> IpAddr {
        let route = self
            .machine
            .run(["ip", "-j", "route", "get", &to.to_string()])
            .ok()
            .json();
        ip(route[0]["prefsrc"].as_str().expect("a source address"))
    }

    fn trace(&self, packet: &Packet) -> Trace {
        let trace = trace(&self.rules, &self.facts, packet);
        assert!(trace.doubts.is_empty(), "{packet:?}: {:?}", trace.doubts);
        trace
    }

    fn connect(&self, from: Client, protocol: &str, to: &str, count: u64, timeout: u64) -> Tally {
        let (count, timeout) = (count.to_string(), timeout.to_string());
        let argv = ["lab-helper", "load", protocol, to, &count, "8", &timeout];
        let ran: Ran = match from {
            Pod => self.machine.in_pod("web-1", argv),
            Node => self.machine.run(argv),
            External => self.machine.uplink().run(&self.machine, &argv),
        };
        Tally::from_json(&ran.ok().json())
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// `web-1` has 10.244.0.2, and so on.
fn pod_at(endpoint: &SocketAddr) -> String {
    match endpoint.ip() {
        IpAddr::V4(ip) => format!("web-{}", ip.octets()[3] - 1),
        IpAddr::V6(ip) => ip.to_string(),
    }
}

/// What was traced, in the words of [`FLOWS`].
fn word(trace: &Trace) -> String {
    let endpoints = trace.endpoints();
    if endpoints.is_empty() {
        let verdict = trace.outcomes.first().map(|outcome| outcome.verdict);
        return match verdict {
            Some(Verdict::Drop) => "DROP",
            Some(Verdict::Reject) => "REJECT",
            _ => "untouched",
        }
        .to_string();
    }
    let masqueraded = trace.outcomes.iter().filter(|outcome| outcome.masqueraded);
    let sign = match masqueraded.count() {
        0 => "-",
        all if all == trace.outcomes.len() => "+",
        _ => "±",
    };
    format!("{}{sign}", endpoints.len())
}

/// Which pod sees which client, by the trace.
fn expected_seen(trace: &Trace, source: IpAddr) -> BTreeMap<String, f64> {
    let mut seen = BTreeMap::new();
    for outcome in &trace.outcomes {
        let endpoint = outcome.destination.as_ref().expect("only endpoints");
        let client = if outcome.masqueraded {
            ip(BRIDGE_ADDRESS)
        } else {
            source
        };
        *seen.entry(format!("{} {client}", pod_at(endpoint))).or_default() += outcome.probability;
    }
    seen
}

/// Everything about the answers that differs from the trace.
fn compare(trace: &Trace, source: IpAddr, tally: &Tally) -> Vec<String> {
    let mut wrong = Vec::new();
    let expected = expected_seen(trace, source);
    if !tally.failures.is_empty() {
        wrong.push(format!("lost: {:?}", tally.failures));
    }
    let (seen, traced): (Vec<_>, Vec<_>) = (tally.seen.keys().collect(), expected.keys().collect());
    if seen != traced {
        wrong.push(format!("pods saw {seen:?}, traced was {traced:?}"));
        return wrong;
    }
    let fair = 1.0 / f64::from(u32::try_from(expected.len()).expect("a few"));
    if expected.values().any(|share| (share - fair).abs() > 1e-6) {
        wrong.push(format!("traced shares are not equal: {expected:?}"));
    }
    let counts: Vec<u64> = tally.seen.values().copied().collect();
    let p = p_of_equal_shares(&counts);
    if p < REJECT_BELOW {
        wrong.push(format!(
            "shares are not those traced (p = {p:e}): {:?}",
            tally.seen
        ));
    }
    wrong
}

/// Everything about one flow that differs from the trace.
fn replay(world: &World, (from, protocol, to, word_of_it): Flow) -> Vec<String> {
    let address: SocketAddr = to.parse().expect("an address with a port");
    let packet = world.packet(from, protocol, address);
    let trace = world.trace(&packet);
    let mut wrong = Vec::new();
    let found = word(&trace);
    if found != word_of_it {
        wrong.push(format!("traced {found}, not {word_of_it}"));
    }
    let failure = match found.as_str() {
        // The kernel may lose the word that tells the sender; then its second SYN is told.
        "REJECT" => Some(("connection refused", 10_000)),
        "DROP" | "untouched" => Some(("timed out", 700)),
        _ => None,
    };
    match failure {
        None => {
            let tally = world.connect(from, protocol, to, CONNECTIONS, 10_000);
            wrong.extend(compare(&trace, packet.source, &tally));
        }
        Some((failure, patience)) => {
            let tally = world.connect(from, protocol, to, ATTEMPTS, patience);
            let only = BTreeMap::from([(failure.to_string(), ATTEMPTS)]);
            if tally.failures != only || tally.answered() > 0 {
                wrong.push(format!("traced {found}, but: {tally:?}"));
            }
        }
    }
    wrong
}

fn replay_all(world: &World, flows: impl IntoIterator<Item = Flow>) {
    let mut wrong = Vec::new();
    for flow in flows {
        for what in replay(world, flow) {
            wrong.push(format!("{:?} {} → {}: {what}", flow.0, flow.1, flow.2));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn packets_go_where_the_tracer_says_with_pods_told_by_address() {
    replay_all(&World::new(&["--cluster-cidr", "10.244.0.0/16"]), FLOWS);
}

/// The node's own connections have an address of the pods' network, but come in by no bridge.
#[test]
fn packets_go_where_the_tracer_says_with_pods_told_by_bridge() {
    let world = World::new(&[
        "--detect-local-mode",
        "BridgeInterface",
        "--pod-bridge-interface",
        BRIDGE,
    ]);
    let flows = FLOWS.map(|(from, protocol, to, word)| match (from, word) {
        (Node, "3-") => (from, protocol, to, "3+"),
        (Node, "1-") => (from, protocol, to, "1+"),
        _ => (from, protocol, to, word),
    });
    replay_all(&world, flows);
}

/// The first connection is anybody's; all others follow it, as the tracer says of a client that is known.
#[test]
fn a_client_with_affinity_stays_where_the_tracer_says() {
    let world = World::new(&["--cluster-cidr", "10.244.0.0/16"]);
    for (from, to) in [
        (Pod, "10.96.0.107:80"),
        (Node, "10.96.0.107:80"),
        (External, "203.0.113.107:80"),
    ] {
        let mut packet = world.packet(from, "http", to.parse().expect("an address"));
        let fresh = world.trace(&packet).endpoints();
        assert_eq!(fresh.len(), 3, "{from:?}: {fresh:?}");
        let first = world.connect(from, "http", to, 1, 10_000);
        let endpoint = fresh
            .into_keys()
            .find(|endpoint| first.answers.contains_key(&pod_at(endpoint)))
            .unwrap_or_else(|| panic!("{from:?}: {first:?}"));
        packet.remembered = Some(endpoint);
        let known = world.trace(&packet);
        assert_eq!(
            known.endpoints().into_keys().collect::<Vec<_>>(),
            [endpoint],
            "{from:?}"
        );
        let wrong = compare(
            &known,
            packet.source,
            &world.connect(from, "http", to, CONNECTIONS, 10_000),
        );
        assert!(wrong.is_empty(), "{from:?} → {to}: {wrong:?}");
    }
}
