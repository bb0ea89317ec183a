//! `netns-lab serve`: the app in a pod.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;

use labkit::{Failure, Outcome, shell};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::SFlag;

use crate::app::{Identity, serve};
use crate::cli::ServeArgs;
use crate::edge::privilege;

/// Runs `serve`.
pub(super) fn run(args: &ServeArgs) -> Result<Outcome, Failure> {
    // A session of its own: a Ctrl-C at the terminal of `up` is not meant for it.
    let _ = nix::unistd::setsid();
    more_files();
    let words: Vec<_> = args.listen.iter().map(ToString::to_string).collect();
    let said = format!("{} ({}) answers on {}", args.pod, args.ip, words.join(", "));
    let identity = Identity {
        pod: args.pod.clone(),
        ip: args.ip,
    };
    serve::serve(identity, &args.listen, || {
        // Not before: ports below 1024 are root's to listen on.
        privilege::drop_all()?;
        shell::tell(&said);
        tell_starter(args.pod.as_str())
    })
}

/// A connection is a file, and the usual limit is 1024 of them.
fn more_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Without it the app serves fewer at a time; it does not fail.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Whoever started this process as a pod's app gave it a pipe as stdin, and waits for a word.
fn tell_starter(pod: &str) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    let is_pipe = nix::sys::stat::fstat(&stdin)
        .is_ok_and(|found| SFlag::from_bits_truncate(found.st_mode).contains(SFlag::S_IFIFO));
    if !is_pipe {
        return Ok(());
    }
    let failed = |error: std::io::Error| Failure::failed(format!("cannot tell that it is ready: {error}"));
    let mut pipe = File::from(stdin.as_fd().try_clone_to_owned().map_err(failed)?);
    // A pipe to read from (`echo | netns-lab serve`) is nobody who waits.
    let _ = pipe.write_all(format!("{pod}\n").as_bytes());
    let null = File::open("/dev/null").map_err(failed)?;
    nix::unistd::dup2_stdin(&null).map_err(|error| failed(error.into()))
}
