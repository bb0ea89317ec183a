//! Settings of the kernel: noted, set, and put back.
//!
//! Each change is noted under the run directory before it is made, one record for each network
//! namespace; a crash at any point leaves a note of what to put back, never a change without a note.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use labkit::rundir::{Record as Kind, RunDirectory, network_namespace};
use labkit::{Failure, fault, record};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use super::links;
use crate::sysctls::{Record, Wanted};

const BRIDGE_NF: &str = "net.bridge.bridge-nf-call-iptables";

/// What [`apply`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// `net.ipv4.conf.all.route_localnet=1 (was 0)`
    pub changed: Vec<String>,
    /// What could not be set and is missed.
    pub notes: Vec<String>,
}

/// Brings the settings to what is wanted, and puts back those of an earlier call that are not wanted
/// any more. Calling it again changes nothing, unless somebody else did.
///
/// What cannot be set here is a note, not a failure: kube-proxy would end.
///
/// # Errors
/// When the record cannot be read or written: without it nothing could be put back.
pub fn apply(run: &RunDirectory, wanted: &[Wanted]) -> Result<Applied, Failure> {
    let path = record::here(run, Kind::Sysctls)?;
    let mut record = read_record(&path)?.unwrap_or_default();
    let mut applied = Applied::default();
    let mut missed = Missed::default();

    let mut unwanted = record.keys();
    unwanted.retain(|key| wanted.iter().all(|one| one.key != *key));
    for key in &unwanted {
        applied.changed.extend(put_back(&record, key)?);
        record.forget(key);
    }

    let mut changes: Vec<(&Wanted, String)> = Vec::new();
    for one in wanted {
        match look(one.key) {
            Look::Missing => missed.add(one, "missing"),
            Look::Value { value, .. } if one.is_met_by(&value) => {}
            Look::Value { writable: false, .. } => missed.add(one, "read-only"),
            Look::Value {
                value,
                writable: true,
            } => {
                record.note(one.key, &value, &one.value.to_string());
                changes.push((one, value));
            }
        }
    }
    if !unwanted.is_empty() || !changes.is_empty() {
        write_record(&path, &record)?;
        fault::point("sync:sysctls-noted");
    }
    for (one, before) in changes {
        let value = one.value.to_string();
        match write(one.key, &value) {
            Ok(()) => applied
                .changed
                .push(format!("{} (was {before})", one.assignment())),
            Err(error) => {
                missed.refused.push(format!("{}: {error}", one.assignment()));
                record.withdraw(one.key, &value);
            }
        }
        fault::point("sync:sysctls-set");
    }
    if !missed.refused.is_empty() {
        write_record(&path, &record)?;
    }
    applied.notes = missed.notes();
    Ok(applied)
}

/// Puts back what [`apply`] changed, where it is still so, and drops the record. Tells what it did:
/// `net.ipv4.conf.all.route_localnet=0 (was 1)`.
///
/// # Errors
/// When a setting cannot be written; the record then stays, and a later call goes on.
pub fn restore(run: &RunDirectory) -> Result<Vec<String>, Failure> {
    let path = record::here(run, Kind::Sysctls)?;
    let Some(record) = read_record(&path)? else {
        return Ok(Vec::new());
    };
    let (mut changed, mut failures) = (Vec::new(), Vec::new());
    for key in record.keys() {
        match put_back(&record, key) {
            Ok(done) => changed.extend(done),
            Err(failure) => failures.push(failure),
        }
    }
    if let Some(failure) = Failure::all(failures) {
        return Err(failure);
    }
    fault::point("cleanup:sysctls");
    record::remove(&path)?;
    Ok(changed)
}

/// The CPUs that this process may run on, as kube-proxy counts them.
pub fn cpus() -> usize {
    let own = sched_getaffinity(Pid::from_raw(0));
    let count = |set: CpuSet| {
        (0..CpuSet::count())
            .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
            .count()
    };
    own.map_or(1, count)
}

