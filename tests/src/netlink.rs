//! Just enough of rtnetlink for [`crate::floor`]: messages packed into one buffer, sent at once.
//!
//! Written by hand, so that the floor owes nothing to the libraries whose use it is a measure for.

use std::io;
use std::net::Ipv4Addr;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc;

const REQUEST_ACK: u16 = 0x1 | 0x4;
const CREATE_EXCL: u16 = 0x400 | 0x200;
const NESTED: u16 = 1 << 15;
const IFF_UP: u32 = 1;
const ERROR_MESSAGE: u16 = 2;
/// `struct nlmsghdr`.
const HEADER: usize = 16;

/// The head of a link message.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Link {
    pub(crate) family: u8,
    pub(crate) index: u32,
    pub(crate) up: bool,
}

impl Link {
    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0] = self.family;
        bytes[4..8].copy_from_slice(&self.index.to_ne_bytes());
        if self.up {
            bytes[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
            bytes[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
        }
        bytes
    }
}

/// Type-length-value attributes under construction.
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) const ADDRESS: u16 = 1;
    pub(crate) const NAME: u16 = 3;
    pub(crate) const MASTER: u16 = 10;
    const PROTOCOL_INFO: u16 = 12;
    pub(crate) const LINK_INFO: u16 = 18;
    const PER_FAMILY: u16 = 26;
    pub(crate) const GROUP: u16 = 27;
    pub(crate) const NAMESPACE_FD: u16 = 28;
    pub(crate) const TX_QUEUES: u16 = 31;
    pub(crate) const RX_QUEUES: u16 = 32;
    pub(crate) const INFO_KIND: u16 = 1;
    pub(crate) const INFO_DATA: u16 = 2;
    pub(crate) const VETH_PEER: u16 = 1;

    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("attributes are small");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, format!("{value}\0").as_bytes());
    }

    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.bytes(kind | NESTED, &inner.0);
    }

    /// As `nested`, with a link's head before the inner attributes.
    pub(crate) fn nested_link(&mut self, kind: u16, link: Link, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self(link.to_bytes().to_vec());
        fill(&mut inner);
        self.bytes(kind | NESTED, &inner.0);
    }
}

/// Messages in one buffer.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    count: usize,
}

impl Messages {
    pub(crate) fn new_link(&mut self, link: Link, fill: impl FnOnce(&mut Attributes)) {
        self.push(libc::RTM_NEWLINK, CREATE_EXCL, &link.to_bytes(), fill);
    }

    pub(crate) fn delete_group(&mut self, group: u32) {
        self.push(libc::RTM_DELLINK, 0, &Link::default().to_bytes(), |attributes| {
            attributes.number(Attributes::GROUP, group);
        });
    }

    pub(crate) fn set_up(&mut self, index: u32) {
        let link = Link {
            index,
            up: true,
            ..Link::default()
        };
        self.push(libc::RTM_NEWLINK, 0, &link.to_bytes(), |_| {});
    }

    /// In a message of its own before "up": in the same one it would come too late.
    pub(crate) fn no_link_local(&mut self, index: u32) {
        const GEN_MODE: u16 = 8;
        const NONE: u8 = 1;
        let link = Link {
            index,
            ..Link::default()
        };
        self.push(libc::RTM_NEWLINK, 0, &link.to_bytes(), |attributes| {
            attributes.nested(Attributes::PER_FAMILY, |families| {
                families.nested(10, |inet6| inet6.bytes(GEN_MODE, &[NONE]));
            });
        });
    }

    pub(crate) fn set_hairpin(&mut self, index: u32) {
        const AF_BRIDGE: u8 = 7;
        const MODE: u16 = 4;
        let link = Link {
            family: AF_BRIDGE,
            index,
            up: false,
        };
        self.push(libc::RTM_SETLINK, 0, &link.to_bytes(), |attributes| {
            attributes.nested(Attributes::PROTOCOL_INFO, |port| port.bytes(MODE, &[1]));
        });
    }

    pub(crate) fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) {
        const LOCAL: u16 = 2;
        let mut head = [2, prefix, 0, 0, 0, 0, 0, 0];
        head[4..8].copy_from_slice(&index.to_ne_bytes());
        self.push(libc::RTM_NEWADDR, CREATE_EXCL, &head, |attributes| {
            attributes.bytes(LOCAL, &address.octets());
            attributes.bytes(Attributes::ADDRESS, &address.octets());
        });
    }

    pub(crate) fn add_default_route(&mut self, gateway: Ipv4Addr) {
        const GATEWAY: u16 = 5;
        // Family, lengths, table main, protocol boot, scope universe, type unicast.
        let head = [2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        self.push(libc::RTM_NEWROUTE, CREATE_EXCL, &head, |attributes| {
            attributes.bytes(GATEWAY, &gateway.octets());
        });
    }

    fn push(&mut self, kind: u16, flags: u16, head: &[u8], fill: impl FnOnce(&mut Attributes)) {
        let mut attributes = Attributes::default();
        fill(&mut attributes);
        let length = u32::try_from(HEADER + head.len() + attributes.0.len()).expect("messages are small");
        self.count += 1;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((REQUEST_ACK | flags).to_ne_bytes());
        self.bytes
            .extend(u32::try_from(self.count).expect("few messages").to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(head);
        self.bytes.extend(attributes.0);
    }
}

/// A netlink socket of the network namespace in which it was opened.
pub(crate) struct Channel(Socket);

impl Channel {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // A thousand acknowledgements may wait for us at once.
        socket.set_rx_buf_sz(4 << 20)?;
        Ok(Self(socket))
    }

    /// Sends all messages at once and waits for all their acknowledgements.
    pub(crate) fn exchange(&mut self, messages: &Messages) -> io::Result<()> {
        self.0.send(&messages.bytes, 0)?;
        let mut waiting = messages.count;
        while waiting > 0 {
            let (bytes, _) = self.0.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while rest.len() >= HEADER + 4 {
                let word = |at: usize| [rest[at], rest[at + 1], rest[at + 2], rest[at + 3]];
                let length = u32::from_ne_bytes(word(0)) as usize;
                if u16::from_ne_bytes([rest[4], rest[5]]) == ERROR_MESSAGE {
                    let code = i32::from_ne_bytes(word(HEADER));
                    if code != 0 {
                        return Err(io::Error::from_raw_os_error(-code));
                    }
                    waiting -= 1;
                }
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            }
        }
        Ok(())
    }
}
