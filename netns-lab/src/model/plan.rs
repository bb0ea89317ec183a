//! The plan: the steps that lead from what a host has to what is wanted.
//!
//! One plan serves the doing, `--dry-run` and the tests; the same host planned again after all
//! steps were taken gives an empty plan.

use std::fmt;

use super::address::mac_text;
use super::container::{APP, ContainerSpec};
use super::ledger::{Lab, Ledger, Pod, PodRecord};
use super::name::Label;
use super::object;
use super::observed::{Link, Observed};
use super::rule::{Rule, rules};

/// The setting that lets the node forward packets.
pub const IP_FORWARD: &str = "net.ipv4.ip_forward";
/// The setting that lets the node tell a sender of a shorter way. A packet to a virtual IP goes
/// back into the bridge it came from, so that the node would send a redirect with each one; that
/// uses up the few ICMP errors per second that the kernel allows, and a REJECT becomes silence.
pub const SEND_REDIRECTS: &str = "net.ipv4.conf.all.send_redirects";
/// The setting that lets iptables see what a bridge carries.
pub const BRIDGE_NF: &str = "net.bridge.bridge-nf-call-iptables";

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Load `br_netfilter`.
    LoadBridgeNetfilter,
    /// Change a setting.
    Set {
        /// Its name.
        key: &'static str,
        /// What it becomes.
        value: &'static str,
        /// What it was, if it was there.
        from: Option<String>,
    },
    /// Make `/run/netns` as `ip netns` does.
    MakeNetnsDirectory,
    /// Add an iptables rule.
    AddRule(Rule),
    /// Remove a pod that is no longer wanted or no longer whole.
    RemovePod(PodRecord),
    /// Make the bridge.
    AddBridge(Lab),
    /// Make a pod: namespace, veth pair, addresses, routes.
    AddPod(Lab, Pod),
    /// Set the bridge up and give it its address.
    RaiseBridge(Lab),
    /// Route the Service range into the bridge.
    RouteServices(Lab),
    /// End a container that is not wanted any more, or is to be started as another.
    StopContainer(Pod, Label),
    /// Start a container.
    StartContainer(Pod, ContainerSpec),
    /// Write an object of the lab to the registry.
    Publish {
        /// The file.
        file: String,
        /// Its content.
        content: Vec<u8>,
    },
    /// Remove an object of the lab from the registry.
    Withdraw(String),
    /// Write the first Service.
    OfferService(Lab),
    /// Start the agent, or start it again for other pods.
    StartAgent,
}

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// Its pods.
    pub pods: &'a [Pod],
}

/// The steps from `observed` (and what the ledger remembers) to `wanted`.
pub fn plan(wanted: &Wanted, ledger: Option<&Ledger>, observed: &Observed) -> Vec<Step> {
    let mut steps = host_steps(wanted.lab, observed);
    let bridge = whole_bridge(wanted.lab, observed);
    let (gone, kept) = sort_out(wanted, ledger, observed, bridge);
    steps.extend(gone.into_iter().cloned().map(Step::RemovePod));
    steps.extend(bridge_and_pods(wanted, observed, bridge, &kept));
    steps.extend(container_steps(wanted, ledger, observed, &kept));
    steps.extend(registry_steps(wanted, ledger, observed));
    let apps_change = steps.iter().any(|step| {
        matches!(
            step,
            Step::StartContainer(..) | Step::StopContainer(..) | Step::AddPod(..) | Step::RemovePod(_)
        )
    });
    if apps_change || !observed.agent {
        steps.push(Step::StartAgent);
    }
    steps
}

fn host_steps(lab: &Lab, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    let kernel = &observed.kernel;
    let set = |key, value, from: &Option<String>| Step::Set {
        key,
        value,
        from: from.clone(),
    };
    if kernel.ip_forward.as_deref() != Some("1") {
        steps.push(set(IP_FORWARD, "1", &kernel.ip_forward));
    }
    if kernel.send_redirects.as_deref() == Some("1") {
        steps.push(set(SEND_REDIRECTS, "0", &kernel.send_redirects));
    }
    match kernel.bridge_nf_call_iptables.as_deref() {
        None => steps.push(Step::LoadBridgeNetfilter),
        Some("1") => {}
        Some(_) => steps.push(set(BRIDGE_NF, "1", &kernel.bridge_nf_call_iptables)),
    }
    if !kernel.netns_directory {
        steps.push(Step::MakeNetnsDirectory);
    }
    let missing = rules(lab)
        .into_iter()
        .filter(|rule| !observed.rules.contains(rule));
    steps.extend(missing.map(Step::AddRule));
    steps
}

