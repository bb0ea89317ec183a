//! Pods that people ask for in Kubernetes' words → pods of a lab.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec as ApiPodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Map, Value, json};

use super::container::{ContainerSpec, containers};
use super::endpoints::namespace_of;
use super::ledger::Pod as LabPod;
use super::life::Pace;
use super::name::{Label, stable_hash};
use super::refusal::Refusal;
use super::service_check::check_metadata;
use super::topology::PodSpec;

/// The label that tells which template a pod was made from.
pub const TEMPLATE_LABEL: &str = "pod-template-hash";

/// Letters that make no words, as Kubernetes takes them for what it makes up.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The lengths of a template's hash and of a pod's own part.
const HASH: usize = 10;
const OWN: usize = 5;

/// The Deployment as it is stored.
///
/// # Errors
/// The first field that the API server would have refused, or that a lab cannot have.
pub fn settle(
    mut deployment: Deployment,
    before: Option<&Deployment>,
    now: &Time,
) -> Result<Deployment, Refusal> {
    let name = deployment.metadata.name.clone().unwrap_or_default();
    let longest = 63 - HASH - OWN - 2;
    if Label::new(&name).is_err() || name.len() > longest {
        let expected = format!("a DNS label of at most {longest}: a-z, 0-9 and -");
        return Err(Refusal::new("metadata.name", format!("{name:?}"), expected));
    }
    check_metadata(&deployment.metadata)?;
    let made = before.and_then(|old| old.metadata.creation_timestamp.clone());
    deployment.metadata.creation_timestamp = Some(made.unwrap_or_else(|| now.clone()));
    deployment.metadata.namespace = Some(namespace_of(&deployment.metadata).to_string());
    deployment.status = None;
    let Some(spec) = &mut deployment.spec else {
        return Err(Refusal::new("spec", "nothing", "a selector and a template"));
    };
    if let Some(replicas @ ..0) = spec.replicas {
        return Err(Refusal::new("spec.replicas", replicas.to_string(), "0 or more"));
    }
    spec.replicas.get_or_insert(1);
    check_strategy(spec)?;
    let selector = spec.selector.match_labels.clone().unwrap_or_default();
    if selector.is_empty() {
        return Err(Refusal::new(
            "spec.selector.matchLabels",
            "nothing",
            "labels such as {app: web}",
        ));
    }
    if spec
        .selector
        .match_expressions
        .as_ref()
        .is_some_and(|list| !list.is_empty())
    {
        return Err(Refusal::new(
            "spec.selector.matchExpressions",
            "a list",
            "matchLabels only, in a lab",
        ));
    }
    let own = labels_of(&spec.template);
    if let Some((key, value)) = selector.iter().find(|(key, value)| own.get(*key) != Some(*value)) {
        let expected = format!("{key}={value}, which spec.selector looks for");
        return Err(Refusal::new(
            "spec.template.metadata.labels",
            format!("{own:?}"),
            expected,
        ));
    }
    if let Some(old) = before.and_then(|old| old.spec.as_ref())
        && old.selector != spec.selector
    {
        let had = old.selector.match_labels.iter().flatten();
        let had: Vec<_> = had.map(|(key, value)| format!("{key}={value}")).collect();
        let expected = format!(
            "{}, which cannot change: delete the Deployment first",
            had.join(",")
        );
        return Err(Refusal::new("spec.selector", format!("{selector:?}"), expected));
    }
    let api = spec.template.spec.clone().unwrap_or_default();
    if let Some(policy) = api.restart_policy.as_deref().filter(|policy| *policy != "Always") {
        const FIELD: &str = "spec.template.spec.restartPolicy";
        return Err(Refusal::new(FIELD, policy, "Always"));
    }
    // Also where no pod is wanted now.
    pod_of(&name, &own, &api, "spec.template.spec")?;
    Ok(deployment)
}

fn labels_of(template: &PodTemplateSpec) -> BTreeMap<String, String> {
    let metadata = template.metadata.as_ref();
    metadata
        .and_then(|metadata| metadata.labels.clone())
        .unwrap_or_default()
}

/// The pods that a Deployment wants. Of those that stand, the ones of its template stay, as many as
/// are wanted and may; those that may not are replaced by others.
///
/// # Errors
/// The first field of the template that a lab cannot have.
pub fn pods(
    deployment: &Deployment,
    standing: &[PodSpec],
    may_stay: &impl Fn(&str) -> bool,
) -> Result<Vec<PodSpec>, Refusal> {
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let Some(spec) = &deployment.spec else {
        return Ok(Vec::new());
    };
    let hash = template_hash(&spec.template);
    let mut labels = labels_of(&spec.template);
    labels.insert(TEMPLATE_LABEL.into(), hash.clone());
    let api = spec.template.spec.clone().unwrap_or_default();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or_default();
    let stem = format!("{name}-{hash}");
    let of_template = standing
        .iter()
        .filter(|pod| suffix(pod.name.as_str(), &stem).is_some() && may_stay(pod.name.as_str()));
    let mut found: Vec<PodSpec> = of_template.take(wanted).cloned().collect();
    let mut taken: BTreeSet<String> = standing.iter().map(|pod| pod.name.to_string()).collect();
    let mut number = 0_u32;
    while found.len() < wanted {
        let own = format!("{stem}-{}", made_up(&format!("{stem}-{number}"), OWN));
        number += 1;
        if taken.insert(own.clone()) {
            found.push(pod_of(&own, &labels, &api, "spec.template.spec")?);
        }
    }
    Ok(found)
}

