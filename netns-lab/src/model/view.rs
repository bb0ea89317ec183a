//! What `get` shows: kubectl's columns.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use labkit::table::Table;
use serde::Deserialize;
use serde_json::Value;

use super::endpoints::{addresses, is_ready, namespace_of};
use super::kind::Kind;
use super::service::ingress;
use super::service_check;

const NONE: &str = "<none>";
const UNKNOWN: &str = "<unknown>";

/// So many of a slice's addresses.
const SHOWN: usize = 3;

/// What of a table is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// The time of now.
    pub now: &'a Time,
    /// With more columns.
    pub wide: bool,
    /// With the column of namespaces.
    pub namespaces: bool,
    /// With the kind before each name, where several kinds are shown.
    pub kinds: bool,
    /// With a column of labels.
    pub labels: bool,
    /// With titles of the columns.
    pub headers: bool,
}

/// The objects of one kind as a table.
pub fn table(kind: Kind, objects: &[&Value], look: Look<'_>) -> String {
    let (plain, wide) = columns(kind);
    let mut header: Vec<&str> = plain.to_vec();
    if look.wide {
        header.extend(wide);
    }
    if look.namespaces && kind != Kind::Node {
        header.insert(0, "NAMESPACE");
    }
    if look.labels {
        header.push("LABELS");
    }
    let mut table = Table::new(&header);
    for object in objects {
        let Some(row) = row(kind, object, look) else {
            continue;
        };
        let mut cells = row.cells;
        let name = if look.kinds {
            format!("{}/{}", kind.resource(), row.name)
        } else {
            row.name
        };
        cells.insert(0, name);
        if look.namespaces && kind != Kind::Node {
            cells.insert(0, row.namespace);
        }
        cells.truncate(header.len() - usize::from(look.labels));
        if look.labels {
            cells.push(row.labels);
        }
        table.row(cells);
    }
    let whole = table.render_whole();
    if !look.headers {
        return whole.split_inclusive('\n').skip(1).collect();
    }
    // Names and addresses are for other programs, too: a terminal that is too narrow breaks lines
    // by itself.
    whole
}

fn columns(kind: Kind) -> (&'static [&'static str], &'static [&'static str]) {
    match kind {
        Kind::Service => (
            &["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"],
            &["SELECTOR"],
        ),
        Kind::Pod => (
            &["NAME", "READY", "STATUS", "RESTARTS", "AGE"],
            &["IP", "NODE", "NOMINATED NODE", "READINESS GATES"],
        ),
        Kind::Node => (
            &["NAME", "STATUS", "ROLES", "AGE", "VERSION"],
            &[
                "INTERNAL-IP",
                "EXTERNAL-IP",
                "OS-IMAGE",
                "KERNEL-VERSION",
                "CONTAINER-RUNTIME",
            ],
        ),
        Kind::Deployment => (
            &["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"],
            &["CONTAINERS", "IMAGES", "SELECTOR"],
        ),
        Kind::EndpointSlice => (&["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"], &[]),
    }
}

struct Row {
    namespace: String,
    name: String,
    labels: String,
    /// Plain and wide ones.
    cells: Vec<String>,
}

fn row(kind: Kind, object: &Value, look: Look<'_>) -> Option<Row> {
    let (metadata, cells) = match kind {
        Kind::Service => {
            let service = Service::deserialize(object).ok()?;
            (service.metadata.clone(), service_cells(&service, look))
        }
        Kind::Pod => {
            let pod = Pod::deserialize(object).ok()?;
            (pod.metadata.clone(), pod_cells(&pod, look))
        }
        Kind::Node => {
            let node = Node::deserialize(object).ok()?;
            (node.metadata.clone(), node_cells(&node, look.now))
        }
        Kind::Deployment => {
            let deployment = Deployment::deserialize(object).ok()?;
            (
                deployment.metadata.clone(),
                deployment_cells(&deployment, look.now),
            )
        }
        Kind::EndpointSlice => {
            let slice = EndpointSlice::deserialize(object).ok()?;
            (slice.metadata.clone(), slice_cells(&slice, look.now))
        }
    };
    Some(Row {
        namespace: namespace_of(&metadata).to_string(),
        labels: pairs(metadata.labels.iter().flatten()),
        name: metadata.name.unwrap_or_default(),
        cells,
    })
}

