//! Steps that many tests take.

use lab_tests::load::Tally;
use lab_tests::machine::Machine;
use lab_tests::run::Ran;
use lab_tests::stats::{REJECT_BELOW, p_of_equal_shares};

/// The address of the first Service, which `up` puts into the registry.
pub(crate) const VIP: &str = "10.96.0.80";
/// The same with its port.
pub(crate) const WEB: &str = "10.96.0.80:80";

/// Where a client runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From<'a> {
    /// In the machine itself.
    Node,
    /// In a pod.
    Pod(&'a str),
}

/// A machine with a lab and its rules.
#[track_caller]
pub(crate) fn lab_with_rules(topology: &str) -> Machine {
    let machine = Machine::start();
    up_and_sync(&machine, topology);
    machine
}

/// The main job.
#[track_caller]
pub(crate) fn up_and_sync(machine: &Machine, topology: &str) {
    machine.lab(["up", topology]).ok();
    machine.proxy(["sync"]).ok();
}

/// Takes both back.
#[track_caller]
pub(crate) fn cleanup_and_down(machine: &Machine) {
    machine.proxy(["cleanup"]).ok();
    machine.lab(["down"]).ok();
}

/// Runs the client of the harness and returns what it counted.
#[track_caller]
pub(crate) fn load(machine: &Machine, from: From<'_>, protocol: &str, target: &str, count: usize) -> Tally {
    load_with_timeout(machine, from, protocol, target, count, 5000)
}

/// As [`load`], with a time limit for each answer in ms.
#[track_caller]
pub(crate) fn load_with_timeout(
    machine: &Machine,
    from: From<'_>,
    protocol: &str,
    target: &str,
    count: usize,
    timeout: u32,
) -> Tally {
    let (count, timeout) = (count.to_string(), timeout.to_string());
    let argv = ["lab-helper", "load", protocol, target, &count, "16", &timeout];
    Tally::from_json(&run_from(machine, from, &argv).ok().json())
}

/// Runs a command on the node or in a pod.
#[track_caller]
pub(crate) fn run_from(machine: &Machine, from: From<'_>, argv: &[&str]) -> Ran {
    match from {
        From::Node => machine.run(argv),
        From::Pod(pod) => machine.in_pod(pod, argv.iter().copied()),
    }
}

/// Asserts that every request was answered and that the pods' shares are equal.
#[track_caller]
pub(crate) fn assert_fair(tally: &Tally, pods: usize, asked: u64, what: &str) {
    assert!(tally.failures.is_empty(), "{what}: lost: {tally:?}");
    assert_eq!(tally.answered(), asked, "{what}: {tally:?}");
    assert_eq!(
        tally.answers.len(),
        pods,
        "{what}: not every pod was asked: {tally:?}"
    );
    let counts: Vec<u64> = tally.answers.values().copied().collect();
    let p = p_of_equal_shares(&counts);
    assert!(
        p >= REJECT_BELOW,
        "{what}: shares are not equal (p = {p:e}): {tally:?}"
    );
    eprintln!("{what}: {asked} answers, p = {p:.3}, {counts:?}");
}

/// Asserts that a few requests are all answered.
#[track_caller]
pub(crate) fn assert_answers(machine: &Machine, from: From<'_>, target: &str) {
    let tally = load(machine, from, "http", target, 10);
    assert!(
        tally.failures.is_empty() && tally.answered() == 10,
        "{from:?} -> {target}: {tally:?}"
    );
}

/// Asserts that no request is answered.
#[track_caller]
pub(crate) fn assert_silent(machine: &Machine, from: From<'_>, target: &str) {
    let tally = load_with_timeout(machine, from, "http", target, 3, 700);
    assert!(tally.answers.is_empty(), "{from:?} -> {target}: {tally:?}");
}
