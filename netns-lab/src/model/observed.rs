//! What a host has, as data: the other half of what a plan is made from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::ledger::Lab;
use super::name::{self, Label};
use super::rule::Rule;

/// A link of the node.
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
}

/// An IPv4 address of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The link it is on.
    pub index: u32,
    /// The address and the length of its range.
    pub net: Ipv4Net,
}

/// An IPv4 route of the node, not counting the `local` table and default routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: Ipv4Net,
    /// Through which link; 0 when the route names none.
    pub index: u32,
}

/// What a host has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// All links of the node.
    pub links: Vec<Link>,
    /// All IPv4 addresses of the node.
    pub addresses: Vec<Address>,
    /// All IPv4 routes of the node.
    pub routes: Vec<Route>,
    /// The names under `/run/netns` that matter here, and the inode of each; 0 where the name is
    /// there and no namespace is behind it.
    pub namespaces: BTreeMap<String, u64>,
    /// Containers that run, each with its pod.
    pub running: BTreeSet<(Label, Label)>,
    /// Pods whose holder runs.
    pub held: BTreeSet<Label>,
    /// Pods whose holder is in a namespace that lost its address or its way out.
    pub cut_off: BTreeSet<Label>,
    /// Whether the agent runs.
    pub agent: bool,
    /// Those of the lab's rules that stand.
    pub rules: BTreeSet<Rule>,
    /// Settings of the kernel.
    pub kernel: Kernel,
    /// Files of the registry that the lab owns, with their content.
    pub published: BTreeMap<String, Vec<u8>>,
    /// Whether any Service is in the registry.
    pub has_service: bool,
}

/// Settings of the kernel, as text of their files; `None` where the file is not there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kernel {
    /// `net.ipv4.ip_forward`.
    pub ip_forward: Option<String>,
    /// `net.ipv4.conf.all.send_redirects`.
    pub send_redirects: Option<String>,
    /// `net.bridge.bridge-nf-call-iptables`; it is there once `br_netfilter` is.
    pub bridge_nf_call_iptables: Option<String>,
    /// Whether `/run/netns` is there and is a mount, as `ip netns` makes it.
    pub netns_directory: bool,
}

impl Observed {
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
    pub fn has_address(&self, index: u32, ip: Ipv4Addr) -> bool {
        self.addresses
            .iter()
            .any(|address| address.index == index && address.net.addr() == ip)
    }
}
