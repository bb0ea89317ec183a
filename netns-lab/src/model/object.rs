//! The Kubernetes objects that a lab publishes in its registry.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Node as NodeObject, NodeAddress, NodeCondition, NodeSpec,
    NodeStatus, Pod as PodObject, PodCondition, PodIP, PodSpec, PodStatus, ResourceRequirements, Service,
    ServicePort, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

use super::address;
use super::container::{APP, ContainerSpec};
use super::ledger::{Lab, Pod};
use super::life::{ContainerHealth, Health};
use super::name;
use super::name_server;
use super::node::Node;
use super::quantity::{Cpu, Memory};
use super::service::{self, InUse, Pools};

/// The file of the first Service, which is the people's from then on.
pub const SERVICE_FILE: &str = "web.service.json";

/// The annotation of a pod, and of a node that is a network namespace of its own: the path of its
/// name.
pub const NAMESPACE_ANNOTATION: &str = "netns-lab/network-namespace";
/// The annotation of a pod: the end of its cable that is on its node.
pub const INTERFACE_ANNOTATION: &str = "netns-lab/host-interface";
/// What the containers are said to be made of.
const IMAGE: &str = "netns-lab";

/// The file of a node.
pub fn node_file(node: &Node) -> String {
    format!("{}.node.json", node.name())
}

/// The file of a pod.
pub fn pod_file(pod: &Pod) -> String {
    format!("{}.pod.json", pod.spec.name)
}

/// A Node object, as the text of its file.
pub fn node(node: &Node) -> Vec<u8> {
    let name = node.name().to_string();
    let address = |kind: &str, address: String| NodeAddress {
        type_: kind.into(),
        address,
    };
    let ips = std::iter::once(node.ip().to_string()).chain(node.ip6().map(|ip| ip.to_string()));
    let addresses = ips.map(|ip| address("InternalIP", ip));
    let annotation = node
        .machine
        .as_ref()
        .map(|machine| BTreeMap::from([(NAMESPACE_ANNOTATION.to_string(), named_path(&machine.namespace))]));
    let ranges = std::iter::once(node.pod_cidr.trunc().to_string());
    let resources = node_resources(node);
    text(&NodeObject {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(node_labels(node)),
            annotations: annotation,
            ..Default::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: Some(node.pod_cidr.trunc().to_string()),
            pod_cidrs: Some(
                ranges
                    .chain(node.pod_cidr6.map(|range| range.to_string()))
                    .collect(),
            ),
            ..Default::default()
        }),
        status: Some(NodeStatus {
            addresses: Some(addresses.chain([address("Hostname", name)]).collect()),
            allocatable: Some(resources.clone()),
            capacity: Some(resources),
            conditions: Some(vec![NodeCondition {
                type_: "Ready".into(),
                status: "True".into(),
                ..Default::default()
            }]),
            ..Default::default()
        }),
    })
}

/// What was asked for, and what every node has.
fn node_labels(node: &Node) -> BTreeMap<String, String> {
    let said = node.spec.labels.iter();
    let said = said.map(|(key, value)| (key.as_str().to_string(), value.as_str().to_string()));
    let zone = node.spec.zone.as_ref();
    let zone = zone.map(|zone| {
        (
            "topology.kubernetes.io/zone".to_string(),
            zone.as_str().to_string(),
        )
    });
    let hostname = ("kubernetes.io/hostname".to_string(), node.name().to_string());
    said.chain(zone).chain([hostname]).collect()
}

fn node_resources(node: &Node) -> BTreeMap<String, Quantity> {
    let pods = ("pods".to_string(), Quantity(node.max_pods().to_string()));
    std::iter::once(pods)
        .chain(resources(node.spec.cpu, node.spec.memory))
        .collect()
}

fn resources(cpu: Option<Cpu>, memory: Option<Memory>) -> impl Iterator<Item = (String, Quantity)> {
    let cpu = cpu.map(|cpu| ("cpu".to_string(), Quantity(cpu.to_string())));
    let memory = memory.map(|memory| ("memory".to_string(), Quantity(memory.to_string())));
    cpu.into_iter().chain(memory)
}

