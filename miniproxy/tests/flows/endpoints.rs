//! Which endpoints there are: none, only elsewhere, on their way out; and hairpins and affinity.

use std::net::SocketAddr;

use miniproxy::model::Protocol;
use miniproxy::rules::trace::{Verdict, trace};
use serde_json::json;

use crate::world::{From, GONE, LEAVING, NOT_READY, READY, TARGET_PORT, To, V4, V6, World, ip, packet};
use From::{External, Localhost, Node, Pod};
use To::{ClusterIp, ExternalIp, LoadBalancer, NodePort};

#[test]
fn without_endpoints_everybody_is_rejected() {
    for addresses in [&V4, &V6] {
        for policy in ["Cluster", "Local"] {
            let spec = json!({"externalTrafficPolicy": policy, "internalTrafficPolicy": policy});
            for world in [
                World::new(addresses).service(&spec),
                World::new(addresses)
                    .service(&spec)
                    .endpoints(Some(NOT_READY), Some(GONE)),
            ] {
                world.check(
                    policy,
                    &[
                        (Pod, ClusterIp, "REJECT"),
                        (Pod, NodePort, "REJECT"),
                        (Pod, LoadBalancer, "REJECT"),
                        (Pod, ExternalIp, "REJECT"),
                        (Node, ClusterIp, "REJECT"),
                        // By loopback it comes in at INPUT.
                        (Node, NodePort, "REJECT"),
                        (Localhost, NodePort, "REJECT"),
                        (External, ClusterIp, "REJECT"),
                        (External, NodePort, "REJECT"),
                        (External, LoadBalancer, "REJECT"),
                        (External, ExternalIp, "REJECT"),
                        // OUTPUT does not ask KUBE-EXTERNAL-SERVICES: kube-proxy lets these go.
                        (Node, LoadBalancer, "lost"),
                        (Node, ExternalIp, "lost"),
                    ],
                );
            }
        }
    }
}

#[test]
fn endpoints_of_other_nodes_are_none_where_traffic_must_stay() {
    for addresses in [&V4, &V6] {
        let of = |spec| World::new(addresses).service(&spec).endpoints(None, Some(READY));
        of(json!({"internalTrafficPolicy": "Local"})).check(
            "internal",
            &[
                (Pod, ClusterIp, "DROP"),
                (Node, ClusterIp, "DROP"),
                (External, ClusterIp, "DROP"),
                (Pod, LoadBalancer, "remote+"),
                (External, NodePort, "remote+"),
            ],
        );
        of(json!({"externalTrafficPolicy": "Local"})).check(
            "external",
            &[
                (Pod, ClusterIp, "remote-"),
                (Node, ClusterIp, "remote+"),
                (Pod, NodePort, "remote-"),
                (Pod, LoadBalancer, "remote-"),
                (Node, NodePort, "remote+"),
                (Node, LoadBalancer, "remote+"),
                (Localhost, NodePort, "remote+"),
                (External, NodePort, "DROP"),
                (External, LoadBalancer, "DROP"),
                (External, ExternalIp, "DROP"),
            ],
        );
    }
}

