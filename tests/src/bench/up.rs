//! `scripts/bench up`: what `netns-lab up` and `down` take, beside what the kernel takes at least.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::{asks_for_help, usage, verdict};
use crate::load::say;
use crate::machine::{Machine, Running};
use crate::run::{Ran, wait_for};
use crate::stats::median;

const USAGE: &str = "\
Usage: scripts/bench up [--sizes 3,50,200,1000] [--runs N]

Times `netns-lab up` and `netns-lab down` for labs of several sizes, each in a
fresh network and mount namespace, beside the least that the kernel takes for
the same links (the floor), made in the same run, turn by turn. Wall times in
ms, medians; process start is included, the apps' start is a column of its own.

Exit codes: 0 all aims met, 1 one was missed, 2 wrong usage.";

/// Pods, and the most that `up` without the apps may take in ms, if there is such an aim.
const UP_AIMS: [(usize, f64); 2] = [(3, 30.0), (50, 100.0)];
/// From this size on the aim is relative to the floor.
const RELATIVE_FROM: usize = 1000;
const RATIO_AIM: f64 = 1.5;
const AGAIN_AIM: f64 = 20.0;

#[derive(Debug)]
struct Options {
    sizes: Vec<usize>,
    runs: usize,
}

pub(super) fn run(words: &[&str]) -> ExitCode {
    let Some(options) = options(words).filter(|_| !asks_for_help(words)) else {
        return usage(words, USAGE);
    };
    say(HEAD);
    let mut missed = Vec::new();
    for size in &options.sizes {
        // A thousand pods take seconds; fewer runs of them tell as much.
        let runs = if *size >= RELATIVE_FROM {
            options.runs.div_ceil(3)
        } else {
            options.runs
        };
        let row = Row::measured(*size, runs);
        say(&row.line());
        missed.extend(row.missed());
    }
    let (text, code) = verdict(&missed);
    say(&format!("\n{text}"));
    code
}

fn options(words: &[&str]) -> Option<Options> {
    let mut options = Options {
        sizes: vec![3, 50, 200, 1000],
        runs: 9,
    };
    for pair in words.chunks(2) {
        match pair {
            ["--sizes", list] => {
                options.sizes = list
                    .split(',')
                    .map(|size| size.parse().ok().filter(|size| (1..=1023).contains(size)))
                    .collect::<Option<_>>()?;
            }
            ["--runs", runs] => options.runs = runs.parse().ok().filter(|runs| (1..=1000).contains(runs))?,
            _ => return None,
        }
    }
    Some(options)
}

const HEAD: &str = "\
              up                                        down
 pods  floor    lab  ratio   apps  again        floor    lab  ratio    runs";

/// Medians in ms.
#[derive(Debug)]
struct Row {
    pods: usize,
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
    fn measured(pods: usize, runs: usize) -> Self {
        let (mut floors, mut labs) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            floors.push(floor(pods));
            labs.push(lab(pods));
        }
        let over = |pick: &dyn Fn(&Lab) -> f64| median(&labs.iter().map(pick).collect::<Vec<_>>());
        Self {
            pods,
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
            "{:>5} {:>6.1} {:>6.1} {:>6.2} {:>6.1} {:>6.1}       {:>6.1} {:>6.1} {:>6.2} {:>7}",
            self.pods,
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
        let pods = self.pods;
        let mut missed = Vec::new();
        let mut expect = |what: String, found: f64, aim: f64, unit: &str| {
            if found > aim {
                missed.push(format!(
                    "{what} with {pods} pods: {found:.1}{unit}, aim {aim}{unit}"
                ));
            }
        };
        for (_, aim) in UP_AIMS.iter().filter(|(size, _)| *size == pods) {
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

/// The floor's times for `up` and `down`.
fn floor(pods: usize) -> (f64, f64) {
    let machine = Machine::start();
    let mut floor = machine
        .command(["lab-helper", "floor", &pods.to_string()])
        .start();
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
    (up, number(&floor, "down "))
}

#[derive(Debug)]
struct Lab {
    up: f64,
    apps: f64,
    again: f64,
    down: f64,
}

/// The lab's times; `up` is the whole of it.
fn lab(pods: usize) -> Lab {
    let machine = Machine::start();
    let topology = format!("{pods}-pods");
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
    let down = timed(&["down"]);
    Lab {
        up: took(&up),
        apps: apps(&up),
        again: took(&again),
        down: took(&down),
    }
}

fn took(ran: &Ran) -> f64 {
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