/// The bridge, if it is there and ours.
fn whole_bridge<'a>(lab: &Lab, observed: &'a Observed) -> Option<&'a Link> {
    observed.link(&lab.bridge).filter(|link| link.is_bridge_of(lab))
}

/// Records to remove, and wanted pods that are there and whole.
fn sort_out<'a>(
    wanted: &Wanted<'a>,
    ledger: Option<&'a Ledger>,
    observed: &Observed,
    bridge: Option<&Link>,
) -> (Vec<&'a PodRecord>, Vec<&'a Pod>) {
    let (mut gone, mut kept) = (Vec::new(), Vec::new());
    for record in ledger.iter().flat_map(|ledger| &ledger.pods) {
        let pod = wanted
            .pods
            .iter()
            .find(|pod| pod.spec.name == record.pod.spec.name);
        match pod {
            Some(pod) if pod.ip == record.pod.ip && is_whole(wanted.lab, record, observed, bridge) => {
                kept.push(pod);
            }
            _ => gone.push(record),
        }
    }
    (gone, kept)
}

fn is_whole(lab: &Lab, record: &PodRecord, observed: &Observed, bridge: Option<&Link>) -> bool {
    let namespace = observed.namespaces.get(&record.pod.namespace).copied();
    let port = observed.link(&record.pod.interface);
    record.namespace_inode.is_some()
        && namespace == record.namespace_inode
        && observed.held.contains(&record.pod.spec.name)
        && !observed.cut_off.contains(&record.pod.spec.name)
        && bridge.zip(port).is_some_and(|(bridge, port)| {
            port.group == lab.group() && port.master == bridge.index && port.up && !port.hairpin_off
        })
}

fn bridge_and_pods(wanted: &Wanted, observed: &Observed, bridge: Option<&Link>, kept: &[&Pod]) -> Vec<Step> {
    let lab = wanted.lab;
    let mut steps = Vec::new();
    if bridge.is_none() {
        steps.push(Step::AddBridge(lab.clone()));
    }
    let new = wanted.pods.iter().filter(|pod| !is_among(kept, pod));
    steps.extend(new.map(|pod| Step::AddPod(lab.clone(), pod.clone())));
    let raised =
        bridge.is_some_and(|link| link.up && observed.has_address(link.index, lab.bridge_address().addr()));
    if !raised {
        steps.push(Step::RaiseBridge(lab.clone()));
    }
    let routed = bridge.is_some_and(|link| {
        let mut routes = observed.routes.iter();
        routes.any(|route| route.index == link.index && route.destination == lab.service_cidr.trunc())
    });
    if !routed {
        steps.push(Step::RouteServices(lab.clone()));
    }
    steps
}

fn is_among(pods: &[&Pod], pod: &Pod) -> bool {
    pods.iter().any(|other| other.spec.name == pod.spec.name)
}

fn container_steps(
    wanted: &Wanted,
    ledger: Option<&Ledger>,
    observed: &Observed,
    kept: &[&Pod],
) -> Vec<Step> {
    let mut steps = Vec::new();
    for pod in wanted.pods {
        let name = &pod.spec.name;
        let stays = is_among(kept, pod);
        let runs = |container: &Label| stays && observed.running.contains(&(name.clone(), container.clone()));
        let before = ledger.and_then(|ledger| ledger.pod(name));
        let had = before.map_or_else(Vec::new, |record| record.pod.containers());
        let wanted = pod.containers();
        let (same, other): (Vec<_>, Vec<_>) = had.iter().partition(|had| wanted.contains(had));
        let stopped = other.iter().filter(|had| runs(&had.name));
        steps.extend(stopped.map(|had| Step::StopContainer(pod.clone(), had.name.clone())));
        let missing = wanted
            .iter()
            .filter(|wanted| !(same.contains(wanted) && runs(&wanted.name)));
        steps.extend(missing.map(|wanted| Step::StartContainer(pod.clone(), wanted.clone())));
    }
    steps
}

