//! Endpoints from Pods, where nobody wrote an EndpointSlice.
//!
//! Source: `pkg/controller/endpointslice` and `staging/src/k8s.io/endpointslice/utils.go` of Kubernetes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort as ApiPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use labkit::xtables::Family;

use super::namespace_of;
use crate::address::parse_ip;
use crate::model::{Endpoint, host_port};

/// The endpoints that the EndpointSlice controller would list for one port of a Service.
pub fn endpoints(
    service: &Service,
    port: &ApiPort,
    pods: &[&Pod],
    family: Family,
    node: &str,
) -> Vec<Endpoint> {
    let spec = service.spec.as_ref();
    let publish_not_ready = spec
        .and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or(false);
    let mut found = Vec::new();
    for pod in pods {
        let Some((address, ip)) = address(pod, family) else {
            continue;
        };
        // A pod that lacks the named port takes no part in this port.
        let Some(number) = target_port(port, pod) else {
            continue;
        };
        let (pod_ready, terminating) = (is_ready(pod), pod.metadata.deletion_timestamp.is_some());
        found.push(Endpoint {
            target: host_port(address, number),
            ip,
            port: number,
            ready: publish_not_ready || (pod_ready && !terminating),
            serving: pod_ready,
            terminating,
            local: pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node),
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        });
    }
    found
}

/// The Pods of the Service's namespace that carry all labels of its selector and could be reached.
///
/// `None` when the Service has no selector: then only slices say where it leads.
pub fn matching_pods<'a>(service: &Service, pods: impl Iterator<Item = &'a Pod>) -> Option<Vec<&'a Pod>> {
    selector(service)?;
    Some(
        pods.filter(|pod| selects(service, pod) && !is_over(pod))
            .collect(),
    )
}

/// Whether the Service has a selector and the Pod carries all labels of it.
pub fn selects(service: &Service, pod: &Pod) -> bool {
    namespace_of(&pod.metadata) == namespace_of(&service.metadata)
        && selector(service).is_some_and(|selector| carries(pod.metadata.labels.as_ref(), selector))
}

fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let selector = service.spec.as_ref()?.selector.as_ref();
    selector.filter(|selector| !selector.is_empty())
}

fn carries(labels: Option<&BTreeMap<String, String>>, selector: &BTreeMap<String, String>) -> bool {
    labels.is_some_and(|labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

/// A pod that ran to its end will never answer again.
fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn address(pod: &Pod, family: Family) -> Option<(&str, IpAddr)> {
    let status = pod.status.as_ref()?;
    let several = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    several.chain(status.pod_ip.as_deref()).find_map(|text| {
        let ip = parse_ip(text)?;
        (ip.is_ipv4() == (family == Family::V4)).then_some((text, ip))
    })
}

fn target_port(port: &ApiPort, pod: &Pod) -> Option<u16> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => u16::try_from(port.port).ok(),
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) => named_port(name, port.protocol.as_deref().unwrap_or("TCP"), pod),
    }
}

fn named_port(name: &str, protocol: &str, pod: &Pod) -> Option<u16> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let found = ports.find(|port| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    })?;
    u16::try_from(found.container_port).ok()
}
