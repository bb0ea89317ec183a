//! Node ports: on which addresses, on localhost or not, and the port of health checks.

use miniproxy::rules::set::TableName;
use miniproxy::rules::trace::{NodeFacts, Verdict, trace};
use serde_json::json;

use crate::world::{Addresses, From, NODE_PORT, READY, To, V4, V6, World, ip, packet};
use From::{External, Localhost, Node, Pod};
use To::{ClusterIp, LocalhostNodePort, NodePort};

fn world(addresses: &'static Addresses, localhost: bool, node_port_addresses: Option<&[&str]>) -> World {
    World::new(addresses)
        .service(&json!({}))
        .endpoints(Some(READY), Some(READY))
        .configured(|config| {
            config.localhost_node_ports = localhost;
            config.node_port_addresses =
                node_port_addresses.map(|listed| listed.iter().map(|address| ip(address)).collect());
        })
}

/// The node's first address, its second one, and loopback.
type Row = (
    &'static Addresses,
    bool,
    Option<&'static [&'static str]>,
    [&'static str; 3],
);

#[test]
fn node_ports_answer_on_the_addresses_they_should() {
    let table: [Row; 10] = [
        (&V4, true, None, ["all+", "all+", "all+"]),
        (&V4, false, None, ["all+", "all+", "untouched"]),
        (
            &V4,
            true,
            Some(&["127.0.0.1"]),
            ["untouched", "untouched", "all+"],
        ),
        (
            &V4,
            false,
            Some(&["127.0.0.1"]),
            ["untouched", "untouched", "untouched"],
        ),
        (
            &V4,
            true,
            Some(&["192.168.0.2"]),
            ["all+", "untouched", "untouched"],
        ),
        (
            &V4,
            true,
            Some(&["192.168.99.5", "127.0.0.1"]),
            ["untouched", "all+", "all+"],
        ),
        (&V4, true, Some(&[]), ["untouched", "untouched", "untouched"]),
        (&V6, true, None, ["all+", "all+", "untouched"]),
        (&V6, false, None, ["all+", "all+", "untouched"]),
        (
            &V6,
            true,
            Some(&["2001:db8:99::5", "::1"]),
            ["untouched", "all+", "untouched"],
        ),
    ];
    for (addresses, localhost, listed, [first, second, loopback]) in table {
        let world = world(addresses, localhost, listed);
        let title = format!("localhost {localhost}, {listed:?}");
        world.check(
            &title,
            &[
                (Pod, ClusterIp, "all-"),
                (External, NodePort, first),
                (Node, NodePort, first),
                (Localhost, LocalhostNodePort, loopback),
            ],
        );
        let mut to_second = world.packet(External, NodePort);
        to_second.destination = ip(addresses.second);
        assert_eq!(world.send(&to_second), second, "{title}, second address");
    }
}

#[test]
fn strangers_do_not_reach_loopback_though_node_ports_need_it_routed() {
    let stranger = packet("203.0.113.1", Some("eth0"), "127.0.0.1:22");
    let own = packet("127.0.0.1", None, "127.0.0.1:22");
    let trying_a_node_port = packet("203.0.113.1", Some("eth0"), &format!("127.0.0.1:{NODE_PORT}"));
    for (localhost, expected) in [(true, "DROP"), (false, "untouched")] {
        let world = world(&V4, localhost, None);
        assert_eq!(world.send(&stranger), expected);
        assert_eq!(world.send(&own), "untouched");
    }
    // Rewritten, it is no longer for loopback: this only route_localnet and the kernel's martians stop.
    assert_eq!(world(&V4, true, None).send(&trying_a_node_port), "all+");
}

#[test]
fn a_health_check_port_is_open_with_or_without_endpoints() {
    for addresses in [&V4, &V6] {
        let spec = json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 32_000});
        let closed = NodeFacts::new([ip(addresses.node)]).policy(TableName::Filter, "INPUT", Verdict::Drop);
        for endpoints in [None, Some(READY)] {
            let world = World::new(addresses).service(&spec).endpoints(endpoints, None);
            let rules = world.rules();
            let mut packet = world.packet(External, NodePort);
            packet.port = 32_000;
            let open = trace(&rules, &closed, &packet);
            assert_eq!(open.outcomes[0].verdict, Verdict::Accept);
            let by = open.outcomes[0].by.as_ref().unwrap();
            assert_eq!(
                (by.table, by.chain.as_str(), by.number),
                ("filter", "KUBE-NODEPORTS", Some(1))
            );
            packet.port = 32_001;
            assert_eq!(trace(&rules, &closed, &packet).outcomes[0].verdict, Verdict::Drop);
        }
    }
}

#[test]
fn service_traffic_passes_a_forward_chain_that_drops() {
    let drops = |world: &World| {
        let policy = NodeFacts::new([ip(world.addresses.node)]);
        policy.policy(TableName::Filter, "FORWARD", Verdict::Drop)
    };
    let world = world(&V4, true, None);
    let verdict =
        |from, to| trace(&world.rules(), &drops(&world), &world.packet(from, to)).outcomes[0].verdict;
    // What is marked is let through; what is not, others have to let through.
    assert_eq!(verdict(External, NodePort), Verdict::Accept);
    assert_eq!(verdict(Pod, ClusterIp), Verdict::Drop);
}
