//! `netns-lab up`: makes a lab, or changes it into what is asked for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use labkit::rundir::{RunDirectory, network_namespace};
use labkit::shell::{self, OutputFormat};
use labkit::xtables::{Family, Xtables};
use labkit::{Failure, Outcome};

use super::status;
use super::up_lab::{self, with_flags};
use crate::cli::{Cli, Command, UpArgs};
use crate::edge::store;
use crate::engine::down::{other_labs, take_down};
use crate::engine::observe::observe;
use crate::engine::progress::Progress;
use crate::engine::settle::{self, Place};
use crate::engine::up::{self, Up};
use crate::model::check::clashes;
use crate::model::ledger::{Lab, Ledger, Pod, VERSION};
use crate::model::name::{self, Label};
use crate::model::observed::Observed;
use crate::model::plan::{self, Step, Wanted};
use crate::model::report::wrapped;
use crate::model::topology::Topology;

/// Runs `up`.
pub(super) fn run(args: &UpArgs) -> Result<Outcome, Failure> {
    let topology = args.topology.as_deref();
    let topology = topology.map(|text| read(text, &args.name)).transpose()?;
    if args.dry_run {
        return dry_run(args, topology);
    }
    let mut progress = Progress::default();
    let run = RunDirectory::lock()?;
    let mut before = settled(&run, args)?;
    if let Some(ledger) = before.as_mut().filter(|_| topology.is_some()) {
        // Whoever says how many pods there are has no use for what was to be before.
        ledger.rollouts.clear();
    }
    let fresh = before.is_none();
    let prepared = Prepared::new(args, topology, before)?;
    progress.phase("observe");
    let made = prepared.take(&run, &mut progress);
    let ledger = match made {
        Ok(ledger) => ledger,
        Err(failure) => return Err(roll_back(&run, args, fresh, failure)),
    };
    if args.timings {
        shell::tell(&progress.timings().to_string());
    }
    show(args, &ledger)
}

/// Gives a lab that is up other pods, and makes it so.
pub(super) fn reshape(run: &RunDirectory, lab: &name::Label, topology: Topology) -> Result<Ledger, Failure> {
    let words = ["netns-lab", "up", "--name", lab.as_str()];
    let Ok(Command::Up(args)) = Cli::try_parse_from(words).map(|cli| cli.command) else {
        return Err(Failure::failed("`up` does not take its own words"));
    };
    let before = settled(run, &args)?;
    Prepared::new(&args, Some(topology), before)?.take(run, &mut Progress::default())
}

/// What the lab was, brought in line with what is there; a half-removed one is removed first.
fn settled(run: &RunDirectory, args: &UpArgs) -> Result<Option<Ledger>, Failure> {
    let Some(ledger) = store::ledger(&args.name)? else {
        return Ok(None);
    };
    match settle::place(&ledger)? {
        Place::Here if !ledger.leaving => {}
        Place::Elsewhere(pid) => return Err(settle::elsewhere(&ledger, pid)),
        Place::Here | Place::Gone => {
            take_down(run, ledger)?;
            return Ok(None);
        }
    }
    up::end_strays(&ledger);
    Ok(Some(ledger))
}

/// A first `up` that fails leaves nothing; a later one leaves what can be repaired.
fn roll_back(run: &RunDirectory, args: &UpArgs, fresh: bool, failure: Failure) -> Failure {
    if !fresh {
        return failure.hint("`netns-lab up` again goes on from here, `netns-lab down` removes the lab");
    }
    let undone = match store::ledger(&args.name) {
        Ok(Some(ledger)) => take_down(run, ledger),
        Ok(None) => store::remove_lab_directory(&args.name),
        Err(failure) => Err(failure),
    };
    match undone {
        Ok(()) => failure.hint("nothing was left behind"),
        Err(_) => failure.hint("`netns-lab down` removes what was made"),
    }
}

/// Everything known before the first change.
struct Prepared {
    pods: Vec<Pod>,
    observed: Observed,
    steps: Vec<Step>,
    ledger: Ledger,
}

impl Prepared {
    fn new(args: &UpArgs, topology: Option<Topology>, before: Option<Ledger>) -> Result<Self, Failure> {
        let topology = with_flags(args, topology, before.as_ref());
        let lab = up_lab::lab(args, &topology, before.as_ref())?;
        let pods = up_lab::placed(&lab, &topology, before.as_ref())?;
        let iptables = iptables(args, before.as_ref())?;
        let observed = observe(&lab, &pods, before.as_ref(), Some(&iptables))?;
        refuse_clashes(&lab, &pods, before.as_ref(), &observed)?;
        let wanted = Wanted {
            lab: &lab,
            pods: &pods,
        };
        let steps = plan::plan(&wanted, before.as_ref(), &observed);
        let ledger = match before {
            Some(before) => {
                let mut ledger = Ledger { lab, ..before };
                ledger.release(&pods);
                ledger
            }
            None => Ledger {
                version: VERSION,
                node_namespace: match lab.caller_node() {
                    Some(_) => Some(network_namespace()?),
                    None => None,
                },
                lab,
                iptables,
                unsettled: false,
                leaving: false,
                hosts: Vec::new(),
                pods: Vec::new(),
                released: Vec::new(),
                agent: None,
                rollouts: BTreeMap::new(),
            },
        };
        Ok(Self {
            pods,
            observed,
            steps,
            ledger,
        })
    }

