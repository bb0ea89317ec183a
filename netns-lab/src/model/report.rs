//! What `up` and `status` show: one data structure, as a table or as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use labkit::table::Table;
use labkit::text::{count, printable};
use serde::Serialize;

use super::ledger::{Lab, Pod};
use super::name::{DEFAULT_LAB, Label};
use super::quantity::{Cpu, Memory};
use super::report_parts::{node_report, outside, pod_report, total};
use super::schedule::Use;

/// A lab as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabReport {
    /// Its name.
    pub lab: String,
    /// Its nodes.
    pub nodes: Vec<NodeReport>,
    /// What all nodes have together, and what is used of it.
    pub total: Resources,
    /// The range of all pods, where each node has a part of it.
    #[serde(rename = "clusterCIDR", skip_serializing_if = "Option::is_none")]
    pub cluster_cidr: Option<String>,
    /// The host outside of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside: Option<OutsideReport>,
    /// The range of virtual IPs.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: String,
    /// The bridge.
    pub bridge: String,
    /// Where its registry is.
    pub registry: String,
    /// Its pods.
    pub pods: Vec<PodReport>,
    /// Why the lab is not as it was made, if it is not.
    pub problems: Vec<String>,
    /// What `up` would do to bring back what is gone, in sentences.
    pub repairs: Vec<String>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// The range of its pods.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    /// The same in IPv6.
    #[serde(rename = "podCIDRv6", skip_serializing_if = "Option::is_none")]
    pub pod_cidr6: Option<String>,
    /// Its address: on the underlay, or on its bridge where it is the only node.
    pub ip: Ipv4Addr,
    /// The same in IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip6: Option<Ipv6Addr>,
    /// Its name under `/run/netns`, if it is a namespace of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The zone it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Whether it is there, with nothing missing but perhaps pods.
    pub ready: bool,
    /// What it has, and what is used of it.
    #[serde(flatten)]
    pub resources: Resources,
}

/// What there is, and what is used of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Resources {
    /// What pods ask for.
    pub used: Amounts,
    /// What there is.
    pub capacity: Amounts,
}

/// Pods, CPU time and memory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Amounts {
    /// How many pods.
    pub pods: usize,
    /// CPU time; none where nobody has said how much there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

/// The host outside of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutsideReport {
    /// Its name under `/run/netns`.
    pub netns: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// The same in IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip6: Option<Ipv6Addr>,
    /// Addresses for Services of the type LoadBalancer.
    #[serde(rename = "loadBalancerPool")]
    pub load_balancer_pool: String,
    /// The same in IPv6.
    #[serde(rename = "loadBalancerPoolV6", skip_serializing_if = "Option::is_none")]
    pub load_balancer_pool6: Option<String>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodReport {
    /// Its name.
    pub name: String,
    /// The node it is on.
    pub node: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// The same in IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip6: Option<Ipv6Addr>,
    /// Its MAC.
    pub mac: String,
    /// The labels that Services select by.
    pub labels: BTreeMap<String, String>,
    /// Whether its namespace, its link and its routes are there and its app, if it has one, runs.
    pub ready: bool,
    /// Its name under `/run/netns`.
    pub netns: String,
    /// The node's end of its veth pair.
    pub interface: String,
    /// The process of its app.
    pub pid: Option<i32>,
    /// Its containers: those of the topology, then those that were added.
    pub containers: Vec<ContainerReport>,
    /// It is the lab's own, and not of the topology.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerReport {
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub running: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// `run` has added it.
    pub added: bool,
}

/// A pod as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNow {
    /// The pod.
    pub pod: Pod,
    /// Whether all of it is there and runs.
    pub ready: bool,
    /// The process of its first container.
    pub pid: Option<i32>,
    /// Its containers.
    pub containers: Vec<ContainerReport>,
}

/// What is known of a lab besides its ledger.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Where its registry is.
    pub registry: String,
    /// Why the lab is not as it was made.
    pub problems: Vec<String>,
    /// What `up` would do, in sentences.
    pub repairs: Vec<String>,
    /// Nodes of which something is missing.
    pub broken: BTreeSet<Label>,
}

