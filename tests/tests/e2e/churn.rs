//! Rules that change under traffic: connections in use live on, new ones find a pod, and after each
//! change the kernel has what a fresh render would give.

use std::time::{Duration, Instant};

use lab_tests::load::Tally;
use lab_tests::machine::{Flavour, Machine, Running};
use lab_tests::registry::{REGISTRY, headless_of_selector, publish, service, slice};
use lab_tests::run::wait_for;
use lab_tests::stats::median;
use lab_tests::witness;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::up_and_sync;

const REPLACEMENTS: usize = 200;
const CONNECTIONS: usize = 2000;
const TARGET: &str = "10.96.0.70:80";

/// One of the endpoint sets that the replacements go through; never empty.
fn endpoints(turn: usize) -> Value {
    let all = [
        "10.244.0.2",
        "10.244.0.3",
        "10.244.0.4",
        "10.244.0.5",
        "10.244.0.6",
    ];
    let wanted = turn % 31 + 1;
    let chosen: Vec<&str> = all
        .into_iter()
        .enumerate()
        .filter(|(bit, _)| wanted >> bit & 1 == 1)
        .map(|(_, ip)| ip)
        .collect();
    slice("moving-1", "moving", &chosen, ("http", "TCP", 8080))
}

/// Our part of a dump in an order of its own, since flavours list chains in the order of their making.
fn kube_rules(dump: &str) -> String {
    let rules = witness::rules(dump);
    let mut table = "";
    let mut lines = Vec::new();
    for line in rules.lines() {
        if line.starts_with('*') {
            table = line;
        } else if line.contains("KUBE-") {
            let chain = line.split_whitespace().nth(1).unwrap_or_default();
            let chain = if line.starts_with(':') { "" } else { chain };
            lines.push((table, chain, lines.len(), line));
        }
    }
    // Rules keep their order within their chain; chains are sorted.
    lines.sort_by_key(|(table, chain, index, line)| {
        let place = if chain.is_empty() { 0 } else { *index };
        (*table, *chain, place, if chain.is_empty() { *line } else { "" })
    });
    lines
        .into_iter()
        .fold(String::new(), |text, (table, _, _, line)| {
            text + table + " " + line + "\n"
        })
}

/// Loads a render into an empty machine and dumps it: what the kernel would have afresh.
fn rendered(machine: &Machine, scratch: &Machine) -> String {
    let text = machine.proxy(["render", "--registry", REGISTRY]).ok().stdout;
    scratch.command(["iptables-restore"]).input(&text).run().ok();
    kube_rules(&scratch.run(["iptables-save"]).ok().stdout)
}

/// Jumps from built-in chains are not part of a render: they are inserted one by one where missing.
fn without_jumps(rules: &str) -> String {
    rules
        .lines()
        .filter(|line| {
            line.split_whitespace()
                .nth(2)
                .is_some_and(|chain| chain.starts_with("KUBE-"))
                || line.contains(" :")
        })
        .fold(String::new(), |text, line| text + line + "\n")
}

fn live(machine: &Machine) -> String {
    without_jumps(&kube_rules(&machine.run(["iptables-save"]).ok().stdout))
}

/// Waits until the kernel has the endpoints of this turn; how long it took since the replacement.
fn replace(machine: &Machine, turn: usize) -> Duration {
    let object = endpoints(turn);
    publish(machine, "moving-1.endpointslice", &object);
    let begin = Instant::now();
    let wanted = object["endpoints"].as_array().expect("endpoints").len();
    wait_for(
        "the new endpoints are in the kernel",
        Duration::from_secs(10),
        || {
            let rules = machine.run(["iptables-save", "-t", "nat"]).ok().stdout;
            let is_there = |endpoint: &Value| {
                let ip = endpoint["addresses"][0].as_str().expect("an address");
                rules.contains(&format!("\"default/moving:http -> {ip}:8080\""))
            };
            let all = object["endpoints"]
                .as_array()
                .expect("endpoints")
                .iter()
                .all(is_there);
            let count = rules.matches("\"default/moving:http -> ").count();
            (all && count == wanted).then(|| begin.elapsed())
        },
    )
}

