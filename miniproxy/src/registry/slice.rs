//! An EndpointSlice without what no rule is made from: there may be ten thousand of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use labkit::xtables::Family;

use super::SERVICE_NAME_LABEL;
use crate::address::parse_ip;
use crate::model::Protocol;

/// Where the EndpointSlice controller notes when what it lists had changed.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What counts of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The Service that its label names.
    pub service: Option<String>,
    /// It is for this proxy.
    pub is_ours: bool,
    /// Of which family its addresses are; `None` for names.
    pub family: Option<Family>,
    /// When the Pods behind it changed, as it says itself (RFC 3339).
    pub trigger_time: Option<String>,
    /// Its ports, without those that lack a name or a number.
    pub ports: Box<[SlicePort]>,
    /// Its endpoints, without those whose address is of another family.
    pub endpoints: Box<[SliceEndpoint]>,
}

/// One port of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// Its name; may be empty.
    pub name: String,
    /// Its protocol; `None` for one that no Service can have.
    pub protocol: Option<Protocol>,
    /// Its number.
    pub number: u16,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// The address as it is spelt: it is hashed so.
    pub address: Box<str>,
    /// The address.
    pub ip: IpAddr,
    /// Takes new connections.
    pub ready: bool,
    /// Would answer, though it may be on its way out.
    pub serving: bool,
    /// Is on its way out.
    pub terminating: bool,
    /// The Node it is on.
    pub node: Option<Arc<str>>,
    /// Zones that should use it.
    pub zone_hints: Box<[String]>,
    /// Nodes that should use it.
    pub node_hints: Box<[String]>,
}

impl Slice {
    /// Whether nothing changed that rules are made from; when it was written is no matter.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let of = |slice: &Self| (slice.is_ours, slice.family);
        of(self) == of(other)
            && self.service == other.service
            && self.ports == other.ports
            && self.endpoints == other.endpoints
    }

    /// Keeps what counts.
    pub fn of(slice: &EndpointSlice) -> Self {
        let empty = BTreeMap::new();
        let labels = slice.metadata.labels.as_ref().unwrap_or(&empty);
        let annotations = slice.metadata.annotations.as_ref().unwrap_or(&empty);
        let family = Family::ALL
            .into_iter()
            .find(|family| family.name() == slice.address_type);
        // Mostly all endpoints of a slice are on few Nodes.
        let mut nodes = Vec::new();
        let endpoints = slice.endpoints.iter();
        Self {
            service: labels.get(SERVICE_NAME_LABEL).cloned(),
            is_ours: super::model::is_ours(Some(labels)),
            family,
            trigger_time: annotations.get(TRIGGER_TIME).cloned(),
            ports: slice.ports.iter().flatten().filter_map(port).collect(),
            endpoints: endpoints
                .filter_map(|endpoint| one(endpoint, family?, &mut nodes))
                .collect(),
        }
    }
}

fn port(port: &EndpointPort) -> Option<SlicePort> {
    let protocol = port.protocol.as_deref().filter(|text| !text.is_empty());
    Some(SlicePort {
        name: port.name.clone()?,
        protocol: Protocol::parse(protocol.unwrap_or("TCP")),
        number: u16::try_from(port.port?).ok().filter(|number| *number != 0)?,
    })
}

fn one(endpoint: &Endpoint, family: Family, nodes: &mut Vec<Arc<str>>) -> Option<SliceEndpoint> {
    let address = endpoint.addresses.first()?;
    let ip = parse_ip(address).filter(|ip| ip.is_ipv4() == (family == Family::V4))?;
    let condition = |pick: fn(&EndpointConditions) -> Option<bool>, absent| {
        endpoint.conditions.as_ref().and_then(pick).unwrap_or(absent)
    };
    let hints = endpoint.hints.as_ref();
    let zones = hints.iter().flat_map(|hints| hints.for_zones.iter().flatten());
    let preferred = hints.iter().flat_map(|hints| hints.for_nodes.iter().flatten());
    Some(SliceEndpoint {
        address: address.as_str().into(),
        ip,
        ready: condition(|conditions| conditions.ready, true),
        serving: condition(|conditions| conditions.serving, true),
        terminating: condition(|conditions| conditions.terminating, false),
        node: endpoint.node_name.as_deref().map(|name| {
            let known = nodes.iter().find(|known| ***known == *name).cloned();
            known.unwrap_or_else(|| {
                nodes.push(name.into());
                name.into()
            })
        }),
        zone_hints: zones.map(|zone| zone.name.clone()).collect(),
        node_hints: preferred.map(|node| node.name.clone()).collect(),
    })
}
