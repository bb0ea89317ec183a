//! The state under `/run/netns-lab`: ledgers, registries, logs, and what labs share.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use labkit::rundir::RUN_DIRECTORY;
use labkit::{Failure, files};
use serde::{Deserialize, Serialize};

use super::process;
use crate::model::container::APP;
use crate::model::ledger::{Ledger, ProcessId, VERSION};
use crate::model::name::Label;
use crate::model::name_server;
use crate::model::{object, stamp};

/// The folder of one lab.
pub fn lab_directory(lab: &Label) -> PathBuf {
    Path::new(RUN_DIRECTORY).join(lab.as_str())
}

/// The registry of a lab.
pub fn registry(lab: &Label) -> PathBuf {
    lab_directory(lab).join("registry")
}

/// The log of a container; the app's bears the name of the pod alone.
pub fn log(lab: &Label, pod: &Label, container: &Label) -> PathBuf {
    let file = if container.as_str() == APP {
        format!("{pod}.log")
    } else {
        format!("{pod}.{container}.log")
    };
    lab_directory(lab).join("logs").join(file)
}

/// Among a pod's files, the folder that its containers see as `/dev/shm`.
pub const SHM: &str = "shm";
/// Among a pod's files, the folder that its containers see as `/volume`.
pub const VOLUME: &str = "volume";

/// Among a pod's files, the one in which the first process of a container leaves its exit code.
fn exit_file(lab: &Label, pod: &Label, container: &Label) -> PathBuf {
    pod_files(lab, pod).join(format!("exit.{container}"))
}

/// Opens that file, which the process cannot reach by its name later.
pub fn open_exit_file(lab: &Label, pod: &Label, container: &Label) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(exit_file(lab, pod, container))
}

/// The exit code that a container has left, if it has.
pub fn exit_code(lab: &Label, pod: &Label, container: &Label) -> Option<u8> {
    let text = fs::read_to_string(exit_file(lab, pod, container)).ok()?;
    text.trim().parse().ok()
}

/// Forgets what the process before has left.
pub fn forget_exit_code(lab: &Label, pod: &Label, container: &Label) -> Result<(), Failure> {
    let path = exit_file(lab, pod, container);
    files::remove_if_there(&path).map_err(|error| unwritable(&path, &error))
}

/// Where the view of this lab's containers is put together.
pub fn stage(lab: &Label) -> PathBuf {
    lab_directory(lab).join("stage")
}

/// The roots that were unpacked for a pod's containers.
pub fn roots(lab: &Label, pod: &Label) -> PathBuf {
    lab_directory(lab).join("roots").join(pod.as_str())
}

/// The files that a pod sees as `/etc/hosts` and the like.
pub fn pod_files(lab: &Label, pod: &Label) -> PathBuf {
    lab_directory(lab).join("pods").join(pod.as_str())
}

/// The same for a namespace that is not a pod's. A dot is in no pod's name.
pub fn host_files(lab: &Label, namespace: &str) -> PathBuf {
    lab_directory(lab).join("pods").join(format!(".{namespace}"))
}

fn ledger_path(lab: &Label) -> PathBuf {
    lab_directory(lab).join("ledger.json")
}

/// The labs that are up, by name.
///
/// # Errors
/// `HostLacks` when the directory may not be read.
pub fn labs() -> Result<Vec<Label>, Failure> {
    let entries = match fs::read_dir(RUN_DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(Path::new(RUN_DIRECTORY), &error)),
    };
    let names = entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut labs: Vec<_> = names.filter_map(|name| Label::new(&name).ok()).collect();
    labs.retain(|lab| lab_directory(lab).is_dir());
    labs.sort();
    Ok(labs)
}

/// The ledger of a lab; `None` when it is not up, or died before it had one.
pub fn ledger(lab: &Label) -> Result<Option<Ledger>, Failure> {
    let path = ledger_path(lab);
    let Some(text) = read_if_there(&path)? else {
        return Ok(None);
    };
    let mut ledger: Ledger = serde_json::from_slice(&text).map_err(|error| {
        Failure::failed(format!("{} is damaged: {error}", path.display())).hint(format!(
            "`netns-lab down {lab}` removes what can be recognised without it"
        ))
    })?;
    if ledger.version == VERSION {
        forget_the_dead(&mut ledger);
        Ok(Some(ledger))
    } else {
        Err(Failure::failed(format!(
            "{} has the version {}, not {VERSION}",
            path.display(),
            ledger.version
        ))
        .hint(format!(
            "take it down with the version of netns-lab that made it; `netns-lab down {lab}` of this one \
             removes what it recognises"
        )))
    }
}

