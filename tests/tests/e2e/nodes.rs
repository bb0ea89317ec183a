//! Labs of several nodes: pods that reach each other across them, nothing of it where `up` is
//! called, and all that holds for one node.

use std::collections::BTreeSet;

use lab_tests::machine::{Flavour, Machine};
use lab_tests::witness::{Witness, assert_unchanged};
use serde_json::Value;

use crate::kill::{HOST, dies_at, named};

/// What a lab must not change where `up` is called, as parts of a witness. It has processes, names
/// and files there, and nothing else.
const NETWORK: [&str; 11] = [
    "iptables-nft-save",
    "ip6tables-nft-save",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
    "nft list ruleset",
    "links",
    "addresses",
    "routes",
    "routes (IPv6)",
    "routing rules",
    "sysctls",
];

#[track_caller]
fn assert_same_network(machine: &Machine, before: &Witness) {
    let now = Witness::of(machine);
    for part in NETWORK {
        assert_eq!(before.part(part), now.part(part), "{part}");
    }
}

/// What a pod says to whoever asks it from there.
#[track_caller]
fn ask(machine: &Machine, from: &str, address: &str) -> String {
    let words = ["exec", from, "--", "curl", "-gsm", "5", address];
    machine.lab(words).ok().stdout
}

#[track_caller]
fn assert_seen_as(machine: &Machine, from: &str, address: &str, source: &str) {
    let said = ask(machine, from, address);
    assert!(
        said.contains(&format!("sees you as {source}")),
        "{from} -> {address}: expected the source {source}: {said}"
    );
}

fn status(machine: &Machine) -> Value {
    machine.lab(["status", "-o", "json"]).ok().json()
}

fn ready(status: &Value) -> usize {
    let pods = status["pods"].as_array().expect("pods");
    let of_topology = pods.iter().filter(|pod| pod["system"] != true);
    of_topology.filter(|pod| pod["ready"] == true).count()
}

#[test]
fn pods_of_all_nodes_reach_each_other_and_nothing_shows_outside() {
    let machine = Machine::builder().docker().foreign_rules(20).start();
    let before = Witness::of(&machine);
    machine.lab(["up", "2-nodes-4-pods"]).ok().says("total");
    assert_same_network(&machine, &before);
    // On the same node, on another, from a node: nobody's address is changed on the way.
    assert_seen_as(&machine, "web-1", "10.244.0.3:8080", "10.244.0.2:");
    assert_seen_as(&machine, "web-1", "10.244.1.2:8080", "10.244.0.2:");
    assert_seen_as(&machine, "web-4", "10.244.0.2:8080", "10.244.1.3:");
    assert_seen_as(&machine, "node-1", "10.244.1.2:8080", "172.18.0.1:");
    assert_same_network(&machine, &before);
    machine.lab(["up", "--dry-run"]).ok().says("nothing to do");
    machine.lab(["down"]).ok();
    assert_unchanged(&machine, &before, "after two nodes");
}

#[test]
fn what_leaves_the_cluster_has_the_address_of_the_node() {
    let machine = Machine::start();
    machine.lab(["up", "2-nodes-2-pods"]).ok();
    let serve = "netns-lab serve --pod elsewhere --ip 172.18.255.254 --listen http:8080/tcp";
    let words = ["netns-lab", "exec", "outside", "--", "sh", "-c", serve];
    let server = machine.command(words).start();
    server.wait_for("answers on");
    assert_seen_as(&machine, "web-2", "172.18.255.254:8080", "172.18.0.2:");
    assert_seen_as(&machine, "node-1", "172.18.255.254:8080", "172.18.0.1:");
    // Outside knows the nodes and the load balancers' range, as a host beside a cluster does.
    let routes = machine.lab(["exec", "outside", "--", "ip", "route"]).ok().stdout;
    assert!(routes.contains("203.0.113.0/24"), "{routes}");
    assert!(
        !routes.contains("10.244.") && !routes.contains("10.96."),
        "{routes}"
    );
    assert_eq!(routes.matches("nexthop").count(), 2, "{routes}");
    drop(server);
    machine.lab(["down"]).ok();
}

#[test]
fn an_overlay_carries_packets_in_packets() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    machine
        .lab(["up", "3-nodes-6-pods", "--overlay", "vxlan", "--dual-stack"])
        .ok();
    assert_same_network(&machine, &before);
    assert_seen_as(&machine, "web-1", "10.244.2.2:8080", "10.244.0.2:");
    assert_seen_as(&machine, "web-3", "10.244.1.2:8080", "10.244.2.2:");
    assert_seen_as(&machine, "web-1", "[fd00:10:244:1::2]:8080", "[fd00:10:244::2]:");
    let link = ["exec", "node-3", "--", "ip", "-s", "-j", "link", "show", "vxlan0"];
    let link = machine.lab(link).ok().json();
    let heard = link[0]["stats64"]["rx"]["packets"].as_u64().expect("a count");
    assert!(heard > 0, "{link:#}");
    machine.lab(["down"]).ok();
    assert_unchanged(&machine, &before, "after an overlay");
}