/// Where there is room, with the addresses of both families, which kubectl hides.
fn service_cells(service: &Service, look: Look<'_>) -> Vec<String> {
    let spec = service.spec.clone().unwrap_or_default();
    let kind = service_check::kind(&spec).to_string();
    let both = spec.cluster_ips.as_ref().filter(|ips| look.wide && ips.len() > 1);
    let cluster_ip = both.map(|ips| ips.join(",")).or(spec.cluster_ip.clone());
    let cluster_ip = cluster_ip.filter(|ip| !ip.is_empty());
    let ports = spec.ports.iter().flatten().map(|port| {
        let protocol = service_check::protocol(port);
        match port.node_port.filter(|number| *number != 0) {
            Some(number) => format!("{}:{number}/{protocol}", port.port),
            None => format!("{}/{protocol}", port.port),
        }
    });
    vec![
        kind,
        cluster_ip.unwrap_or_else(|| NONE.into()),
        external(service),
        listed(ports),
        age(&service.metadata, look.now),
        pairs(spec.selector.iter().flatten()),
    ]
}

fn external(service: &Service) -> String {
    let spec = service.spec.clone().unwrap_or_default();
    let own = spec.external_ips.clone().unwrap_or_default();
    match service_check::kind(&spec) {
        "ExternalName" => spec.external_name.unwrap_or_else(|| NONE.into()),
        "LoadBalancer" => {
            let given = ingress(service)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>();
            let all: Vec<_> = given.into_iter().chain(own).collect();
            if all.is_empty() {
                "<pending>".into()
            } else {
                all.join(",")
            }
        }
        _ => listed(own.into_iter()),
    }
}

fn pod_cells(pod: &Pod, look: Look<'_>) -> Vec<String> {
    let containers = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.clone());
    let statuses = statuses.unwrap_or_default();
    let ready = statuses.iter().filter(|status| status.ready).count();
    let restarts: i32 = statuses.iter().map(|status| status.restart_count).sum();
    let ips = addresses(pod).into_iter().map(|ip| ip.to_string());
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    vec![
        format!("{ready}/{containers}"),
        pod_status(pod),
        restarts.to_string(),
        age(&pod.metadata, look.now),
        listed(ips),
        node.unwrap_or_else(|| NONE.into()),
        NONE.into(),
        NONE.into(),
    ]
}

/// The reason of a container that waits or has ended, else the phase.
fn pod_status(pod: &Pod) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "Terminating".into();
    }
    let status = pod.status.clone().unwrap_or_default();
    let reasons = status
        .container_statuses
        .iter()
        .flatten()
        .filter_map(|container| {
            let state = container.state.as_ref()?;
            let waits = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
            waits.or_else(|| state.terminated.as_ref().and_then(|ended| ended.reason.clone()))
        });
    let mut reasons: Vec<String> = reasons.collect();
    reasons
        .pop()
        .or(status.reason)
        .or(status.phase)
        .unwrap_or_else(|| UNKNOWN.into())
}

