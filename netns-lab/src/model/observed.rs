//! What a host has, as data: the other half of what a plan is made from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::ledger::Lab;
use super::name::{self, Label};
use super::node::Host;
use super::rule::Rule;

/// A link of a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its group; 0 unless someone set one.
    pub group: u32,
    /// Its alias, or an empty text.
    pub alias: String,
    /// The index of the bridge it is a port of, or 0.
    pub master: u32,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it is the port of a bridge that sends nothing back by the port it came in.
    pub hairpin_off: bool,
}

impl Link {
    /// Whether it is the bridge of this lab.
    ///
    /// The group is in the message that makes it, the alias in the next one: a bridge of our group
    /// without an alias is ours too, from an `up` that died in between.
    pub fn is_bridge_of(&self, lab: &Lab) -> bool {
        let ours = self.alias.is_empty() || self.alias == name::bridge_alias(&lab.name);
        self.name == lab.bridge && self.group == lab.group() && ours
    }

    /// Whether it is a port of this bridge that was made by the lab and works.
    pub fn is_port_of(&self, lab: &Lab, bridge: &Self) -> bool {
        self.group == lab.group() && self.master == bridge.index && self.up
    }
}

/// An address of a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The link it is on.
    pub index: u32,
    /// The address and the length of its range.
    pub net: IpNet,
}

/// A route of a network namespace, not counting the `local` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// By which routers; none on the link itself.
    pub via: Vec<IpAddr>,
    /// Through which link; 0 when the route names none.
    pub index: u32,
}

/// What one network namespace has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// All links.
    pub links: Vec<Link>,
    /// All addresses.
    pub addresses: Vec<Address>,
    /// All routes.
    pub routes: Vec<Route>,
    /// Which MACs are behind which nodes, as tunnels know it.
    pub far_ends: BTreeSet<(Ipv4Addr, [u8; 6])>,
    /// Which MAC an address has, as neighbours know it.
    pub neighbours: BTreeSet<(IpAddr, [u8; 6])>,
    /// Those of the lab's rules that stand.
    pub rules: BTreeSet<Rule>,
    /// Settings of the kernel that a lab may change, as text of their files; those that are not
    /// there are left out.
    pub settings: BTreeMap<String, String>,
}

/// What a host has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// What the lab's namespaces have, but for those of pods.
    pub views: BTreeMap<Host, View>,
    /// The names under `/run/netns` that matter here, and the inode of each; 0 where the name is
    /// there and no namespace is behind it.
    pub namespaces: BTreeMap<String, u64>,
    /// Whether `/run/netns` is there and is a mount, as `ip netns` makes it.
    pub netns_directory: bool,
    /// Whether the kernel has `br_netfilter`.
    pub bridge_netfilter: bool,
    /// Containers that run, each with its pod.
    pub running: BTreeSet<(Label, Label)>,
    /// The exit codes of containers that have ended and left one.
    pub exit_codes: BTreeMap<(Label, Label), u8>,
    /// Pods whose holder runs.
    pub held: BTreeSet<Label>,
    /// Pods whose holder is in a namespace that lost its address or its way out.
    pub cut_off: BTreeSet<Label>,
    /// Whether the agent runs.
    pub agent: bool,
    /// Files of the registry that the lab owns, with their content.
    pub published: BTreeMap<String, Vec<u8>>,
    /// Whether any Service is in the registry.
    pub has_service: bool,
}

impl View {
    /// The link of a name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The name of the link of an index, or its number.
    pub fn link_name(&self, index: u32) -> String {
        let found = self.links.iter().find(|link| link.index == index);
        found.map_or_else(|| format!("link {index}"), |link| link.name.clone())
    }

    /// Whether an address is on a link.
    pub fn has_address(&self, index: u32, ip: impl Into<IpAddr>) -> bool {
        let ip = ip.into();
        self.addresses
            .iter()
            .any(|address| address.index == index && address.net.addr() == ip)
    }

    /// Whether an IPv4 address is on the link of a name.
    pub fn has_on(&self, link: &str, ip: Ipv4Addr) -> bool {
        self.link(link)
            .is_some_and(|link| link.up && self.has_address(link.index, ip))
    }

    /// The highest index of a link.
    pub fn highest_index(&self) -> u32 {
        self.links.iter().map(|link| link.index).max().unwrap_or(0)
    }
}
