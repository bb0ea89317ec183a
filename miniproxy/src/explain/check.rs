//! What must be so besides the rules: for the reply, and for the packet to get that far.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::make::Question;
use super::{Backend, Check, Masquerade, NOTHING, Report, Verdict, percent};
use crate::rules::trace::Transport;
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
    /// Ports of bridges, and whether each sends back by the way that a packet came.
    pub ports: BTreeMap<String, bool>,
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
        Verdict::NoRule if !report.certain => {
            "not known: a rule that is not here may take it, or reject it".into()
        }
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
    report.masquerade != Masquerade::Yes && near_backends(report, question).next().is_some()
}

/// The backends that are on the caller's node.
fn near_backends<'r>(
    report: &'r Report,
    question: &'r Question<'_>,
) -> impl Iterator<Item = (&'r Backend, IpAddr)> {
    let source = question.call.packet.source;
    let node_of = |ip: IpAddr| question.book.pod_at(ip).and_then(|pod| pod.node.as_deref());
    let home = node_of(source);
    let from = question.host.and_then(|host| host.interface_to(source));
    let is_near = move |ip: IpAddr| match home {
        Some(node) => node_of(ip) == Some(node),
        None => from.is_some() && question.host.and_then(|host| host.interface_to(ip)) == from,
    };
    let made_here = report.packet.made_here;
    addressed(report).filter(move |(_, ip)| !made_here && is_near(*ip))
}

fn addressed(report: &Report) -> impl Iterator<Item = (&Backend, IpAddr)> {
    report.backends.iter().filter_map(|backend| {
        let address = backend.address.parse::<std::net::SocketAddr>().ok()?;
        Some((backend, address.ip()))
    })
}

/// All checks that can be made.
pub(super) fn checks(report: &Report, question: &Question<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    if report.verdict == Verdict::Dnat {
        checks.push(shares(report));
    }
    checks.extend(endpoints(report, question));
    let fragment = question.pasted.is_fragment;
    let cut = !question.pasted.cut.is_empty();
    let without_filter = question.host.is_none() && !question.pasted.has_filter;
    let beside = question.pasted.beside;
    checks.push(Check {
        name: "wholeDump",
        ok: Some(!(question.pasted.is_in_part() || without_filter)),
        costs: None,
        text: if fragment {
            "only some of the rules"
        } else if cut {
            "the rules are cut off"
        } else if without_filter {
            "the filter table is not here"
        } else if beside {
            "the rules of the other iptables are not walked"
        } else {
            "rules whole"
        }
        .into(),
    });
    checks.extend(itself(report, question));
    if let Some(host) = question.host {
        on_host(host, report, question, &mut checks);
    }
    checks
}

/// A caller that is sent to itself is answered only if it sees another source than its own.
fn itself(report: &Report, question: &Question<'_>) -> Option<Check> {
    let source = question.call.packet.source;
    let (backend, _) = addressed(report).find(|(_, ip)| *ip == source)?;
    if report.packet.made_here || report.verdict != Verdict::Dnat {
        return None;
    }
    let ok = match report.masquerade {
        Masquerade::Unknown => None,
        _ => Some(backend.masquerade),
    };
    Some(Check {
        name: "itself",
        ok,
        costs: (ok == Some(false)).then_some(backend.share),
        text: match ok {
            Some(true) => "the caller, where it reaches itself, is masqueraded",
            Some(false) => {
                "the caller is sent to itself with its own address as the source, and no answer comes back to that"
            }
            None => "whether the caller is masqueraded where it reaches itself is in doubt",
        }
        .into(),
    })
}

fn shares(report: &Report) -> Check {
    let sum: f64 = report.backends.iter().map(|backend| backend.share).sum();
    let whole = (sum - 1.0).abs() < 1e-6;
    Check {
        name: "shares",
        // What is not known may make up for what is missing.
        ok: (report.not_known < NOTHING).then_some(whole),
        costs: None,
        text: if whole {
            "shares make 100%".into()
        } else {
            format!("shares make {}", percent(sum))
        },
    }
}

