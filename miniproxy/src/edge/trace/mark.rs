//! The rules that make the kernel trace one connection.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use labkit::rundir::{Record, RunDirectory};
use labkit::xtables::{Family, Xtables};
use labkit::{Failure, footprint, tool};

use super::logger;
use super::owner::Owner;
use crate::journey::MARK as COMMENT;

/// Who has rules in the table `raw`, in the record of what was there before.
const HOLDER: &str = "miniproxy-trace";

/// Which packets are to be traced on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The caller's address and port.
    pub source: SocketAddr,
    /// Whether the caller is this node itself.
    pub from_here: bool,
    /// Ports of backends. Where the source may be rewritten, to a port that nobody knows before, first
    /// packets between them and addresses of nodes are traced, whoever sends them.
    pub ports: BTreeSet<u16>,
    /// The addresses of nodes, one of which may be written as the source.
    pub nodes: BTreeSet<IpAddr>,
}

impl Wanted {
    /// The rules without their comment and target, the one that a reader looks for last.
    fn matches(&self) -> Vec<String> {
        let (protocol, port) = (self.protocol, self.source.port());
        let ip = self.source.ip();
        let mut found = Vec::new();
        let (opens, answers) = match protocol {
            "tcp" => (" --tcp-flags SYN,ACK,RST SYN", " --tcp-flags SYN,ACK,RST SYN,ACK"),
            _ => ("", ""),
        };
        for number in &self.ports {
            for node in &self.nodes {
                found.push(format!(
                    "PREROUTING -d {node} -p {protocol} --sport {number}{answers}"
                ));
                found.push(format!(
                    "PREROUTING -s {node} -p {protocol} --dport {number}{opens}"
                ));
            }
        }
        found.push(format!("PREROUTING -d {ip} -p {protocol} --dport {port}"));
        let chain = if self.from_here { "OUTPUT" } else { "PREROUTING" };
        found.push(format!("{chain} -s {ip} -p {protocol} --sport {port}"));
        found
    }
}

/// The rules of one connection; gone when this is dropped.
pub struct Mark {
    xtables: Xtables,
    family: Family,
    rules: Vec<String>,
}

impl Mark {
    /// Marks the first way and the way back of one connection.
    ///
    /// # Errors
    /// When the rules are refused; none is left then.
    pub fn set(xtables: &Xtables, family: Family, wanted: &Wanted) -> Result<Self, Failure> {
        let run = RunDirectory::lock()?;
        sweep(xtables, family)?;
        footprint::hold_in(&run, Record::Traced, HOLDER)?;
        let comment = format!("{COMMENT}{}", Owner::own());
        let rules = wanted
            .matches()
            .into_iter()
            .map(|rule| format!("{rule} -m comment --comment {comment} -j TRACE"))
            .collect();
        let mut mark = Self {
            xtables: xtables.clone(),
            family,
            rules,
        };
        let done = restore(xtables, family, "-I", &mark.rules);
        if done.is_err() {
            // All or nothing: what was refused is nowhere.
            mark.rules.clear();
        }
        done.map_err(|failure| failure.context("cannot mark the connection"))?;
        labkit::fault::point("trace:marked");
        Ok(mark)
    }
}

/// All of it, or nothing.
fn restore(xtables: &Xtables, family: Family, command: &str, rules: &[String]) -> Result<(), Failure> {
    let lines: Vec<String> = rules.iter().map(|rule| format!("{command} {rule}")).collect();
    let document = format!("*raw\n{}\nCOMMIT\n", lines.join("\n"));
    let words = ["--noflush", "-w", "5"];
    tool::run_ok(&xtables.restore(family), &words, Some(document.as_bytes())).map(|_| ())
}

impl Drop for Mark {
    fn drop(&mut self) {
        let Ok(run) = RunDirectory::lock() else {
            return;
        };
        if !self.rules.is_empty() && restore(&self.xtables, self.family, "-D", &self.rules).is_err() {
            // Somebody took one of them: the others go one by one.
            for rule in &self.rules {
                if let Err(failure) = restore(&self.xtables, self.family, "-D", std::slice::from_ref(rule)) {
                    tracing::warn!("{failure}");
                }
            }
        }
        if left(&self.xtables.save(self.family)).is_empty() {
            let _ = footprint::release_in(&run, Record::Traced, HOLDER);
        }
    }
}

/// Removes what traces that were killed left behind, and puts back what they set.
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
    logger::sweep(run)?;
    // The record is needed until the last rule is gone.
    if rest == 0 {
        footprint::release_in(run, Record::Traced, HOLDER)?;
    }
    Ok(())
}

fn sweep(xtables: &Xtables, family: Family) -> Result<(), Failure> {
    let program: PathBuf = xtables.iptables(family);
    for rule in left(&xtables.save(family)) {
        let owner = word_after(&rule, "--comment")
            .and_then(|comment| comment.strip_prefix(COMMENT)?.parse::<Owner>().ok());
        if owner.is_some_and(Owner::lives) {
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
