//! The harness itself: what it says it isolates and measures, it does.

use std::fs;

use lab_tests::machine::{Flavour, Machine, eventually};
use lab_tests::witness::{Witness, assert_unchanged};

#[test]
fn a_machine_shares_nothing_and_ends_with_its_test() {
    let (one, two) = (Machine::start(), Machine::start());
    one.sh("ip link add v0 type veth peer name v1; touch /run/mine; hostname one; ip netns add x")
        .ok();
    two.sh("! ip link show v0; ! test -e /run/mine; test \"$(hostname)\" != one; ! ip netns exec x true")
        .ok();
    assert!(!fs::exists("/run/mine").unwrap() && !fs::exists("/run/netns/x").unwrap());
    let outside = one
        .sh("sleep 1000 >/dev/null 2>&1 & readlink /proc/self/ns/net")
        .ok()
        .stdout;
    drop(one);
    eventually("every process of the machine has ended", || {
        fs::read_dir("/proc").unwrap().flatten().all(|entry| {
            fs::read_link(entry.path().join("ns/net"))
                .map_or(true, |net| net.to_string_lossy() != outside.trim())
        })
    });
}

#[test]
fn plain_iptables_is_the_flavour_that_was_asked_for() {
    for (flavour, said) in [(Flavour::Nft, "nf_tables"), (Flavour::Legacy, "legacy")] {
        let machine = Machine::builder().flavour(flavour).start();
        for program in ["iptables", "ip6tables", "iptables-save", "iptables-restore"] {
            machine.run([program, "--version"]).ok().says(said);
        }
    }
}

#[test]
fn a_witness_sees_what_changes_and_nothing_else() {
    let machine = Machine::builder().docker().foreign_rules(20).uplink().start();
    let before = Witness::of(&machine);
    machine
        .sh("lab-helper load tcp 192.0.2.1:7 20")
        .ok()
        .says("\"router\":20");
    assert_unchanged(&machine, &before, "after traffic alone");
    for (change, part) in [
        ("iptables -t nat -A OUTPUT -j ACCEPT", "-A OUTPUT -j ACCEPT"),
        ("ip link set lo mtu 1500", "mtu"),
        ("ip route add 10.9.0.0/16 dev lo", "10.9.0.0/16"),
        (
            "sysctl -w net.ipv4.ip_forward=1 net.ipv4.conf.all.log_martians=1",
            "log_martians",
        ),
        ("mkdir /run/left", "/run/left"),
        ("mount -t tmpfs none /run/left", "/run/left"),
        ("sleep 100 >/dev/null 2>&1 &", "sleep 100"),
    ] {
        let before = Witness::of(&machine);
        machine.sh(change).ok();
        let difference = before.difference(&Witness::of(&machine)).expect(change);
        assert!(difference.contains(part), "{change}: {difference}");
    }
}

#[test]
fn foreign_rules_are_as_many_as_asked_for() {
    let machine = Machine::builder().foreign_rules(1000).start();
    let dump = machine.run(["iptables-save"]).ok().stdout;
    assert_eq!(
        dump.lines().filter(|line| line.starts_with("-A FOREIGN")).count(),
        1000
    );
}
