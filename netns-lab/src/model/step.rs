//! The steps of a plan, and each in a sentence.

use std::fmt;

use ipnet::IpNet;

use super::address::mac_text;
use super::container::{APP, ContainerSpec};
use super::ledger::{HostRecord, Lab, Pod, PodRecord};
use super::name::Label;
use super::node::{Host, Machine, Node, OWN_END, VXLAN};
use super::observed::Route;
use super::rule::Rule;
use super::settings::BRIDGE_NF;
use super::way::Way;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Load `br_netfilter`.
    LoadBridgeNetfilter,
    /// Change a setting of the namespace that `up` was called in.
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
    /// Remove a namespace that is no longer wanted or no longer whole.
    RemoveHost(HostRecord),
    /// Make a namespace that is not a pod's.
    AddHost(Host, String),
    /// Change settings of a namespace of the lab.
    Configure(Host, Vec<(&'static str, &'static str)>),
    /// Join a namespace to the underlay.
    Attach(Host, Machine),
    /// Add an iptables rule to a node.
    AddRule(Node, Rule),
    /// Remove a pod that is no longer wanted or no longer whole.
    RemovePod(PodRecord),
    /// Make a node's bridge.
    AddBridge(Node),
    /// Make a node's end of the tunnel to all others.
    AddTunnel(Node),
    /// Make a pod: namespace, veth pair, addresses, routes.
    AddPod(Node, Pod),
    /// Set a node's bridge up and give it its addresses.
    RaiseBridge(Node),
    /// Route the Service ranges into a node's bridge.
    RouteServices(Node, Vec<IpNet>),
    /// Add or change a route of a namespace.
    AddWay(Host, Way),
    /// Remove a route that leads to a node that is no more.
    RemoveWay(Host, Route),
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

impl Step {
    /// Whether it mends what was there: not what this host may lack for good, nor what people may
    /// have removed on purpose.
    pub fn is_repair(&self) -> bool {
        !matches!(self, Self::LoadBridgeNetfilter | Self::OfferService(_))
    }

    /// The namespace in which it is taken, if it is one of the lab's own or of the only node.
    pub fn host(&self) -> Option<Host> {
        match self {
            Self::Configure(host, _)
            | Self::Attach(host, _)
            | Self::AddWay(host, _)
            | Self::RemoveWay(host, _) => Some(host.clone()),
            Self::AddRule(node, _)
            | Self::AddBridge(node)
            | Self::AddTunnel(node)
            | Self::RaiseBridge(node)
            | Self::RouteServices(node, _) => Some(node.host()),
            _ => None,
        }
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
            Self::OfferService(lab) => {
                let ip = super::address::first_service(lab.service_cidr);
                let ip = ip.map_or_else(String::new, |ip| ip.to_string());
                write!(
                    f,
                    "write the first Service to the registry: web, {ip}:80 to 8080 of app=web"
                )
            }
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
            Self::StartAgent => write!(
                f,
                "start the agent, which marks a pod as not ready when its app ends"
            ),
            other => other.fmt_network(f),
        }
    }
}

impl Step {
    fn fmt_network(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveHost(record) => write!(f, "remove the namespace {}", record.namespace),
            Self::AddHost(Host::Underlay, namespace) => {
                write!(f, "add the underlay, a bridge in the namespace {namespace}")
            }
            Self::AddHost(Host::Outside, namespace) => {
                write!(f, "add the host outside: namespace {namespace}")
            }
            Self::AddHost(host, namespace) => write!(f, "add the node {host}: namespace {namespace}"),
            Self::Configure(host, settings) => {
                let settings: Vec<_> = settings
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                write!(f, "on {host}: set {}", settings.join(", "))
            }
            Self::Attach(host, machine) => write!(
                f,
                "join {host} to the underlay: {} to {OWN_END} with {}{}",
                machine.interface,
                machine.ip,
                and(machine.ip6)
            ),
            Self::AddWay(host, way) => write!(f, "on {host}: route {way}"),
            Self::RemoveWay(host, route) => {
                write!(f, "on {host}: remove the route to {}", route.destination)
            }
            Self::AddRule(node, rule) => {
                write!(f, "{}add the rule: -t {} {}", on(node), rule.table, rule.listed())
            }
            Self::RemovePod(record) => {
                write!(f, "remove the pod {} ({})", record.pod.spec.name, record.pod.ip)
            }
            Self::AddBridge(node) => write!(
                f,
                "{}add the bridge {} with the MAC {}",
                on(node),
                node.bridge,
                mac_text(node.bridge_mac())
            ),
            Self::AddTunnel(node) => write!(f, "{}add the tunnel device {VXLAN}", on(node)),
            Self::AddPod(node, pod) => write!(
                f,
                "{}add the pod {}: namespace {}, {} on {} to eth0 with {}/{}{}, default route by {}",
                on(node),
                pod.spec.name,
                pod.namespace,
                pod.interface,
                node.bridge,
                pod.ip,
                node.pod_cidr.prefix_len(),
                and(pod.ip6),
                node.bridge_address().addr()
            ),
            Self::RaiseBridge(node) => write!(
                f,
                "{}bring {} up with {}{}",
                on(node),
                node.bridge,
                node.bridge_address(),
                and(node.bridge_address6())
            ),
            Self::RouteServices(node, ranges) => {
                let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "{}route {} into {}, where a virtual IP without a rule ends",
                    on(node),
                    ranges.join(" and "),
                    node.bridge
                )
            }
            _ => Ok(()),
        }
    }
}

/// Where it is done, unless there is only one place.
fn on(node: &Node) -> String {
    match node.machine {
        None => String::new(),
        Some(_) => format!("on {}: ", node.name()),
    }
}

fn and(more: Option<impl fmt::Display>) -> String {
    more.map_or_else(String::new, |more| format!(" and {more}"))
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