impl LabReport {
    /// The report of a lab.
    pub fn new(lab: &Lab, pods: &[PodNow], state: State) -> Self {
        let mut used: BTreeMap<&Label, Use> = BTreeMap::new();
        for PodNow { pod, .. } in pods {
            let sum = used.entry(&pod.node).or_default();
            *sum = sum.plus(Use::of(&pod.spec));
        }
        let nodes: Vec<_> = lab
            .nodes
            .iter()
            .map(|node| {
                let used = used.get(node.name()).copied().unwrap_or_default();
                node_report(node, used, !state.broken.contains(node.name()))
            })
            .collect();
        Self {
            lab: lab.name.to_string(),
            total: total(&nodes),
            nodes,
            cluster_cidr: lab.underlay.as_ref().map(|_| lab.pod_cidr.to_string()),
            outside: outside(lab),
            service_cidr: lab.service_cidr.to_string(),
            bridge: lab.bridge.clone(),
            registry: state.registry,
            pods: pods.iter().map(pod_report).collect(),
            problems: state.problems,
            repairs: state.repairs,
        }
    }

    /// The lab for people.
    pub fn table(&self) -> String {
        let mut text = self.head();
        if self.outside.is_some() {
            text.push_str(&self.node_table());
            text.push('\n');
        }
        text.push_str(&self.pod_table());
        let problems = self.problems.iter().map(|problem| format!("warning: {problem}"));
        let notes: Vec<_> = problems.chain(self.repair_note()).collect();
        if !notes.is_empty() {
            text.push('\n');
            text.extend(notes.iter().map(|note| wrapped(note)));
        }
        text
    }

    fn head(&self) -> String {
        let pods = || self.pods.iter().filter(|pod| !pod.system);
        let ready = pods().filter(|pod| pod.ready).count();
        let (lab, pods) = (&self.lab, count(pods().count(), "pod"));
        let ranges = |pods: &str| {
            wrapped(&format!(
                "pods {pods}, Services {}, registry {}",
                self.service_cidr, self.registry
            ))
        };
        let Some(outside) = &self.outside else {
            let pod_cidr = self.nodes.first().map_or("", |node| node.pod_cidr.as_str());
            let first = format!("lab {lab}: {pods}, {ready} ready, on the bridge {}", self.bridge);
            return format!("{}{}{}\n", wrapped(&first), self.own_pods(), ranges(pod_cidr));
        };
        let nodes = count(self.nodes.len(), "node");
        let pool = &outside.load_balancer_pool;
        format!(
            "{}{}{}{}\n",
            wrapped(&format!("lab {lab}: {nodes}, {pods}, {ready} ready")),
            self.own_pods(),
            ranges(self.cluster_cidr.as_deref().unwrap_or("")),
            wrapped(&format!("outside {}, load balancers {pool}", outside.ip)),
        )
    }

    /// A line on pods that nobody asked for, which take room, too.
    fn own_pods(&self) -> String {
        let own = self.pods.iter().filter(|pod| pod.system);
        let told = own.map(|pod| {
            let not = if pod.ready { "" } else { "not " };
            wrapped(&format!("besides them: {}, {not}ready", pod.name))
        });
        told.collect()
    }

    /// The nodes, and their sum below them. What nobody has said anything about has no column.
    fn node_table(&self) -> String {
        let (total, zones) = (&self.total, self.nodes.iter().any(|node| node.zone.is_some()));
        let said = |amounts: &Amounts| (amounts.cpu.is_some(), amounts.memory.is_some());
        let (cpu, memory) = said(&total.used);
        let columns = [
            ("NODE", true),
            ("READY", true),
            ("IP", true),
            ("POD CIDR", true),
            ("PODS", true),
            ("CPU", cpu),
            ("MEMORY", memory),
            ("ZONE", zones),
        ];
        let shown = |row: [String; 8]| {
            let cells = row.into_iter().zip(columns);
            cells
                .filter(|(_, (_, shown))| *shown)
                .map(|(cell, _)| cell)
                .collect::<Vec<_>>()
        };
        let titles: Vec<_> = columns
            .iter()
            .filter(|(_, shown)| *shown)
            .map(|(title, _)| *title)
            .collect();
        let mut table = Table::new(&titles);
        for node in &self.nodes {
            let [pods, cpu, memory] = node.resources.cells();
            table.row(shown([
                node.name.clone(),
                yes(node.ready).to_string(),
                node.ip.to_string(),
                node.pod_cidr.clone(),
                pods,
                cpu,
                memory,
                node.zone.clone().unwrap_or_default(),
            ]));
        }
        let [pods, cpu, memory] = total.cells();
        let none = String::new;
        table.row(shown([
            "total".into(),
            none(),
            none(),
            none(),
            pods,
            cpu,
            memory,
            none(),
        ]));
        table.render_whole()
    }