#[test]
fn a_tunnel_that_forgot_where_nodes_are_is_repaired() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    machine.lab(["up", "2-nodes-2-pods", "--overlay", "vxlan"]).ok();
    for damage in [
        "bridge -n node-1 fdb flush dev vxlan0 || ip netns exec node-1 sh -c 'bridge fdb show dev vxlan0 | \
         while read -r mac rest; do bridge fdb del $mac dev vxlan0; done'",
        "ip -n node-1 neigh flush dev vxlan0 nud permanent",
        "ip -n node-2 link del vxlan0",
    ] {
        machine.sh(damage).ok();
        let ask = ["exec", "web-1", "--", "curl", "-sSm", "1", "10.244.1.2:8080"];
        assert_ne!(machine.lab(ask).code(), 0, "{damage}: nothing is broken");
        machine.lab(["status"]).ok().says("would repair");
        machine.lab(["up"]).ok();
        machine.lab(["up", "--dry-run"]).ok().says("nothing to do");
        assert_seen_as(&machine, "web-1", "10.244.1.2:8080", "10.244.0.2:");
    }
    machine.lab(["down"]).ok();
    assert_unchanged(&machine, &before, "after repairs of an overlay");
}

#[test]
fn a_dual_stack_lab_speaks_both_at_once() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    machine.lab(["up", "2-nodes-4-pods", "--dual-stack"]).ok();
    assert_same_network(&machine, &before);
    let all = "[fd00:10:244:1::2]:8080";
    assert_seen_as(&machine, "web-1", all, "[fd00:10:244::2]:");
    assert_seen_as(&machine, "web-4", all, "[fd00:10:244:1::3]:");
    assert_seen_as(&machine, "node-1", all, "[fd00:172:18::1]:");
    assert_seen_as(&machine, "web-1", "10.244.1.2:8080", "10.244.0.2:");
    let pod = machine
        .run(["cat", "/run/netns-lab/lab/registry/web-2.pod.json"])
        .ok()
        .json();
    assert_eq!(pod["status"]["podIPs"][1]["ip"], "fd00:10:244:1::2");
    assert_eq!(pod["status"]["hostIP"], "172.18.0.2");
    let node = machine
        .run(["cat", "/run/netns-lab/lab/registry/node-2.node.json"])
        .ok()
        .json();
    assert_eq!(
        node["metadata"]["annotations"]["netns-lab/network-namespace"],
        "/run/netns/node-2"
    );
    assert_eq!(node["spec"]["podCIDRs"][1], "fd00:10:244:1::/64");
    machine.lab(["down"]).ok();
    assert_unchanged(&machine, &before, "after a dual-stack lab");
}

#[test]
fn commands_run_on_nodes_and_outside() {
    let machine = Machine::start();
    machine.lab(["up", "--isolated", "2-pods"]).ok();
    for (place, address) in [("node-1", "172.18.0.1"), ("outside", "172.18.255.254")] {
        machine.lab(["exec", place, "--", "hostname"]).ok().says(place);
        machine
            .lab(["exec", place, "--", "ip", "-4", "address", "show", "eth0"])
            .ok()
            .says(address);
    }
    machine
        .lab(["exec", "nobody", "--", "true"])
        .exits(1)
        .complains("no node nobody");
    machine
        .lab(["arp", "10.244.0.2", "--from", "node-1"])
        .ok()
        .says("(pod web-1)");
    machine
        .lab(["arp", "172.18.0.1", "--from", "outside"])
        .ok()
        .says("(node node-1)");
    machine
        .lab(["arp", "203.0.113.7", "--from", "outside"])
        .exits(1)
        .says("nobody answered");
    machine.lab(["down"]).ok();
}

