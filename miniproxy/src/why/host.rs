//! Settings, links, routes and flows of a node.

use std::net::IpAddr;

use ipnet::IpNet;
use labkit::xtables::Family;

use super::call::{Call, Via, Word};
use super::evidence::{Evidence, Seen, Spot};
use super::{Finding, add};
use crate::address::{parse_ip, parse_network};
use crate::sysctls::ROUTE_LOCALNET;

const BRIDGE_NF: &str = "net.bridge.bridge-nf-call-iptables";
const FORWARD: &str = "net.ipv4.ip_forward";

/// What is wrong on a node besides its rules.
pub fn findings(evidence: &Evidence<'_>, spot: &Spot, findings: &mut Vec<Finding>) {
    let Some(seen) = &spot.seen else { return };
    let found = [
        bridge(evidence, spot, seen),
        forwarding(spot, seen),
        full(spot, seen),
        vip_route(evidence, spot, seen),
        localnet(spot, seen),
    ];
    for finding in found.into_iter().flatten() {
        add(findings, finding);
    }
    for finding in hairpin(evidence, spot, seen)
        .into_iter()
        .chain(dead(evidence, spot, seen))
        .chain(stale(evidence, spot, seen))
        .chain(node_routes(evidence, spot, seen))
    {
        add(findings, finding);
    }
}

/// The pods of this node that are endpoints.
fn backends<'a>(evidence: &'a Evidence<'_>, spot: &'a Spot) -> Vec<&'a super::evidence::Pod> {
    let endpoints = evidence.endpoints();
    let is_one = |pod: &&super::evidence::Pod| endpoints.iter().any(|(ip, _)| pod.addresses.contains(ip));
    spot.pods.iter().filter(is_one).collect()
}

/// Answers between two ports of one bridge pass no iptables, so nobody translates them back.
fn bridge(evidence: &Evidence<'_>, spot: &Spot, seen: &Seen) -> Option<Finding> {
    let value = seen.host.sysctls.get(BRIDGE_NF);
    let on_bridge = |pod: &&super::evidence::Pod| {
        let links = seen.links.iter();
        links
            .filter(|link| Some(&link.name) == pod.interface.as_ref())
            .any(|link| link.is_port)
    };
    let pods = spot.pods.iter().filter(on_bridge).count();
    let concerned = backends(evidence, spot).iter().any(on_bridge);
    if value.is_some_and(|value| value != "0") || pods < 2 || !concerned {
        return None;
    }
    let prefix = &spot.prefix;
    let finding = Finding::certain(
        "br-netfilter-off",
        "Packets between pods of one bridge bypass iptables: the answer of a pod comes back untranslated, and its caller throws it away.",
    );
    let node = &spot.node;
    Some(match value {
        Some(value) => finding
            .seen(format!(
                "{node}: {BRIDGE_NF} = {value}, and {pods} pods share a bridge"
            ))
            .cured_by(format!("{prefix}sysctl -w {BRIDGE_NF}=1")),
        None => finding
            .seen(format!(
                "{node}: {BRIDGE_NF} is not there: br_netfilter is not loaded"
            ))
            .cured_by("modprobe br_netfilter")
            .cured_by(format!("{prefix}sysctl -w {BRIDGE_NF}=1")),
    })
}

fn forwarding(spot: &Spot, seen: &Seen) -> Option<Finding> {
    let value = seen.host.sysctls.get(FORWARD)?;
    if value != "0" || spot.pods.is_empty() {
        return None;
    }
    let sentence = "The node passes on no packets between its interfaces.";
    Some(
        Finding::certain("ip-forward-off", sentence)
            .seen(format!("{}: {FORWARD} = 0", spot.node))
            .cured_by(format!("{}sysctl -w {FORWARD}=1", spot.prefix)),
    )
}

fn full(spot: &Spot, seen: &Seen) -> Option<Finding> {
    let (entries, room) = seen.conntrack?;
    if room == 0 || entries < room {
        return None;
    }
    let sentence = "The connection table is full: packets of new connections are thrown away.";
    let more = room.saturating_mul(2);
    Some(
        Finding::certain("conntrack-full", sentence)
            .seen(format!("{}: {entries} of {room} entries", spot.node))
            .cured_by(format!("sysctl -w net.netfilter.nf_conntrack_max={more}")),
    )
}

