//! A container's own root: a folder that is there, or a tar archive that is unpacked for it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::{Component, Path, PathBuf};

use labkit::{Failure, files};
use tar::{Archive, EntryType};

use super::store;
use crate::model::name::Label;

/// How much an archive may unpack to: it lands in memory, for `/run` is there.
const MOST_BYTES: u64 = 512 << 20;

/// The folder that is to be the root of a container.
pub fn ready(lab: &Label, pod: &Label, container: &Label, from: &Path) -> Result<PathBuf, Failure> {
    let failed = |why: String| {
        Failure::usage(format!("cannot use {} as a root: {why}", from.display())).hint(
            "expected a folder with bin, etc, usr and so on, or a tar archive of one: \
             `netns-lab image build` makes one",
        )
    };
    let from = fs::canonicalize(from).map_err(|error| failed(error.to_string()))?;
    if from == Path::new("/") {
        return Err(failed("that is the host's own; leave --rootfs out".into()));
    }
    if from.is_dir() {
        return Ok(from);
    }
    let roots = store::roots(lab, pod);
    let folder = roots.join(container.as_str());
    let prepared = match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => parent(&roots).and_then(|()| fs::create_dir(&folder)),
    };
    prepared.map_err(|error| Failure::failed(format!("cannot prepare {}: {error}", folder.display())))?;
    let unpacked = File::open(&from)
        .map_err(|error| error.to_string())
        .and_then(|file| unpack(file, &folder));
    if let Err(why) = unpacked {
        let _ = fs::remove_dir_all(&folder);
        return Err(failed(why));
    }
    Ok(folder)
}

fn parent(roots: &Path) -> io::Result<()> {
    files::private_directory(roots).map(drop)
}

/// Unpacks an archive, of which nothing may land outside the folder.
fn unpack(mut file: File, folder: &Path) -> Result<(), String> {
    let mut magic = [0; 2];
    let read = file.read(&mut magic).and_then(|_| file.rewind());
    read.map_err(|error| error.to_string())?;
    if magic == [0x1f, 0x8b] {
        return Err("it is compressed; expected a plain tar archive (gunzip it)".into());
    }
    let mut archive = Archive::new(file);
    archive.set_preserve_permissions(false);
    archive.set_preserve_mtime(false);
    archive.set_overwrite(true);
    let (mut bytes, mut links) = (0_u64, BTreeSet::new());
    for entry in archive.entries().map_err(|error| error.to_string())? {
        let mut entry = entry.map_err(|error| format!("it is no tar archive: {error}"))?;
        let path = entry.path().map_err(|error| error.to_string())?.into_owned();
        let shown = labkit::text::printable(&path.to_string_lossy()).into_owned();
        let path = inner(&path).ok_or_else(|| format!("the entry {shown} leaves the root"))?;
        if path.ancestors().any(|part| links.contains(part)) {
            return Err(format!("the entry {shown} goes through a link of the archive"));
        }
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Directory | EntryType::Continuous => {}
            EntryType::Symlink => {
                links.insert(path.clone());
            }
            EntryType::Link => {
                let target = entry.link_name().ok().flatten();
                let target = target.as_deref().and_then(inner);
                if target.is_none_or(|target| target.ancestors().any(|part| links.contains(part))) {
                    return Err(format!("the link {shown} leaves the root"));
                }
            }
            EntryType::XGlobalHeader => continue,
            // A device would be the host's own.
            _ => {
                return Err(format!(
                    "the entry {shown} is neither a file, a folder nor a link"
                ));
            }
        }
        bytes = bytes.saturating_add(entry.size());
        if bytes > MOST_BYTES {
            return Err(format!("it holds more than {} MiB", MOST_BYTES >> 20));
        }
        if !entry.unpack_in(folder).map_err(|error| error.to_string())? {
            return Err(format!("the entry {shown} leaves the root"));
        }
    }
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none()) {
        return Err("it is empty".into());
    }
    Ok(())
}

/// A path without `.`, if nothing in it leads out of its root.
fn inner(path: &Path) -> Option<PathBuf> {
    let mut inner = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => inner.push(part),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(inner)
}

#[cfg(test)]
mod tests {
    use tar::{Builder, Header};

    use super::*;

    /// An archive of entries: a path, a kind, and where a link leads.
    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        for (path, kind, target) in entries {
            let mut header = Header::new_gnu();
            // Written by hand: the crate itself refuses to write such paths.
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_size(0);
            header.set_cksum();
            archive.append(&header, io::empty()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn unpacked(bytes: &[u8]) -> Result<Vec<String>, String> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let top = std::env::temp_dir().join(format!("netns-lab-rootfs-{}-{number}", std::process::id()));
        fs::create_dir_all(top.join("in")).unwrap();
        fs::write(top.join("a.tar"), bytes).unwrap();
        let result = unpack(File::open(top.join("a.tar")).unwrap(), &top.join("in"));
        let names = fs::read_dir(top.join("in")).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(fs::read_dir(&top).unwrap().count(), 2, "something landed outside");
        fs::remove_dir_all(&top).unwrap();
        result.map(|()| names)
    }

    #[test]
    fn files_folders_and_links_land_in_the_root() {
        let bytes = archive(&[
            ("./usr/bin", EntryType::Directory, ""),
            ("bin", EntryType::Symlink, "usr/bin"),
            ("file", EntryType::Regular, ""),
            ("hard", EntryType::Link, "file"),
        ]);
        assert_eq!(unpacked(&bytes).unwrap(), ["bin", "file", "hard", "usr"]);
    }

    #[test]
    fn what_would_leave_the_root_is_refused() {
        for (entries, word) in [
            (&[("../evil", EntryType::Regular, "")][..], "leaves the root"),
            (&[("/etc/evil", EntryType::Regular, "")], "leaves the root"),
            (&[("a/../../evil", EntryType::Regular, "")], "leaves the root"),
            (
                &[("hard", EntryType::Link, "../../etc/passwd")],
                "leaves the root",
            ),
            (&[("hard", EntryType::Link, "/etc/passwd")], "leaves the root"),
            (
                &[
                    ("out", EntryType::Symlink, ".."),
                    ("out/evil", EntryType::Regular, ""),
                ],
                "through a link",
            ),
            (&[("disk", EntryType::Block, "")], "neither a file"),
        ] {
            let error = unpacked(&archive(entries)).unwrap_err();
            assert!(error.contains(word), "{entries:?}: {error}");
        }
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        for (bytes, word) in [
            (&b"hello"[..], "no tar archive"),
            (b"\x1f\x8b\x08", "compressed"),
            (b"", "empty"),
        ] {
            let error = unpacked(bytes).unwrap_err();
            assert!(error.contains(word), "{bytes:?}: {error}");
        }
    }
}