/// Says that pods of one bridge cannot reach each other through Services, and what to do; only where
/// this network namespace has a bridge at all.
pub fn bridge_note() -> Option<String> {
    let remedy = match look(BRIDGE_NF) {
        Look::Value { value, .. } if value != "0" => return None,
        Look::Value { .. } => ("is 0", "sudo sysctl -w net.bridge.bridge-nf-call-iptables=1"),
        Look::Missing => (
            "is not there: br_netfilter is not loaded",
            "sudo modprobe br_netfilter",
        ),
    };
    links::has_bridge().then(|| {
        format!(
            "bridge-nf-call-iptables {}, and there is a bridge: pods on it cannot reach Services on it; {}",
            remedy.0, remedy.1
        )
    })
}

/// Writes one setting back if it is still ours.
fn put_back(record: &Record, key: &str) -> Result<Option<String>, Failure> {
    // One that is gone, with its module, has nothing to be put back.
    let Look::Value { value: now, .. } = look(key) else {
        return Ok(None);
    };
    let Some(before) = record.before(key, &now) else {
        return Ok(None);
    };
    write(key, before).map_err(|error| {
        Failure::host_lacks(format!("cannot set {key} back to {before}: {error}"))
            .hint("run `miniproxy cleanup` as root (sudo), where /proc/sys can be written")
    })?;
    Ok(Some(format!("{key}={before} (was {now})")))
}

/// What a setting of this network namespace is, or was before we changed it; `None` where it is not there.
pub fn apart_from_ours(key: &str) -> Option<String> {
    let Look::Value { value: now, .. } = look(key) else {
        return None;
    };
    let record = network_namespace().and_then(|namespace| read_record(&Kind::Sysctls.path(namespace)));
    // A damaged record is told by whoever would write it.
    let before = record
        .ok()
        .flatten()
        .and_then(|record| record.before(key, &now).map(str::to_string));
    Some(before.unwrap_or(now))
}

/// Settings that could not be set, by the reason.
#[derive(Default)]
struct Missed {
    read_only: Vec<String>,
    missing: Vec<String>,
    refused: Vec<String>,
}

impl Missed {
    fn add(&mut self, one: &Wanted, why: &'static str) {
        if !one.matters {
            tracing::debug!(setting = one.assignment(), why, "left as it is");
        } else if why == "missing" {
            self.missing.push(one.assignment());
        } else {
            self.read_only.push(one.assignment());
        }
    }

    fn notes(self) -> Vec<String> {
        let groups = [
            (
                self.read_only,
                "read-only here (a container, or not the initial network namespace)",
            ),
            (
                self.missing,
                "not there: the kernel tracks no connections yet, or hides it from a plain user",
            ),
            (self.refused, "the kernel refused"),
        ];
        let groups = groups.into_iter().filter(|(settings, _)| !settings.is_empty());
        groups
            .map(|(settings, why)| format!("left as it is: {} ({why})", settings.join(", ")))
            .collect()
    }
}

enum Look {
    /// This kernel, or this network namespace, has no such setting.
    Missing,
    Value {
        value: String,
        /// Not so in many containers; and what counts for the whole machine is so only in the initial
        /// network namespace.
        writable: bool,
    },
}

fn look(key: &str) -> Look {
    let path = path(key);
    let Ok(value) = fs::read_to_string(&path) else {
        return Look::Missing;
    };
    // Opening changes nothing, and asks everything that can stand in the way.
    let writable = OpenOptions::new().write(true).open(&path).is_ok();
    Look::Value {
        value: value.trim_end().to_string(),
        writable,
    }
}

fn write(key: &str, value: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path(key))?
        .write_all(value.as_bytes())
}

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key.replace('.', "/"))
}

fn read_record(path: &Path) -> Result<Option<Record>, Failure> {
    let hint = "it holds what settings of the kernel were before; remove it to leave them as they are";
    record::read(path, hint)
}

fn write_record(path: &Path, record: &Record) -> Result<(), Failure> {
    if record.is_empty() {
        return record::remove(path);
    }
    record::write(path, record)
}
