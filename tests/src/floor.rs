//! The least that the kernel takes to make pods: the same links in the fewest calls, no checks, no
//! records, no rules, no apps. `scripts/bench up` puts netns-lab beside it.
//!
//! Each pod is a namespace with a name, and a veth pair born in it with one buffer of netlink
//! messages. Nothing is moved, renamed or looked up, two threads work, and the bridge comes up last.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::netlink::{Attributes, Channel, Link, Messages};

/// The group that all links of the floor are in.
const GROUP: u32 = 77;
/// The bridge's index in the node.
const BRIDGE: u32 = 500;
/// The index of a pod's `eth0`.
const ETH0: u32 = 100;
/// The first host end's index; the others follow.
const FIRST_PORT: u32 = 1000;
const FOLDER: &str = "/run/netns";
const WORKERS: usize = 2;

/// Makes this many pods on a bridge here, or spread over the bridges of so many nodes, each a namespace
/// of its own, and returns how long the kernel took.
///
/// # Panics
/// When the kernel refuses: the bench has nothing to compare with then.
pub fn up(pods: usize, nodes: Option<usize>) -> Duration {
    fs::create_dir_all(FOLDER).expect("a folder in our own /run");
    let begin = Instant::now();
    let mut nodes: Vec<Node> = match nodes {
        None => vec![Node::here()],
        Some(count) => (0..count).map(Node::own).collect(),
    };
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            let (nodes, next) = (&nodes, &next);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= pods {
                        return;
                    }
                    pod(index, &nodes[index % nodes.len()].namespace).expect("a pod");
                }
            });
        }
    });
    let count = nodes.len();
    for (index, node) in nodes.iter_mut().enumerate() {
        let ports = (index..pods).step_by(count);
        node.channel
            .exchange(&open_bridge(ports))
            .expect("the bridge goes up");
    }
    begin.elapsed()
}

/// Where a bridge is.
struct Node {
    namespace: File,
    channel: Channel,
}

impl Node {
    fn here() -> Self {
        let mut channel = Channel::open().expect("a netlink socket");
        channel.exchange(&bridge()).expect("a bridge");
        Self {
            namespace: File::open("/proc/thread-self/ns/net").expect("/proc is mounted"),
            channel,
        }
    }

    /// Made by a thread that ends with it, so that the caller stays where it is.
    fn own(index: usize) -> Self {
        thread::scope(|scope| {
            let made = scope.spawn(|| {
                named_namespace(&node_name(index)).expect("a node");
                Self::here()
            });
            made.join().expect("a node")
        })
    }
}

/// A new network namespace for this thread, under a name.
fn named_namespace(path: &str) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    File::create_new(path)?;
    mount(
        Some("/proc/thread-self/ns/net"),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?;
    Ok(())
}

/// Takes all of it away, and returns how long the kernel took.
///
/// # Panics
/// When the kernel refuses.
pub fn down(pods: usize, nodes: Option<usize>) -> Duration {
    let begin = Instant::now();
    if nodes.is_none() {
        let mut channel = Channel::open().expect("a netlink socket");
        let mut messages = Messages::default();
        messages.delete_group(GROUP);
        channel.exchange(&messages).expect("the links go");
    }
    // The links of nodes of their own go with them.
    let hosts = (0..nodes.unwrap_or(0)).map(node_name);
    for path in (0..pods).map(name).chain(hosts) {
        umount2(path.as_str(), MntFlags::MNT_DETACH).expect("it is mounted");
        fs::remove_file(path).expect("it is there");
    }
    begin.elapsed()
}

fn node_name(index: usize) -> String {
    format!("{FOLDER}/floor-node-{index}")
}

fn name(index: usize) -> String {
    format!("{FOLDER}/floor-{index}")
}

/// The index of the node's end.
fn port(index: usize) -> u32 {
    FIRST_PORT + u32::try_from(index).expect("a thousand pods")
}

/// 10.244.0.0/16, so that a thousand pods have room.
fn address(index: usize) -> Ipv4Addr {
    let index = u32::try_from(index).expect("a thousand pods");
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 0, 2)) + index)
}

fn bridge() -> Messages {
    let mut messages = Messages::default();
    messages.new_link(
        Link {
            index: BRIDGE,
            ..Link::default()
        },
        |attributes| {
            attributes.text(Attributes::NAME, "floor0");
            attributes.bytes(Attributes::ADDRESS, &[2, 0, 10, 244, 0, 1]);
            // With the ports', so that one call takes all links away and waits once.
            attributes.number(Attributes::GROUP, GROUP);
            attributes.nested(Attributes::LINK_INFO, |info| {
                info.text(Attributes::INFO_KIND, "bridge");
            });
        },
    );
    messages
}

fn open_bridge(pods: impl Iterator<Item = usize>) -> Messages {
    let mut messages = Messages::default();
    messages.set_up(BRIDGE);
    messages.add_address(BRIDGE, Ipv4Addr::new(10, 244, 0, 1), 16);
    for index in pods {
        messages.set_hairpin(port(index));
    }
    messages
}

fn pod(index: usize, node: &File) -> io::Result<()> {
    named_namespace(&name(index))?;
    Channel::open()?.exchange(&pod_messages(index, node))
}

fn pod_messages(index: usize, node: &File) -> Messages {
    let mut messages = Messages::default();
    let ip = address(index);
    let queues = |attributes: &mut Attributes| {
        attributes.number(Attributes::TX_QUEUES, 1);
        attributes.number(Attributes::RX_QUEUES, 1);
    };
    messages.new_link(
        Link {
            index: port(index),
            up: true,
            ..Link::default()
        },
        |attributes| {
            attributes.text(Attributes::NAME, &format!("floor-{index}"));
            attributes.number(Attributes::NAMESPACE_FD, node.as_raw_fd().cast_unsigned());
            attributes.number(Attributes::MASTER, BRIDGE);
            attributes.number(Attributes::GROUP, GROUP);
            queues(attributes);
            attributes.nested(Attributes::LINK_INFO, |info| {
                info.text(Attributes::INFO_KIND, "veth");
                info.nested(Attributes::INFO_DATA, |data| {
                    data.nested_link(
                        Attributes::VETH_PEER,
                        Link {
                            index: ETH0,
                            ..Link::default()
                        },
                        |peer| {
                            let [a, b, c, d] = ip.octets();
                            peer.text(Attributes::NAME, "eth0");
                            peer.bytes(Attributes::ADDRESS, &[2, 0, a, b, c, d]);
                            queues(peer);
                        },
                    );
                });
            });
        },
    );
    messages.no_link_local(ETH0);
    messages.set_up(ETH0);
    messages.set_up(1);
    messages.add_address(ETH0, ip, 16);
    messages.add_default_route(Ipv4Addr::new(10, 244, 0, 1));
    messages
}
