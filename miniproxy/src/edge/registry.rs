//! Finds and reads the registry's files.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use labkit::rundir::RUN_DIRECTORY;
use labkit::{Failure, Kind};
use nix::libc::O_NONBLOCK;

use crate::registry::problem::failure;
use crate::registry::{Registry, SourceFile};

/// Where the objects come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Directories of JSON files, and files.
    pub paths: Vec<PathBuf>,
}

/// Which files there are and how they looked: differs when any of them may have changed.
pub type Signature = Vec<(PathBuf, u64, i64, i64, u64)>;

impl Source {
    /// The paths that were given, else the registry of the lab that is up, or of the one that is named.
    ///
    /// # Errors
    /// `Usage` when none was given and not exactly one lab is up.
    pub fn choose(paths: &[PathBuf], lab: Option<&str>) -> Result<Self, Failure> {
        if !paths.is_empty() {
            return Ok(Self {
                paths: paths.to_vec(),
            });
        }
        let labs = labs()?;
        let found = match lab {
            Some(name) => labs.iter().find(|(lab, _)| lab == name),
            None if labs.len() == 1 => labs.first(),
            None => None,
        };
        if let Some((_, path)) = found {
            return Ok(Self {
                paths: vec![path.clone()],
            });
        }
        let names: Vec<&str> = labs.iter().map(|(lab, _)| lab.as_str()).collect();
        let failure = match (names.is_empty(), lab) {
            (true, _) => Failure::usage("no registry: no lab is up, and no --registry was given"),
            (false, Some(lab)) => {
                Failure::usage(format!("there is no lab {lab}; up are: {}", names.join(", ")))
            }
            (false, None) => Failure::usage(format!("several labs are up: {}", names.join(", "))),
        };
        Err(if names.is_empty() {
            failure
                .hint("netns-lab up 3-pods")
                .hint("or name a directory or file: --registry PATH")
        } else {
            failure.hint("choose one: --lab NAME, or --registry PATH")
        })
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// `Usage` with each problem's file, line, column and field.
    pub fn read(&self) -> Result<Registry, Failure> {
        let files = self.files()?;
        Registry::read(&files).map_err(|problems| failure(&problems))
    }

    /// Reads the files; the objects in them are not looked at.
    ///
    /// # Errors
    /// `Usage` when a path is not there or cannot be read.
    pub fn files(&self) -> Result<Vec<SourceFile>, Failure> {
        let mut files = Vec::new();
        for path in &self.paths {
            for file in listed(path).map_err(|error| unreadable(path, &error))? {
                // A pipe that somebody left in a directory would be waited for; a given one is meant.
                let bytes = read(&file, *path == file).map_err(|error| unreadable(&file, &error))?;
                files.push(SourceFile {
                    path: file.display().to_string(),
                    bytes,
                });
            }
        }
        Ok(files)
    }

    /// How the files look now, without reading them; empty where a path is gone.
    pub fn signature(&self) -> Signature {
        let files = self
            .paths
            .iter()
            .flat_map(|path| listed(path).unwrap_or_default());
        let look = |file: PathBuf| {
            let found = fs::metadata(&file).ok()?;
            Some((file, found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
        };
        files.filter_map(look).collect()
    }
}

/// No registry is as large: ten thousand Services with their slices are some 20 MB.
const LARGEST: u64 = 256 << 20;

/// Reads a regular file, or (`any_kind`) whatever it is.
fn read(path: &Path, any_kind: bool) -> io::Result<Vec<u8>> {
    let flags = if any_kind { 0 } else { O_NONBLOCK };
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !any_kind && !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        ));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is larger than 256 MiB",
        ));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(Kind::Usage, format!("cannot read {}: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::PermissionDenied => failure.hint("a lab's registry is root's: use sudo, or copy it"),
        _ => failure.hint("expected a JSON file, or a directory of them"),
    }
}

/// The file itself, or a directory's `*.json` in the order of names. Names that begin with a dot
/// are passed over: editors and atomic writers keep unfinished files there.
fn listed(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let file = path.join(&name);
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if !hidden && file.extension().is_some_and(|extension| extension == "json") && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Name and registry of each lab, in the order of names.
fn labs() -> Result<Vec<(String, PathBuf)>, Failure> {
    let entries = match fs::read_dir(RUN_DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(Path::new(RUN_DIRECTORY), &error)),
    };
    let mut labs: Vec<(String, PathBuf)> = entries
        .flatten()
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path().join("registry"),
            )
        })
        .filter(|(_, registry)| registry.is_dir())
        .collect();
    labs.sort();
    Ok(labs)
}
