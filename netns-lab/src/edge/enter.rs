//! Goes into a pod and becomes another program there.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use labkit::{Failure, Outcome, shell};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};

const NONE: Option<&str> = None;

/// What a shell exits with when a command is not found.
const NOT_FOUND: u8 = 127;
/// What a shell exits with when a command cannot be run.
const NOT_EXECUTABLE: u8 = 126;

/// What a process in a pod sees of its pod.
pub struct Surroundings<'a> {
    /// The pod's network namespace.
    pub namespace: File,
    /// Its hostname.
    pub hostname: &'a str,
    /// The folder with its `hosts` and `resolv.conf`.
    pub files: &'a Path,
}

/// Moves this process, which has a single thread, into a pod.
pub fn enter(pod: &Surroundings) -> Result<(), Failure> {
    let failed = |what: &str| {
        let message = format!("cannot enter the pod {}: {what}", pod.hostname);
        move |error: Errno| {
            let failure = Failure::failed(format!("{message}: {error}"));
            if error == Errno::EPERM {
                failure.hint("use sudo")
            } else {
                failure
            }
        }
    };
    setns(&pod.namespace, CloneFlags::CLONE_NEWNET).map_err(failed("its network namespace"))?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS).map_err(failed("new namespaces"))?;
    nix::unistd::sethostname(pod.hostname).map_err(failed("its hostname"))?;
    // Mounts made from here on stay here; those that the host makes later still arrive.
    mount(NONE, "/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE).map_err(failed("private mounts"))?;
    mount_sys();
    for name in ["hosts", "resolv.conf"] {
        let target = Path::new("/etc").join(name);
        // A host without the file has nobody who reads it.
        let mounted = mount(Some(&pod.files.join(name)), &target, NONE, MsFlags::MS_BIND, NONE);
        tracing::debug!(?target, ?mounted, "the pod's file");
    }
    Ok(())
}

/// `/sys/class/net` shows the links of the namespace that was current when it was mounted.
fn mount_sys() {
    let read_only = statvfs("/sys").is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY));
    let _ = umount2("/sys", MntFlags::MNT_DETACH);
    let flags = if read_only {
        MsFlags::MS_RDONLY
    } else {
        MsFlags::empty()
    };
    // A container may forbid it; then /sys tells of the node, and nothing else is amiss.
    let mounted = mount(Some("sysfs"), "/sys", Some("sysfs"), flags, NONE);
    tracing::debug!(?mounted, "sysfs of the pod");
}

/// Becomes the command. Comes back only if that is impossible, with a shell's exit code.
pub fn become_command(command: &[OsString]) -> Result<Outcome, Failure> {
    let words = command
        .iter()
        .map(|word| CString::new(word.as_bytes()))
        .collect::<Result<Vec<_>, _>>();
    let words = words.map_err(|_| Failure::usage("a word of the command holds a NUL byte"))?;
    let Some(program) = words.first() else {
        return Err(Failure::usage("no command was given"));
    };
    let error: Errno = match nix::unistd::execvp(program, &words) {
        Err(error) => error,
        Ok(never) => match never {},
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(not_started(&command[0], &path, &error.into()))
}

/// Tells why a command could not be started, as a shell would: 127 when there is none.
pub fn not_started(program: &OsStr, path: &OsStr, error: &io::Error) -> Outcome {
    // A folder on PATH that may not be read makes the kernel speak of permissions, though the
    // command is nowhere.
    let bare = Path::new(program).components().count() == 1 && !program.as_bytes().contains(&b'/');
    let nowhere = bare && !std::env::split_paths(path).any(|folder| folder.join(program).is_file());
    let missing = nowhere || error.kind() == io::ErrorKind::NotFound;
    let (why, code) = if missing {
        ("command not found".to_string(), NOT_FOUND)
    } else {
        (error.to_string(), NOT_EXECUTABLE)
    };
    let name = program.to_string_lossy();
    shell::tell(&format!("error: {}: {why}", labkit::text::printable(&name)));
    Outcome::Code(code)
}

/// The caller's shell, or the one that is everywhere.
pub fn shell_command() -> Vec<OsString> {
    let shell = std::env::var_os("SHELL").filter(|shell| Path::new(shell).is_file());
    vec![shell.unwrap_or_else(|| OsStr::new("/bin/sh").to_os_string())]
}
