//! Minutes of random changes at a thousand Services under live connections: none of them fails, the
//! kernel ends up with what the registry says, and the watch takes no more than at first.
//!
//! `scripts/test` runs the long ones. `LAB_TESTS_SOAK_SECONDS` says how long (300), and
//! `LAB_TESTS_SOAK_SEED` makes the changes of an earlier run again.

use std::env;
use std::fs;
use std::time::{Duration, Instant, SystemTime};

use lab_tests::load::Tally;
use lab_tests::machine::{Flavour, Machine, Running};
use lab_tests::registry::REGISTRY;
use lab_tests::run::{Ran, wait_for};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, Uid};
use serde_json::Value;

use crate::soak_changes::{LIVE, PODS, World, live_address};

/// How long the long one takes, unless the environment says otherwise.
const SECONDS: u64 = 300;
/// As many as a busy cluster has.
const SERVICES: u16 = 1000;
/// The kernel takes 208 KiB at once from a plain user's iptables-nft: some 500 lines.
const SERVICES_OF_A_PLAIN_USER: u16 = 40;
/// How often the watch is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// What memory may grow by: a fifth, and what an allocator keeps back.
const GROWTH: (u64, u64) = (5, 4096);

/// What a process takes.
#[derive(Debug, Clone, Copy)]
struct Take {
    kib: u64,
    files: usize,
}

impl Take {
    fn of(pid: Pid) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the watch runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Self {
            kib: kib.expect("a size"),
            files: fs::read_dir(format!("/proc/{pid}/fd"))
                .expect("the watch runs")
                .count(),
        }
    }
}

/// The watch, its stderr in a file.
struct Watched {
    running: Running,
    pid: Pid,
    complaints: String,
}

impl Watched {
    fn start(machine: &Machine, registry: &str) -> Self {
        let complaints = machine.file("stderr", "");
        let script = format!(
            "exec miniproxy sync --watch --registry {REGISTRY} --registry {registry} 2> {complaints}"
        );
        let running = machine.command(["sh", "-euc", &script]).start();
        running.wait_for("following");
        let pid = running.inner_pid().expect("it runs");
        Self {
            running,
            pid,
            complaints,
        }
    }

    /// What is on stderr and is not about the files that the changes broke.
    ///
    /// When somebody deletes a rule of ours between our look and our write, the write names a rule
    /// that is not there: it is refused as a whole and made anew. At most so many times.
    fn unexpected(&self, registry: &str, crossed: usize) -> Vec<String> {
        let said = fs::read_to_string(&self.complaints).expect("our own file");
        let refused = said.matches("error: cannot write the IPv4 rules: ").count();
        if refused > crossed {
            return vec![format!(
                "{refused} writes refused, and {crossed} deletions:\n{said}"
            )];
        }
        let crossing = [
            "error: cannot write the IPv4 rules: `iptables-restore -w 5 --noflush` ended with exit status: ",
            "       line ",
            "       that line is: ",
            " hint: see what was sent: ",
            "       trying again in ",
            "the IPv4 rules are again as they should be",
        ];
        let about = format!("{registry}/cold-");
        let expected = |line: &str| {
            line.strip_prefix("error: ").unwrap_or(line).starts_with(&about)
                || line.starts_with("… and ")
                || line == "       the last good state stays in force"
                || line == "the registry is good again"
                || crossing.iter().any(|start| line.starts_with(start))
                || (line.starts_with("IPv4: ") && line.ends_with(" parts written"))
        };
        said.lines()
            .filter(|line| !expected(line))
            .map(String::from)
            .collect()
    }
}

