//! What must be so besides the rules: for the reply, and for the packet to get that far.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::make::Question;
use super::{Check, Masquerade, Report, Verdict, percent};
use crate::target::Door;

/// What a node says of itself, as far as it was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Its interfaces, each with its addresses and the networks they are in.
    pub interfaces: Vec<(String, IpNet)>,
    /// Routes to other networks.
    pub routes: Vec<(IpNet, String)>,
    /// Settings of the kernel: `net.ipv4.ip_forward` → `1`.
    pub sysctls: BTreeMap<String, String>,
    /// Rules stand in both flavours of iptables.
    pub mixed: bool,
}

impl Host {
    /// The interface behind which an address is; default routes do not count.
    pub fn interface_to(&self, ip: IpAddr) -> Option<&str> {
        let direct = self.interfaces.iter().map(|(name, network)| (network, name));
        let routed = self.routes.iter().map(|(network, name)| (network, name));
        let holding = direct
            .chain(routed)
            .filter(|(network, _)| network.prefix_len() > 0 && network.contains(&ip));
        holding
            .max_by_key(|(network, _)| network.prefix_len())
            .map(|(_, name)| name.as_str())
    }

    /// The node's own address on the interface towards another.
    pub fn address_towards(&self, ip: IpAddr) -> Option<IpAddr> {
        let name = self.interface_to(ip)?;
        let own = self.interfaces.iter().filter(|(own, _)| own == name);
        own.map(|(_, network)| network.addr())
            .find(|own| own.is_ipv4() == ip.is_ipv4())
    }

    fn owns(&self, ip: IpAddr) -> bool {
        self.interfaces.iter().any(|(_, network)| network.addr() == ip)
    }
}

/// What happens to the reply.
pub(super) fn way_back(report: &Report, question: &Question<'_>) -> String {
    match report.verdict {
        Verdict::Reject => format!("the node answers at once: {}", refusal(report)),
        Verdict::Drop => "nothing: the caller waits until it gives up".into(),
        Verdict::NoRule if question.call.door == Door::NodePort => {
            "the node itself answers: refused, unless a process listens on that port".into()
        }
        Verdict::NoRule if report.falls_through > 0.0 || question.call.door != Door::Address => {
            "nothing: the packet leaves for an address that nobody has".into()
        }
        Verdict::NoRule => format!(
            "the packet leaves as it is: who has {}, answers; a Service's address nobody has",
            report.packet.destination
        ),
        Verdict::Unknown => "not known".into(),
        Verdict::Accept => "no nat rule rewrote it: the reply comes from the address that was asked".into(),
        Verdict::Dnat => {
            let undone = match report.masquerade {
                Masquerade::No => "the DNAT",
                Masquerade::Unknown => "the DNAT, and the masquerade if there was one",
                Masquerade::Yes | Masquerade::Some => "the DNAT and the masquerade",
            };
            let bridge = if near(report, question) {
                "; on one bridge that needs br_netfilter"
            } else {
                ""
            };
            format!("no nat rule is read: conntrack undoes {undone}{bridge}")
        }
    }
}

/// What the caller is told.
fn refusal(report: &Report) -> String {
    let texts = report.ends.iter().filter(|end| end.verdict == "reject");
    let with = texts
        .filter_map(|end| end.text.as_deref()?.split_once("--reject-with "))
        .find_map(|(_, with)| with.split_whitespace().next());
    match with {
        None | Some("icmp-port-unreachable" | "icmp6-port-unreachable") => "ICMP port unreachable".into(),
        Some("tcp-reset") => "a TCP reset".into(),
        Some(other) => format!("{other} (ICMP)"),
    }
}

