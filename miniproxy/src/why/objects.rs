//! What the objects alone tell: selectors, readiness, port names, policies.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::evidence::Evidence;
use super::{Finding, add};
use crate::model::TrafficPolicy;
use crate::registry::select::selects;

/// The label of a ReplicaSet's own, which is another one after each rollout.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// What the objects tell of why there may be no endpoints, and what is to be known of the Service.
pub fn findings(evidence: &Evidence<'_>, findings: &mut Vec<Finding>, notes: &mut Vec<String>) {
    let Some(service) = evidence.registry.services.get(&evidence.service) else {
        return;
    };
    policies(evidence, notes);
    let empty = BTreeMap::new();
    let pods = evidence.registry.pods.get(&evidence.service.0).unwrap_or(&empty);
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.filter(|selector| !selector.is_empty());
    let has_endpoints = !evidence.endpoints().is_empty();
    if let Some(selector) = selector
        && !pods.is_empty()
    {
        let chosen: Vec<(&String, &Arc<Pod>)> =
            pods.iter().filter(|(_, pod)| selects(service, pod)).collect();
        if chosen.is_empty() {
            add(findings, wrong_selector(evidence, selector, pods));
        } else if !has_endpoints {
            add(findings, no_endpoint_of(evidence, service, &chosen));
        } else {
            notes.extend(unready(&chosen));
        }
        return;
    }
    if !has_endpoints && is_for_a_proxy(evidence) {
        let sentence = format!("{} has no endpoints that take calls.", evidence.name());
        let why = match selector {
            Some(_) => "it has a selector; the registry has neither its pods nor ready endpoints",
            None => "it has no selector, and no EndpointSlice names a ready endpoint",
        };
        let finding = Finding::certain("no-endpoints", sentence)
            .seen(why)
            .cured_by(format!(
                "kubectl get endpointslices -n {} -l kubernetes.io/service-name={}",
                evidence.service.0, evidence.service.1
            ));
        add(findings, finding);
    }
}

/// Pods that the Service selects and that take no calls now.
fn unready(chosen: &[(&String, &Arc<Pod>)]) -> Option<String> {
    let silent = chosen.iter().filter(|(_, pod)| !is_ready(pod));
    let names: Vec<&str> = silent.map(|(name, _)| name.as_str()).collect();
    let is = if names.len() == 1 { "is" } else { "are" };
    (!names.is_empty()).then(|| {
        format!(
            "{} of its {} pods {is} not ready and get no calls: {}",
            names.len(),
            chosen.len(),
            names.join(", ")
        )
    })
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|one| one.type_ == "Ready" && one.status == "True")
}

fn is_for_a_proxy(evidence: &Evidence<'_>) -> bool {
    let mut rules = evidence.spots.iter().flat_map(|spot| spot.rules.values());
    rules.any(|rules| !rules.ports.is_empty())
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
    labels.collect::<Vec<_>>().join(",")
}

fn wrong_selector(
    evidence: &Evidence<'_>,
    selector: &BTreeMap<String, String>,
    pods: &BTreeMap<String, Arc<Pod>>,
) -> Finding {
    let (namespace, name) = &evidence.service;
    let wanted = labels(selector);
    let finding = Finding::certain(
        "wrong-selector",
        format!("The selector of {} selects no pod: {wanted}.", evidence.name()),
    )
    .seen(format!(
        "none of the {} pods in {namespace} has the labels {wanted}",
        pods.len()
    ));
    let Some((pod, own)) = meant(evidence, selector, pods) else {
        return finding.seen("they have no labels at all").cured_by(format!(
            "correct spec.selector of the Service {name} where its object is, so that it names labels of its pods"
        ));
    };
    finding
        .seen(format!("{pod} has {}", labels(own)))
        .cured_by(selector_cure(evidence, selector, own))
        .cured_by("miniproxy sync")
}

/// The pod that comes nearest to what is selected, with its labels: it was meant, most likely.
fn meant<'a>(
    evidence: &Evidence<'_>,
    selector: &BTreeMap<String, String>,
    pods: &'a BTreeMap<String, Arc<Pod>>,
) -> Option<(&'a String, &'a BTreeMap<String, String>)> {
    let labelled = pods.iter().filter_map(|(name, pod)| {
        let own = pod.metadata.labels.as_ref()?;
        (!own.is_empty()).then_some((name, own))
    });
    labelled.max_by_key(|(_, own)| {
        let equal = selector
            .iter()
            .filter(|(key, value)| own.get(*key) == Some(*value));
        let keys = selector.keys().filter(|key| own.contains_key(*key));
        let named = own.values().any(|value| *value == evidence.service.1);
        (equal.count(), keys.count(), named)
    })
}

