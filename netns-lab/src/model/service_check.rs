//! A Service as somebody wrote it: what the API server would have refused.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::name::Label;
use super::refusal::Refusal;
use super::topology::{LabelKey, LabelValue};

type Checked = Result<(), Refusal>;

/// Checks all that can be told without other objects.
///
/// # Errors
/// The first field that the API server would have refused.
pub fn check(service: &Service) -> Checked {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    if Label::new(name).is_err() || !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        let expected = "a DNS label that begins with a letter: 1 to 63 of a-z, 0-9 and -";
        return Err(Refusal::new("metadata.name", format!("{name:?}"), expected));
    }
    check_metadata(&service.metadata)?;
    let Some(spec) = &service.spec else {
        return Err(Refusal::new("spec", "nothing", "a spec with ports"));
    };
    check_choices(spec)?;
    check_selector(spec)?;
    check_type(spec)?;
    check_addresses(spec)?;
    check_affinity(spec)?;
    check_external(spec)?;
    check_ports(spec)
}

/// Checks namespace and labels.
pub fn check_metadata(metadata: &ObjectMeta) -> Checked {
    if let Some(namespace) = metadata
        .namespace
        .as_deref()
        .filter(|text| Label::new(text).is_err())
    {
        let expected = "a DNS label: 1 to 63 of a-z, 0-9 and -";
        return Err(Refusal::new(
            "metadata.namespace",
            format!("{namespace:?}"),
            expected,
        ));
    }
    check_labels("metadata.labels", metadata.labels.iter().flatten())
}

/// Checks keys and values of labels.
pub fn check_labels<'a>(field: &str, labels: impl Iterator<Item = (&'a String, &'a String)>) -> Checked {
    for (key, value) in labels {
        let good = LabelKey::try_from(key.clone()).map(drop);
        good.and_then(|()| LabelValue::try_from(value.clone()).map(drop))
            .map_err(|_| {
                let expected = "letters, digits, \"-\", \"_\" and \".\", at most 63 of them";
                Refusal::new(field, format!("{key:?}: {value:?}"), expected)
            })?;
    }
    Ok(())
}

fn check_selector(spec: &ServiceSpec) -> Checked {
    check_labels("spec.selector", spec.selector.iter().flatten())
}

fn check_choices(spec: &ServiceSpec) -> Checked {
    let choices: [(&str, Option<&String>, &[&str]); 5] = [
        (
            "spec.type",
            spec.type_.as_ref(),
            &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"],
        ),
        (
            "spec.sessionAffinity",
            spec.session_affinity.as_ref(),
            &["None", "ClientIP"],
        ),
        (
            "spec.internalTrafficPolicy",
            spec.internal_traffic_policy.as_ref(),
            &["Cluster", "Local"],
        ),
        (
            "spec.externalTrafficPolicy",
            spec.external_traffic_policy.as_ref(),
            &["Cluster", "Local"],
        ),
        (
            "spec.ipFamilyPolicy",
            spec.ip_family_policy.as_ref(),
            &["SingleStack", "PreferDualStack", "RequireDualStack"],
        ),
    ];
    for (field, value, allowed) in choices {
        if let Some(value) = value.filter(|value| !value.is_empty() && !allowed.contains(&value.as_str())) {
            return Err(Refusal::new(field, format!("{value:?}"), allowed.join(" or ")));
        }
    }
    Ok(())
}

