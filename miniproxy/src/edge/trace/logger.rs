//! Where the kernel sends the traces of iptables-legacy: to its log unless a setting says otherwise.
//! The setting is noted before it is changed, and put back afterwards, also after a kill.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use labkit::rundir::{Record, RunDirectory};
use labkit::xtables::Family;
use labkit::{Failure, fault, record};
use serde::{Deserialize, Serialize};

use super::owner::Owner;

/// The logger that speaks netlink.
const NETLINK: &str = "nfnetlink_log";

/// What the settings were, and who changed them.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    owner: String,
    /// By the number of the protocol family: 2 for IPv4, 10 for IPv6.
    before: BTreeMap<String, String>,
}

/// The setting, which is as before when this is dropped.
pub struct Logger(());

impl Logger {
    /// Sends traces of a family to netlink.
    ///
    /// # Errors
    /// When the setting cannot be noted or changed.
    pub fn set(family: Family) -> Result<Self, Failure> {
        let run = RunDirectory::lock()?;
        // Who holds the group is alone, so that any note is of one who was killed.
        put_back(&run)?;
        let number = match family {
            Family::V4 => "2",
            Family::V6 => "10",
        };
        let before = value(number).ok_or_else(|| {
            Failure::host_lacks(
                "this kernel cannot tell its traces to a program: there is no net.netfilter.nf_log",
            )
        })?;
        let logger = Self(());
        if before == NETLINK {
            return Ok(logger);
        }
        let note = Note {
            owner: Owner::own().to_string(),
            before: BTreeMap::from([(number.to_string(), before)]),
        };
        record::write(&path(&run)?, &note)?;
        write(number, NETLINK).map_err(|error| {
            Failure::host_lacks(format!(
                "cannot set net.netfilter.nf_log.{number}={NETLINK}: {error}"
            ))
            .hint("without sending anything: miniproxy explain")
        })?;
        fault::point("trace:logger");
        Ok(logger)
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        let done = RunDirectory::lock().and_then(|run| put_back(&run));
        if let Err(failure) = done {
            tracing::warn!("{failure}");
        }
    }
}

/// Puts back what a trace that was killed had set.
///
/// # Errors
/// When it cannot be read or written.
pub fn sweep(run: &RunDirectory) -> Result<(), Failure> {
    let owner = read(run)?.and_then(|note| note.owner.parse::<Owner>().ok());
    match owner {
        Some(owner) if owner.lives() => Ok(()),
        _ => put_back(run),
    }
}

fn put_back(run: &RunDirectory) -> Result<(), Failure> {
    let Some(note) = read(run)? else {
        return Ok(());
    };
    for (number, before) in &note.before {
        if value(number).as_deref() == Some(NETLINK) {
            write(number, before).map_err(|error| {
                Failure::failed(format!(
                    "cannot set net.netfilter.nf_log.{number} back to {before}: {error}"
                ))
            })?;
        }
    }
    record::remove(&path(run)?)
}

fn read(run: &RunDirectory) -> Result<Option<Note>, Failure> {
    let hint = "it holds what net.netfilter.nf_log was before; remove it to leave that as it is";
    record::read(&path(run)?, hint)
}

fn path(run: &RunDirectory) -> Result<PathBuf, Failure> {
    record::here(run, Record::Logger)
}

fn setting(number: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net/netfilter/nf_log").join(number)
}

fn value(number: &str) -> Option<String> {
    Some(fs::read_to_string(setting(number)).ok()?.trim().to_string())
}

fn write(number: &str, value: &str) -> std::io::Result<()> {
    fs::write(setting(number), value)
}
