//! The Kubernetes objects that a lab publishes in its registry.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStatus, Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, Pod as PodObject, PodCondition,
    PodIP, PodSpec, PodStatus, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

use super::address;
use super::container::{APP, ContainerSpec};
use super::ledger::{Lab, Pod};
use super::name;

/// The file of the first Service, which is the people's from then on.
pub const SERVICE_FILE: &str = "web.service.json";

/// What the containers are said to be made of.
const IMAGE: &str = "netns-lab";

/// The file of a node.
pub fn node_file(lab: &Lab) -> String {
    format!("{}.node.json", lab.node)
}

/// The file of a pod.
pub fn pod_file(pod: &Pod) -> String {
    format!("{}.pod.json", pod.spec.name)
}

/// The lab's Node object, as the text of its file.
pub fn node(lab: &Lab) -> Vec<u8> {
    let address = |kind: &str, address: String| NodeAddress {
        type_: kind.into(),
        address,
    };
    text(&Node {
        metadata: ObjectMeta {
            name: Some(lab.node.to_string()),
            labels: Some(BTreeMap::from([(
                "kubernetes.io/hostname".into(),
                lab.node.to_string(),
            )])),
            ..Default::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: Some(lab.pod_cidr.trunc().to_string()),
            pod_cidrs: Some(vec![lab.pod_cidr.trunc().to_string()]),
            ..Default::default()
        }),
        status: Some(NodeStatus {
            addresses: Some(vec![
                address("InternalIP", address::bridge_address(lab.pod_cidr).to_string()),
                address("Hostname", lab.node.to_string()),
            ]),
            conditions: Some(vec![NodeCondition {
                type_: "Ready".into(),
                status: "True".into(),
                ..Default::default()
            }]),
            ..Default::default()
        }),
    })
}

/// A pod's object, as the text of its file.
pub fn pod(lab: &Lab, pod: &Pod, ready: bool) -> Vec<u8> {
    let labels = pod.spec.labels.iter();
    let labels: BTreeMap<_, _> = labels
        .map(|(key, value)| (key.as_str().to_string(), value.as_str().to_string()))
        .collect();
    text(&PodObject {
        metadata: ObjectMeta {
            name: Some(pod.spec.name.to_string()),
            namespace: Some(name::object_namespace(&lab.name).into()),
            labels: (!labels.is_empty()).then_some(labels),
            ..Default::default()
        },
        spec: Some(PodSpec {
            node_name: Some(lab.node.to_string()),
            containers: containers(pod),
            ..Default::default()
        }),
        status: Some(status(lab, pod, ready)),
    })
}

/// A pod that runs nothing has a container all the same, for Kubernetes knows no pod without.
fn containers(pod: &Pod) -> Vec<Container> {
    let of = |name: String, spec: Option<&ContainerSpec>| {
        let ports = spec.map(|spec| {
            let ports = spec.ports.iter().map(|port| ContainerPort {
                name: Some(port.name.as_str().into()),
                container_port: i32::from(port.container_port.get()),
                protocol: Some(port.protocol.name().into()),
                ..Default::default()
            });
            ports.collect()
        });
        Container {
            name,
            image: Some(IMAGE.into()),
            command: spec
                .map(|spec| spec.command.clone())
                .filter(|command| !command.is_empty()),
            ports,
            ..Default::default()
        }
    };
    let specs = pod.containers();
    if specs.is_empty() {
        return vec![of(APP.into(), None)];
    }
    let each = specs.iter().map(|spec| of(spec.name.to_string(), Some(spec)));
    each.collect()
}

fn status(lab: &Lab, pod: &Pod, ready: bool) -> PodStatus {
    let condition = |kind: &str| PodCondition {
        type_: kind.into(),
        status: if ready { "True" } else { "False" }.into(),
        reason: (!ready).then(|| "ContainersNotReady".into()),
        ..Default::default()
    };
    let state = if ready {
        ContainerState {
            running: Some(ContainerStateRunning::default()),
            ..Default::default()
        }
    } else {
        ContainerState {
            terminated: Some(ContainerStateTerminated {
                reason: Some("Error".into()),
                ..Default::default()
            }),
            ..Default::default()
        }
    };
    let statuses = containers(pod).into_iter().map(|container| ContainerStatus {
        name: container.name,
        image: IMAGE.into(),
        ready,
        started: Some(ready),
        state: Some(state.clone()),
        ..Default::default()
    });
    PodStatus {
        phase: Some("Running".into()),
        host_ip: Some(address::bridge_address(lab.pod_cidr).to_string()),
        pod_ip: Some(pod.ip.to_string()),
        pod_ips: Some(vec![PodIP {
            ip: pod.ip.to_string(),
        }]),
        conditions: Some(vec![condition("Ready"), condition("ContainersReady")]),
        container_statuses: Some(statuses.collect()),
        ..Default::default()
    }
}

/// The first Service: `web`, port 80 to 8080 of the pods labelled `app=web`.
pub fn first_service(lab: &Lab) -> Option<Vec<u8>> {
    let ip = address::first_service(lab.service_cidr)?.to_string();
    Some(text(&Service {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some(name::object_namespace(&lab.name).into()),
            ..Default::default()
        },
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            cluster_ip: Some(ip.clone()),
            cluster_ips: Some(vec![ip]),
            selector: Some(BTreeMap::from([("app".into(), "web".into())])),
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                protocol: Some("TCP".into()),
                port: 80,
                target_port: Some(IntOrString::Int(8080)),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        ..Default::default()
    }))
}

/// Whether a file of a registry holds a Service, alone or in a list.
pub fn holds_a_service(file: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(file) else {
        return false;
    };
    let is_service = |value: &serde_json::Value| value["kind"] == "Service";
    is_service(&value)
        || value["items"]
            .as_array()
            .is_some_and(|items| items.iter().any(is_service))
}

fn text(object: &impl Serialize) -> Vec<u8> {
    // These types hold no map with keys that are not text, the one thing that could fail here.
    let mut text = serde_json::to_vec_pretty(object).unwrap_or_default();
    text.push(b'\n');
    text
}