fn check_type(spec: &ServiceSpec) -> Checked {
    let kind = kind(spec);
    if kind == "ExternalName" {
        let name = spec.external_name.as_deref().unwrap_or_default();
        let plain = name.strip_suffix('.').unwrap_or(name);
        if plain.len() > 253 || !plain.split('.').all(|label| Label::new(label).is_ok()) {
            let expected = "the DNS name of a host, such as db.example.com";
            return Err(Refusal::new("spec.externalName", format!("{name:?}"), expected));
        }
        if spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty()) {
            let expected = "none in a Service of type ExternalName";
            return Err(Refusal::new("spec.clusterIP", "an address", expected));
        }
    }
    if spec.cluster_ip.as_deref() == Some("None") && kind != "ClusterIP" {
        let expected = "an address: a Service of this type cannot be headless";
        return Err(Refusal::new("spec.clusterIP", "None", expected));
    }
    let asks_policy = spec.external_traffic_policy.as_deref().unwrap_or_default();
    if !asks_policy.is_empty() && !is_reached_from_outside(spec) {
        let expected = "none but with type NodePort or LoadBalancer, or with externalIPs";
        return Err(Refusal::new("spec.externalTrafficPolicy", asks_policy, expected));
    }
    let health = spec.health_check_node_port.filter(|port| *port != 0);
    if let Some(port) = health.filter(|_| !wants_health_port(spec)) {
        let expected = "none but with type LoadBalancer and externalTrafficPolicy Local";
        return Err(Refusal::new(
            "spec.healthCheckNodePort",
            port.to_string(),
            expected,
        ));
    }
    if spec.allocate_load_balancer_node_ports.is_some() && kind != "LoadBalancer" {
        let expected = "none but with type LoadBalancer";
        return Err(Refusal::new(
            "spec.allocateLoadBalancerNodePorts",
            "a value",
            expected,
        ));
    }
    Ok(())
}

fn check_addresses(spec: &ServiceSpec) -> Checked {
    let several = spec.cluster_ips.as_deref().unwrap_or_default();
    let first = spec.cluster_ip.as_deref().unwrap_or_default();
    if let Some(other) = several
        .first()
        .filter(|other| !first.is_empty() && *other != first)
    {
        let what = format!("{other}, and clusterIP is {first}");
        return Err(Refusal::new("spec.clusterIPs[0]", what, "the same address"));
    }
    if several.len() > 2 {
        return Err(Refusal::new(
            "spec.clusterIPs",
            "more than two",
            "one for each family",
        ));
    }
    let named = several.iter().enumerate();
    let named = named.map(|(index, text)| (format!("spec.clusterIPs[{index}]"), text.as_str()));
    for (field, text) in named.chain([("spec.clusterIP".to_string(), first)]) {
        if !matches!(text, "" | "None") && text.parse::<IpAddr>().is_err() {
            let expected = "an IP address, or None for a headless Service";
            return Err(Refusal::new(field, format!("{text:?}"), expected));
        }
    }
    let families = spec.ip_families.as_deref().unwrap_or_default();
    for (index, family) in families.iter().enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        if !matches!(family.as_str(), "IPv4" | "IPv6") {
            return Err(Refusal::new(field, format!("{family:?}"), "IPv4 or IPv6"));
        }
        if families[..index].contains(family) {
            return Err(Refusal::new(field, format!("{family} again"), "each family once"));
        }
        let given = several
            .get(index)
            .map(String::as_str)
            .or_else(|| (index == 0).then_some(first));
        if let Some(ip) = given.and_then(|text| text.parse::<IpAddr>().ok())
            && (family == "IPv4") != ip.is_ipv4()
        {
            let field = format!("spec.clusterIPs[{index}]");
            return Err(Refusal::new(
                field,
                ip.to_string(),
                format!("an {family} address, as ipFamilies says"),
            ));
        }
    }
    Ok(())
}

fn check_affinity(spec: &ServiceSpec) -> Checked {
    let Some(config) = &spec.session_affinity_config else {
        return Ok(());
    };
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        let expected = "none but with sessionAffinity ClientIP";
        return Err(Refusal::new("spec.sessionAffinityConfig", "a value", expected));
    }
    let seconds = config
        .client_ip
        .as_ref()
        .and_then(|client| client.timeout_seconds);
    match seconds {
        None | Some(1..=86_400) => Ok(()),
        Some(seconds) => {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            Err(Refusal::new(field, seconds.to_string(), "1 to 86400 seconds"))
        }
    }
}

fn check_external(spec: &ServiceSpec) -> Checked {
    for (index, text) in spec.external_ips.iter().flatten().enumerate() {
        let good = text
            .parse::<IpAddr>()
            .is_ok_and(|ip| !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast());
        if !good {
            let field = format!("spec.externalIPs[{index}]");
            return Err(Refusal::new(
                field,
                format!("{text:?}"),
                "an address that can be sent to",
            ));
        }
    }
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    for (index, text) in ranges.enumerate() {
        if kind(spec) != "LoadBalancer" {
            let expected = "none but with type LoadBalancer";
            return Err(Refusal::new("spec.loadBalancerSourceRanges", "a list", expected));
        }
        if text.trim().parse::<IpNet>().is_err() {
            let field = format!("spec.loadBalancerSourceRanges[{index}]");
            return Err(Refusal::new(
                field,
                format!("{text:?}"),
                "a network such as 10.0.0.0/24",
            ));
        }
    }
    Ok(())
}