/// Those who call all the time.
struct Callers(Vec<(&'static str, Running)>);

impl Callers {
    fn start(machine: &Machine) -> Self {
        let targets = |port: u16| (0..LIVE).map(move |number| format!("{}:{port}", live_address(number)));
        let steady = |pod: Option<&str>, protocol: &str, port: u16| {
            let mut argv: Vec<String> = Vec::new();
            if let Some(pod) = pod {
                argv.extend(["ip", "netns", "exec", pod].map(String::from));
            }
            argv.extend(["lab-helper", "steady", protocol].map(String::from));
            argv.extend(targets(port));
            machine.command(argv).start()
        };
        let first = format!("{}:80", live_address(0));
        let hold = ["lab-helper", "hold", "http", &first, "50", "2", "5000"];
        let callers = vec![
            ("node http", steady(None, "http", 80)),
            ("node tcp", steady(None, "tcp", 81)),
            ("node udp", steady(None, "udp", 53)),
            ("pod http", steady(Some("web-1"), "http", 80)),
            ("pod tcp", steady(Some("web-2"), "tcp", 81)),
            ("pod udp", steady(Some("web-3"), "udp", 53)),
            ("held", machine.command(hold).start()),
        ];
        for (name, caller) in &callers {
            caller.wait_for(if *name == "held" {
                "holding 50"
            } else {
                "calling 6"
            });
        }
        Self(callers)
    }

    /// Calls that were answered, datagrams that were asked again, and what failed.
    fn end(self) -> (u64, u64, Vec<String>) {
        let (mut answered, mut again, mut failed) = (0, 0, Vec::new());
        for (name, mut caller) in self.0 {
            caller.close_input();
            let code = caller.end(Duration::from_secs(60));
            if code == 0 {
                caller.wait_for(if name == "held" { "\"rounds\"" } else { "\"again\"" });
            }
            let said = caller.said();
            let report = said.lines().last().map(serde_json::from_str::<Value>);
            let Some(Ok(report)) = report.filter(|_| code == 0) else {
                failed.push(format!("{name} ended with {code}: {said}"));
                continue;
            };
            let tallies = if name == "held" {
                vec![&report["held"], &report["fresh"]]
            } else {
                vec![&report]
            };
            for tally in tallies.into_iter().map(Tally::from_json) {
                answered += tally.answered();
                if !tally.failures.is_empty() || tally.answers.is_empty() {
                    failed.push(format!("{name}: {said}"));
                }
            }
            again += report["again"].as_u64().unwrap_or(0);
        }
        (answered, again, failed)
    }
}

fn soak(flavour: Flavour, length: Duration) {
    let seed = env::var("LAB_TESTS_SOAK_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(0, |now| u64::from(now.subsec_nanos()))
    });
    eprintln!("{flavour:?}, {length:?}, LAB_TESTS_SOAK_SEED={seed}");
    let machine = Machine::builder().flavour(flavour).start();
    machine.lab(["up", &format!("{PODS}-pods")]).ok();
    let plain = flavour == Flavour::Nft && !Uid::effective().is_root();
    let services = if plain { SERVICES_OF_A_PLAIN_USER } else { SERVICES };
    let mut world = World::new(&machine, services, seed);
    let registry = world.folder();
    let watch = Watched::start(&machine, &registry);
    let is_same = || -> Ran {
        let words = ["diff", "--registry", REGISTRY, "--registry", &registry];
        machine.proxy(words)
    };
    wait_for("the first sync", Duration::from_secs(60), || {
        (is_same().code() == 0).then_some(())
    });

    let callers = Callers::start(&machine);
    let mut takes = Vec::new();
    let (began, mut look_at) = (Instant::now(), Instant::now());
    while began.elapsed() < length {
        world.change();
        if Instant::now() >= look_at {
            takes.push(Take::of(watch.pid));
            look_at = Instant::now() + LOOK;
        }
        std::thread::sleep(Duration::from_millis(world.pause()));
    }
    world.settle();
    let (drift, rest) = drift_after_rest(&is_same, flavour, &watch);
    takes.push(Take::of(watch.pid));
    let (answered, again, failed) = callers.end();

    let changes: usize = world.made.values().sum();
    let [first, last] = thirds(&takes);
    eprintln!(
        "{changes} changes {:?}\n{answered} calls answered, {} callers failed, {again} datagrams asked again\n\
         the same {:.1} s after the last change; KiB at begin {} and end {}, at most {} in the first third \
         and {} in the last; files {} and {}",
        world.made,
        failed.len(),
        rest.as_secs_f64(),
        takes[0].kib,
        takes[takes.len() - 1].kib,
        first.kib,
        last.kib,
        first.files,
        last.files,
    );
    assert_eq!(drift, "");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let crossed = world.made.get("rule of ours deleted").copied().unwrap_or(0);
    assert_eq!(watch.unexpected(&registry, crossed), Vec::<String>::new());
    assert_eq!(world.foreign_faults(), Vec::<String>::new());
    let limit = first.kib + first.kib / GROWTH.0 + GROWTH.1;
    assert!(last.kib <= limit, "memory grows: {takes:?}");
    assert!(last.files <= first.files, "files are left open: {takes:?}");
    assert_eq!(watch.running.stop(Signal::SIGTERM), 0);
}

/// Waits for the watch to come to its end; what is then still not as the registry says, and how long
/// it took. A machine with much else to do is slower at everything, so a comparison is the measure.
fn drift_after_rest(is_same: &dyn Fn() -> Ran, flavour: Flavour, watch: &Watched) -> (String, Duration) {
    // Legacy has no count of changes: what others deleted is found by the next full comparison.
    let patience = Duration::from_secs(if flavour == Flavour::Nft { 5 } else { 35 });
    let rest = Instant::now();
    loop {
        let ran = is_same();
        if ran.code() == 0 {
            return (String::new(), rest.elapsed());
        }
        if rest.elapsed() > patience + ran.took * 10 {
            let drift = ran.stdout.lines().take(20).collect::<Vec<_>>().join("\n");
            let said = watch.running.said();
            let last = said.lines().rev().take(10).collect::<Vec<_>>().join("\n");
            let drift = format!("{drift}\nlast said, the newest first:\n{last}");
            return (drift, rest.elapsed());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Of the first and the last third: the most memory, and the fewest open files, which are those at
/// rest: a look may fall into a moment when a program runs.
fn thirds(takes: &[Take]) -> [Take; 2] {
    let third = takes.len().div_ceil(3);
    [&takes[..third], &takes[takes.len() - third..]].map(|part| Take {
        kib: part.iter().map(|take| take.kib).max().unwrap_or(0),
        files: part.iter().map(|take| take.files).min().unwrap_or(0),
    })
}

fn long() -> Duration {
    let seconds = env::var("LAB_TESTS_SOAK_SECONDS").ok();
    Duration::from_secs(
        seconds
            .and_then(|seconds| seconds.parse().ok())
            .unwrap_or(SECONDS),
    )
}

#[test]
fn twenty_seconds() {
    soak(Flavour::Nft, Duration::from_secs(20));
}

#[test]
#[ignore = "it takes minutes: scripts/test runs it"]
fn long_with_nft() {
    soak(Flavour::Nft, long());
}

#[test]
#[ignore = "it takes minutes: scripts/test runs it"]
fn long_with_legacy() {
    soak(Flavour::Legacy, long() / 4);
}
