//! Other miniproxies on this node.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use labkit::rundir::network_namespace;

/// The processes that run `miniproxy sync --watch` in this network namespace.
///
/// Asked of `/proc` and not of a file: a watcher that was killed leaves no wrong answer behind.
pub fn watchers() -> Vec<u32> {
    let Ok(here) = network_namespace() else {
        return Vec::new();
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    processes
        .filter(|process| *process != std::process::id())
        .filter(|process| watches(Path::new(&format!("/proc/{process}")), here))
        .collect()
}

fn watches(process: &Path, node: u64) -> bool {
    let command = fs::read(process.join("cmdline")).unwrap_or_default();
    let mut words = command.split(|byte| *byte == 0);
    let ours = words
        .next()
        .is_some_and(|program| program.ends_with(b"miniproxy"));
    let same_node = || fs::metadata(process.join("ns/net")).is_ok_and(|found| found.ino() == node);
    ours && words.any(|word| word == b"--watch") && same_node()
}
