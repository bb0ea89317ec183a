//! The few netlink calls that tell what of nf_tables is there, and remove what is empty.
//!
//! iptables-nft makes tables and base chains as it needs them and never removes them; no iptables
//! command can ask which were there before. Message layout and numbers: the kernel's
//! `include/uapi/linux/netfilter/nf_tables.h` and `nfnetlink.h`.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use serde::{Deserialize, Serialize};

use crate::netlink::{self, NLM_F_ACK, NLM_F_REQUEST, be32, messages};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_GETGEN: u16 = 16;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_USE: u16 = 6;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_GEN_ID: u16 = 1;

/// With it a delete of something that is not empty fails (EBUSY) and changes nothing.
const NLM_F_NONREC: u16 = 0x100;
const NFGEN: usize = 4;

/// A protocol family as nf_tables numbers it: `AF_INET` or `AF_INET6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NfFamily {
    /// The table family `ip`.
    Ip,
    /// The table family `ip6`.
    Ip6,
}

impl NfFamily {
    fn number(self) -> u8 {
        match self {
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Ip, Self::Ip6]
            .into_iter()
            .find(|family| family.number() == number)
    }
}

/// One table of the families that iptables uses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NfTable {
    /// Its family.
    pub family: NfFamily,
    /// Its name, such as `nat`.
    pub name: String,
}

/// One chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NfChain {
    /// The table it is in.
    pub table: NfTable,
    /// Its name, such as `PREROUTING`.
    pub name: String,
    /// Whether the kernel calls it from a hook (a built-in chain, in the words of iptables).
    pub base: bool,
    /// Rules in it plus references to it.
    pub uses: u32,
}

/// A rule, by the number that the kernel gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NfRule {
    /// The table it is in.
    pub table: String,
    /// The chain it is in.
    pub chain: String,
    /// The kernel's number; it stays when rules before it go.
    pub handle: u64,
}

/// A netlink socket to the nf_tables of the network namespace it was opened in.
pub struct NfTables {
    socket: Socket,
    sequence: u32,
}

