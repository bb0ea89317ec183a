//! What joins nodes: the underlay's bridge, tunnels, and routes. All by rtnetlink, for there are few.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use labkit::Failure;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteScope, RouteType,
};
use rtnetlink::{Error, LinkUnspec, LinkVxlan, RouteMessageBuilder, RouteNextHopBuilder};

use super::node::{Node, no_link_local, told};
use crate::model::address;
use crate::model::ledger::{Lab, Pod};
use crate::model::node::{Machine, Node as LabNode, OWN_END, UNDERLAY_BRIDGE, VXLAN};
use crate::model::observed::Route;
use crate::model::way::{Tunnel, Way, tunnel_address, tunnel_address6};

/// The routing table of addresses themselves (`RT_TABLE_LOCAL`).
const LOCAL_TABLE: u32 = 255;
/// The number and the port that tell a lab's tunnel from others; each lab has its own underlay, so
/// that they need not differ. The port is IANA's.
const VNI: u32 = 1;
const VXLAN_PORT: u16 = 4789;

impl Node {
    /// All routes, without the `local` table.
    pub fn routes(&self) -> Result<Vec<Route>, Failure> {
        let mut found = Vec::new();
        let every = [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ];
        for family in every {
            let listed = self
                .runtime
                .block_on(self.handle.route().get(family).execute().try_collect::<Vec<_>>());
            let listed = listed.map_err(told("list the routes"))?;
            found.extend(listed.iter().filter_map(route));
        }
        Ok(found)
    }

    /// Makes the bridge that joins machines, and sets it up.
    pub fn add_underlay(&self, lab: &Lab, first: Ipv4Addr) -> Result<(), Failure> {
        let index = self.make_bridge(lab, UNDERLAY_BRIDGE, address::mac(first))?;
        self.raise(index, UNDERLAY_BRIDGE)
    }

    /// Makes a node's end of the tunnel to all others, with the addresses that they route to.
    pub fn add_tunnel(&self, lab: &Lab, node: &LabNode, machine: &Machine) -> Result<(), Failure> {
        self.delete_link(VXLAN)?;
        let doing = format!("make the tunnel device {VXLAN}");
        let ip = tunnel_address(node);
        let link = LinkVxlan::new(VXLAN, VNI)
            .dev(self.index(OWN_END)?)
            .local(machine.ip)
            .port(VXLAN_PORT)
            .learning(false)
            .address(address::mac(ip).to_vec())
            .link_group(lab.group())
            .build();
        self.runtime
            .block_on(self.handle.link().add(link).execute())
            .map_err(told(&doing))?;
        let index = self.index(VXLAN)?;
        self.change(no_link_local(LinkUnspec::new_with_index(index)).build(), &doing)?;
        self.raise(index, VXLAN)?;
        let first = Ipv4Net::new(ip, 32).ok().map(IpNet::from);
        let second = tunnel_address6(node).and_then(|ip| Ipv6Net::new(ip, 128).ok());
        for net in first.into_iter().chain(second.map(IpNet::from)) {
            self.give_address(index, VXLAN, net)?;
        }
        Ok(())
    }

    /// Which MACs tunnels have behind which nodes.
    pub fn far_ends(&self) -> Result<BTreeSet<(Ipv4Addr, [u8; 6])>, Failure> {
        let found = self.known_macs(AddressFamily::Bridge)?.into_iter();
        Ok(found
            .filter_map(|(ip, mac)| match ip {
                IpAddr::V4(ip) => Some((ip, mac)),
                IpAddr::V6(_) => None,
            })
            .collect())
    }

    /// Which MACs neighbours have.
    pub fn neighbours(&self) -> Result<BTreeSet<(IpAddr, [u8; 6])>, Failure> {
        let first = self.known_macs(AddressFamily::Inet)?.into_iter();
        let second = self.known_macs(AddressFamily::Inet6)?;
        Ok(first.chain(second).collect())
    }

