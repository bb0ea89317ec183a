//! The lab's few iptables rules, by the iptables program.

use std::error::Error;
use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;

use iptables::IPTables;
use labkit::xtables::{Family, Xtables};
use labkit::{Failure, fault, tool};

use crate::model::rule::Rule;

/// Seconds to wait for the lock that iptables-legacy programs share.
const LOCK_WAIT: &str = "-w 10";

/// A way to the rules of this network namespace.
pub struct Rules {
    v4: IPTables,
    v6: IPTables,
}

impl Rules {
    /// By this iptables program, of whichever flavour, and its sibling for IPv6.
    pub fn new(program: &Path) -> Self {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let sibling = program.with_file_name(name.replacen("iptables", "ip6tables", 1));
        Self {
            v4: way(program),
            v6: way(&sibling),
        }
    }

    fn program(&self, family: Family) -> &IPTables {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Those of these rules that stand.
    pub fn standing(&self, rules: &[Rule]) -> Result<Vec<Rule>, Failure> {
        let listed = by_table(rules, |rules| {
            let Some(first) = rules.first() else {
                return Ok(Vec::new());
            };
            let list = format!("-S {} {LOCK_WAIT}", first.chain);
            let output = self
                .program(first.family)
                .execute(first.table, &list)
                .map_err(|error| told("list the rules", &*error))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(complaint("list the rules", said.trim()));
            }
            let lines = String::from_utf8_lossy(&output.stdout).into_owned();
            let stands = |rule: &&Rule| lines.lines().any(|line| line == rule.listed());
            Ok(rules.iter().filter(stands).cloned().collect())
        });
        Ok(listed?.into_iter().flatten().collect())
    }

    /// Adds rules that are not there; those of one table one after another, tables at once.
    pub fn add(&self, rules: &[Rule]) -> Result<(), Failure> {
        by_table(rules, |rules| {
            // Each goes before the one added before it.
            for rule in rules.iter().rev() {
                self.add_one(rule)?;
                fault::point("up:rule");
            }
            Ok(())
        })
        .map(|_| ())
    }

    /// Appends rules that are not there by one process for each family, on a node that has no rules
    /// of others that ours would have to be before.
    pub fn append(&self, rules: &[Rule]) -> Result<(), Failure> {
        for rules in rules.chunk_by(|a, b| a.family == b.family) {
            let family = rules.first().map_or(Family::V4, |rule| rule.family);
            self.restore(family, rules, "-A")?;
            fault::point("up:rule");
        }
        Ok(())
    }

    /// Adds or removes rules of one family in one transaction for each table.
    fn restore(&self, family: Family, rules: &[Rule], verb: &str) -> Result<(), Failure> {
        let mut input = String::new();
        for rules in rules.chunk_by(|a, b| a.table == b.table) {
            input.push_str(&format!("*{}\n", rules.first().map_or("", |rule| rule.table)));
            let lines = rules
                .iter()
                .map(|rule| format!("{verb} {} {}\n", rule.chain, rule.spec));
            input.extend(lines);
            input.push_str("COMMIT\n");
        }
        let program = format!("{}-restore", self.program(family).cmd);
        tool::run_ok(
            Path::new(&program),
            &["--noflush", "-w", "10"],
            Some(input.as_bytes()),
        )
        .map(|_| ())
    }

    fn add_one(&self, rule: &Rule) -> Result<(), Failure> {
        let spec = format!("{} {LOCK_WAIT}", rule.spec);
        let added = if rule.goes_first() {
            self.program(rule.family).insert(rule.table, rule.chain, &spec, 1)
        } else {
            self.program(rule.family).append(rule.table, rule.chain, &spec)
        };
        added.map_err(|error| told(&format!("add a rule to {} {}", rule.table, rule.chain), &*error))
    }

    /// Removes rules; one that is not there is removed already.
    pub fn remove(&self, rules: &[Rule]) -> Result<(), Failure> {
        if self.remove_together(rules) {
            return Ok(());
        }
        by_table(rules, |rules| {
            for rule in rules {
                self.remove_one(rule)?;
                fault::point("down:rule");
            }
            Ok(())
        })
        .map(|_| ())
    }