impl NfTables {
    /// Opens the socket in this thread's network namespace.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 1 })
    }

    /// The generation of the whole rule set: another number after every transaction by anyone.
    pub fn generation(&mut self) -> io::Result<u32> {
        self.sequence += 1;
        let request = message(NFT_MSG_GETGEN, NLM_F_REQUEST, self.sequence, 0, 0, &[]);
        self.socket.send(&request, 0)?;
        let (buffer, _) = self.socket.recv_from_full()?;
        let mut found = None;
        for answer in messages(&buffer) {
            answer.refuse_error()?;
            found = found.or_else(|| attribute(answer.body, NFTA_GEN_ID).and_then(be32));
        }
        found.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the kernel did not tell the generation of its rules",
            )
        })
    }

    /// All tables of all families: the family as `nft` writes it, and the name.
    pub fn families(&mut self) -> io::Result<Vec<(&'static str, String)>> {
        self.dump(NFT_MSG_GETTABLE, |body| {
            let family = match body.first()? {
                1 => "inet",
                2 => "ip",
                3 => "arp",
                5 => "netdev",
                7 => "bridge",
                10 => "ip6",
                _ => return None,
            };
            Some((family, text(attribute(body, NFTA_TABLE_NAME)?)))
        })
    }

    /// All tables of the families `ip` and `ip6`.
    pub fn tables(&mut self) -> io::Result<Vec<NfTable>> {
        self.dump(NFT_MSG_GETTABLE, |body| {
            Some(NfTable {
                family: NfFamily::from_number(*body.first()?)?,
                name: text(attribute(body, NFTA_TABLE_NAME)?),
            })
        })
    }

    /// All chains of the families `ip` and `ip6`.
    pub fn chains(&mut self) -> io::Result<Vec<NfChain>> {
        self.dump(NFT_MSG_GETCHAIN, |body| {
            let table = NfTable {
                family: NfFamily::from_number(*body.first()?)?,
                name: text(attribute(body, NFTA_CHAIN_TABLE)?),
            };
            Some(NfChain {
                table,
                name: text(attribute(body, NFTA_CHAIN_NAME)?),
                base: attribute(body, NFTA_CHAIN_HOOK).is_some(),
                uses: attribute(body, NFTA_CHAIN_USE).and_then(be32).unwrap_or(0),
            })
        })
    }

    /// All rules of the family `ip`, or of `ip6`, each chain's in order.
    pub fn rules(&mut self, six: bool) -> io::Result<Vec<NfRule>> {
        let family = if six { NfFamily::Ip6 } else { NfFamily::Ip };
        self.dump(NFT_MSG_GETRULE, |body| {
            let handle = attribute(body, NFTA_RULE_HANDLE)?;
            (*body.first()? == family.number()).then_some(())?;
            Some(NfRule {
                table: text(attribute(body, NFTA_RULE_TABLE)?),
                chain: text(attribute(body, NFTA_RULE_CHAIN)?),
                handle: u64::from_be_bytes(*handle.first_chunk()?),
            })
        })
    }

    /// Deletes chains that hold no rule and tables that then hold no chain: all of them in one
    /// transaction, or none. `false` when one of them is not empty, or is gone already.
    ///
    /// One transaction, because each makes the caller wait until no packet uses the old rules.
    pub fn delete_empty(&mut self, chains: &[NfChain], tables: &[NfTable]) -> io::Result<bool> {
        let mut batch = batch_edge(NFNL_MSG_BATCH_BEGIN, self.next());
        for chain in chains {
            let mut names = string_attribute(NFTA_CHAIN_TABLE, &chain.table.name);
            names.extend(string_attribute(NFTA_CHAIN_NAME, &chain.name));
            batch.extend(self.deletion(NFT_MSG_DELCHAIN, chain.table.family, &names));
        }
        for table in tables {
            let name = string_attribute(NFTA_TABLE_NAME, &table.name);
            batch.extend(self.deletion(NFT_MSG_DELTABLE, table.family, &name));
        }
        batch.extend(batch_edge(NFNL_MSG_BATCH_END, self.next()));
        self.socket.send(&batch, 0)?;
        self.verdict()
    }

    fn next(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    fn deletion(&mut self, kind: u16, family: NfFamily, names: &[u8]) -> Vec<u8> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_NONREC;
        message(kind, flags, self.next(), family.number(), 0, names)
    }

    /// Reads all answers to a batch; they are there when the send returns.
    fn verdict(&mut self) -> io::Result<bool> {
        let mut done = true;
        loop {
            let mut buffer = Vec::with_capacity(8192);
            match netlink::receive(&self.socket, &mut buffer, nix::libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(done),
                other => other?,
            }
            for answer in messages(&buffer) {
                match answer.refuse_error() {
                    Ok(()) => {}
                    Err(error)
                        if matches!(error.raw_os_error(), Some(nix::libc::EBUSY | nix::libc::ENOENT)) =>
                    {
                        done = false;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn dump<T>(&mut self, kind: u16, read: impl Fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
        let mut found = Vec::new();
        let sequence = self.next();
        let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
        netlink::dump(&self.socket, kind, sequence, &[0; NFGEN], |answer| {
            found.extend(read(answer.body));
        })?;
        Ok(found)
    }
}

fn message(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let subsystem = if kind >= NFNL_MSG_BATCH_BEGIN && resource != 0 {
        0
    } else {
        NFNL_SUBSYS_NFTABLES << 8
    };
    let mut body = vec![family, 0];
    body.extend(resource.to_be_bytes());
    body.extend(attributes);
    netlink::message(subsystem | kind, flags, sequence, &body)
}

fn batch_edge(kind: u16, sequence: u32) -> Vec<u8> {
    message(kind, NLM_F_REQUEST, sequence, 0, NFNL_SUBSYS_NFTABLES, &[])
}

fn string_attribute(kind: u16, value: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    netlink::put(&mut bytes, kind, &[value.as_bytes(), &[0]].concat());
    bytes
}

/// The value of an attribute of a message body (which starts with the 4-byte `nfgenmsg`).
fn attribute(body: &[u8], wanted: u16) -> Option<&[u8]> {
    netlink::attribute(body.get(NFGEN..)?, wanted)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others_and_never_read_past_the_end() {
        let mut body = vec![2, 0, 0, 0];
        body.extend(string_attribute(NFTA_CHAIN_TABLE, "nat"));
        body.extend(string_attribute(NFTA_CHAIN_NAME, "PREROUTING"));
        assert_eq!(
            attribute(&body, NFTA_CHAIN_NAME).map(text).as_deref(),
            Some("PREROUTING")
        );
        assert_eq!(attribute(&body, NFTA_CHAIN_USE), None);
        for cut in 0..body.len() {
            let _ = attribute(&body[..cut], NFTA_CHAIN_NAME);
        }
    }

    #[test]
    fn a_batch_names_the_subsystem_in_its_edges_only() {
        let begin = batch_edge(NFNL_MSG_BATCH_BEGIN, 7);
        assert_eq!(begin.len(), 20);
        assert_eq!(u16::from_ne_bytes([begin[4], begin[5]]), NFNL_MSG_BATCH_BEGIN);
        assert_eq!(&begin[18..20], &[0, 10]);
        let get = message(NFT_MSG_GETGEN, NLM_F_REQUEST, 7, 0, 0, &[]);
        assert_eq!(u16::from_ne_bytes([get[4], get[5]]), 10 << 8 | NFT_MSG_GETGEN);
    }
}
