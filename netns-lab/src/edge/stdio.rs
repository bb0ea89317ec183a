//! How a container's first process tells whoever started it that it runs.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;

use labkit::Failure;
use nix::sys::stat::SFlag;

/// Whoever started this process as a container gave it a pipe as stdin, and waits for a word.
pub fn tell_starter(word: &str) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    let is_pipe = nix::sys::stat::fstat(&stdin)
        .is_ok_and(|found| SFlag::from_bits_truncate(found.st_mode).contains(SFlag::S_IFIFO));
    if !is_pipe {
        return Ok(());
    }
    let failed = |error: std::io::Error| Failure::failed(format!("cannot tell that it is ready: {error}"));
    let mut pipe = File::from(stdin.as_fd().try_clone_to_owned().map_err(failed)?);
    // A pipe to read from (`echo | netns-lab serve`) is nobody who waits.
    let _ = pipe.write_all(format!("{word}\n").as_bytes());
    let null = File::open("/dev/null").map_err(failed)?;
    nix::unistd::dup2_stdin(&null).map_err(|error| failed(error.into()))
}
