//! One pod's namespace and veth pair, made by two netlink buffers; and a machine's way to the
//! underlay, which is the same.
//!
//! Why not by rtnetlink, one awaited message at a time: with a thousand pods the kernel's cost per
//! call is all there is. The order is what makes it fast: the pair is born with one end in the
//! pod's namespace (moving a link costs 16 ms of waiting for an RCU barrier), with its name, MAC,
//! bridge and group set, and one queue each.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use labkit::{Failure, fault};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use super::namespace;
use super::node::{Node, address_message, netlink_failure, no_link_local};
use crate::model::address;
use crate::model::ledger::{Lab, Pod};
use crate::model::node::{Machine, Node as LabNode, OWN_END, Underlay};

/// The index of `eth0` in a pod, told to the kernel so that later messages of the same buffer can
/// name it. Small numbers are not free everywhere: tunnel modules put devices into each new namespace.
const ETH0: u32 = 100;
/// `lo` is the first link of every namespace.
const LO: u32 = 1;

/// What a link may carry where packets travel in packets: an Ethernet frame less what VXLAN adds.
const MTU_IN_TUNNEL: u32 = 1450;

/// What is joined to a bridge by a veth pair.
pub struct End {
    what: String,
    interface: String,
    mac: [u8; 6],
    nets: Vec<IpNet>,
    gateways: Vec<IpAddr>,
    mtu: Option<u32>,
    /// The MAC of the gateways, where both sides are told of each other's.
    gateway_mac: Option<[u8; 6]>,
}

impl End {
    /// A pod on its node.
    pub fn pod(lab: &Lab, node: &LabNode, pod: &Pod) -> Self {
        let first = Ipv4Net::new(pod.ip, node.pod_cidr.prefix_len()).ok();
        let second = pod
            .ip6
            .zip(node.pod_cidr6)
            .and_then(|(ip, range)| Ipv6Net::new(ip, range.prefix_len()).ok());
        let gateway6 = node.bridge_address6().map(|net| IpAddr::from(net.addr()));
        let overlay = lab.underlay.as_ref().and_then(|underlay| underlay.overlay);
        Self {
            what: format!("the pod {}", pod.spec.name),
            interface: pod.interface.clone(),
            mac: pod.mac(),
            nets: first
                .map(IpNet::from)
                .into_iter()
                .chain(second.map(IpNet::from))
                .collect(),
            gateways: std::iter::once(node.bridge_address().addr().into())
                .chain(gateway6)
                .collect(),
            mtu: overlay.map(|_| MTU_IN_TUNNEL),
            gateway_mac: None,
        }
    }

    /// With the neighbours' entries made in advance: the kernel has one table for all namespaces, and
    /// where it is full (1,024 entries, usually) it drops packets. Permanent ones are not counted.
    #[must_use]
    pub fn acquainted(self, node: &LabNode) -> Self {
        Self {
            gateway_mac: Some(node.bridge_mac()),
            ..self
        }
    }

    /// A machine on the underlay. Its routes are made later.
    pub fn machine(underlay: &Underlay, what: String, machine: &Machine) -> Self {
        let first = Ipv4Net::new(machine.ip, underlay.cidr.prefix_len()).ok();
        let second = machine
            .ip6
            .zip(underlay.cidr6)
            .and_then(|(ip, range)| Ipv6Net::new(ip, range.prefix_len()).ok());
        let local = second.map(|_| IpNet::from(address::link_local(machine.ip)));
        Self {
            what,
            interface: machine.interface.clone(),
            mac: machine.mac(),
            nets: first
                .map(IpNet::from)
                .into_iter()
                .chain(second.map(IpNet::from))
                .chain(local)
                .collect(),
            gateways: Vec::new(),
            mtu: None,
            gateway_mac: None,
        }
    }
}

/// A bridge, and the namespace that it is in.
pub struct Bridge<'a> {
    namespace: File,
    channel: Channel,
    group: u32,
    index: u32,
    indexes: &'a AtomicU32,
}

/// How many indexes to try that somebody else has just taken.
const ATTEMPTS: usize = 64;

impl<'a> Bridge<'a> {
    /// A bridge in the namespace that this thread is in; `indexes` counts up from one that no link
    /// of it has, for ends whose own is taken.
    pub fn here(lab: &Lab, index: u32, indexes: &'a AtomicU32) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::failed(format!("cannot prepare to make links: {error}"));
        Ok(Self {
            namespace: File::open("/proc/thread-self/ns/net").map_err(failed)?,
            channel: Channel::open().map_err(failed)?,
            group: lab.group(),
            index,
            indexes,
        })
    }