fn start_watch(machine: &Machine) -> Running {
    let watch = machine.command(["miniproxy", "sync", "--watch"]).start();
    watch.wait_for("default/moving:http");
    watch
}

fn churn(flavour: Flavour) {
    let machine = Machine::builder().flavour(flavour).start();
    let scratch = Machine::builder().flavour(flavour).start();
    up_and_sync(&machine, "5-pods");
    let object = service(
        "moving",
        "10.96.0.70",
        "none",
        &[("http", "TCP", 80, json!(8080))],
    );
    publish(&machine, "moving.service", &headless_of_selector(object));
    publish(&machine, "moving-1.endpointslice", &endpoints(30));
    let watch = start_watch(&machine);

    let count = CONNECTIONS.to_string();
    let mut client = machine
        .command(["lab-helper", "hold", "http", TARGET, &count, "4", "20000"])
        .start();
    client.wait_for(&format!("holding {CONNECTIONS}"));
    let mut delays = Vec::new();
    for turn in 0..REPLACEMENTS {
        delays.push(replace(&machine, turn).as_secs_f64() * 1e3);
        let (have, want) = (live(&machine), without_jumps(&rendered(&machine, &scratch)));
        assert!(
            have == want,
            "turn {turn}: - render, + kernel\n{}",
            witness::differing_lines(&want, &have)
        );
    }
    client.close_input();
    assert_eq!(client.end(Duration::from_secs(60)), 0, "{}", client.said());
    // Its end may be seen before its last line is read.
    client.wait_for("\"rounds\"");
    let said = client.said();
    let report: Value = serde_json::from_str(said.lines().last().expect("a report")).expect("JSON");
    for kind in ["held", "fresh"] {
        let tally = Tally::from_json(&report[kind]);
        assert!(tally.failures.is_empty(), "{kind} connections failed: {tally:?}");
        assert!(tally.answered() > 0, "{kind}: {report}");
    }
    assert!(
        report["rounds"].as_u64() >= Some(3),
        "hardly anything was sent meanwhile: {report}"
    );
    assert_eq!(watch.stop(Signal::SIGTERM), 0);
    let median = median(&delays);
    eprintln!(
        "{flavour:?}: {REPLACEMENTS} replacements, each in the kernel after {median:.1} ms (median); {report}"
    );
    // Two cores carry the traffic and the tests beside this one; alone it is far below.
    assert!(median < 250.0, "a change takes {median} ms to reach the kernel");
}

#[test]
fn two_hundred_replacements_under_two_thousand_connections_with_nft() {
    churn(Flavour::Nft);
}

#[test]
fn two_hundred_replacements_under_two_thousand_connections_with_legacy() {
    churn(Flavour::Legacy);
}

#[test]
fn a_watch_survives_editors_and_nonsense() {
    let machine = Machine::start();
    up_and_sync(&machine, "3-pods");
    let watch = machine.command(["miniproxy", "sync", "--watch"]).start();
    watch.wait_for("following");
    let before = live(&machine);
    let write = |text: &str| {
        machine
            .command(["sh", "-euc", &format!("cat > {REGISTRY}/web.service.json")])
            .input(text)
            .run()
            .ok();
    };
    let good = machine
        .run(["cat", &format!("{REGISTRY}/web.service.json")])
        .ok()
        .stdout;
    for (number, bad) in [
        "",
        "{",
        "[1, 2]",
        "\0\0",
        &good[..good.len() / 2],
        &good.replace("10.96.0.80", "10.96.0.999"),
    ]
    .into_iter()
    .enumerate()
    {
        write(bad);
        watch.wait_for_times("web.service.json", number + 1);
        assert_eq!(live(&machine), before, "after {bad:?}");
        write(&good);
        std::thread::sleep(Duration::from_millis(150));
    }
    // Truncated, then written; replaced by a link; renamed over.
    write(&good.replace("\"port\": 80", "\"port\": 88"));
    wait_for("port 88", Duration::from_secs(5), || {
        live(&machine).contains("--dport 88 ").then_some(())
    });
    machine
        .sh(&format!(
            "cd {REGISTRY}; sed 's/88/89/' web.service.json > .new; mv .new web.service.json"
        ))
        .ok();
    wait_for("port 89", Duration::from_secs(5), || {
        live(&machine).contains("--dport 89 ").then_some(())
    });
    assert_eq!(watch.stop(Signal::SIGINT), 0);
}

