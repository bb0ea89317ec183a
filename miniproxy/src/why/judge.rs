//! All that was seen → findings: the hard evidence first, what calls tell after it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::call::{Call, Via, Word, places};
use super::evidence::Evidence;
use super::report::Report;
use super::rules::Told;
use super::{Finding, add, host, names, objects, rules};

/// The judgement.
pub fn judge(evidence: &Evidence<'_>) -> Report {
    let mut told = Told::default();
    objects::findings(evidence, &mut told.findings, &mut told.notes);
    for spot in &evidence.spots {
        rules::findings(evidence, spot, &mut told);
        host::findings(evidence, spot, &mut told.findings);
        told.notes.extend(host::redirects(spot));
    }
    let Told {
        mut findings,
        notes,
        untold,
        missing,
    } = told;
    consequences(&mut findings);
    names::servers(evidence, &mut findings);
    if findings.is_empty() {
        backends(evidence, &mut findings);
    }
    if findings.is_empty() {
        names::findings(evidence, &mut findings);
    }
    let unknown = if findings.is_empty() {
        unexplained(evidence).into_iter().chain(untold).collect()
    } else {
        Vec::new()
    };
    let mut not_looked_at = missing;
    not_looked_at.extend(blind(evidence));
    Report {
        schema: 1,
        kind: "why",
        service: evidence.name(),
        sentence: sentence(evidence, &findings, &unknown),
        places: places(&evidence.calls),
        names: evidence.lookups.clone(),
        findings,
        unknown,
        notes,
        not_looked_at,
    }
}

/// Rules that were written before the selector changed are no fault of their own.
fn consequences(findings: &mut Vec<Finding>) {
    let of_objects = [
        "wrong-selector",
        "not-ready",
        "unknown-target-port",
        "no-endpoints",
    ];
    let Some(cause) = findings
        .iter()
        .position(|finding| of_objects.contains(&finding.cause))
    else {
        return;
    };
    let Some(stale) = findings.iter().position(|finding| finding.cause == "stale-rules") else {
        return;
    };
    let evidence = findings[stale].evidence.clone();
    findings[cause].evidence.extend(evidence);
    findings.remove(stale);
}

/// Whether a call tells of a failure. Silence after a datagram may mean that the question was not
/// understood: it counts only where the same question is answered elsewhere.
pub fn is_lost(call: &Call, calls: &[Call]) -> bool {
    if call.word.reached() || call.word == Word::NotTried {
        return false;
    }
    !call.udp
        || calls
            .iter()
            .any(|other| other.udp && other.word == Word::Answered)
}

/// What direct calls tell of single backends.
fn backends(evidence: &Evidence<'_>, findings: &mut Vec<Finding>) {
    for (ip, port) in evidence.endpoints() {
        let to = SocketAddr::new(ip, port);
        let direct: Vec<&Call> = evidence
            .calls
            .iter()
            .filter(|call| call.via == Via::Backend && call.to == to && call.word != Word::NotTried)
            .collect();
        let Some(first) = direct.first() else { continue };
        if direct.iter().any(|call| !is_lost(call, &evidence.calls)) {
            continue;
        }
        let who = evidence.called(ip);
        if direct.iter().any(|call| call.word == Word::Refused) {
            let finding = Finding::certain(
                "nobody-listens",
                format!("Nobody listens at {port} in {who}: the process is gone, or targetPort is wrong."),
            );
            add(findings, listening(evidence, finding, ip, port, first));
        } else {
            let finding = Finding::likely(
                "dead-endpoint",
                format!("The backend {who} answers nobody, and rules and objects have it."),
            );
            let seen = format!(
                "{} calls straight to {to} from {} places: {}",
                direct.len(),
                direct.len(),
                first.word.text()
            );
            add(
                findings,
                finding.seen(seen).cured_by(format!("netns-lab arp {ip}")),
            );
        }
    }
}