/// What a registry has as ready, and what the rules send packets to.
fn endpoints(report: &Report, question: &Question<'_>) -> Option<Check> {
    let port = question.call.port.as_ref()?;
    let wanted = &port.endpoints;
    let is_asked = question.call.packet.protocol == Transport::Of(port.protocol);
    if wanted.is_empty() || !is_asked {
        return None;
    }
    let found: BTreeSet<IpAddr> = addressed(report).map(|(_, ip)| ip).collect();
    let there = wanted.intersection(&found).count();
    Some(Check {
        name: "endpoints",
        costs: None,
        // Traffic policies leave out some, rightly.
        ok: (there == wanted.len() && found.len() == wanted.len())
            .then_some(true)
            .or_else(|| found.iter().any(|ip| !wanted.contains(ip)).then_some(false)),
        text: format!("{there} of {} endpoints in the rules", wanted.len()),
    })
}

fn on_host(host: &Host, report: &Report, question: &Question<'_>, checks: &mut Vec<Check>) {
    let sent = report.verdict == Verdict::Dnat;
    if report.packet.made_here {
        checks.push(route(question));
    } else {
        checks.extend(forward(host, report, question));
    }
    if sent && near(report, question) {
        checks.push(bridge(host, report, question));
    }
    checks.extend(hairpin(host, report, question));
    checks.push(Check {
        name: "oneIptables",
        ok: Some(!host.mixed),
        costs: None,
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
            costs: None,
            text: if owned {
                "an interface has the cluster IP"
            } else {
                "no interface has the cluster IP"
            }
            .into(),
        });
    }
}

/// The node needs a route before iptables can rewrite what it sends.
fn route(question: &Question<'_>) -> Check {
    let to = question.call.packet.destination;
    Check {
        name: "route",
        ok: Some(!question.no_route),
        costs: question.no_route.then_some(1.0),
        text: if question.no_route {
            format!("the node has no route to {to}, so the packet is not even made")
        } else {
            format!("the node has a route to {to}")
        },
    }
}

fn forward(host: &Host, report: &Report, question: &Question<'_>) -> Option<Check> {
    let key = if question.call.packet.destination.is_ipv4() {
        "net.ipv4.ip_forward"
    } else {
        "net.ipv6.conf.all.forwarding"
    };
    let value = host.sysctls.get(key)?;
    let off = value == "0";
    // What is for the node itself is not forwarded; all backends are elsewhere.
    let passed_on: f64 = addressed(report)
        .filter(|(_, ip)| !host.owns(*ip))
        .map(|(backend, _)| backend.share)
        .sum();
    Some(Check {
        name: "forward",
        ok: Some(!off),
        costs: (off && report.verdict == Verdict::Dnat).then_some(passed_on),
        text: format!("ip_forward = {value}"),
    })
}

/// Answers between two ports of one bridge meet no rule, so that nobody rewrites them back.
fn bridge(host: &Host, report: &Report, question: &Question<'_>) -> Check {
    let value = host.sysctls.get("net.bridge.bridge-nf-call-iptables");
    let on = value.is_some_and(|value| value != "0");
    let source = question.call.packet.source;
    let short = near_backends(report, question).filter(|(backend, ip)| !backend.masquerade && *ip != source);
    let concerned: f64 = short.map(|(backend, _)| backend.share).sum();
    Check {
        name: "bridge",
        ok: Some(on),
        costs: (!on && !host.ports.is_empty()).then_some(concerned),
        text: format!(
            "br_netfilter {}",
            value.map_or("is not loaded".into(), |value| format!("= {value}"))
        ),
    }
}

/// A bridge sends nothing back by the port that it came from, unless it is told to.
fn hairpin(host: &Host, report: &Report, question: &Question<'_>) -> Option<Check> {
    let source = question.call.packet.source;
    let (backend, _) = addressed(report).find(|(_, ip)| *ip == source)?;
    let port = question.book.pod_at(source)?.interface.as_ref()?;
    let on = *host.ports.get(port)?;
    Some(Check {
        name: "hairpin",
        ok: Some(on),
        // Without a masquerade it fails anyway.
        costs: (!on && backend.masquerade && report.verdict == Verdict::Dnat).then_some(backend.share),
        text: format!("hairpin {} at {port}", if on { "on" } else { "off" }),
    })
}
