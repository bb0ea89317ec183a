//! The node's links and addresses, by rtnetlink; [`links`](super::links) lists them.
//!
//! The socket belongs to the network namespace of the thread that opened it.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use labkit::Failure;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage};
use rtnetlink::{AddressMessageBuilder, Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};
use tokio::runtime::Runtime;

use crate::model::address;
use crate::model::ledger::Lab;
use crate::model::name::{self, LEAVING_BIT};
use crate::model::node::Node as LabNode;
use crate::model::observed::{Address, Link};

/// A connection to the node's network namespace.
pub struct Node {
    pub(super) runtime: Runtime,
    pub(super) handle: Handle,
}

impl Node {
    /// Connects to the network namespace of this thread.
    pub fn open() -> Result<Self, Failure> {
        let failed =
            |error: std::io::Error| Failure::failed(format!("cannot talk to the kernel's netlink: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(failed)?;
        let guard = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
        drop(guard);
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    /// All addresses.
    pub fn addresses(&self) -> Result<Vec<Address>, Failure> {
        let found = self
            .runtime
            .block_on(self.handle.address().get().execute().try_collect::<Vec<_>>());
        Ok(found
            .map_err(told("list the addresses"))?
            .iter()
            .filter_map(seen_address)
            .collect())
    }

    /// The index of a link.
    pub fn index(&self, name: &str) -> Result<u32, Failure> {
        let mut found = self.handle.link().get().match_name(name).execute();
        let link = self
            .runtime
            .block_on(found.try_next())
            .map_err(told(&format!("find the link {name}")))?;
        link.map(|link| link.header.index)
            .ok_or_else(|| Failure::failed(format!("there is no link {name}")))
    }

    /// Makes a node's bridge, down, with its MAC, group and alias, and returns its index.
    pub fn add_bridge(&self, lab: &Lab, node: &LabNode) -> Result<u32, Failure> {
        // The MAC is in the message that makes it: else the bridge would take the lowest MAC of
        // its ports, another one with each pod, and udev would set one of its own.
        self.make_bridge(lab, &node.bridge, node.bridge_mac())
    }

    pub(super) fn make_bridge(&self, lab: &Lab, name: &str, mac: [u8; 6]) -> Result<u32, Failure> {
        let doing = format!("make the bridge {name}");
        let alias = name::bridge_alias(&lab.name);
        let bridge = LinkBridge::new(name)
            .down()
            .address(mac.to_vec())
            .link_group(lab.group())
            .alias(&alias)
            .build();
        self.runtime
            .block_on(self.handle.link().add(bridge).execute())
            .map_err(told(&doing))?;
        let index = self.index(name)?;
        // Some kernels take an alias only from a later message.
        let alias = LinkUnspec::new_with_index(index).alias(alias).build();
        self.change(alias, &doing)?;
        self.change(no_link_local(LinkUnspec::new_with_index(index)).build(), &doing)?;
        Ok(index)
    }

    /// Sets a node's bridge up and gives it its addresses; the IPv6 one after it is up, or the
    /// first packet to it would wait for a second.
    pub fn raise_bridge(&self, node: &LabNode) -> Result<(), Failure> {
        let index = self.index(&node.bridge)?;
        self.raise(index, &node.bridge)?;
        let second = node.bridge_address6().map(IpNet::from);
        let local = second.map(|_| IpNet::from(address::link_local(node.bridge_address().addr())));
        let first = IpNet::from(node.bridge_address());
        for net in std::iter::once(first).chain(second).chain(local) {
            self.give_address(index, &node.bridge, net)?;
        }
        Ok(())
    }

    pub(super) fn raise(&self, index: u32, name: &str) -> Result<(), Failure> {
        self.change(
            LinkUnspec::new_with_index(index).up().build(),
            &format!("set {name} up"),
        )
    }

    pub(super) fn give_address(&self, index: u32, link: &str, net: IpNet) -> Result<(), Failure> {
        let request = self.handle.address().add(index, net.addr(), net.prefix_len());
        let mut request = request.replace();
        if net.addr().is_ipv6() {
            without_detection(request.message_mut());
        }
        self.runtime
            .block_on(request.execute())
            .map_err(told(&format!("give {link} the address {net}")))
    }

    /// Sets `lo` up.
    pub fn raise_loopback(&self) -> Result<(), Failure> {
        self.change(LinkUnspec::new_with_name("lo").up().build(), "set lo up")
    }

    /// Makes a bridge and a veth pair, to see whether this kernel can.
    pub fn try_links(&self) -> Result<(), Failure> {
        let bridge = LinkBridge::new("trial").down().build();
        self.runtime
            .block_on(self.handle.link().add(bridge).execute())
            .map_err(told("make a bridge"))?;
        let pair = LinkVeth::new("trial-a", "trial-b").down().build();
        self.runtime
            .block_on(self.handle.link().add(pair).execute())
            .map_err(told("make a veth pair"))
    }

    /// Deletes all links of a group by one message; none is no error.
    ///
    /// One by one each would cost the kernel an RCU grace period, tens of milliseconds.
    pub fn delete_group(&self, group: u32) -> Result<(), Failure> {
        let message = LinkMessageBuilder::<LinkUnspec>::new().link_group(group).build();
        let deleted = self
            .runtime
            .block_on(self.handle.link().del_with_message(message).execute());
        match deleted {
            Err(rtnetlink::Error::NetlinkError(error)) if is_no_device(&error) => Ok(()),
            other => other.map_err(told("delete the lab's links")),
        }
    }

    /// Deletes some links of a lab, together.
    pub fn delete_links(&self, links: &[&Link], lab_group: u32) -> Result<(), Failure> {
        let leaving = lab_group | LEAVING_BIT;
        for link in links {
            let message = LinkUnspec::new_with_index(link.index).link_group(leaving).build();
            let marked = self
                .runtime
                .block_on(self.handle.link().change(message).execute());
            match marked {
                // It has gone by itself meanwhile, as with a namespace that somebody has removed.
                Err(rtnetlink::Error::NetlinkError(error)) if is_no_device(&error) => {}
                other => other.map_err(told(&format!("mark the link {}", link.name)))?,
            }
        }
        self.delete_group(leaving)
    }

    /// Deletes the link of a name, if there is one. It takes the kernel tens of milliseconds.
    pub fn delete_link(&self, name: &str) -> Result<(), Failure> {
        let message = LinkUnspec::new_with_name(name).build();
        let deleted = self
            .runtime
            .block_on(self.handle.link().del_with_message(message).execute());
        match deleted {
            Err(rtnetlink::Error::NetlinkError(error)) if is_no_device(&error) => Ok(()),
            other => other.map_err(told(&format!("delete the link {name}"))),
        }
    }

    pub(super) fn change(&self, message: LinkMessage, doing: &str) -> Result<(), Failure> {
        self.runtime
            .block_on(self.handle.link().change(message).execute())
            .map_err(told(doing))
    }
}

/// Switches off IPv6 link-local addresses: a thousand pods would flood the bridge with duplicate
/// address detection and multicast reports. It must be done before the link is up.
pub(super) fn no_link_local<T>(link: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
    let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    link.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]))
}

