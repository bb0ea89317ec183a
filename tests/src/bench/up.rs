//! `scripts/bench up`: what `netns-lab up` and `down` take, beside what the kernel takes at least.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::{asks_for_help, peers, usage, verdict};
use crate::load::say;
use crate::machine::{Machine, Running};
use crate::run::{Ran, wait_for};
use crate::stats::median;

const USAGE: &str = "\
Usage: scripts/bench up [--sizes LIST] [--runs N] [--peers-to N]

Times `netns-lab up` and `netns-lab down` for labs of several sizes, each in a
fresh network and mount namespace, beside the least that the kernel takes for
the same links (the floor), made in the same run, turn by turn. Wall times in
ms, medians; process start is included, the apps' start is a column of its own;
with nodes, down ends when the kernel has taken apart the last namespace.
Then the same number of hosts by others: a plain script of `ip` commands, and
mininet where its package is installed (`mn --switch lxbr`, which also needs
bridge-utils), which makes and removes them in one command.

  --sizes LIST    pods, or nodes x pods: [default: 3,50,200,1000,2x6,10x1000]
  --runs N        [default: 9], a third of it from 1,000 pods on
  --peers-to N    others make at most so many hosts [default: 50]; 1,000 take
                  a plain script a minute

Exit codes: 0 all aims met, 1 one was missed, 2 wrong usage.";

/// Pods, and the most that `up` without the apps may take in ms, if there is such an aim.
const UP_AIMS: [(usize, f64); 2] = [(3, 30.0), (50, 100.0)];
/// From this size on the aim is relative to the floor.
const RELATIVE_FROM: usize = 1000;
const RATIO_AIM: f64 = 1.5;
const AGAIN_AIM: f64 = 20.0;

#[derive(Debug)]
struct Options {
    sizes: Vec<Size>,
    runs: usize,
    peers_to: usize,
}

/// How large a lab is; without nodes the machine itself is the only one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Size {
    nodes: Option<usize>,
    pods: usize,
}

impl Size {
    fn read(text: &str) -> Option<Self> {
        let (nodes, pods) = match text.split_once('x') {
            Some((nodes, pods)) => (Some(nodes.parse().ok()?), pods),
            None => (None, text),
        };
        let size = Self {
            nodes,
            pods: pods.parse().ok()?,
        };
        let most = 1023 * size.nodes.unwrap_or(1);
        ((1..=most).contains(&size.pods) && size.nodes.is_none_or(|nodes| (1..=100).contains(&nodes)))
            .then_some(size)
    }

    fn topology(self) -> String {
        match self.nodes {
            Some(nodes) => format!("{nodes}-nodes-{}-pods", self.pods),
            None => format!("{}-pods", self.pods),
        }
    }

    /// What the kernel takes after `down`, in ms, where its last call says nothing of it: namespaces of
    /// nodes are taken apart afterwards, with all their links.
    fn rest(self, machine: &Machine) -> f64 {
        if self.nodes.is_none() {
            return 0.0;
        }
        let waited = freed(machine);
        // The same with nothing to wait for is what asking takes.
        let asking = freed(machine);
        (waited - asking).max(0.0)
    }

    fn name(self) -> String {
        let nodes = self.nodes.map_or_else(String::new, |nodes| format!("{nodes}x"));
        format!("{nodes}{}", self.pods)
    }
}

pub(super) fn run(words: &[&str]) -> ExitCode {
    let Some(options) = options(words).filter(|_| !asks_for_help(words)) else {
        return usage(words, USAGE);
    };
    say(HEAD);
    let mut missed = Vec::new();
    for size in &options.sizes {
        // A thousand pods take seconds; fewer runs of them tell as much.
        let runs = if size.pods >= RELATIVE_FROM {
            options.runs.div_ceil(3)
        } else {
            options.runs
        };
        let row = Row::measured(*size, runs);
        say(&row.line());
        missed.extend(row.missed());
    }
    peers(&options);
    let (text, code) = verdict(&missed);
    say(&format!("\n{text}"));
    code
}

fn options(words: &[&str]) -> Option<Options> {
    let mut options = Options {
        sizes: DEFAULT_SIZES.split(',').filter_map(Size::read).collect(),
        runs: 9,
        peers_to: 50,
    };
    for pair in words.chunks(2) {
        match pair {
            ["--sizes", list] => {
                options.sizes = list.split(',').map(Size::read).collect::<Option<_>>()?;
            }
            ["--runs", runs] => options.runs = runs.parse().ok().filter(|runs| (1..=1000).contains(runs))?,
            ["--peers-to", most] => options.peers_to = most.parse().ok()?,
            _ => return None,
        }
    }
    Some(options)
}

const DEFAULT_SIZES: &str = "3,50,200,1000,2x6,10x1000";

const HEAD: &str = "\
                up                                        down
   size  floor    lab  ratio   apps  again        floor    lab  ratio    runs";

/// Medians in ms.
#[derive(Debug)]
struct Row {
    size: Size,
    runs: usize,
    floor_up: f64,
    floor_down: f64,
    /// Without the apps.
    up: f64,
    apps: f64,
    again: f64,
    down: f64,
}

