//! Others on this node that write the same rules.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use labkit::rundir::network_namespace;

/// The processes that run `miniproxy sync --watch` in this network namespace.
///
/// Asked of `/proc` and not of a file: a watcher that was killed leaves no wrong answer behind.
pub fn watchers() -> Vec<u32> {
    running(|words| {
        let ours = words
            .first()
            .is_some_and(|program| program.ends_with(b"miniproxy"));
        ours && words.contains(&b"--watch".as_slice())
    })
}

/// The processes that run kube-proxy in this network namespace.
pub fn kube_proxies() -> Vec<u32> {
    running(|words| {
        let program = words.first().copied().unwrap_or_default();
        program.rsplit(|byte| *byte == b'/').next() == Some(b"kube-proxy")
    })
}

/// The other processes in this network namespace whose command line `is` so.
fn running(is: impl Fn(&[&[u8]]) -> bool) -> Vec<u32> {
    let Ok(here) = network_namespace() else {
        return Vec::new();
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_meant = |process: &u32| {
        let folder = PathBuf::from(format!("/proc/{process}"));
        let command = fs::read(folder.join("cmdline")).unwrap_or_default();
        let same_node = || fs::metadata(folder.join("ns/net")).is_ok_and(|found| found.ino() == here);
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        is(&words) && same_node()
    };
    processes
        .filter(|process| *process != std::process::id())
        .filter(is_meant)
        .collect()
}
