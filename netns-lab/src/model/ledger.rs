//! The ledger: what a lab intends and what it made, written down before it is made.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::container::{self, ContainerSpec};
use super::name::{self, Label};
use super::topology::{NodeSpec, PodSpec, Topology};
use super::{address, topology};

/// The shape of the file; another number is from another version of the program.
pub const VERSION: u32 = 1;

/// A lab without its pods: names and ranges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lab {
    /// Its name.
    pub name: Label,
    /// The only node's name.
    pub node: Label,
    /// The range of the pods; the bridge has its first address.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Ipv4Net,
    /// The range of virtual IPs, routed into the bridge.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: Ipv4Net,
    /// The name of the bridge.
    pub bridge: String,
}

impl Lab {
    /// The group that all links of the lab carry.
    pub fn group(&self) -> u32 {
        name::link_group(&self.name)
    }

    /// The bridge's address with the length of the range.
    pub fn bridge_address(&self) -> Ipv4Net {
        Ipv4Net::new(address::bridge_address(self.pod_cidr), self.pod_cidr.prefix_len())
            .unwrap_or(self.pod_cidr)
    }

    /// The bridge's MAC.
    pub fn bridge_mac(&self) -> [u8; 6] {
        address::mac(address::bridge_address(self.pod_cidr))
    }
}

/// A pod with all names and addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// What was asked for.
    #[serde(flatten)]
    pub spec: PodSpec,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its name under `/run/netns`.
    pub namespace: String,
    /// The node's end of its veth pair.
    pub interface: String,
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
}

impl PodRecord {
    /// A pod of which nothing is known yet.
    pub fn announced(pod: Pod) -> Self {
        Self {
            pod,
            namespace_inode: None,
            holder: None,
            containers: Vec::new(),
        }
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
                name: name.clone(),
                process,
                added: None,
            }),
        }
    }
}

/// Everything that `down` must know, whatever happened in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// [`VERSION`].
    pub version: u32,
    /// The lab.
    pub lab: Lab,
    /// The inode of the network namespace that is the node.
    pub node_namespace: u64,
    /// The iptables program that the rules were written with.
    pub iptables: PathBuf,
    /// A command is changing the lab, or died while it did: nothing below is sure.
    #[serde(default)]
    pub unsettled: bool,
    /// `down` has begun: whoever comes next finishes it.
    #[serde(default)]
    pub leaving: bool,
    /// The pods that are there, are being made, or are being removed.
    pub pods: Vec<PodRecord>,
    /// The process that watches the apps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<ProcessId>,
}

impl Ledger {
    /// The record of a pod.
    pub fn pod(&self, name: &Label) -> Option<&PodRecord> {
        self.pods.iter().find(|record| record.pod.spec.name == *name)
    }

    /// The topology that this lab was made from, for an `up` without one.
    pub fn topology(&self) -> Topology {
        Topology {
            nodes: vec![NodeSpec {
                name: self.lab.node.clone(),
            }],
            pods: self.pods.iter().map(|record| record.pod.spec.clone()).collect(),
        }
    }
}

/// Gives each pod of a topology its address and its names.
///
/// # Errors
/// When the range is too small.
pub fn lay_out(
    lab: &Lab,
    topology: &topology::Topology,
    before: Option<&Ledger>,
) -> Result<Vec<Pod>, address::AddressError> {
    let names: Vec<_> = topology.pods.iter().map(|pod| pod.name.clone()).collect();
    let kept = before
        .map(|ledger| {
            let pods = ledger.pods.iter();
            pods.map(|record| (record.pod.spec.name.clone(), record.pod.ip))
                .collect()
        })
        .unwrap_or_default();
    let addresses = address::assign(lab.pod_cidr, &kept, &names)?;
    let pods = topology.pods.iter().zip(addresses);
    Ok(pods
        .map(|(spec, ip)| Pod {
            ip,
            namespace: name::namespace(&lab.name, &spec.name),
            interface: name::host_interface(&lab.name, &spec.name),
            spec: spec.clone(),
        })
        .collect())
}
