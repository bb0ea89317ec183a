//! Two commands at once on the life of pods, and one that goes on where another was cut short.

use std::collections::BTreeSet;
use std::time::Duration;

use lab_tests::machine::{Machine, Running, eventually};
use lab_tests::witness::{Witness, assert_unchanged};
use serde_json::Value;

use crate::kill::named;

/// How long a command may take that waits for nobody any more.
const SOON: Duration = Duration::from_secs(20);

/// A connection to a pod that stays open until its stdin is closed.
fn open_connection(machine: &Machine, ip: &str, pod: &str) -> Running {
    let script = format!(
        "exec 3<>/dev/tcp/{ip}/8081; read -r line <&3; echo \"open: $line\"; cat >/dev/null; \
         echo >&3; read -r line <&3; echo \"still: $line\""
    );
    let caller = machine.command(["bash", "-euc", &script]).start();
    caller.wait_for(&format!("open: {pod}"));
    caller
}

fn status(machine: &Machine) -> Vec<Value> {
    let status = machine.lab(["status", "-o", "json"]).ok().json();
    status["pods"].as_array().expect("pods").clone()
}

fn names(machine: &Machine) -> BTreeSet<String> {
    let name = |pod: &Value| pod["name"].as_str().expect("a name").to_string();
    status(machine).iter().map(name).collect()
}

fn ip(machine: &Machine, pod: &str) -> String {
    let pod = machine.lab(["get", "pod", pod, "-o", "json"]).ok().json();
    pod["status"]["podIP"].as_str().expect("an address").to_string()
}

/// Waits until a pod is being ended.
fn is_ending(machine: &Machine, pod: &str) {
    eventually("the pod is being ended", || {
        let pod = machine.lab(["get", "pod", pod, "-o", "json"]).ok().json();
        pod["metadata"]["deletionTimestamp"].is_string()
    });
}

#[track_caller]
fn assert_settled(machine: &Machine) {
    machine.lab(["up", "--dry-run"]).ok().says("nothing to do");
    for pod in status(machine) {
        assert_eq!(pod["ready"], true, "{pod:#}");
    }
}

#[test]
fn a_pod_that_one_command_ends_is_not_cut_off_by_another() {
    let machine = Machine::start();
    machine.lab(["up", "3-pods"]).ok();
    let mut caller = open_connection(&machine, "10.244.0.3", "web-2");
    let mut removal = machine
        .command(["netns-lab", "pod", "rm", "web-2", "--grace", "0s"])
        .start();
    is_ending(&machine, "web-2");
    machine.lab(["scale", "web", "4"]).ok().says("pod/web-4 created");
    machine.lab(["pod", "add", "db"]).ok();
    machine.lab(["up"]).ok();
    assert!(!names(&machine).is_empty());
    caller.close_input();
    assert_eq!(caller.end(SOON), 0, "{}", caller.said());
    caller.wait_for("still: web-2");
    assert_eq!(removal.end(SOON), 0, "{}", removal.said());
    let expected = ["db", "web-1", "web-3", "web-4", "web-5"];
    assert_eq!(names(&machine), expected.map(String::from).into());
    assert_settled(&machine);
}

#[test]
fn a_pod_that_is_being_restarted_keeps_its_connections_when_others_come() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    machine.lab(["up", "2-pods"]).ok();
    let mut caller = open_connection(&machine, "10.244.0.2", "web-1");
    let restart = ["netns-lab", "pod", "restart", "web-1", "--grace", "0s"];
    let mut first = machine.command(restart).start();
    is_ending(&machine, "web-1");
    machine.lab(["scale", "web", "3"]).ok().says("pod/web-3 created");
    let mut second = machine.command(restart).start();
    second.wait_for("waiting: another command is ending the pod web-1");
    caller.close_input();
    assert_eq!(caller.end(SOON), 0, "{}", caller.said());
    caller.wait_for("still: web-1");
    assert_eq!(first.end(SOON), 0, "{}", first.said());
    assert_eq!(second.end(SOON), 0, "{}", second.said());
    second.wait_for("pod/web-1 restarted");
    assert!(!["10.244.0.2", "10.244.0.5"].contains(&ip(&machine, "web-1").as_str()));
    assert_eq!(
        names(&machine),
        ["web-1", "web-2", "web-3"].map(String::from).into()
    );
    assert_settled(&machine);
    machine.lab(["down"]).ok();
    assert_unchanged(&machine, &before, "after two restarts at once");
}