fn is_no_device(error: &rtnetlink::packet_core::ErrorMessage) -> bool {
    error.raw_code() == -nix::libc::ENODEV
}

pub(super) fn told(doing: &str) -> impl Fn(rtnetlink::Error) -> Failure + '_ {
    move |error| match error {
        rtnetlink::Error::NetlinkError(message) => netlink_failure(doing, &message.to_io()),
        other => Failure::failed(format!("cannot {doing}: {other}")),
    }
}

/// A failure of a netlink request, with what to do about the usual reasons.
pub(super) fn netlink_failure(doing: impl Display, error: &std::io::Error) -> Failure {
    let message = format!("cannot {doing}: {error}");
    match error.raw_os_error() {
        Some(nix::libc::EPERM | nix::libc::EACCES) => {
            Failure::host_lacks(message).hint("run as root (sudo), or inside `netns-lab sandbox`")
        }
        Some(nix::libc::EOPNOTSUPP) => {
            Failure::host_lacks(message).hint("`netns-lab doctor` tells which kernel feature is missing")
        }
        _ => Failure::failed(message),
    }
}

fn seen_address(message: &AddressMessage) -> Option<Address> {
    // On a point-to-point link `Address` is the other end; `Local` is ours on every link. IPv6
    // addresses have no `Local`.
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(ip)) => Some(IpAddr::V4(*ip)),
        AddressAttribute::Address(IpAddr::V6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })?;
    Some(Address {
        index: message.header.index,
        net: IpNet::new(ip, message.header.prefix_len).ok()?,
    })
}

/// Nobody else can have the address, so that nothing has to wait for an answer to that question.
fn without_detection(message: &mut AddressMessage) {
    message.header.flags |= AddressHeaderFlags::Nodad;
    let flags = message
        .attributes
        .iter_mut()
        .find_map(|attribute| match attribute {
            AddressAttribute::Flags(flags) => Some(flags),
            _ => None,
        });
    match flags {
        Some(flags) => *flags |= AddressFlags::Nodad,
        None => message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
}

/// The message that gives an address to a link, for those who send many at once.
pub(super) fn address_message(index: u32, net: IpNet) -> AddressMessage {
    match net {
        IpNet::V4(net) => AddressMessageBuilder::<Ipv4Addr>::new()
            .address(net.addr(), net.prefix_len())
            .index(index)
            .build(),
        IpNet::V6(net) => {
            let mut message = AddressMessageBuilder::<Ipv6Addr>::new()
                .address(net.addr(), net.prefix_len())
                .index(index)
                .build();
            without_detection(&mut message);
            message
        }
    }
}
