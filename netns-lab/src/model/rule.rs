//! The few iptables rules of a lab. Services are not here: they are miniproxy's.

use labkit::xtables::Family;

use super::ledger::Lab;
use super::name::Label;
use super::node::Node;

/// One rule, in the words and the order in which `iptables -S` prints it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Whose packets it sees.
    pub family: Family,
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

/// The lab's rules on one of its nodes.
pub fn rules(lab: &Lab, node: &Node) -> Vec<Rule> {
    match node.machine {
        None => among_others(lab, node).to_vec(),
        Some(_) => alone(lab, node),
    }
}

/// On a node that has rules of others.
///
/// Pod traffic is accepted where FORWARD would drop it, as Docker's policy does. But what goes to a
/// virtual IP is not: where a Service has no endpoints nothing translates that address, and the
/// REJECT in `KUBE-SERVICES`, which stands behind these rules, must see it.
fn among_others(lab: &Lab, node: &Node) -> [Rule; 3] {
    let (pods, services, bridge) = (node.pod_cidr.trunc(), lab.service_cidr.trunc(), &node.bridge);
    let mark = format!("-m comment --comment \"{}\"", mark(&lab.name));
    let rule = |table, chain, spec| Rule {
        family: Family::V4,
        table,
        chain,
        spec,
    };
    [
        rule(
            "nat",
            "POSTROUTING",
            format!("-s {pods} ! -o {bridge} {mark} -j MASQUERADE"),
        ),
        rule(
            "filter",
            "FORWARD",
            format!("-s {pods} ! -d {services} -i {bridge} {mark} -j ACCEPT"),
        ),
        rule(
            "filter",
            "FORWARD",
            format!("-d {pods} -o {bridge} {mark} -j ACCEPT"),
        ),
    ]
}

/// On a node that is a namespace of its own, where nobody drops anything: pods keep their address
/// on the way to pods of all nodes, and take the node's when they leave the cluster.
fn alone(lab: &Lab, node: &Node) -> Vec<Rule> {
    let mark = format!("-m comment --comment \"{}\"", mark(&lab.name));
    let bridge = &node.bridge;
    let rule = |family, pods: String, all: String| Rule {
        family,
        table: "nat",
        chain: "POSTROUTING",
        spec: format!("-s {pods} ! -d {all} ! -o {bridge} {mark} -j MASQUERADE"),
    };
    let first = rule(
        Family::V4,
        node.pod_cidr.trunc().to_string(),
        lab.pod_cidr.trunc().to_string(),
    );
    let second = node
        .pod_cidr6
        .zip(lab.pod_cidr6)
        .map(|(pods, all)| rule(Family::V6, pods.to_string(), all.to_string()));
    std::iter::once(first).chain(second).collect()
}
