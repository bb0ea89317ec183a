//! `netns-lab namespaces`: the same question, asked on the host and in each container of a pod.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Stdio;
use std::thread;

use caps::CapSet;
use labkit::shell::{self, OutputFormat};
use labkit::{Failure, Outcome};
use nix::unistd::geteuid;

use super::find;
use crate::cli::NamespacesArgs;
use crate::edge::{enter, joined, process};
use crate::model::ledger::{PodRecord, ProcessId};
use crate::model::sight::{Comparison, KINDS, Place, Sight};

/// Runs `namespaces`.
pub(super) fn run(args: &NamespacesArgs) -> Result<Outcome, Failure> {
    let record = pod(args)?;
    let mut places = vec![Place {
        name: "host".into(),
        sight: ask(),
    }];
    for container in &record.containers {
        let Some(process) = container.process.filter(|process| process::runs(*process)) else {
            continue;
        };
        places.push(Place {
            name: container.name.to_string(),
            sight: ask_in(process)?,
        });
    }
    let comparison = Comparison::new(record.pod.spec.name.to_string(), places);
    match args.output {
        OutputFormat::Json => shell::emit_json(&comparison)?,
        OutputFormat::Table => shell::emit(&comparison.table())?,
    }
    Ok(Outcome::Done)
}

fn pod(args: &NamespacesArgs) -> Result<PodRecord, Failure> {
    let record = if let Some(pod) = &args.pod {
        find::pod(args.name.as_ref(), pod)?.1
    } else {
        let mut ledger = find::lab(args.name.as_ref())?;
        if ledger.pods.is_empty() {
            return Err(find::no_lab(None));
        }
        ledger.pods.remove(0)
    };
    let pod = &record.pod.spec.name;
    if record.processes().any(process::runs) {
        Ok(record)
    } else {
        Err(Failure::failed(format!("nothing runs in the pod {pod}"))
            .hint("`netns-lab status` tells why, `netns-lab up` repairs it"))
    }
}

/// Asks by a process that goes there, for nothing else sees what a container sees.
fn ask_in(container: ProcessId) -> Result<Sight, Failure> {
    let failed = |why: String| Failure::failed(format!("cannot ask in a container: {why}"));
    // On a thread of its own, for not everybody who may enter a pid namespace may come back.
    let asked = thread::scope(|scope| {
        joined(scope.spawn(|| {
            let mut stage = enter::stage(container, true)?;
            let stage = stage.arg("--ask").stdin(Stdio::null()).stderr(Stdio::piped());
            stage.output().map_err(|error| failed(error.to_string()))
        }))
    })?;
    serde_json::from_slice(&asked.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&asked.stderr);
        failed(labkit::text::printable(said.trim()).into_owned())
    })
}

/// What this process sees.
pub(super) fn ask() -> Sight {
    let hostname = nix::unistd::gethostname().unwrap_or_default();
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let pids = pids.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && *name != own);
    let capabilities = caps::read(None, CapSet::Effective).unwrap_or_default();
    let mut names: Vec<_> = capabilities
        .iter()
        .map(|capability| capability.to_string().trim_start_matches("CAP_").to_string())
        .collect();
    names.sort();
    Sight {
        hostname: hostname.to_string_lossy().into_owned(),
        processes: pids.count(),
        first_process: first_process(),
        interfaces: interfaces(),
        mounts: lines("/proc/self/mounts").len(),
        user: geteuid().as_raw(),
        all_capabilities: caps::runtime::procfs_all_supported(None).map_or(0, |all| all.len()),
        capabilities: names,
        namespaces: KINDS
            .iter()
            .filter_map(|kind| {
                let found = fs::metadata(format!("/proc/self/ns/{kind}")).ok()?;
                Some(((*kind).to_string(), found.ino()))
            })
            .collect(),
    }
}

/// The program of number 1 and its first argument.
fn first_process() -> String {
    let line = fs::read("/proc/1/cmdline").unwrap_or_default();
    let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    let words: Vec<_> = words
        .take(2)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    match words.split_first() {
        Some((program, rest)) => {
            let program = program.rsplit('/').next().unwrap_or(program).to_string();
            [&[program], rest].concat().join(" ")
        }
        None => lines("/proc/1/comm").into_iter().next().unwrap_or_default(),
    }
}

fn interfaces() -> Vec<String> {
    let lines = lines("/proc/self/net/dev").into_iter();
    lines
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_string()))
        .collect()
}

fn lines(path: &str) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(String::from).collect()
}
