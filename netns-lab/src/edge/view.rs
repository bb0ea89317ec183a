//! What a container sees of the files of its node: a root made of bind mounts.
//!
//! The host's own `/` cannot be given away as it is: the volume needs a place in it, the names of
//! other pods' namespaces would be kept alive by each copy of the mount table, and that table grows
//! with every pod. So a view is made once for each command: a small tmpfs with the host's folders
//! bound into it. Each container starts from a copy of that.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use labkit::Failure;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::pivot_root;

use super::{joined, namespace, store};
use crate::model::name::Label;

const NONE: Option<&str> = None;

/// Where containers of a pod share files, in each of them.
pub const VOLUME: &str = "/volume";

/// Where a container with a root of its own builds that, within the view.
pub(super) const STAGE: &str = "/.root";

/// An empty folder of the view, to lay over what is nobody's business.
pub(super) const EMPTY: &str = "/.empty";

/// A mount namespace that new containers start from. It lives as long as this handle.
pub struct View {
    namespace: File,
}

impl View {
    /// Makes the view of this lab's containers.
    pub fn new(lab: &Label) -> Result<Self, Failure> {
        // Mount namespaces belong to threads, and this one shall not change its own.
        thread::scope(|scope| {
            joined(scope.spawn(|| {
                build(lab).map_err(|(what, error)| {
                    Failure::failed(format!(
                        "cannot prepare what containers see of this host ({what}): {error}"
                    ))
                })
            }))
        })
    }

    /// A path by which another process of this host can open it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }
}

/// What was being done when it failed.
type Refused = (String, io::Error);

fn build(lab: &Label) -> Result<View, Refused> {
    let at = |what: &str| {
        let what = what.to_string();
        move |error: nix::Error| (what, io::Error::from(error))
    };
    let root = store::stage(lab);
    unshare(CloneFlags::CLONE_NEWNS).map_err(at("a mount namespace"))?;
    mount(NONE, "/", NONE, MsFlags::MS_PRIVATE | MsFlags::MS_REC, NONE).map_err(at("private mounts"))?;
    new_root(&root).map_err(at("a tmpfs"))?;
    compose(Path::new("/"), &root)?;
    // A copy of a name keeps its namespace alive.
    while umount2(&root.join(&namespace::DIRECTORY[1..]), MntFlags::MNT_DETACH).is_ok() {}
    for folder in [VOLUME, STAGE, EMPTY] {
        folder_at(&root, folder)?;
    }
    mount(NONE, &root, NONE, MsFlags::MS_PRIVATE, NONE).map_err(at("a private tmpfs"))?;
    // What is below are empty files with the names of the pods.
    let names = root.join(&namespace::DIRECTORY[1..]);
    mount(
        Some(&root.join(&EMPTY[1..])),
        &names,
        NONE,
        MsFlags::MS_BIND,
        NONE,
    )
    .map_err(at("an empty /run/netns"))?;
    become_root(&root).map_err(at("a new root"))?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(NONE, "/", NONE, read_only, NONE).map_err(at("a read-only root"))?;
    let namespace =
        File::open("/proc/thread-self/ns/mnt").map_err(|error| ("the namespace".to_string(), error))?;
    Ok(View { namespace })
}

/// An empty file system at a folder.
pub(super) fn new_root(root: &Path) -> nix::Result<()> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        root,
        Some("tmpfs"),
        plain,
        Some("mode=0755,size=1m"),
    )?;
    // A recursive bind of the folder above would otherwise take it along, and itself, and so on.
    mount(NONE, root, NONE, MsFlags::MS_UNBINDABLE, NONE)
}

/// Binds everything that is in one folder into another, which is empty.
pub(super) fn compose(from: &Path, to: &Path) -> Result<(), Refused> {
    let entries = fs::read_dir(from).map_err(|error| (from.display().to_string(), error))?;
    for entry in entries.filter_map(Result::ok) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let failed = |error: io::Error| (source.display().to_string(), error);
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_symlink() {
            let link = fs::read_link(&source).map_err(failed)?;
            symlink(link, &target).map_err(failed)?;
            continue;
        }
        if kind.is_dir() {
            fs::create_dir(&target).map_err(failed)?;
        } else if kind.is_file() {
            File::create(&target).map_err(failed)?;
        } else {
            continue;
        }
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        let bound = mount(Some(&source), &target, NONE, bind, NONE);
        // One that cannot be bound, such as a broken network file system, stays empty.
        tracing::debug!(?source, ?bound, "a part of the root");
    }
    Ok(())
}

/// Makes a folder of a root, if it has none.
pub(super) fn folder_at(root: &Path, folder: &str) -> Result<PathBuf, Refused> {
    let path = root.join(folder.trim_start_matches('/'));
    match DirBuilder::new().mode(0o755).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err((folder.to_string(), error)),
        _ => Ok(path),
    }
}

/// Makes a mount the root of this mount namespace and forgets the one before.
pub(super) fn become_root(root: &Path) -> nix::Result<()> {
    nix::unistd::chdir(root)?;
    // The old root lands on top of the new one, and is taken away from there.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}
