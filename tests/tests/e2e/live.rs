//! `miniproxy watch`: what it counts is what the clients count.

use lab_tests::machine::Machine;
use serde_json::Value;

use crate::support::lab_with_rules;

/// Calls while a shell does something else, and the last that `watch` told of them.
///
/// `meanwhile` runs beside the calls, which go on until it ends. The node calls: a pod that reaches itself
/// under masquerade now and then meets a port in TIME_WAIT, sends its SYN again, and rolls twice for one call.
fn watched(machine: &Machine, meanwhile: &str) -> (Value, Value) {
    let script = format!(
        "d=$(mktemp -d)
        miniproxy watch svc/web --follow -o json > $d/told 2> $d/said & watch=$!
        until grep -q watching $d/said; do sleep 0.05; done
        ( {meanwhile} ) > $d/other 2>&1 & other=$!
        while kill -0 $other 2>/dev/null; do
            netns-lab load 10.96.0.80:80 -n 200 -c 5 --timeout 5s -o json >> $d/loads
        done
        wait $other
        # The news of the last connections, and a whole second.
        sleep 2.5
        kill $watch; wait $watch 2>/dev/null || true
        jq -s . $d/loads > $d/all; tail -n 1 $d/told | jq --slurpfile loads $d/all '{{watch: ., loads: $loads[0]}}'"
    );
    let both = machine.sh(&script).ok().json();
    (both["watch"].clone(), both["loads"].clone())
}

fn calls_answered_by(loads: &Value, pod: &str) -> u64 {
    let answers = loads
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|load| load["backends"].as_array().unwrap());
    answers
        .filter(|row| row["name"] == pod)
        .map(|row| row["connections"].as_u64().unwrap())
        .sum()
}

#[track_caller]
fn assert_equal(watch: &Value, loads: &Value) {
    let all: u64 = loads
        .as_array()
        .unwrap()
        .iter()
        .map(|load| load["calls"].as_u64().unwrap())
        .sum();
    assert!(all > 0);
    assert_eq!(watch["connections"], all, "{watch:#}");
    assert_eq!(watch["lost"]["connections"], 0, "{watch:#}");
    for backend in watch["backends"].as_array().unwrap() {
        let pod = backend["name"].as_str().unwrap();
        assert_eq!(
            backend["connections"],
            calls_answered_by(loads, pod),
            "{pod}: {watch:#}"
        );
    }
}

#[test]
fn each_connection_is_counted_once() {
    let machine = lab_with_rules("3-pods");
    let (watch, loads) = watched(&machine, "sleep 2");
    assert_equal(&watch, &loads);
    assert_eq!(watch["counters"]["entered"], watch["connections"], "{watch:#}");
    assert_ne!(watch["verdict"]["word"], "biased", "{watch:#}");
    assert_eq!(watch["changes"].as_array().unwrap().len(), 0, "{watch:#}");
}

/// Rules are written anew, and their counters begin again; the totals do not.
#[test]
fn totals_are_the_clients_own_while_chains_are_rewritten_fifty_times() {
    let machine = lab_with_rules("3-pods");
    let rewrite = "for n in $(seq 25); do
        netns-lab pod unready web-3 && miniproxy sync && netns-lab pod ready web-3 && miniproxy sync || exit 1
    done";
    let (watch, loads) = watched(&machine, rewrite);
    assert_equal(&watch, &loads);
    let changes = watch["changes"].as_array().unwrap();
    assert!(!changes.is_empty(), "{watch:#}");
    assert_ne!(watch["verdict"]["word"], "biased", "{watch:#}");
}

/// What the rules promise is known before anybody calls.
#[test]
fn shares_are_expected_before_the_first_call() {
    let machine = lab_with_rules("3-pods");
    let report = machine
        .proxy(["watch", "web", "--for", "1", "-o", "json"])
        .ok()
        .json();
    let backends = report["backends"].as_array().unwrap();
    assert_eq!(backends.len(), 3, "{report:#}");
    for backend in backends {
        let expected = backend["expected"].as_f64().unwrap();
        assert!((expected - 1.0 / 3.0).abs() < 1e-6, "{report:#}");
    }
}

#[test]
fn a_service_is_named_as_other_commands_name_it() {
    let machine = lab_with_rules("2-nodes-4-pods");
    let expose = [
        "expose",
        "web",
        "--name",
        "door",
        "--port",
        "81",
        "--target-port",
        "8080",
    ];
    machine
        .lab(
            expose
                .into_iter()
                .chain(["--type", "NodePort", "--node-port", "30081"]),
        )
        .ok();
    machine.proxy(["sync"]).ok();
    for (word, service) in [
        ("web:80", "default/web:http"),
        ("http://10.96.0.80:80/", "default/web:http"),
        ("node:30081", "default/door"),
        ("svc/door", "default/door"),
    ] {
        let report = machine
            .proxy(["watch", word, "--for", "1", "-o", "json"])
            .ok()
            .json();
        assert_eq!(report["service"], service, "{word}: {report:#}");
    }
    machine
        .proxy(["watch", "door:82", "--for", "1"])
        .exits(2)
        .complains("door:82");
}

/// A node that tells of nothing would be counted as one that nobody calls.
#[test]
fn what_is_not_watched_is_told() {
    let machine = lab_with_rules("2-nodes-4-pods");
    let events = "net.netfilter.nf_conntrack_events";
    machine
        .sh(&format!("netns-lab exec node-2 -- sysctl -qw {events}=0"))
        .ok();
    machine
        .proxy(["watch", "--for", "1"])
        .exits(3)
        .complains("no connections of node-2")
        .complains("netns-lab exec node-2 -- sysctl -w");
    machine
        .sh(&format!("netns-lab exec node-2 -- sysctl -qw {events}=1"))
        .ok();
    machine
        .proxy(["watch", "--for", "1"])
        .ok()
        .never_says("only this host");
    machine.lab(["up", "1-pod", "--name", "two", "--isolated"]).ok();
    machine
        .proxy(["watch", "--for", "1"])
        .ok()
        .says("only this host is watched: several labs are up");
    machine.proxy(["watch", "--for", "1", "--lab", "nobody"]).exits(2);
}
