//! Follows a `miniproxy sync --watch`: replaces files of its registry and times how long it takes
//! until the kernel has the rules. It runs inside a machine, as `lab-helper changes`, reads a plan
//! and prints what it measured, both as JSON.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::chains::Chains;
use crate::cost::{Stat, peak_mib, to_pid};
use crate::run::wait;

/// How often to look.
const LOOK: Duration = Duration::from_micros(200);
/// The longest wait for one change.
const LIMIT: Duration = Duration::from_secs(20);
/// So many in vain, and the rest are not made.
const ENOUGH: usize = 2;
/// Nor are they after so long.
const SERIES: Duration = Duration::from_secs(60);

/// Runs the plan: `argv` of the watcher, the `dispatch` chain's uses or the `names` on stdout that
/// tell that the first sync is done, its `limit` in seconds, `series` of changes, and for how many
/// seconds at most the watcher may `rest` before each of them.
///
/// # Errors
/// When a file cannot be replaced, the watcher ends by itself, or the kernel does not answer.
pub fn run(plan: &Value) -> io::Result<Value> {
    let rest = Duration::from_secs(plan["rest"].as_u64().unwrap_or(0));
    let mut watcher = Watcher::start(&plan["argv"], rest)?;
    let mut eye = Eye::open(plan)?;
    let began = Instant::now();
    let limit = Duration::from_secs(plan["limit"].as_u64().unwrap_or(0));
    let none = Vec::new();
    let wanted = plan["services"].as_u64().unwrap_or(0);
    while !eye.first_sync_done(&watcher, wanted)? {
        watcher.must_run()?;
        if began.elapsed() > limit {
            return Ok(json!({ "first": null, "series": [] }));
        }
        thread::sleep(Duration::from_millis(20));
    }
    let first = began.elapsed().as_secs_f64();
    let mut measured = Vec::new();
    for series in plan["series"].as_array().unwrap_or(&none) {
        measured.push(run_series(&mut watcher, &mut eye, series)?);
    }
    Ok(json!({ "first": first, "series": measured }))
}

/// One series of changes: each after the other is done, or one every `gap` ms. Of those that were
/// made, `ms` has the times, and null for one that was never seen.
fn run_series(watcher: &mut Watcher, eye: &mut Eye, series: &Value) -> io::Result<Value> {
    let none = Vec::new();
    let changes = series["changes"].as_array().unwrap_or(&none);
    let gap = series["gap"].as_u64().map(Duration::from_millis);
    watcher.rest();
    let (before, mut due) = (watcher.cpu(), Instant::now());
    let end = due + SERIES;
    let mut took: Vec<Option<f64>> = Vec::new();
    let mut pending: Vec<(usize, Mark)> = Vec::new();
    let mut missed = 0;
    loop {
        let next = changes.get(took.len()).filter(|change| may_begin(change));
        let next = next.filter(|_| missed < ENOUGH && Instant::now() < end);
        if next.is_none() && pending.is_empty() {
            break;
        }
        let turn = Instant::now() >= due && (gap.is_some() || pending.is_empty());
        if let Some(change) = next.filter(|_| turn) {
            if gap.is_none() {
                watcher.rest();
            }
            pending.push((took.len(), eye.mark(watcher)?));
            apply(change)?;
            took.push(None);
            due += gap.unwrap_or_default();
        }
        watcher.must_run()?;
        let mut waiting = Vec::new();
        for (index, mark) in pending {
            if eye.sees(watcher, &changes[index], mark)? {
                took[index] = Some(mark.at.elapsed().as_secs_f64() * 1e3);
            } else if mark.at.elapsed() > LIMIT {
                missed += 1;
            } else {
                waiting.push((index, mark));
            }
        }
        pending = waiting;
        thread::sleep(LOOK);
    }
    watcher.rest();
    Ok(json!({ "ms": took, "cpu": watcher.cpu() - before, "peak": watcher.peak() }))
}

/// A Service that was not added cannot be removed.
fn may_begin(change: &Value) -> bool {
    change["content"].is_string()
        || change["file"]
            .as_str()
            .is_some_and(|file| Path::new(file).exists())
}

/// Moves a file over another one in one step, or removes it.
fn apply(change: &Value) -> io::Result<()> {
    let file = change["file"].as_str().unwrap_or_default();
    match change["content"].as_str() {
        Some(content) => fs::rename(content, file),
        None => fs::remove_file(file),
    }
}

/// When a change was made, and what the watcher had said and written by then.
#[derive(Clone, Copy)]
struct Mark {
    at: Instant,
    lines: usize,
    generation: u32,
}

/// How to see that a change has come to the kernel.
enum Eye {
    /// nf_tables tells what uses a chain.
    Kernel(Chains),
    /// The legacy tables cannot be asked cheaply: the watcher's word is taken for it.
    Lines,
}

impl Eye {
    fn open(plan: &Value) -> io::Result<Self> {
        if plan["flavour"] != "nft" {
            return Ok(Self::Lines);
        }
        Ok(Self::Kernel(Chains::open()?))
    }