/// Whether the caller and a backend are on one node, where replies may take the short way.
fn near(report: &Report, question: &Question<'_>) -> bool {
    if report.masquerade == Masquerade::Yes || report.packet.made_here {
        return false;
    }
    let source = question.call.packet.source;
    let node_of = |ip: IpAddr| question.book.pod_at(ip).and_then(|pod| pod.node.as_deref());
    let addresses = report
        .backends
        .iter()
        .filter_map(|backend| backend.address.parse::<std::net::SocketAddr>().ok());
    let mut backends = addresses.map(|address| address.ip());
    match (question.host, node_of(source)) {
        (_, Some(node)) => backends.any(|ip| node_of(ip) == Some(node)),
        (Some(host), None) => {
            let from = host.interface_to(source);
            from.is_some() && backends.any(|ip| host.interface_to(ip) == from)
        }
        (None, None) => false,
    }
}

/// All checks that can be made.
pub(super) fn checks(report: &Report, question: &Question<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    if report.verdict == Verdict::Dnat {
        checks.push(shares(report));
    }
    checks.extend(endpoints(report, question));
    let fragment = question.pasted.is_fragment;
    let cut = fragment || !question.pasted.cut.is_empty();
    checks.push(Check {
        name: "wholeDump",
        ok: Some(!cut),
        text: if fragment {
            "only some of the rules"
        } else if cut {
            "the rules are cut off"
        } else {
            "rules whole"
        }
        .into(),
    });
    if let Some(host) = question.host {
        on_host(host, report, question, &mut checks);
    }
    checks
}

fn shares(report: &Report) -> Check {
    let sum: f64 = report.backends.iter().map(|backend| backend.share).sum();
    let whole = (sum - 1.0).abs() < 1e-6;
    Check {
        name: "shares",
        ok: Some(whole),
        text: if whole {
            "shares make 100%".into()
        } else {
            format!("shares make {}", percent(sum))
        },
    }
}

/// What a registry has as ready, and what the rules send packets to.
fn endpoints(report: &Report, question: &Question<'_>) -> Option<Check> {
    let wanted = &question.call.port.as_ref()?.endpoints;
    if wanted.is_empty() {
        return None;
    }
    let addresses = report
        .backends
        .iter()
        .filter_map(|backend| backend.address.parse::<std::net::SocketAddr>().ok());
    let found: BTreeSet<IpAddr> = addresses.map(|address| address.ip()).collect();
    let there = wanted.intersection(&found).count();
    Some(Check {
        name: "endpoints",
        // Traffic policies leave out some, rightly.
        ok: (there == wanted.len() && found.len() == wanted.len())
            .then_some(true)
            .or_else(|| found.iter().any(|ip| !wanted.contains(ip)).then_some(false)),
        text: format!("{there} of {} endpoints in the rules", wanted.len()),
    })
}

fn on_host(host: &Host, report: &Report, question: &Question<'_>, checks: &mut Vec<Check>) {
    let setting = |key: &str| host.sysctls.get(key).map(String::as_str);
    let forward = if question.call.packet.destination.is_ipv4() {
        "net.ipv4.ip_forward"
    } else {
        "net.ipv6.conf.all.forwarding"
    };
    if let Some(value) = setting(forward).filter(|_| !report.packet.made_here) {
        checks.push(Check {
            name: "forward",
            ok: Some(value != "0"),
            text: format!("ip_forward = {value}"),
        });
    }
    if report.verdict == Verdict::Dnat && near(report, question) {
        let value = setting("net.bridge.bridge-nf-call-iptables");
        checks.push(Check {
            name: "bridge",
            ok: Some(value.is_some_and(|value| value != "0")),
            text: format!(
                "br_netfilter {}",
                value.map_or("is not loaded".into(), |value| format!("= {value}"))
            ),
        });
    }
    checks.push(Check {
        name: "oneIptables",
        ok: Some(!host.mixed),
        text: if host.mixed {
            "rules in both iptables"
        } else {
            "one iptables"
        }
        .into(),
    });
    if question.call.door == Door::ClusterIp {
        let owned = host.owns(question.call.packet.destination);
        checks.push(Check {
            name: "noOwner",
            ok: Some(!owned),
            text: if owned {
                "an interface has the cluster IP"
            } else {
                "no interface has the cluster IP"
            }
            .into(),
        });
    }
}
