//! The part of the rules that no Service changes: fixed chains, their rules, and the jumps to them.
//!
//! Source: `pkg/proxy/iptables/proxier.go` of Kubernetes 1.30.

use std::net::IpAddr;

use ipnet::IpNet;
use labkit::xtables::Family;

use super::rule::{Match, Rule, Side, Target};
use super::set::{Found, Jump, TableName, Wanted};
use crate::model::{Counters, ProxyConfig};

/// Dispatches by virtual IP, in nat; rejects what has no endpoints, in filter.
pub const SERVICES: &str = "KUBE-SERVICES";
/// Dispatches by node port.
pub const NODE_PORTS: &str = "KUBE-NODEPORTS";
/// Masquerades what is marked.
pub const POSTROUTING: &str = "KUBE-POSTROUTING";
/// Marks for masquerade.
pub const MARK_MASQ: &str = "KUBE-MARK-MASQ";
/// Rejects external traffic that has no endpoints.
pub const EXTERNAL_SERVICES: &str = "KUBE-EXTERNAL-SERVICES";
/// Accepts Service traffic where FORWARD drops.
pub const FORWARD: &str = "KUBE-FORWARD";
/// Drops what a load balancer's source ranges did not admit.
pub const PROXY_FIREWALL: &str = "KUBE-PROXY-FIREWALL";
/// Keeps strangers away from 127.0.0.0/8.
pub const FIREWALL: &str = "KUBE-FIREWALL";
/// An empty chain: when it is gone, somebody flushed everything.
pub const CANARY: &str = "KUBE-PROXY-CANARY";

/// The counter of packets that belong to no connection.
pub const INVALID_DROPPED: &str = "ct_state_invalid_dropped_pkts";
/// The counter of packets to node ports on 127.0.0.0/8.
pub const LOCALHOST_ACCEPTED: &str = "localhost_nps_accepted_pkts";

const FILTER_CHAINS: [&str; 7] = [
    SERVICES,
    EXTERNAL_SERVICES,
    FORWARD,
    NODE_PORTS,
    PROXY_FIREWALL,
    FIREWALL,
    CANARY,
];
const NAT_CHAINS: [&str; 5] = [SERVICES, NODE_PORTS, POSTROUTING, MARK_MASQ, CANARY];

/// The chains of a table that are there with or without Services, in kube-proxy's order.
pub fn chains(table: TableName) -> &'static [&'static str] {
    match table {
        TableName::Filter => &FILTER_CHAINS,
        TableName::Nat => &NAT_CHAINS,
        TableName::Mangle => &[CANARY],
        TableName::Raw | TableName::Security => &[],
    }
}

/// Makes the fixed chains with their rules, and the jumps; the rule that must be last in nat
/// `KUBE-SERVICES` is [`node_port_rules`].
pub fn base(config: &ProxyConfig) -> Wanted {
    let mut wanted = Wanted {
        jumps: jumps(),
        ..Wanted::default()
    };
    for table in TableName::ALL {
        for chain in chains(table) {
            wanted.chain(table, chain);
        }
    }
    let mark = config.mark();
    *wanted.chain(TableName::Nat, POSTROUTING) = postrouting_rules(mark);
    wanted
        .chain(TableName::Nat, MARK_MASQ)
        .push(Rule::new().to(Target::SetXmark {
            value: mark,
            mask: mark,
        }));
    *wanted.chain(TableName::Filter, FORWARD) = forward_rules(config);
    if config.family == Family::V4 && config.localhost_node_ports {
        wanted.chain(TableName::Filter, FIREWALL).push(localnet_rule());
    }
    wanted
}

fn postrouting_rules(mark: u32) -> Vec<Rule> {
    vec![
        Rule::new()
            .with(Match::Mark {
                value: mark,
                mask: mark,
                negated: true,
            })
            .to(Target::Return),
        // Cleared, so that a packet that passes again is not masqueraded twice.
        Rule::new().to(Target::SetXmark { value: mark, mask: 0 }),
        Rule::new()
            .comment("kubernetes service traffic requiring SNAT")
            .to(Target::Masquerade { random_fully: true }),
    ]
}

fn forward_rules(config: &ProxyConfig) -> Vec<Rule> {
    let mark = config.mark();
    let established = Match::ct_state(["RELATED", "ESTABLISHED"], false);
    // A stray packet that is not rewritten would make its receiver reset the connection
    // (kubernetes#74839). A liberal kernel calls no packet of a connection INVALID.
    let mut invalid = Rule::new().ct_state("INVALID");
    if config.counters.invalid {
        invalid = invalid.with(Match::Counter(INVALID_DROPPED.into()));
    }
    let invalid = config.drop_invalid.then(|| invalid.to(Target::Drop));
    let mut rules: Vec<Rule> = invalid.into_iter().collect();
    rules.extend([
        Rule::new()
            .comment("kubernetes forwarding rules")
            .with(Match::Mark {
                value: mark,
                mask: mark,
                negated: false,
            })
            .to(Target::Accept),
        Rule::new()
            .comment("kubernetes forwarding conntrack rule")
            .with(established)
            .to(Target::Accept),
    ]);
    rules
}