    fn first_sync_done(&mut self, watcher: &Watcher, services: u64) -> io::Result<bool> {
        match self {
            Self::Kernel(chains) => {
                // The jumps from PREROUTING and OUTPUT lead to it, and its last rule to KUBE-NODEPORTS.
                let uses = chains.uses("KUBE-SERVICES")?;
                Ok(uses.is_some_and(|uses| u64::from(uses) >= services + 3))
            }
            Self::Lines => Ok(watcher.count_since(0, "bench/") as u64 >= services),
        }
    }

    fn mark(&mut self, watcher: &Watcher) -> io::Result<Mark> {
        let generation = match self {
            Self::Kernel(chains) => chains.generation()?,
            Self::Lines => 0,
        };
        let lines = watcher.lines.lock().expect("nobody panics with it").len();
        let at = Instant::now();
        Ok(Mark {
            at,
            lines,
            generation,
        })
    }

    fn sees(&mut self, watcher: &Watcher, change: &Value, mark: Mark) -> io::Result<bool> {
        let text = |key: &str| change[key].as_str().unwrap_or_default();
        match self {
            Self::Kernel(chains) => {
                // A transaction counts jumps before it is in force; then the generation is another.
                if chains.generation()? == mark.generation {
                    return Ok(false);
                }
                let uses = chains.uses(text("chain"))?.map(u64::from);
                Ok(match change["content"] {
                    Value::Null => uses.is_none_or(|uses| Some(uses) < change["uses"].as_u64()),
                    _ => uses >= change["uses"].as_u64(),
                })
            }
            Self::Lines => Ok(watcher.count_since(mark.lines, text("says")) > 0),
        }
    }
}

/// A running `miniproxy sync --watch`, ended when this is dropped.
struct Watcher {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    rest: Duration,
}

impl Watcher {
    fn start(argv: &Value, rest: Duration) -> io::Result<Self> {
        let none = Vec::new();
        let words: Vec<&str> = argv
            .as_array()
            .unwrap_or(&none)
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let [program, words @ ..] = words.as_slice() else {
            return Err(io::Error::other("the plan names no watcher"));
        };
        let mut child = Command::new(program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let into = Arc::clone(&lines);
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                into.lock().expect("nobody panics with it").push(line);
            }
        });
        Ok(Self { child, lines, rest })
    }

    fn must_run(&mut self) -> io::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(io::Error::other(format!("the watcher has ended: {status}"))),
        }
    }

    /// Lines that hold this text, from that one on.
    fn count_since(&self, first: usize, text: &str) -> usize {
        let lines = self.lines.lock().expect("nobody panics with it");
        lines[first..].iter().filter(|line| line.contains(text)).count()
    }

    /// CPU seconds of itself and the programs it has waited for.
    fn cpu(&self) -> f64 {
        Stat::of(self.child.id()).map_or(0.0, |stat| stat.all)
    }

    fn peak(&self) -> Option<f64> {
        peak_mib(self.child.id())
    }

    /// Waits until it has nothing running and takes little of the CPU, but not for ever.
    fn rest(&self) {
        const LOOK: Duration = Duration::from_millis(200);
        let end = Instant::now() + self.rest;
        let mut before = self.cpu();
        while Instant::now() < end {
            thread::sleep(LOOK);
            let now = self.cpu();
            if !self.has_children() && now - before < LOOK.as_secs_f64() / 2.0 {
                return;
            }
            before = now;
        }
    }

    fn has_children(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        tasks.into_iter().flatten().flatten().any(|task| {
            fs::read_to_string(task.path().join("children")).is_ok_and(|found| !found.trim().is_empty())
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = kill(to_pid(self.child.id()), Signal::SIGTERM);
        if wait(&mut self.child, Instant::now() + Duration::from_secs(10)).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A watcher that says a line for each file that goes.
    #[test]
    fn changes_are_timed_by_what_the_watcher_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for name in ["a", "b"] {
            fs::write(path(name), "").unwrap();
        }
        let script = format!(
            "echo bench/a; echo bench/b; cd {}; for f in a b; do while [ -e $f ]; do sleep 0.01; done; \
             echo bench/$f; done; exec sleep 20",
            folder.path().display()
        );
        let change =
            |name: &str| json!({ "file": path(name), "content": null, "says": format!("bench/{name}") });
        let plan = json!({
            "argv": ["sh", "-c", script], "flavour": "legacy", "services": 2, "limit": 10,
            "series": [{ "gap": null, "changes": [change("a"), change("b")] }],
        });
        let measured = run(&plan).unwrap();
        let took = measured["series"][0]["ms"].as_array().unwrap();
        assert!(
            took.iter().all(|ms| ms.as_f64().is_some_and(|ms| ms < 5000.0)),
            "{measured}"
        );
    }

    #[test]
    fn a_watcher_that_ends_or_is_silent_is_told() {
        let plan = |script: &str| json!({ "argv": ["sh", "-c", script], "flavour": "legacy", "services": 1, "limit": 0 });
        // An end is seen at one of the looks, or only when the time is up.
        match run(&plan("exit 1")) {
            Ok(measured) => assert!(measured["first"].is_null(), "{measured}"),
            Err(error) => assert!(error.to_string().contains("has ended"), "{error}"),
        }
        assert!(run(&plan("exec sleep 20")).unwrap()["first"].is_null());
    }
}
