//! What `explain` predicts is what `trace` sees and where real connections go, for every kind of flow.

use std::collections::BTreeSet;

use lab_tests::load::Tally;
use lab_tests::machine::Machine;
use lab_tests::stats::{REJECT_BELOW, p_of_equal_shares};
use serde_json::Value;

/// Real connections of each flow.
const CONNECTIONS: &str = "160";

/// Services for the pods of `2-nodes-4-pods`, of which each node has two.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: open}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.100
  selector: {app: web}
  externalIPs: [203.0.113.200]
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30100}
  - {name: line, port: 81, protocol: UDP, targetPort: 8081}
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  clusterIP: 10.96.0.101
  selector: {app: web}
  externalIPs: [203.0.113.201]
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30101}]
---
apiVersion: v1
kind: Service
metadata: {name: inner}
spec:
  internalTrafficPolicy: Local
  clusterIP: 10.96.0.102
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: loyal}
spec:
  sessionAffinity: ClientIP
  clusterIP: 10.96.0.103
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

/// A pod that is no endpoint.
const CLIENT: &str = "kube-dns";

/// Caller, protocol, target, and how many pods may answer.
type Flow<'f> = (&'f str, &'f str, &'f str, usize);

const FLOWS: [Flow<'static>; 22] = [
    (CLIENT, "http", "10.96.0.100:80", 4),
    // An endpoint, which may call itself.
    ("web-1", "http", "10.96.0.100:80", 4),
    ("node-1", "http", "10.96.0.100:80", 4),
    (CLIENT, "udp", "10.96.0.100:81", 4),
    // Ports of nodes.
    (CLIENT, "http", "172.18.0.1:30100", 4),
    ("node-1", "http", "172.18.0.1:30100", 4),
    ("outside", "http", "172.18.0.1:30100", 4),
    ("outside", "http", "172.18.0.2:30100", 4),
    (CLIENT, "http", "172.18.0.1:30101", 4),
    ("node-1", "http", "172.18.0.1:30101", 4),
    ("outside", "http", "172.18.0.1:30101", 2),
    ("outside", "http", "172.18.0.2:30101", 2),
    // External IPs, and a load balancer's.
    (CLIENT, "http", "203.0.113.200:80", 4),
    ("node-2", "http", "203.0.113.200:80", 4),
    ("outside", "http", "203.0.113.200:80", 4),
    (CLIENT, "http", "203.0.113.201:80", 4),
    (CLIENT, "http", "VIP", 4),
    ("node-1", "http", "VIP", 4),
    ("outside", "http", "VIP", 4),
    // Only this node's.
    (CLIENT, "http", "10.96.0.102:80", 2),
    ("web-2", "http", "10.96.0.102:80", 2),
    ("node-2", "http", "10.96.0.102:80", 2),
];

