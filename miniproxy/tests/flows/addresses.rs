//! Load balancers and external IPs: who may come, and which of them are this node's business.

use serde_json::json;

use crate::world::{From, READY, To, V4, V6, World, packet};
use From::{External, Node, Pod};
use To::{ClusterIp, ExternalIp, LoadBalancer, NodePort};

const SECOND: &str = "198.51.100.5:80";

/// A Service with two virtual IPs and two ranges, one of them the node's own (and badly spaced).
fn guarded() -> World {
    let world = World::new(&V4);
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": V4.cluster_ip, "externalIPs": [V4.external_ip],
        "loadBalancerSourceRanges": [" 203.0.113.0/25", "192.168.0.0/24"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30_080}],
    });
    world
        .item(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "ns"}, "spec": spec,
            "status": {"loadBalancer": {"ingress": [{"ip": V4.balancer}, {"ip": "198.51.100.5"}]}},
        }))
        .endpoints(Some(READY), Some(READY))
}

#[test]
fn source_ranges_guard_load_balancers_and_nothing_else() {
    let world = guarded();
    world.check(
        "source ranges",
        &[
            (Pod, ClusterIp, "all-"),
            (External, NodePort, "all+"),
            (External, ExternalIp, "all+"),
            (External, LoadBalancer, "all+"),
            (Node, LoadBalancer, "all+"),
            (Pod, LoadBalancer, "DROP"),
        ],
    );
    let first = format!("{}:80", V4.balancer);
    let table = [
        ("203.0.113.1", Some("eth0"), "all+"),
        ("203.0.113.127", Some("eth0"), "all+"),
        ("203.0.113.128", Some("eth0"), "DROP"),
        (V4.pod, Some("cni0"), "DROP"),
        (V4.node, None, "all+"),
    ];
    for (source, arriving, expected) in table {
        for to in [first.as_str(), SECOND] {
            assert_eq!(
                world.send(&packet(source, arriving, to)),
                expected,
                "{source} → {to}"
            );
        }
    }
    // The node calls itself through the balancer's address, which is then its source, too.
    for (source, to) in [(V4.balancer, first.as_str()), ("198.51.100.5", SECOND)] {
        assert_eq!(world.send(&packet(source, None, to)), "all+", "{source} → {to}");
    }
    let mut blocked_port = packet("203.0.113.128", Some("eth0"), &first);
    blocked_port.port = 81;
    assert_eq!(
        world.send(&blocked_port),
        "lost",
        "the firewall is for the Service's port"
    );
}

#[test]
fn a_range_without_the_node_keeps_the_node_out() {
    let spec = json!({"loadBalancerSourceRanges": ["203.0.113.0/25"]});
    let world = World::new(&V4).service(&spec).endpoints(Some(READY), Some(READY));
    world.check(
        "a range of strangers",
        &[
            (External, LoadBalancer, "all+"),
            (Node, LoadBalancer, "DROP"),
            (Node, NodePort, "all+"),
        ],
    );
    let itself = packet(V4.balancer, None, &format!("{}:80", V4.balancer));
    assert_eq!(world.send(&itself), "DROP");
}

#[test]
fn ranges_of_one_family_do_not_guard_the_other() {
    for (addresses, expected) in [(&V4, "DROP"), (&V6, "all+")] {
        let spec = json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]});
        let world = World::new(addresses)
            .service(&spec)
            .endpoints(Some(READY), Some(READY));
        world.check("ranges of IPv4 only", &[(External, LoadBalancer, expected)]);
    }
}

#[test]
fn ranges_and_external_traffic_policy_local_together() {
    let spec = json!({"loadBalancerSourceRanges": ["203.0.113.0/25"], "externalTrafficPolicy": "Local"});
    let both = World::new(&V4).service(&spec).endpoints(Some(READY), Some(READY));
    both.check(
        "local",
        &[
            (External, LoadBalancer, "local-"),
            (External, NodePort, "local-"),
            (Pod, LoadBalancer, "DROP"),
            (Pod, NodePort, "all-"),
        ],
    );
    let remote = World::new(&V4).service(&spec).endpoints(None, Some(READY));
    remote.check(
        "none here",
        &[(External, LoadBalancer, "DROP"), (Pod, ClusterIp, "remote-")],
    );
    let none = World::new(&V4).service(&spec);
    none.check(
        "none",
        &[(External, LoadBalancer, "REJECT"), (Pod, LoadBalancer, "REJECT")],
    );
}

#[test]
fn ip_mode_proxy_leaves_the_traffic_to_the_balancer() {
    for (mode, expected) in [("VIP", "all+"), ("Proxy", "untouched")] {
        let world = World::new(&V4)
            .item(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "ns"},
                "spec": {"type": "LoadBalancer", "clusterIP": V4.cluster_ip,
                    "ports": [{"name": "http", "port": 80, "nodePort": 30_080}]},
                "status": {"loadBalancer": {"ingress": [{"ip": V4.balancer, "ipMode": mode}]}},
            }))
            .endpoints(Some(READY), Some(READY));
        world.check(
            mode,
            &[
                (Pod, LoadBalancer, expected),
                (External, LoadBalancer, expected),
                (External, NodePort, "all+"),
            ],
        );
    }
}
