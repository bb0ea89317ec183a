//! The ledger: what a lab intends and what it made, written down before it is made.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::address;
use super::container::{self, ContainerSpec};
use super::name::{self, Label};
use super::name_server::NameServer;
use super::node::{Host, Machine, Node, Underlay};
use super::topology::{PodSpec, Topology};

/// The shape of the file; another number is from another version of the program.
pub const VERSION: u32 = 2;

/// A lab without its pods: names and ranges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lab {
    /// Its name.
    pub name: Label,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// The range of all pods; each node has it whole or a part of it.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Ipv4Net,
    /// The same in IPv6, in a dual-stack lab.
    #[serde(rename = "podCIDRv6", default, skip_serializing_if = "Option::is_none")]
    pub pod_cidr6: Option<Ipv6Net>,
    /// The range of virtual IPs, routed into the bridge of each node.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: Ipv4Net,
    /// The same in IPv6.
    #[serde(rename = "serviceCIDRv6", default, skip_serializing_if = "Option::is_none")]
    pub service_cidr6: Option<Ipv6Net>,
    /// The name of the bridge of each node.
    pub bridge: String,
    /// What joins the nodes; none where the namespace that `up` was called in is the only node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underlay: Option<Underlay>,
    /// The name server, if the lab has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<NameServer>,
}

impl Lab {
    /// The group that all links of the lab carry.
    pub fn group(&self) -> u32 {
        name::link_group(&self.name)
    }

    /// The node of a name.
    pub fn node(&self, name: &Label) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name() == name)
    }

    /// The node of a pod.
    pub fn node_of(&self, pod: &Pod) -> Option<&Node> {
        self.node(&pod.node)
    }

    /// The node that is the namespace in which `up` was called, if one is.
    pub fn caller_node(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.machine.is_none())
    }

    /// The ranges of virtual IPs.
    pub fn service_ranges(&self) -> Vec<IpNet> {
        let second = self.service_cidr6.map(|range| range.trunc().into());
        std::iter::once(self.service_cidr.trunc().into())
            .chain(second)
            .collect()
    }

    /// The namespaces on the underlay: the nodes' and that of outside.
    pub fn machines(&self) -> impl Iterator<Item = (Host, &Machine)> {
        let outside = self
            .underlay
            .iter()
            .map(|underlay| (Host::Outside, &underlay.outside));
        let nodes = self
            .nodes
            .iter()
            .filter_map(|node| Some((node.host(), node.machine.as_ref()?)));
        outside.chain(nodes)
    }

    /// All namespaces of the lab that are not pods', by their names under `/run/netns`; the underlay
    /// first.
    pub fn hosts(&self) -> Vec<(Host, &str)> {
        let underlay = self
            .underlay
            .iter()
            .map(|found| (Host::Underlay, found.namespace.as_str()));
        let machines = self
            .machines()
            .map(|(host, machine)| (host, machine.namespace.as_str()));
        underlay.chain(machines).collect()
    }
}

/// A pod with all names and addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// What was asked for.
    #[serde(flatten)]
    pub spec: PodSpec,
    /// The node it is on.
    pub node: Label,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its IPv6 address, in a dual-stack lab.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip6: Option<Ipv6Addr>,
    /// Its name under `/run/netns`.
    pub namespace: String,
    /// The node's end of its veth pair.
    pub interface: String,
    /// It is the lab's own, and not of the topology.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
}

impl Pod {
    /// Its MAC.
    pub fn mac(&self) -> [u8; 6] {
        address::mac(self.ip)
    }

    /// Its containers, in their order.
    pub fn containers(&self) -> Vec<ContainerSpec> {
        container::containers(&self.spec)
    }
}

/// A process, told apart from a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pid, self.start_time)
    }
}

impl FromStr for ProcessId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (pid, start_time) = text.split_once(':')?;
            Some(Self {
                pid: pid.parse().ok()?,
                start_time: start_time.parse().ok()?,
            })
        };
        parse().ok_or_else(|| "expected PID:START".to_string())
    }
}

/// A pod and what is known of it since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// The pod.
    pub pod: Pod,
    /// The inode of its network namespace; none until that is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_inode: Option<u64>,
    /// The process that holds its namespaces, whatever becomes of its containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<ProcessId>,
    /// Its containers: those of the topology in their order, then those that were added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<ContainerRecord>,
    /// Somebody said that it is not ready, whatever its containers do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unready: bool,
    /// It is being ended; none if it is to stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Leaving>,
    /// The command that ends it; none when that is this one, or has died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ender: Option<ProcessId>,
}

/// What becomes of a pod that is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leaving {
    /// Nothing more.
    ForGood,
    /// Another one of its name takes its place, with an address of its own.
    ToReturn,
}

/// A container and what is known of it since it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecord {
    /// Its name.
    pub name: Label,
    /// Its first process; none until that is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessId>,
    /// What `run` was asked for; none if the topology has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<ContainerSpec>,
    /// It was added to run once: when it ends, it has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub once: bool,
    /// How often it was started again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u32,
    /// How often of late: what the pause before the next start follows from.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub streak: u32,
    /// The exit code of the process before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl ContainerRecord {
    /// One that was never started.
    pub fn announced(name: Label) -> Self {
        Self {
            name,
            process: None,
            added: None,
            once: false,
            restarts: 0,
            streak: 0,
            exit_code: None,
        }
    }
}

impl PodRecord {
    /// A pod of which nothing is known yet.
    pub fn announced(pod: Pod) -> Self {
        Self {
            pod,
            namespace_inode: None,
            holder: None,
            containers: Vec::new(),
            unready: false,
            leaving: None,
            ender: None,
        }
    }