/// A node port is at 127.0.0.1 only where the node lets packets from there leave.
fn localnet(spot: &Spot, seen: &Seen) -> Option<Finding> {
    let rules = spot.rules.get(&Family::V4)?;
    let number = rules.ports.iter().find_map(|port| port.node_port)?;
    // What keeps strangers from that address is there where node ports are served at it.
    let serves = rules.text.contains("-d 127.0.0.0/8");
    (serves && seen.host.sysctls.get(ROUTE_LOCALNET)? == "0").then(|| {
        let sentence = format!(
            "The node port {number} does not answer at 127.0.0.1: packets from there do not leave the node."
        );
        Finding::certain("no-localnet", sentence)
            .seen(format!("{}: {ROUTE_LOCALNET} = 0", spot.node))
            .cured_by(format!("{}sysctl -w {ROUTE_LOCALNET}=1", spot.prefix))
    })
}

/// The node needs a route before iptables can translate what it sends.
fn vip_route(evidence: &Evidence<'_>, spot: &Spot, seen: &Seen) -> Option<Finding> {
    let ports = spot.rules.values().flat_map(|rules| &rules.ports);
    let vip = ports
        .map(|port| port.cluster_ip)
        .find(|ip| seen.unroutable.contains(ip))?;
    // The way to a pod of this node is that to its bridge.
    let own = spot.pods.iter().flat_map(|pod| pod.addresses.iter().copied());
    let backend = own
        .chain(evidence.endpoints().into_iter().map(|(ip, _)| ip))
        .find_map(|ip| seen.host.interface_to(ip));
    let device = backend.filter(|name| *name != "*").unwrap_or("BRIDGE");
    let sentence = format!(
        "The node {} has no route to the virtual IP {vip}: its own packets are not even made, so no rule can translate them.",
        spot.node
    );
    let six = if vip.is_ipv6() { "-6 " } else { "" };
    Some(
        Finding::certain("no-vip-route", sentence)
            .seen(format!(
                "{}: ip route get {vip}: network is unreachable",
                spot.node
            ))
            .cured_by(format!(
                "{}ip {six}route replace {} dev {device}",
                spot.prefix,
                service_range(vip)
            )),
    )
}

/// The usual range of Services around a virtual IP; the objects do not tell it.
fn service_range(vip: IpAddr) -> String {
    match vip {
        IpAddr::V4(ip) => {
            let octets = ip.octets();
            format!("{}.{}.0.0/16", octets[0], octets[1])
        }
        IpAddr::V6(ip) => {
            let bits = ip.to_bits() >> 16 << 16;
            format!("{}/112", std::net::Ipv6Addr::from_bits(bits))
        }
    }
}

/// A bridge port that sends nothing back by itself.
fn hairpin(evidence: &Evidence<'_>, spot: &Spot, seen: &Seen) -> Vec<Finding> {
    let off = backends(evidence, spot).into_iter().filter_map(|pod| {
        let name = pod.interface.as_ref()?;
        let link = seen.links.iter().find(|link| link.name == *name)?;
        (link.hairpin == Some(false)).then_some((pod, name))
    });
    off.map(|(pod, name)| {
        Finding::certain(
            "hairpin-off",
            "A pod that is sent to itself waits in vain: its bridge port sends nothing back by the way it came.",
        )
        .seen(format!(
            "{}: the bridge port {name} of {} has hairpin off",
            spot.node, pod.name
        ))
        .cured_by(format!(
            "{}bridge link set dev {name} hairpin on",
            spot.prefix
        ))
    })
    .collect()
}

/// Endpoints that cannot answer: no cable, no namespace, or nobody who listens.
fn dead(evidence: &Evidence<'_>, spot: &Spot, seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pod in backends(evidence, spot) {
        let Some(name) = &pod.interface else { continue };
        let link = seen.links.iter().find(|link| link.name == *name);
        let what = match link {
            _ if pod.there == Some(false) => "its network namespace is gone".to_string(),
            None => format!("its cable {name} is gone"),
            Some(link) if !link.up => format!("its cable {name} is down"),
            Some(_) => continue,
        };
        let cure = match link {
            Some(link) if !link.up => format!("{}ip link set {name} up", spot.prefix),
            _ => "netns-lab status".to_string(),
        };
        findings.push(
            Finding::certain(
                "dead-endpoint",
                format!(
                    "Rules and objects have the pod {}, and it cannot be reached.",
                    pod.name
                ),
            )
            .seen(format!("{}: {}: {what}", spot.node, pod.name))
            .cured_by(cure),
        );
    }
    findings
}

