//! Tables that did not exist before us do not exist after us.
//!
//! iptables-nft makes the table `nat` and its base chains at the first rule and never removes
//! them, so that `iptables-save` prints another text than before even when every rule is gone.
//! The first program to write records what was there; the last to leave removes what is empty and
//! was not. (iptables-legacy tables live as long as their network namespace; the kernel offers no
//! way to remove one.)

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::nftables::{NfChain, NfTable, NfTables};
use crate::rundir::{Record, RunDirectory, network_namespace};
use crate::{Failure, files};

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Footprint {
    /// Who has rules in the tables: `miniproxy`, `netns-lab/LAB`.
    holders: Vec<String>,
    tables: Vec<NfTable>,
    chains: Vec<NfChain>,
}

/// Notes that `holder` is about to write rules; the first one records what is there.
///
/// # Errors
/// When the record cannot be written: without it nothing could be undone exactly.
pub fn hold(run: &RunDirectory, holder: &str) -> Result<(), Failure> {
    hold_in(run, Record::Tables, holder)
}

/// The same in a record of its own.
///
/// # Errors
/// As [`hold`].
pub fn hold_in(run: &RunDirectory, record: Record, holder: &str) -> Result<(), Failure> {
    let path = record_path(run, record)?;
    let mut record = match read(&path)? {
        Some(record) => record,
        None => observe()?,
    };
    if record.holders.iter().any(|known| known == holder) {
        // It stands as it should: a disk that is full by now is no reason to stop.
        return Ok(());
    }
    record.holders.push(holder.to_string());
    write(&path, &record)
}

/// Notes that `holder` has no rules any more; the last one removes what did not exist before.
///
/// # Errors
/// When the kernel refuses; what could be removed is removed, and a later call goes on.
pub fn release(run: &RunDirectory, holder: &str) -> Result<(), Failure> {
    release_in(run, Record::Tables, holder)
}

/// The same in a record of its own.
///
/// # Errors
/// As [`release`].
pub fn release_in(run: &RunDirectory, record: Record, holder: &str) -> Result<(), Failure> {
    let path = record_path(run, record)?;
    let Some(mut record) = read(&path)? else {
        return Ok(());
    };
    record.holders.retain(|known| known != holder);
    if !record.holders.is_empty() {
        return write(&path, &record);
    }
    withdraw(&record)
        .map_err(|error| Failure::failed(format!("cannot remove the empty iptables tables: {error}")))?;
    files::remove_if_there(&path)
        .map_err(|error| Failure::failed(format!("cannot remove {}: {error}", path.display())))
}

/// Whether `holder` has rules in the tables of this network namespace, as far as the record tells.
pub fn is_held(run: &RunDirectory, holder: &str) -> bool {
    let record = record_path(run, Record::Tables).and_then(|path| read(&path));
    record.is_ok_and(|record| record.is_some_and(|record| record.holders.iter().any(|known| known == holder)))
}

/// Drops all records of a network namespace that does not exist any more: its tables and settings are
/// gone with it.
///
/// # Errors
/// When a record cannot be removed.
pub fn forget(run: &RunDirectory, namespace: u64) -> Result<(), Failure> {
    for kind in Record::ALL {
        let path = run.record(kind, namespace);
        files::remove_if_there(&path)
            .map_err(|error| Failure::failed(format!("cannot remove {}: {error}", path.display())))?;
    }
    Ok(())
}

fn observe() -> Result<Footprint, Failure> {
    let read = || -> std::io::Result<Footprint> {
        let mut kernel = NfTables::open()?;
        let chains = kernel.chains()?.into_iter().filter(|chain| chain.base).collect();
        Ok(Footprint {
            holders: Vec::new(),
            tables: kernel.tables()?,
            chains,
        })
    };
    match read() {
        Ok(footprint) => Ok(footprint),
        // A kernel without nf_tables has nothing that could be left behind.
        Err(error) if nf_tables_is_missing(&error) => Ok(Footprint::default()),
        Err(error) => Err(Failure::failed(format!("cannot list the nf_tables: {error}"))),
    }
}

/// Only tables that iptables makes; another program may have made `ip calico` meanwhile.
const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

fn withdraw(before: &Footprint) -> std::io::Result<()> {
    let mut kernel = match NfTables::open() {
        Err(error) if nf_tables_is_missing(&error) => return Ok(()),
        other => other?,
    };
    let chains = match kernel.chains() {
        Err(error) if nf_tables_is_missing(&error) => return Ok(()),
        other => other?,
    };
    let was_there = |chain: &NfChain| {
        before
            .chains
            .iter()
            .any(|known| known.table == chain.table && known.name == chain.name)
    };
    let made =
        |chain: &&NfChain| chain.base && IPTABLES.contains(&chain.table.name.as_str()) && !was_there(chain);
    let chains: Vec<NfChain> = chains.iter().filter(made).cloned().collect();
    let mut tables = kernel.tables()?;
    tables.retain(|table| IPTABLES.contains(&table.name.as_str()) && !before.tables.contains(table));
    if kernel.delete_empty(&chains, &tables)? {
        return Ok(());
    }
    // Somebody has rules in one of them by now: what is empty goes, one by one.
    for chain in &chains {
        kernel.delete_empty(std::slice::from_ref(chain), &[])?;
    }
    for table in &tables {
        kernel.delete_empty(&[], std::slice::from_ref(table))?;
    }
    Ok(())
}

fn nf_tables_is_missing(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(nix::libc::EPROTONOSUPPORT | nix::libc::EOPNOTSUPP | nix::libc::EINVAL)
    )
}

fn record_path(run: &RunDirectory, record: Record) -> Result<PathBuf, Failure> {
    Ok(run.record(record, network_namespace()?))
}

fn read(path: &std::path::Path) -> Result<Option<Footprint>, Failure> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::failed(format!(
                "cannot read {}: {error}",
                path.display()
            )));
        }
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Failure::failed(format!("{} is damaged: {error}", path.display())).hint("remove it if no lab is up")
    })
}

fn write(path: &std::path::Path, record: &Footprint) -> Result<(), Failure> {
    let bytes = serde_json::to_vec(record).map_err(|error| Failure::failed(error.to_string()))?;
    files::write_atomically(path, &bytes, 0o600).map_err(|error| {
        let failure = Failure::failed(format!("cannot write {}: {error}", path.display()));
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                let folder = path.parent().unwrap_or(path).display();
                failure.hint(format!("make room, or a larger file system: df -h {folder}"))
            }
            _ => failure,
        }
    })
}
