//! Policies of Services across nodes: who answers, and as whom the caller is seen.

use std::collections::BTreeSet;

use lab_tests::machine::Machine;
use serde_json::{Value, json};

/// So many calls that one of two pods that share them is missed once in 10^12 times.
const CALLS: usize = 40;

/// Two nodes with a pod each in zones of their own, and one that has none of the Service's.
const TOPOLOGY: &str = r#"{"nodes": [
  {"name": "a", "zone": "east"}, {"name": "b", "zone": "west"}, {"name": "c", "zone": "north"}],
  "dns": false, "pods": [
  {"name": "web-1", "nodeName": "a", "labels": {"app": "web"}},
  {"name": "web-2", "nodeName": "b", "labels": {"app": "web"}},
  {"name": "client", "nodeName": "c"}]}"#;

const OUTSIDE: &str = "172.18.255.254";

fn lab(objects: &[Value]) -> Machine {
    let machine = Machine::start();
    let file = machine.file("lab.json", TOPOLOGY);
    machine.lab(["up", &file]).ok();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let apply = machine.command(["netns-lab", "apply", "-f", "-"]);
    apply.input(&list.to_string()).run().ok();
    let sync = ["sync", "--cluster-cidr", "10.244.0.0/16"];
    machine.proxy(sync).ok().says("all 3 nodes");
    machine
}

/// A Service of the two pods, with more fields.
fn service(name: &str, spec: &Value) -> Value {
    let mut all = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]});
    for (field, value) in spec.as_object().expect("fields") {
        all[field] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": all})
}