    fn take(self, run: &RunDirectory, progress: &mut Progress) -> Result<Ledger, Failure> {
        if self.steps.is_empty() && !self.ledger.unsettled {
            return Ok(self.ledger);
        }
        let up = Up {
            run,
            observed: &self.observed,
            steps: &self.steps,
            ledger: self.ledger,
            progress,
        };
        up.take(&self.pods)
    }
}

fn dry_run(args: &UpArgs, topology: Option<Topology>) -> Result<Outcome, Failure> {
    let before = store::ledger(&args.name)?.filter(|ledger| !ledger.leaving);
    let prepared = Prepared::new(args, topology, before)?;
    match args.output {
        OutputFormat::Json => {
            let sentences: Vec<_> = prepared.steps.iter().map(ToString::to_string).collect();
            shell::emit_json(&serde_json::json!({ "lab": args.name.as_str(), "steps": sentences }))?;
        }
        OutputFormat::Table if prepared.steps.is_empty() => {
            shell::emit(&format!(
                "nothing to do: the lab {} is as it should be\n",
                args.name
            ))?;
        }
        OutputFormat::Table => {
            let lines = prepared.steps.iter().map(|step| wrapped(&step.to_string()));
            shell::emit(&lines.collect::<String>())?;
        }
    }
    Ok(Outcome::Done)
}

/// `3-pods`, `2-nodes-6-pods`, or the path of a file.
fn read(text: &str, lab: &Label) -> Result<Topology, Failure> {
    if let Some(meant) = Topology::from_words(text, lab) {
        return meant.map_err(|why| Failure::usage(format!("{text}: {why}")));
    }
    let content = fs::read(text).map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::IsADirectory => "it is a folder".to_string(),
            std::io::ErrorKind::NotFound => "there is no such file".to_string(),
            _ => error.to_string(),
        };
        Failure::usage(format!("cannot read the topology {text}: {why}")).hint(
            "expected N-pods, such as 3-pods, N-nodes-M-pods, or the path of a JSON file: `netns-lab up --help` \
             shows one",
        )
    })?;
    Topology::from_json(&content).map_err(|error| Failure::usage(format!("{text}:{error}")))
}

fn iptables(args: &UpArgs, before: Option<&Ledger>) -> Result<PathBuf, Failure> {
    match (args.iptables.as_deref(), before) {
        (Some(path), Some(ledger)) if path != ledger.iptables => {
            let stands: &Path = &ledger.iptables;
            Err(
                Failure::failed(format!("the lab's rules were written with {}", stands.display()))
                    .hint(format!("take it down first: netns-lab down {}", args.name)),
            )
        }
        (_, Some(ledger)) => Ok(ledger.iptables.clone()),
        (given, None) => Ok(Xtables::detect(given)?.iptables(Family::V4)),
    }
}

fn refuse_clashes(
    lab: &Lab,
    pods: &[Pod],
    before: Option<&Ledger>,
    observed: &Observed,
) -> Result<(), Failure> {
    let clashes = clashes(lab, pods, before, observed);
    let failures = clashes
        .into_iter()
        .map(|clash| Failure::failed(clash.what).hint(clash.hint))
        .collect();
    match Failure::all(failures) {
        Some(failure) => Err(failure.hint("nothing was changed")),
        None => Ok(()),
    }
}

fn show(args: &UpArgs, ledger: &Ledger) -> Result<Outcome, Failure> {
    let report = status::report(ledger, &status::Look::default());
    match args.output {
        OutputFormat::Json => shell::emit_json(&report)?,
        OutputFormat::Table => shell::emit(&format!("{}\n{}", report.table(), next(ledger)?))?,
    }
    Ok(Outcome::Done)
}

/// The next commands, which work as they are printed.
fn next(ledger: &Ledger) -> Result<String, Failure> {
    let lab = &ledger.lab.name;
    let default = lab.as_str() == name::DEFAULT_LAB;
    let mut registries: Vec<_> = other_labs(lab)?
        .into_iter()
        .filter(|other| ledger.node_namespace.is_some() && other.node_namespace == ledger.node_namespace)
        .map(|other| store::registry(&other.lab.name).display().to_string())
        .collect();
    let sync = if !registries.is_empty() {
        // A sync of one lab's registry would take the Services of the others away.
        registries.push(store::registry(lab).display().to_string());
        registries.sort();
        format!(
            "miniproxy sync --registry {}",
            registries.join(" \\\n        --registry ")
        )
    } else if default {
        "miniproxy sync".to_string()
    } else {
        format!("miniproxy sync --lab {lab}")
    };
    let named = if default {
        String::new()
    } else {
        format!(" --name {lab}")
    };
    let exec = ledger.pods.first().map_or_else(String::new, |record| {
        let pod = &record.pod.spec.name;
        format!("      netns-lab exec{named} {pod} -- ip address\n")
    });
    Ok(format!("next: {sync}\n{exec}"))
}