fn node_cells(node: &Node, now: &Time) -> Vec<String> {
    let status = node.status.clone().unwrap_or_default();
    let ready = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready");
    let mut words = match ready.map(|condition| condition.status.as_str()) {
        Some("True") => "Ready".to_string(),
        Some(_) => "NotReady".to_string(),
        None => "Unknown".to_string(),
    };
    if node
        .spec
        .as_ref()
        .is_some_and(|spec| spec.unschedulable == Some(true))
    {
        words.push_str(",SchedulingDisabled");
    }
    let roles = node.metadata.labels.iter().flatten();
    let roles = roles.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/").map(str::to_string));
    let info = status.node_info.clone().unwrap_or_default();
    let known = |text: String| {
        if text.is_empty() {
            UNKNOWN.to_string()
        } else {
            text
        }
    };
    let address = |kind: &str| {
        let found = status
            .addresses
            .iter()
            .flatten()
            .find(|address| address.type_ == kind);
        found.map_or_else(|| NONE.to_string(), |address| address.address.clone())
    };
    vec![
        words,
        listed(roles),
        age(&node.metadata, now),
        known(info.kubelet_version),
        address("InternalIP"),
        address("ExternalIP"),
        known(info.os_image),
        known(info.kernel_version),
        known(info.container_runtime_version),
    ]
}

fn deployment_cells(deployment: &Deployment, now: &Time) -> Vec<String> {
    let spec = deployment.spec.clone().unwrap_or_default();
    let status = deployment.status.clone().unwrap_or_default();
    let containers = spec.template.spec.map(|spec| spec.containers).unwrap_or_default();
    let each = |pick: fn(&Container) -> String| listed(containers.iter().map(pick));
    vec![
        format!(
            "{}/{}",
            status.ready_replicas.unwrap_or(0),
            spec.replicas.unwrap_or(1)
        ),
        status.updated_replicas.unwrap_or(0).to_string(),
        status.available_replicas.unwrap_or(0).to_string(),
        age(&deployment.metadata, now),
        each(|container| container.name.clone()),
        each(|container| container.image.clone().unwrap_or_default()),
        pairs(spec.selector.match_labels.iter().flatten()),
    ]
}

fn slice_cells(slice: &EndpointSlice, now: &Time) -> Vec<String> {
    let ports = slice.ports.iter().flatten();
    let ports = ports.filter_map(|port| port.port.map(|number| number.to_string()));
    let addresses: Vec<_> = slice
        .endpoints
        .iter()
        .flat_map(|endpoint| endpoint.addresses.clone())
        .collect();
    let mut shown = listed(addresses.iter().take(SHOWN).cloned());
    if addresses.len() > SHOWN {
        shown.push_str(&format!(" + {} more...", addresses.len() - SHOWN));
    }
    vec![
        slice.address_type.clone(),
        listed(ports),
        shown,
        age(&slice.metadata, now),
    ]
}

/// Whether a Pod is one of a Deployment's.
pub fn is_owned(deployment: &str, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    let hash = labels.and_then(|labels| labels.get(super::deployment::TEMPLATE_LABEL));
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    hash.is_some_and(|hash| super::deployment::suffix(name, &format!("{deployment}-{hash}")).is_some())
}

/// How many of a Deployment's pods there are and are ready, as its status says it.
pub fn deployment_status(pods: &[&Pod]) -> Value {
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    serde_json::json!({
        "replicas": pods.len(), "updatedReplicas": pods.len(),
        "readyReplicas": ready, "availableReplicas": ready,
    })
}

fn listed(words: impl Iterator<Item = String>) -> String {
    let words: Vec<_> = words.collect();
    if words.is_empty() {
        NONE.into()
    } else {
        words.join(",")
    }
}

fn pairs<'a>(labels: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    listed(labels.map(|(key, value)| format!("{key}={value}")))
}

fn age(metadata: &ObjectMeta, now: &Time) -> String {
    match &metadata.creation_timestamp {
        Some(made) => duration(now.0.as_second() - made.0.as_second()),
        None => UNKNOWN.into(),
    }
}

/// `5s`, `3m10s`, `45m`, `7h12m`, `3d4h`, `12d`, as kubectl says it.
fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, unit: &str, small: i64, name: &str| {
        if small == 0 {
            format!("{large}{unit}")
        } else {
            format!("{large}{unit}{small}{name}")
        }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
