//! The store after any updates holds what a fresh reading of the same files holds, and names what changed.

use std::collections::BTreeMap;

use miniproxy::config::{Compat, Settings};
use miniproxy::node::{Host, NodeOptions};
use miniproxy::registry::model::service_ports;
use miniproxy::registry::store::Store;
use miniproxy::registry::{Registry, SourceFile};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A file with one object; few names and addresses, so that they clash.
fn object() -> impl Strategy<Value = Value> {
    let service = (0_u8..4, 0_u8..4, any::<bool>()).prop_map(|(name, ip, selects)| {
        let mut spec = json!({"clusterIP": format!("10.96.0.{ip}"),
            "ports": [{"name": "p", "protocol": "TCP", "port": 80, "targetPort": 80}]});
        if selects {
            spec["selector"] = json!({"app": "a"});
        }
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{name}")}, "spec": spec})
    });
    let slice = (0_u8..4, 0_u8..4, 1_u8..5).prop_map(|(name, service, ip)| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("e{name}"), "labels": {"kubernetes.io/service-name": format!("s{service}")}},
            "endpoints": [{"addresses": [format!("10.0.0.{ip}")]}],
            "ports": [{"name": "p", "protocol": "TCP", "port": 80}]})
    });
    let pod = (0_u8..3, 1_u8..9, any::<bool>()).prop_map(|(name, ip, labelled)| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("p{name}"), "labels": {"app": if labelled { "a" } else { "b" }}},
            "spec": {"containers": []},
            "status": {"podIP": format!("10.1.0.{ip}"), "conditions": [{"type": "Ready", "status": "True"}]}})
    });
    prop_oneof![service, slice, pod]
}

fn source(path: u8, object: &Value) -> SourceFile {
    SourceFile {
        path: format!("{path}.json"),
        bytes: object.to_string().into_bytes(),
    }
}

/// A file that was only touched, or whose slice was stamped anew, changes nothing; one slice is one change.
#[test]
fn what_says_the_same_as_before_is_no_change() {
    let slice = |ip: u8, stamp: &str| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "e", "labels": {"kubernetes.io/service-name": "s"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": stamp}},
            "endpoints": [{"addresses": [format!("10.0.0.{ip}")]}],
            "ports": [{"name": "p", "protocol": "TCP", "port": 80}]})
    };
    let mut store = Store::default();
    let mut counts = |object: &Value| {
        let touched = store.update(&[source(0, object)], &[]);
        (
            touched.slice_objects,
            touched.triggers.len(),
            touched.services.len(),
        )
    };
    assert_eq!(counts(&slice(1, "2026-01-01T00:00:00Z")), (1, 1, 1));
    assert_eq!(counts(&slice(1, "2026-01-01T00:00:00Z")), (0, 0, 0));
    assert_eq!(counts(&slice(1, "2026-01-02T00:00:00Z")), (0, 0, 0));
    assert_eq!(counts(&slice(2, "2026-01-03T00:00:00Z")), (1, 1, 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn updates_come_to_what_a_fresh_reading_comes_to(
        updates in prop::collection::vec((0_u8..6, prop::option::weighted(0.8, object())), 1..20)
    ) {
        let node = NodeOptions { settings: Settings::defaults(Compat::V1_30), host: Host::default() };
        let mut store = Store::default();
        let mut files: BTreeMap<u8, Value> = BTreeMap::new();
        let ports = |registry: &Registry| -> BTreeMap<_, _> {
            let config = node.config(registry, labkit::xtables::Family::V4);
            registry.services.keys().map(|key| (key.clone(), service_ports(registry, key, &config))).collect()
        };
        for (path, object) in updates {
            let before = ports(store.registry());
            let touched = match object {
                Some(object) => {
                    let file = source(path, &object);
                    files.insert(path, object);
                    store.update(&[file], &[])
                }
                None => {
                    files.remove(&path);
                    store.update(&[], &[format!("{path}.json")])
                }
            };
            let after = ports(store.registry());
            for key in before.keys().chain(after.keys()) {
                if before.get(key) != after.get(key) {
                    prop_assert!(touched.services.contains(key), "{key:?} changed and was not named: {touched:?}");
                }
            }
            let sources: Vec<SourceFile> = files.iter().map(|(path, object)| source(*path, object)).collect();
            match Registry::read(&sources) {
                Ok(fresh) => {
                    prop_assert!(store.problems().is_empty());
                    prop_assert_eq!(ports(&fresh), after);
                }
                // Objects that clash: the same ones are refused, whatever was in force before.
                Err(problems) => prop_assert_eq!(problems.len(), store.problems().len()),
            }
        }
    }
}
