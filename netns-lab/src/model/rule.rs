//! The few iptables rules of a lab. Services are not here: they are miniproxy's.

use super::ledger::Lab;
use super::name::Label;

/// One rule, in the words and the order in which `iptables -S` prints it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The table.
    pub table: &'static str,
    /// The chain.
    pub chain: &'static str,
    /// Matches and target.
    pub spec: String,
}

impl Rule {
    /// The line that `iptables -S` prints for it.
    pub fn listed(&self) -> String {
        format!("-A {} {}", self.chain, self.spec)
    }

    /// Whether it must stand before what is there already.
    ///
    /// In FORWARD it must: rules that drop may follow, or the policy may.
    pub fn goes_first(&self) -> bool {
        self.chain == "FORWARD"
    }
}

/// The comment of a lab's rules.
pub fn mark(lab: &Label) -> String {
    format!("netns-lab {lab}")
}

/// The rules of a lab.
///
/// Pod traffic is accepted where FORWARD would drop it, as Docker's policy does. But what goes to a
/// virtual IP is not: where a Service has no endpoints nothing translates that address, and the
/// REJECT in `KUBE-SERVICES`, which stands behind these rules, must see it.
pub fn rules(lab: &Lab) -> [Rule; 3] {
    let (pods, services, bridge) = (lab.pod_cidr.trunc(), lab.service_cidr.trunc(), &lab.bridge);
    let mark = format!("-m comment --comment \"{}\"", mark(&lab.name));
    [
        Rule {
            table: "nat",
            chain: "POSTROUTING",
            spec: format!("-s {pods} ! -o {bridge} {mark} -j MASQUERADE"),
        },
        Rule {
            table: "filter",
            chain: "FORWARD",
            spec: format!("-s {pods} ! -d {services} -i {bridge} {mark} -j ACCEPT"),
        },
        Rule {
            table: "filter",
            chain: "FORWARD",
            spec: format!("-d {pods} -o {bridge} {mark} -j ACCEPT"),
        },
    ]
}
