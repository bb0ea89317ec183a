//! Names of network namespaces, kept as `ip netns` keeps them: bind mounts in `/run/netns`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use labkit::Failure;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

/// Where the names are.
pub const DIRECTORY: &str = "/run/netns";

/// The file of a name.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// The inode of the namespace behind a name; `None` when there is no such name, or only an empty
/// file without a namespace mounted on it.
pub fn inode(name: &str) -> Option<u64> {
    // All namespaces of a machine are files of one file system.
    static DEVICE: LazyLock<Option<u64>> =
        LazyLock::new(|| Some(fs::metadata("/proc/self/ns/net").ok()?.dev()));
    let found = fs::metadata(path(name)).ok()?;
    (Some(found.dev()) == *DEVICE).then(|| found.ino())
}

/// As [`inode`], but 0 for a file without a namespace.
pub fn look(name: &str) -> Option<u64> {
    inode(name).or_else(|| path(name).symlink_metadata().is_ok().then_some(0))
}

/// Whether any name stands for this namespace.
pub fn is_named(namespace: u64) -> bool {
    names().any(|name| inode(&name) == Some(namespace))
}

/// All names.
pub fn names() -> impl Iterator<Item = String> {
    let entries = fs::read_dir(DIRECTORY)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// The namespace that this thread is in, to come back to it.
pub fn current() -> Result<File, Failure> {
    File::open("/proc/thread-self/ns/net")
        .map_err(|error| Failure::host_lacks(format!("cannot open /proc/thread-self/ns/net: {error}")))
}

/// Opens a namespace, to enter it.
pub fn open(name: &str) -> Result<File, Failure> {
    if inode(name).is_none() {
        return Err(Failure::failed(format!("there is no network namespace {name}"))
            .hint("`netns-lab status` lists the pods, `netns-lab up` repairs them"));
    }
    File::open(path(name))
        .map_err(|error| Failure::failed(format!("cannot open {}: {error}", path(name).display())))
}

/// Removes a name; the namespace ends with the last process in it.
pub fn remove(name: &str) -> Result<(), Failure> {
    let path = path(name);
    // Not a mount: an empty file that a dead command left behind.
    let _ = umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    labkit::files::remove_if_there(&path)
        .map_err(|error| Failure::failed(format!("cannot remove {}: {error}", path.display())))
}

/// Whether the directory is there and is a mount of its own.
pub fn directory_is_mounted() -> bool {
    statx(CWD, DIRECTORY, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).is_ok_and(|found| {
        let mask = found.stx_attributes_mask;
        // Kernels before 5.8 cannot say; there the mount table can.
        if mask.contains(StatxAttributes::MOUNT_ROOT) {
            found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        } else {
            is_in_mount_table()
        }
    })
}

fn is_in_mount_table() -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(DIRECTORY))
}

/// Makes the directory a shared mount, so that names made in it are seen by everybody who shares
/// it, whichever mount namespace they are in.
///
/// Returns whether the directory itself had to be made.
pub fn prepare_directory() -> Result<bool, Failure> {
    prepare().map_err(|error| {
        Failure::host_lacks(format!("cannot prepare {DIRECTORY}: {error}"))
            .hint("run as root (sudo), or inside `netns-lab sandbox`")
    })
}

fn prepare() -> io::Result<bool> {
    let made = match fs::DirBuilder::new().mode(0o755).create(DIRECTORY) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    let none: Option<&str> = None;
    mount(
        Some(DIRECTORY),
        DIRECTORY,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )?;
    mount(none, DIRECTORY, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none)?;
    Ok(made)
}

/// Undoes [`prepare_directory`] if nobody else has put a name there.
pub fn withdraw_directory(made: bool) -> Result<(), Failure> {
    let mut entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::failed(format!("cannot read {DIRECTORY}: {error}"))),
    };
    if entries.next().is_some() {
        return Ok(());
    }
    if directory_is_mounted() {
        umount2(DIRECTORY, MntFlags::MNT_DETACH)
            .map_err(|error| Failure::failed(format!("cannot unmount {DIRECTORY}: {error}")))?;
    }
    if made {
        // Someone may have used it meanwhile; then it is theirs.
        let _ = fs::remove_dir(DIRECTORY);
    }
    Ok(())
}
