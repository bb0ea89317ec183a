//! The name server as a pod of the lab's own: there by default or if asked, behind its Service,
//! and as declarative as all else.

use std::time::{Duration, Instant};

use lab_tests::machine::Machine;
use lab_tests::registry::{publish, service};
use lab_tests::run::{Ran, wait_for};
use lab_tests::witness::{Witness, assert_unchanged};
use serde_json::{Value, json};

use crate::kill::dies_at;
use crate::names::{ELSEWHERE, elsewhere};
use crate::support::{cleanup_and_down, up_and_sync};

#[track_caller]
fn status(machine: &Machine) -> Value {
    machine.lab(["status", "-o", "json"]).ok().json()
}

/// The report of the name server's pod, if there is one.
#[track_caller]
fn server(machine: &Machine) -> Option<Value> {
    let status = status(machine);
    let pods = status["pods"].as_array().expect("pods");
    let mut own = pods.iter().filter(|pod| pod["system"] == true);
    let found = own.next().cloned();
    assert_eq!(own.next(), None, "{status:#}");
    found
}

#[track_caller]
fn assert_ready(machine: &Machine) -> Value {
    // The agent may have started it again before `up` came to it: then it is ready a moment later.
    wait_for("a name server that is ready", Duration::from_secs(5), || {
        server(machine).filter(|found| found["name"] == "kube-dns" && found["ready"] == true)
    })
}

/// Runs a command in a pod, with the pod's own `/etc/hosts` and `/etc/resolv.conf`.
#[track_caller]
fn inside<'a>(machine: &Machine, pod: &'a str, argv: &[&'a str]) -> Ran {
    machine.lab(["exec", pod, "--"].iter().chain(argv).copied())
}

#[track_caller]
fn assert_web_answers(machine: &Machine, pod: &str) {
    inside(machine, pod, &["curl", "-sS", "--max-time", "5", "http://web"])
        .ok()
        .says("sees you as");
}

/// What the resolver of a pod's resolv.conf says.
#[track_caller]
fn dig(machine: &Machine, pod: &str, words: &[&str]) -> String {
    let fixed = ["dig", "+short", "+time=2", "+tries=2"];
    let argv: Vec<&str> = fixed.iter().chain(words).copied().collect();
    inside(machine, pod, &argv).ok().stdout
}

#[track_caller]
fn kill_server(machine: &Machine) -> Value {
    let pid = assert_ready(machine)["pid"].clone();
    machine.run(["kill", "-9", &pid.to_string()]).ok();
    pid
}

#[test]
fn pods_of_each_node_ask_the_server_through_rules() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    machine
        .lab(["up", "2-nodes-4-pods"])
        .ok()
        .says("2 nodes, 4 pods, 4 ready")
        .says("k8s-app=kube-dns (system)");
    machine.lab(["up", "--dry-run"]).ok().says("nothing to do");
    machine.proxy(["sync"]).ok().says("kube-system/kube-dns:dns");
    assert_ready(&machine);
    machine
        .lab(["get", "pods", "-n", "kube-system"])
        .ok()
        .says("kube-dns");
    inside(&machine, "web-1", &["cat", "/etc/resolv.conf"])
        .ok()
        .says("nameserver 10.96.0.10");
    // web-1 is on the first node, web-2 on the second.
    for pod in ["web-1", "web-2"] {
        assert_web_answers(&machine, pod);
        for words in [
            &["web.default.svc.cluster.local"][..],
            &["+search", "web"],
            &["+tcp", "+search", "web"],
        ] {
            assert_eq!(dig(&machine, pod, words), "10.96.0.80\n", "{pod}: {words:?}");
        }
    }
    let mut worst = Duration::ZERO;
    for number in 1..=5 {
        let ip = format!("10.96.7.{number}");
        let ports = [("http", "TCP", 80, json!(8080))];
        publish(&machine, "quick", &service("quick", &ip, "web", &ports));
        let since = Instant::now();
        // Each question starts several processes, which is most of what is measured here.
        wait_for("the new address", Duration::from_secs(1), || {
            dig(&machine, "web-2", &["quick.default.svc.cluster.local"])
                .contains(&ip)
                .then_some(())
        });
        worst = worst.max(since.elapsed());
    }
    eprintln!("a change was answered after at most {worst:?}");
    assert!(worst < Duration::from_secs(1), "{worst:?}");
    cleanup_and_down(&machine);
    assert_unchanged(&machine, &before, "after a name server");
}

#[test]
fn a_server_that_was_killed_comes_back() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    machine.lab(["up", "2-nodes-2-pods"]).ok();
    machine.proxy(["sync"]).ok();
    let pid = kill_server(&machine);
    machine.lab(["up"]).ok().says("2 pods, 2 ready");
    assert_ne!(assert_ready(&machine)["pid"], pid);
    assert_web_answers(&machine, "web-2");
    // So does its Service, and its whole pod.
    for damage in [
        "rm /run/netns-lab/lab/registry/kube-system_kube-dns.service.json",
        "ip netns del kube-dns",
    ] {
        machine.sh(damage).ok();
        machine.lab(["status"]).ok().says("would repair");
        machine.lab(["up"]).ok();
        machine.lab(["up", "--dry-run"]).ok().says("nothing to do");
        machine.proxy(["sync"]).ok();
        assert_ready(&machine);
        assert_web_answers(&machine, "web-2");
    }
    cleanup_and_down(&machine);
    assert_unchanged(&machine, &before, "after a killed name server");
}

