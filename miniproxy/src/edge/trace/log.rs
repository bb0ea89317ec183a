//! Traces of iptables-legacy, which the kernel logs: packets with a prefix that names table, chain and
//! number, over netlink.
//!
//! Layout and numbers: the kernel's `include/uapi/linux/netfilter/nfnetlink_log.h`.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use labkit::netlink::{self, NLM_F_ACK, NLM_F_REQUEST, attribute, be32, message, put};
use netlink_sys::Socket;
use nix::libc;

use super::events::{AT_ONCE, At, NFGEN, Raw, hearing, lost, text};
use crate::journey::wire;

/// NFNL_SUBSYS_ULOG with NFULNL_MSG_PACKET and NFULNL_MSG_CONFIG.
const PACKET: u16 = 4 << 8;
const CONFIG: u16 = (4 << 8) + 1;
const NFULA_IFINDEX_INDEV: u16 = 4;
const NFULA_IFINDEX_OUTDEV: u16 = 5;
const NFULA_PAYLOAD: u16 = 9;
const NFULA_PREFIX: u16 = 10;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULA_CFG_TIMEOUT: u16 = 4;
const NFULA_CFG_QTHRESH: u16 = 5;
const CMD_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
/// So much of each packet: any header.
const RANGE: u32 = 128;
/// The group is one program's at a time; another trace ends soon.
const PATIENCE: Duration = Duration::from_secs(20);

/// So many events of others may come between two of one packet.
const NEAR: usize = 1000;

/// A socket that hears group 0, to which TRACE logs.
pub struct Log {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Log {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the kernel cannot, or another program has the group and keeps it.
    pub fn open() -> io::Result<Self> {
        let mut log = Self {
            socket: hearing()?,
            buffer: Vec::with_capacity(64 * 1024),
        };
        let limit = Instant::now() + PATIENCE;
        loop {
            match log.configure(NFULA_CFG_CMD, &[CMD_BIND]) {
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EPERM))
                        && Instant::now() < limit =>
                {
                    sleep(Duration::from_millis(20));
                }
                other => break other?,
            }
        }
        let mode = [&RANGE.to_be_bytes()[..], &[COPY_PACKET, 0]].concat();
        log.configure(NFULA_CFG_MODE, &mode)?;
        // Each packet at once: the kernel would gather them for a second.
        log.configure(NFULA_CFG_QTHRESH, &1_u32.to_be_bytes())?;
        log.configure(NFULA_CFG_TIMEOUT, &1_u32.to_be_bytes())?;
        Ok(log)
    }

    fn configure(&mut self, attribute: u16, value: &[u8]) -> io::Result<()> {
        let mut body = vec![0; NFGEN];
        put(&mut body, attribute, value);
        self.socket
            .send(&message(CONFIG, NLM_F_REQUEST | NLM_F_ACK, 1, &body), 0)?;
        netlink::receive(&self.socket, &mut self.buffer, 0)?;
        netlink::messages(&self.buffer).try_for_each(|answer| answer.refuse_error())
    }

    /// What was told since.
    ///
    /// # Errors
    /// What the socket says.
    pub fn hear(&mut self, into: &mut Vec<Raw>) -> io::Result<()> {
        // Others may bring more than can be read at all: the end of the call must be seen, too.
        for _ in 0..AT_ONCE {
            match netlink::receive(&self.socket, &mut self.buffer, libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            }
            let packets = netlink::messages(&self.buffer).filter(|message| message.kind == PACKET);
            for packet in packets {
                let told = packet.body.get(NFGEN..).and_then(trace);
                into.extend(told.map(|told| first_only(into, told)));
            }
        }
        Ok(())
    }

    /// How many events the kernel had no room for.
    pub fn lost(&self) -> usize {
        lost(&self.socket)
    }
}

/// nf_tables repeats the packet at the start of each built-in chain only, and so does this.
fn first_only(heard: &[Raw], mut told: Raw) -> Raw {
    // A packet's events come close together; what is far back is another packet.
    let before = heard.iter().rev().take(NEAR).find(|raw| raw.id == told.id);
    if before.is_some_and(|before| before.table == told.table && before.chain == told.chain) {
        told.seen = None;
    }
    told
}

fn trace(body: &[u8]) -> Option<Raw> {
    let prefix = text(attribute(body, NFULA_PREFIX)?);
    let mut words = prefix.trim().strip_prefix("TRACE: ")?.split(':');
    let (table, chain, kind, number) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let payload = attribute(body, NFULA_PAYLOAD)?;
    let index = |kind| attribute(body, kind).and_then(be32);
    // Whatever the kind: a rule that only returns is told as the end of its chain.
    let number = number
        .parse()
        .ok()
        .filter(|_| ["rule", "policy", "return"].contains(&kind))?;
    Some(Raw {
        id: identity(payload)?,
        table: table.to_string(),
        chain: chain.to_string(),
        at: At::Number(number),
        stopped: false,
        seen: Some(wire::of_packet(payload)?),
        arriving: index(NFULA_IFINDEX_INDEV),
        leaving: index(NFULA_IFINDEX_OUTDEV),
    })
}

/// What stays the same on a packet's way through the rules: all but addresses, ports and checksums.
fn identity(packet: &[u8]) -> Option<u32> {
    let (header, stable) = match packet.first()? >> 4 {
        4 => (usize::from(packet[0] & 0xf) * 4, packet.get(4..6)?),
        _ => (40, packet.get(1..6)?),
    };
    let transport = packet.get(header..)?;
    let mut hasher = DefaultHasher::new();
    stable.hash(&mut hasher);
    // TCP: the two sequence numbers and the flags. UDP: the length and what is carried.
    transport.get(4..6)?.hash(&mut hasher);
    transport
        .get(8..14)
        .or_else(|| transport.get(8..))?
        .hash(&mut hasher);
    #[expect(clippy::cast_possible_truncation, reason = "any 32 bits of it will do")]
    Some(hasher.finish() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journey::wire::tests::tcp;

    fn example(prefix: &[u8], destination: &str) -> Vec<u8> {
        let mut body = Vec::new();
        put(&mut body, NFULA_PREFIX, prefix);
        put(&mut body, NFULA_IFINDEX_INDEV, &3_u32.to_be_bytes());
        put(
            &mut body,
            NFULA_PAYLOAD,
            &tcp("10.244.0.2:4000", destination, 7, 2),
        );
        body
    }

    #[test]
    fn a_prefix_is_read_and_the_packet_is_the_same_after_it_was_rewritten() {
        let first = trace(&example(b"TRACE: nat:KUBE-SERVICES:rule:4 \0", "10.96.0.80:80")).unwrap();
        let then = trace(&example(b"TRACE: filter:FORWARD:policy:2 \0", "10.244.0.4:8080")).unwrap();
        assert_eq!(
            (first.table.as_str(), first.chain.as_str()),
            ("nat", "KUBE-SERVICES")
        );
        assert_eq!((first.at, first.arriving), (At::Number(4), Some(3)));
        assert_eq!(first.id, then.id);
        assert_ne!(first.seen, then.seen);
        for prefix in ["", "TRACE:", "other", "TRACE: a:b:rule:x", "TRACE: a:b:word:1"] {
            assert_eq!(trace(&example(prefix.as_bytes(), "10.96.0.80:80")), None);
        }
        let whole = example(b"TRACE: nat:KUBE-SERVICES:rule:4 \0", "10.96.0.80:80");
        for cut in 0..whole.len() {
            let _ = trace(&whole[..cut]);
        }
    }
}
