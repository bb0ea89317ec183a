//! Who writes rules: nf_tables tells of each new generation, and by which process it came.
//!
//! The old `ip_tables` tell nothing; there changes are seen when rules are read, without a who.

use std::fs;
use std::io;

use labkit::Failure;
use labkit::netlink::{self, attribute, be32};
use netlink_sys::Socket;
use nix::libc;

use super::flow_events::{listen, refused};
use crate::live::changes::Who;
use crate::rules::delta::is_ours;
use crate::rules::set::TableName;

const NFNLGRP_NFTABLES: u32 = 7;
const NFT_MSG_NEWGEN: u16 = 10 << 8 | 15;
const NFT_MSG_NEWTABLE: u16 = 10 << 8;
const NFT_MSG_DELTABLE: u16 = 10 << 8 | 2;
const NFT_MSG_NEWCHAIN: u16 = 10 << 8 | 3;
const NFT_MSG_DELCHAIN: u16 = 10 << 8 | 5;
const NFT_MSG_NEWRULE: u16 = 10 << 8 | 6;
const NFT_MSG_DELRULE: u16 = 10 << 8 | 8;
/// Tables, chains and rules all say first which table they are of.
const NFTA_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_GEN_ID: u16 = 1;
const NFTA_GEN_PROC_PID: u16 = 2;
const NFTA_GEN_PROC_NAME: u16 = 3;
const NFGEN: usize = 4;
const ROOM: usize = 8 << 20;

/// A new generation of the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its number.
    pub number: u32,
    /// Who made it.
    pub by: Option<Who>,
    /// Something in a chain that kube-proxy's rules stand in, or may stand in, was changed.
    pub touches: bool,
}

/// What one look brought.
#[derive(Debug, Default)]
pub struct Heard {
    /// New generations, in their order.
    pub generations: Vec<Generation>,
    /// Some may have been lost.
    pub lost: bool,
}

/// The news of this thread's network namespace.
pub struct RuleEvents {
    socket: Socket,
    buffer: Vec<u8>,
    /// A part of the generation that is being told concerns kube-proxy's rules.
    touches: bool,
}

