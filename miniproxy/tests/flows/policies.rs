//! Traffic policies, detectors of local traffic, and masqueradeAll: who is sent where, and masqueraded.

use miniproxy::model::LocalDetector;
use serde_json::{Value, json};

use crate::world::{From, READY, To, V4, V6, World};
use From::{External, Localhost, Node, Pod};
use To::{ClusterIp, ExternalIp, LoadBalancer, LocalhostNodePort, NodePort};

/// A flow, and what becomes of it with a detector, without, with masqueradeAll, with both of these.
type Row = (From, To, [&'static str; 4]);

const CLUSTER: [Row; 14] = [
    (Pod, ClusterIp, ["all-", "all-", "all+", "all+"]),
    (Pod, NodePort, ["all+"; 4]),
    (Pod, LoadBalancer, ["all+"; 4]),
    (Pod, ExternalIp, ["all+"; 4]),
    (Node, ClusterIp, ["all+", "all-", "all+", "all+"]),
    (Node, NodePort, ["all+"; 4]),
    (Node, LoadBalancer, ["all+"; 4]),
    (Node, ExternalIp, ["all+"; 4]),
    (Localhost, NodePort, ["all+"; 4]),
    (Localhost, LoadBalancer, ["all+"; 4]),
    (External, ClusterIp, ["all+", "all-", "all+", "all+"]),
    (External, NodePort, ["all+"; 4]),
    (External, LoadBalancer, ["all+"; 4]),
    (External, ExternalIp, ["all+"; 4]),
];

const EXTERNAL_LOCAL: [Row; 14] = [
    (Pod, ClusterIp, ["all-", "all-", "all+", "all+"]),
    // Without a detector a pod is nothing but a stranger.
    (Pod, NodePort, ["all-", "local-", "all-", "local-"]),
    (Pod, LoadBalancer, ["all-", "local-", "all-", "local-"]),
    (Pod, ExternalIp, ["all-", "local-", "all-", "local-"]),
    (Node, ClusterIp, ["all+", "all-", "all+", "all+"]),
    (Node, NodePort, ["all+"; 4]),
    (Node, LoadBalancer, ["all+"; 4]),
    (Node, ExternalIp, ["all+"; 4]),
    (Localhost, NodePort, ["all+"; 4]),
    (Localhost, LoadBalancer, ["all+"; 4]),
    (External, ClusterIp, ["all+", "all-", "all+", "all+"]),
    (External, NodePort, ["local-"; 4]),
    (External, LoadBalancer, ["local-"; 4]),
    (External, ExternalIp, ["local-"; 4]),
];

const INTERNAL_LOCAL: [Row; 14] = [
    (Pod, ClusterIp, ["local-", "local-", "local+", "local+"]),
    (Pod, NodePort, ["all+"; 4]),
    (Pod, LoadBalancer, ["all+"; 4]),
    (Pod, ExternalIp, ["all+"; 4]),
    (Node, ClusterIp, ["local+", "local-", "local+", "local+"]),
    (Node, NodePort, ["all+"; 4]),
    (Node, LoadBalancer, ["all+"; 4]),
    (Node, ExternalIp, ["all+"; 4]),
    (Localhost, NodePort, ["all+"; 4]),
    (Localhost, LoadBalancer, ["all+"; 4]),
    (External, ClusterIp, ["local+", "local-", "local+", "local+"]),
    (External, NodePort, ["all+"; 4]),
    (External, LoadBalancer, ["all+"; 4]),
    (External, ExternalIp, ["all+"; 4]),
];

const BOTH_LOCAL: [Row; 6] = [
    (Pod, ClusterIp, ["local-", "local-", "local+", "local+"]),
    (Pod, LoadBalancer, ["all-", "local-", "all-", "local-"]),
    (Node, ClusterIp, ["local+", "local-", "local+", "local+"]),
    (Node, NodePort, ["all+"; 4]),
    (External, ClusterIp, ["local+", "local-", "local+", "local+"]),
    (External, LoadBalancer, ["local-"; 4]),
];

fn check(spec: &Value, rows: &[Row]) {
    for addresses in [&V4, &V6] {
        let by_interface = LocalDetector::Interface("cni+".into());
        let by_address = World::new(addresses).config.local_detector;
        let configurations = [
            (by_address.clone(), false, 0),
            // Telling pods by their interface changes nothing.
            (by_interface.clone(), false, 0),
            (LocalDetector::None, false, 1),
            (by_address, true, 2),
            (by_interface, true, 2),
            (LocalDetector::None, true, 3),
        ];
        for (detector, masquerade_all, column) in configurations {
            let title = format!("{detector:?}, masqueradeAll {masquerade_all}");
            let world = World::new(addresses)
                .service(spec)
                .endpoints(Some(READY), Some(READY))
                .configured(|config| {
                    config.local_detector = detector;
                    config.masquerade_all = masquerade_all;
                });
            let table: Vec<(From, To, &str)> = rows
                .iter()
                .map(|(from, to, columns)| (*from, *to, columns[column]))
                .collect();
            world.check(&title, &table);
        }
    }
}

#[test]
fn policy_cluster_sends_everywhere_and_masquerades_what_comes_from_outside() {
    check(&json!({}), &CLUSTER);
}

#[test]
fn external_traffic_policy_local_keeps_strangers_on_this_node_unmasqueraded() {
    check(&json!({"externalTrafficPolicy": "Local"}), &EXTERNAL_LOCAL);
}

#[test]
fn internal_traffic_policy_local_keeps_cluster_ip_traffic_on_this_node() {
    check(&json!({"internalTrafficPolicy": "Local"}), &INTERNAL_LOCAL);
}

#[test]
fn both_policies_local_at_once() {
    let spec = json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"});
    check(&spec, &BOTH_LOCAL);
}

#[test]
fn localhost_reaches_node_ports_on_loopback_in_ipv4_only() {
    for (policy, v4) in [("Cluster", "all+"), ("Local", "all+")] {
        let spec = json!({"externalTrafficPolicy": policy});
        for (addresses, expected) in [(&V4, v4), (&V6, "untouched")] {
            let world = World::new(addresses)
                .service(&spec)
                .endpoints(Some(READY), Some(READY));
            world.check(policy, &[(Localhost, LocalhostNodePort, expected)]);
        }
    }
}

#[test]
fn the_external_policy_counts_for_external_ips_without_node_ports() {
    let spec = json!({"type": "ClusterIP", "externalTrafficPolicy": "Local",
        "ports": [{"name": "http", "port": 80}]});
    let world = World::new(&V4).service(&spec).endpoints(Some(READY), Some(READY));
    world.check(
        "an external IP is from outside",
        &[(External, ExternalIp, "local-")],
    );
}
