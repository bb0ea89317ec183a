//! What a rule asks, in few words, and where it leads.

use std::net::SocketAddr;

use crate::model::Protocol;
use crate::rules::rule::{Match, Rule, Side, Target};

/// `dst 10.96.0.80, tcp, port 80`; `everything` where nothing is asked.
pub fn asks(rule: &Rule) -> String {
    let words: Vec<String> = rule.matches.iter().filter_map(word).collect();
    if words.is_empty() {
        "everything".into()
    } else {
        words.join(", ")
    }
}

fn word(condition: &Match) -> Option<String> {
    let end = |side: Side| if side == Side::Source { "src" } else { "dst" };
    Some(match condition {
        Match::Comment(_) | Match::Counter(_) | Match::RecentSet { .. } => return None,
        Match::Address {
            side,
            network,
            negated,
        } => {
            let host = network.prefix_len() == network.max_prefix_len();
            let what = if host {
                network.addr().to_string()
            } else {
                network.to_string()
            };
            match (negated, host) {
                (true, _) => format!("{} not {what}", end(*side)),
                (false, true) => format!("{} {what}", end(*side)),
                (false, false) => format!("{} in {what}", end(*side)),
            }
        }
        Match::Interface { side, name, negated } => {
            let way = if *side == Side::Source { "in by" } else { "out by" };
            format!("{way} {}{name}", if *negated { "not " } else { "" })
        }
        Match::Protocol(protocol) => Protocol::lower(*protocol).to_string(),
        Match::DestinationPort(port) => format!("port {port}"),
        Match::Mark { value, mask, negated } if value == mask => {
            format!("{}marked {value:#x}", if *negated { "not " } else { "" })
        }
        Match::Mark { value, mask, negated } => {
            format!(
                "mark {}{value:#x} of {mask:#x}",
                if *negated { "not " } else { "" }
            )
        }
        Match::CtState { states, negated } => {
            format!("{}{}", if *negated { "not " } else { "" }, states.join("/"))
        }
        Match::LocalAddress(side) => format!("{} this node's", end(*side)),
        Match::Statistic(chance) => format!("dice {}", super::fraction(chance.fraction())),
        Match::RecentCheck { .. } => "a client seen before".into(),
        Match::Other(words) => match words.as_slice() {
            [option, _] if option == "-m" => return None,
            all => all.join(" "),
        },
    })
}

/// Whose chain it is, by its name.
pub fn owner(chain: &str) -> Option<&'static str> {
    const OWNERS: [(&str, &str); 31] = [
        ("cali-", "Calico"),
        ("cali:", "Calico"),
        ("CILIUM_", "Cilium"),
        ("OLD_CILIUM_", "Cilium"),
        ("DOCKER", "Docker"),
        ("FLANNEL", "flannel"),
        ("KUBE-ROUTER", "kube-router"),
        ("KUBE-POD-FW", "kube-router"),
        ("KUBE-NWPLCY", "kube-router"),
        ("KUBE-FIREWALL", "kubelet"),
        ("KUBE-KUBELET", "kubelet"),
        ("KUBE-", "kube-proxy"),
        ("OPENSHIFT-", "OpenShift SDN"),
        ("OVN-KUBE-", "OVN-Kubernetes"),
        ("ANTREA-", "Antrea"),
        ("IP-MASQ", "ip-masq-agent"),
        ("SUBMARINER-", "Submariner"),
        ("KILO-", "Kilo"),
        ("NETAVARK", "Podman"),
        ("CATTLE_", "Rancher"),
        ("LXD", "LXD"),
        ("ts-", "Tailscale"),
        ("f2b-", "fail2ban"),
        ("GKE-", "GKE"),
        ("AZURE", "Azure"),
        ("ufw", "ufw"),
        ("WEAVE", "Weave Net"),
        ("ISTIO_", "Istio"),
        ("CNI-", "CNI port mapping"),
        ("AWS-", "the AWS CNI"),
        ("LIBVIRT_", "libvirt"),
    ];
    let known = OWNERS.iter().find(|(prefix, _)| chain.starts_with(prefix));
    if let Some((_, owner)) = known {
        return Some(owner);
    }
    let zones = ["IN_", "FWDI_", "FWDO_", "FWD_", "PRE_", "POST_"];
    let firewalld = chain.ends_with("_direct")
        || chain.ends_with("_ZONES")
        || chain.ends_with("_POLICIES_pre")
        || chain.ends_with("_POLICIES_post")
        || zones.iter().any(|zone| chain.starts_with(zone));
    firewalld.then_some("firewalld")
}

/// The chain that a rule leads to.
pub(super) fn leads_to(rule: &Rule) -> Option<&str> {
    match &rule.target {
        Some(Target::Jump(chain)) => Some(chain),
        Some(Target::Other(words)) => match words.as_slice() {
            [option, chain] if option == "-g" => Some(chain),
            _ => None,
        },
        _ => None,
    }
}

/// Where a rule sends packets; port 0 where it keeps theirs.
pub(super) fn dnat(rule: &Rule) -> Option<SocketAddr> {
    let to = match &rule.target {
        Some(Target::Dnat(to)) => to.as_str(),
        Some(Target::Other(words)) if words.get(1).is_some_and(|name| name == "DNAT") => {
            let at = words.iter().position(|word| word == "--to-destination")?;
            words.get(at + 1)?
        }
        _ => return None,
    };
    let bare = to.trim_start_matches('[').trim_end_matches(']');
    to.parse()
        .ok()
        .or_else(|| Some(SocketAddr::new(bare.parse().ok()?, 0)))
}
