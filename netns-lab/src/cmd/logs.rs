//! `netns-lab logs`: what a pod's app said.

use std::fs::File;
use std::io::Read as _;
use std::thread;
use std::time::Duration;

use labkit::text::printable;
use labkit::{Failure, Outcome, shell};

use super::find;
use crate::cli::LogsArgs;
use crate::edge::store;

/// How often `--follow` looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// Runs `logs`.
pub(super) fn run(args: &LogsArgs) -> Result<Outcome, Failure> {
    let (ledger, record) = find::pod(args.name.as_ref(), &args.pod)?;
    let path = store::log(&ledger.lab.name, &record.pod.spec.name);
    let failed = |error: std::io::Error| Failure::failed(format!("cannot read {}: {error}", path.display()));
    let mut file = File::open(&path).map_err(failed)?;
    loop {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let text = String::from_utf8_lossy(&bytes);
        // What an app wrote may hold what a client sent it.
        let lines = text
            .split_inclusive('\n')
            .map(|line| match line.strip_suffix('\n') {
                Some(line) => format!("{}\n", printable(line)),
                None => printable(line).into_owned(),
            });
        shell::emit(&lines.collect::<String>())?;
        if !args.follow || !path.exists() {
            return Ok(Outcome::Done);
        }
        thread::sleep(INTERVAL);
    }
}
