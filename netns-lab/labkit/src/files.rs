//! Files that another process may be reading, and directories that nobody else may enter.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc::{O_DIRECTORY, O_NOFOLLOW};

/// Replaces `path` with `bytes` so that a reader sees the old content or the new, never half.
///
/// The new file is written beside it (a name that starts with a dot), then renamed over it.
///
/// # Errors
/// Whatever writing or renaming reports; the old file is then untouched.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = temporary_name(path)?;
    let written = write_new(&beside, bytes, mode).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // The error that stopped us matters more than a second one from here.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"))?;
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(".new");
    Ok(path.with_file_name(beside))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // A crash may have left one behind; it is ours by its name, and the directory is ours alone.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(O_NOFOLLOW)
        .open(path)?;
    file.write_all(bytes)
}

/// Opens a directory that is ours alone, making it (mode 0700) if it is not there.
///
/// # Errors
/// `PermissionDenied` when it is a symlink, is not a directory, belongs to another user, or is
/// writable by others: following it could be made to write elsewhere.
pub fn private_directory(path: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    open_private_directory(path)
}

/// Opens a directory that must already be ours alone; see [`private_directory`].
pub fn open_private_directory(path: &Path) -> io::Result<File> {
    let refuse = |why: &str| {
        io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} {why}", path.display()),
        )
    };
    let found = fs::symlink_metadata(path)?;
    if found.file_type().is_symlink() {
        return Err(refuse("is a symlink; nothing is written through it"));
    }
    if !found.is_dir() {
        return Err(refuse("is not a directory"));
    }
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(O_NOFOLLOW | O_DIRECTORY)
        .open(path)?;
    let metadata = directory.metadata()?;
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(refuse("belongs to another user"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(refuse("can be written by others"));
    }
    Ok(directory)
}

/// Removes a file; one that is not there is removed already.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn replaces_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.json");
        write_atomically(&path, b"one", 0o644).unwrap();
        write_atomically(&path, b"two", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_left_over_temporary_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".web.json.new"), "half").unwrap();
        write_atomically(&folder.path().join("web.json"), b"whole", 0o644).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn never_through_a_symlink_nor_into_a_shared_directory() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        private_directory(&real).unwrap();
        let link = folder.path().join("link");
        symlink(&real, &link).unwrap();
        assert_eq!(
            private_directory(&link).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
        fs::set_permissions(&real, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(
            private_directory(&real).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
    }
}