fn registry_steps(wanted: &Wanted, ledger: Option<&Ledger>, observed: &Observed) -> Vec<Step> {
    let lab = wanted.lab;
    let pods = wanted
        .pods
        .iter()
        .map(|pod| (object::pod_file(pod), object::pod(lab, pod, true)));
    let files = std::iter::once((object::node_file(lab), object::node(lab))).chain(pods);
    let mut steps: Vec<_> = files
        .filter(|(file, content)| observed.published.get(file) != Some(content))
        .map(|(file, content)| Step::Publish { file, content })
        .collect();
    let wanted_names = |record: &&PodRecord| {
        wanted
            .pods
            .iter()
            .all(|pod| pod.spec.name != record.pod.spec.name)
    };
    let gone = ledger.iter().flat_map(|ledger| &ledger.pods).filter(wanted_names);
    steps.extend(gone.map(|record| Step::Withdraw(object::pod_file(&record.pod))));
    if !observed.has_service && super::address::first_service(lab.service_cidr).is_some() {
        steps.push(Step::OfferService(lab.clone()));
    }
    steps
}

impl Step {
    /// Whether it mends what was there: not what this host may lack for good, nor what people may
    /// have removed on purpose.
    pub fn is_repair(&self) -> bool {
        !matches!(self, Self::LoadBridgeNetfilter | Self::OfferService(_))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoadBridgeNetfilter => {
                write!(f, "load the kernel module br_netfilter and set {BRIDGE_NF} to 1")
            }
            Self::Set { key, value, from } => match from {
                Some(from) => write!(f, "set {key} from {from} to {value} until `down`"),
                None => write!(f, "set {key} to {value}"),
            },
            Self::MakeNetnsDirectory => write!(f, "make /run/netns, where `ip netns` looks for names"),
            Self::AddRule(rule) => write!(f, "add the rule: -t {} {}", rule.table, rule.listed()),
            Self::RemovePod(record) => {
                write!(f, "remove the pod {} ({})", record.pod.spec.name, record.pod.ip)
            }
            Self::AddBridge(lab) => {
                write!(
                    f,
                    "add the bridge {} with the MAC {}",
                    lab.bridge,
                    mac_text(lab.bridge_mac())
                )
            }
            Self::AddPod(lab, pod) => write!(
                f,
                "add the pod {}: namespace {}, {} on {} to eth0 with {}/{}, default route by {}",
                pod.spec.name,
                pod.namespace,
                pod.interface,
                lab.bridge,
                pod.ip,
                lab.pod_cidr.prefix_len(),
                lab.bridge_address().addr()
            ),
            Self::RaiseBridge(lab) => write!(f, "bring {} up with {}", lab.bridge, lab.bridge_address()),
            Self::RouteServices(lab) => write!(
                f,
                "route {} into {}, where a virtual IP without a rule ends",
                lab.service_cidr, lab.bridge
            ),
            Self::StopContainer(pod, name) => write!(f, "end {}", what_of(pod, name)),
            Self::StartContainer(pod, container) => {
                let what = what_of(pod, &container.name);
                if container.is_app() {
                    write!(f, "start {what}: {}", ports(container))
                } else {
                    write!(f, "start {what}: {}", container.command.join(" "))
                }
            }
            Self::Publish { file, .. } => write!(f, "write {file} to the registry"),
            Self::Withdraw(file) => write!(f, "remove {file} from the registry"),
            Self::OfferService(lab) => {
                let ip = super::address::first_service(lab.service_cidr);
                let ip = ip.map_or_else(String::new, |ip| ip.to_string());
                write!(
                    f,
                    "write the first Service to the registry: web, {ip}:80 to 8080 of app=web"
                )
            }
            Self::StartAgent => write!(
                f,
                "start the agent, which marks a pod as not ready when its app ends"
            ),
        }
    }
}

fn what_of(pod: &Pod, container: &Label) -> String {
    if container.as_str() == APP {
        format!("the app of {}", pod.spec.name)
    } else {
        format!("the container {container} of {}", pod.spec.name)
    }
}

fn ports(container: &ContainerSpec) -> String {
    let ports = container.ports.iter();
    let ports = ports.map(|port| {
        format!(
            "{} on {}/{}",
            port.name.as_str(),
            port.container_port.get(),
            port.protocol.name()
        )
    });
    ports.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
