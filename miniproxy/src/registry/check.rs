//! One object at a time: what the API server would have refused, we refuse by name and field.

use std::collections::BTreeSet;
use std::fmt::Arguments;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::parse::{Item, Object};
use super::problem::Problem;
use crate::address::{parse_ip, parse_network};
use crate::model::Protocol;

type Checked = Result<(), Problem>;

/// Checks an object's names, addresses and ports.
///
/// # Errors
/// The first field that the API server would have refused.
pub fn check(item: &Item<'_>) -> Checked {
    if let Some((kind, metadata)) = item.object.identity() {
        let name = super::name_of(metadata);
        let is_name = is_name(kind, name);
        if !is_name {
            let expected = if kind == "Service" {
                "a DNS label: 1 to 63 of a-z, 0-9 and -, beginning with a letter"
            } else {
                "a DNS name: a-z, 0-9, - and ., at most 253 long"
            };
            return Err(item.problem("metadata.name", format!("{kind} name {name:?}"), expected));
        }
        let namespace = super::namespace_of(metadata);
        if kind != "Node" && !is_label(namespace) {
            let expected = "a DNS label: 1 to 63 of a-z, 0-9 and -";
            return Err(item.problem("metadata.namespace", format!("namespace {namespace:?}"), expected));
        }
    }
    match &item.object {
        Object::Service(service) => check_service(item, service),
        Object::EndpointSlice(slice) => check_slice(item, slice),
        Object::Pod(pod) => check_pod(item, pod),
        Object::Node(node) => check_node(item, node),
        Object::Other(_) => Ok(()),
    }
}

/// Whether the API server would take this as the name of an object of this kind.
///
/// It holds Services to RFC 1035: their names begin with a letter.
pub fn is_name(kind: &str, name: &str) -> bool {
    match kind {
        "Service" => is_service_name(name),
        _ => is_subdomain(name),
    }
}

/// A DNS label (RFC 1123): 1 to 63 of a-z, 0-9 and -, with neither end a -.
pub fn is_label(text: &str) -> bool {
    text.len() <= 63 && has_label_form(text)
}

fn has_label_form(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_service_name(text: &str) -> bool {
    is_label(text) && text.starts_with(|first: char| first.is_ascii_lowercase())
}

/// A DNS subdomain as the API server takes it: only the whole is bounded, not each label.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(has_label_form)
}

fn check_service(item: &Item<'_>, service: &Service) -> Checked {
    let Some(spec) = &service.spec else {
        return Err(item.problem(
            "spec",
            "a Service without a spec",
            "a spec with clusterIP and ports",
        ));
    };
    check_choice(
        item,
        format_args!("spec.type"),
        spec.type_.as_deref(),
        &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"],
    )?;
    check_choice(
        item,
        format_args!("spec.sessionAffinity"),
        spec.session_affinity.as_deref(),
        &["None", "ClientIP"],
    )?;
    check_choice(
        item,
        format_args!("spec.internalTrafficPolicy"),
        spec.internal_traffic_policy.as_deref(),
        &["Cluster", "Local"],
    )?;
    check_choice(
        item,
        format_args!("spec.externalTrafficPolicy"),
        spec.external_traffic_policy.as_deref(),
        &["Cluster", "Local"],
    )?;
    check_cluster_ips(item, spec)?;
    check_ingress(item, service)?;
    check_affinity(item, spec)?;
    check_node_port(
        item,
        format_args!("spec.healthCheckNodePort"),
        spec.health_check_node_port,
    )?;
    check_service_ports(item, spec)
}

fn check_choice(item: &Item<'_>, field: Arguments<'_>, value: Option<&str>, allowed: &[&str]) -> Checked {
    match value {
        // Old objects carry empty text where newer ones leave the field out.
        None | Some("") => Ok(()),
        Some(value) if allowed.contains(&value) => Ok(()),
        Some(value) => Err(item.problem(field, format!("{value:?}"), allowed.join(" or "))),
    }
}