/// What a command has begun that has died is anybody's to finish, and what this one has begun, its
/// own.
fn forget_the_dead(ledger: &mut Ledger) {
    let lives = |ender: &ProcessId| process::own() != Some(*ender) && process::runs(*ender);
    for record in &mut ledger.pods {
        record.ender = record.ender.filter(lives);
    }
}

/// What can be told of a lab whose ledger cannot be read: its node's namespace, if the file says at
/// least that, and the names of its pods.
pub fn remains(lab: &Label) -> (Option<u64>, BTreeSet<Label>) {
    let text = fs::read(ledger_path(lab)).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let files = |folder: &str| {
        let entries = fs::read_dir(lab_directory(lab).join(folder));
        entries.into_iter().flatten().filter_map(Result::ok)
    };
    let pods = files("registry").chain(files("logs")).filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let pod = name
            .strip_suffix(".pod.json")
            .or_else(|| name.strip_suffix(".log"))?;
        Label::new(pod.split('.').next()?).ok()
    });
    (value["nodeNamespace"].as_u64(), pods.collect())
}

/// Writes the ledger. Nothing may be made before this says so.
pub fn write_ledger(ledger: &Ledger) -> Result<(), Failure> {
    write_json(&ledger_path(&ledger.lab.name), ledger)
}

/// Makes the folders of a lab.
pub fn make_lab_directory(lab: &Label) -> Result<(), Failure> {
    let folder = lab_directory(lab);
    for path in [
        folder.clone(),
        folder.join("registry"),
        folder.join("logs"),
        folder.join("pods"),
        folder.join("roots"),
        stage(lab),
    ] {
        files::private_directory(&path)
            .map_err(|error| Failure::host_lacks(format!("cannot use {}: {error}", path.display())))?;
    }
    Ok(())
}

/// Removes the folder of a lab with all that is in it; the ledger goes last.
pub fn remove_lab_directory(lab: &Label) -> Result<(), Failure> {
    let folder = lab_directory(lab);
    let failed = |error: io::Error| Failure::failed(format!("cannot remove {}: {error}", folder.display()));
    for part in ["registry", "logs", "pods", "roots"] {
        match fs::remove_dir_all(folder.join(part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// The files of a registry with their content; those that cannot be read are left out.
pub fn registry_files(lab: &Label) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(registry(lab))
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let names = names.filter(|name| {
        Path::new(name).extension().is_some_and(|end| end == "json") && !name.starts_with('.')
    });
    names
        .filter_map(|name| {
            fs::read(registry(lab).join(&name))
                .ok()
                .map(|content| (name, content))
        })
        .collect()
}

/// Whether any file of these holds a Service.
pub fn has_service(files: &BTreeMap<String, Vec<u8>>) -> bool {
    let mut candidates = files.iter().filter(|(name, _)| !is_generated(name));
    candidates.any(|(_, content)| object::holds_a_service(content))
}

/// Files that the lab wrote hold no Service of the user's; parsing a thousand of them would take its
/// time.
fn is_generated(name: &str) -> bool {
    name.ends_with(".pod.json") || name.ends_with(".node.json") || name == name_server::SERVICE_FILE
}

/// Writes one object to a registry.
pub fn publish(lab: &Label, file: &str, content: &[u8]) -> Result<(), Failure> {
    let path = registry(lab).join(file);
    files::write_atomically(&path, content, 0o644).map_err(|error| unwritable(&path, &error))
}

/// Writes one of the lab's own objects to a registry, with the time at which it was made.
pub fn publish_own(lab: &Label, file: &str, content: &[u8]) -> Result<(), Failure> {
    let before = fs::read(registry(lab).join(file)).ok();
    publish(
        lab,
        file,
        &stamp::stamped(content, before.as_deref(), &super::now()),
    )
}

/// Removes one object from a registry.
pub fn withdraw(lab: &Label, file: &str) -> Result<(), Failure> {
    let path = registry(lab).join(file);
    files::remove_if_there(&path).map_err(|error| unwritable(&path, &error))
}

/// Writes the files that a pod sees in `/etc`; those that are so already are left.
pub fn write_pod_files(folder: &Path, pod_files: &[(&str, String)]) -> Result<(), Failure> {
    files::private_directory(folder).map_err(|error| unwritable(folder, &error))?;
    for (name, content) in pod_files {
        let path = folder.join(name);
        if fs::read(&path).ok().as_deref() != Some(content.as_bytes()) {
            write_in_place(&path, content.as_bytes()).map_err(|error| unwritable(&path, &error))?;
        }
    }
    Ok(())
}

fn write_in_place(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)?;
    io::Write::write_all(&mut file, content)
}

/// Makes the folders and files that the containers of a pod share.
///
/// Containers have the files bound into theirs, so that each keeps its inode and changes in place.
pub fn prepare_pod(lab: &Label, pod: &Label, pod_files: &[(&str, String)]) -> Result<(), Failure> {
    let folder = pod_files_folder(lab, pod)?;
    for name in [SHM, VOLUME] {
        let path = folder.join(name);
        match fs::DirBuilder::new().create(&path) {
            Ok(()) => fs::set_permissions(&path, fs::Permissions::from_mode(0o1777))
                .map_err(|error| unwritable(&path, &error))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(unwritable(&path, &error)),
        }
    }
    write_pod_files(&folder, pod_files)
}

fn pod_files_folder(lab: &Label, pod: &Label) -> Result<PathBuf, Failure> {
    let folder = pod_files(lab, pod);
    files::private_directory(&folder).map_err(|error| unwritable(&folder, &error))?;
    Ok(folder)
}

/// Opens the log of a container to append to it.
pub fn open_log(lab: &Label, pod: &Label, container: &Label) -> Result<File, Failure> {
    let path = log(lab, pod, container);
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&path);
    opened.map_err(|error| unwritable(&path, &error))
}

/// Forgets a container's log, root and exit code.
pub fn forget_container(lab: &Label, pod: &Label, container: &Label) -> Result<(), Failure> {
    let path = log(lab, pod, container);
    files::remove_if_there(&path).map_err(|error| unwritable(&path, &error))?;
    forget_exit_code(lab, pod, container)?;
    remove_folder(&roots(lab, pod).join(container.as_str()))
}

fn remove_folder(path: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unwritable(path, &error)),
        _ => Ok(()),
    }
}

