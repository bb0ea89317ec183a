//! Kubernetes objects for tests, and their way into a lab's registry.

use serde_json::{Value, json};

use crate::machine::Machine;

/// Where the first lab keeps its registry.
pub const REGISTRY: &str = "/run/netns-lab/lab/registry";

/// One port of a Service: name, protocol, port, target port.
pub type Port<'a> = (&'a str, &'a str, u16, Value);

/// A ClusterIP Service over the pods with `app=APP`.
pub fn service(name: &str, address: &str, app: &str, ports: &[Port<'_>]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(name, protocol, port, target)| {
            json!({ "name": name, "protocol": protocol, "port": port, "targetPort": target })
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "selector": { "app": app },
            "ports": ports,
        },
    })
}

/// The same Service without a selector: its endpoints are what EndpointSlices say.
pub fn headless_of_selector(mut service: Value) -> Value {
    service["spec"]
        .as_object_mut()
        .expect("a Service")
        .remove("selector");
    service
}

/// An EndpointSlice of a Service: one ready endpoint for each address, one port.
pub fn slice(name: &str, service: &str, addresses: &[&str], port: (&str, &str, u16)) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({ "addresses": [address], "conditions": { "ready": true } }))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": port.0, "protocol": port.1, "port": port.2 }],
    })
}

/// Replaces a file of the lab's registry in one step, as `mv` does.
#[track_caller]
pub fn publish(machine: &Machine, name: &str, object: &Value) {
    let script = format!("cat > {REGISTRY}/.{name}.new; mv {REGISTRY}/.{name}.new {REGISTRY}/{name}.json");
    machine
        .command(["sh", "-euc", &script])
        .input(&serde_json::to_string_pretty(object).expect("a JSON value"))
        .run()
        .ok();
}
