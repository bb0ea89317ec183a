//! Every input that once broke a target, and every seed, through its target.

use std::fs;
use std::path::{Path, PathBuf};

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}

#[test]
fn what_once_broke_a_target_breaks_it_no_more() {
    let regressions = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    for (name, target) in miniproxy_fuzz::TARGETS {
        for file in files(&regressions.join(name)) {
            eprintln!("{}", file.display());
            target(&fs::read(&file).expect("a file of the repository"));
        }
    }
}

#[test]
fn the_recorded_cases_hold() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/recorded");
    let mut ran = 0;
    for file in files(&recorded).iter().flat_map(|case| files(case)) {
        let name = file.file_name().expect("a file").to_string_lossy();
        let target = match name.split('.').next() {
            Some("registry") => miniproxy_fuzz::registry,
            Some("config") => miniproxy_fuzz::config,
            Some("expect") => miniproxy_fuzz::dump,
            _ => continue,
        };
        eprintln!("{}", file.display());
        target(&fs::read(&file).expect("a file of the repository"));
        ran += 1;
    }
    assert!(ran > 200, "only {ran} files were found");
}
