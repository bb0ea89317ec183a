//! What the API server asks of an EndpointSlice.

use std::collections::BTreeSet;
use std::fmt::Arguments;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::fields::{check_choice, check_node_port, check_protocol, check_reachable};
use super::{Checked, is_label, is_name};
use crate::address::parse_ip;
use crate::registry::parse::Item;

/// An EndpointSlice: its ports and its endpoints.
pub(super) fn check_slice(item: &Item<'_>, slice: &EndpointSlice) -> Checked {
    if slice.address_type.is_empty() {
        return Err(item.problem("addressType", "a slice without it", "IPv4, IPv6 or FQDN"));
    }
    check_choice(
        item,
        format_args!("addressType"),
        Some(&slice.address_type),
        &["IPv4", "IPv6", "FQDN"],
    )?;
    let mut names = BTreeSet::new();
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        check_node_port(item, format_args!("ports[{index}].port"), port.port)?;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        check_protocol(item, format_args!("ports[{index}].protocol"), protocol)?;
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() && !is_label(name) {
            let field = format_args!("ports[{index}].name");
            return Err(item.problem(field, format!("port name {name:?}"), "a DNS label"));
        }
        // Without a number a port stands for no port of a Service, whatever its name.
        if port.port.is_some() && !names.insert(name) {
            let field = format_args!("ports[{index}].name");
            return Err(item.problem(field, format!("a second port {name:?}"), "each name once"));
        }
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        if endpoint.addresses.is_empty() {
            let field = format_args!("endpoints[{index}].addresses");
            return Err(item.problem(field, "an endpoint without an address", "at least one address"));
        }
        check_hints(item, index, endpoint)?;
        if let Some(name) = endpoint
            .node_name
            .as_deref()
            .filter(|name| !is_name("Node", name))
        {
            let field = format_args!("endpoints[{index}].nodeName");
            return Err(item.problem(field, format!("{name:?}"), "the name of a Node"));
        }
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
        Some(ip) if ip.is_ipv4() == (family == "IPv4") => check_reachable(item, field, ip),
        _ => {
            let expected = format!("an {family} address, as addressType says");
            Err(item.problem(field, format!("{address:?}"), expected))
        }
    }
}

fn check_hints(item: &Item<'_>, index: usize, endpoint: &Endpoint) -> Checked {
    let Some(hints) = &endpoint.hints else {
        return Ok(());
    };
    let zones = hints.for_zones.iter().flatten().map(|zone| &zone.name);
    for (place, name) in zones.enumerate() {
        if name.is_empty() {
            let field = format_args!("endpoints[{index}].hints.forZones[{place}].name");
            return Err(item.problem(field, "a hint without a zone", "the name of a zone"));
        }
    }
    Ok(())
}