fn check_ports(spec: &ServiceSpec) -> Checked {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let may_lack = spec.cluster_ip.as_deref() == Some("None") || kind(spec) == "ExternalName";
    if ports.is_empty() && !may_lack {
        return Err(Refusal::new("spec.ports", "none", "at least one port"));
    }
    let (mut names, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        check_port(port, ports.len(), &field)?;
        let (name, protocol) = (port.name.as_deref().unwrap_or_default(), protocol(port));
        if !names.insert(name) {
            return Err(Refusal::new(
                field("name"),
                format!("{name:?} again"),
                "each name once",
            ));
        }
        if !numbers.insert((port.port, protocol)) {
            let what = format!("{}/{protocol} again", port.port);
            return Err(Refusal::new(field("port"), what, "each port and protocol once"));
        }
        let Some(node_port) = port.node_port.filter(|number| *number != 0) else {
            continue;
        };
        if !matches!(kind(spec), "NodePort" | "LoadBalancer") {
            let expected = "none but with type NodePort or LoadBalancer";
            return Err(Refusal::new(field("nodePort"), node_port.to_string(), expected));
        }
        if !node_ports.insert((node_port, protocol)) {
            let what = format!("{node_port}/{protocol} again");
            return Err(Refusal::new(
                field("nodePort"),
                what,
                "each node port and protocol once",
            ));
        }
    }
    Ok(())
}

fn check_port(port: &ServicePort, of: usize, field: &impl Fn(&str) -> String) -> Checked {
    let name = port.name.as_deref().unwrap_or_default();
    if name.is_empty() && of > 1 {
        return Err(Refusal::new(
            field("name"),
            "nothing",
            "a name for each of several ports",
        ));
    }
    if !name.is_empty() && Label::new(name).is_err() {
        let expected = "a DNS label: 1 to 63 of a-z, 0-9 and -";
        return Err(Refusal::new(field("name"), format!("{name:?}"), expected));
    }
    check_number(&field("port"), port.port)?;
    if !matches!(protocol(port), "TCP" | "UDP" | "SCTP") {
        return Err(Refusal::new(
            field("protocol"),
            format!("{:?}", protocol(port)),
            "TCP, UDP or SCTP",
        ));
    }
    match &port.target_port {
        Some(IntOrString::Int(number)) if *number != 0 => check_number(&field("targetPort"), *number),
        Some(IntOrString::String(name)) if !is_port_name(name) => {
            let expected = "1 to 65535, or the name of a container port";
            Err(Refusal::new(field("targetPort"), format!("{name:?}"), expected))
        }
        _ => Ok(()),
    }
}

fn is_port_name(name: &str) -> bool {
    super::topology::PortName::try_from(name.to_string()).is_ok()
}

fn check_number(field: &str, port: i32) -> Checked {
    if (1..=65_535).contains(&port) {
        Ok(())
    } else {
        Err(Refusal::new(field, port.to_string(), "1 to 65535"))
    }
}

/// The Service's type; the default where none is given.
pub fn kind(spec: &ServiceSpec) -> &str {
    let kind = spec.type_.as_deref().filter(|kind| !kind.is_empty());
    kind.unwrap_or("ClusterIP")
}

/// The port's protocol; the default where none is given.
pub fn protocol(port: &ServicePort) -> &str {
    let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty());
    protocol.unwrap_or("TCP")
}

/// Whether traffic of outside may reach it, so that a policy for that makes sense.
pub fn is_reached_from_outside(spec: &ServiceSpec) -> bool {
    match kind(spec) {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}

/// Whether a load balancer must be told where endpoints are.
pub fn wants_health_port(spec: &ServiceSpec) -> bool {
    kind(spec) == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local")
}
