//! Each object stands or falls by itself: what is bad keeps the rules it had, and all else changes.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use lab_tests::machine::{Machine, Running, eventually};
use lab_tests::programs::repository;
use lab_tests::registry::{REGISTRY, publish, service};
use lab_tests::witness;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{From, assert_answers, assert_silent};

const HINTS: [&str; 2] = [
    "hint: what is refused keeps the rules it had; all else is in force",
    "hint: to refuse all of it instead: --strict",
];

fn object(name: &str, address: &str, port: u32) -> Value {
    let mut object = service(name, address, "web", &[("http", "TCP", 80, json!(8080))]);
    object["spec"]["ports"][0]["port"] = json!(port);
    object
}

fn good(machine: &Machine, port: u32) {
    publish(machine, "good", &object("good", "10.96.0.71", port));
}

fn bad(machine: &Machine, port: u32) {
    publish(machine, "bad", &object("bad", "10.96.0.72", port));
}

/// A lab with two Services more, all in force.
fn lab() -> Machine {
    let machine = Machine::start();
    machine.lab(["up", "3-pods"]).ok();
    good(&machine, 80);
    bad(&machine, 80);
    machine.proxy(["sync"]).ok();
    machine
}

fn rules(machine: &Machine) -> String {
    witness::rules(&machine.run(["iptables-save"]).ok().stdout)
}

/// The rules of one Service, whatever else changes.
fn rules_of(machine: &Machine, name: &str) -> Vec<String> {
    let comment = format!("\"default/{name}:http");
    let rules = rules(machine);
    let lines = rules.lines().filter(|line| line.contains(&comment));
    lines.map(String::from).collect()
}

#[track_caller]
fn serves(machine: &Machine, target: &str) {
    assert_answers(machine, From::Node, target);
    assert_answers(machine, From::Pod("web-1"), target);
}

#[test]
fn a_bad_service_among_good_ones() {
    let machine = lab();
    let before = rules_of(&machine, "bad");
    good(&machine, 81);
    bad(&machine, 70_000);
    for ran in [machine.proxy(["sync"]), machine.proxy(["sync"])] {
        let ran = ran.exits(2).complains("error: 1 object refused: ");
        let ran = ran
            .complains("/bad.json:")
            .complains("spec.ports[0].port: port 70000");
        for hint in HINTS {
            assert!(ran.stderr.contains(hint), "{ran}");
        }
    }
    serves(&machine, "10.96.0.71:81");
    serves(&machine, "10.96.0.72:80");
    assert_eq!(rules_of(&machine, "bad"), before);
    // A dry run says the same and does nothing.
    good(&machine, 82);
    let now = rules(&machine);
    machine
        .proxy(["sync", "--dry-run"])
        .exits(2)
        .says("--dport 82 ")
        .complains("spec.ports[0].port: port 70000");
    assert_eq!(rules(&machine), now);
    // Mended, it comes along with all else.
    bad(&machine, 83);
    machine.proxy(["sync"]).ok();
    serves(&machine, "10.96.0.71:82");
    serves(&machine, "10.96.0.72:83");
    machine.proxy(["diff"]).ok();
}

/// A file that is there and cannot be read is one that is refused, for every command.
#[test]
fn a_file_that_cannot_be_read_leaves_the_others_in_force() {
    for make in ["ln -s /nonexistent", "mkfifo", "ln -s odd.json"] {
        let machine = lab();
        good(&machine, 81);
        let odd = format!("{REGISTRY}/odd.json");
        machine.sh(&format!("{make} {odd}")).ok();
        machine
            .proxy(["check"])
            .exits(2)
            .complains("/odd.json:1:1: it cannot be read: ");
        machine
            .proxy(["render"])
            .exits(2)
            .says("--dport 81 ")
            .complains("/odd.json");
        let now = rules(&machine);
        machine
            .proxy(["sync", "--strict"])
            .exits(2)
            .complains("/odd.json");
        assert_eq!(rules(&machine), now);
        machine
            .proxy(["sync"])
            .exits(2)
            .complains("error: 1 object refused: ");
        serves(&machine, "10.96.0.71:81");
        machine.sh(&format!("rm {odd}")).ok();
        machine.proxy(["sync", "--strict"]).ok();
    }
}

/// A Service that was never good has no rules to keep; one that is deleted is deleted.
#[test]
fn a_new_bad_service_and_one_that_goes() {
    let machine = lab();
    bad(&machine, 70_000);
    machine.sh(&format!("rm {REGISTRY}/good.json")).ok();
    publish(&machine, "new", &object("new", "10.96.0.999", 80));
    machine
        .proxy(["sync"])
        .exits(2)
        .complains("error: 2 objects refused: ")
        .complains("/new.json:")
        .complains("10.96.0.999");
    assert!(rules_of(&machine, "good").is_empty());
    assert!(rules_of(&machine, "new").is_empty());
    assert_silent(&machine, From::Node, "10.96.0.71:80");
    serves(&machine, "10.96.0.72:80");
}

#[test]
fn a_file_that_is_no_json() {
    let machine = lab();
    let before = rules_of(&machine, "bad");
    good(&machine, 81);
    for text in [
        "",
        "{",
        "[1, 2]",
        "\0\u{1b}[31m",
        "{\"kind\": \"Service\", \"metadata\": {",
    ] {
        let script = format!("cat > {REGISTRY}/bad.json");
        machine.command(["sh", "-euc", &script]).input(text).run().ok();
        let ran = machine.proxy(["sync"]).exits(2).complains("/bad.json:");
        assert!(!ran.stderr.contains('\u{1b}'), "{ran}");
        assert_eq!(rules_of(&machine, "bad"), before, "after {text:?}");
        serves(&machine, "10.96.0.71:81");
        serves(&machine, "10.96.0.72:80");
    }
}

