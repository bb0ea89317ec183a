//! Chain names, hashed as kube-proxy hashes them.

use data_encoding::BASE32;
use sha2::{Digest as _, Sha256};

use crate::model::{Protocol, ServicePortName};

/// What a chain of a service port is for; the prefix of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainKind {
    /// `KUBE-SVC-`: balances over all endpoints.
    Service,
    /// `KUBE-SVL-`: balances over the endpoints of this node.
    ServiceLocal,
    /// `KUBE-EXT-`: where traffic from outside the cluster enters.
    External,
    /// `KUBE-FW-`: admits the source ranges of a load balancer.
    Firewall,
    /// `KUBE-SEP-`: one endpoint.
    Endpoint,
}

impl ChainKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::Service,
        Self::ServiceLocal,
        Self::External,
        Self::Firewall,
        Self::Endpoint,
    ];

    /// The name's beginning.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Service => "KUBE-SVC-",
            Self::ServiceLocal => "KUBE-SVL-",
            Self::External => "KUBE-EXT-",
            Self::Firewall => "KUBE-FW-",
            Self::Endpoint => "KUBE-SEP-",
        }
    }

    /// The kind of a chain by its name; `None` when it is no chain of a service port.
    pub fn of(chain: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| chain.strip_prefix(kind.prefix()).is_some_and(is_hash))
    }
}

fn is_hash(rest: &str) -> bool {
    rest.len() == HASH_LENGTH
        && rest
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte))
}

/// Characters of the hash in a name: 80 bits. Longer names would pass the kernel's 28.
const HASH_LENGTH: usize = 16;

/// What the chains of one service port are called.
#[derive(Debug, Clone)]
pub struct ChainNames {
    /// `namespace/name:port` and the protocol: what is hashed.
    hashed: String,
    /// The hash in the names of all its chains but those of endpoints.
    service: String,
}

impl ChainNames {
    /// Of the port of this name and protocol.
    pub fn of(port: &ServicePortName, protocol: Protocol) -> Self {
        let hashed = format!("{port}{}", protocol.lower());
        Self {
            service: hash(&[&hashed]),
            hashed,
        }
    }

    /// A chain of the service port: prefix + Base32(SHA-256(`namespace/name:port` + protocol)).
    pub fn service(&self, kind: ChainKind) -> String {
        [kind.prefix(), &self.service].concat()
    }

    /// The chain of one endpoint; `endpoint` is `ip:port`, with brackets for IPv6.
    pub fn endpoint(&self, endpoint: &str) -> String {
        [ChainKind::Endpoint.prefix(), &hash(&[&self.hashed, endpoint])].concat()
    }
}

/// One chain of a service port.
pub fn service_chain(kind: ChainKind, port: &ServicePortName, protocol: Protocol) -> String {
    ChainNames::of(port, protocol).service(kind)
}

/// The chain of one endpoint of a service port.
pub fn endpoint_chain(port: &ServicePortName, protocol: Protocol, endpoint: &str) -> String {
    ChainNames::of(port, protocol).endpoint(endpoint)
}

fn hash(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.as_bytes());
    }
    // Ten bytes are sixteen characters, to the bit.
    BASE32.encode(&digest.finalize()[..HASH_LENGTH * 5 / 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(namespace: &str, name: &str, port: &str) -> ServicePortName {
        ServicePortName {
            namespace: namespace.into(),
            name: name.into(),
            port: port.into(),
        }
    }

    #[test]
    fn names_are_those_of_kube_proxy() {
        let cases = [
            ("ns1", "svc1", "p80", Protocol::Tcp, "KUBE-SVC-XPGD46QRK7WJZT7O"),
            ("ns1", "svc1", "p80", Protocol::Sctp, "KUBE-SVC-GFCIFIA5VTFSTMSM"),
            ("ns1", "svc1", "", Protocol::Tcp, "KUBE-SVC-AQI2S6QIMU7PVVRP"),
            (
                "kube-system",
                "kube-dns",
                "dns",
                Protocol::Udp,
                "KUBE-SVC-TCOU7JCQXEZGVUNU",
            ),
            (
                "default",
                "kubernetes",
                "https",
                Protocol::Tcp,
                "KUBE-SVC-NPX46M4PTMTKRN6Y",
            ),
        ];
        for (namespace, name, port_name, protocol, chain) in cases {
            assert_eq!(
                service_chain(ChainKind::Service, &port(namespace, name, port_name), protocol),
                chain
            );
        }
        let web = port("ns1", "svc1", "p80");
        assert_eq!(
            endpoint_chain(&web, Protocol::Tcp, "10.180.0.1:80"),
            "KUBE-SEP-SXIVWICOYRO3J4NJ"
        );
        assert_eq!(
            endpoint_chain(&web, Protocol::Sctp, "10.180.0.1:80"),
            "KUBE-SEP-RFW33Y6OHVBQ4W3M"
        );
        assert_eq!(
            endpoint_chain(&web, Protocol::Tcp, "[ff06::c1]:80"),
            "KUBE-SEP-LIGRYQQLSZN4UWQ5"
        );
    }

    #[test]
    fn only_whole_hashes_are_chains_of_a_service() {
        assert_eq!(
            ChainKind::of("KUBE-SEP-SXIVWICOYRO3J4NJ"),
            Some(ChainKind::Endpoint)
        );
        for foreign in [
            "KUBE-SVC-",
            "KUBE-SEP-SXIVWICOYRO3J4NJX",
            "KUBE-SEP-sxivwicoyro3j4nj",
            "KUBE-IPTABLES-HINT",
            "KUBE-SVC-0XPGD46QRK7WJZT7",
        ] {
            assert_eq!(ChainKind::of(foreign), None, "{foreign}");
        }
    }
}
