//! One change among many, and ten in a row, with `miniproxy sync --watch` running.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::documents::Nat;
use super::first::cost;
use super::generate::{self, Scale, Service, TARGET_PORT};
use super::options::Options;
use super::table::{cell, ratio};
use crate::machine::{Flavour, Machine};
use crate::stats::median;

pub(super) const HEAD: &str = "\
One change: ms from the rename of its file to the rule in the kernel; the floor
is iptables-restore of the smallest text that does the same; x is ours over it
                 endpoint replaced    Service added       Service removed
   scale            ours  floor    x    ours  floor    x    ours  floor    x";

pub(super) const BURST_HEAD: &str = "\
Ten changes 100 ms apart: ms of each; the watcher's CPU in ms, all its programs
included; the peak of its own memory in MiB
   scale           first   median    worst      cpu     peak";

/// Changes in a burst, and the time between two.
const BURST: usize = 10;
const GAP: u64 = 100;
/// From so many Services on the burst has Services of its own.
const ROOMY: usize = 2 * BURST;
/// More than the changes may take.
const SERIES: Duration = Duration::from_secs(420);
/// A change begins when the watcher has done with the one before, or after this long.
const REST: Duration = Duration::from_secs(10);
const RESTORE: Duration = Duration::from_secs(60);

/// Kinds of changes, by their place in [`Change::kinds`].
pub(super) const KINDS: [&str; 3] = ["an endpoint replaced", "a Service added", "a Service removed"];

/// Medians of one scale; times in ms.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) scale: Scale,
    pub(super) flavour: Flavour,
    /// Whether the watcher's first sync was done in time.
    pub(super) begun: bool,
    pub(super) kinds: [Kind; 3],
    pub(super) burst: Option<Burst>,
    /// Changes that the kernel did not have in the end, though they were seen.
    pub(super) wrong: Vec<String>,
}

/// One kind of change.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kind {
    /// How many were made.
    pub(super) made: usize,
    /// Nothing if one of them was not seen in time.
    pub(super) ours: Option<f64>,
    pub(super) floor: Option<f64>,
}

/// The latencies of a burst.
#[derive(Debug, Clone, Copy)]
pub(super) struct Burst {
    pub(super) first: f64,
    pub(super) median: f64,
    pub(super) worst: f64,
    pub(super) cpu: f64,
    pub(super) peak: f64,
}

impl Change {
    pub(super) fn measured(scale: Scale, flavour: Flavour, options: &Options, scratch: &Path) -> Self {
        let folder = tempfile::tempdir_in(scratch).expect("our own folder");
        let machine = Machine::builder().flavour(flavour).start();
        let runs = options.runs_at(scale, flavour).max(3.min(options.runs));
        let mut plan = Plan::new(folder.path(), scale, runs, &machine);
        let ran = machine
            .command(["lab-helper", "changes"])
            .input(&plan.to_json(flavour, options.limit()).to_string())
            .patience(options.limit() + SERIES)
            .run()
            .ok()
            .json();
        let mut change = Self {
            scale,
            flavour,
            begun: ran["first"].is_f64(),
            kinds: [Kind::default(); 3],
            burst: None,
            wrong: Vec::new(),
        };
        if !change.begun {
            return change;
        }
        let series = &ran["series"];
        for (index, kind) in change.kinds.iter_mut().enumerate() {
            let took = &series[index]["ms"];
            kind.made = took.as_array().map_or(0, Vec::len);
            kind.ours = numbers(took).map(|took| median(&took));
        }
        change.burst = Burst::of(&series[KINDS.len()]);
        // Only where all was made and seen is it known what the kernel has.
        if plan.all_done(series) {
            change.wrong = plan.wrong(&machine.run(["iptables-save", "-t", "nat"]).ok().stdout);
            if change.wrong.is_empty() {
                let floors = plan.floors(&machine);
                for (kind, floor) in change.kinds.iter_mut().zip(floors) {
                    kind.floor = Some(floor);
                }
            }
        }
        change
    }

