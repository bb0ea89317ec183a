//! The kernel's tables, read by iptables-save and written by one iptables-restore for each family.

use std::fmt::Display;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use labkit::xtables::{Family, Flavour, Xtables, legacy_tables_exist};
use labkit::{Failure, Kind, tool};
use nix::libc::SIGKILL;

use crate::rules::fixed::CANARY;
use crate::rules::parse;
use crate::rules::set::{Found, TableName};

/// Seconds to wait for another program's xtables lock. As kube-proxy.
const LOCK_SECONDS: &str = "5";

/// A write of all rules takes seconds, a minute on a slow machine; one that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(180);

/// What is asked of a kernel's tables.
pub trait Tables {
    /// All chains of a family; `None` when this host cannot do the family at all. Rules that are as
    /// in `like` are shared with it.
    ///
    /// # Errors
    /// When they cannot be listed, or not understood.
    fn read(&self, family: Family, like: Option<&Found>) -> Result<Option<Found>, Failure>;

    /// Writes one `iptables-restore --noflush` document: each table of it whole or not at all.
    ///
    /// # Errors
    /// When any line was refused.
    fn write(&self, family: Family, document: &impl Display) -> Result<(), Failure>;

    /// Whether the chain is there that only goes when somebody removes all rules; `None` when that
    /// cannot be told now. As kube-proxy's monitor asks.
    fn has_canary(&self) -> Option<bool>;
}

impl Tables for Xtables {
    fn read(&self, family: Family, like: Option<&Found>) -> Result<Option<Found>, Failure> {
        let program = self.save(family);
        if family == Family::V6 && !(program.exists() && kernel_has_ipv6()) {
            return Ok(None);
        }
        // Without a list of its tables legacy can only be asked for each by name.
        if self.flavour == Flavour::Legacy && legacy_tables_exist(family).is_none() {
            let mut found = Found::default();
            for table in TableName::ALL {
                found
                    .tables
                    .extend(dump(&program, &["-t", table.name()], like)?.tables);
            }
            return Ok(Some(found));
        }
        dump(&program, &[], like).map(Some)
    }

    fn write(&self, family: Family, document: &impl Display) -> Result<(), Failure> {
        tracing::trace!(family = family.name(), "iptables-restore reads:\n{document}");
        let program = self.restore(family);
        let args = ["-w", LOCK_SECONDS, "--noflush"];
        let output = started(tool::run_within(&program, &args, document, LONGEST))?;
        if output.status.success() {
            return Ok(());
        }
        let mut words = tool::complaint(&program, &args, &output);
        if let Some(line) = refused_line(&words, &document.to_string()) {
            words.push_str(&format!("\nthat line is: {line}"));
        }
        if output.status.signal() == Some(SIGKILL) {
            return Err(Failure::failed(words).hint("is memory short? see: sudo dmesg | tail"));
        }
        Err(explained(words).hint("see what was sent: miniproxy sync --dry-run"))
    }

    fn has_canary(&self) -> Option<bool> {
        let args = ["-w", LOCK_SECONDS, "-t", "mangle", "-S", CANARY];
        let output = tool::run(&self.program, &args, None).ok()?;
        match output.status.code() {
            Some(0) => Some(true),
            Some(1) => Some(false),
            // The lock was held, or resources were short.
            _ => None,
        }
    }
}

/// What a save program prints, understood as it comes: a large dump is never held as text.
fn dump(program: &Path, args: &[&str], like: Option<&Found>) -> Result<Found, Failure> {
    let mut reader = parse::Reader::new(like);
    let mut wrong = None;
    let output = started(tool::run_by_line(program, args, |line| {
        let read = reader.line(&String::from_utf8_lossy(line));
        wrong = wrong.take().or(read.err());
    }))?;
    if !output.status.success() {
        return Err(explained(tool::complaint(program, args, &output)));
    }
    let found = match wrong {
        Some(error) => Err(error),
        None => reader.finish(),
    };
    found.map_err(|error| Failure::failed(format!("cannot understand {}: {error}", program.display())))
}

/// The line of the document that a complaint is about: it names the Service.
fn refused_line<'a>(words: &str, document: &'a str) -> Option<&'a str> {
    let after = ["Error occurred at line: ", "line "]
        .into_iter()
        .find_map(|sign| {
            let found = words.match_indices(sign).map(|(at, _)| &words[at + sign.len()..]);
            found.into_iter().find_map(|rest| {
                let digits = rest
                    .find(|letter: char| !letter.is_ascii_digit())
                    .unwrap_or(rest.len());
                rest[..digits].parse::<usize>().ok()
            })
        })?;
    let line = document.lines().nth(after.checked_sub(1)?)?;
    // Where a whole table is refused, its end is named.
    (line != "COMMIT").then_some(line)
}

