//! Tables that did not exist before us do not exist after us.
//!
//! iptables-nft makes the table `nat` and its base chains at the first rule and never removes
//! them, so that `iptables-save` prints another text than before even when every rule is gone.
//! The first program to write records what was there; the last to leave removes what is empty and
//! was not. (iptables-legacy tables live as long as their network namespace; the kernel offers no
//! way to remove one.)

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::nftables::{NfChain, NfTable, NfTables};
use crate::rundir::{Record, RunDirectory};
use crate::{Failure, record};

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
pub fn hold_in(run: &RunDirectory, kind: Record, holder: &str) -> Result<(), Failure> {
    let path = record::here(run, kind)?;
    let mut record = match read(&path)? {
        Some(record) => record,
        None => observe()?,
    };
    if record.holders.iter().any(|known| known == holder) {
        // It stands as it should: a disk that is full by now is no reason to stop.
        return Ok(());
    }
    record.holders.push(holder.to_string());
    record::write(&path, &record)
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
pub fn release_in(run: &RunDirectory, kind: Record, holder: &str) -> Result<(), Failure> {
    let path = record::here(run, kind)?;
    let Some(mut record) = read(&path)? else {
        return Ok(());
    };
    record.holders.retain(|known| known != holder);
    if !record.holders.is_empty() {
        return record::write(&path, &record);
    }
    withdraw(&record)
        .map_err(|error| Failure::failed(format!("cannot remove the empty iptables tables: {error}")))?;
    record::remove(&path)
}

/// Whether `holder` has rules in the tables of this network namespace, as far as the record tells.
pub fn is_held(run: &RunDirectory, holder: &str) -> bool {
    let record = record::here(run, Record::Tables).and_then(|path| read(&path));
    record.is_ok_and(|record| record.is_some_and(|record| record.holders.iter().any(|known| known == holder)))
}

/// Drops all records of a network namespace that does not exist any more: its tables and settings are
/// gone with it.
///
/// # Errors
/// When a record cannot be removed.
pub fn forget(run: &RunDirectory, namespace: u64) -> Result<(), Failure> {
    for kind in Record::ALL {
        record::remove(&run.record(kind, namespace))?;
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

fn read(path: &Path) -> Result<Option<Footprint>, Failure> {
    record::read(path, "remove it if no lab is up")
}