    /// Makes one pod in a new namespace, in which this thread then is, and returns its inode. The
    /// node's end gets `index` if that is free.
    pub fn make_pod(&mut self, pod: &Pod, end: &End, index: u32) -> Result<u64, Failure> {
        let inode = new_namespace(&pod.namespace)?;
        fault::point("up:namespace");
        self.join(end, index)?;
        Ok(inode)
    }

    /// Joins the namespace that this thread is in.
    pub fn join(&mut self, end: &End, index: u32) -> Result<(), Failure> {
        let what = &end.what;
        self.wire(end, index)
            .map_err(|(doing, error)| netlink_failure(format!("{doing} of {what}"), &error))?;
        fault::point("up:veth");
        self.channel
            .send(self.outside(end))
            .map_err(|(doing, error)| netlink_failure(format!("{doing} of {what}"), &error))
    }

    fn wire(&self, end: &End, mut index: u32) -> Result<(), Refused> {
        let mut channel = Channel::open().map_err(|error| ("open a netlink socket", error))?;
        let mut attempts = 1..ATTEMPTS;
        loop {
            match channel.send(self.inside(end, index)) {
                Err((_, error)) if is_taken(&error) && attempts.next().is_some() => {
                    index = self.indexes.fetch_add(1, Ordering::Relaxed);
                }
                other => return other,
            }
        }
    }

    /// What is sent from within the end's namespace.
    ///
    /// The kernel heeds the index of one end only if the other end's is given too.
    fn inside(&self, end: &End, index: u32) -> Vec<Request> {
        let eth0 = LinkMessageBuilder::<LinkUnspec>::new()
            .index(ETH0)
            .name(OWN_END)
            .address(end.mac.to_vec());
        let peer = one_queue(with_mtu(eth0, end.mtu)).build();
        let pair = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
            .index(index)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .name(&end.interface)
            .setns_by_fd(self.namespace.as_raw_fd())
            .controller(self.index)
            .link_group(self.group);
        let quiet = no_link_local(LinkUnspec::new_with_index(ETH0)).build();
        let pair = one_queue(with_mtu(pair, end.mtu)).build();
        let mut requests = vec![
            Request::new("make the veth pair", RouteNetlinkMessage::NewLink(pair)),
            Request::change("set up eth0", quiet),
            Request::change("set up eth0", LinkUnspec::new_with_index(ETH0).up().build()),
            Request::change("set up lo", LinkUnspec::new_with_index(LO).up().build()),
        ];
        let addresses = end.nets.iter().map(|net| {
            let message = RouteNetlinkMessage::NewAddress(address_message(ETH0, *net));
            Request::new("give the address", message)
        });
        requests.extend(addresses);
        let routes = end.gateways.iter().map(|gateway| {
            let message = RouteNetlinkMessage::NewRoute(default_route(*gateway));
            Request::new("set the default route", message)
        });
        requests.extend(routes);
        if let Some(mac) = end.gateway_mac {
            requests.extend(
                end.gateways
                    .iter()
                    .map(|gateway| Request::neighbour(ETH0, *gateway, mac)),
            );
        }
        requests
    }

    /// What is sent from the bridge's namespace: hairpin lets a pod reach itself through a Service,
    /// for the bridge then sends a packet back by the port it came in.
    fn outside(&self, end: &End) -> Vec<Request> {
        let port = || LinkUnspec::new_with_name(&end.interface);
        let quiet = no_link_local(port())
            .set_port_kind(InfoPortKind::Bridge)
            .set_port_data(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]));
        let mut requests = vec![
            Request::change("set up the bridge's end", quiet.build()),
            Request::change("set up the bridge's end", port().up().build()),
        ];
        if end.gateway_mac.is_some() {
            let own = end.nets.iter().map(IpNet::addr);
            requests.extend(own.map(|ip| Request::neighbour(self.index, ip, end.mac)));
        }
        requests
    }
}

fn default_route(gateway: IpAddr) -> RouteMessage {
    match gateway {
        IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .output_interface(ETH0)
            .build(),
        IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new()
            .gateway(gateway)
            .output_interface(ETH0)
            .build(),
    }
}

fn with_mtu<T>(link: LinkMessageBuilder<T>, mtu: Option<u32>) -> LinkMessageBuilder<T> {
    match mtu {
        Some(mtu) => link.mtu(mtu),
        None => link,
    }
}

fn is_taken(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EBUSY)
}

/// By default veth has a queue per possible CPU and then gives most back, at a price.
fn one_queue<T>(link: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
    link.append_extra_attribute(LinkAttribute::NumTxQueues(1))
        .append_extra_attribute(LinkAttribute::NumRxQueues(1))
}

