//! Settings of the kernel, each a file under `/proc/sys`.

use std::fs;
use std::io;
use std::path::PathBuf;

use labkit::Failure;

/// The file of a setting: `net.ipv4.ip_forward`, or with slashes where a link's name has a dot.
fn path(key: &str) -> PathBuf {
    let relative = if key.contains('/') {
        key.to_string()
    } else {
        key.replace('.', "/")
    };
    PathBuf::from("/proc/sys").join(relative)
}

/// The value, without the newline; `None` when the kernel has no such setting.
pub fn read(key: &str) -> Option<String> {
    fs::read_to_string(path(key))
        .ok()
        .map(|text| text.trim_end().to_string())
}

/// Sets a value.
pub fn write(key: &str, value: &str) -> Result<(), Failure> {
    fs::write(path(key), value).map_err(|error| {
        let failure = Failure::host_lacks(format!("cannot set {key} to {value}: {error}"));
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                failure.hint("/proc/sys is read-only here (a container?): try `netns-lab sandbox`")
            }
            _ => failure,
        }
    })
}

/// The settings that a write to `net.ipv4.ip_forward` changes besides it, with their values.
///
/// The kernel (`inet_forward_change`) sets `forwarding` of `default` and of every link, and
/// `accept_redirects` of `all`.
pub fn followers_of_ip_forward() -> Vec<(String, String)> {
    let links = fs::read_dir("/proc/sys/net/ipv4/conf")
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let links = links.filter_map(|entry| entry.file_name().into_string().ok());
    let mut keys: Vec<_> = links
        .filter(|link| link != "all")
        .map(|link| format!("net/ipv4/conf/{link}/forwarding"))
        .collect();
    keys.push("net/ipv4/conf/all/accept_redirects".into());
    keys.sort();
    keys.into_iter()
        .filter_map(|key| read(&key).map(|value| (key, value)))
        .collect()
}

/// Sets a value if it is another one; a link's setting is gone with the link, which is fine.
pub fn restore(key: &str, value: &str) -> Result<(), Failure> {
    match read(key) {
        None => Ok(()),
        Some(now) if now == value => Ok(()),
        Some(_) => write(key, value),
    }
}