/// 127.0.0.0/8
pub(super) fn localnet() -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::new_assert(
        std::net::Ipv4Addr::new(127, 0, 0, 0),
        8,
    ))
}

/// The counters that rules count with: kube-proxy makes them where it can, so that they say what its
/// kernel could.
pub fn counters_in(found: &Found) -> Counters {
    let counts = |table, chain, name: &str| {
        let rules = found.chain(table, chain).unwrap_or_default();
        let is = |condition: &Match| matches!(condition, Match::Counter(counter) if counter == name);
        rules.iter().any(|rule| rule.matches.iter().any(is))
    };
    Counters {
        invalid: counts(TableName::Filter, FORWARD, INVALID_DROPPED),
        localhost: counts(TableName::Nat, NODE_PORTS, LOCALHOST_ACCEPTED),
    }
}

/// route_localnet, which localhost node ports need, would let neighbours reach 127.0.0.1 (CVE-2020-8558).
fn localnet_rule() -> Rule {
    Rule::new()
        .comment("block incoming localnet connections")
        .network(Side::Destination, localnet(), false)
        .network(Side::Source, localnet(), true)
        .with(Match::ct_state(["RELATED", "ESTABLISHED", "DNAT"], true))
        .to(Target::Drop)
}

/// The last rules of nat `KUBE-SERVICES`: what is for this node's own addresses may be for a node port.
pub fn node_port_rules(config: &ProxyConfig) -> Vec<Rule> {
    let comment = "kubernetes service nodeports; NOTE: this must be the last rule in this chain";
    let rule = || Rule::new().comment(comment);
    let Some(addresses) = &config.node_port_addresses else {
        let local = rule().with(Match::LocalAddress(Side::Destination));
        let local = match config.family {
            Family::V6 => local.network(
                Side::Destination,
                IpNet::from(IpAddr::from(std::net::Ipv6Addr::LOCALHOST)),
                true,
            ),
            Family::V4 if config.localhost_node_ports => local,
            Family::V4 => local.network(Side::Destination, localnet(), true),
        };
        return vec![local.jump(NODE_PORTS)];
    };
    let loopback_works = config.family == Family::V4 && config.localhost_node_ports;
    let usable = addresses
        .iter()
        .filter(|address| !address.is_loopback() || loopback_works);
    usable
        .map(|address| rule().host(Side::Destination, *address).jump(NODE_PORTS))
        .collect()
}

/// The jumps from built-in chains, in the order in which kube-proxy inserts each at the head.
fn jumps() -> Vec<Jump> {
    use TableName::{Filter, Nat};
    let new = |rule: Rule| rule.ct_state("NEW");
    let plain = |rule: Rule| rule;
    let jump = |table, from, begin: &dyn Fn(Rule) -> Rule, comment: &str, to: &str| Jump {
        table,
        from,
        rule: begin(Rule::new()).comment(comment).jump(to),
    };
    let portals = "kubernetes service portals";
    let visible = "kubernetes externally-visible service portals";
    let balancer = "kubernetes load balancer firewall";
    let mut all = vec![
        jump(Filter, "INPUT", &new, visible, EXTERNAL_SERVICES),
        jump(Filter, "FORWARD", &new, visible, EXTERNAL_SERVICES),
        jump(
            Filter,
            "INPUT",
            &plain,
            "kubernetes health check service ports",
            NODE_PORTS,
        ),
        jump(Filter, "FORWARD", &new, portals, SERVICES),
        jump(Filter, "OUTPUT", &new, portals, SERVICES),
        jump(Filter, "FORWARD", &plain, "kubernetes forwarding rules", FORWARD),
        jump(Filter, "INPUT", &new, balancer, PROXY_FIREWALL),
        jump(Filter, "OUTPUT", &new, balancer, PROXY_FIREWALL),
        jump(Filter, "FORWARD", &new, balancer, PROXY_FIREWALL),
        jump(Nat, "OUTPUT", &plain, portals, SERVICES),
        jump(Nat, "PREROUTING", &plain, portals, SERVICES),
        jump(
            Nat,
            "POSTROUTING",
            &plain,
            "kubernetes postrouting rules",
            POSTROUTING,
        ),
    ];
    for from in ["INPUT", "OUTPUT"] {
        all.push(Jump {
            table: Filter,
            from,
            rule: Rule::new().jump(FIREWALL),
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::text::rule_text;
    use super::*;

    #[test]
    fn what_belongs_to_no_connection_is_counted_where_the_kernel_can() {
        let mut config = ProxyConfig::defaults(Family::V4);
        let first = |config: &ProxyConfig| rule_text(&forward_rules(config)[0]);
        assert_eq!(first(&config), "-m conntrack --ctstate INVALID -j DROP");
        config.counters.invalid = true;
        assert_eq!(
            first(&config),
            "-m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP"
        );
        let found = Found::from(&base(&config));
        assert_eq!(counters_in(&found), config.counters);
    }
}
