//! Reads the configuration file.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use labkit::Failure;

/// More than any configuration has; who names a device or a disk image by mistake is told at once.
const LARGEST: u64 = 1 << 20;

/// The text of the file; what it says is not looked at.
///
/// # Errors
/// `Usage` when there is no such file, or it holds no text, or too much.
pub fn read(path: &Path) -> Result<String, Failure> {
    let cannot = |what: &str| {
        Failure::usage(format!("cannot read {}: {what}", path.display())).hint(
            "expected kube-proxy's configuration: kubectl -n kube-system get configmap kube-proxy -o yaml",
        )
    };
    let file = File::open(path).map_err(|error| cannot(&error.to_string()))?;
    let mut bytes = Vec::new();
    let mut part = file.take(LARGEST + 1);
    part.read_to_end(&mut bytes)
        .map_err(|error| cannot(&error.to_string()))?;
    if bytes.len() as u64 > LARGEST {
        return Err(cannot("it is larger than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| cannot("it is not UTF-8 text"))
}
