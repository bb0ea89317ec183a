//! The kernel's named packet counters: made, read and removed over netlink.
//!
//! Layout and numbers: the kernel's `include/uapi/linux/netfilter/nfnetlink_acct.h`.

use std::io;

use labkit::netlink::{self, NLM_F_ACK, NLM_F_REQUEST, attribute};
use labkit::rundir::{Record, RunDirectory};
use labkit::{Failure, fault, record};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::model::Counters;
use crate::rules::fixed::{INVALID_DROPPED, LOCALHOST_ACCEPTED};

const NAMES: [&str; 2] = [INVALID_DROPPED, LOCALHOST_ACCEPTED];
const HINT: &str = "it holds which packet counters are ours; remove it to leave them (nfacct list)";
const NFNL_SUBSYS_ACCT: u16 = 7 << 8;
const ACCT_NEW: u16 = NFNL_SUBSYS_ACCT;
const ACCT_GET: u16 = NFNL_SUBSYS_ACCT | 1;
const ACCT_DEL: u16 = NFNL_SUBSYS_ACCT | 3;
const NFACCT_NAME: u16 = 1;
const NFACCT_PKTS: u16 = 2;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
/// Family and version, which say nothing here, and no resource.
const NFGEN: [u8; 4] = [0; 4];

/// Makes the counters of kube-proxy that are not there, and notes before which those are; tells which are
/// there then. A kernel without `nfnetlink_acct` has none.
///
/// # Errors
/// When they cannot be noted: then none is made.
pub fn ensure(run: &RunDirectory) -> Result<Counters, Failure> {
    let missing: Vec<&str> = NAMES.into_iter().filter(|name| packets(name).is_none()).collect();
    if missing.is_empty() {
        return Ok(there());
    }
    let path = record::here(run, Record::Counters)?;
    let mut ours: Vec<String> = record::read(&path, HINT)?.unwrap_or_default();
    let known = ours.len();
    for name in &missing {
        if !ours.iter().any(|own| own == name) {
            ours.push((*name).to_string());
        }
    }
    if ours.len() > known {
        record::write(&path, &ours)?;
        fault::point("sync:counters-noted");
    }
    let mut refused = missing;
    refused.retain(|name| ask(ACCT_NEW, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, name).is_err());
    ours.retain(|own| !refused.contains(&own.as_str()));
    if ours.is_empty() {
        record::remove(&path)?;
    } else if !refused.is_empty() {
        record::write(&path, &ours)?;
    }
    Ok(there())
}

/// Which of kube-proxy's counters are there, as far as we may know.
pub fn there() -> Counters {
    counters(|name| packets(name).is_some())
}

fn counters(has: impl Fn(&str) -> bool) -> Counters {
    Counters {
        invalid: has(INVALID_DROPPED),
        localhost: has(LOCALHOST_ACCEPTED),
    }
}

/// Removes the counters that [`ensure`] made, but for those that a rule of somebody else counts with; their
/// names.
///
/// # Errors
/// When the record cannot be read or removed.
pub fn remove(run: &RunDirectory) -> Result<Vec<String>, Failure> {
    let path = record::here(run, Record::Counters)?;
    let Some(mut ours) = record::read::<Vec<String>>(&path, HINT)? else {
        return Ok(Vec::new());
    };
    ours.retain(|name| ask(ACCT_DEL, NLM_F_ACK, name).is_ok());
    record::remove(&path)?;
    Ok(ours)
}

/// How many packets were counted under this name; `None` where there is no such counter.
pub fn packets(name: &str) -> Option<u64> {
    let answer = ask(ACCT_GET, 0, name).ok()?;
    let count = attribute(answer.get(NFGEN.len()..)?, NFACCT_PKTS)?;
    count.first_chunk().copied().map(u64::from_be_bytes)
}

/// The first answer about the counter of this name.
fn ask(kind: u16, flags: u16, name: &str) -> io::Result<Vec<u8>> {
    const SEQUENCE: u32 = 1;
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut body = NFGEN.to_vec();
    netlink::put(&mut body, NFACCT_NAME, &[name.as_bytes(), &[0]].concat());
    socket.send(&netlink::message(kind, NLM_F_REQUEST | flags, SEQUENCE, &body), 0)?;
    let mut buffer = Vec::with_capacity(4096);
    loop {
        netlink::receive(&socket, &mut buffer, 0)?;
        let mut answers = netlink::messages(&buffer).filter(|answer| answer.sequence == SEQUENCE);
        if let Some(answer) = answers.next() {
            answer.refuse_error()?;
            return Ok(answer.body.to_vec());
        }
    }
}