/// Whether a pod is one of a Deployment's, of this template or of an earlier one.
pub fn owns(deployment: &str, pod: &PodSpec) -> bool {
    let hash = pod.labels.iter().find(|(key, _)| key.as_str() == TEMPLATE_LABEL);
    hash.is_some_and(|(_, hash)| {
        suffix(pod.name.as_str(), &format!("{deployment}-{}", hash.as_str())).is_some()
    })
}

/// What tells a pod from the others of its template.
pub(super) fn suffix<'a>(pod: &'a str, stem: &str) -> Option<&'a str> {
    let own = pod.strip_prefix(stem)?.strip_prefix('-')?;
    (own.len() == OWN && !own.contains('-')).then_some(own)
}

/// The pod of a lab that a Pod asks for.
///
/// # Errors
/// The first field that a lab cannot have.
pub fn single(pod: &Pod) -> Result<PodSpec, Refusal> {
    check_metadata(&pod.metadata)?;
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    pod_of(&name, &labels, &pod.spec.clone().unwrap_or_default(), "spec")
}

/// A pod that is there, with the labels that it is to have: nothing else of it may change. What `get` prints of
/// it, and that is its place as well, is no change.
///
/// # Errors
/// When the pod of this name is to be another one.
pub fn relabelled(old: &LabPod, new: &PodSpec) -> Result<PodSpec, Refusal> {
    let same_place = new.node_name.as_ref().is_none_or(|node| *node == old.node);
    let (before, now) = (old.containers(), containers(new));
    // A pod that runs nothing is printed with one container, for Kubernetes knows no pod without.
    let runs_nothing = before.is_empty() && now.len() == 1 && now[0].command.is_empty();
    let same = |(before, now): (&ContainerSpec, &ContainerSpec)| {
        before.name == now.name
            && before.command == now.command
            && before.ports == now.ports
            && (now.cpu.is_none() || now.cpu == before.cpu)
            && (now.memory.is_none() || now.memory == before.memory)
    };
    let same_containers = before.len() == now.len() && before.iter().zip(&now).all(same);
    if same_place && (same_containers || runs_nothing) {
        return Ok(PodSpec {
            labels: new.labels.clone(),
            ..old.spec.clone()
        });
    }
    Err(Refusal::new(
        "spec",
        "another pod",
        "what is there, with other labels at most: delete the pod first",
    ))
}

/// By way of a topology's JSON, whose reader has all the checks.
fn pod_of(
    name: &str,
    labels: &BTreeMap<String, String>,
    spec: &ApiPodSpec,
    field: &str,
) -> Result<PodSpec, Refusal> {
    if spec.containers.is_empty() {
        return Err(Refusal::new(
            format!("{field}.containers"),
            "none",
            "at least one container",
        ));
    }
    let alone = spec.containers.len() == 1;
    let containers: Vec<Value> = spec.containers.iter().map(|one| container(one, alone)).collect();
    let mut pod = Map::new();
    pod.insert("name".into(), json!(name));
    pod.insert("labels".into(), json!(labels));
    pod.insert("containers".into(), json!(containers));
    if let Some(node) = &spec.node_name {
        pod.insert("nodeName".into(), json!(node));
    }
    // The scheduler goes by what the pod's first container asks for.
    let first = spec.containers.first().and_then(|one| one.resources.as_ref());
    let requests = first.and_then(|resources| resources.requests.as_ref());
    for (key, Quantity(amount)) in requests.into_iter().flatten() {
        pod.insert(key.clone(), json!(amount));
    }
    serde_path_to_error::deserialize(Value::Object(pod)).map_err(|error| {
        let path = match error.path().to_string().as_str() {
            "name" => "metadata.name".to_string(),
            path if path.starts_with("labels") => "metadata.labels".to_string(),
            path if path.starts_with("containers") => format!("{field}.{path}"),
            _ => field.to_string(),
        };
        let words = error.into_inner().to_string();
        Refusal::new(path, words, "what a pod of a lab can have")
    })
}