    fn known_macs(&self, family: AddressFamily) -> Result<Vec<(IpAddr, [u8; 6])>, Failure> {
        let request = self.handle.neighbours().get().set_address_family(family);
        let listed = self.runtime.block_on(request.execute().try_collect::<Vec<_>>());
        let listed = listed.map_err(told("list the neighbours"))?;
        let known = listed.iter().filter_map(|message| {
            let attributes = || message.attributes.iter();
            let ip = address_of(message);
            let mac = attributes().find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
                _ => None,
            });
            ip.zip(mac)
        });
        Ok(known.collect())
    }

    /// Adds or changes a route, and what it needs to find the far end of a tunnel.
    pub fn add_way(&self, way: &Way) -> Result<(), Failure> {
        let index = self.index(way.device)?;
        if let Some(tunnel) = &way.tunnel {
            self.add_far_end(index, way, tunnel)?;
        }
        let doing = format!("route {way}");
        let message = message(way, index).ok_or_else(|| Failure::failed(format!("cannot {doing}")))?;
        self.runtime
            .block_on(self.handle.route().add(message).replace().execute())
            .map_err(told(&doing))
    }

    /// Which MAC the far end has, and which node that MAC is at.
    fn add_far_end(&self, index: u32, way: &Way, tunnel: &Tunnel) -> Result<(), Failure> {
        for via in &way.via {
            let neighbour = self
                .handle
                .neighbours()
                .add(index, *via)
                .link_layer_address(&tunnel.mac)
                .state(NeighbourState::Permanent)
                .replace();
            self.runtime
                .block_on(neighbour.execute())
                .map_err(told(&format!("tell the MAC of {via}")))?;
        }
        let entry = self
            .handle
            .neighbours()
            .add_bridge(index, &tunnel.mac)
            .destination(tunnel.node.into())
            .flags(NeighbourFlags::Own)
            .state(NeighbourState::Permanent)
            .replace();
        self.runtime
            .block_on(entry.execute())
            .map_err(told(&format!("tell the node behind {VXLAN}")))
    }

    /// Forgets the MACs of pods that are gone, which the kernel would keep on these bridges.
    pub fn forget_neighbours(&self, bridges: &[u32], pods: &[&Pod]) -> Result<(), Failure> {
        let gone: BTreeSet<IpAddr> = pods
            .iter()
            .flat_map(|pod| std::iter::once(pod.ip.into()).chain(pod.ip6.map(IpAddr::from)))
            .collect();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = self.handle.neighbours().get().set_address_family(family);
            let listed = self.runtime.block_on(request.execute().try_collect::<Vec<_>>());
            for message in listed.map_err(told("list the neighbours"))? {
                let ours = message.header.state == NeighbourState::Permanent
                    && bridges.contains(&message.header.ifindex)
                    && address_of(&message).is_some_and(|ip| gone.contains(&ip));
                if !ours {
                    continue;
                }
                match self
                    .runtime
                    .block_on(self.handle.neighbours().del(message).execute())
                {
                    // Gone by itself.
                    Err(Error::NetlinkError(error)) if error.raw_code() == -nix::libc::ENOENT => {}
                    result => result.map_err(told("forget a neighbour"))?,
                }
            }
        }
        Ok(())
    }

    /// Removes a route; one that is not there is removed already.
    pub fn remove_way(&self, route: &Route) -> Result<(), Failure> {
        let mut message = bare(route.destination, route.index);
        // Of any scope: the kernel would look for one of the same otherwise.
        message.header.scope = RouteScope::NoWhere;
        match self.runtime.block_on(self.handle.route().del(message).execute()) {
            Err(Error::NetlinkError(error)) if error.raw_code() == -nix::libc::ESRCH => Ok(()),
            other => other.map_err(told(&format!("remove the route to {}", route.destination))),
        }
    }

    /// Routes the Service ranges into a node's bridge.
    pub fn route_services(&self, node: &LabNode, ranges: &[IpNet]) -> Result<(), Failure> {
        let index = self.index(&node.bridge)?;
        for range in ranges {
            let request = self.handle.route().add(bare(*range, index)).replace();
            self.runtime
                .block_on(request.execute())
                .map_err(told(&format!("route {range} into {}", node.bridge)))?;
        }
        Ok(())
    }
}

/// A route to whatever is on a link itself.
fn bare(destination: IpNet, index: u32) -> RouteMessage {
    match destination {
        IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .output_interface(index)
            .scope(RouteScope::Link)
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .output_interface(index)
            .build(),
    }
}

/// The far end of a tunnel is on no range of the device: the kernel has to be told that it is
/// right there.
fn message(way: &Way, index: u32) -> Option<RouteMessage> {
    let net = way.destination;
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(net.network(), net.prefix_len())
        .ok()?;
    if let [via] = way.via[..] {
        let builder = builder.gateway(via).ok()?.output_interface(index);
        let builder = if way.tunnel.is_some() {
            builder.onlink()
        } else {
            builder
        };
        return Some(builder.build());
    }
    let hop = |via: &IpAddr| {
        let hop = match via {
            IpAddr::V4(_) => RouteNextHopBuilder::new_ipv4(),
            IpAddr::V6(_) => RouteNextHopBuilder::new_ipv6(),
        };
        Some(hop.interface(index).via(*via).ok()?.build())
    };
    let hops = way.via.iter().map(hop).collect::<Option<Vec<_>>>()?;
    Some(builder.multipath(hops).build())
}

/// Whose MAC an entry tells.
fn address_of(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        // Of a bridge's table the reader knows no addresses.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from)
        }
        _ => None,
    })
}

fn route(message: &RouteMessage) -> Option<Route> {
    let header: &RouteHeader = &message.header;
    let (mut destination, mut index, mut table) = (None, 0, u32::from(header.table));
    let mut via = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = Some(IpAddr::V4(*ip)),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => destination = Some(IpAddr::V6(*ip)),
            RouteAttribute::Gateway(gateway) => via.extend(router(gateway)),
            RouteAttribute::MultiPath(hops) => {
                index = hops.first().map_or(0, |hop| hop.interface_index);
                via.extend(hops.iter().filter_map(next_hop));
            }
            RouteAttribute::Oif(oif) => index = *oif,
            RouteAttribute::Table(id) => table = *id,
            _ => {}
        }
    }
    let wanted = table != LOCAL_TABLE
        && !matches!(
            header.kind,
            RouteType::Local | RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast
        );
    let everything = match header.address_family {
        rtnetlink::packet_route::AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let destination = IpNet::new(
        destination.unwrap_or(everything),
        header.destination_prefix_length,
    );
    wanted.then_some(Route {
        destination: destination.ok()?,
        via,
        index,
    })
}

fn next_hop(hop: &RouteNextHop) -> Option<IpAddr> {
    hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => router(gateway),
        _ => None,
    })
}

fn router(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