fn node_port(name: &str, port: u16, more: &Value) -> Value {
    let mut spec = json!({"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080, "nodePort": port}]});
    for (field, value) in more.as_object().expect("fields") {
        spec[field] = value.clone();
    }
    service(name, &spec)
}

/// Who answers, and as whom each of them sees the caller.
#[track_caller]
fn answers(machine: &Machine, from: &str, target: &str) -> BTreeSet<(String, String)> {
    let script = format!("for call in $(seq {CALLS}); do curl -sSm 5 http://{target} || exit 9; done");
    let said = machine.lab(["exec", from, "--", "sh", "-c", &script]).ok().stdout;
    let lines: Vec<_> = said
        .lines()
        .filter(|line| line.contains(" sees you as "))
        .collect();
    assert_eq!(lines.len(), CALLS, "{from} -> {target}: {said}");
    let parts = lines.into_iter().map(|line| {
        let (pod, source) = line.split_once(" sees you as ").expect("both");
        let pod = pod.split(' ').next().expect("a name");
        let (source, _port) = source.rsplit_once(':').expect("a port");
        (pod.to_string(), source.to_string())
    });
    parts.collect()
}

fn pairs<const N: usize>(wanted: [(&str, &str); N]) -> BTreeSet<(String, String)> {
    let wanted = wanted.into_iter();
    wanted
        .map(|(pod, source)| (pod.to_string(), source.to_string()))
        .collect()
}

#[track_caller]
fn assert_answers<const N: usize>(machine: &Machine, from: &str, target: &str, wanted: [(&str, &str); N]) {
    assert_eq!(
        answers(machine, from, target),
        pairs(wanted),
        "{from} -> {target}"
    );
}

/// Asserts that a call waits in vain: rules drop it, and nobody refuses it.
#[track_caller]
fn assert_dropped(machine: &Machine, from: &str, target: &str) {
    let curl = ["exec", from, "--", "curl", "-sSm", "1", target];
    machine.lab(curl).exits(28).complains("timed out");
}

fn ip(machine: &Machine, service: &str) -> String {
    let found = machine.lab(["get", "svc", service, "-o", "json"]).ok().json();
    found["spec"]["clusterIP"]
        .as_str()
        .expect("an address")
        .to_string()
}

#[test]
fn a_cluster_ip_leads_to_pods_of_all_nodes_and_keeps_the_callers_address() {
    let machine = lab(&[service("all", &json!({}))]);
    let all = ip(&machine, "all");
    assert_answers(
        &machine,
        "client",
        &all,
        [("web-1", "10.244.2.2"), ("web-2", "10.244.2.2")],
    );
    // Whoever reaches itself is seen as its bridge: the answer would not come back otherwise.
    assert_answers(
        &machine,
        "web-1",
        &all,
        [("web-1", "10.244.0.1"), ("web-2", "10.244.0.2")],
    );
    // A node's way to virtual IPs is its bridge, whose address is one of the cluster's.
    assert_answers(
        &machine,
        "a",
        &all,
        [("web-1", "10.244.0.1"), ("web-2", "10.244.0.1")],
    );
}

#[test]
fn a_node_port_hides_the_caller_unless_its_policy_is_local() {
    let machine = lab(&[
        node_port("everywhere", 30090, &json!({})),
        node_port("here", 30091, &json!({"externalTrafficPolicy": "Local"})),
    ]);
    // Each node sends to all pods, and stands for the caller.
    let by_a = [("web-1", "10.244.0.1"), ("web-2", "172.18.0.1")];
    assert_answers(&machine, "outside", "172.18.0.1:30090", by_a);
    let by_c = [("web-1", "172.18.0.3"), ("web-2", "172.18.0.3")];
    assert_answers(&machine, "outside", "172.18.0.3:30090", by_c);
    // Each node sends to its own pods, which see who calls; a node without any drops.
    assert_answers(&machine, "outside", "172.18.0.1:30091", [("web-1", OUTSIDE)]);
    assert_answers(&machine, "outside", "172.18.0.2:30091", [("web-2", OUTSIDE)]);
    assert_dropped(&machine, "outside", "172.18.0.3:30091");
    // Pods of the cluster are not from outside: they have the short cut to all pods.
    let short_cut: BTreeSet<_> = answers(&machine, "client", "172.18.0.3:30091");
    let pods: BTreeSet<_> = short_cut.iter().map(|(pod, _)| pod.as_str()).collect();
    assert_eq!(pods, ["web-1", "web-2"].into(), "{short_cut:?}");
}

#[test]
fn a_load_balancer_and_an_external_address_are_reached_from_outside() {
    let machine = lab(&[
        service("balanced", &json!({"type": "LoadBalancer"})),
        service("external", &json!({"externalIPs": ["203.0.113.77"]})),
    ]);
    let found = machine.lab(["get", "svc", "balanced", "-o", "json"]).ok().json();
    let vip = &found["status"]["loadBalancer"]["ingress"][0]["ip"];
    for vip in [vip.as_str().expect("an address"), "203.0.113.77"] {
        let found = answers(&machine, "outside", vip);
        let pods: BTreeSet<_> = found.iter().map(|(pod, _)| pod.as_str()).collect();
        assert_eq!(pods, ["web-1", "web-2"].into(), "{vip}: {found:?}");
        assert!(
            found.iter().all(|(_, source)| source != OUTSIDE),
            "{vip}: {found:?}"
        );
    }
}

#[test]
fn an_internal_policy_of_local_keeps_calls_on_the_node() {
    let machine = lab(&[service("near", &json!({"internalTrafficPolicy": "Local"}))]);
    let near = ip(&machine, "near");
    assert_answers(&machine, "web-1", &near, [("web-1", "10.244.0.1")]);
    assert_answers(&machine, "b", &near, [("web-2", "10.244.1.1")]);
    assert_dropped(&machine, "client", &near);
}

#[test]
fn a_client_with_affinity_stays_with_its_pod_on_each_way() {
    let machine = lab(&[node_port(
        "sticky",
        30092,
        &json!({"sessionAffinity": "ClientIP"}),
    )]);
    let sticky = ip(&machine, "sticky");
    for (from, target) in [
        ("client", sticky.as_str()),
        ("a", &sticky),
        ("outside", "172.18.0.1:30092"),
        ("outside", "172.18.0.2:30092"),
        ("outside", "172.18.0.3:30092"),
    ] {
        let found = answers(&machine, from, target);
        assert_eq!(found.len(), 1, "{from} -> {target}: {found:?}");
    }
}

#[test]
fn hints_keep_calls_in_their_zone() {
    let endpoint = |pod: &str, ip: &str, zone: &str| {
        json!({"addresses": [ip], "conditions": {"ready": true}, "zone": zone, "hints": {"forZones": [{"name": zone}]},
            "nodeName": if zone == "east" { "a" } else { "b" }, "targetRef": {"kind": "Pod", "name": pod}})
    };
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "zoned-1", "labels": {"kubernetes.io/service-name": "zoned"}},
        "ports": [{"port": 8080, "protocol": "TCP"}],
        "endpoints": [endpoint("web-1", "10.244.0.2", "east"), endpoint("web-2", "10.244.1.2", "west")]});
    let mut service = service("zoned", &json!({}));
    service["metadata"]["annotations"] = json!({"service.kubernetes.io/topology-mode": "Auto"});
    let machine = lab(&[service, slice]);
    let zoned = ip(&machine, "zoned");
    assert_answers(&machine, "a", &zoned, [("web-1", "10.244.0.1")]);
    assert_answers(&machine, "web-2", &zoned, [("web-2", "10.244.1.1")]);
    // No endpoint is for this zone, so that all are.
    assert_answers(
        &machine,
        "client",
        &zoned,
        [("web-1", "10.244.2.2"), ("web-2", "10.244.2.2")],
    );
}
