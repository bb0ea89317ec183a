//! After `cleanup` and `down` every dump is what it was, byte for byte.

use lab_tests::machine::{Builder, FLAVOURS, Flavour, Machine};
use lab_tests::witness::{Witness, assert_unchanged};

use crate::support::{From, WEB, assert_answers, cleanup_and_down, up_and_sync};

fn leaves_no_trace(builder: &Builder) {
    for flavour in FLAVOURS {
        let machine = builder.clone().flavour(flavour).start();
        let before = Witness::of(&machine);
        up_and_sync(&machine, "3-pods");
        assert_rules_stand(&machine);
        for from in [From::Node, From::Pod("web-1"), From::Pod("web-3")] {
            assert_answers(&machine, from, WEB);
        }
        cleanup_and_down(&machine);
        assert_unchanged(
            &machine,
            &before,
            &format!("after cleanup and down ({flavour:?})"),
        );

        // In the other order, and twice each: the second has nothing to do and says so by success.
        up_and_sync(&machine, "2-pods");
        machine.lab(["down"]).ok();
        machine.proxy(["cleanup"]).ok();
        machine.proxy(["cleanup"]).ok();
        machine.lab(["down"]).ok();
        assert_unchanged(
            &machine,
            &before,
            &format!("after down and cleanup ({flavour:?})"),
        );
    }
}

/// The rules are in the flavour that plain `iptables` shows, and in no other.
fn assert_rules_stand(machine: &Machine) {
    let (ours, other) = match machine.flavour() {
        Flavour::Nft => ("iptables-nft-save", "iptables-legacy-save"),
        Flavour::Legacy => ("iptables-legacy-save", "iptables-nft-save"),
    };
    machine
        .run(["iptables", "-t", "nat", "-L", "-n"])
        .ok()
        .says("KUBE-SERVICES");
    machine.run([ours]).ok().says("KUBE-SERVICES");
    machine.run([other]).ok().never_says("KUBE-");
}

#[test]
fn on_an_empty_host() {
    leaves_no_trace(&Machine::builder());
}

#[test]
fn on_a_host_with_docker_and_forward_drop() {
    leaves_no_trace(&Machine::builder().docker());
}

#[test]
fn on_a_host_with_1000_foreign_rules() {
    leaves_no_trace(&Machine::builder().foreign_rules(1000));
}

#[test]
fn on_a_host_with_a_way_out() {
    leaves_no_trace(&Machine::builder().docker().uplink());
}

/// Values that the host had set otherwise come back as they were.
#[test]
fn on_a_host_whose_sysctls_stand_otherwise() {
    let machine = Machine::start();
    machine
        .sh(
            "sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.all.accept_redirects=1 \
             net.ipv4.conf.default.forwarding=0 net.bridge.bridge-nf-call-iptables=0 \
             net.ipv4.conf.all.rp_filter=2",
        )
        .ok();
    let before = Witness::of(&machine);
    up_and_sync(&machine, "3-pods");
    assert_answers(&machine, From::Pod("web-1"), WEB);
    cleanup_and_down(&machine);
    assert_unchanged(&machine, &before, "after cleanup and down");
}

/// Names that `ip netns` has made stay, and so does what somebody put into our tables meanwhile.
#[test]
fn beside_namespaces_and_rules_of_others() {
    for flavour in FLAVOURS {
        let machine = Machine::builder().flavour(flavour).start();
        machine.run(["ip", "netns", "add", "theirs"]).ok();
        machine.restore(
            "*nat\n-A PREROUTING -d 203.0.113.9/32 -p tcp -j DNAT --to-destination 192.0.2.9\nCOMMIT\n",
        );
        let before = Witness::of(&machine);
        up_and_sync(&machine, "3-pods");
        machine.run(["ip", "netns", "exec", "theirs", "true"]).ok();
        cleanup_and_down(&machine);
        assert_unchanged(
            &machine,
            &before,
            &format!("after cleanup and down ({flavour:?})"),
        );
        machine.run(["ip", "netns", "exec", "theirs", "true"]).ok();
    }
}

#[test]
fn rules_that_others_add_while_the_lab_is_up_stay() {
    for flavour in FLAVOURS {
        let machine = Machine::builder().flavour(flavour).start();
        up_and_sync(&machine, "3-pods");
        let theirs = "-A POSTROUTING -s 203.0.113.0/24 -o eth7 -j MASQUERADE";
        machine.restore(&format!("*nat\n{theirs}\nCOMMIT\n"));
        cleanup_and_down(&machine);
        let dump = machine
            .run(["iptables-save"])
            .ok()
            .says(theirs)
            .never_says("KUBE-");
        assert_eq!(
            dump.stdout.lines().filter(|line| line.starts_with("-A")).count(),
            1,
            "{dump}"
        );
    }
}
