//! `miniproxy trace`: real connections, told as the kernel saw them, without a trace left.

use std::collections::BTreeSet;

use std::time::Duration;

use lab_tests::machine::{Flavour, Machine, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::kill::dies_at;
use crate::support::{lab_with_rules, up_and_sync};

/// The rules without the lines that hold the time.
fn rules(machine: &Machine) -> String {
    let saved = machine.run(["iptables-save"]).ok();
    let lines = saved.stdout.lines().filter(|line| !line.starts_with('#'));
    // Counters of built-in chains go on counting.
    lines
        .map(|line| line.split(" [").next().unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

fn traced(machine: &Machine, from: &str) -> Value {
    machine
        .proxy(["trace", "svc/web", "--from", from, "-o", "json"])
        .ok()
        .json()
}

fn words<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// What must hold of each connection that was answered.
#[track_caller]
fn assert_whole(report: &Value) {
    let address = words(&report["backend"], "address");
    let name = words(&report["backend"], "name")
        .trim_start_matches("default/")
        .to_string();
    assert!(
        words(report, "answer").starts_with(&format!("{name} ")),
        "{report:#}"
    );
    let hops = report["hops"].as_array().unwrap();
    assert_eq!(
        words(hops.last().unwrap(), "destinationNow"),
        address,
        "{report:#}"
    );
    assert!(hops.iter().any(|hop| hop["rewrites"] == true), "{report:#}");
    assert_eq!(report["reply"]["natRules"], 0, "{report:#}");
    assert_eq!(report["lost"], 0, "{report:#}");
    assert_eq!(words(&report["conntrack"], "expectsFrom"), address, "{report:#}");
    assert_eq!(report["samePacket"], true, "{report:#}");
    assert_eq!(report["cables"][0]["sequence"], report["cables"][1]["sequence"]);
}

#[test]
fn the_story_ends_at_the_pod_that_answered_and_leaves_nothing() {
    let machine = lab_with_rules("3-pods");
    let before = rules(&machine);
    let mut backends = BTreeSet::new();
    for from in ["web-1", "web-2", "web-3", "web-1", "web-2", "web-3"] {
        let report = traced(&machine, from);
        assert_whole(&report);
        backends.insert(words(&report["backend"], "address").to_string());
        let dice = report["hops"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|hop| hop["dice"] == true)
            .count();
        assert!(dice <= 1, "{report:#}");
        assert_eq!(report["notTaken"].as_array().unwrap().len(), 2, "{report:#}");
    }
    assert!(!backends.is_empty());
    assert_eq!(rules(&machine), before);
    let links = machine.run(["ip", "-d", "link"]).ok().stdout;
    assert!(
        links.contains("promiscuity 0") || !links.contains("promiscuity"),
        "{links}"
    );
}

/// What the pure tracer predicts is what the kernel tells.
#[test]
fn each_rule_that_was_met_was_predicted() {
    let machine = lab_with_rules("3-pods");
    for from in ["web-1", "web-2"] {
        let predicted = machine
            .proxy(["explain", "svc/web", "--from", from, "-o", "json"])
            .json();
        let place = |hop: &Value| {
            (
                words(hop, "table").to_string(),
                words(hop, "chain").to_string(),
                hop["rule"].clone().to_string(),
            )
        };
        let known: BTreeSet<_> = predicted["hops"].as_array().unwrap().iter().map(place).collect();
        for _ in 0..4 {
            let report = traced(&machine, from);
            let hops = report["hops"].as_array().unwrap().iter();
            for hop in
                hops.filter(|hop| ["nat", "filter"].contains(&words(hop, "table")) && !hop["rule"].is_null())
            {
                assert!(known.contains(&place(hop)), "{hop:#} is not in {known:?}");
            }
        }
    }
}

#[test]
fn what_a_killed_trace_leaves_is_gone_after_the_next_and_after_cleanup() {
    let machine = lab_with_rules("1-pods");
    let before = rules(&machine);
    let trace = ["miniproxy", "trace", "svc/web", "--from", "web-1", "--once"];
    assert!(dies_at(&machine, &trace, "trace:marked"));
    assert!(rules(&machine).contains("miniproxy-trace:"));
    assert_whole(&traced(&machine, "web-1"));
    assert_eq!(rules(&machine), before);
    assert!(dies_at(&machine, &trace, "trace:marked"));
    machine.proxy(["cleanup"]).ok();
    assert!(!rules(&machine).contains("miniproxy-trace:"));
    machine.proxy(["sync"]).ok();
    assert_eq!(rules(&machine), before);
}

#[test]
fn twenty_at_once_are_not_mixed() {
    let machine = lab_with_rules("3-pods");
    let before = rules(&machine);
    let script = "d=$(mktemp -d); for n in $(seq 1 20); do
        miniproxy trace svc/web --from web-$((n % 3 + 1)) --timeout 10 -o json > $d/$n & done; wait; jq -s . $d/*";
    let all = machine.sh(script).ok().json();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 20);
    let sources: BTreeSet<&str> = all
        .iter()
        .map(|report| words(&report["call"], "source"))
        .collect();
    assert_eq!(sources.len(), 20);
    for report in all {
        assert_whole(report);
        assert_eq!(report["cables"][0]["source"], report["call"]["source"]);
    }
    assert_eq!(rules(&machine), before);
}

/// Callers of both nodes and outside; with legacy rules one trace waits for another, on each node.
#[test]
fn ten_at_once_over_two_nodes_are_not_mixed() {
    for flavour in [Flavour::Nft, Flavour::Legacy] {
        let machine = Machine::builder().flavour(flavour).start();
        up_and_sync(&machine, "2-nodes-4-pods");
        let script = "d=$(mktemp -d); for n in $(seq 1 10); do
            from=$(echo web-1 web-2 kube-dns node-1 node-2 | cut -d' ' -f$((n % 5 + 1)))
            miniproxy trace svc/web --from $from --timeout 10 -o json > $d/$n & done; wait; jq -s . $d/*";
        let all = machine.sh(script).ok().json();
        let all = all.as_array().unwrap();
        assert_eq!(all.len(), 10);
        for report in all {
            assert_eq!(report["reply"]["natRules"], 0, "{report:#}");
            let name = words(&report["backend"], "name").trim_start_matches("default/");
            assert!(
                words(report, "answer").starts_with(&format!("{name} ")),
                "{report:#}"
            );
        }
    }
}

/// A reader that is stopped has no room at some time, and says what it did not hear.
#[test]
fn events_that_were_lost_are_told() {
    let machine = lab_with_rules("1-pod");
    // Each connection is told several times; eight megabytes hold some ten thousand words.
    let script = "out=$(mktemp)
        miniproxy trace 10.96.0.99:80 --from web-1 --timeout 5 --plain > $out & trace=$!
        for n in $(seq 400); do iptables-save | grep -q miniproxy-trace: && break; sleep 0.05; done
        kill -STOP $trace
        for n in 1 2 3 4; do lab-helper load http 10.244.0.2:8080 2000 16 5000 > $out.load; done
        kill -CONT $trace
        wait $trace || echo exit code $?
        cat $out";
    let told = machine.sh(script).ok().stdout;
    assert!(told.starts_with("exit code 1\n"), "{told}");
    assert!(told.contains("lost: the kernel had too much"), "{told}");
}

#[test]
fn failures_end_with_the_word_that_explains_them() {
    let machine = lab_with_rules("2-pods");
    let fails = |target: &str| {
        let words = ["trace", target, "--from", "web-1", "--timeout", "1", "-o", "json"];
        machine.proxy(words).exits(1).json()
    };
    let nowhere = fails("10.96.0.80:81");
    assert!(
        words(&nowhere, "sentence").contains("no rule rewrites it"),
        "{nowhere:#}"
    );
    machine
        .run(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0"])
        .ok();
    // The pod itself is reached all the same; the other one is not.
    let strange = (0..40)
        .map(|_| {
            machine
                .proxy([
                    "trace",
                    "svc/web",
                    "--from",
                    "web-1",
                    "--timeout",
                    "1",
                    "-o",
                    "json",
                ])
                .json()
        })
        .find(|report| report["outcome"] != "answered")
        .expect("one of forty dice");
    assert!(words(&strange, "sentence").contains("stranger"), "{strange:#}");
    machine
        .run(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"])
        .ok();
    machine.lab(["scale", "web", "0"]).ok();
    machine.proxy(["sync"]).ok();
    let words = ["trace", "svc/web", "--from", "node", "-o", "json"];
    let empty = machine.proxy(words).exits(1).json();
    assert_eq!(empty["outcome"], "refused", "{empty:#}");
    assert!(
        self::words(&empty, "sentence").contains("rejected it"),
        "{empty:#}"
    );
}

#[test]
fn a_pod_of_another_node_is_followed_to_its_cable() {
    let machine = lab_with_rules("2-nodes-4-pods");
    let node = |pod: &str| {
        if ["web-1", "web-3"].contains(&pod) {
            "node-1"
        } else {
            "node-2"
        }
    };
    for from in ["web-1", "web-2", "web-3", "web-4"] {
        for _ in 0..3 {
            let report = traced(&machine, from);
            assert_whole(&report);
            let backend = words(&report["backend"], "name").trim_start_matches("default/");
            let mut expected = vec![node(from), node(backend)];
            expected.dedup();
            assert_eq!(nodes(&report), expected, "{report:#}");
        }
    }
}

/// The nodes that were told of, in the order of the hops.
fn nodes(report: &Value) -> Vec<&str> {
    let hops = report["hops"].as_array().unwrap().iter();
    let mut nodes: Vec<&str> = hops.map(|hop| words(hop, "node")).collect();
    nodes.dedup();
    nodes
}

/// A node without an endpoint sends on, in its own name, what comes from outside.
#[test]
fn a_call_from_outside_is_followed_over_the_node_that_was_called() {
    let machine = Machine::start();
    machine.lab(["up", "2-nodes-2-pods"]).ok();
    machine.lab(["scale", "web", "1"]).ok();
    let front = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"},
        "spec": {"type": "NodePort", "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]}}"#;
    let apply = ["netns-lab", "apply", "-f", "-"];
    machine.command(apply).input(front).run().ok();
    machine.proxy(["sync"]).ok();
    let trace = ["trace", "172.18.0.2:30080", "--from", "outside", "-o", "json"];
    let report = machine.proxy(trace).ok().json();
    assert_eq!(nodes(&report), ["node-2", "node-1"], "{report:#}");
    assert_eq!(words(&report["backend"], "name"), "default/web-1");
    assert_eq!(report["masquerade"], true, "{report:#}");
    assert_eq!(report["reply"]["natRules"], 0, "{report:#}");
    assert_eq!(report["cables"][0]["end"], "backend", "{report:#}");
}

/// The kernel tells the traces of iptables-legacy to its log; a setting makes it tell them to us.
#[test]
fn legacy_rules_are_traced_and_the_setting_is_put_back() {
    let machine = Machine::builder().flavour(Flavour::Legacy).start();
    up_and_sync(&machine, "3-pods");
    let settings = || machine.run(["sysctl", "net.netfilter.nf_log.2"]).ok().stdout;
    let set = settings();
    // The first one makes the table `raw`, which legacy cannot remove.
    assert_whole(&traced(&machine, "web-1"));
    let before = rules(&machine);
    for from in ["web-1", "web-2", "web-3"] {
        let report = traced(&machine, from);
        assert_whole(&report);
        assert_eq!(report["notTaken"].as_array().unwrap().len(), 2, "{report:#}");
    }
    assert_eq!((rules(&machine), settings()), (before.clone(), set.clone()));
    let trace = ["miniproxy", "trace", "svc/web", "--from", "web-1", "--once"];
    for step in ["trace:logger", "trace:marked"] {
        assert!(dies_at(&machine, &trace, step));
        assert_ne!(settings(), set);
        assert_whole(&traced(&machine, "web-2"));
        assert_eq!(
            (rules(&machine), settings()),
            (before.clone(), set.clone()),
            "{step}"
        );
    }
    assert!(dies_at(&machine, &trace, "trace:marked"));
    machine.proxy(["cleanup"]).ok();
    assert_eq!(settings(), set);
    assert!(!rules(&machine).contains("miniproxy-trace:"));
}

#[test]
fn signals_wait_until_nothing_is_left() {
    for flavour in [Flavour::Nft, Flavour::Legacy] {
        let machine = Machine::builder().flavour(flavour).start();
        up_and_sync(&machine, "2-pods");
        assert_whole(&traced(&machine, "web-1"));
        let state = || {
            let setting = machine.run(["sysctl", "net.netfilter.nf_log"]).ok().stdout;
            (rules(&machine), setting)
        };
        let before = state();
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let words = [
                "miniproxy",
                "trace",
                "10.96.0.99:80",
                "--from",
                "web-1",
                "--timeout",
                "60",
            ];
            let mut running = machine.command(words).start();
            eventually("it waits for an answer", || {
                rules(&machine).contains("miniproxy-trace:")
            });
            running.signal(signal);
            assert_ne!(running.end(Duration::from_secs(20)), 0);
            assert_eq!(state(), before, "{flavour:?} {signal}");
        }
        let records = machine.sh("ls -A /run/netns-lab").ok().stdout;
        assert!(
            !records.contains("traced") && !records.contains("logger"),
            "{records}"
        );
    }
}

#[test]
fn a_file_for_wireshark_has_both_cables_and_no_complaint() {
    let machine = lab_with_rules("2-pods");
    let file = machine.folder().join("trace.pcapng");
    let file = file.to_string_lossy().into_owned();
    let trace = [
        "trace", "svc/web", "--from", "web-1", "--pcap", &file, "-o", "json",
    ];
    let report = machine.proxy(trace).ok().json();
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(bytes[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    for word in ["veth-web-1", "veth-web-2", "svc-web", "nat KUBE-SERVICES #1"] {
        assert!(
            bytes.windows(word.len()).any(|part| part == word.as_bytes()),
            "{word}"
        );
    }
    let expert = machine
        .run(["tshark", "-r", &file, "-q", "-z", "expert"])
        .ok()
        .stdout;
    assert!(
        !expert.contains("Warns") && !expert.contains("Errors"),
        "{expert}"
    );
    let whole = machine.run(["tshark", "-r", &file, "-V"]).ok().stdout;
    assert!(!whole.contains("[Malformed"), "{whole}");
    let fields = [
        "frame.interface_name",
        "tcp.seq_raw",
        "ip.dst_host",
        "frame.comment",
    ];
    let fields = fields.into_iter().flat_map(|field| ["-e", field]);
    let read = [
        "tshark",
        "-r",
        &file,
        "-N",
        "n",
        "-T",
        "fields",
        "-Y",
        "tcp.flags == 0x002",
    ];
    let opens = machine.run(read.into_iter().chain(fields)).ok().stdout;
    let sequence = report["cables"][0]["sequence"].to_string();
    // Each cable is heard by a socket of its own, which may be read late on a busy machine.
    let caller = format!("veth-web-1\t{sequence}\tsvc-web\t");
    let asked = opens.lines().find(|line| line.starts_with(&caller));
    let asked = asked.unwrap_or_else(|| panic!("{caller}: {opens}"));
    assert!(asked.contains("nat KUBE-SERVICES #1"), "{opens}");
    let backend = words(&report["cables"][1], "pod").replace('/', ".");
    let interface = words(&report["cables"][1], "interface");
    let other = format!("{interface}\t{sequence}\t{backend}");
    assert!(
        opens.lines().any(|line| line.starts_with(&other)),
        "{other}: {opens}"
    );
}
