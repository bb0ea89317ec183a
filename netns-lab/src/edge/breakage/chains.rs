//! Single places in iptables chains, read by `iptables-save` and written by `iptables-restore`.

use std::path::{Path, PathBuf};

use labkit::nftables::{NfFamily, NfTable, NfTables};
use labkit::{Failure, tool};

use crate::model::breakage::hunk::{self, Edits};

/// `iptables` → `iptables-save`, in the same folder.
fn sibling(program: &Path, suffix: &str) -> PathBuf {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    program.with_file_name(format!("{name}{suffix}"))
}

/// All rules of one table.
///
/// # Errors
/// What iptables-save said.
pub fn dump(program: &Path, table: &str) -> Result<String, Failure> {
    let dump = tool::run_ok(&sibling(program, "-save"), &["-t", table], None)?;
    Ok(String::from_utf8_lossy(&dump).into_owned())
}

/// The rules of one chain; `None` when there is no such chain.
///
/// # Errors
/// What iptables-save said.
pub fn read(program: &Path, table: &str, chain: &str) -> Result<Option<Vec<String>>, Failure> {
    Ok(hunk::chain(&dump(program, table)?, chain))
}

/// Changes a chain in one transaction.
///
/// # Errors
/// What iptables-restore said.
pub fn write(program: &Path, table: &str, chain: &str, edits: &Edits) -> Result<(), Failure> {
    if edits.delete.is_empty() && edits.insert.is_empty() {
        return Ok(());
    }
    let mut input = format!("*{table}\n");
    for line in &edits.delete {
        input.push_str(&format!("-D {chain} {line}\n"));
    }
    for (number, line) in &edits.insert {
        input.push_str(&format!("-I {chain} {number} {line}\n"));
    }
    input.push_str("COMMIT\n");
    let words = ["--noflush", "-w", "10"];
    tool::run_ok(&sibling(program, "-restore"), &words, Some(input.as_bytes())).map(|_| ())
}

/// A table of IPv4 by its name, as nf_tables has it.
fn nf_table(name: &str) -> NfTable {
    NfTable {
        family: NfFamily::Ip,
        name: name.into(),
    }
}

/// Whether iptables-legacy has a table here. Unlike iptables-legacy-save, to ask so makes none.
pub fn legacy_table_exists(name: &str) -> bool {
    let names = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    names.lines().any(|line| line == name)
}

/// Whether iptables-nft has made a table here.
pub fn nf_table_exists(name: &str) -> bool {
    let tables = NfTables::open().and_then(|mut kernel| kernel.tables());
    tables.is_ok_and(|tables| tables.contains(&nf_table(name)))
}

/// Removes a table that iptables-nft made, if nobody has a rule in it.
///
/// # Errors
/// What the kernel said.
pub fn remove_nf_table(name: &str) -> Result<(), Failure> {
    let remove = || -> std::io::Result<bool> {
        let mut kernel = NfTables::open()?;
        let table = nf_table(name);
        let mut chains = kernel.chains()?;
        chains.retain(|chain| chain.table == table);
        kernel.delete_empty(&chains, &[table])
    };
    let removed = remove()
        .map_err(|error| Failure::failed(format!("cannot remove the empty table {name}: {error}")))?;
    tracing::debug!(removed, name, "the table that was made for a rule");
    Ok(())
}
