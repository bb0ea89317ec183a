//! One object at a time: what the API server would have refused, we refuse by name and field.

mod fields;
mod outside;
mod service;
mod slice;

use std::fmt::Arguments;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::parse::{Item, Object};
use super::problem::Problem;
use crate::address::parse_network;
use fields::{check_ip, check_port};
pub use outside::passed_over;

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
        Object::Service(service) => service::check_service(item, service),
        Object::EndpointSlice(slice) => slice::check_slice(item, slice),
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

fn is_ipv6(network: &str) -> bool {
    network.contains(':')
}

fn check_node(item: &Item<'_>, node: &Node) -> Checked {
    let spec = node.spec.as_ref();
    let network = |field: Arguments<'_>, network: &str| match parse_network(network) {
        Some(_) => Ok(()),
        None => Err(item.problem(field, format!("{network:?}"), "a network such as 10.244.0.0/24")),
    };
    let several = spec
        .and_then(|spec| spec.pod_cidrs.as_deref())
        .unwrap_or_default();
    for (index, one) in several.iter().enumerate() {
        let field = format_args!("spec.podCIDRs[{index}]");
        network(field, one)?;
        // Two are of two families, so a third repeats one.
        if several[..index]
            .iter()
            .any(|before| is_ipv6(before) == is_ipv6(one))
        {
            return Err(item.problem(
                field,
                format!("{one} beside another of its family"),
                "one of each family",
            ));
        }
    }
    let only = spec.and_then(|spec| spec.pod_cidr.as_deref());
    if let Some(only) = only.filter(|only| !only.is_empty()) {
        network(format_args!("spec.podCIDR"), only)?;
        if let Some(first) = several.first().filter(|first| *first != only) {
            let expected = format!("the same as podCIDRs[0], {first:?}");
            return Err(item.problem("spec.podCIDR", format!("{only:?}"), expected));
        }
    }
    let addresses = node
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten());
    for (index, address) in addresses.enumerate() {
        // The other types are names.
        if matches!(address.type_.as_str(), "InternalIP" | "ExternalIP") {
            check_ip(
                item,
                format_args!("status.addresses[{index}].address"),
                &address.address,
            )?;
        }
    }
    Ok(())
}