#[test]
fn nodes_come_and_go_and_pods_stay_where_they_are() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    machine.lab(["up", "2-nodes-4-pods"]).ok();
    let of = |status: &Value, name: &str| {
        let pods = status["pods"].as_array().expect("pods").clone();
        let pod = pods.into_iter().find(|pod| pod["name"] == name).expect("the pod");
        (pod["node"].clone(), pod["ip"].clone(), pod["pid"].clone())
    };
    let first = status(&machine);
    machine.lab(["up", "3-nodes-9-pods"]).ok();
    let second = status(&machine);
    for name in ["web-1", "web-2", "web-3", "web-4"] {
        assert_eq!(of(&first, name), of(&second, name), "{name} was moved");
    }
    assert_eq!(
        (ready(&second), second["total"]["used"]["pods"].as_u64()),
        // The name server takes room, too.
        (9, Some(10))
    );
    assert_seen_as(&machine, "web-1", "10.244.2.2:8080", "10.244.0.2:");
    assert_seen_as(&machine, "web-5", "10.244.0.2:8080", "10.244.2.2:");
    machine.lab(["up", "2-nodes-3-pods"]).ok();
    let routes = machine.lab(["exec", "node-1", "--", "ip", "route"]).ok().stdout;
    assert!(!routes.contains("10.244.2.0"), "{routes}");
    assert_eq!(ready(&status(&machine)), 3);
    // Without nodes they stay as they are.
    machine.lab(["up", "5-pods"]).ok();
    assert_eq!(ready(&status(&machine)), 5);
    machine.lab(["down"]).ok();
    assert_unchanged(&machine, &before, "after nodes came and went");
}

#[test]
fn whatever_is_broken_is_repaired() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    machine.lab(["up", "2-nodes-4-pods", "--dual-stack"]).ok();
    for damage in [
        "ip netns del node-2",
        "ip netns del outside",
        "ip netns del underlay",
        "ip netns del web-2",
        "ip -n node-1 link del eth0",
        "ip -n node-1 link del cni0",
        "ip -n node-1 link set cni0 down",
        "ip -n underlay link set underlay down",
        "ip -n node-2 route del 10.244.0.0/24",
        "ip -n node-2 -6 route del fd00:10:244::/64",
        "ip -n outside route flush 203.0.113.0/24",
        "ip netns exec node-1 iptables -t nat -F",
        "ip netns exec node-1 ip6tables -t nat -F",
        "ip netns exec node-2 sysctl -qw net.ipv4.ip_forward=0",
        "ip netns exec node-2 sysctl -qw net.bridge.bridge-nf-call-iptables=0",
    ] {
        machine.sh(damage).ok();
        let told = machine.lab(["status"]).ok();
        assert!(told.stdout.contains("would repair"), "{damage}: {told}");
        machine.lab(["up"]).ok();
        machine.lab(["up", "--dry-run"]).ok().says("nothing to do");
        assert_eq!(ready(&status(&machine)), 4, "{damage}");
        assert_seen_as(&machine, "web-1", "10.244.1.2:8080", "10.244.0.2:");
        assert_seen_as(&machine, "web-2", "[fd00:10:244::2]:8080", "[fd00:10:244:1::2]:");
    }
    machine.lab(["down"]).ok();
    assert_unchanged(&machine, &before, "after many repairs");
}

#[test]
fn what_does_not_fit_is_said_before_anything_changes() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    let up = |text: &str, complaint: &str| {
        let path = machine.file("lab.json", text);
        machine.lab(["up", &path]).exits(2).complains(complaint);
    };
    up(
        r#"{"nodes":[{"name":"a","pods":1},{"name":"b","pods":1}],"pods":[{"name":"x"},{"name":"y"},{"name":"z"}]}"#,
        "no room for pod z: a takes 1 pods, and has them; b takes 1 pods, and has them",
    );
    up(
        r#"{"nodes":[{"name":"a","cpu":1},{"name":"b","memory":"1Gi"}],"pods":[{"name":"x","nodeName":"a","cpu":"1500m"}]}"#,
        "no room for pod x: a has 1 of 1 CPU left, and 1500m is asked for",
    );
    up(
        r#"{"nodes":[{"name":"a"},{"name":"b"}],"pods":[{"name":"x","nodeName":"c"}]}"#,
        ":1:69: pods[0].nodeName: there is no node c; expected one of a, b",
    );
    let path = machine.file(
        "lab.json",
        r#"{"nodes":[{"name":"a"},{"name":"b"}],"pods":[{"name":"b"}]}"#,
    );
    machine
        .lab(["up", &path])
        .exits(2)
        .complains("pods[0].name: a node is named b, too; expected another name");
    assert_unchanged(&machine, &before, "after refusals");
    machine.lab(["up", "2-pods"]).ok();
    machine
        .lab(["up", "2-nodes-2-pods"])
        .exits(1)
        .complains("which cannot change");
    machine.lab(["down"]).ok();
}

#[test]
fn several_labs_stand_side_by_side() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    machine.lab(["up", "2-nodes-2-pods"]).ok();
    machine.lab(["up", "2-nodes-2-pods", "--name", "blue"]).ok();
    machine.lab(["up", "2-pods", "--name", "plain"]).ok();
    for (lab, pod, address) in [
        ("lab", "web-1", "10.244.1.2:8080"),
        ("blue", "web-1", "10.244.1.2:8080"),
        ("plain", "web-1", "10.244.0.3:8080"),
    ] {
        let words = ["exec", pod, "--name", lab, "--", "curl", "-sm", "5", address];
        machine.lab(words).ok().says("web-2");
    }
    machine
        .lab(["exec", "blue-node-2", "--", "hostname"])
        .ok()
        .says("blue-node-2");
    machine.lab(["down", "blue"]).ok();
    machine.lab(["down", "plain"]).ok();
    assert_eq!(ready(&status(&machine)), 2);
    machine.lab(["down", "--all"]).ok();
    assert_unchanged(&machine, &before, "after three labs");
}