/// What the watch needs goes missing for a while: it says so, tries again, and nothing is lost.
#[test]
fn a_watch_outlives_a_missing_program_a_pipe_and_a_held_lock() {
    let machine = Machine::start();
    up_and_sync(&machine, "2-pods");
    machine
        .sh("mkdir /run/own; for name in '' -save -restore; do
             for family in iptables ip6tables; do ln -s $(readlink -f $(command -v $family)) /run/own/$family$name; done; done")
        .ok();
    let watch = machine
        .command(["miniproxy", "sync", "--watch", "--iptables", "/run/own/iptables"])
        .start();
    watch.wait_for("following");
    let port = |from: u16, to: u16| {
        format!(
            "cd {REGISTRY}; sed 's/\"port\": {from},/\"port\": {to},/' web.service.json > .new; mv .new web.service.json"
        )
    };
    let arrives = |port: u16| {
        wait_for(&format!("port {port}"), Duration::from_secs(10), || {
            live(&machine).contains(&format!("--dport {port} ")).then_some(())
        });
    };
    machine.sh("mv /run/own/iptables-restore /run/own/hidden").ok();
    machine.sh(&port(80, 81)).ok();
    watch.wait_for("trying again");
    machine.sh("mv /run/own/hidden /run/own/iptables-restore").ok();
    arrives(81);

    machine.sh(&format!("mkfifo {REGISTRY}/pipe.json")).ok();
    watch.wait_for("no regular file");
    machine.sh(&format!("rm {REGISTRY}/pipe.json")).ok();
    watch.wait_for("good again");

    let holder = machine.command(["flock", "/run/netns-lab", "sleep", "4"]).start();
    std::thread::sleep(Duration::from_millis(300));
    machine.sh(&port(81, 82)).ok();
    watch.wait_for("waiting for another");
    arrives(82);
    drop(holder);
    assert_eq!(watch.stop(Signal::SIGTERM), 0);
}

/// Somebody flushes our chains; the watch puts them back.
#[test]
fn a_watch_restores_what_others_flush() {
    let machine = Machine::start();
    up_and_sync(&machine, "3-pods");
    let watch = machine
        .command(["miniproxy", "sync", "--watch", "--sync-period", "1"])
        .start();
    watch.wait_for("following");
    let before = machine.run(["iptables-save"]).ok().stdout;
    for damage in [
        "iptables -t nat -F",
        "iptables -t nat -F KUBE-SERVICES",
        "iptables -F; iptables -X || true",
    ] {
        machine.sh(damage).ok();
        wait_for(damage, Duration::from_secs(10), || {
            let now = machine.run(["iptables-save"]).ok().stdout;
            (kube_rules(&now) == kube_rules(&before)).then_some(())
        });
    }
    drop(watch);
}

/// Counters of what did not change live on.
#[test]
fn untouched_chains_keep_their_counters() {
    let machine = Machine::start();
    up_and_sync(&machine, "3-pods");
    crate::support::load(
        &machine,
        crate::support::From::Node,
        "http",
        crate::support::WEB,
        100,
    );
    let dnat = |machine: &Machine| -> Vec<String> {
        let dump = machine.run(["iptables-save", "-c", "-t", "nat"]).ok().stdout;
        dump.lines()
            .filter(|line| line.contains("DNAT"))
            .map(String::from)
            .collect()
    };
    let before = dnat(&machine);
    let object = service("other", "10.96.0.90", "web", &[("http", "TCP", 80, json!(8080))]);
    publish(&machine, "other.service", &object);
    machine
        .proxy(["sync"])
        .ok()
        .says("default/other:http")
        .never_says("default/web");
    let after = dnat(&machine);
    for line in &before {
        assert!(after.contains(line), "{line} is gone from {after:#?}");
    }
}