fn listening(evidence: &Evidence<'_>, finding: Finding, ip: IpAddr, port: u16, call: &Call) -> Finding {
    let mut finding = finding.seen(format!(
        "{}: {} at {ip}:{port} straight",
        call.from,
        call.word.text()
    ));
    let pod = evidence.pod_at(ip).map(|(_, pod)| pod);
    if let Some(ports) = pod.and_then(|pod| pod.listens.as_ref()) {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        finding = finding.seen(match ports.as_slice() {
            [] => "nothing listens in it".to_string(),
            ports => format!("it listens at {}", ports.join(", ")),
        });
    }
    let name = pod.map_or_else(|| ip.to_string(), |pod| pod.name.clone());
    let short = name.rsplit('/').next().unwrap_or(&name).to_string();
    finding.cured_by(format!("netns-lab exec {short} -- ss -tlnp"))
}

/// Lost calls that nothing explains.
fn unexplained(evidence: &Evidence<'_>) -> Vec<String> {
    let lost: Vec<Call> = evidence
        .calls
        .iter()
        .filter(|call| is_lost(call, &evidence.calls))
        .cloned()
        .collect();
    places(&lost)
        .iter()
        .map(|place| {
            format!(
                "{} of the calls of {} ({}) to {}: {} after {} ms",
                place.calls,
                place.from,
                place.place.text(),
                place.to,
                place.word.text(),
                place.ms
            )
        })
        .collect()
}

fn sentence(evidence: &Evidence<'_>, findings: &[Finding], unknown: &[String]) -> String {
    let calls = evidence.calls.iter().filter(|call| call.word != Word::NotTried);
    let made = calls.count();
    let summed = places(&evidence.calls);
    let mut froms: Vec<_> = summed.iter().map(|place| (&place.from, place.place)).collect();
    froms.sort();
    froms.dedup();
    match (findings, unknown.is_empty()) {
        ([one], _) => one.sentence.clone(),
        ([first, ..], _) => format!("{} causes were found. {}", findings.len(), first.sentence),
        ([], false) if made == 0 => format!("It cannot be told: {}.", unknown[0]),
        ([], false) => "I don't know why, but some calls are lost.".into(),
        ([], true) if made == 0 => {
            "Nothing is wrong as far as the rules and the objects tell; no call was made.".into()
        }
        ([], true) => format!(
            "Nothing is wrong: {made} calls from {} places were answered, and the rules give the shares they should.",
            froms.len()
        ),
    }
}

/// What nobody looked at, so that nothing is said of it.
fn blind(evidence: &Evidence<'_>) -> Vec<String> {
    let mut blind = Vec::new();
    if evidence.spots.iter().all(|spot| spot.seen.is_none()) {
        for text in [
            "no call was made: a dump cannot tell who answers",
            "settings of the kernel (ip_forward, bridge-nf-call-iptables), bridge ports and links",
            "routes, the connection table, and the other flavour of iptables",
        ] {
            blind.push(text.to_string());
        }
    }
    for spot in &evidence.spots {
        let seen = spot.seen.iter().flat_map(|seen| &seen.blind);
        blind.extend(seen.map(|what| format!("{}: {what}", spot.node)));
    }
    blind.extend(node_ports(evidence));
    let not_tried = evidence.calls.iter().filter(|call| call.word == Word::NotTried);
    let mut untried: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for call in not_tried {
        untried.entry(&call.from).or_default().insert(call.to.to_string());
    }
    for (from, to) in untried {
        let to = to.into_iter().collect::<Vec<_>>().join(", ");
        blind.push(format!("calls from {from} to {to} could not be made"));
    }
    blind
}

/// Node ports that nobody has called.
fn node_ports(evidence: &Evidence<'_>) -> Option<String> {
    if evidence.spots.iter().all(|spot| spot.seen.is_none()) {
        return None;
    }
    let rules = evidence.spots.iter().flat_map(|spot| spot.rules.values());
    let ports = rules
        .flat_map(|rules| &rules.ports)
        .filter_map(|port| port.node_port);
    let called = |number: &u16| evidence.calls.iter().any(|call| call.to.port() == *number);
    let missed: BTreeSet<String> = ports
        .filter(|number| !called(number))
        .map(|number| number.to_string())
        .collect();
    let missed = missed.into_iter().collect::<Vec<_>>().join(", ");
    (!missed.is_empty()).then(|| format!("node port {missed}: nobody is outside who could call it"))
}