    pub(super) fn line(&self) -> String {
        let kinds = self.kinds.iter().map(|kind| {
            let (ours, floor) = (cell(kind.ours, 7, 1), cell(kind.floor, 6, 1));
            format!("{ours} {floor} {}", cell(ratio(kind.ours, kind.floor), 4, 1))
        });
        let kinds: Vec<String> = kinds.collect();
        format!(
            "{:>8} {:<6}  {}",
            self.scale,
            self.flavour.name(),
            kinds.join(" ")
        )
    }

    pub(super) fn burst_line(&self) -> String {
        let cells = self.burst.map_or([None; 5], |burst| {
            [burst.first, burst.median, burst.worst, burst.cpu, burst.peak].map(Some)
        });
        let cells = cells.map(|value| cell(value, 8, 1));
        format!("{:>8} {:<6} {}", self.scale, self.flavour.name(), cells.join(" "))
    }

    pub(super) fn to_json(&self) -> Value {
        let kinds = KINDS.iter().zip(&self.kinds);
        let kinds = kinds.map(
            |(name, kind)| json!({ "change": name, "made": kind.made, "ms": kind.ours, "floor": kind.floor }),
        );
        let burst = self.burst.map(|burst| {
            json!({
                "first": burst.first, "median": burst.median, "worst": burst.worst,
                "cpu": burst.cpu, "peak": burst.peak,
            })
        });
        json!({
            "scale": self.scale.to_string(), "iptables": self.flavour.name(), "begun": self.begun,
            "changes": kinds.collect::<Vec<_>>(), "burst": burst, "wrong": self.wrong,
        })
    }
}

impl Burst {
    fn of(series: &Value) -> Option<Self> {
        let took = numbers(&series["ms"])?;
        Some(Self {
            first: took[0],
            median: median(&took),
            worst: took.iter().copied().reduce(f64::max)?,
            cpu: series["cpu"].as_f64()? * 1e3,
            peak: series["peak"].as_f64()?,
        })
    }
}

/// All of them, or nothing if there is none or one is missing.
fn numbers(list: &Value) -> Option<Vec<f64>> {
    let list = list.as_array().filter(|list| !list.is_empty())?;
    list.iter().map(Value::as_f64).collect()
}

/// The files of a registry, and what is to become of them.
struct Plan {
    registry: PathBuf,
    /// The new texts of files, on the same file system as the registry.
    next: PathBuf,
    services: Vec<Service>,
    scale: Scale,
    /// Replaced, added, removed, and the burst.
    series: [Vec<Value>; 4],
    /// Endpoints that must be in the kernel in the end.
    came: Vec<Ipv4Addr>,
    /// Those that must not.
    went: Vec<Ipv4Addr>,
}

impl Plan {
    fn new(folder: &Path, scale: Scale, runs: usize, machine: &Machine) -> Self {
        let (registry, next) = (folder.join("registry"), folder.join("next"));
        for folder in [&registry, &next] {
            fs::create_dir(folder).expect("our own folder");
        }
        let mut plan = Self {
            services: generate::write(&registry, scale).expect("our own folder"),
            registry,
            next,
            scale,
            series: Default::default(),
            came: Vec::new(),
            went: Vec::new(),
        };
        let (replaced, burst) = targets(scale, runs);
        let mut touched = Vec::new();
        for (series, index) in [(0, replaced), (3, burst)]
            .into_iter()
            .flat_map(|(series, targets)| targets.into_iter().map(move |index| (series, index)))
        {
            let fresh = plan.replace(index);
            touched.push((series, plan.services[index].clone(), Some(fresh)));
        }
        for index in scale.services..scale.services + runs {
            touched.push((1, Service::new(index, scale), None));
        }
        plan.name_chains(&touched, machine);
        plan
    }

