//! How a Service is reached from outside: node ports, load balancers, external IPs, and for whom.
//!
//! kube-proxy passes over entries of lists that it cannot read. So do we where others are left, and
//! say so; where none is left the Service would be open to all, or to nobody, and is refused.

use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::Checked;
use super::fields::{check_choice, check_ip, check_node_port, check_reachable, check_usable};
use crate::address::{parse_ip, parse_network};
use crate::registry::parse::Item;
use crate::registry::{Registry, name_of, namespace_of};

pub(super) fn check(item: &Item<'_>, service: &Service, spec: &ServiceSpec) -> Checked {
    check_type(item, spec)?;
    check_health_check(item, spec)?;
    check_external_ips(item, spec)?;
    check_source_ranges(item, spec)?;
    check_ingress(item, service)
}

/// What only Services of some types may have.
fn check_type(item: &Item<'_>, spec: &ServiceSpec) -> Checked {
    let kind = kind(spec);
    let has_node_ports = matches!(kind, "NodePort" | "LoadBalancer");
    if has_node_ports && spec.cluster_ip.as_deref() == Some("None") {
        let what = format!("a {kind} Service that is headless");
        return Err(item.problem("spec.clusterIP", what, "an IP address, or type ClusterIP"));
    }
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        if let Some(number) = port.node_port.filter(|number| *number != 0 && !has_node_ports) {
            let field = format_args!("spec.ports[{index}].nodePort");
            let what = format!("node port {number} of a Service of type {kind}");
            return Err(item.problem(field, what, "type NodePort or LoadBalancer"));
        }
    }
    let policy = spec.external_traffic_policy.as_deref().unwrap_or_default();
    let external_ips = spec.external_ips.iter().flatten().next().is_some();
    if !policy.is_empty() && !has_node_ports && !external_ips {
        let what = format!("{policy} for a Service that nobody reaches from outside");
        let expected = "type NodePort or LoadBalancer, or externalIPs";
        return Err(item.problem("spec.externalTrafficPolicy", what, expected));
    }
    Ok(())
}

fn kind(spec: &ServiceSpec) -> &str {
    let kind = spec.type_.as_deref().filter(|kind| !kind.is_empty());
    kind.unwrap_or("ClusterIP")
}

fn check_health_check(item: &Item<'_>, spec: &ServiceSpec) -> Checked {
    let field = "spec.healthCheckNodePort";
    check_node_port(item, format_args!("{field}"), spec.health_check_node_port)?;
    let Some(number) = spec.health_check_node_port.filter(|number| *number != 0) else {
        return Ok(());
    };
    if kind(spec) != "LoadBalancer" || spec.external_traffic_policy.as_deref() != Some("Local") {
        let what = format!("port {number} where nothing is to be checked");
        return Err(item.problem(field, what, "type LoadBalancer and externalTrafficPolicy Local"));
    }
    let mut ports = spec.ports.iter().flatten();
    if ports.any(|port| port.node_port == Some(number)) {
        let what = format!("port {number} is a nodePort of this Service");
        return Err(item.problem(field, what, "a port that nothing else has"));
    }
    Ok(())
}

fn check_external_ips(item: &Item<'_>, spec: &ServiceSpec) -> Checked {
    let addresses = spec.external_ips.as_deref().unwrap_or_default();
    for (index, address) in addresses.iter().enumerate() {
        if let Some(ip) = parse_ip(address) {
            check_reachable(item, format_args!("spec.externalIPs[{index}]"), ip)?;
        }
    }
    match addresses.first() {
        Some(first) if !addresses.iter().any(|address| parse_ip(address).is_some()) => {
            Err(item.problem("spec.externalIPs[0]", format!("{first:?}"), "an IP address"))
        }
        _ => Ok(()),
    }
}

fn check_source_ranges(item: &Item<'_>, spec: &ServiceSpec) -> Checked {
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    match ranges.first() {
        Some(first) if !ranges.iter().any(|range| parse_network(range.trim()).is_some()) => {
            let what = format!("{first:?}: as no range can be read, all sources would be let in");
            let expected = "networks such as 198.51.100.0/24";
            Err(item.problem("spec.loadBalancerSourceRanges[0]", what, expected))
        }
        _ => Ok(()),
    }
}

fn check_ingress(item: &Item<'_>, service: &Service) -> Checked {
    let status = service.status.as_ref();
    let ingress = status.and_then(|status| status.load_balancer.as_ref());
    let ingress = ingress
        .iter()
        .flat_map(|balancer| balancer.ingress.iter().flatten());
    for (index, entry) in ingress.enumerate() {
        let mode = entry.ip_mode.as_deref();
        let field = format_args!("status.loadBalancer.ingress[{index}].ipMode");
        check_choice(item, field, mode, &["VIP", "Proxy"])?;
        if let Some(ip) = entry.ip.as_deref().filter(|ip| !ip.is_empty()) {
            let field = format_args!("status.loadBalancer.ingress[{index}].ip");
            check_ip(item, field, ip)?;
            parse_ip(ip).map_or(Ok(()), |ip| check_usable(item, field, ip))?;
        }
    }
    Ok(())
}

/// What of Services that are in force is passed over, in words.
pub fn passed_over(registry: &Registry) -> Vec<String> {
    let mut all = Vec::new();
    for service in registry.services.values() {
        let Some(spec) = &service.spec else { continue };
        let mut note = |field: &str, index: usize, text: &str| {
            let (namespace, name) = (namespace_of(&service.metadata), name_of(&service.metadata));
            all.push(format!(
                "Service {namespace}/{name}: spec.{field}[{index}]: {text:?} cannot be read and is passed over, as kube-proxy does"
            ));
        };
        for (index, address) in spec.external_ips.iter().flatten().enumerate() {
            if parse_ip(address).is_none() {
                note("externalIPs", index, address);
            }
        }
        for (index, range) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
            if parse_network(range.trim()).is_none() {
                note("loadBalancerSourceRanges", index, range);
            }
        }
    }
    all
}