fn check_cluster_ips(item: &Item<'_>, spec: &ServiceSpec) -> Checked {
    let families = spec.ip_families.as_deref().unwrap_or_default();
    for (index, family) in families.iter().enumerate() {
        check_choice(
            item,
            format_args!("spec.ipFamilies[{index}]"),
            Some(family),
            &["IPv4", "IPv6"],
        )?;
    }
    let first = spec.cluster_ip.as_deref().unwrap_or_default();
    check_cluster_ip(item, format_args!("spec.clusterIP"), first, 0, families)?;
    for (index, address) in spec.cluster_ips.iter().flatten().enumerate() {
        let field = format_args!("spec.clusterIPs[{index}]");
        check_cluster_ip(item, field, address, index, families)?;
    }
    Ok(())
}

fn check_cluster_ip(
    item: &Item<'_>,
    field: Arguments<'_>,
    address: &str,
    index: usize,
    families: &[String],
) -> Checked {
    if address.is_empty() || address == "None" {
        return Ok(());
    }
    let Some(ip) = parse_ip(address) else {
        return Err(item.problem(
            field,
            format!("{address:?}"),
            "an IP address, or None for a headless Service",
        ));
    };
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    if let Some(wanted) = families.get(index).filter(|wanted| *wanted != family) {
        let expected = format!("an {wanted} address, as ipFamilies[{index}] says");
        return Err(item.problem(field, format!("{address} is an {family} address"), expected));
    }
    check_usable(item, field, ip)
}

/// An address that means "this host", "everybody" or nobody cannot be a Service's or a pod's.
fn check_usable(item: &Item<'_>, field: Arguments<'_>, ip: IpAddr) -> Checked {
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        let expected = "a unicast address that is not of this host alone";
        return Err(item.problem(field, format!("{ip} cannot be sent to from elsewhere"), expected));
    }
    Ok(())
}

/// External IPs and source ranges are not checked here: of those, kube-proxy passes over what it
/// cannot read and keeps the others.
fn check_ingress(item: &Item<'_>, service: &Service) -> Checked {
    let ingress = service
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref());
    for (index, entry) in ingress
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        .enumerate()
    {
        if let Some(ip) = entry.ip.as_deref().filter(|ip| !ip.is_empty()) {
            check_ip(item, format_args!("status.loadBalancer.ingress[{index}].ip"), ip)?;
        }
    }
    Ok(())
}

fn check_ip(item: &Item<'_>, field: Arguments<'_>, address: &str) -> Result<(), Problem> {
    match parse_ip(address) {
        Some(_) => Ok(()),
        None => Err(item.problem(field, format!("{address:?}"), "an IP address")),
    }
}

fn check_affinity(item: &Item<'_>, spec: &ServiceSpec) -> Checked {
    let config = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref());
    match config.and_then(|client_ip| client_ip.timeout_seconds) {
        None | Some(1..=86_400) => Ok(()),
        Some(seconds) => {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            Err(item.problem(field, format!("{seconds}"), "1 to 86400 seconds"))
        }
    }
}

fn check_service_ports(item: &Item<'_>, spec: &ServiceSpec) -> Checked {
    let ports: Vec<&ServicePort> = spec.ports.iter().flatten().collect();
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if ports.is_empty() && !headless && spec.type_.as_deref() != Some("ExternalName") {
        return Err(item.problem("spec.ports", "a Service without ports", "at least one port"));
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let name = port.name.as_deref().unwrap_or_default();
        let refused = |what: String, expected: &str| {
            Err(item.problem(format_args!("spec.ports[{index}].name"), what, expected))
        };
        if name.is_empty() && ports.len() > 1 {
            return refused("a port without a name".into(), "a name for each of several ports");
        }
        if !name.is_empty() && !is_label(name) {
            return refused(format!("port name {name:?}"), "a DNS label");
        }
        if !names.insert(name) {
            return refused(format!("a second port {name:?}"), "each name once");
        }
        check_port(item, format_args!("spec.ports[{index}].port"), port.port)?;
        let protocol = port
            .protocol
            .as_deref()
            .filter(|protocol| !protocol.is_empty())
            .unwrap_or("TCP");
        check_protocol(item, format_args!("spec.ports[{index}].protocol"), protocol)?;
        if !numbers.insert((port.port, protocol)) {
            let field = format_args!("spec.ports[{index}].port");
            let what = format!("{}/{protocol} a second time", port.port);
            return Err(item.problem(field, what, "each port and protocol once"));
        }
        check_node_port(item, format_args!("spec.ports[{index}].nodePort"), port.node_port)?;
        check_target_port(item, format_args!("spec.ports[{index}].targetPort"), port)?;
    }
    Ok(())
}

