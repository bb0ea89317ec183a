//! Limits of containers: control groups, version 2.
//!
//! All groups are under one folder of ours, one for each limited container. They are removed with
//! the container; controllers that had to be switched on for them are switched off with the last.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use labkit::Failure;
use nix::unistd::{AccessFlags, access};

use super::store;
use crate::model::container::ContainerSpec;
use crate::model::name::Label;

/// Our folder in the hierarchy.
const TOP: &str = "netns-lab";

/// The period in which time is handed out, in microseconds.
const PERIOD: u64 = 100_000;

/// Where the hierarchy of version 2 is mounted, if it is.
///
/// Looked for until it is found, and then no more: each pod's name is a line of the table, and each container asks.
fn mount_point() -> Option<PathBuf> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if FOUND.get().is_none() {
        let _ = FOUND.set(look_for_mount()?);
    }
    FOUND.get().cloned()
}

fn look_for_mount() -> Option<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mut lines = table.lines();
    lines.find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ")
            .then(|| place.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// Whether limits can be set here; else why not.
pub fn can_limit() -> Result<(), String> {
    let mount = mount_point().ok_or("no cgroup2 is mounted")?;
    obstacle(&mount, &["cpu", "memory"]).map_or(Ok(()), Err)
}

/// Fails where a container cannot be given its limits. Nothing is changed: whoever asks has not
/// written down anything yet.
pub fn check(container: &ContainerSpec) -> Result<(), Failure> {
    if !container.is_limited() {
        return Ok(());
    }
    let mount = mount_point().ok_or_else(|| lacking("no cgroup2 is mounted"))?;
    let why = obstacle(&mount, &controllers(container));
    why.map_or(Ok(()), |why| Err(lacking(&why)))
}

/// What stands in the way of these controllers for groups of ours.
fn obstacle(mount: &Path, wanted: &[&str]) -> Option<String> {
    let read = |file: &str| fs::read_to_string(mount.join(file)).unwrap_or_default();
    let (all, on) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let has = |list: &str, name: &str| list.split_ascii_whitespace().any(|word| word == name);
    let place = mount.display();
    if let Some(name) = wanted.iter().find(|name| !has(&all, name)) {
        return Some(format!("{place} has no controller {name}"));
    }
    let writable = |path: &Path| access(path, AccessFlags::W_OK);
    if let Err(error) = writable(mount) {
        return Some(format!("{place}: {}", error.desc()));
    }
    let missing = wanted.iter().find(|name| !has(&on, name))?;
    if let Err(error) = writable(&mount.join("cgroup.subtree_control")) {
        return Some(format!("{place}/cgroup.subtree_control: {}", error.desc()));
    }
    // Only the very root of the hierarchy has no type, and may have both processes and controllers.
    let inner = mount.join("cgroup.type").exists();
    (inner && !read("cgroup.procs").is_empty())
        .then(|| format!("{place} has processes of its own, and cannot hand on the controller {missing}"))
}

fn controllers(container: &ContainerSpec) -> Vec<&'static str> {
    let mut wanted = Vec::new();
    wanted.extend(container.cpu.as_ref().map(|_| "cpu"));
    wanted.extend(container.memory.as_ref().map(|_| "memory"));
    wanted
}

/// The failure of a host that cannot limit.
fn lacking(why: &str) -> Failure {
    Failure::host_lacks(format!("this host cannot limit containers: {why}"))
        .hint("leave --cpu and --memory out (in files: a container's limits)")
        .hint("limits take cgroup2 with its controllers, and root outside of a sandbox")
}

/// The group of a container.
fn group(mount: &Path, lab: &Label, pod: &Label, container: &Label) -> PathBuf {
    mount
        .join(TOP)
        .join(lab.as_str())
        .join(format!("{pod}.{container}"))
}

/// Makes the group of a container with its limits; `None` if it has none.
pub fn make(lab: &Label, pod: &Label, container: &ContainerSpec) -> Result<Option<PathBuf>, Failure> {
    if !container.is_limited() {
        return Ok(None);
    }
    let mount = mount_point().ok_or_else(|| lacking("no cgroup2 is mounted"))?;
    let wanted = controllers(container);
    offer(&mount, &wanted)?;
    let path = group(&mount, lab, pod, &container.name);
    let failed = |error: io::Error| lacking(&format!("{}: {error}", path.display()));
    fs::create_dir_all(&path).map_err(failed)?;
    for folder in [mount.join(TOP), mount.join(TOP).join(lab.as_str())] {
        enable(&folder, &wanted).map_err(failed)?;
    }
    if let Some(cpu) = &container.cpu {
        let share = u64::from(cpu.value()) * PERIOD / 1000;
        fs::write(path.join("cpu.max"), format!("{share} {PERIOD}")).map_err(failed)?;
    }
    if let Some(memory) = &container.memory {
        fs::write(path.join("memory.max"), memory.value().to_string()).map_err(failed)?;
        // Without this it would be slowed down by swapping instead of ended; not all hosts have it.
        let _ = fs::write(path.join("memory.swap.max"), "0");
    }
    Ok(Some(path))
}

/// Sees to it that the controllers are there for our folder, and writes down which were not.
fn offer(mount: &Path, wanted: &[&str]) -> Result<(), Failure> {
    let read = |file: &str| fs::read_to_string(mount.join(file)).unwrap_or_default();
    let (all, on) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let has = |list: &str, name: &str| list.split_ascii_whitespace().any(|word| word == name);
    for name in wanted {
        if !has(&all, name) {
            return Err(lacking(&format!("{} has no controller {name}", mount.display())));
        }
        if !has(&on, name) {
            let mut shared = store::shared()?;
            if !shared.controllers.iter().any(|known| known == name) {
                shared.controllers.push((*name).to_string());
                store::write_shared(&shared)?;
            }
            enable(mount, &[name]).map_err(|error| lacking(&error.to_string()))?;
        }
    }
    Ok(())
}

fn enable(folder: &Path, controllers: &[&str]) -> io::Result<()> {
    let words: Vec<_> = controllers.iter().map(|name| format!("+{name}")).collect();
    fs::write(folder.join("cgroup.subtree_control"), words.join(" "))
}

/// Puts this process into a group.
pub fn join(group: &Path) -> Result<(), Failure> {
    fs::write(group.join("cgroup.procs"), "0")
        .map_err(|error| Failure::failed(format!("cannot join {}: {error}", group.display())))
}

/// Removes the group of a container whose processes have ended.
pub fn remove(lab: &Label, pod: &Label, container: &Label) -> Result<(), Failure> {
    match mount_point() {
        Some(mount) => remove_folder(&group(&mount, lab, pod, container)),
        None => Ok(()),
    }
}

/// Removes all groups of a lab, and with the last lab all that is ours.
pub fn remove_all(lab: &Label) -> Result<(), Failure> {
    let Some(mount) = mount_point() else {
        return Ok(());
    };
    let top = mount.join(TOP);
    let folder = top.join(lab.as_str());
    let entries = fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok);
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_folder(&entry.path())?;
    }
    remove_folder(&folder)?;
    // Another lab may still need it.
    if fs::remove_dir(&top).is_ok() {
        let mut shared = store::shared()?;
        for name in std::mem::take(&mut shared.controllers) {
            let _ = fs::write(mount.join("cgroup.subtree_control"), format!("-{name}"));
        }
        store::write_shared(&shared)?;
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<(), Failure> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::failed(format!(
            "cannot remove the control group {}: {error}",
            folder.display()
        ))),
        _ => Ok(()),
    }
}
