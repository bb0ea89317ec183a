//! Where the programs under test and the tools of the tests are.

use std::env;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Folders with the system's tools, which the `PATH` of a plain user often lacks.
pub const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `netns-lab`: `$NETNS_LAB_BIN`, else beside the test's own executable.
pub fn netns_lab() -> PathBuf {
    ours("netns-lab", "NETNS_LAB_BIN")
}

/// `miniproxy`: `$MINIPROXY_BIN`, else beside the test's own executable.
pub fn miniproxy() -> PathBuf {
    ours("miniproxy", "MINIPROXY_BIN")
}

/// `lab-helper`, the part of this harness that runs inside machines.
pub fn helper() -> PathBuf {
    ours("lab-helper", "LAB_HELPER_BIN")
}

/// The repository's folder.
///
/// # Panics
/// When the tests were moved away from it.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the repository")
        .to_path_buf()
}

/// A tool of the system.
///
/// # Panics
/// When it is missing. A test that skipped itself would look like one that passed.
pub fn tool(name: &str) -> PathBuf {
    SYSTEM_PATH
        .split(':')
        .map(|folder| Path::new(folder).join(name))
        .find(|path| is_program(path))
        .unwrap_or_else(|| panic!("{name} is missing: run ./scripts/setup --tests"))
}

fn ours(name: &str, variable: &str) -> PathBuf {
    if let Some(path) = env::var_os(variable) {
        let path = PathBuf::from(path);
        assert!(is_program(&path), "{variable}={} is no program", path.display());
        return path;
    }
    let me = env::current_exe().expect("a running program has a path");
    let folder = me.parent().expect("a file lies in a folder");
    // target/PROFILE/deps/e2e-HASH for a test, target/PROFILE/lab-helper for a helper.
    let found = [folder.parent(), Some(folder)]
        .into_iter()
        .flatten()
        .map(|folder| folder.join(name))
        .find(|path| is_program(path));
    found.unwrap_or_else(|| {
        panic!(
            "{name} was not found beside {}: run `cargo build --workspace` (or ./scripts/test), or set {variable}",
            folder.display()
        )
    })
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