    /// What another command does with the pod, which may take a while yet.
    pub fn leaving_by_others(&self) -> Option<Leaving> {
        self.ender.and(self.leaving)
    }

    /// The containers that are to run: those of the topology in their order, then those that were
    /// added.
    pub fn wanted(&self) -> Vec<ContainerSpec> {
        let mut all = self.pod.containers();
        all.extend(self.added());
        all
    }

    /// The containers that were added and are to run.
    pub fn added(&self) -> Vec<ContainerSpec> {
        let of_topology = self.pod.containers();
        let stays = self.containers.iter().filter(|container| !container.once);
        let added = stays.filter_map(|container| container.added.clone());
        added
            .filter(|spec| of_topology.iter().all(|wanted| wanted.name != spec.name))
            .collect()
    }

    /// All its processes that were started: the holder and the first one of each container.
    pub fn processes(&self) -> impl Iterator<Item = ProcessId> {
        let containers = self.containers.iter();
        self.holder
            .into_iter()
            .chain(containers.filter_map(|container| container.process))
    }

    /// The record of a container.
    pub fn container(&self, name: &Label) -> Option<&ContainerRecord> {
        self.containers.iter().find(|container| container.name == *name)
    }

    /// The process of a container.
    pub fn process(&self, container: &Label) -> Option<ProcessId> {
        self.container(container)?.process
    }

    /// The process of the first container.
    pub fn first_process(&self) -> Option<ProcessId> {
        self.containers.first()?.process
    }

    /// Writes down the process of a container, which is new or was started again.
    pub fn set_process(&mut self, name: &Label, process: Option<ProcessId>) {
        match self
            .containers
            .iter_mut()
            .find(|container| container.name == *name)
        {
            Some(container) => container.process = process,
            None => self.containers.push(ContainerRecord {
                process,
                ..ContainerRecord::announced(name.clone())
            }),
        }
    }
}

/// A namespace of the lab that is not a pod's, and what is known of it since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostRecord {
    /// Its name under `/run/netns`.
    pub namespace: String,
    /// Its inode; none until that is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_inode: Option<u64>,
}

/// Everything that `down` must know, whatever happened in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// [`VERSION`].
    pub version: u32,
    /// The lab.
    pub lab: Lab,
    /// The inode of the network namespace that `up` was called in, where that is the only node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_namespace: Option<u64>,
    /// The iptables program that the rules were written with.
    pub iptables: PathBuf,
    /// A command is changing the lab, or died while it did: nothing below is sure.
    #[serde(default)]
    pub unsettled: bool,
    /// `down` has begun: whoever comes next finishes it.
    #[serde(default)]
    pub leaving: bool,
    /// The namespaces of nodes, of the underlay and of outside, as pods below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostRecord>,
    /// The pods that are there, are being made, or are being removed.
    pub pods: Vec<PodRecord>,
    /// Addresses of pods that were ended, the last one last: nobody gets them while there are others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub released: Vec<Ipv4Addr>,
    /// The process that watches the apps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<ProcessId>,
    /// Rollouts that have begun, by app. What a command that died has left is finished by the next.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rollouts: BTreeMap<Label, Rollout>,
}

/// A rollout on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// How many pods there are to be in the end.
    pub pods: usize,
    /// The command that does it.
    pub by: ProcessId,
}

impl Ledger {
    /// The record of a pod.
    pub fn pod(&self, name: &Label) -> Option<&PodRecord> {
        self.pods.iter().find(|record| record.pod.spec.name == *name)
    }

    /// The records of the pods that the topology has, without the lab's own.
    pub fn topology_pods(&self) -> impl Iterator<Item = &PodRecord> {
        self.pods.iter().filter(|record| !record.pod.system)
    }

    /// The records of pods that another command ends just now.
    pub fn pods_of_others(&self) -> impl Iterator<Item = &PodRecord> {
        self.pods.iter().filter(|record| record.ender.is_some())
    }

    /// The record of a namespace that is not a pod's.
    pub fn host(&self, namespace: &str) -> Option<&HostRecord> {
        self.hosts.iter().find(|record| record.namespace == namespace)
    }

    /// The topology that this lab was made from, for an `up` without one.
    pub fn topology(&self) -> Topology {
        Topology {
            schema: None,
            nodes: self.lab.nodes.iter().map(|node| node.spec.clone()).collect(),
            isolated: self.lab.underlay.is_some(),
            dual_stack: self.lab.pod_cidr6.is_some(),
            overlay: self.lab.underlay.as_ref().and_then(|underlay| underlay.overlay),
            dns: Some(self.lab.dns.is_some()),
            dns_upstream: self.lab.dns.as_ref().and_then(|dns| dns.upstream.clone()),
            pods: self
                .topology_pods()
                .filter(|record| record.leaving != Some(Leaving::ForGood))
                .map(|record| record.pod.spec.clone())
                .collect(),
        }
    }

    /// Addresses that were given back, those of pods that are being ended among them.
    pub fn given_back(&self) -> Vec<Ipv4Addr> {
        let leaving = self.pods.iter().filter(|record| record.leaving.is_some());
        let mut all = self.released.clone();
        for record in leaving {
            all.retain(|ip| *ip != record.pod.ip);
            all.push(record.pod.ip);
        }
        all
    }

    /// Remembers what was given back, but for what pods have again.
    pub fn release(&mut self, pods: &[Pod]) {
        /// As many as people may still have in mind.
        const REMEMBERED: usize = 64;
        let mut all = self.given_back();
        all.retain(|ip| !pods.iter().any(|pod| pod.ip == *ip));
        self.released = all.split_off(all.len().saturating_sub(REMEMBERED));
    }
}
