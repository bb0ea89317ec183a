//! `netns-lab logs`: what a container said.

use std::fs::File;
use std::io::{IsTerminal as _, Read as _};
use std::thread;
use std::time::Duration;

use labkit::text::printable;
use labkit::{Failure, Outcome, shell};

use super::find;
use crate::cli::LogsArgs;
use crate::edge::store;
use crate::model::name::Label;

/// How often `--follow` looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// Runs `logs`.
pub(super) fn run(args: &LogsArgs) -> Result<Outcome, Failure> {
    let (ledger, record) = find::pod(args.name.as_ref(), &args.pod)?;
    let name = match &args.container {
        Some(name) => {
            find::container(&record, name)?;
            name.clone()
        }
        None => find::container_names(&record)
            .into_iter()
            .next()
            .unwrap_or_else(Label::app),
    };
    let path = store::log(&ledger.lab.name, &record.pod.spec.name, &name);
    let failed = |error: std::io::Error| Failure::failed(format!("cannot read {}: {error}", path.display()));
    let mut file = File::open(&path).map_err(failed)?;
    loop {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let text = String::from_utf8_lossy(&bytes);
        if std::io::stdout().is_terminal() {
            shell::emit(&harmless(&text))?;
        } else {
            shell::emit(&text)?;
        }
        if !args.follow || !path.exists() {
            return Ok(Outcome::Done);
        }
        thread::sleep(INTERVAL);
    }
}

/// What an app wrote may hold what a client sent it, and must not steer a terminal.
fn harmless(text: &str) -> String {
    let words = text.split_inclusive(['\n', '\t']);
    let safe = words.map(|word| match word.strip_suffix(['\n', '\t']) {
        Some(plain) => printable(plain).into_owned() + &word[plain.len()..],
        None => printable(word).into_owned(),
    });
    safe.collect()
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn tabs_stay_and_escapes_are_written_out() {
        assert_eq!(harmless("a\tb\u{1b}[31m\n\tc"), "a\tb\\u{1b}[31m\n\tc");
    }
}
