//! What the rules themselves say of the family and the table that they are of.

use super::super::rule::{Match, Rule, Target};
use super::super::set::TableName;
use super::reader::Section;

/// Whether a rule is one for IPv4, and for IPv6.
pub(super) fn families(rule: &Rule, line: &str) -> (bool, bool) {
    let mut four = line.contains("icmp-port") || line.contains("-p icmp");
    let mut six = line.contains("icmp6-") || line.contains("ipv6-icmp");
    for condition in &rule.matches {
        if let Match::Address { network, .. } = condition {
            four |= network.addr().is_ipv4();
            six |= network.addr().is_ipv6();
        }
    }
    if let Some(Target::Dnat(to)) = &rule.target {
        six |= to.starts_with('[');
        four |= !to.starts_with('[');
    }
    (four, six)
}

/// Chains that only one table has, and targets that only it takes.
pub(super) fn guessed_table(section: &Section<'_>) -> TableName {
    let named = section.chains.iter().map(|(name, _)| *name);
    let used = section.rules.iter().map(|(chain, _, _)| chain.as_str());
    let is_nat = |chain: &str| {
        matches!(
            chain,
            "PREROUTING" | "POSTROUTING" | "KUBE-MARK-MASQ" | "KUBE-POSTROUTING" | "KUBE-SERVICES"
        ) || ["KUBE-SVC-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-"]
            .iter()
            .any(|prefix| chain.starts_with(prefix))
    };
    let is_filter = |chain: &str| matches!(chain, "FORWARD" | "KUBE-FORWARD" | "KUBE-FIREWALL");
    let rewrites = |rule: &Rule| matches!(rule.target, Some(Target::Dnat(_) | Target::Masquerade { .. }));
    let all: Vec<&str> = named.chain(used).collect();
    if section.rules.iter().any(|(_, _, rule)| rewrites(rule)) {
        return TableName::Nat;
    }
    if all.iter().any(|chain| is_filter(chain)) || !all.iter().any(|chain| is_nat(chain)) {
        return TableName::Filter;
    }
    TableName::Nat
}

/// Of rules without a table's name: whether kube-proxy, or anybody, can only have it in filter.
pub(super) fn is_of_filter(chain: &str, rule: &Rule) -> bool {
    let refuses = matches!(rule.target, Some(Target::Drop | Target::Reject))
        || matches!(&rule.target, Some(Target::Other(words)) if words.get(1).is_some_and(|name| name == "REJECT"));
    let asks_for_state = rule
        .matches
        .iter()
        .any(|condition| matches!(condition, Match::CtState { .. }));
    let leads_to = match &rule.target {
        Some(Target::Jump(to)) => to.as_str(),
        _ => "",
    };
    match chain {
        "INPUT" | "FORWARD" | "KUBE-FORWARD" | "KUBE-EXTERNAL-SERVICES" | "KUBE-PROXY-FIREWALL" => true,
        "OUTPUT" => asks_for_state || leads_to == "KUBE-FIREWALL" || refuses,
        "KUBE-NODEPORTS" => refuses || rule.target == Some(Target::Accept),
        _ => refuses,
    }
}
