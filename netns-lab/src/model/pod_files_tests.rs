use serde_json::{Value, json};

use super::*;
use crate::dns::store::Store;
use crate::model::ledger::VERSION;
use crate::model::samples;

fn names(objects: &[Value]) -> Names {
    let mut store = Store::default();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    store.update("all.json", Some(list.to_string().as_bytes()));
    Names::new(&store.objects())
}

fn service(name: &str, namespace: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": ip, "selector": {"app": "web"}, "ports": [{"port": 80}]}})
}

/// Two pods, web-1 and web-2, of the default lab.
fn lab() -> Ledger {
    let pod = |number: u8| {
        json!({"pod": {"name": format!("web-{number}"), "labels": {"app": "web"},
            "node": "node-1", "ip": format!("10.244.0.{}", number + 1), "namespace": "x", "interface": "x"}})
    };
    serde_json::from_value(json!({
        "version": VERSION, "nodeNamespace": 1, "iptables": "/bin/true", "pods": [pod(1), pod(2)],
        "lab": samples::lab(),
    }))
    .unwrap()
}

fn text(names: &Names) -> String {
    let ledger = lab();
    let files = all(&ledger, &ledger.pods[0].pod, names);
    let parts: Vec<_> = files
        .iter()
        .map(|(name, text)| {
            format!(
                "--- {name}
{text}"
            )
        })
        .collect();
    parts.concat()
}

#[test]
fn without_a_server_services_are_in_hosts() {
    let ready = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-2", "labels": {"app": "web"}},
        "status": {"podIP": "10.244.0.3", "conditions": [{"type": "Ready", "status": "True"}]}});
    let objects = [
        service("web", "default", "10.96.0.80"),
        service("shop", "other", "10.96.0.90"),
        service("pods", "default", "None"),
        service("web-2", "default", "10.96.0.91"),
        service("evil\n1.2.3.4 x", "default", "10.96.0.92"),
        ready,
    ];
    insta::assert_snapshot!(text(&names(&objects)));
}

#[test]
fn with_a_server_it_is_asked() {
    let objects = [
        service("web", "default", "10.96.0.80"),
        service("kube-dns", "kube-system", "10.96.0.10"),
    ];
    insta::assert_snapshot!(text(&names(&objects)));
}
