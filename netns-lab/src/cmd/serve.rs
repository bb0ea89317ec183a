//! `netns-lab serve`: the app in a pod.

use labkit::{Failure, Outcome, shell};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::container;
use crate::app::{Identity, serve};
use crate::cli::ServeArgs;
use crate::edge::stdio;
use crate::engine::launch;

/// Runs `serve`.
pub(super) fn run(args: &ServeArgs) -> Result<Outcome, Failure> {
    // A session of its own: a Ctrl-C at the terminal of `up` is not meant for it.
    let _ = nix::unistd::setsid();
    container::leaving_code(&args.lab, &args.pod, &args.inside, || app(args))
}

fn app(args: &ServeArgs) -> Result<Outcome, Failure> {
    more_files();
    container::furnish(&args.lab, &args.pod, &args.inside)?;
    let words: Vec<_> = args.listen.iter().map(ToString::to_string).collect();
    let said = format!("{} ({}) answers on {}", args.pod, args.ip, words.join(", "));
    let identity = Identity {
        pod: args.pod.clone(),
        ip: args.ip,
        version: args.app_version.clone(),
    };
    serve::serve(identity, &args.listen, || {
        // Not before: ports below 1024 are root's to listen on.
        container::credentials(&args.inside).take_on()?;
        shell::tell(&said);
        stdio::tell_starter(&launch::word(&args.pod, &args.inside.container))
    })
}

/// A connection is a file, and the usual limit is 1024 of them.
fn more_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Without it the app serves fewer at a time; it does not fail.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