fn check_target_port(item: &Item<'_>, field: Arguments<'_>, port: &ServicePort) -> Checked {
    match &port.target_port {
        Some(IntOrString::Int(number)) => check_port(item, field, *number),
        Some(IntOrString::String(name)) if !is_label(name) || name.len() > 15 => {
            let expected = "a number from 1 to 65535, or the name of a container port";
            Err(item.problem(field, format!("{name:?}"), expected))
        }
        _ => Ok(()),
    }
}

fn check_port(item: &Item<'_>, field: Arguments<'_>, port: i32) -> Checked {
    if (1..=65_535).contains(&port) {
        return Ok(());
    }
    Err(item.problem(field, format!("port {port}"), "1 to 65535"))
}

fn check_node_port(item: &Item<'_>, field: Arguments<'_>, port: Option<i32>) -> Checked {
    match port {
        // The API server writes 0 for "none".
        None | Some(0) => Ok(()),
        Some(port) => check_port(item, field, port),
    }
}

fn check_protocol(item: &Item<'_>, field: Arguments<'_>, protocol: &str) -> Checked {
    match Protocol::parse(protocol) {
        Some(_) => Ok(()),
        None => Err(item.problem(field, format!("protocol {protocol:?}"), "TCP, UDP or SCTP")),
    }
}

fn check_slice(item: &Item<'_>, slice: &EndpointSlice) -> Checked {
    check_choice(
        item,
        format_args!("addressType"),
        Some(&slice.address_type),
        &["IPv4", "IPv6", "FQDN"],
    )?;
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        check_node_port(item, format_args!("ports[{index}].port"), port.port)?;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        check_protocol(item, format_args!("ports[{index}].protocol"), protocol)?;
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() && !is_label(name) {
            let field = format_args!("ports[{index}].name");
            return Err(item.problem(field, format!("port name {name:?}"), "a DNS label"));
        }
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        for (place, address) in endpoint.addresses.iter().enumerate() {
            let field = format_args!("endpoints[{index}].addresses[{place}]");
            check_slice_address(item, field, address, &slice.address_type)?;
        }
    }
    Ok(())
}

fn check_slice_address(item: &Item<'_>, field: Arguments<'_>, address: &str, family: &str) -> Checked {
    if family == "FQDN" {
        return Ok(());
    }
    match parse_ip(address) {
        Some(ip) if ip.is_ipv4() == (family == "IPv4") => check_usable(item, field, ip),
        _ => {
            let expected = format!("an {family} address, as addressType says");
            Err(item.problem(field, format!("{address:?}"), expected))
        }
    }
}

fn check_pod(item: &Item<'_>, pod: &Pod) -> Checked {
    if let Some(status) = &pod.status {
        if let Some(ip) = status.pod_ip.as_deref().filter(|ip| !ip.is_empty()) {
            check_ip(item, format_args!("status.podIP"), ip)?;
        }
        for (index, ip) in status.pod_ips.iter().flatten().enumerate() {
            check_ip(item, format_args!("status.podIPs[{index}].ip"), &ip.ip)?;
        }
    }
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    for (index, container) in containers.enumerate() {
        for (place, port) in container.ports.iter().flatten().enumerate() {
            check_port(
                item,
                format_args!("spec.containers[{index}].ports[{place}].containerPort"),
                port.container_port,
            )?;
        }
    }
    Ok(())
}

fn check_node(item: &Item<'_>, node: &Node) -> Checked {
    let spec = node.spec.as_ref();
    for (index, network) in spec
        .iter()
        .flat_map(|spec| spec.pod_cidrs.iter().flatten())
        .enumerate()
    {
        if parse_network(network).is_none() {
            let field = format!("spec.podCIDRs[{index}]");
            return Err(item.problem(&field, format!("{network:?}"), "a network such as 10.244.0.0/24"));
        }
    }
    Ok(())
}
