//! `miniproxy trace`: real connections, told as the kernel saw them, without a trace left.

use std::collections::BTreeSet;

use lab_tests::machine::Machine;
use serde_json::Value;

use crate::kill::dies_at;
use crate::support::lab_with_rules;

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
    // To itself by the node's address: what comes back is not marked.
    let itself = words(&report["call"], "from") == words(&report["backend"], "name");
    let expected = if itself { Value::Null } else { 0.into() };
    assert_eq!(report["reply"]["natRules"], expected, "{report:#}");
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
    for from in ["web-1", "web-2", "web-3", "web-4"] {
        for _ in 0..3 {
            assert_whole(&traced(&machine, from));
        }
    }
}

#[test]
fn a_file_for_wireshark_has_both_cables() {
    let machine = lab_with_rules("2-pods");
    let file = machine.folder().join("trace.pcapng");
    let file = file.to_string_lossy().into_owned();
    machine
        .proxy(["trace", "svc/web", "--from", "web-1", "--once", "--pcap", &file])
        .ok();
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(bytes[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    for word in ["veth-web-1", "veth-web-2", "svc-web", "nat KUBE-SERVICES #1"] {
        assert!(
            bytes.windows(word.len()).any(|part| part == word.as_bytes()),
            "{word}"
        );
    }
}