/// Conditions of the endpoint here and of the one elsewhere; what becomes of a pod that goes to the
/// cluster IP, and of a stranger that goes to the load balancer or the node port.
type Row = (Option<[bool; 3]>, Option<[bool; 3]>, [&'static str; 2]);

fn check_terminating(policy: &str, rows: &[Row]) {
    for addresses in [&V4, &V6] {
        for (local, remote, [pod, external]) in rows {
            let world = World::new(addresses)
                .service(&json!({"externalTrafficPolicy": policy}))
                .endpoints(*local, *remote);
            let title = format!("{policy}, {local:?}, {remote:?}");
            world.check(
                &title,
                &[
                    (Pod, ClusterIp, pod),
                    (External, LoadBalancer, external),
                    (External, NodePort, external),
                ],
            );
        }
    }
}

#[test]
fn terminating_endpoints_serve_when_there_are_no_others_with_policy_cluster() {
    check_terminating(
        "Cluster",
        &[
            (Some(READY), Some(READY), ["all-", "all+"]),
            (Some(READY), Some(LEAVING), ["local-", "local+"]),
            (Some(LEAVING), Some(READY), ["remote-", "remote+"]),
            (Some(LEAVING), Some(LEAVING), ["all-", "all+"]),
            (Some(LEAVING), Some(GONE), ["local-", "local+"]),
            (None, Some(LEAVING), ["remote-", "remote+"]),
            (Some(GONE), Some(GONE), ["REJECT", "REJECT"]),
            (None, None, ["REJECT", "REJECT"]),
        ],
    );
}

#[test]
fn terminating_endpoints_serve_when_there_are_no_others_with_policy_local() {
    check_terminating(
        "Local",
        &[
            (Some(READY), Some(READY), ["all-", "local-"]),
            (Some(READY), Some(LEAVING), ["local-", "local-"]),
            // Each list falls back by itself: here the last one on its way out, there the ready one.
            (Some(LEAVING), Some(READY), ["remote-", "local-"]),
            (Some(LEAVING), Some(LEAVING), ["all-", "local-"]),
            (Some(GONE), Some(READY), ["remote-", "DROP"]),
            (None, Some(LEAVING), ["remote-", "DROP"]),
            (Some(GONE), Some(GONE), ["REJECT", "REJECT"]),
            (None, None, ["REJECT", "REJECT"]),
        ],
    );
}

#[test]
fn a_pod_that_is_sent_to_itself_is_masqueraded_and_only_then() {
    for addresses in [&V4, &V6] {
        let world = World::new(addresses)
            .service(&json!({}))
            .endpoints(Some(READY), Some(READY));
        let mut packet = world.packet(Pod, ClusterIp);
        packet.source = ip(addresses.local);
        let trace = trace(&world.rules(), &world.facts, &packet);
        assert_eq!(trace.outcomes.len(), 2);
        for outcome in &trace.outcomes {
            let to_itself = outcome.destination.unwrap().ip() == packet.source;
            assert_eq!(outcome.masqueraded, to_itself, "{outcome:?}");
            assert!((outcome.probability - 0.5).abs() < 1e-9);
        }
    }
}

#[test]
fn affinity_keeps_a_client_where_it_is_remembered() {
    for addresses in [&V4, &V6] {
        let world = World::new(addresses)
            .service(&json!({"sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local"}))
            .endpoints(Some(READY), Some(READY));
        let mut packet = world.packet(Pod, ClusterIp);
        assert_eq!(world.send(&packet), "all-");
        for (address, expected) in [(addresses.local, "local-"), (addresses.remote, "remote-")] {
            packet.remembered = Some(SocketAddr::new(ip(address), TARGET_PORT));
            assert_eq!(world.send(&packet), expected);
        }
        packet.remembered = Some(SocketAddr::new(ip(addresses.pod), TARGET_PORT));
        assert_eq!(
            world.send(&packet),
            "all-",
            "remembered at an endpoint that is gone"
        );
        // Remembered at one that the policy does not allow: a stranger stays on this node.
        let mut external = world.packet(External, LoadBalancer);
        external.remembered = Some(SocketAddr::new(ip(addresses.remote), TARGET_PORT));
        assert_eq!(world.send(&external), "local-");
    }
}

/// One Service with the same port for three protocols, and another one.
fn protocols() -> World {
    let ports = json!([
        {"name": "http", "port": 80, "protocol": "TCP"},
        {"name": "dns", "port": 80, "protocol": "UDP"},
        {"name": "tel", "port": 80, "protocol": "SCTP"},
        {"name": "tcp-only", "port": 90, "protocol": "TCP"},
    ]);
    let slice = |service: &str, address: &str, ports| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{service}-y"), "namespace": "ns",
                         "labels": {"kubernetes.io/service-name": service}},
            "ports": ports, "endpoints": [{"addresses": [address]}]})
    };
    let target_ports = json!([
        {"name": "http", "port": 8001, "protocol": "TCP"},
        {"name": "dns", "port": 8002, "protocol": "UDP"},
        {"name": "tel", "port": 8003, "protocol": "SCTP"},
        {"name": "tcp-only", "port": 8004, "protocol": "TCP"},
    ]);
    World::new(&V4)
        .service(&json!({"type": "ClusterIP", "externalIPs": [], "ports": ports}))
        .item(slice("web", V4.local, target_ports))
        .item(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "other", "namespace": "ns"},
            "spec": {"clusterIP": "172.30.0.42", "ports": [{"port": 70}]}}),
        )
        .item(slice(
            "other",
            V4.remote,
            json!([{"name": "", "port": 7000, "protocol": "TCP"}]),
        ))
}

#[test]
fn a_protocol_and_a_port_are_matched_together() {
    let world = protocols();
    let rules = world.rules();
    let table = [
        (Protocol::Tcp, "172.30.0.41:80", Some("10.180.0.1:8001")),
        (Protocol::Udp, "172.30.0.41:80", Some("10.180.0.1:8002")),
        (Protocol::Sctp, "172.30.0.41:80", Some("10.180.0.1:8003")),
        (Protocol::Tcp, "172.30.0.41:90", Some("10.180.0.1:8004")),
        (Protocol::Udp, "172.30.0.41:90", None),
        (Protocol::Tcp, "172.30.0.41:70", None),
        (Protocol::Tcp, "172.30.0.42:70", Some("10.180.1.1:7000")),
        (Protocol::Tcp, "172.30.0.42:80", None),
        (Protocol::Tcp, "172.30.0.42:7000", None),
    ];
    for (protocol, to, expected) in table {
        let mut packet = packet(V4.pod, Some("cni0"), to);
        packet.protocol = protocol.into();
        let trace = trace(&rules, &world.facts, &packet);
        let [outcome] = trace.outcomes.as_slice() else {
            panic!("{to}: {trace:?}");
        };
        assert_eq!(outcome.verdict, Verdict::Accept);
        assert_eq!(
            outcome.destination,
            expected.map(|to| to.parse().unwrap()),
            "{protocol:?} {to}"
        );
        let lost: f64 = if expected.is_none() { 1.0 } else { 0.0 };
        assert!((trace.falls_through - lost).abs() < 1e-9, "{protocol:?} {to}");
        assert_eq!(trace.nearest.is_some(), expected.is_none());
    }
}

#[test]
fn a_service_without_a_virtual_ip_has_no_flow() {
    for change in [
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"type": "ExternalName"}),
    ] {
        let world = World::new(&V4)
            .service(&change)
            .endpoints(Some(READY), Some(READY));
        world.check(
            "no virtual IP",
            &[
                (Pod, ClusterIp, "untouched"),
                (External, NodePort, "untouched"),
                (External, LoadBalancer, "untouched"),
            ],
        );
    }
}
