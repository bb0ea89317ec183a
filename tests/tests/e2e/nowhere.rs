//! The virtual IP exists nowhere: no interface, no socket, no ARP answer, and no packet leaves.

use lab_tests::machine::{Machine, eventually};
use lab_tests::registry::{publish, service};
use serde_json::json;

use crate::support::{From, VIP, WEB, assert_answers, assert_silent, lab_with_rules, load, up_and_sync};

#[test]
fn no_interface_and_no_socket_has_it() {
    let machine = lab_with_rules("3-pods");
    for tool in ["ip address; ip neigh; ip route show table local", "ss -Hanptu"] {
        machine.sh(tool).ok().never_says(VIP);
        for pod in ["web-1", "web-2", "web-3"] {
            machine.in_pod(pod, ["sh", "-c", tool]).ok().never_says(VIP);
        }
    }
}

#[test]
fn arp_finds_pods_and_no_virtual_ip() {
    let machine = lab_with_rules("3-pods");
    machine.lab(["arp", "10.244.0.3"]).ok().says("02:00:0a:f4:00:03");
    machine.lab(["arp", VIP]).exits(1);
    machine
        .lab(["arp", "--from", "web-2", "10.244.0.2"])
        .ok()
        .says("02:00:0a:f4:00:02");
    machine.lab(["arp", "--from", "web-2", VIP]).exits(1);
}

/// The kernel's own resolution says the same, through a route that makes it ask.
#[test]
fn the_kernel_gets_no_arp_answer_for_it_either() {
    let machine = lab_with_rules("2-pods");
    machine
        .in_pod("web-1", ["ip", "route", "add", VIP, "dev", "eth0"])
        .ok();
    // Three requests, a second apart, and nobody answers.
    eventually("the kernel gives up", || {
        assert_silent(&machine, From::Pod("web-1"), WEB);
        machine
            .in_pod("web-1", ["ip", "neigh", "show", VIP])
            .ok()
            .stdout
            .contains("FAILED")
    });
}

#[test]
fn without_a_rule_the_connection_dies_in_the_lab() {
    let machine = Machine::builder().uplink().start();
    // The proof that the counter counts: without a lab the packets do leave.
    let before = machine.uplink().packets(&machine);
    assert_silent(&machine, From::Node, WEB);
    let at_start = machine.uplink().packets(&machine);
    assert!(
        at_start > before,
        "a packet to {VIP} leaves by the default route while no lab is up"
    );

    machine.lab(["up", "3-pods"]).ok();
    for from in [From::Node, From::Pod("web-1")] {
        assert_silent(&machine, from, WEB);
        // Any other address of the Service range, too.
        assert_silent(&machine, from, "10.96.77.7:443");
    }
    assert_eq!(
        machine.uplink().packets(&machine),
        at_start,
        "packets left the lab"
    );

    machine.proxy(["sync"]).ok();
    for from in [From::Node, From::Pod("web-1")] {
        assert_answers(&machine, from, WEB);
        assert_silent(&machine, from, "10.96.77.7:443");
    }
    assert_eq!(
        machine.uplink().packets(&machine),
        at_start,
        "packets left the lab"
    );

    machine.proxy(["cleanup"]).ok();
    for from in [From::Node, From::Pod("web-1")] {
        assert_silent(&machine, from, WEB);
    }
    assert_eq!(
        machine.uplink().packets(&machine),
        at_start,
        "packets left the lab"
    );
}

#[test]
fn what_pods_send_elsewhere_leaves_masqueraded() {
    let machine = Machine::builder().uplink().start();
    up_and_sync(&machine, "3-pods");
    let tally = load(&machine, From::Pod("web-1"), "tcp", "192.0.2.1:7", 3);
    assert_eq!(tally.answers.get("router"), Some(&3), "{tally:?}");
    machine
        .in_pod(
            "web-1",
            [
                "curl",
                "-sS",
                "--max-time",
                "5",
                "--http0.9",
                "http://192.0.2.1:7/",
            ],
        )
        .ok()
        .says("sees you as 192.0.2.2:");
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    let machine = lab_with_rules("3-pods");
    let object = service(
        "empty",
        "10.96.0.99",
        "nobody",
        &[("http", "TCP", 80, json!(8080))],
    );
    publish(&machine, "empty.service", &object);
    machine.proxy(["sync"]).ok().says("default/empty:http");
    for from in [From::Node, From::Pod("web-1")] {
        let tally = load(&machine, from, "http", "10.96.0.99:80", 3);
        assert_eq!(
            tally.failures.keys().collect::<Vec<_>>(),
            ["connection refused"],
            "{from:?}: {tally:?}"
        );
    }
}

/// A packet to a pod's address that no pod has dies in the lab as well.
#[test]
fn an_address_of_no_pod_stays_in_the_lab() {
    let machine = Machine::builder().uplink().start();
    up_and_sync(&machine, "3-pods");
    let before = machine.uplink().packets(&machine);
    assert_silent(&machine, From::Node, "10.244.0.200:8080");
    assert_silent(&machine, From::Pod("web-1"), "10.244.0.200:8080");
    assert_eq!(machine.uplink().packets(&machine), before);
}
