//! Records in the run directory: JSON of what was before, so that it can be put back.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::rundir::{Record, RunDirectory, network_namespace};
use crate::{Failure, files};

/// The record of this kind about this thread's network namespace.
///
/// # Errors
/// `HostLacks` when `/proc` is not mounted.
pub fn here(run: &RunDirectory, kind: Record) -> Result<PathBuf, Failure> {
    Ok(run.record(kind, network_namespace()?))
}

/// What it says; `None` where there is none. `hint` tells what to do with a damaged one.
///
/// # Errors
/// When it cannot be read or is damaged.
pub fn read<T: DeserializeOwned>(path: &Path, hint: &str) -> Result<Option<T>, Failure> {
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
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Failure::failed(format!("{} is damaged: {error}", path.display())).hint(hint))
}

/// Writes it as a whole or not at all.
///
/// # Errors
/// When it cannot be written: then nothing may be changed that it should tell of.
pub fn write<T: Serialize>(path: &Path, record: &T) -> Result<(), Failure> {
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

/// Removes it, if it is there.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove(path: &Path) -> Result<(), Failure> {
    files::remove_if_there(path)
        .map_err(|error| Failure::failed(format!("cannot remove {}: {error}", path.display())))
}
