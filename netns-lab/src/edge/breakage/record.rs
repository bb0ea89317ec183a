//! The file in a lab's folder that says what is broken in it.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use labkit::{Failure, files};

use crate::edge::store;
use crate::model::breakage::record::{FILE, Record};
use crate::model::name::Label;

fn path(lab: &Label) -> PathBuf {
    store::lab_directory(lab).join(FILE)
}

/// What is broken in a lab.
///
/// # Errors
/// When the file cannot be read, or is damaged.
pub fn read(lab: &Label) -> Result<Record, Failure> {
    let path = path(lab);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Record::default()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(
                Failure::host_lacks(format!("cannot read {}: {error}", path.display()))
                    .hint("a lab is its owner's only: use sudo"),
            );
        }
        Err(error) => {
            return Err(Failure::failed(format!(
                "cannot read {}: {error}",
                path.display()
            )));
        }
    };
    serde_json::from_slice(&text).map_err(|error| {
        Failure::failed(format!("{} is damaged: {error}", path.display()))
            .hint("`netns-lab up` repairs what it can see, `miniproxy sync` the rules of Services")
    })
}

/// Writes it, or removes the file when nothing is broken.
///
/// # Errors
/// When the disk refuses.
pub fn write(lab: &Label, record: &Record) -> Result<(), Failure> {
    let path = path(lab);
    let written = if record.is_empty() {
        files::remove_if_there(&path)
    } else {
        let text = serde_json::to_vec(record).map_err(|error| Failure::failed(error.to_string()))?;
        files::write_atomically(&path, &text, 0o600)
    };
    written.map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}