/// The built-in app on the container's ports, within its limits. One without ports that is not the
/// only one has nothing to answer on; it sleeps.
fn container(asked: &Container, alone: bool) -> Value {
    let mut made = Map::new();
    made.insert("name".into(), json!(asked.name));
    let ports = ports(asked);
    if !ports.is_empty() {
        made.insert("ports".into(), json!(ports));
    } else if !alone {
        made.insert("command".into(), json!(["sleep", "infinity"]));
    }
    let limits = asked
        .resources
        .as_ref()
        .and_then(|resources| resources.limits.as_ref());
    for (key, Quantity(amount)) in limits.into_iter().flatten() {
        made.insert(key.clone(), json!(amount));
    }
    Value::Object(made)
}

/// The container's ports; one without a name gets one, for those of a lab have names.
fn ports(container: &Container) -> Vec<Value> {
    let ports = container.ports.iter().flatten().map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        let made = match protocol.as_str() {
            "TCP" => format!("port-{}", port.container_port),
            other => format!("{}-{}", other.to_ascii_lowercase(), port.container_port),
        };
        let name = port.name.clone().unwrap_or(made);
        json!({"name": name, "containerPort": port.container_port, "protocol": protocol})
    });
    ports.collect()
}

/// What the API server says of a strategy.
fn check_strategy(spec: &DeploymentSpec) -> Result<(), Refusal> {
    const FIELD: &str = "spec.strategy.rollingUpdate";
    let strategy = spec.strategy.as_ref();
    let Some(rolling) = strategy.and_then(|one| one.rolling_update.as_ref()) else {
        return Ok(());
    };
    if strategy.and_then(|one| one.type_.as_deref()) == Some("Recreate") {
        return Err(Refusal::new(FIELD, "it", "nothing where the type is Recreate"));
    }
    let fields = [
        ("maxSurge", &rolling.max_surge),
        ("maxUnavailable", &rolling.max_unavailable),
    ];
    let number = |value: &IntOrString| match value {
        IntOrString::Int(count) => u32::try_from(*count).ok(),
        IntOrString::String(text) => text.strip_suffix('%')?.parse().ok(),
    };
    for (field, value) in fields {
        let Some(value) = value.as_ref().filter(|value| number(value).is_none()) else {
            continue;
        };
        let found = match value {
            IntOrString::Int(count) => count.to_string(),
            IntOrString::String(text) => format!("{text:?}"),
        };
        let field = format!("{FIELD}.{field}");
        return Err(Refusal::new(field, found, "a number, or a share such as \"25%\""));
    }
    let none = |value: &Option<IntOrString>| value.as_ref().and_then(number) == Some(0);
    if none(&rolling.max_surge) && none(&rolling.max_unavailable) {
        let field = format!("{FIELD}.maxUnavailable");
        return Err(Refusal::new(field, "0", "more than 0 where maxSurge is 0"));
    }
    Ok(())
}

/// How a change of its template goes on, as the Deployment controller reads the strategy: a share of
/// `maxSurge` is rounded up, one of `maxUnavailable` down, both are a quarter unless said otherwise,
/// and where neither allows a step one pod may be missing.
pub fn pace(deployment: &Deployment) -> Pace {
    let spec = deployment.spec.as_ref();
    let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let replicas = usize::try_from(replicas).unwrap_or_default();
    let strategy = spec.and_then(|spec| spec.strategy.as_ref());
    if strategy.and_then(|one| one.type_.as_deref()) == Some("Recreate") {
        return Pace {
            surge: 0,
            missing: usize::MAX,
        };
    }
    let rolling = strategy.and_then(|one| one.rolling_update.as_ref());
    let surge = hundredths(rolling.and_then(|one| one.max_surge.as_ref()), replicas).div_ceil(100);
    let missing = hundredths(rolling.and_then(|one| one.max_unavailable.as_ref()), replicas) / 100;
    Pace {
        surge,
        missing: if surge == 0 { missing.max(1) } else { missing },
    }
}

/// A hundred times a count of pods that is said as a number or as a share.
fn hundredths(said: Option<&IntOrString>, replicas: usize) -> usize {
    match said {
        Some(IntOrString::Int(count)) => usize::try_from(*count).unwrap_or_default().saturating_mul(100),
        Some(IntOrString::String(text)) => {
            let share = text.strip_suffix('%').and_then(|text| text.parse::<usize>().ok());
            replicas.saturating_mul(share.unwrap_or(25))
        }
        None => replicas.saturating_mul(25),
    }
}

fn template_hash(template: &PodTemplateSpec) -> String {
    // Maps of these types are sorted, so that one template has one text.
    made_up(&serde_json::to_string(template).unwrap_or_default(), HASH)
}

fn made_up(text: &str, length: usize) -> String {
    let mut rest = stable_hash(text.as_bytes());
    let many = 27_u64;
    let letters = (0..length).map(|_| {
        let place = usize::try_from(rest % many).unwrap_or_default();
        rest /= many;
        char::from(LETTERS[place])
    });
    letters.collect()
}

#[cfg(test)]
#[path = "deployment_tests.rs"]
mod tests;