    /// Gives a Service a fresh endpoint for the last one that it had from the start. The later, the
    /// smaller the address, so that no rule changes its place.
    fn replace(&mut self, index: usize) -> Ipv4Addr {
        let fresh = generate::fresh(9998 - self.came.len());
        let service = &mut self.services[index];
        let place = service
            .endpoints
            .iter()
            .rposition(|address| !self.came.contains(address));
        let place = place.expect("each is replaced once at most");
        self.went.push(service.endpoints[place]);
        service.endpoints[place] = fresh;
        self.came.push(fresh);
        fresh
    }

    /// Writes the new texts, and asks `miniproxy render` for the chains to look at.
    fn name_chains(&mut self, touched: &[(usize, Service, Option<Ipv4Addr>)], machine: &Machine) {
        let last = self.next.join("last");
        fs::create_dir(&last).expect("our own folder");
        for (_, service, _) in touched {
            // Of a Service that changes several times its last state has all new endpoints.
            let state = self.services.iter().find(|state| state.name() == service.name());
            let text = state.unwrap_or(service).text();
            fs::write(last.join(service.file_name()), text).expect("our own folder");
        }
        let nat = render(machine, &last);
        for (number, (series, service, fresh)) in touched.iter().enumerate() {
            let content = self.next.join(format!("{number}.json"));
            fs::write(&content, service.text()).expect("our own folder");
            let chain = match fresh {
                Some(fresh) => nat.chain_with(&format!("{fresh}:{TARGET_PORT}")),
                None => nat.service_chain(&service.address().to_string()),
            };
            let chain = chain.expect("render has the rules of each Service");
            let change = json!({
                "file": self.registry.join(service.file_name()), "content": content,
                "chain": chain, "uses": nat.uses(chain), "says": service.full_name(),
            });
            if fresh.is_none() {
                let mut removal = change.clone();
                removal["content"] = Value::Null;
                self.series[2].push(removal);
            }
            self.series[*series].push(change);
        }
    }

    fn to_json(&self, flavour: Flavour, limit: Duration) -> Value {
        let series = self.series.iter().enumerate().map(|(index, changes)| {
            let gap = (index == KINDS.len()).then_some(GAP);
            json!({ "changes": changes, "gap": gap })
        });
        json!({
            "argv": ["miniproxy", "sync", "--watch", "--registry", self.registry],
            "flavour": flavour.name(), "services": self.scale.services, "limit": limit.as_secs(),
            "rest": REST.as_secs(),
            "series": series.collect::<Vec<_>>(),
        })
    }

    fn all_done(&self, series: &Value) -> bool {
        let mut all = self.series.iter().enumerate();
        all.all(|(index, changes)| {
            let took = series[index]["ms"].as_array();
            took.is_some_and(|took| took.len() == changes.len() && took.iter().all(Value::is_f64))
        })
    }

    /// What the kernel has and should not, and the other way round.
    fn wrong(&self, dump: &str) -> Vec<String> {
        let has = |address: &Ipv4Addr| dump.contains(&format!("--to-destination {address}:{TARGET_PORT}\n"));
        let lacking = self.came.iter().filter(|address| !has(address));
        let mut wrong: Vec<String> = lacking.map(|address| format!("no rule for {address}")).collect();
        let left = self.went.iter().filter(|address| has(address));
        wrong.extend(left.map(|address| format!("a rule is left for {address}")));
        wrong
    }

