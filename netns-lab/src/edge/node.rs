//! The node's links, addresses and routes, by rtnetlink.
//!
//! The socket belongs to the network namespace of the thread that opened it.

use std::fmt::Display;
use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use ipnet::Ipv4Net;
use labkit::Failure;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoPortData, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType,
};
use rtnetlink::{
    AddressMessageBuilder, Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};
use tokio::runtime::Runtime;

use crate::model::ledger::Lab;
use crate::model::name::{self, LEAVING_BIT};
use crate::model::observed::{Address, Link, Route};

/// The routing table of addresses themselves (`RT_TABLE_LOCAL`).
const LOCAL_TABLE: u32 = 255;

/// A connection to the node's network namespace.
pub struct Node {
    runtime: Runtime,
    handle: Handle,
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

    /// All links.
    pub fn links(&self) -> Result<Vec<Link>, Failure> {
        let request = self.handle.link().get();
        // Counters of a thousand links are most of the dump, and nobody reads them here.
        let request = request.set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
        let found = self.runtime.block_on(request.execute().try_collect::<Vec<_>>());
        Ok(found.map_err(told("list the links"))?.iter().map(link).collect())
    }

    /// All IPv4 addresses.
    pub fn addresses(&self) -> Result<Vec<Address>, Failure> {
        let found = self
            .runtime
            .block_on(self.handle.address().get().execute().try_collect::<Vec<_>>());
        Ok(found
            .map_err(told("list the addresses"))?
            .iter()
            .filter_map(address)
            .collect())
    }

    /// All IPv4 routes, without the `local` table and default routes.
    pub fn routes(&self) -> Result<Vec<Route>, Failure> {
        let all = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let found = self
            .runtime
            .block_on(self.handle.route().get(all).execute().try_collect::<Vec<_>>());
        Ok(found
            .map_err(told("list the routes"))?
            .iter()
            .filter_map(route)
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

    /// Makes the lab's bridge, down, with its MAC, group and alias, and returns its index.
    pub fn add_bridge(&self, lab: &Lab) -> Result<u32, Failure> {
        let doing = format!("make the bridge {}", lab.bridge);
        // The MAC is in the message that makes it: else the bridge would take the lowest MAC of
        // its ports, another one with each pod, and udev would set one of its own.
        let bridge = LinkBridge::new(&lab.bridge)
            .down()
            .address(lab.bridge_mac().to_vec())
            .link_group(lab.group())
            .alias(name::bridge_alias(&lab.name))
            .build();
        self.runtime
            .block_on(self.handle.link().add(bridge).execute())
            .map_err(told(&doing))?;
        let index = self.index(&lab.bridge)?;
        // Some kernels take an alias only from a later message.
        let alias = LinkUnspec::new_with_index(index)
            .alias(name::bridge_alias(&lab.name))
            .build();
        self.change(alias, &doing)?;
        self.change(no_link_local(LinkUnspec::new_with_index(index)).build(), &doing)?;
        Ok(index)
    }

    /// Sets the bridge up and gives it its address.
    pub fn raise_bridge(&self, lab: &Lab) -> Result<(), Failure> {
        let index = self.index(&lab.bridge)?;
        self.change(
            LinkUnspec::new_with_index(index).up().build(),
            &format!("set {} up", lab.bridge),
        )?;
        let net = lab.bridge_address();
        let request = self
            .handle
            .address()
            .add(index, IpAddr::V4(net.addr()), net.prefix_len())
            .replace();
        self.runtime
            .block_on(request.execute())
            .map_err(told(&format!("give {} the address {net}", lab.bridge)))
    }

    /// Routes the Service range into the bridge.
    pub fn route_services(&self, lab: &Lab) -> Result<(), Failure> {
        let index = self.index(&lab.bridge)?;
        let range = lab.service_cidr.trunc();
        let route = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(range.network(), range.prefix_len())
            .output_interface(index)
            .scope(RouteScope::Link)
            .build();
        let request = self.handle.route().add(route).replace();
        self.runtime
            .block_on(request.execute())
            .map_err(told(&format!("route {range} into {}", lab.bridge)))
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
            self.change(message, &format!("mark the link {}", link.name))?;
        }
        self.delete_group(leaving)
    }

    fn change(&self, message: LinkMessage, doing: &str) -> Result<(), Failure> {
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

fn told(doing: &str) -> impl Fn(rtnetlink::Error) -> Failure + '_ {
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

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Default::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Group(group) => link.group = *group,
            LinkAttribute::Controller(index) => link.master = *index,
            LinkAttribute::LinkInfo(infos) => link.hairpin_off = infos.iter().any(hairpin_is_off),
            _ => {}
        }
    }
    link
}

fn hairpin_is_off(info: &LinkInfo) -> bool {
    match info {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
            port.contains(&InfoBridgePort::HairpinMode(false))
        }
        _ => false,
    }
}

fn address(message: &AddressMessage) -> Option<Address> {
    let mut attributes = message.attributes.iter();
    // On a point-to-point link `Address` is the other end; `Local` is ours on every link.
    attributes.find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(ip)) => Some(Address {
            index: message.header.index,
            net: Ipv4Net::new(*ip, message.header.prefix_len).ok()?,
        }),
        _ => None,
    })
}

fn route(message: &RouteMessage) -> Option<Route> {
    let header: &RouteHeader = &message.header;
    let (mut destination, mut index, mut table) = (None, 0, u32::from(header.table));
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = Some(*ip),
            RouteAttribute::Oif(oif) => index = *oif,
            RouteAttribute::Table(id) => table = *id,
            _ => {}
        }
    }
    let wanted = table != LOCAL_TABLE && !matches!(header.kind, RouteType::Local | RouteType::Broadcast);
    let destination = Ipv4Net::new(destination?, header.destination_prefix_length).ok()?;
    (wanted && destination.prefix_len() > 0).then_some(Route { destination, index })
}

/// The message that gives an address to a link, for those who send many at once.
pub(super) fn address_message(index: u32, net: Ipv4Net) -> AddressMessage {
    AddressMessageBuilder::<std::net::Ipv4Addr>::new()
        .address(net.addr(), net.prefix_len())
        .index(index)
        .build()
}
