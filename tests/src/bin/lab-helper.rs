//! The harness's own part inside a machine: its first process, a client, a server.

use std::env;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::process::{Command, ExitCode, Stdio, exit};
use std::thread;
use std::time::{Duration, Instant};

use lab_tests::load::{self, Plan, Protocol, say};
use lab_tests::resolve::resolve;
use lab_tests::steady::steady;
use lab_tests::talk::talk;
use lab_tests::{changes, connects, cost, floor};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde_json::Value;

const USAGE: &str = "lab-helper init SETUP-SCRIPT
lab-helper load|hold http|tcp|udp ADDRESS:PORT COUNT [CONCURRENCY [TIMEOUT-MS]]
lab-helper talk ADDRESS:PORT SOURCE-PORT
lab-helper steady http|tcp|udp ADDRESS:PORT...
lab-helper whoami ADDRESS:PORT
lab-helper floor PODS [NODES]
lab-helper time COMMAND...
lab-helper cost SECONDS INPUT OUTPUT COMMAND...
lab-helper changes < PLAN
lab-helper accept ADDRESS:PORT
lab-helper connects COUNT ADDRESS:PORT...
lab-helper resolve SERVER TYPE NAME [SEARCH-DOMAIN...]";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["init", setup] => init(setup),
        [verb @ ("load" | "hold"), rest @ ..] => match plan(rest) {
            Some(plan) if *verb == "load" => say(&load::run(&plan).to_json().to_string()),
            Some(plan) => {
                allow_many_files();
                say(&load::hold(&plan).to_string());
            }
            None => return usage(),
        },
        ["talk", target, source] => match (target.parse(), source.parse()) {
            (Ok(target), Ok(source)) => talk(target, source),
            _ => return usage(),
        },
        ["steady", protocol, targets @ ..] => {
            let targets: Result<Vec<SocketAddr>, _> = targets.iter().map(|word| word.parse()).collect();
            match (Protocol::named(protocol), targets) {
                (Some(protocol), Ok(targets)) => say(&steady(protocol, &targets).to_string()),
                _ => return usage(),
            }
        }
        ["resolve", server, kind, name, search @ ..] => match server.parse() {
            Ok(server) => say(&resolve(server, kind, name, search).to_string()),
            Err(_) => return usage(),
        },
        ["whoami", address] => whoami(address),
        ["floor", pods, nodes @ ..] => match (pods.parse(), nodes.first().map(|nodes| nodes.parse())) {
            (Ok(pods), None) => measure_floor(pods, None),
            (Ok(pods), Some(Ok(nodes))) => measure_floor(pods, Some(nodes)),
            _ => return usage(),
        },
        ["time", program, rest @ ..] => return time(program, rest),
        ["cost" | "changes" | "accept" | "connects", ..] => return measured(&words),
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    let _ = writeln!(io::stderr(), "{USAGE}");
    ExitCode::from(2)
}

fn plan(words: &[&str]) -> Option<Plan> {
    let [protocol, target, count, rest @ ..] = words else {
        return None;
    };
    let number = |index: usize, default: usize| match rest.get(index) {
        Some(word) => word.parse().ok(),
        None => Some(default),
    };
    Some(Plan {
        protocol: Protocol::named(protocol)?,
        target: target.parse().ok()?,
        count: count.parse().ok()?,
        concurrency: number(0, 16)?,
        timeout: Duration::from_millis(number(1, 5000)? as u64),
    })
}

/// The first process of a machine: sets it up, then buries the dead until its stdin ends. When the
/// test that made it ends for whatever reason, so does its stdin, and the kernel ends all the rest.
fn init(setup: &str) -> ! {
    // `/proc` is still the outer one and names us as the outside does.
    let outside = std::fs::read_link("/proc/self").expect("/proc is mounted");
    let done = Command::new("sh")
        .args(["-euc", setup])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .expect("sh starts");
    if !done.success() {
        exit(1);
    }
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    // Before the thread, so that it has it blocked too and `wait` below is the only taker.
    children.thread_block().expect("a valid signal set");
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        exit(0);
    });
    say(&format!("ready {}", outside.display()));
    loop {
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|found| found != WaitStatus::StillAlive) {}
        let _ = children.wait();
    }
}

fn allow_many_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Tells every caller the address it is seen as; says its own process number first.
fn whoami(address: &str) {
    let listener = TcpListener::bind(address).expect("a free port");
    say(&format!("listening as {}", std::process::id()));
    for stream in listener.incoming().flatten() {
        let Ok(peer) = stream.peer_addr() else { continue };
        let mut line = String::new();
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let mut stream = BufReader::new(stream);
        let _ = stream.read_line(&mut line);
        let _ = writeln!(stream.get_mut(), "router (192.0.2.1) sees you as {peer}");
    }
}

/// Makes the floor, and takes it away when stdin ends; the times of both, in ms.
fn measure_floor(pods: usize, nodes: Option<usize>) {
    let milliseconds = |took: Duration| took.as_secs_f64() * 1e3;
    say(&format!("up {:.2}", milliseconds(floor::up(pods, nodes))));
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    say(&format!("down {:.2}", milliseconds(floor::down(pods, nodes))));
}

/// The measures of `scripts/bench sync`, as JSON on stdout.
fn measured(words: &[&str]) -> ExitCode {
    let found = match words {
        ["cost", seconds, input, output, argv @ ..] => seconds
            .parse()
            .map_err(io::Error::other)
            .and_then(|seconds| cost::measure(Duration::from_secs(seconds), input, output, argv))
            .map(|cost| cost.to_json()),
        ["changes"] => serde_json::from_reader(io::stdin())
            .map_err(io::Error::other)
            .and_then(|plan: Value| changes::run(&plan)),
        ["accept", address] => connects::accept(address).map(|()| Value::Null),
        ["connects", count, addresses @ ..] => {
            let addresses: Result<Vec<SocketAddr>, _> = addresses.iter().map(|word| word.parse()).collect();
            match (count.parse(), addresses) {
                (Ok(count), Ok(addresses)) => connects::medians(count, &addresses).map(Value::from),
                _ => return usage(),
            }
        }
        _ => return usage(),
    };
    match found {
        Ok(found) => say(&found.to_string()),
        Err(error) => {
            let _ = writeln!(io::stderr(), "lab-helper {}: {error}", words[0]);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Runs a command and says on stdout how long it took, from before it starts until it has ended.
/// The command's own output goes to stderr.
fn time(program: &str, words: &[&str]) -> ExitCode {
    let stderr = io::stderr().as_fd().try_clone_to_owned().expect("stderr is open");
    let begin = Instant::now();
    let status = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(stderr)
        .status();
    let took = begin.elapsed();
    say(&format!("took {:.2}", took.as_secs_f64() * 1e3));
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
