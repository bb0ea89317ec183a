//! What only one Service may have: its cluster IPs, and its ports on the nodes.

use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};

use super::content::Content;
use super::model::cluster_ips;
use crate::address::parse_ip;
use crate::model::Protocol;

/// One such thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Claim {
    /// A virtual IP.
    Address(IpAddr),
    /// A `nodePort`, or a `healthCheckNodePort`, which is of TCP.
    NodePort(u16, Protocol),
}

/// All claims of a Service, each once.
pub(super) fn of(service: &Service) -> Vec<Claim> {
    let addresses = cluster_ips(service)
        .iter()
        .filter_map(|text| parse_ip(text))
        .collect::<Vec<_>>();
    let mut claims: Vec<Claim> = addresses.into_iter().map(Claim::Address).collect();
    let Some(spec) = &service.spec else {
        return claims;
    };
    claims.extend(spec.ports.iter().flatten().filter_map(of_port));
    let health_check = node_port(spec.health_check_node_port);
    claims.extend(health_check.map(|number| Claim::NodePort(number, Protocol::Tcp)));
    claims
}

fn node_port(number: Option<i32>) -> Option<u16> {
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
}

fn of_port(port: &ServicePort) -> Option<Claim> {
    let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty());
    let protocol = Protocol::parse(protocol.unwrap_or("TCP"))?;
    node_port(port.node_port).map(|number| Claim::NodePort(number, protocol))
}

impl Claim {
    /// The field of the Service that makes this claim.
    pub(super) fn field(self, content: &Content) -> String {
        let Self::NodePort(..) = self else {
            return "spec.clusterIP".to_string();
        };
        let ports = match content {
            Content::Service(service) => service.spec.as_ref().and_then(|spec| spec.ports.as_ref()),
            _ => None,
        };
        let mut ports = ports.into_iter().flatten();
        match ports.position(|port| of_port(port) == Some(self)) {
            Some(index) => format!("spec.ports[{index}].nodePort"),
            None => "spec.healthCheckNodePort".to_string(),
        }
    }

    /// What should be there instead.
    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Address(_) => "an address that no other Service has",
            Self::NodePort(..) => "a port that no other Service has on the nodes",
        }
    }
}

impl fmt::Display for Claim {
    /// `10.96.0.80`, `node port 30080/TCP`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => write!(f, "{ip}"),
            Self::NodePort(number, protocol) => write!(f, "node port {number}/{}", protocol.upper()),
        }
    }
}
