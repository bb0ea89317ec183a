//! A container from within: how its first process makes what it sees and gives up what it may.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use labkit::Failure;
use labkit::rundir::RUN_DIRECTORY;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::view::{self, EMPTY, STAGE, VOLUME, become_root, compose, folder_at, new_root};
use super::{cgroup, enter, store};
use crate::model::name::Label;

const NONE: Option<&str> = None;

/// Devices that every program may expect.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// What a container is made of, as its first process is told.
#[derive(Debug, Clone, Default)]
pub struct Inside {
    /// Where the view of the host can be opened.
    pub view: PathBuf,
    /// The folder that becomes its root.
    pub rootfs: Option<PathBuf>,
    /// Its control group.
    pub cgroup: Option<PathBuf>,
    /// It sees the lab's registry where others see nothing of the lab.
    pub registry: bool,
}

/// Gives this process, which is the first of its pid namespace, a file system of its own.
pub fn furnish(lab: &Label, pod: &Label, inside: &Inside) -> Result<(), Failure> {
    let failed = |(what, error): (String, io::Error)| {
        Failure::failed(format!("cannot make the container's {what}: {error}"))
    };
    let at = |what: &str| {
        let what = what.to_string();
        move |error: nix::Error| failed((what, error.into()))
    };
    if let Some(group) = &inside.cgroup {
        // While the host's /sys is still in sight, and before anything is allocated.
        cgroup::join(group)?;
    }
    let view = File::open(&inside.view).map_err(|error| failed(("view of the host".into(), error)))?;
    setns(&view, CloneFlags::CLONE_NEWNS).map_err(at("view of the host"))?;
    drop(view);
    unshare(CloneFlags::CLONE_NEWNS).map_err(at("mount namespace"))?;
    let root = match &inside.rootfs {
        None => PathBuf::from("/"),
        Some(rootfs) => own_root(rootfs).map_err(failed)?,
    };
    system(&root).map_err(|(what, error)| failed((what.to_string(), error.into())))?;
    shared(&root, &store::pod_files(lab, pod)).map_err(|(what, error)| failed((what, error.into())))?;
    if inside.rootfs.is_some() {
        become_root(&root).map_err(at("root"))
    } else {
        state(lab, inside.registry).map_err(at("/run"))
    }
}

/// The state of the lab is nobody's business in a container, but for the registry in that of the
/// name server.
fn state(lab: &Label, registry: bool) -> nix::Result<()> {
    let shown = if registry {
        store::registry(lab)
    } else {
        PathBuf::from(EMPTY)
    };
    mount(Some(&shown), RUN_DIRECTORY, NONE, MsFlags::MS_BIND, NONE)?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    // A kernel may refuse it of a mount that is not this user's own.
    let made = mount(NONE, RUN_DIRECTORY, NONE, read_only, NONE);
    tracing::debug!(?made, "a read-only /run");
    Ok(())
}

/// A root whose folders are those of `rootfs`, with all that a container must have.
fn own_root(rootfs: &Path) -> Result<PathBuf, (String, io::Error)> {
    let root = PathBuf::from(STAGE);
    new_root(&root).map_err(|error| ("root".to_string(), error.into()))?;
    compose(rootfs, &root)?;
    for folder in ["/proc", "/sys", "/tmp", VOLUME] {
        folder_at(&root, folder)?;
    }
    // The image's own is a plain folder at best, and nobody may make devices in it.
    let devices = folder_at(&root, "/dev")?;
    new_root(&devices).map_err(|error| ("/dev".to_string(), error.into()))?;
    folder_at(&devices, "shm")?;
    for name in DEVICES {
        let (source, target) = (Path::new("/dev").join(name), devices.join(name));
        let made = File::create(&target);
        let bound = made.and_then(|_| {
            mount(Some(&source), &target, NONE, MsFlags::MS_BIND, NONE).map_err(io::Error::from)
        });
        tracing::debug!(?target, ?bound, "a device");
    }
    for (name, target) in [
        ("fd", "fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        let link = std::os::unix::fs::symlink(format!("/proc/self/{target}"), devices.join(name));
        tracing::debug!(name, ?link, "a device");
    }
    Ok(root)
}

/// The kernel's own file systems.
fn system(root: &Path) -> Result<(), (&'static str, nix::Error)> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let proc = root.join("proc");
    mount(Some("proc"), &proc, Some("proc"), safe, NONE).map_err(|error| ("/proc", error))?;
    enter::mount_sys(&root.join("sys"));
    Ok(())
}

/// What the containers of a pod have in common.
fn shared(root: &Path, files: &Path) -> Result<(), (String, nix::Error)> {
    let bind = |name: &str, target: &str| {
        let target = root.join(target.trim_start_matches('/'));
        mount(Some(&files.join(name)), &target, NONE, MsFlags::MS_BIND, NONE)
    };
    for name in ["hostname", "hosts", "resolv.conf"] {
        // A root without the file has nobody who reads it.
        let mounted = bind(name, &format!("/etc/{name}"));
        tracing::debug!(name, ?mounted, "the pod's file");
    }
    // Absent on a host where nobody has shared memory.
    let mounted = bind(store::SHM, "/dev/shm");
    tracing::debug!(?mounted, "the pod's shared memory");
    bind(store::VOLUME, view::VOLUME).map_err(|error| ("volume".to_string(), error))
}