/// Adds what to do when a program that stands beside `iptables` is not there.
fn started(output: Result<Output, Failure>) -> Result<Output, Failure> {
    output.map_err(|failure| match failure.kind() {
        Kind::HostLacks => failure.hint(tool::install_hint("iptables")),
        _ => failure,
    })
}

/// A kernel that was built or booted without IPv6 has no such file.
fn kernel_has_ipv6() -> bool {
    Path::new("/proc/thread-self/net/if_inet6").exists()
}

/// What iptables-save prints, with `-c` its counters as well, below a line that tells the family;
/// nothing for a family that is not here.
///
/// # Errors
/// When the IPv4 tables cannot be listed.
pub fn saved(xtables: &Xtables, family: Family, args: &[&str]) -> Result<String, Failure> {
    let program = xtables.save(family);
    if family == Family::V6 && !program.exists() {
        return Ok(String::new());
    }
    // Asked for its list, legacy would make the tables.
    if xtables.flavour == Flavour::Legacy && legacy_tables_exist(family) == Some(false) {
        return Ok(String::new());
    }
    let output = started(tool::run(&program, args, None))?;
    if !output.status.success() {
        if family == Family::V6 {
            return Ok(String::new());
        }
        return Err(explained(tool::complaint(&program, args, &output))
            .hint("or ask about a dump, which needs no root: --rules node.save"));
    }
    let program = match family {
        Family::V4 => "iptables-save",
        Family::V6 => "ip6tables-save",
    };
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(format!("# Generated by {program}\n{text}"))
}

/// Whether a write failed for the lock of the tables, which another program held.
pub fn holds_lock(failure: &Failure) -> bool {
    failure.message().contains("xtables lock")
}

/// Adds what the usual complaints of iptables mean.
pub fn explained(words: String) -> Failure {
    let says = |part: &str| words.contains(part);
    if says("Permission denied") || says("must be root") || says("Operation not permitted") {
        return Failure::host_lacks(words).hint("run as root (sudo), or inside `netns-lab sandbox`");
    }
    // iptables asks for a larger buffer as root can (SO_SNDBUFFORCE) or not at all; then the default
    // counts, and not net.core.wmem_max.
    if says("Message too long") {
        return Failure::failed(words).hint(
            "the kernel takes less at once from a plain user: sudo sysctl -w net.core.wmem_default=16777216",
        );
    }
    if says("xtables lock") {
        let hint = format!("another program held the xtables lock for more than {LOCK_SECONDS} s: try again");
        return Failure::failed(words).hint(hint);
    }
    for (word, module) in [
        ("statistic", "xt_statistic"),
        ("recent", "xt_recent"),
        ("conntrack", "xt_conntrack"),
        ("comment", "xt_comment"),
        ("nfacct", "xt_nfacct"),
    ] {
        if says(&format!("Couldn't load match `{word}'")) || says(&format!("Extension {word} revision")) {
            return Failure::host_lacks(words)
                .hint(format!("the kernel lacks a module: sudo modprobe {module}"));
        }
    }
    Failure::failed(words)
}

/// Every flavour whose programs are here, for a cleanup that finds rules wherever they are.
pub fn every_flavour() -> Vec<Xtables> {
    let names = [
        (Flavour::Nft, "iptables-nft"),
        (Flavour::Legacy, "iptables-legacy"),
    ];
    let found = names.into_iter().filter_map(|(flavour, name)| {
        let program = tool::find(name)?;
        Some(Xtables {
            flavour,
            program,
            reason: String::new(),
            mixed: false,
        })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_told_with_the_line_that_it_is_about() {
        let document = "*nat\n-A X -j Y\nCOMMIT\n";
        for (words, line) in [
            (
                "iptables-restore v1.8.9 (nf_tables): Couldn't load match `x'\nError occurred at line: 2",
                Some("-A X -j Y"),
            ),
            (
                "line 2: RULE_APPEND failed (Invalid argument): rule in chain X",
                Some("-A X -j Y"),
            ),
            ("iptables-restore: line 3 failed", None),
            ("line 99 failed", None),
            ("it said nothing", None),
        ] {
            assert_eq!(refused_line(words, document), line, "{words}");
        }
    }
}