#[test]
fn two_changes_of_scale_at_once_end_as_one_of_them() {
    let machine = Machine::start();
    machine.lab(["up", "3-pods"]).ok();
    for _ in 0..3 {
        let scale = |to: &str| {
            let words = ["netns-lab", "scale", "web", to, "--grace", "0s"];
            machine.command(words).start()
        };
        let (mut fewer, mut more) = (scale("2"), scale("5"));
        assert_eq!(fewer.end(SOON), 0, "{}", fewer.said());
        assert_eq!(more.end(SOON), 0, "{}", more.said());
        let left = names(&machine).len();
        assert!([2, 5].contains(&left), "{left}: {} {}", fewer.said(), more.said());
        assert_settled(&machine);
        machine.lab(["scale", "web", "3", "--grace", "0s"]).ok();
    }
}

#[test]
fn a_command_that_died_leaves_its_pod_to_the_next_one() {
    let machine = Machine::start();
    machine.lab(["up", "2-pods"]).ok();
    let _caller = open_connection(&machine, "10.244.0.3", "web-2");
    let removal = machine.command(["netns-lab", "pod", "rm", "web-2", "--grace", "0s"]);
    let removal = removal.start();
    is_ending(&machine, "web-2");
    removal.signal(nix::sys::signal::Signal::SIGKILL);
    drop(removal);
    machine.lab(["up"]).ok();
    assert_eq!(names(&machine), ["web-1".to_string()].into());
    assert_settled(&machine);
}

/// Steps at which a rollout can be cut.
fn steps() -> BTreeSet<String> {
    let mut steps: BTreeSet<_> = named("rollout").into_iter().chain(named("life")).collect();
    steps.remove("life:flipped");
    assert!(steps.len() >= 5, "{steps:?}");
    steps
}

#[test]
fn a_rollout_that_was_cut_short_is_finished_by_the_next() {
    let machine = Machine::start();
    for step in steps() {
        machine.lab(["up", "4-pods"]).ok();
        let rollout = ["netns-lab", "rollout", "web", "--version", "2", "--grace", "0s"];
        let cut = machine.command(rollout).env("NETNS_LAB_KILL_AT", &step);
        cut.run().exits(137);
        machine.run(rollout).ok().says("web is v2 now");
        assert_eq!(names(&machine).len(), 4, "{step}: {:?}", names(&machine));
        let version = |pod: &Value| pod["labels"]["version"].as_str() == Some("2");
        assert!(
            status(&machine).iter().all(version),
            "{step}: {:?}",
            status(&machine)
        );
        assert_settled(&machine);
        // Whoever says another number meanwhile has the last word.
        let again = ["netns-lab", "rollout", "web", "--version", "3", "--grace", "0s"];
        let cut = machine.command(again).env("NETNS_LAB_KILL_AT", &step);
        cut.run().exits(137);
        machine.lab(["scale", "web", "2", "--grace", "0s"]).ok();
        machine.run(again).ok();
        assert_eq!(names(&machine).len(), 2, "{step}: {:?}", names(&machine));
        machine.lab(["down"]).ok();
    }
}

#[test]
fn during_a_rollout_nobody_else_changes_the_number() {
    let machine = Machine::start();
    machine.lab(["up", "2-pods"]).ok();
    let mut caller = open_connection(&machine, "10.244.0.2", "web-1");
    let rollout = ["netns-lab", "rollout", "web", "--version", "2", "--grace", "0s"];
    let mut first = machine.command(rollout).start();
    is_ending(&machine, "web-1");
    machine
        .lab(["scale", "web", "5"])
        .exits(1)
        .complains("another command is rolling out web");
    machine
        .lab(["rollout", "web", "--version", "3"])
        .exits(1)
        .complains("wait until it has ended");
    caller.close_input();
    assert_eq!(caller.end(SOON), 0, "{}", caller.said());
    assert_eq!(first.end(SOON), 0, "{}", first.said());
    assert_eq!(names(&machine), ["web-3", "web-4"].map(String::from).into());
    machine.lab(["scale", "web", "3", "--grace", "0s"]).ok();
    assert_settled(&machine);
}
