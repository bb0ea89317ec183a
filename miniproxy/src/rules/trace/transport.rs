//! The protocols that a packet can have: those of Services, and ICMP, which no Service has.

use std::fmt;

use crate::model::Protocol;

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A protocol that Services have, with ports.
    Of(Protocol),
    /// ICMP of the packet's IP version: an echo request, as ping sends it. It has no ports.
    Icmp,
}

impl Transport {
    /// `tcp`, `udp`, `sctp` or `icmp`.
    pub fn lower(self) -> &'static str {
        match self {
            Self::Of(protocol) => protocol.lower(),
            Self::Icmp => "icmp",
        }
    }

    /// Whether its packets go to a port.
    pub fn has_ports(self) -> bool {
        self != Self::Icmp
    }

    /// Whether iptables means it by this name or number.
    pub(super) fn is_called(self, name: &str) -> bool {
        let names: &[&str] = match self {
            Self::Of(Protocol::Tcp) => &["tcp", "6"],
            Self::Of(Protocol::Udp) => &["udp", "17"],
            Self::Of(Protocol::Sctp) => &["sctp", "132"],
            Self::Icmp => &["icmp", "1", "ipv6-icmp", "icmpv6", "icmp6", "58"],
        };
        names.contains(&name) || matches!(name, "all" | "0")
    }
}

impl From<Protocol> for Transport {
    fn from(protocol: Protocol) -> Self {
        Self::Of(protocol)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.lower())
    }
}
