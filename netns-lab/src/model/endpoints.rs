//! Where a Service leads: its EndpointSlices, else the Pods that its selector finds.
//!
//! The rule of readiness is the one that rules are made by; see docs/registry.md.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::registry::DEFAULT_NAMESPACE;

/// One address behind a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub ip: IpAddr,
    /// Its name within the Service, where it has asked for one.
    pub hostname: Option<String>,
    /// The Pod that has the address, where that is known.
    pub pod: Option<String>,
    /// Its ports: name, protocol, number.
    pub ports: Vec<(String, String, u16)>,
}

/// The namespace of an object.
pub fn namespace_of(metadata: &ObjectMeta) -> &str {
    let namespace = metadata.namespace.as_deref();
    namespace
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or(DEFAULT_NAMESPACE)
}

/// The virtual IPs of a Service.
pub fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let several = spec.cluster_ips.iter().flatten();
    let texts = several.chain(&spec.cluster_ip);
    let mut found: Vec<IpAddr> = Vec::new();
    for ip in texts.filter_map(|text| text.parse().ok()) {
        if !found.contains(&ip) {
            found.push(ip);
        }
    }
    found
}

/// The ready endpoints that the slices of a Service list.
pub fn from_slices<'a>(slices: impl Iterator<Item = &'a EndpointSlice>) -> Vec<Endpoint> {
    let mut found: Vec<Endpoint> = Vec::new();
    for slice in slices.filter(|slice| slice.address_type != "FQDN") {
        let ports: Vec<_> = slice.ports.iter().flatten().filter_map(slice_port).collect();
        for endpoint in &slice.endpoints {
            let ready = endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready);
            let ip = endpoint.addresses.first().and_then(|text| text.parse().ok());
            let (Some(ip), true) = (ip, ready.unwrap_or(true)) else {
                continue;
            };
            let pod = endpoint.target_ref.as_ref();
            let pod = pod.filter(|target| target.kind.as_deref() == Some("Pod"));
            found.push(Endpoint {
                ip,
                hostname: endpoint.hostname.clone().filter(|name| !name.is_empty()),
                pod: pod.and_then(|target| target.name.clone()),
                ports: ports.clone(),
            });
        }
    }
    found
}

fn slice_port(port: &k8s_openapi::api::discovery::v1::EndpointPort) -> Option<(String, String, u16)> {
    let number = u16::try_from(port.port?).ok()?;
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
    Some((port.name.clone().unwrap_or_default(), protocol, number))
}

/// The ready endpoints that the EndpointSlice controller would find for a Service with a selector.
pub fn from_pods<'a>(service: &Service, pods: impl Iterator<Item = &'a Pod>) -> Vec<Endpoint> {
    let unready_too = service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or(false);
    let chosen = pods.filter(|pod| selects(service, pod) && !is_over(pod));
    chosen
        .filter(|pod| unready_too || is_available(pod))
        .flat_map(|pod| of_pod(service, pod))
        .collect()
}

/// Whether the Service has a selector and the Pod carries all labels of it.
pub fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    namespace_of(&pod.metadata) == namespace_of(&service.metadata)
        && selector
            .is_some_and(|selector| !selector.is_empty() && carries(pod.metadata.labels.as_ref(), selector))
}

fn carries(labels: Option<&BTreeMap<String, String>>, selector: &BTreeMap<String, String>) -> bool {
    labels.is_some_and(|labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

/// A pod that ran to its end will never answer again.
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_available(pod: &Pod) -> bool {
    is_ready(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Whether a Pod's condition `Ready` is `True`.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    ready.any(|condition| condition.status == "True")
}

/// A Pod's addresses.
pub fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.iter();
    let several = status
        .clone()
        .flat_map(|status| status.pod_ips.iter().flatten())
        .map(|ip| ip.ip.as_str());
    let first = status.filter_map(|status| status.pod_ip.as_deref());
    let mut found: Vec<IpAddr> = Vec::new();
    for ip in several.chain(first).filter_map(|text| text.parse().ok()) {
        if !found.contains(&ip) {
            found.push(ip);
        }
    }
    found
}

fn of_pod(service: &Service, pod: &Pod) -> Vec<Endpoint> {
    let spec = pod.spec.as_ref();
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref());
    let hostname = spec.and_then(|spec| spec.hostname.clone());
    // A hostname counts in the Service that the Pod names as its subdomain.
    let hostname = hostname.filter(|_| subdomain.is_some() && subdomain == service.metadata.name.as_deref());
    let ports = ports(service, pod);
    let found = addresses(pod).into_iter().map(|ip| Endpoint {
        ip,
        hostname: hostname.clone(),
        pod: pod.metadata.name.clone(),
        ports: ports.clone(),
    });
    found.collect()
}

/// The ports of a Pod that a Service leads to: name, protocol, number.
pub fn ports(service: &Service, pod: &Pod) -> Vec<(String, String, u16)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter_map(|port| pod_port(port, pod)).collect()
}

fn pod_port(port: &ServicePort, pod: &Pod) -> Option<(String, String, u16)> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let number = match &port.target_port {
        None | Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => named_port(name, protocol, pod)?,
    };
    let name = port.name.clone().unwrap_or_default();
    Some((name, protocol.to_string(), u16::try_from(number).ok()?))
}

fn named_port(name: &str, protocol: &str, pod: &Pod) -> Option<i32> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let found = ports.find(|port| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    })?;
    Some(found.container_port)
}