    /// Writes the smallest texts with the watcher gone: to and fro, so that each is an even change.
    fn floors(&mut self, machine: &Machine) -> [f64; 3] {
        let base = render(machine, &self.registry);
        let middle = self.scale.services / 2;
        let file = self.registry.join(self.services[middle].file_name());
        let before = fs::read_to_string(&file).expect("our own file");
        let mut service = self.services[middle].clone();
        *service.endpoints.last_mut().expect("at least one") = generate::fresh(9999);
        fs::write(&file, service.text()).expect("our own file");
        let replaced = render(machine, &self.registry);
        fs::write(&file, before).expect("our own file");
        let more = Service::new(self.scale.services, self.scale);
        fs::write(self.registry.join(more.file_name()), more.text()).expect("our own folder");
        let added = render(machine, &self.registry);

        let mut took: [Vec<f64>; 3] = Default::default();
        let mut now = base.clone();
        for _ in 0..self.series[1].len() {
            for (kind, wanted) in [(0, &replaced), (0, &base), (1, &added), (2, &base)] {
                let text = machine.file("floor", &now.smallest(wanted));
                let cost = cost(machine, RESTORE, &text, &["iptables-restore", "--noflush"]);
                took[kind].push(cost.wall * 1e3);
                now = now.reached(wanted);
            }
        }
        took.map(|took| median(&took))
    }
}

fn render(machine: &Machine, registry: &Path) -> Nat {
    let registry = registry.to_str().expect("we chose the name");
    Nat::of(&machine.proxy(["render", "--registry", registry]).ok().stdout)
}

/// The Services whose endpoints are replaced one after the other, and those of the burst.
fn targets(scale: Scale, runs: usize) -> (Vec<usize>, Vec<usize>) {
    let services = scale.services;
    if services < ROOMY {
        let with_burst = services >= BURST && scale.endpoints > 1;
        let spare = services * (scale.endpoints - usize::from(with_burst));
        let replaced = (0..runs.min(spare)).map(|run| run % services).collect();
        return (
            replaced,
            if with_burst {
                (0..BURST).collect()
            } else {
                Vec::new()
            },
        );
    }
    // Odd ones and even ones.
    let spread = |run: usize, of: usize| 2 * (run * (services / 2) / of);
    let replaced = (0..runs.min(services / 2)).map(|run| spread(run, runs.min(services / 2)) + 1);
    (
        replaced.collect(),
        (0..BURST).map(|turn| spread(turn, BURST)).collect(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_endpoint_is_replaced_twice() {
        for (scale, runs) in [
            ("1x1000", 5),
            ("10x3", 2),
            ("10x1", 3),
            ("20x1", 9),
            ("100x3", 100),
            ("10000x3", 5),
        ] {
            let scale: Scale = scale.parse().unwrap();
            let (replaced, burst) = targets(scale, runs);
            let all: Vec<usize> = replaced.iter().chain(&burst).copied().collect();
            for index in &all {
                assert!(*index < scale.services, "{scale}");
                let times = all.iter().filter(|other| *other == index).count();
                assert!(times <= scale.endpoints, "{scale}: {times} times {index}");
            }
            assert!([0, BURST].contains(&burst.len()));
            assert_eq!(burst.iter().collect::<BTreeSet<_>>().len(), burst.len());
        }
    }

    #[test]
    fn a_series_with_a_gap_has_no_median() {
        assert_eq!(numbers(&json!([1.0, 2.5])), Some(vec![1.0, 2.5]));
        assert_eq!(numbers(&json!([1.0, null])), None);
        assert_eq!(numbers(&json!([])), None);
        assert!(
            Burst::of(&json!({ "ms": [3.0, 5.0, 4.0], "cpu": 0.5, "peak": 20.0 }))
                .unwrap()
                .worst
                > 4.9
        );
    }

    #[test]
    fn lines_have_their_columns_below_the_head() {
        let kind = Kind {
            made: 5,
            ours: Some(4229.3),
            floor: Some(80.0),
        };
        let change = Change {
            scale: "10000x3".parse().unwrap(),
            flavour: Flavour::Legacy,
            begun: true,
            kinds: [kind, kind, Kind::default()],
            burst: None,
            wrong: Vec::new(),
        };
        for (line, head) in [(change.line(), HEAD), (change.burst_line(), BURST_HEAD)] {
            assert_eq!(line.len(), head.lines().last().unwrap().len(), "{line}");
            assert!(head.lines().all(|line| line.len() <= 80));
        }
    }
}