#[test]
fn a_lab_of_nodes_can_do_without() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    machine.lab(["up", "2-nodes-2-pods", "--no-dns"]).ok();
    machine.lab(["up", "2-nodes-3-pods"]).ok();
    assert_eq!(server(&machine), None, "it came unasked");
    machine.proxy(["sync"]).ok();
    // By /etc/hosts.
    assert_web_answers(&machine, "web-2");
    machine.lab(["up", "--dns"]).ok();
    assert_ready(&machine);
    machine.proxy(["sync"]).ok();
    assert_web_answers(&machine, "web-2");
    inside(&machine, "web-1", &["grep", "-c", "10.96.0.80", "/etc/hosts"]).exits(1);
    machine.lab(["up", "--no-dns"]).ok().says("3 pods, 3 ready");
    assert_eq!(server(&machine), None);
    machine.sh("ip netns list | grep kube-dns").exits(1);
    machine
        .sh("grep -l kube-system /run/netns-lab/lab/registry/*")
        .exits(1);
    machine.proxy(["sync"]).ok();
    assert_web_answers(&machine, "web-2");
    cleanup_and_down(&machine);
    assert_unchanged(&machine, &before, "after a lab without names");
}

#[test]
fn the_only_node_has_one_if_asked_and_keeps_it() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    machine.lab(["up", "2-pods"]).ok();
    assert_eq!(server(&machine), None);
    for step in [
        "up:announced",
        "up:namespace",
        "up:host-name-service",
        "up:holder",
        "up:app",
        "up:recorded",
    ] {
        assert!(
            dies_at(&machine, &["netns-lab", "up", "--dns"], step),
            "{step} was never reached"
        );
        machine.lab(["up", "--dns"]).ok();
        assert_ready(&machine);
        machine.lab(["up", "--no-dns"]).ok();
        assert_eq!(server(&machine), None, "{step}");
    }
    machine.lab(["up", "--dns"]).ok();
    machine.lab(["up", "3-pods"]).ok().says("3 pods, 3 ready");
    machine.proxy(["sync"]).ok();
    assert_ready(&machine);
    assert_web_answers(&machine, "web-3");
    // One set of rules has one Service of that name.
    machine
        .lab(["up", "1-pod", "--dns", "--name", "blue"])
        .exits(1)
        .complains("--isolated");
    machine.lab(["up", "1-pod", "--isolated", "--name", "blue"]).ok();
    machine.lab(["down", "blue"]).ok();
    cleanup_and_down(&machine);
    assert_unchanged(&machine, &before, "after a name server on the only node");
}

#[test]
fn elsewhere_is_asked_from_where_up_was_called() {
    let machine = Machine::start();
    let world = elsewhere(&machine);
    // No node and no pod of this lab has a way to the machine's loopback.
    machine.lab(["up", "2-nodes-2-pods"]).ok();
    machine.proxy(["sync"]).ok();
    assert_eq!(dig(&machine, "web-2", &["www.example.svc.com"]), "");
    machine.lab(["up", "--dns-upstream", ELSEWHERE]).ok();
    assert_eq!(dig(&machine, "web-2", &["www.example.svc.com"]), "192.0.2.53\n");
    kill_server(&machine);
    machine.lab(["up"]).ok();
    assert_eq!(dig(&machine, "web-1", &["www.example.svc.com"]), "192.0.2.53\n");
    drop(world);
    cleanup_and_down(&machine);
}

#[test]
fn a_topology_file_says_it_too() {
    let machine = Machine::start();
    let up = |text: &str| {
        let path = machine.file("lab.json", text);
        machine.lab(["up", &path])
    };
    up(r#"{"pods":[{"name":"a"}],"dnsUpstream":"nobody"}"#)
        .exits(2)
        .complains("dnsUpstream: expected an address such as 192.0.2.1");
    up(r#"{"pods":[{"name":"kube-dns"}],"dns":true}"#)
        .exits(2)
        .complains("--no-dns");
    up(r#"{"pods":[{"name":"a"}],"dns":true,"dnsUpstream":"192.0.2.1"}"#).ok();
    machine
        .lab(["get", "pod", "kube-dns", "-n", "kube-system", "-o", "yaml"])
        .ok()
        .says("192.0.2.1:53");
    up(r#"{"pods":[{"name":"a"}],"dns":false}"#).ok();
    assert_eq!(server(&machine), None);
    machine.lab(["down"]).ok();
}

/// It ends when it is told to, and who calls meanwhile is told why there is no answer.
#[test]
fn a_server_that_is_restarted_ends_at_once_and_is_missed_by_name() {
    let machine = Machine::start();
    up_and_sync(&machine, "2-nodes-2-pods");
    let began = Instant::now();
    machine
        .lab(["pod", "restart", "kube-dns", "--grace", "0s", "--drain", "30s"])
        .ok();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    machine
        .lab([
            "exec",
            "node-1",
            "--",
            "iptables",
            "-t",
            "nat",
            "-F",
            "KUBE-SERVICES",
        ])
        .ok();
    machine
        .lab(["load", "web", "--from", "web-1", "-n", "3"])
        .exits(1)
        .complains("the name server 10.96.0.10 does not answer");
    machine
        .lab(["link", "kube-dns", "--down"])
        .exits(1)
        .complains("the lab's own");
}
