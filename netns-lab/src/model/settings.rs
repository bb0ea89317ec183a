//! Settings of the kernel: which a lab needs, and why.

use super::ledger::Lab;
use super::node::Host;

/// The setting that lets the node forward packets.
pub const IP_FORWARD: &str = "net.ipv4.ip_forward";
/// The setting that lets the node tell a sender of a shorter way. A packet to a virtual IP goes
/// back into the bridge it came from, so that the node would send a redirect with each one; that
/// uses up the few ICMP errors per second that the kernel allows, and a REJECT becomes silence.
pub const SEND_REDIRECTS: &str = "net.ipv4.conf.all.send_redirects";
/// The setting that lets iptables see what a bridge carries.
pub const BRIDGE_NF: &str = "net.bridge.bridge-nf-call-iptables";
/// The same for ip6tables.
const BRIDGE_NF6: &str = "net.bridge.bridge-nf-call-ip6tables";
const IP6_FORWARD: &str = "net.ipv6.conf.all.forwarding";

/// What a namespace of the lab has. Nothing is left as it is: a new namespace copies some settings
/// from the host's first one, which an administrator or another program may have set to anything.
pub fn wanted(lab: &Lab, host: &Host) -> Vec<(&'static str, &'static str)> {
    let dual_stack = lab.pod_cidr6.is_some();
    match host {
        Host::Underlay => vec![
            (IP_FORWARD, "0"),
            // What it carries is the nodes' matter; its own iptables must not see it.
            (BRIDGE_NF, "0"),
            (BRIDGE_NF6, "0"),
        ],
        Host::Outside => vec![
            (IP_FORWARD, "0"),
            // Connections, not only addresses, are spread over the nodes.
            ("net.ipv4.fib_multipath_hash_policy", "1"),
            ("net.ipv6.fib_multipath_hash_policy", "1"),
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            (IP6_FORWARD, "0"),
        ],
        Host::Node(_) => vec![
            (IP_FORWARD, "1"),
            (IP6_FORWARD, if dual_stack { "1" } else { "0" }),
            (SEND_REDIRECTS, "0"),
            ("net.ipv4.conf.default.send_redirects", "0"),
            // An answer may come in by another link than the one that leads back.
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            (BRIDGE_NF, "1"),
            (BRIDGE_NF6, "1"),
        ],
    }
}

/// Whether a kernel may be without it, and a lab works all the same, but for what is said then.
pub fn is_optional(key: &str) -> bool {
    [BRIDGE_NF, BRIDGE_NF6].contains(&key) || key.contains("ipv6") || key.contains("multipath")
}

/// All settings that may have to be looked at.
pub fn all(lab: &Lab, host: &Host) -> Vec<&'static str> {
    let own = wanted(lab, host).into_iter().map(|(key, _)| key);
    let mut keys: Vec<_> = own.chain([IP_FORWARD, SEND_REDIRECTS, BRIDGE_NF]).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}