#[test]
fn a_lab_with_a_damaged_ledger_can_be_removed() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    machine.lab(["up", "2-nodes-4-pods"]).ok();
    machine.lab(["up", "2-nodes-2-pods", "--name", "blue"]).ok();
    machine.sh("echo '{' > /run/netns-lab/lab/ledger.json").ok();
    machine.lab(["down", "lab"]).ok().complains("is damaged");
    let blue = machine.lab(["status", "blue", "-o", "json"]).ok().json();
    assert_eq!(ready(&blue), 2, "{blue:#}");
    machine.lab(["down"]).ok();
    assert_unchanged(&machine, &before, "after a damaged ledger");
}

/// Each step that only a lab of several nodes comes to, and each other one that it comes to.
/// Steps of nodes that no run came to are not tested.
fn assert_all_reached(verb: &str, reached: &BTreeSet<String>) {
    let mut own = named(verb);
    own.retain(|step| step.contains(HOST) && !reached.contains(step));
    assert!(own.is_empty(), "never reached: {own:?}");
}

#[test]
fn up_can_be_killed_at_each_step() {
    let machine = Machine::builder().flavour(Flavour::Nft).start();
    let before = Witness::of(&machine);
    let up = ["netns-lab", "up", "2-nodes-2-pods", "--overlay", "vxlan"];
    let mut reached = BTreeSet::new();
    for step in named("up") {
        if !dies_at(&machine, &up, &step) {
            machine.lab(["down"]).ok();
            continue;
        }
        reached.insert(step.clone());
        machine.run(up).ok();
        assert_eq!(ready(&status(&machine)), 2, "{step}");
        assert_seen_as(&machine, "web-1", "10.244.1.2:8080", "10.244.0.2:");
        machine.lab(["down"]).ok();
        assert_unchanged(&machine, &before, &format!("{step}: again, down"));

        assert!(dies_at(&machine, &up, &step), "{step}");
        machine.lab(["down"]).ok();
        assert_unchanged(&machine, &before, &format!("{step}: down"));
    }
    assert_all_reached("up", &reached);
}

#[test]
fn down_can_be_killed_at_each_step() {
    let machine = Machine::builder().flavour(Flavour::Nft).start();
    let before = Witness::of(&machine);
    let mut reached = BTreeSet::new();
    for step in named("down") {
        machine.lab(["up", "2-nodes-2-pods"]).ok();
        if dies_at(&machine, &["netns-lab", "down"], &step) {
            reached.insert(step.clone());
            machine.lab(["down"]).ok();
        }
        assert_unchanged(&machine, &before, &format!("{step}: again"));
        machine.lab(["up", "2-nodes-2-pods"]).ok();
        dies_at(&machine, &["netns-lab", "down"], &step);
        machine.lab(["up", "2-nodes-2-pods"]).ok();
        assert_eq!(ready(&status(&machine)), 2, "{step}");
        machine.lab(["down"]).ok();
        assert_unchanged(&machine, &before, &format!("{step}: up, down"));
    }
    assert_all_reached("down", &reached);
}

/// The kernel has one table of neighbours for all namespaces; the pods of a large lab have entries that
/// do not count, and lose them when they go.
#[test]
fn pods_of_a_large_lab_know_each_other_beforehand() {
    let machine = Machine::start();
    machine.lab(["up", "2-nodes-210-pods"]).ok();
    let known = |node: &'static str| machine.lab(["exec", node, "--", "ip", "neigh"]).ok().stdout;
    let permanent = |text: &str| text.lines().filter(|line| line.contains("PERMANENT")).count();
    assert_eq!(permanent(&known("node-1")) + permanent(&known("node-2")), 211);
    let pod = machine.lab(["get", "pod", "web-1", "-o", "json"]).ok().json();
    let entry = format!("{} dev", pod["status"]["podIP"].as_str().unwrap());
    assert!(known("node-1").contains(&entry));
    machine
        .in_pod("web-1", ["ip", "neigh"])
        .ok()
        .says("10.244.0.1 dev eth0 lladdr 02:00:0a:f4:00:01 PERMANENT");
    machine.lab(["pod", "rm", "web-1", "--grace", "0s"]).ok();
    assert!(!known("node-1").contains(&entry));
    machine.lab(["down"]).ok();
}