/// Flows that were translated to somebody who serves no more.
fn stale(evidence: &Evidence<'_>, spot: &Spot, seen: &Seen) -> Vec<Finding> {
    let stale = seen.stale.iter().map(|flow| {
        let (from, to, dead) = (flow.source, flow.destination, flow.reply_source);
        Finding::certain(
            "stale-conntrack",
            format!(
                "The connection table sends a UDP flow of {} to an address that serves no more; rules are read for a flow's first packet only.",
                evidence.name()
            ),
        )
        .seen(format!("{}: {from} to {to} is sent to {dead}", spot.node))
        .cured_by(format!(
            "{}conntrack -D -p udp --orig-src {} --orig-port-src {} --orig-dst {} --orig-port-dst {}",
            spot.prefix,
            from.ip(),
            from.port(),
            to.ip(),
            to.port()
        ))
    });
    stale.collect()
}

/// Packets that go back into the bridge they came from make the node tell the sender of a shorter
/// way, and that uses up the few ICMP errors that the kernel sends to one caller.
pub fn redirects(spot: &Spot) -> Option<String> {
    let seen = spot.seen.as_ref()?;
    let mut addresses = spot.pods.iter().flat_map(|pod| &pod.addresses);
    let bridge = addresses.find_map(|ip| seen.host.interface_to(*ip))?;
    let on = ["all", bridge]
        .into_iter()
        .filter(|name| seen.redirects.on.contains(*name));
    let cure: Vec<String> = on
        .map(|name| format!("{}sysctl -w net.ipv4.conf.{name}.send_redirects=0", spot.prefix))
        .collect();
    (seen.redirects.sent > 0 && !cure.is_empty()).then(|| {
        format!(
            "{} has sent {} ICMP redirects: they use up the few ICMP errors per second that a caller gets, so that a call that is refused may look like one that is lost; {}",
            spot.node,
            seen.redirects.sent,
            cure.join("; ")
        )
    })
}

/// The ways to the pods of other nodes.
fn node_routes(evidence: &Evidence<'_>, spot: &Spot, seen: &Seen) -> Vec<Finding> {
    let others = evidence
        .spots
        .iter()
        .filter(|other| other.node != spot.node && !other.pods.is_empty());
    let families = others.flat_map(|other| [(other, false), (other, true)]);
    families
        .filter_map(|(other, six)| node_route(evidence, spot, seen, other, six))
        .collect()
}

/// The way of one family to the pods of one other node.
fn node_route(evidence: &Evidence<'_>, spot: &Spot, seen: &Seen, other: &Spot, six: bool) -> Option<Finding> {
    let mut pods = other.pods.iter().flat_map(|pod| pod.addresses.iter().copied());
    let ip = pods.find(|ip| ip.is_ipv6() == six)?;
    let way = seen.host.interface_to(ip).is_some_and(|name| name != "*");
    let way = way
        || seen
            .routes6
            .iter()
            .any(|(network, _)| network.prefix_len() > 0 && network.contains(&ip));
    let lost = |call: &&Call| {
        let between = [&call.node, &other_node(evidence, call)];
        call.via == Via::Backend
            && call.to.is_ipv6() == six
            && !call.word.reached()
            && call.word != Word::NotTried
            && between.contains(&&spot.node)
            && between.contains(&&other.node)
    };
    if way || !evidence.calls.iter().any(|call| lost(&call)) {
        return None;
    }
    let node = evidence.registry.nodes.get(&other.node);
    let spec = node.and_then(|node| node.spec.as_ref());
    let ranges = spec
        .into_iter()
        .flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    let mut ranges = ranges.filter_map(|range| parse_network(range));
    let range = ranges
        .find(|range| range.contains(&ip))
        .map_or_else(|| IpNet::from(ip), |range| range.trunc());
    let via = node_address(evidence, &other.node, six).unwrap_or_else(|| other.node.clone());
    let family = if six { "-6 " } else { "" };
    let finding = Finding::certain(
        "no-node-route",
        format!(
            "The node {} has no route to the pods of {}.",
            spot.node, other.node
        ),
    );
    Some(
        finding
            .seen(format!(
                "{}: no route to {range}, and calls between the two nodes are lost",
                spot.node
            ))
            .cured_by(format!(
                "{}ip {family}route replace {range} via {via}",
                spot.prefix
            )),
    )
}

fn other_node(evidence: &Evidence<'_>, call: &Call) -> String {
    evidence
        .pod_at(call.to.ip())
        .map_or_else(String::new, |(spot, _)| spot.node.clone())
}

fn node_address(evidence: &Evidence<'_>, node: &str, six: bool) -> Option<String> {
    let status = evidence.registry.nodes.get(node)?.status.as_ref()?;
    let internal = status
        .addresses
        .iter()
        .flatten()
        .filter(|address| address.type_ == "InternalIP");
    let mut addresses = internal.filter_map(|address| parse_ip(&address.address));
    addresses.find(|ip| ip.is_ipv6() == six).map(|ip| ip.to_string())
}