/// The command that makes the Service select a pod with these labels.
fn selector_cure(
    evidence: &Evidence<'_>,
    selector: &BTreeMap<String, String>,
    own: &BTreeMap<String, String>,
) -> String {
    let (namespace, name) = &evidence.service;
    let known = own.iter().filter(|(key, _)| selector.contains_key(*key));
    let mut right: BTreeMap<&String, &String> = known.collect();
    if right.is_empty() {
        right = own.iter().filter(|(key, _)| *key != TEMPLATE_HASH).collect();
    }
    // A command that is copied into a shell holds nothing that the shell reads otherwise.
    let is_plain = |text: &String| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte);
        text.bytes().all(good)
    };
    let words = right.iter().flat_map(|(key, value)| [*key, *value]);
    let mut words = words.chain(selector.keys()).chain([namespace, name]);
    if !words.all(is_plain) {
        return format!("correct spec.selector of the Service {name} where its object is");
    }
    if evidence.is_lab() {
        let right = json(
            right
                .iter()
                .map(|(key, value)| (key.as_str(), Some(value.as_str()))),
        );
        return format!(
            "netns-lab get service {name} -n {namespace} -o json | jq '.spec.selector = {right}' | netns-lab apply -f -"
        );
    }
    let gone = selector.keys().filter(|key| !right.contains_key(key));
    let gone: Vec<(&str, Option<&str>)> = gone.map(|key| (key.as_str(), None)).collect();
    let kept = right
        .iter()
        .map(|(key, value)| (key.as_str(), Some(value.as_str())));
    let patch = json(kept.chain(gone));
    format!(
        "kubectl patch service {name} -n {namespace} --type merge -p '{{\"spec\":{{\"selector\":{patch}}}}}'"
    )
}

/// An object of plain words, in one line.
fn json<'a>(members: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let members = members.map(|(key, value)| match value {
        Some(value) => format!("\"{key}\":\"{value}\""),
        None => format!("\"{key}\":null"),
    });
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// Pods are chosen, and none of them became an endpoint.
fn no_endpoint_of(evidence: &Evidence<'_>, service: &Service, chosen: &[(&String, &Arc<Pod>)]) -> Finding {
    if let Some(name) = unknown_port(service, chosen) {
        let sentence = format!(
            "The targetPort {name:?} of {} is the name of no port of its pods.",
            evidence.name()
        );
        return Finding::certain("unknown-target-port", sentence)
            .seen(format!("{} has no container port of that name", chosen[0].0))
            .cured_by("correct targetPort of the Service, or name the container's port so")
            .cured_by("miniproxy sync");
    }
    let sentence = format!("No pod of {} is ready to take calls.", evidence.name());
    let finding = Finding::certain("not-ready", sentence);
    let finding = chosen.iter().take(8).fold(finding, |finding, (name, pod)| {
        finding.seen(format!("{name} is {}", state(pod)))
    });
    if evidence.is_lab() {
        let name = chosen[0].0;
        return finding
            .cured_by(format!("netns-lab pod ready {name}"))
            .cured_by("miniproxy sync");
    }
    finding.cured_by(format!(
        "kubectl describe pod -n {} {}",
        evidence.service.0, chosen[0].0
    ))
}

fn state(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let phase = status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("of unknown phase");
    if pod.metadata.deletion_timestamp.is_some() {
        return format!("{phase} and on its way out");
    }
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|one| one.type_ == "Ready");
    match ready {
        Some(ready) if ready.status == "True" => format!("{phase} and ready"),
        Some(_) => format!("{phase} and not ready"),
        None => phase.to_string(),
    }
}

fn unknown_port(service: &Service, chosen: &[(&String, &Arc<Pod>)]) -> Option<String> {
    let ports = service.spec.as_ref()?.ports.iter().flatten();
    let names = ports.filter_map(|port| match &port.target_port {
        Some(IntOrString::String(name)) => Some(name),
        _ => None,
    });
    let known = |name: &&String| {
        chosen.iter().any(|(_, pod)| {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            containers
                .flat_map(|container| container.ports.iter().flatten())
                .any(|port| port.name.as_ref() == Some(*name))
        })
    };
    names.into_iter().find(|name| !known(name)).cloned()
}

/// What looks like a failure, and is meant.
fn policies(evidence: &Evidence<'_>, notes: &mut Vec<String>) {
    let mut note = |text: String| {
        if !notes.contains(&text) {
            notes.push(text);
        }
    };
    for spot in &evidence.spots {
        for port in spot.rules.values().flat_map(|rules| &rules.ports) {
            if let Some(seconds) = port.affinity_seconds {
                note(format!(
                    "{} has session affinity: a client stays with its endpoint for {seconds} s, so its calls are not spread",
                    port.name
                ));
            }
            let local = port
                .endpoints
                .iter()
                .any(|endpoint| endpoint.local && endpoint.ready);
            let from_outside = port.external_policy == TrafficPolicy::Local && port.externally_accessible();
            if from_outside && !local {
                note(format!(
                    "externalTrafficPolicy of {} is Local, and {} has none of its endpoints: calls from outside to that node are dropped",
                    port.name, spot.node
                ));
            }
            if !port.source_ranges.is_empty() && !port.load_balancer_ips.is_empty() {
                let ranges: Vec<String> = port.source_ranges.iter().map(ToString::to_string).collect();
                note(format!(
                    "the load balancer of {} lets only {} through: it was not called",
                    port.name,
                    ranges.join(", ")
                ));
            }
            if port.internal_policy == TrafficPolicy::Local && !local {
                note(format!(
                    "internalTrafficPolicy of {} is Local, and {} has none of its endpoints: calls from that node are refused or dropped",
                    port.name, spot.node
                ));
            }
        }
    }
}
