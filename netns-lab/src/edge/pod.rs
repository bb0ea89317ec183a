//! One pod's namespace and veth pair, made by two netlink buffers.
//!
//! Why not by rtnetlink, one awaited message at a time: with a thousand pods the kernel's cost per
//! call is all there is. The order is what makes it fast: the pair is born with one end in the
//! pod's namespace (moving a link costs 16 ms of waiting for an RCU barrier), with its name, MAC,
//! bridge and group set, and one queue each.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::Ipv4Net;
use labkit::{Failure, fault};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkMessage,
};
use netlink_packet_route::route::RouteMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use super::namespace;
use super::node::{address_message, netlink_failure, no_link_local};
use crate::model::ledger::{Lab, Pod};

/// The index of `eth0` in a pod, told to the kernel so that later messages of the same buffer can
/// name it. Small numbers are not free everywhere: tunnel modules put devices into each new namespace.
const ETH0: u32 = 100;
/// `lo` is the first link of every namespace.
const LO: u32 = 1;

/// Makes pods, one after another, on a thread of its own.
///
/// The thread changes its network namespace for each pod and never comes back, so it must end
/// after its last.
pub struct PodMaker<'a> {
    node_namespace: File,
    node: Channel,
    lab: Lab,
    bridge: u32,
    indexes: &'a AtomicU32,
}

/// How many indexes to try that somebody else has just taken.
const ATTEMPTS: usize = 64;

impl<'a> PodMaker<'a> {
    /// A maker for the node that this thread is in; `indexes` counts up from one that no link of
    /// the node has, for pods whose own is taken.
    pub fn new(lab: &Lab, bridge: u32, indexes: &'a AtomicU32) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::failed(format!("cannot prepare to make pods: {error}"));
        Ok(Self {
            node_namespace: File::open("/proc/thread-self/ns/net").map_err(failed)?,
            node: Channel::open().map_err(failed)?,
            lab: lab.clone(),
            bridge,
            indexes,
        })
    }

    /// Makes one pod and returns the inode of its namespace. The node's end gets `index` if that
    /// is free.
    pub fn make(&mut self, pod: &Pod, index: u32) -> Result<u64, Failure> {
        let name = &pod.spec.name;
        let inode = new_namespace(pod).map_err(|error| {
            let failure = Failure::failed(format!("cannot make the namespace {}: {error}", pod.namespace));
            match error.raw_os_error() {
                Some(nix::libc::EPERM) => failure.hint("`netns-lab doctor` tells which privilege is missing"),
                Some(nix::libc::ENOSPC) => {
                    failure.hint("the limit is user.max_net_namespaces: see `sysctl user`")
                }
                _ => failure,
            }
        })?;
        fault::point("up:namespace");
        self.wire(pod, index)
            .map_err(|(doing, error)| netlink_failure(format!("{doing} of the pod {name}"), &error))?;
        fault::point("up:veth");
        self.node
            .send(Self::outside(pod))
            .map_err(|(doing, error)| netlink_failure(format!("{doing} of the pod {name}"), &error))?;
        Ok(inode)
    }

    fn wire(&self, pod: &Pod, mut index: u32) -> Result<(), Refused> {
        let mut channel = Channel::open().map_err(|error| ("open a netlink socket", error))?;
        let mut attempts = 1..ATTEMPTS;
        loop {
            match channel.send(self.inside(pod, index)) {
                Err((_, error)) if is_taken(&error) && attempts.next().is_some() => {
                    index = self.indexes.fetch_add(1, Ordering::Relaxed);
                }
                other => return other,
            }
        }
    }

    /// What is sent from within the pod's namespace.
    ///
    /// The kernel heeds the index of one end only if the other end's is given too.
    fn inside(&self, pod: &Pod, index: u32) -> Vec<Request> {
        let eth0 = LinkMessageBuilder::<LinkUnspec>::new()
            .index(ETH0)
            .name("eth0")
            .address(pod.mac().to_vec());
        let peer = one_queue(eth0).build();
        let pair = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
            .index(index)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .name(&pod.interface)
            .setns_by_fd(self.node_namespace.as_raw_fd())
            .controller(self.bridge)
            .link_group(self.lab.group());
        let net = Ipv4Net::new(pod.ip, self.lab.pod_cidr.prefix_len()).unwrap_or(self.lab.pod_cidr);
        let quiet = no_link_local(LinkUnspec::new_with_index(ETH0)).build();
        vec![
            Request::new(
                "make the veth pair",
                RouteNetlinkMessage::NewLink(one_queue(pair).build()),
            ),
            Request::change("set up eth0", quiet),
            Request::change("set up eth0", LinkUnspec::new_with_index(ETH0).up().build()),
            Request::change("set up lo", LinkUnspec::new_with_index(LO).up().build()),
            Request::new(
                "give the address",
                RouteNetlinkMessage::NewAddress(address_message(ETH0, net)),
            ),
            Request::new(
                "set the default route",
                RouteNetlinkMessage::NewRoute(self.default_route()),
            ),
        ]
    }

    fn default_route(&self) -> RouteMessage {
        RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .gateway(self.lab.bridge_address().addr())
            .output_interface(ETH0)
            .build()
    }

    /// What is sent from the node: hairpin lets a pod reach itself through a Service, for the
    /// bridge then sends a packet back by the port it came in.
    fn outside(pod: &Pod) -> Vec<Request> {
        let port = || LinkUnspec::new_with_name(&pod.interface);
        let quiet = no_link_local(port())
            .set_port_kind(InfoPortKind::Bridge)
            .set_port_data(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]));
        vec![
            Request::change("set up the host's end", quiet.build()),
            Request::change("set up the host's end", port().up().build()),
        ]
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

/// Gives this thread a new network namespace and a name for it, as `ip netns add` does.
fn new_namespace(pod: &Pod) -> io::Result<u64> {
    let path = namespace::path(&pod.namespace);
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
    namespace::inode(&pod.namespace).ok_or_else(|| io::Error::other("the bind mount did not take"))
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