    /// The pods; of several nodes, the node is more worth than the names of its links, and so is a
    /// second address.
    fn pod_table(&self) -> String {
        let several = self.outside.is_some();
        let dual = self.pods.iter().any(|pod| pod.ip6.is_some());
        let mut table = match (several, dual) {
            (true, true) => Table::new(&["POD", "NODE", "IP", "IPV6", "READY", "LABELS"]),
            (true, false) => Table::new(&["POD", "NODE", "IP", "READY", "NETNS", "LABELS"]),
            (false, _) => Table::new(&["POD", "IP", "READY", "NETNS", "INTERFACE", "LABELS"]),
        };
        for pod in &self.pods {
            let labels = pod.labels.iter();
            let labels: Vec<_> = labels.map(|(key, value)| format!("{key}={value}")).collect();
            let mark = if pod.system { " (system)" } else { "" };
            let labels = labels.join(",") + mark;
            let (ip, ready) = (pod.ip.to_string(), &pod.readiness());
            if several && dual {
                let ip6 = pod.ip6.map(|ip| ip.to_string()).unwrap_or_default();
                table.row([pod.name.as_str(), &pod.node, &ip, &ip6, ready, &labels]);
            } else if several {
                table.row([pod.name.as_str(), &pod.node, &ip, ready, &pod.netns, &labels]);
            } else {
                table.row([pod.name.as_str(), &ip, ready, &pod.netns, &pod.interface, &labels]);
            }
        }
        table.render_whole()
    }

    /// The first few of the repairs, and how many more there are.
    fn repair_note(&self) -> Option<String> {
        const SHOWN: usize = 3;
        let mut shown = self.repairs.iter().take(SHOWN).cloned().collect::<Vec<_>>();
        if shown.is_empty() {
            return None;
        }
        if let more @ 1.. = self.repairs.len().saturating_sub(SHOWN) {
            shown.push(format!("and {}", count(more, "more step")));
        }
        let named = if self.lab == DEFAULT_LAB {
            String::new()
        } else {
            format!(" --name {}", self.lab)
        };
        Some(format!(
            "`netns-lab up{named}` would repair: {}",
            shown.join("; ")
        ))
    }
}

/// A line, broken at spaces so that it fits a terminal; only a longer word stays whole.
pub(crate) fn wrapped(text: &str) -> String {
    const WIDTH: usize = 80;
    let text = printable(text);
    let (mut lines, mut width) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > WIDTH {
            lines.push_str("\n  ");
            width = 2;
        } else if width > 0 {
            lines.push(' ');
            width += 1;
        }
        lines.push_str(word);
        width += length;
    }
    lines + "\n"
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

impl PodReport {
    /// `yes`; of several containers also how many of them run.
    fn readiness(&self) -> String {
        let (all, word) = (self.containers.len(), yes(self.ready));
        if all < 2 {
            return word.to_string();
        }
        let running = self
            .containers
            .iter()
            .filter(|container| container.running)
            .count();
        format!("{word} {running}/{all}")
    }
}

impl Resources {
    /// Pods, CPU time and memory, each as `used/there is`; `-` where nobody has said.
    fn cells(&self) -> [String; 3] {
        let (used, all) = (&self.used, &self.capacity);
        let of = |used: Option<String>, all: Option<String>| match (used, all) {
            (None, _) => String::new(),
            (Some(used), all) => format!("{used}/{}", all.unwrap_or_else(|| "-".into())),
        };
        let text = |cpu: &Option<Cpu>| cpu.map(|cpu| cpu.to_string());
        let memory = |memory: &Option<Memory>| memory.map(|memory| memory.to_string());
        [
            format!("{}/{}", used.pods, all.pods),
            of(text(&used.cpu), text(&all.cpu)),
            of(memory(&used.memory), memory(&all.memory)),
        ]
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