/// Forgets a pod's logs, files and roots.
pub fn forget_pod<'a>(
    lab: &Label,
    pod: &Label,
    containers: impl Iterator<Item = &'a Label>,
) -> Result<(), Failure> {
    for container in containers {
        forget_container(lab, pod, container)?;
    }
    remove_folder(&pod_files(lab, pod))?;
    remove_folder(&roots(lab, pod))
}

/// What labs share: what the first one changed and the last one must put back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shared {
    /// Settings before we changed them, for each node by the inode of its namespace, in the order
    /// in which they are put back.
    #[serde(default)]
    pub settings: BTreeMap<u64, Vec<(String, String)>>,
    /// We mounted `/run/netns` on itself; true if we also made the directory.
    #[serde(default)]
    pub netns_directory: Option<bool>,
    /// We loaded `br_netfilter`.
    #[serde(default)]
    pub loaded_bridge_netfilter: bool,
    /// Controllers of control groups that we switched on.
    #[serde(default)]
    pub controllers: Vec<String>,
}

fn shared_path() -> PathBuf {
    Path::new(RUN_DIRECTORY).join(".host.json")
}

/// Reads what labs share.
pub fn shared() -> Result<Shared, Failure> {
    let path = shared_path();
    let Some(text) = read_if_there(&path)? else {
        return Ok(Shared::default());
    };
    serde_json::from_slice(&text)
        .map_err(|error| Failure::failed(format!("{} is damaged: {error}", path.display())))
}

/// Writes what labs share, or removes the file when that is nothing.
pub fn write_shared(shared: &Shared) -> Result<(), Failure> {
    let path = shared_path();
    if *shared == Shared::default() {
        // A command that was killed while it wrote has left this beside it.
        let half = path.with_file_name("..host.json.new");
        files::remove_if_there(&half).map_err(|error| unwritable(&half, &error))?;
        return files::remove_if_there(&path).map_err(|error| unwritable(&path, &error));
    }
    write_json(&path, shared)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_vec(value).map_err(|error| Failure::failed(error.to_string()))?;
    files::write_atomically(path, &text, 0o600).map_err(|error| unwritable(path, &error))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot read {}: {error}", path.display());
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Failure::host_lacks(message).hint("a lab is its owner's only: use sudo");
    }
    Failure::failed(message)
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", path.display()))
}
