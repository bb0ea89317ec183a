//! Texts that are no dump, and dumps in which others than kube-proxy's iptables mode are at work.

use super::super::rule::{Match, Rule};
use super::super::set::{Chains, Found, TableName};

/// How bytes that were made smaller are made text again; `None` where they were not.
pub fn compressed(bytes: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 4] = [
        (&[0x1f, 0x8b], "it is compressed: gunzip it first"),
        (
            &[0xfd, b'7', b'z', b'X', b'Z', 0],
            "it is compressed: unxz it first",
        ),
        (&[0x28, 0xb5, 0x2f, 0xfd], "it is compressed: unzstd it first"),
        (b"BZh", "it is compressed: bunzip2 it first"),
    ];
    let found = known.iter().find(|(begin, _)| bytes.starts_with(begin));
    found.map(|(_, what)| *what)
}

/// What a text is that holds no rule at all, and what to do; `None` when nothing is known of it.
pub fn something_else(bytes: &[u8]) -> Option<&'static str> {
    if let Some(what) = compressed(bytes) {
        return Some(what);
    }
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]);
    if text.contains("Chain ") && text.contains("target") && text.contains("prot") {
        return Some("this is a listing for people, of one table: save the rules with iptables-save");
    }
    if text.contains("chain ") && text.contains("table ") && text.contains('{') {
        return Some("this is how nft prints rules: save them with iptables-save");
    }
    if text.contains("\"nftables\"") {
        return Some("this is how nft prints rules as JSON: save them with iptables-save");
    }
    if text.trim_start().starts_with(['{', '[']) {
        return Some("this is JSON: a registry is given by --registry");
    }
    None
}

/// Who sends packets to pods without these rules, by the looks of them.
pub(super) fn elsewhere(found: &Found, comments: &[&'static str]) -> Option<&'static str> {
    let chains = |table| found.tables.get(&table).into_iter().flat_map(Chains::iter);
    let all = || TableName::WALKED.into_iter().flat_map(chains);
    let begins = |prefix: &str| all().any(|(name, _)| name.starts_with(prefix));
    let by_sets = |rule: &Rule| {
        let set = |condition: &Match| matches!(condition, Match::Other(words) if words.iter().any(|word| word == "--match-set") && words.iter().any(|word| word.starts_with("KUBE-")));
        rule.matches.iter().any(set)
    };
    if chains(TableName::Nat).any(|(_, rules)| rules.iter().any(by_sets)) {
        return Some("kube-proxy in its ipvs mode (ipvsadm -Ln shows it)");
    }
    let kube_proxy = found.chain(TableName::Nat, "KUBE-SERVICES");
    if kube_proxy.is_some_and(|rules| !rules.is_empty()) {
        return None;
    }
    if let Some(known) = comments.first() {
        return Some(known);
    }
    let others = [
        ("CILIUM_", "Cilium, by eBPF"),
        (
            "KUBE-ROUTER-SERVICES",
            "kube-router, by ipvs (ipvsadm -Ln shows it)",
        ),
        ("OVN-KUBE-", "OVN-Kubernetes, in Open vSwitch"),
        ("ANTREA-", "Antrea, in Open vSwitch"),
    ];
    if let Some((_, who)) = others.into_iter().find(|(prefix, _)| begins(prefix)) {
        return Some(who);
    }
    // What kubelet leaves in each table shows a node of a cluster; kube-proxy in another mode leaves nothing.
    let kubelet = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-FIREWALL"];
    let is_node = kubelet.iter().any(|chain| all().any(|(name, _)| name == chain));
    (is_node && !begins("KUBE-SERVICES") && !begins("KUBE-SVC-") && !begins("KUBE-SEP-")).then_some(
        "something else than kube-proxy's iptables mode: in its nftables mode, nft list table ip kube-proxy shows it",
    )
}

/// What a comment of iptables-save says of rules that it does not print.
pub(super) fn hidden(comment: &str) -> Option<&'static str> {
    if comment.contains("kube-proxy") && comment.contains("incompatible") {
        return Some("kube-proxy in its nftables mode (nft list table ip kube-proxy shows it)");
    }
    let other = comment.contains("tables present") || comment.contains("is incompatible, use 'nft'");
    other.then_some("rules that iptables-save did not print: those of the other iptables, or of nft")
}