impl Row {
    fn measured(size: Size, runs: usize) -> Self {
        let (mut floors, mut labs) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            settle();
            floors.push(floor(size));
            settle();
            labs.push(lab(size));
        }
        let over = |pick: &dyn Fn(&Lab) -> f64| median(&labs.iter().map(pick).collect::<Vec<_>>());
        Self {
            size,
            runs,
            floor_up: median(&floors.iter().map(|(up, _)| *up).collect::<Vec<_>>()),
            floor_down: median(&floors.iter().map(|(_, down)| *down).collect::<Vec<_>>()),
            up: over(&|lab| lab.up - lab.apps),
            apps: over(&|lab| lab.apps),
            again: over(&|lab| lab.again),
            down: over(&|lab| lab.down),
        }
    }

    fn line(&self) -> String {
        let (up_ratio, down_ratio) = (self.up / self.floor_up, self.down / self.floor_down);
        format!(
            "{:>7} {:>6.1} {:>6.1} {:>6.2} {:>6.1} {:>6.1}       {:>6.1} {:>6.1} {:>6.2} {:>7}",
            self.size.name(),
            self.floor_up,
            self.up,
            up_ratio,
            self.apps,
            self.again,
            self.floor_down,
            self.down,
            down_ratio,
            self.runs
        )
    }

    fn missed(&self) -> Vec<String> {
        let (pods, name) = (self.size.pods, self.size.name());
        let mut missed = Vec::new();
        let mut expect = |what: String, found: f64, aim: f64, unit: &str| {
            if found > aim {
                missed.push(format!(
                    "{what} with {name} pods: {found:.1}{unit}, aim {aim}{unit}"
                ));
            }
        };
        for (_, aim) in UP_AIMS
            .iter()
            .filter(|(size, _)| self.size.nodes.is_none() && *size == pods)
        {
            expect("up".into(), self.up, *aim, " ms");
        }
        if pods >= RELATIVE_FROM {
            expect("up".into(), self.up / self.floor_up, RATIO_AIM, " x the floor");
        }
        expect(
            "down".into(),
            self.down / self.floor_down,
            RATIO_AIM,
            " x the floor",
        );
        if pods <= 50 {
            expect("up with nothing to do".into(), self.again, AGAIN_AIM, " ms");
        }
        missed
    }
}

/// A namespace that goes after all that are going, and a cable into it: the kernel takes them apart in
/// the order in which they were left.
const LAST: &str = "\
ip netns add last
ip link add here type veth peer name there netns last
ip netns delete last
while ip link show here >/dev/null 2>&1; do sleep 0.02; done";

/// Waits until the kernel has taken apart the namespaces of the run before, which would slow down this
/// one: a thousand take a second after the last call.
fn settle() {
    freed(&Machine::start());
}

/// The milliseconds until then.
fn freed(machine: &Machine) -> f64 {
    let words = ["lab-helper", "time", "sh", "-ec", LAST];
    took(
        &machine
            .command(words)
            .patience(Duration::from_secs(60))
            .run()
            .ok(),
    )
}

/// The floor's times for `up` and `down`.
fn floor(size: Size) -> (f64, f64) {
    let machine = Machine::start();
    let words = ["lab-helper".to_string(), "floor".into(), size.pods.to_string()];
    let nodes = size.nodes.map(|nodes| nodes.to_string());
    let mut floor = machine.command(words.into_iter().chain(nodes)).start();
    let number = |floor: &Running, word: &str| {
        wait_for(word, Duration::from_secs(120), || {
            floor
                .said()
                .lines()
                .find_map(|line| line.strip_prefix(word)?.trim().parse().ok())
        })
    };
    let up = number(&floor, "up ");
    floor.close_input();
    let down = number(&floor, "down ");
    (up, down + size.rest(&machine))
}

/// A line for each size that the others are asked for: up and down of a script, both of mininet at once.
fn peers(options: &Options) {
    let sizes: Vec<usize> = options
        .sizes
        .iter()
        .filter(|size| size.nodes.is_none() && size.pods <= options.peers_to)
        .map(|size| size.pods)
        .collect();
    if sizes.is_empty() {
        return;
    }
    say("\nothers, up and down:\n   size  script up    down   mininet");
    for hosts in sizes {
        let script = peers::script(hosts);
        let mininet = peers::mininet(hosts).map_or_else(|why| why, |ms| format!("{ms:.1}"));
        say(&format!(
            "{hosts:>7} {:>10.1} {:>7.1} {mininet:>9}",
            script.up, script.down
        ));
    }
}

#[derive(Debug)]
struct Lab {
    up: f64,
    apps: f64,
    again: f64,
    down: f64,
}

/// The lab's times; `up` is the whole of it.
fn lab(size: Size) -> Lab {
    let machine = Machine::start();
    let topology = size.topology();
    let timed = |words: &[&str]| {
        let argv = ["lab-helper", "time", "netns-lab"]
            .into_iter()
            .chain(words.iter().copied());
        machine
            .command(argv)
            .patience(Duration::from_secs(300))
            .run()
            .ok()
    };
    let up = timed(&["up", &topology, "--timings"]);
    let again = timed(&["up", &topology]);
    let down = took(&timed(&["down"]));
    Lab {
        up: took(&up),
        apps: apps(&up),
        again: took(&again),
        down: down + size.rest(&machine),
    }
}

/// The milliseconds that `lab-helper time` tells.
pub(super) fn took(ran: &Ran) -> f64 {
    let number = ran
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("took ")?.parse().ok());
    number.unwrap_or_else(|| panic!("no time in {ran}"))
}

/// What `--timings` says of the apps' start.
fn apps(ran: &Ran) -> f64 {
    let timings: Option<Value> = ran
        .stderr
        .lines()
        .find_map(|line| serde_json::from_str(line).ok());
    timings
        .and_then(|timings| timings["apps_ms"].as_f64())
        .unwrap_or_else(|| panic!("--timings does not tell the apps' start in {ran}"))
}