/// A pod's object, as the text of its file.
pub fn pod(lab: &Lab, pod: &Pod, health: &Health) -> Vec<u8> {
    let labels = pod.spec.labels.iter();
    let labels: BTreeMap<_, _> = labels
        .map(|(key, value)| (key.as_str().to_string(), value.as_str().to_string()))
        .collect();
    text(&PodObject {
        metadata: ObjectMeta {
            name: Some(pod.spec.name.to_string()),
            namespace: Some(name_server::namespace_of(lab, pod).into()),
            labels: (!labels.is_empty()).then_some(labels),
            annotations: Some(whereabouts(pod)),
            deletion_timestamp: health.terminating.clone(),
            ..Default::default()
        },
        spec: Some(PodSpec {
            node_name: Some(pod.node.to_string()),
            containers: containers(pod, health),
            restart_policy: Some("Always".into()),
            dns_policy: Some("ClusterFirst".into()),
            ..Default::default()
        }),
        status: Some(status(lab, pod, health)),
    })
}

/// Where a pod's end of its cable is, and the other: who reads the registry needs no ledger then.
fn whereabouts(pod: &Pod) -> BTreeMap<String, String> {
    BTreeMap::from([
        (NAMESPACE_ANNOTATION.to_string(), named_path(&pod.namespace)),
        (INTERFACE_ANNOTATION.to_string(), pod.interface.clone()),
    ])
}

fn named_path(namespace: &str) -> String {
    format!("/run/netns/{namespace}")
}

/// A pod that runs nothing has a container all the same, for Kubernetes knows no pod without.
fn containers(pod: &Pod, health: &Health) -> Vec<Container> {
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
    let specs = [pod.containers(), health.added.clone()].concat();
    if specs.is_empty() {
        let mut only = vec![of(APP.into(), None)];
        ask_for(&mut only, pod);
        return only;
    }
    let each = specs.iter().map(|spec| of(spec.name.to_string(), Some(spec)));
    let mut all: Vec<_> = each.collect();
    ask_for(&mut all, pod);
    all
}

/// What a pod asks for, its first container asks for.
fn ask_for(containers: &mut [Container], pod: &Pod) {
    let requests: BTreeMap<_, _> = resources(pod.spec.cpu, pod.spec.memory).collect();
    if let Some(first) = containers.first_mut().filter(|_| !requests.is_empty()) {
        first.resources = Some(ResourceRequirements {
            requests: Some(requests),
            ..Default::default()
        });
    }
}

fn status(lab: &Lab, pod: &Pod, health: &Health) -> PodStatus {
    let ready = health.is_ready();
    let condition = |kind: &str| PodCondition {
        type_: kind.into(),
        status: if ready { "True" } else { "False" }.into(),
        reason: (!ready).then(|| "ContainersNotReady".into()),
        ..Default::default()
    };
    let node = lab.node_of(pod);
    let second_host_ip = node.and_then(Node::ip6);
    let statuses = containers(pod, health)
        .into_iter()
        .map(|container| container_status(container.name, health));
    PodStatus {
        phase: Some("Running".into()),
        host_ip: node.map(|node| node.ip().to_string()),
        host_ips: second_host_ip.map(|ip| {
            let first = node.map(|node| node.ip().to_string());
            let both = first.into_iter().chain([ip.to_string()]);
            both.map(|ip| HostIP { ip }).collect()
        }),
        pod_ip: Some(pod.ip.to_string()),
        pod_ips: Some(
            std::iter::once(pod.ip.to_string())
                .chain(pod.ip6.map(|ip| ip.to_string()))
                .map(|ip| PodIP { ip })
                .collect(),
        ),
        conditions: Some(vec![condition("Ready"), condition("ContainersReady")]),
        container_statuses: Some(statuses.collect()),
        ..Default::default()
    }
}

