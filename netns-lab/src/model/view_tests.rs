use serde_json::json;

use super::*;

fn look(now: &Time) -> Look<'_> {
    Look {
        now,
        wide: false,
        namespaces: false,
        kinds: false,
        labels: false,
        headers: true,
    }
}

fn objects() -> Vec<(Kind, Vec<Value>)> {
    let made = "2026-01-01T00:00:00Z";
    let service = |name: &str, spec: Value| {
        json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "creationTimestamp": made}, "spec": spec})
    };
    let mut balancer = service(
        "front",
        json!({"type": "LoadBalancer", "clusterIP": "10.96.1.2",
        "ports": [{"port": 80, "nodePort": 30_086, "protocol": "TCP"}]}),
    );
    let pending = balancer.clone();
    balancer["status"] = json!({"loadBalancer": {"ingress": [{"ip": "172.18.255.1"}]}});
    let services = vec![
        service(
            "web",
            json!({"type": "ClusterIP", "clusterIP": "10.96.0.80", "selector": {"app": "web"},
            "ports": [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
        ),
        balancer,
        pending,
        service(
            "db",
            json!({"type": "ExternalName", "externalName": "db.example.com"}),
        ),
        service("\u{1b}[31mred", json!({"clusterIP": "None"})),
    ];
    let pod = |name: &str, ready: bool, state: Value| {
        json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": "node-1", "containers": [{"name": "app"}]},
        "status": {"phase": "Running", "podIP": "10.244.0.2", "containerStatuses": [{"name": "app",
            "ready": ready, "restartCount": 2, "image": "", "imageID": "", "state": state}]}})
    };
    let pods = vec![
        pod("web-1", true, json!({"running": {}})),
        pod(
            "web-2",
            false,
            json!({"terminated": {"reason": "Error", "exitCode": 1}}),
        ),
    ];
    let nodes = vec![
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.244.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}]}}),
    ];
    let slices = vec![
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-x"}, "addressType": "IPv4", "ports": [{"port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]},
            {"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.4"]}]}),
    ];
    let deployments = vec![
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "template": {"spec": {"containers": [{"name": "app", "image": "nginx"}]}}},
        "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2}}),
    ];
    vec![
        (Kind::Node, nodes),
        (Kind::Deployment, deployments),
        (Kind::Pod, pods),
        (Kind::Service, services),
        (Kind::EndpointSlice, slices),
    ]
}

#[test]
fn columns_are_those_of_kubectl() {
    let now = Time("2026-01-01T00:03:10Z".parse().unwrap());
    let mut text = String::new();
    for (kind, objects) in objects() {
        let objects: Vec<&Value> = objects.iter().collect();
        let wide = Look {
            wide: true,
            namespaces: true,
            kinds: true,
            ..look(&now)
        };
        text.push_str(&format!("{}\n", table(kind, &objects, look(&now))));
        text.push_str(&format!("{}\n", table(kind, &objects, wide)));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn ages_are_told_as_kubectl_tells_them() {
    for (seconds, words) in [
        (-3, "0s"),
        (119, "119s"),
        (120, "2m"),
        (190, "3m10s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (25_920, "7h12m"),
        (28_800, "8h"),
        (172_800, "2d"),
        (270_000, "3d3h"),
        (1_036_800, "12d"),
    ] {
        assert_eq!(duration(seconds), words);
    }
}

#[test]
fn labels_can_be_shown_and_titles_left_out() {
    let now = Time("2026-01-01T00:00:05Z".parse().unwrap());
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": []},
        "metadata": {"name": "web-1", "labels": {"app": "web", "tier": "front"}}});
    let look = Look {
        labels: true,
        headers: false,
        ..look(&now)
    };
    let text = table(Kind::Pod, &[&pod], look);
    assert!(
        text.starts_with("web-1") && text.ends_with("app=web,tier=front\n"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn an_address_is_never_broken() {
    let now = Time("2026-01-01T00:00:05Z".parse().unwrap());
    let ips: Vec<_> = (1..9).map(|number| format!("203.0.113.{number}")).collect();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.96.0.80", "externalIPs": ips, "ports": []}});
    let text = table(Kind::Service, &[&service], look(&now));
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains(&ips.join(",")), "{text}");
}