#[test]
fn strict_refuses_all_and_changes_nothing() {
    let machine = lab();
    let before = rules(&machine);
    good(&machine, 81);
    bad(&machine, 70_000);
    machine
        .proxy(["sync", "--strict"])
        .exits(2)
        .complains("/bad.json:")
        .complains("spec.ports[0].port: port 70000")
        .complains("hint: nothing was changed; mend the file and try again");
    assert_eq!(rules(&machine), before);
    serves(&machine, "10.96.0.71:80");

    let watch = machine
        .command(["miniproxy", "sync", "--watch", "--strict"])
        .start();
    watch.wait_for("spec.ports[0].port: port 70000");
    good(&machine, 82);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(rules(&machine), before);
    bad(&machine, 83);
    watch.wait_for("the registry is good again");
    eventually("all is in force", || machine.proxy(["diff"]).code() == 0);
    serves(&machine, "10.96.0.71:82");
    serves(&machine, "10.96.0.72:83");
    assert_eq!(watch.stop(Signal::SIGTERM), 0);
}

#[test]
fn a_watch_goes_on_with_what_is_good() {
    let machine = lab();
    let before = rules_of(&machine, "bad");
    let watch = machine.command(["miniproxy", "sync", "--watch"]).start();
    watch.wait_for("following");
    bad(&machine, 70_000);
    watch.wait_for("/bad.json:");
    watch.wait_for("spec.ports[0].port: port 70000");
    good(&machine, 81);
    eventually("the good one's change", || {
        rules_of(&machine, "good")
            .iter()
            .any(|rule| rule.contains("--dport 81 "))
    });
    serves(&machine, "10.96.0.71:81");
    serves(&machine, "10.96.0.72:80");
    assert_eq!(rules_of(&machine, "bad"), before);
    // Another watch, which has never seen the good version, leaves it alone as well.
    assert_eq!(watch.stop(Signal::SIGTERM), 0);
    let watch = machine.command(["miniproxy", "sync", "--watch"]).start();
    watch.wait_for("spec.ports[0].port: port 70000");
    good(&machine, 82);
    eventually("the good one's change", || {
        rules_of(&machine, "good")
            .iter()
            .any(|rule| rule.contains("--dport 82 "))
    });
    assert_eq!(rules_of(&machine, "bad"), before);
    serves(&machine, "10.96.0.72:80");
    std::thread::sleep(Duration::from_millis(600));
    let times = watch.said().matches("/bad.json:").count();
    assert_eq!(times, 1, "told once:\n{}", watch.said());
    bad(&machine, 83);
    watch.wait_for("the registry is good again");
    eventually("all is in force", || machine.proxy(["diff"]).code() == 0);
    serves(&machine, "10.96.0.72:83");
    assert_eq!(watch.stop(Signal::SIGTERM), 0);
}

/// What ended the real kube-proxy, with its configuration.
fn what_ends_kube_proxy() -> Vec<(String, String, Vec<PathBuf>)> {
    let cases = fs::read_dir(repository().join("tests/conformance/recorded")).expect("our own folder");
    let folders = cases.flatten().map(|entry| entry.path());
    let folders = folders.filter(|folder| {
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        name.starts_with("refused-") || folder.join("refused.json").exists()
    });
    let mut cases: Vec<_> = folders
        .map(|folder| {
            let steps = (1..10).map(|step| folder.join(format!("registry.{step}.json")));
            (
                folder.display().to_string(),
                folder.join("config.yaml").display().to_string(),
                steps.take_while(|step| step.exists()).collect(),
            )
        })
        .collect();
    cases.sort();
    cases
}

#[test]
fn what_ends_kube_proxy_does_not_end_us() {
    let machine = Machine::start();
    let cases = what_ends_kube_proxy();
    assert!(cases.len() >= 6, "{cases:?}");
    for (case, config, steps) in &cases {
        for registry in steps {
            let registry = registry.display().to_string();
            let words = ["sync", "--config", config, "--registry", &registry];
            let ran = machine.proxy(words).never_says("panicked");
            assert!([0, 2].contains(&ran.code()), "{case}: {ran}");
            let refused = ran.code() == 2;
            assert!(!refused || ran.stderr.starts_with("error: "), "{case}: {ran}");
            machine.proxy(["cleanup"]).ok();
        }
        // One after the other, followed.
        let place = machine.file("watched.json", "{}");
        let copy = |from: &PathBuf| {
            let text = fs::read_to_string(from).expect("a step");
            machine.file(".new.json", &text);
            let folder = machine.folder();
            fs::rename(folder.join(".new.json"), &place).expect("our own folder");
        };
        copy(&steps[0]);
        let watch = machine
            .command([
                "miniproxy",
                "sync",
                "--watch",
                "--config",
                config,
                "--registry",
                &place,
            ])
            .start();
        for step in &steps[1..] {
            watch.wait_for("following");
            std::thread::sleep(Duration::from_millis(300));
            copy(step);
        }
        std::thread::sleep(Duration::from_millis(500));
        let (code, said) = ended(watch);
        assert!([0, 2].contains(&code), "{case}: {code}: {said}");
        assert!(!said.contains("panicked"), "{case}: {said}");
        assert!(code == 0 || said.contains("error: "), "{case}: {said}");
        machine.proxy(["cleanup"]).ok();
    }
}

fn ended(mut watch: Running) -> (i32, String) {
    watch.signal(Signal::SIGTERM);
    let code = watch.end(Duration::from_secs(10));
    (code, watch.said())
}
