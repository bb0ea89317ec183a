//! Reads a dump of iptables-save.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// No dump is as large: ten thousand Services with three endpoints are some 25 MB.
pub const LARGEST: u64 = 512 << 20;

/// The bytes of a file or a pipe.
///
/// # Errors
/// When it cannot be read, or does not end.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is larger than 512 MiB",
        ));
    }
    Ok(bytes)
}