fn words<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// Two nodes, their rules, and the address that the lab gave the Service `open`.
fn lab() -> (Machine, String) {
    let machine = Machine::start();
    machine.lab(["up", "2-nodes-4-pods"]).ok();
    let apply = ["netns-lab", "apply", "-f", "-"];
    machine.command(apply).input(SERVICES).run().ok();
    let sync = ["sync", "--cluster-cidr", "10.244.0.0/16"];
    machine.proxy(sync).ok();
    let open = machine.lab(["get", "svc", "open", "-o", "json"]).ok().json();
    let vip = open["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
    let vip = format!("{}:80", vip.unwrap_or_else(|| panic!("no address: {open:#}")));
    (machine, vip)
}

fn asked(machine: &Machine, command: &str, (from, protocol, to, _): Flow<'_>, more: &[&str]) -> Value {
    let mut argv = vec![command, to, "--from", from, "-o", "json"];
    if protocol == "udp" {
        argv.push("--udp");
    }
    argv.extend(more);
    machine.proxy(argv).json()
}

fn place(hop: &Value) -> String {
    format!("{} {} #{}", words(hop, "table"), words(hop, "chain"), hop["rule"])
}

/// Everything in which one connection is not as it was predicted.
fn compare(explained: &Value, traced: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    if traced["outcome"] != "answered" {
        wrong.push(format!("it was {}: {}", traced["outcome"], traced["sentence"]));
        return wrong;
    }
    let address = words(&traced["backend"], "address");
    let backends = explained["backends"].as_array().expect("backends");
    let Some(backend) = backends.iter().find(|backend| backend["address"] == address) else {
        wrong.push(format!("{address} was not predicted"));
        return wrong;
    };
    if backend["masquerade"] != traced["masquerade"] {
        wrong.push(format!(
            "masquerade: predicted {}, seen {}",
            backend["masquerade"], traced["masquerade"]
        ));
    }
    if traced["reply"]["natRules"] != 0 {
        wrong.push(format!("the way back: {}", traced["reply"]));
    }
    let known: BTreeSet<String> = explained["hops"]
        .as_array()
        .expect("hops")
        .iter()
        .map(place)
        .collect();
    let hops = traced["hops"].as_array().expect("hops");
    let first = &hops[0]["node"];
    let met = hops
        .iter()
        .filter(|hop| hop["node"] == *first && !hop["rule"].is_null() && hop["table"] != "raw");
    wrong.extend(
        met.map(place)
            .filter(|place| !known.contains(place))
            .map(|place| format!("it met {place}, which was not predicted")),
    );
    let name = words(&traced["backend"], "name").trim_start_matches("default/");
    if !words(traced, "answer").starts_with(&format!("{name} ")) {
        wrong.push(format!(
            "the rules chose {name}, and {} answered",
            traced["answer"]
        ));
    }
    wrong
}

fn connect(machine: &Machine, (from, protocol, to, _): Flow<'_>) -> Tally {
    let argv = [
        "exec",
        from,
        "--",
        "lab-helper",
        "load",
        protocol,
        to,
        CONNECTIONS,
        "8",
        "10000",
    ];
    Tally::from_json(&machine.lab(argv).ok().json())
}

fn names(explained: &Value) -> BTreeSet<&str> {
    let backends = explained["backends"].as_array().expect("backends");
    backends.iter().map(|backend| words(backend, "name")).collect()
}

/// Everything in which the real connections went elsewhere than predicted.
fn spread(tally: &Tally, expected: &BTreeSet<&str>) -> Vec<String> {
    let answered: BTreeSet<&str> = tally.answers.keys().map(String::as_str).collect();
    if !tally.failures.is_empty() || answered != *expected {
        return vec![format!("predicted {expected:?}, but: {tally:?}")];
    }
    let counts: Vec<u64> = tally.answers.values().copied().collect();
    let p = p_of_equal_shares(&counts);
    (p < REJECT_BELOW)
        .then(|| format!("not the shares predicted (p = {p:e}): {tally:?}"))
        .into_iter()
        .collect()
}

/// Which node's rules were met first: routes outside choose one where the address is no node's.
fn first_node(traced: &Value) -> &str {
    words(&traced["hops"][0], "node")
}

/// What differs in one flow.
fn flow(machine: &Machine, flow: Flow<'_>) -> Vec<String> {
    let traced = asked(machine, "trace", flow, &[]);
    let explained = asked(machine, "explain", flow, &["--node", first_node(&traced)]);
    let mut wrong = compare(&explained, &traced);
    let expected = names(&explained);
    if expected.len() != flow.3 {
        wrong.push(format!("predicted {expected:?}, not {} pods", flow.3));
    }
    wrong.extend(spread(&connect(machine, flow), &expected));
    wrong
}

#[test]
fn predicted_traced_and_real_connections_are_the_same() {
    let (machine, vip) = lab();
    let mut wrong = Vec::new();
    for (from, protocol, to, pods) in FLOWS {
        let to = if to == "VIP" { &vip } else { to };
        let differs = flow(&machine, (from, protocol, to, pods));
        wrong.extend(
            differs
                .iter()
                .map(|what| format!("{from} → {protocol} {to}: {what}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The first connection is anybody's; the traced one and all others follow it.
#[test]
fn a_client_with_affinity_stays_where_it_was_traced() {
    let (machine, _) = lab();
    for from in [CLIENT, "web-1", "node-2"] {
        let flow: Flow<'_> = (from, "http", "10.96.0.103:80", 4);
        let traced = asked(&machine, "trace", flow, &[]);
        let explained = asked(&machine, "explain", flow, &["--node", first_node(&traced)]);
        let wrong = compare(&explained, &traced);
        assert!(wrong.is_empty(), "{from}: {wrong:?}");
        assert_eq!(names(&explained).len(), flow.3);
        let name = words(&traced["backend"], "name").trim_start_matches("default/");
        let tally = connect(&machine, flow);
        let wrong = spread(&tally, &BTreeSet::from([name]));
        assert!(wrong.is_empty(), "{from}: {wrong:?}");
        let again = asked(&machine, "trace", flow, &[]);
        assert_eq!(again["backend"], traced["backend"], "{from}: {again:#}");
    }
}
