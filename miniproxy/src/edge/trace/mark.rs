//! The rules that make the kernel trace one connection.

use std::net::SocketAddr;
use std::path::PathBuf;

use labkit::rundir::{Record, RunDirectory};
use labkit::xtables::{Family, Xtables};
use labkit::{Failure, footprint, tool};

/// Who has rules in the table `raw`, in the record of what was there before.
const HOLDER: &str = "miniproxy-trace";
/// How the comment of each such rule begins; the process id follows.
const COMMENT: &str = "miniproxy-trace:";

/// The rules of one connection; gone when this is dropped.
pub struct Mark {
    program: PathBuf,
    save: PathBuf,
    rules: Vec<Vec<String>>,
}

impl Mark {
    /// Marks the first way and the way back of one connection.
    ///
    /// # Errors
    /// When the rules are refused; none is left then.
    pub fn set(
        xtables: &Xtables,
        family: Family,
        protocol: &str,
        source: SocketAddr,
        destination: SocketAddr,
        from_node: bool,
    ) -> Result<Self, Failure> {
        let run = RunDirectory::lock()?;
        sweep(xtables, family)?;
        footprint::hold_in(&run, Record::Traced, HOLDER)?;
        let mut mark = Self {
            program: xtables.iptables(family),
            save: xtables.save(family),
            rules: Vec::new(),
        };
        let (there, back) = if from_node {
            ("OUTPUT", "PREROUTING")
        } else {
            ("PREROUTING", "PREROUTING")
        };
        let comment = format!("{COMMENT}{}", std::process::id());
        let end = |chain: &str, ends: [(&str, String); 4]| -> Vec<String> {
            let mut words = vec![chain.to_string(), "-p".into(), protocol.into()];
            for (option, value) in ends {
                if !value.is_empty() {
                    words.extend([option.to_string(), value]);
                }
            }
            words.extend(["-m", "comment", "--comment", &comment, "-j", "TRACE"].map(String::from));
            words
        };
        let there = end(
            there,
            [
                ("-s", source.ip().to_string()),
                ("-d", destination.ip().to_string()),
                ("--sport", source.port().to_string()),
                ("--dport", destination.port().to_string()),
            ],
        );
        // Who will answer is not known yet; the port is this connection's own.
        let back = end(
            back,
            [
                ("-s", String::new()),
                ("-d", source.ip().to_string()),
                ("--sport", String::new()),
                ("--dport", source.port().to_string()),
            ],
        );
        // The last one comes to stand first: it is the one that a reader looks for.
        for rule in [back, there] {
            tool::run_ok(&mark.program, &words("-I", &rule), None)
                .map_err(|failure| failure.context("cannot mark the connection"))?;
            mark.rules.push(rule);
            labkit::fault::point("trace:marked");
        }
        Ok(mark)
    }
}

fn words(command: &str, rule: &[String]) -> Vec<String> {
    let head = ["-w", "5", "-t", "raw", command].map(String::from);
    head.into_iter().chain(rule.iter().cloned()).collect()
}

impl Drop for Mark {
    fn drop(&mut self) {
        let Ok(run) = RunDirectory::lock() else {
            return;
        };
        for rule in &self.rules {
            if let Err(failure) = tool::run_ok(&self.program, &words("-D", rule), None) {
                tracing::warn!("{failure}");
            }
        }
        if left(&self.save).is_empty() {
            let _ = footprint::release_in(&run, Record::Traced, HOLDER);
        }
    }
}

/// Removes what traces that were killed left behind.
///
/// # Errors
/// When such a rule cannot be removed.
pub fn clean(flavours: &[Xtables], run: &RunDirectory) -> Result<(), Failure> {
    let mut rest = 0;
    for xtables in flavours {
        for family in Family::ALL {
            sweep(xtables, family)?;
            rest += left(&xtables.save(family)).len();
        }
    }
    // The record is needed until the last rule is gone.
    if rest == 0 {
        footprint::release_in(run, Record::Traced, HOLDER)?;
    }
    Ok(())
}

fn sweep(xtables: &Xtables, family: Family) -> Result<(), Failure> {
    let program = xtables.iptables(family);
    for rule in left(&xtables.save(family)) {
        let owner = word_after(&rule, "--comment")
            .and_then(|comment| comment.strip_prefix(COMMENT)?.parse::<u32>().ok());
        let alive = owner.is_some_and(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists());
        if alive {
            continue;
        }
        let mut words = ["-w", "5", "-t", "raw", "-D"].map(String::from).to_vec();
        words.extend(rule.iter().skip(1).cloned());
        tool::run_ok(&program, &words, None)
            .map_err(|failure| failure.context("a killed trace left a rule behind"))?;
    }
    Ok(())
}

fn word_after<'a>(words: &'a [String], option: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| word == option)?;
    words.get(at + 1).map(|word| word.trim_matches('"'))
}

/// The rules of traces in the table `raw`, in words.
fn left(save: &std::path::Path) -> Vec<Vec<String>> {
    // Asked for one table, iptables-legacy would make it; all tables that are there make none.
    let none: [&str; 0] = [];
    let output = tool::run_ok(save, &none, None).unwrap_or_default();
    let text = String::from_utf8_lossy(&output).into_owned();
    let mut is_raw = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(table) = line.strip_prefix('*') {
            is_raw = table == "raw";
        }
        if is_raw && line.starts_with("-A ") && line.contains(COMMENT) {
            found.push(
                line.split_whitespace()
                    .map(|word| word.trim_matches('"').to_string())
                    .collect(),
            );
        }
    }
    found
}
