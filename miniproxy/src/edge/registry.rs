//! Finds and reads the registry's files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use labkit::rundir::RUN_DIRECTORY;
use labkit::{Failure, Kind};
use nix::libc::O_NONBLOCK;

use crate::registry::SourceFile;
use crate::registry::store::Store;
use crate::registry::touched::Touched;
use crate::spread;

/// Where the objects come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Directories of JSON files, and files.
    pub paths: Vec<PathBuf>,
}

/// How a file looked: inode, time of change in seconds and nanoseconds, length.
type Look = (u64, i64, i64, u64);

/// The files of a source, of which only those are read that changed.
///
/// Paths stand in the order of their bytes: to compare them name by name, as paths are, would take a
/// tenth of the time in which ten thousand files are read.
#[derive(Debug)]
pub struct Files {
    source: Source,
    seen: BTreeMap<OsString, Look>,
    /// Those that could not be read when they were last looked at.
    unread: BTreeSet<OsString>,
}

/// What became of the files since they were last looked at.
#[derive(Debug, Default)]
pub struct Changes {
    /// Those that are new or changed.
    pub changed: Vec<SourceFile>,
    /// Those that are gone, by their paths.
    pub gone: Vec<String>,
    /// Those that are there and cannot be read, with why; they are tried again next time.
    pub unread: Vec<(PathBuf, io::Error)>,
    /// Paths that were given and cannot be listed.
    pub failures: Vec<Failure>,
}

impl Changes {
    /// Takes them into a store.
    pub fn apply(&self, store: &mut Store) -> Touched {
        for (path, why) in &self.unread {
            store.unreadable(&path.display().to_string(), &why.to_string());
        }
        store.update(&self.changed, &self.gone)
    }
}

impl Files {
    /// Nothing is read yet.
    pub fn new(mut source: Source) -> Self {
        // Files are told apart by the bytes of their paths: `dir/.` and `dir//` are `dir`.
        for path in &mut source.paths {
            *path = path.components().collect();
        }
        Self {
            source,
            seen: BTreeMap::new(),
            unread: BTreeSet::new(),
        }
    }

    /// Where the files are.
    pub fn paths(&self) -> &[PathBuf] {
        &self.source.paths
    }

    /// Reads what changed: of these files, which somebody saw change, or of all.
    pub fn changes(&mut self, only: Option<&BTreeSet<PathBuf>>) -> Changes {
        let mut changes = Changes::default();
        match only {
            Some(files) => {
                let files: Vec<OsString> = files
                    .iter()
                    .filter(|file| is_object_file(file) && !file.is_dir())
                    .map(|file| file.clone().into_os_string())
                    .collect();
                self.look_at(&files, true, &mut changes);
            }
            None => self.look_at_all(&mut changes),
        }
        changes
    }

    fn look_at_all(&mut self, changes: &mut Changes) {
        let mut listed_files: Vec<OsString> = Vec::new();
        let mut whole = true;
        for path in &self.source.paths {
            match listed(path) {
                Ok(files) => listed_files.extend(files),
                Err(error) => {
                    // What is not there at all may come back; until then its files stay in force.
                    whole = false;
                    changes.failures.push(unreadable(path, &error));
                }
            }
        }
        listed_files.sort_unstable();
        // The same directory may have been given twice.
        listed_files.dedup();
        if whole {
            let known = self.seen.keys().chain(&self.unread);
            let gone = known.filter(|file| listed_files.binary_search(file).is_err());
            for file in gone.cloned().collect::<Vec<_>>() {
                self.forget(&file, changes);
            }
        }
        self.look_at(&listed_files, false, changes);
    }

