//! What the API server asks of a Service.

use std::collections::BTreeSet;
use std::fmt::Arguments;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::fields::{check_choice, check_node_port, check_port, check_protocol, check_usable};
use super::{Checked, is_label, is_subdomain, outside};
use crate::address::parse_ip;
use crate::registry::parse::Item;

/// A Service: its names, cluster IPs and ports, and what lets it be reached from outside.
pub(super) fn check_service(item: &Item<'_>, service: &Service) -> Checked {
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
    check_choice(
        item,
        format_args!("spec.ipFamilyPolicy"),
        spec.ip_family_policy.as_deref(),
        &["SingleStack", "PreferDualStack", "RequireDualStack"],
    )?;
    check_choice(
        item,
        format_args!("spec.trafficDistribution"),
        spec.traffic_distribution.as_deref(),
        &["PreferClose", "PreferSameZone", "PreferSameNode"],
    )?;
    if spec.type_.as_deref() == Some("ExternalName") {
        check_external_name(item, spec)?;
    }
    check_cluster_ips(item, spec)?;
    check_affinity(item, spec)?;
    check_service_ports(item, spec)?;
    outside::check(item, service, spec)
}

fn check_external_name(item: &Item<'_>, spec: &ServiceSpec) -> Checked {
    let name = spec.external_name.as_deref().unwrap_or_default();
    if is_subdomain(name.strip_suffix('.').unwrap_or(name)) {
        return Ok(());
    }
    let what = match name {
        "" => "an ExternalName Service without externalName".to_string(),
        name => format!("{name:?}"),
    };
    Err(item.problem("spec.externalName", what, "a DNS name such as db.example.org"))
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
        if families[..index].contains(family) {
            let field = format_args!("spec.ipFamilies[{index}]");
            return Err(item.problem(field, format!("{family} a second time"), "each family once"));
        }
    }
    let first = spec.cluster_ip.as_deref().unwrap_or_default();
    check_cluster_ip(item, format_args!("spec.clusterIP"), first, 0, families)?;
    for (index, address) in spec.cluster_ips.iter().flatten().enumerate() {
        let field = format_args!("spec.clusterIPs[{index}]");
        if index > 1 {
            return Err(item.problem(field, "a third address", "one of each family at most"));
        }
        check_cluster_ip(item, field, address, index, families)?;
        if index == 0 && address != first {
            let expected = format!("the same as clusterIP, {first:?}");
            return Err(item.problem(field, format!("{address:?}"), expected));
        }
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
    let (mut names, mut numbers, mut on_nodes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
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
        let field = format_args!("spec.ports[{index}].nodePort");
        check_node_port(item, field, port.node_port)?;
        let node_port = port.node_port.filter(|number| *number != 0);
        if node_port.is_some_and(|number| !on_nodes.insert((number, protocol))) {
            let what = format!("{}/{protocol} a second time", port.node_port.unwrap_or_default());
            return Err(item.problem(field, what, "each node port and protocol once"));
        }
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
