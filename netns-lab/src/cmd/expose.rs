//! `netns-lab expose`: a Service for pods that are there.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use labkit::shell::{self, OutputFormat};
use labkit::{Failure, Outcome};

use super::objects::{Open, now};
use crate::cli::objects::ExposeArgs;
use crate::edge::store;
use crate::model::container::containers;
use crate::model::deployment::TEMPLATE_LABEL;
use crate::model::kind::Kind;
use crate::model::ledger::Ledger;
use crate::model::name::{DEFAULT_LAB, OUTSIDE};
use crate::model::topology::PodSpec;
use crate::model::{object, service};

type Selector = BTreeMap<String, String>;

/// Runs `expose`.
pub(super) fn run(args: &ExposeArgs) -> Result<Outcome, Failure> {
    let mut open = Open::new(args.lab.as_ref())?;
    let selector = selector(&open, args)?;
    let name = args.name.clone().unwrap_or_else(|| args.app.to_string());
    let own = open.identity(Kind::Service, None, &name);
    if open.files.get(&own).is_some() {
        return Err(taken(&open, args, &name));
    }
    let asked = asked(args, &name, open.namespace(), &selector);
    let made = service::settle(asked, None, &open.pools(), &open.in_use(&own)?, &now())
        .map_err(|refusal| Failure::usage(format!("Service {name:?}: {refusal}")))?;
    let value = serde_json::to_value(&made).map_err(|error| Failure::failed(error.to_string()))?;
    open.put(&value)?;
    match args.output {
        OutputFormat::Json => {
            crate::edge::registry::refresh_pod_files(&open.ledger)?;
            shell::emit_json(&value)?;
        }
        OutputFormat::Table => open.finish(&format!("service/{name} exposed"), &next(&made, &open.ledger))?,
    }
    warn_of_closed_port(&open, args, &selector);
    if made.spec.as_ref().is_some_and(is_local_balancer) && open.ledger.lab.nodes.len() > 1 {
        shell::tell(
            "note: the host outside spreads calls to the address over all nodes, and a node without a ready pod of\n      \
             the Service drops them; a load balancer that asks the health check would leave that node out",
        );
    }
    Ok(Outcome::Done)
}

fn is_local_balancer(spec: &ServiceSpec) -> bool {
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    local && spec.type_.as_deref() == Some("LoadBalancer")
}

/// The failure of whoever takes a name that is a Service's: often the one that `up` has made.
fn taken(open: &Open, args: &ExposeArgs, name: &str) -> Failure {
    let file = store::registry(&open.ledger.lab.name).join(object::SERVICE_FILE);
    let first = name == "web" && file.exists();
    let note = if first { " (the lab came with it)" } else { "" };
    Failure::failed(format!("services {name:?} already exists{note}"))
        .hint(format!("what it is: netns-lab get service {name} -o yaml"))
        .hint(format!(
            "another name: netns-lab expose {} --port {} --name {name}-2",
            args.app, args.port
        ))
        .hint(format!("or remove it: netns-lab delete service {name}"))
}

/// By which labels the pods are found.
fn selector(open: &Open, args: &ExposeArgs) -> Result<Selector, Failure> {
    let app = args.app.as_str();
    let deployments = open.deployments();
    let named = deployments
        .iter()
        .find(|one| one.metadata.name.as_deref() == Some(app));
    if let Some(spec) = named.and_then(|deployment| deployment.spec.as_ref()) {
        return Ok(spec.selector.match_labels.clone().unwrap_or_default());
    }
    let pods = open.ledger.topology().pods;
    if let Some(pod) = pods.iter().find(|pod| pod.name == args.app) {
        let mut labels = labels(pod);
        labels.remove(TEMPLATE_LABEL);
        if labels.is_empty() {
            return Err(
                Failure::failed(format!("the pod {app} has no labels to find it by"))
                    .hint("give it some in the topology file, then `netns-lab up FILE`"),
            );
        }
        return Ok(labels);
    }
    let own = Selector::from([("app".to_string(), app.to_string())]);
    if pods.iter().any(|pod| carries(pod, &own)) {
        return Ok(own);
    }
    let mut apps: Vec<_> = pods.iter().filter_map(|pod| labels(pod).remove("app")).collect();
    apps.sort();
    apps.dedup();
    let known = if apps.is_empty() {
        "none".to_string()
    } else {
        apps.join(", ")
    };
    Err(
        Failure::failed(format!("there is no Deployment, pod or app {app}")).hint(format!(
            "apps of this lab: {known}; `netns-lab get pods` lists the pods"
        )),
    )
}