    fn look_at(&mut self, files: &[OsString], surely: bool, changes: &mut Changes) {
        let looks = spread::map(files, |file| self.look(file, surely));
        for (file, look) in files.iter().zip(looks) {
            match look {
                Ok(None) => {}
                Ok(Some((look, bytes))) => {
                    self.seen.insert(file.clone(), look);
                    self.unread.remove(file);
                    let path = file.display().to_string();
                    changes.changed.push(SourceFile { path, bytes });
                }
                // A link to nowhere is there, and what it is to say cannot be read.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !Path::new(file).is_symlink() => {
                    self.forget(file, changes);
                }
                Err(error) => {
                    self.unread.insert(file.clone());
                    self.seen.remove(file);
                    changes.unread.push((PathBuf::from(file), error));
                }
            }
        }
    }

    /// How the file looks and what it says; `None` when it looks as before, unless (`surely`) it is
    /// known to be another.
    fn look(&self, file: &OsStr, surely: bool) -> io::Result<Option<(Look, Vec<u8>)>> {
        if let Some(before) = self.seen.get(file).filter(|_| !surely)
            && look_of(&fs::metadata(file)?) == *before
        {
            return Ok(None);
        }
        // A pipe that somebody left in a directory would be waited for; a given one is meant.
        let is_given = self.source.paths.iter().any(|path| path.as_os_str() == file);
        read(Path::new(file), is_given).map(Some)
    }

    fn forget(&mut self, file: &OsStr, changes: &mut Changes) {
        if self.seen.remove(file).is_some() | self.unread.remove(file) {
            changes.gone.push(file.display().to_string());
        }
    }
}

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

    /// Reads everything; what is wrong with single files and objects, the store tells.
    ///
    /// # Errors
    /// `Usage` when a path that was given is not there, or is a file that cannot be read.
    pub fn load(&self) -> Result<Store, Failure> {
        let mut changes = Files::new(self.clone()).changes(None);
        let mut given = changes
            .unread
            .iter()
            .filter(|(file, _)| self.paths.contains(file));
        if let Some((file, error)) = given.next() {
            return Err(unreadable(file, error));
        }
        if let Some(failure) = changes.failures.pop() {
            return Err(failure);
        }
        let mut store = Store::default();
        changes.apply(&mut store);
        Ok(store)
    }
}

/// No registry is as large: ten thousand Services with their slices are some 20 MB.
const LARGEST: u64 = 256 << 20;

/// Reads a regular file, or (`any_kind`) whatever it is; how it looked before.
fn read(path: &Path, any_kind: bool) -> io::Result<(Look, Vec<u8>)> {
    let flags = if any_kind { 0 } else { O_NONBLOCK };
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !any_kind && !found.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        ));
    }
    // One more than it is long, so that its end is met with the first reading.
    let room = found.len().min(LARGEST) + 1;
    let mut bytes = Vec::with_capacity(usize::try_from(room).unwrap_or_default());
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is larger than 256 MiB",
        ));
    }
    Ok((look_of(&found), bytes))
}

fn look_of(found: &fs::Metadata) -> Look {
    (found.ino(), found.ctime(), found.ctime_nsec(), found.len())
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(Kind::Usage, format!("cannot read {}: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::PermissionDenied => failure.hint("a lab's registry is root's: use sudo, or copy it"),
        _ => failure.hint("expected a JSON file, or a directory of them"),
    }
}

/// The file itself, or a directory's `*.json`, in any order. Names that begin with a dot
/// are passed over: editors and atomic writers keep unfinished files there.
fn listed(path: &Path) -> io::Result<Vec<OsString>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.as_os_str().to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let file = path.join(entry.file_name());
        if is_object_file(&file) && !entry.file_type()?.is_dir() {
            files.push(file.into_os_string());
        }
    }
    Ok(files)
}

fn is_object_file(file: &Path) -> bool {
    let hidden = file
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && file.extension().is_some_and(|extension| extension == "json")
}

/// Name and registry of each lab that is up, in the order of names.
///
/// # Errors
/// When the directory of labs cannot be listed.
pub fn labs() -> Result<Vec<(String, PathBuf)>, Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_given_in_several_spellings_is_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.json"), "{}").unwrap();
        let given = folder.path().display().to_string();
        let spellings = ["", "/", "/.", "//", "//a.json"].map(|end| PathBuf::from(format!("{given}{end}")));
        let source = Source {
            paths: spellings.to_vec(),
        };
        let changes = Files::new(source).changes(None);
        assert_eq!((changes.changed.len(), changes.failures.len()), (1, 0));
    }
}