impl RuleEvents {
    /// Listens from now on.
    ///
    /// # Errors
    /// `HostLacks` without the privilege to listen.
    pub fn open() -> Result<Self, Failure> {
        let socket =
            listen(&[NFNLGRP_NFTABLES], ROOM).map_err(|error| refused("changes of rules", &error))?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(1 << 18),
            // What was told of the first generation before we listened may concern us.
            touches: true,
        })
    }

    /// Waits a moment for news.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn hear(&mut self) -> Result<Heard, Failure> {
        Ok(self.receive(0)?.unwrap_or_default())
    }

    /// What has come already.
    pub fn so_far(&mut self) -> Heard {
        let mut all = Heard::default();
        // The parts of a generation and its number may come in messages of their own.
        while let Ok(Some(heard)) = self.receive(libc::MSG_DONTWAIT) {
            all.generations.extend(heard.generations);
            all.lost |= heard.lost;
        }
        all
    }

    /// `None` when nothing has come.
    fn receive(&mut self, flags: i32) -> Result<Option<Heard>, Failure> {
        let mut heard = Heard::default();
        match netlink::receive(&self.socket, &mut self.buffer, flags) {
            Ok(()) => {
                for message in netlink::messages(&self.buffer) {
                    self.touches |= concerns_us(&message);
                    if let Some(mut generation) = generation(message) {
                        generation.touches = std::mem::take(&mut self.touches);
                        heard.generations.push(generation);
                    }
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                heard.lost = true;
                self.touches = true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(refused("changes of rules", &error)),
        }
        Ok(Some(heard))
    }
}

/// Whether a change is in one of kube-proxy's chains, or in one that the kernel itself enters, or is of a whole
/// table. What others do in tables and chains of their own changes nothing for us.
fn concerns_us(message: &netlink::Message<'_>) -> bool {
    let chain_attribute = match message.kind {
        NFT_MSG_NEWTABLE | NFT_MSG_DELTABLE => None,
        NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN => Some(NFTA_CHAIN_NAME),
        NFT_MSG_NEWRULE | NFT_MSG_DELRULE => Some(NFTA_RULE_CHAIN),
        _ => return false,
    };
    let family = message.body.first().copied().map(i32::from);
    if !matches!(family, Some(libc::NFPROTO_IPV4 | libc::NFPROTO_IPV6)) {
        return false;
    }
    let attributes = message.body.get(NFGEN..).unwrap_or_default();
    let named = |kind| attribute(attributes, kind).map(text);
    let name = named(NFTA_TABLE);
    let Some(table) = TableName::ALL
        .into_iter()
        .find(|table| name.as_deref() == Some(table.name()))
    else {
        return false;
    };
    // A chain that is told by its number alone may be any.
    let chain = chain_attribute.and_then(named);
    chain.is_none_or(|chain| is_ours(table, &chain) || chain.bytes().all(|byte| byte.is_ascii_uppercase()))
}

fn generation(message: netlink::Message<'_>) -> Option<Generation> {
    (message.kind == NFT_MSG_NEWGEN).then_some(())?;
    let attributes = message.body.get(NFGEN..)?;
    let number = attribute(attributes, NFTA_GEN_ID).and_then(be32)?;
    let pid = attribute(attributes, NFTA_GEN_PROC_PID).and_then(be32);
    let name = attribute(attributes, NFTA_GEN_PROC_NAME).map(text);
    let by = pid.zip(name).map(|(pid, name)| Who {
        parent: parent(pid, &name),
        pid,
        name,
    });
    Some(Generation {
        number,
        by,
        touches: true,
    })
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Who started a process, as long as it is there and is the one that is meant: in a PID namespace its
/// number may be somebody else's.
fn parent(pid: u32, name: &str) -> Option<String> {
    let (found, parent) = status(pid)?;
    let (parent_name, _) = (found == name).then(|| status(parent)).flatten()?;
    Some(format!("{parent_name}[{parent}]"))
}

/// A process' name and parent, from `/proc/PID/stat`; the name stands in brackets, whatever is in it.
fn status(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_string();
    Some((name, tail.split_whitespace().nth(1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use labkit::netlink::{message, messages, put};

    use super::*;

    #[test]
    fn a_generation_says_who_made_it() {
        let mut body = vec![0; NFGEN];
        put(&mut body, NFTA_GEN_ID, &74_u32.to_be_bytes());
        put(&mut body, NFTA_GEN_PROC_PID, &u32::MAX.to_be_bytes());
        put(&mut body, NFTA_GEN_PROC_NAME, b"iptables-restor\0");
        let bytes = message(NFT_MSG_NEWGEN, 0, 0, &body);
        let read = messages(&bytes).find_map(generation).unwrap();
        assert_eq!(read.number, 74);
        assert_eq!(read.by.unwrap().text(), format!("iptables-restor[{}]", u32::MAX));
        for cut in 0..bytes.len() {
            let _ = messages(&bytes[..cut]).find_map(generation);
        }
    }

    #[test]
    fn what_others_do_in_chains_of_their_own_is_no_matter() {
        let change = |kind, family: i32, table: &[u8], chain: Option<(u16, &[u8])>| {
            let mut body = vec![0; NFGEN];
            body[0] = u8::try_from(family).unwrap();
            put(&mut body, NFTA_TABLE, table);
            if let Some((kind, name)) = chain {
                put(&mut body, kind, name);
            }
            let bytes = message(kind, 0, 0, &body);
            messages(&bytes).all(|message| concerns_us(&message))
        };
        let ip = libc::NFPROTO_IPV4;
        let rule = |table, chain| change(NFT_MSG_NEWRULE, ip, table, Some((NFTA_RULE_CHAIN, chain)));
        assert!(rule(b"nat\0", b"KUBE-SERVICES\0") && rule(b"filter\0", b"FORWARD\0"));
        assert!(
            !rule(b"nat\0", b"DOCKER-USER\0")
                && !rule(b"nat\0", b"cali-nat\0")
                && !rule(b"mine\0", b"FORWARD\0")
        );
        assert!(change(NFT_MSG_DELTABLE, ip, b"nat\0", None));
        assert!(!change(NFT_MSG_DELTABLE, libc::NFPROTO_INET, b"nat\0", None));
        let gone = Some((NFTA_CHAIN_NAME, &b"KUBE-NODEPORTS\0"[..]));
        assert!(change(NFT_MSG_DELCHAIN, libc::NFPROTO_IPV6, b"nat\0", gone));
    }

    #[test]
    fn we_have_a_name_and_a_parent() {
        let (name, parent) = status(std::process::id()).unwrap();
        assert!(!name.is_empty() && parent > 0);
    }
}