fn labels(pod: &PodSpec) -> Selector {
    let labels = pod.labels.iter();
    labels
        .map(|(key, value)| (key.as_str().to_string(), value.as_str().to_string()))
        .collect()
}

fn carries(pod: &PodSpec, selector: &Selector) -> bool {
    let labels = labels(pod);
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn asked(args: &ExposeArgs, name: &str, namespace: &str, selector: &Selector) -> Service {
    let target = args.target_port.as_ref().map(|text| match text.parse() {
        Ok(number) => IntOrString::Int(number),
        Err(_) => IntOrString::String(text.clone()),
    });
    Service {
        metadata: ObjectMeta {
            name: Some(name.to_string()),
            namespace: Some(namespace.to_string()),
            ..Default::default()
        },
        spec: Some(ServiceSpec {
            type_: Some(args.kind.clone()),
            cluster_ip: args.headless.then(|| "None".to_string()),
            selector: Some(selector.clone()),
            session_affinity: args.affinity.clone(),
            external_traffic_policy: args.external_traffic_policy.clone(),
            ip_family_policy: args.ip_family_policy.clone(),
            ip_families: Some(args.ip_families.clone()).filter(|families| !families.is_empty()),
            internal_traffic_policy: args.internal_traffic_policy.clone(),
            ports: Some(vec![ServicePort {
                port: i32::from(args.port),
                target_port: target,
                node_port: args.node_port.map(i32::from),
                protocol: Some(args.protocol.clone()),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A request that should be answered once the rules are there, from where it can be made.
fn next(service: &Service, ledger: &Ledger) -> Vec<String> {
    let spec = service.spec.clone().unwrap_or_default();
    let port = spec.ports.iter().flatten().next().cloned().unwrap_or_default();
    let ip = spec.cluster_ip.unwrap_or_default();
    if port.protocol.as_deref() != Some("TCP") || ip == "None" {
        return Vec::new();
    }
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip };
    let mut lines = vec![format!("curl -s {host}:{}", port.port)];
    if ledger.lab.underlay.is_none() {
        return lines;
    }
    // Nothing of such a lab can be reached from where this command runs.
    let lab = match ledger.lab.name.as_str() {
        DEFAULT_LAB => String::new(),
        name => format!(" --name {name}"),
    };
    let node = ledger.lab.nodes.first();
    if let Some((node, number)) = node.zip(port.node_port.filter(|number| *number != 0)) {
        lines.push(format!("curl -s {}:{number}", node.ip()));
    }
    let from = node.map(|node| node.name().to_string()).into_iter();
    let from = from.chain(std::iter::once(OUTSIDE.to_string()));
    lines
        .iter()
        .zip(from)
        .map(|(curl, from)| format!("netns-lab exec{lab} {from} -- {curl}"))
        .collect()
}

/// A Service that leads to a port on which nobody listens is no error, and seldom meant.
fn warn_of_closed_port(open: &Open, args: &ExposeArgs, selector: &Selector) {
    let target = args.target_port.clone().unwrap_or_else(|| args.port.to_string());
    let pods = open.ledger.topology().pods;
    let behind: Vec<_> = pods.iter().filter(|pod| carries(pod, selector)).collect();
    let containers = behind.iter().flat_map(|pod| containers(pod));
    let ports = containers.flat_map(|container| container.ports);
    let own: Vec<_> = ports
        .filter(|port| port.protocol.name() == args.protocol)
        .collect();
    let is_open = own
        .iter()
        .any(|port| port.name.as_str() == target || port.container_port.get().to_string() == target);
    if is_open || behind.is_empty() {
        return;
    }
    let mut known: Vec<_> = own
        .iter()
        .map(|port| format!("{} ({})", port.container_port.get(), port.name.as_str()))
        .collect();
    known.sort();
    known.dedup();
    let unsaid = if args.target_port.is_none() {
        " (without --target-port it is the Service's port)"
    } else {
        ""
    };
    shell::tell(&format!(
        "note: no pod behind it says that it listens on {target}/{}{unsaid};\n      they say: {}\n hint: --target-port \
         NUMBER or NAME",
        args.protocol,
        if known.is_empty() {
            "nothing".to_string()
        } else {
            known.join(", ")
        }
    ));
}