/// Gives this thread a new network namespace with `lo` up, and a name for it.
pub fn new_machine(name: &str) -> Result<u64, Failure> {
    let inode = new_namespace(name)?;
    fault::point("up:host-namespace");
    Node::open()?.raise_loopback()?;
    Ok(inode)
}

/// Moves this thread into a namespace.
pub fn enter(namespace: &File) -> Result<(), Failure> {
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .map_err(|error| Failure::failed(format!("cannot enter a network namespace: {error}")))
}

/// Gives this thread a new network namespace and a name for it, as `ip netns add` does.
fn new_namespace(name: &str) -> Result<u64, Failure> {
    make_namespace(name).map_err(|error| {
        let failure = Failure::failed(format!("cannot make the namespace {name}: {error}"));
        match error.raw_os_error() {
            Some(nix::libc::EPERM) => failure.hint("`netns-lab doctor` tells which privilege is missing"),
            Some(nix::libc::ENOSPC) => {
                failure.hint("the limit is user.max_net_namespaces: see `sysctl user`")
            }
            _ => failure,
        }
    })
}

fn make_namespace(name: &str) -> io::Result<u64> {
    let path = namespace::path(name);
    OpenOptions::new().write(true).create_new(true).open(&path)?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    let none: Option<&str> = None;
    mount(
        Some("/proc/thread-self/ns/net"),
        &path,
        none,
        MsFlags::MS_BIND,
        none,
    )?;
    namespace::inode(name).ok_or_else(|| io::Error::other("the bind mount did not take"))
}

/// One netlink message and what it is for.
struct Request {
    doing: &'static str,
    flags: u16,
    message: RouteNetlinkMessage,
}

impl Request {
    fn new(doing: &'static str, message: RouteNetlinkMessage) -> Self {
        Self {
            doing,
            flags: NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            message,
        }
    }

    /// Which MAC an address has on a link, for as long as nobody says otherwise.
    fn neighbour(index: u32, ip: IpAddr, mac: [u8; 6]) -> Self {
        let mut message = NeighbourMessage::default();
        message.header.family = match ip {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(ip.into()),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        Self {
            doing: "tell the neighbour's MAC",
            flags: NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
            message: RouteNetlinkMessage::NewNeighbour(message),
        }
    }

    fn change(doing: &'static str, link: LinkMessage) -> Self {
        Self {
            doing,
            flags: NLM_F_REQUEST | NLM_F_ACK,
            message: RouteNetlinkMessage::NewLink(link),
        }
    }
}

/// A blocking netlink socket that sends many messages at once.
struct Channel {
    socket: Socket,
}

/// What was being done, and why the kernel would not.
type Refused = (&'static str, io::Error);

impl Channel {
    fn open() -> Result<Self, io::Error> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// Sends all in one buffer and waits until each is acknowledged.
    fn send(&mut self, requests: Vec<Request>) -> Result<(), Refused> {
        let doings: Vec<_> = requests.iter().map(|request| request.doing).collect();
        let mut buffer = Vec::with_capacity(1024);
        for (number, request) in (1_u32..).zip(requests) {
            let mut message = NetlinkMessage::from(request.message);
            message.header.flags = request.flags;
            message.header.sequence_number = number;
            message.finalize();
            let start = buffer.len();
            // Each message starts at a multiple of four bytes (NLMSG_ALIGN).
            buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut buffer[start..start + message.buffer_len()]);
        }
        self.socket
            .send(&buffer, 0)
            .map_err(|error| ("send the messages", error))?;
        self.wait_for(&doings)
    }

    fn wait_for(&self, doings: &[&'static str]) -> Result<(), Refused> {
        let mut refused = None;
        let mut waiting = doings.len();
        while waiting > 0 {
            let (bytes, _) = self
                .socket
                .recv_from_full()
                .map_err(|error| ("hear the answer", error))?;
            for answer in answers(&bytes) {
                waiting = waiting.saturating_sub(1);
                if let Some((sequence, error)) = answer
                    && refused.is_none()
                {
                    let place = usize::try_from(sequence).unwrap_or(0).saturating_sub(1);
                    refused = Some((doings.get(place).copied().unwrap_or("do a part"), error));
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }
}

/// The answers in a buffer: `None` for a success.
fn answers(mut bytes: &[u8]) -> Vec<Option<(u32, io::Error)>> {
    let mut found = Vec::new();
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
        if let NetlinkPayload::Error(error) = &message.payload {
            let failed = error
                .code
                .map(|_| (message.header.sequence_number, error.to_io()));
            found.push(failed);
        }
        let length = usize::try_from(message.header.length)
            .unwrap_or(usize::MAX)
            .max(16)
            .next_multiple_of(4);
        match bytes.get(length..) {
            Some(rest) if !rest.is_empty() => bytes = rest,
            _ => break,
        }
    }
    found
}