fn container_status(name: String, health: &Health) -> ContainerStatus {
    let own = health.container(&name);
    let ended = ContainerState {
        terminated: Some(ContainerStateTerminated {
            reason: Some(if own.exit_code == 0 { "Completed" } else { "Error" }.into()),
            exit_code: own.exit_code.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let waiting = ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some("CrashLoopBackOff".into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let running = ContainerState {
        running: Some(ContainerStateRunning::default()),
        ..Default::default()
    };
    let last_state = (own.backing_off || own.restarts > 0).then(|| ended.clone());
    ContainerStatus {
        name,
        image: IMAGE.into(),
        ready: !own.ended && !health.unready,
        started: Some(!own.ended),
        restart_count: i32::try_from(own.restarts).unwrap_or(i32::MAX),
        last_state,
        state: Some(match own {
            ContainerHealth { ended: false, .. } => running,
            ContainerHealth {
                backing_off: true, ..
            } => waiting,
            _ => ended,
        }),
        ..Default::default()
    }
}

/// The first Service: `web`, port 80 to 8080 of the pods labelled `app=web`; in a dual-stack lab with
/// an address of each family.
pub fn first_service(lab: &Lab, now: &Time) -> Option<Vec<u8>> {
    let first = address::first_service(lab.service_cidr)?;
    let second = lab.service_cidr6.map(address::first_service6);
    let ips: Vec<_> = std::iter::once(first.to_string())
        .chain(second.map(|ip| ip.to_string()))
        .collect();
    let asked = Service {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some(name::object_namespace(&lab.name).into()),
            ..Default::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: ips.first().cloned(),
            ip_family_policy: (ips.len() > 1).then(|| "PreferDualStack".into()),
            cluster_ips: Some(ips),
            selector: Some(BTreeMap::from([("app".into(), "web".into())])),
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port: 80,
                target_port: Some(IntOrString::Int(8080)),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        ..Default::default()
    };
    settled(lab, asked, now).map(|service| text(&service))
}

/// The Service of the lab's name server, if it has one, without a time.
pub fn name_service(lab: &Lab) -> Option<Vec<u8>> {
    let settled = settled(lab, name_server::service(lab)?, &Time(Timestamp::UNIX_EPOCH));
    let mut service = settled.or_else(|| name_server::service(lab))?;
    service.metadata.creation_timestamp = None;
    Some(text(&service))
}

/// A Service with the API's defaults.
fn settled(lab: &Lab, asked: Service, now: &Time) -> Option<Service> {
    let pools = Pools {
        services: lab.service_ranges(),
        balancers: Vec::new(),
    };
    service::settle(asked, None, &pools, &InUse::default(), now).ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::layout::lay_out;
    use crate::model::samples;
    use crate::model::topology::Topology;

    #[test]
    fn the_first_service_has_defaults_and_both_families() {
        let now = Time(Timestamp::UNIX_EPOCH);
        let read =
            |lab: &Lab| -> Service { serde_json::from_slice(&first_service(lab, &now).unwrap()).unwrap() };
        let single = read(&samples::lab());
        assert_eq!(single.metadata.creation_timestamp, Some(now.clone()));
        let spec = single.spec.unwrap();
        assert_eq!(spec.cluster_ips.unwrap(), ["10.96.0.80"]);
        assert_eq!(spec.ip_family_policy.as_deref(), Some("SingleStack"));
        assert_eq!(spec.session_affinity.as_deref(), Some("None"));
        let spec = read(&samples::lab_of(2, true, None)).spec.unwrap();
        assert_eq!(spec.cluster_ips.unwrap(), ["10.96.0.80", "fd00:10:96::50"]);
        assert_eq!(spec.ip_families.unwrap(), ["IPv4", "IPv6"]);
    }

    #[test]
    fn pods_say_where_they_live() {
        let lab = samples::lab_of(2, false, None);
        let pods = lay_out(&lab, &Topology::web_pods(2), None).unwrap();
        for one in &pods {
            let value: serde_json::Value =
                serde_json::from_slice(&pod(&lab, one, &Health::default())).unwrap();
            let said = &value["metadata"]["annotations"];
            assert_eq!(
                said[NAMESPACE_ANNOTATION],
                format!("/run/netns/{}", one.namespace)
            );
            assert_eq!(said[INTERFACE_ANNOTATION], one.interface.as_str());
        }
    }
}