    /// Removes all by one process, if all are there: each process costs a wait for the kernel.
    fn remove_together(&self, rules: &[Rule]) -> bool {
        let removed = self.restore(Family::V4, rules, "-D");
        tracing::debug!(?removed, "removing the rules together");
        removed.is_ok()
    }

    fn remove_one(&self, rule: &Rule) -> Result<(), Failure> {
        let spec = format!("{} {LOCK_WAIT}", rule.spec);
        let Err(error) = self.program(rule.family).delete(rule.table, rule.chain, &spec) else {
            return Ok(());
        };
        match self.standing(std::slice::from_ref(rule)) {
            Ok(standing) if standing.is_empty() => Ok(()),
            _ => Err(told(
                &format!("remove a rule from {} {}", rule.table, rule.chain),
                &*error,
            )),
        }
    }
}

fn way(program: &Path) -> IPTables {
    // The crate wants a text that lives for ever; there are two for each run of a command and node.
    let cmd: &'static str = Box::leak(program.to_string_lossy().into_owned().into_boxed_str());
    IPTables {
        cmd,
        has_check: true,
        // It would wait without an end; our rules carry a limit of their own.
        has_wait: false,
        is_numeric: true,
    }
}

/// Whether any rule of this network namespace sends packets to one of these addresses.
pub fn lead_to(program: &Path, addresses: &[Ipv4Addr]) -> Result<bool, Failure> {
    let save = format!("{}-save", program.display());
    let saved = tool::run_ok(Path::new(&save), &["-t", "nat"], None)?;
    let saved = String::from_utf8_lossy(&saved);
    let mut targets = saved.lines().filter_map(|line| {
        let (_, target) = line.split_once("--to-destination ")?;
        target.split([':', ' ']).next()?.parse::<Ipv4Addr>().ok()
    });
    Ok(targets.any(|target| addresses.contains(&target)))
}

/// Removes the rules that carry a lab's mark, by a program that prints them; whatever they say.
pub fn remove_marked(xtables: &Xtables, mark: &str) -> Result<(), Failure> {
    let mark = format!("--comment \"{mark}\"");
    let saved = tool::run_ok::<&str>(&xtables.save(Family::V4), &[], None)?;
    let saved = String::from_utf8_lossy(&saved);
    let (mut input, mut found) = (String::new(), false);
    for line in saved.lines() {
        match line.strip_prefix("-A ") {
            Some(rule) if rule.contains(&mark) => {
                found = true;
                input.push_str(&format!("-D {rule}\n"));
            }
            _ if line.starts_with('*') || line == "COMMIT" => input.push_str(&format!("{line}\n")),
            _ => {}
        }
    }
    if !found {
        return Ok(());
    }
    let words = ["--noflush", "-w", "10"];
    tool::run_ok(&xtables.restore(Family::V4), &words, Some(input.as_bytes())).map(|_| ())
}

/// Does something for the rules of each table, on a thread for each: an iptables process takes
/// longer than making a pod.
fn by_table<T: Send>(
    rules: &[Rule],
    work: impl Fn(&[Rule]) -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    let same = |a: &Rule, b: &Rule| (a.family, a.table) == (b.family, b.table);
    let tables: Vec<_> = rules.chunk_by(same).collect();
    thread::scope(|scope| {
        let workers: Vec<_> = tables.iter().map(|rules| scope.spawn(|| work(rules))).collect();
        workers.into_iter().map(super::joined).collect()
    })
}

fn told(doing: &str, error: &dyn Error) -> Failure {
    complaint(doing, error.to_string().trim())
}

fn complaint(doing: &str, said: &str) -> Failure {
    let message = format!("cannot {doing}: iptables said: {said}");
    if said.contains("must be root") || said.contains("Operation not permitted") {
        return Failure::host_lacks(message).hint("run as root (sudo), or inside `netns-lab sandbox`");
    }
    let lacks = [
        "Table does not exist",
        "Permission denied",
        "No such file",
        "Could not fetch",
    ];
    if lacks.iter().any(|words| said.contains(words)) {
        return Failure::host_lacks(message).hint("`netns-lab doctor` tells which kernel feature is missing");
    }
    Failure::failed(message)
}
