//! A private machine: fresh network, mount, process, host-name and IPC namespaces.
//!
//! It is made by `unshare` and entered by `nsenter`, plain programs that know nothing of ours. For
//! root it has no user namespace, so that the programs meet what they meet under `sudo`; for a plain
//! user it has one, with root's powers inside only.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;

use crate::programs::{self, SYSTEM_PATH};
use crate::run::{PATIENCE, Ran, run, wait, wait_for};
use crate::uplink::Uplink;
use crate::{foreign, uplink};

/// Which kernel interface plain `iptables` writes to in a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// iptables-nft.
    Nft,
    /// iptables-legacy.
    Legacy,
}

/// Each flavour, for tests that hold under both.
pub const FLAVOURS: [Flavour; 2] = [Flavour::Nft, Flavour::Legacy];

impl Flavour {
    /// `nft` or `legacy`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }
}

/// What a machine has before any of our programs ran in it.
#[derive(Debug, Clone)]
pub struct Builder {
    flavour: Flavour,
    docker: bool,
    foreign_rules: usize,
    uplink: bool,
}

impl Builder {
    /// Plain `iptables` is this flavour (nft unless said).
    #[must_use]
    pub fn flavour(mut self, flavour: Flavour) -> Self {
        self.flavour = flavour;
        self
    }

    /// A bridge `docker0` and the rules that Docker makes, with FORWARD's policy at DROP.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// This many rules of somebody else.
    #[must_use]
    pub fn foreign_rules(mut self, count: usize) -> Self {
        self.foreign_rules = count;
        self
    }

    /// A default route to another network namespace that counts what arrives there.
    #[must_use]
    pub fn uplink(mut self) -> Self {
        self.uplink = true;
        self
    }

    /// Starts it.
    #[must_use]
    pub fn start(self) -> Machine {
        let mut machine = Machine::boot(self.flavour);
        if self.flavour == Flavour::Legacy {
            machine.touch_legacy_tables();
        }
        if self.docker {
            machine.sh(foreign::DOCKER_LINKS).ok();
            machine.restore(foreign::DOCKER_RULES);
        }
        if self.foreign_rules > 0 {
            for rules in foreign::rules(self.foreign_rules) {
                machine.restore(&rules);
            }
        }
        if self.uplink {
            machine.uplink = Some(uplink::attach(&machine));
        }
        machine
    }
}

/// A running machine. Dropping it ends every process in it, and so frees all it had.
#[derive(Debug)]
pub struct Machine {
    holder: Child,
    pid: String,
    path: String,
    shims: TempDir,
    flavour: Flavour,
    uplink: Option<Uplink>,
}

/// The first process's errand: `/run` and `/proc` of its own, and `lo`.
///
/// The lock file of iptables-legacy is made by its first call and then stays; made here, it is no
/// difference between before and after. `sysfs` shows the network namespace of whoever mounts it.
const SETUP: &str = "
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount -t sysfs sysfs /sys
touch /run/xtables.lock
ip link set lo up
";

impl Machine {
    /// An empty machine under iptables-nft.
    #[must_use]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A machine with something in it.
    pub fn builder() -> Builder {
        Builder {
            flavour: Flavour::Nft,
            docker: false,
            foreign_rules: 0,
            uplink: false,
        }
    }

    fn boot(flavour: Flavour) -> Self {
        let shims = shims(flavour);
        let path = format!("{}:{SYSTEM_PATH}", shims.path().display());
        let mut unshare = Command::new(programs::tool("unshare"));
        if !Uid::effective().is_root() {
            // In a call of its own: a network namespace that is older than its user namespace's maps
            // has files in /proc that nobody inside may read.
            unshare.args(["-U", "-r", "--"]).arg(programs::tool("unshare"));
        }
        unshare
            .args(["-n", "-m", "-p", "-u", "-i", "--fork", "--kill-child"])
            .arg(programs::helper())
            .args(["init", SETUP])
            .env("PATH", &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut holder = unshare.spawn().expect("unshare starts");
        let mut said = String::new();
        let _ = BufReader::new(holder.stdout.take().expect("a pipe")).read_line(&mut said);
        let Some(pid) = said.strip_prefix("ready ") else {
            let output = holder.wait_with_output().expect("it has ended");
            panic!(
                "no private machine could be made: {}\n\
                 It takes root, or a user who may make user namespaces (see README).",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        Self {
            holder,
            pid: pid.trim().to_string(),
            path,
            shims,
            flavour,
            uplink: None,
        }
    }

    /// A legacy table comes into being when it is first asked for, with empty chains, and stays as
    /// long as the network namespace: the kernel has no call to remove one. Whoever wants to compare
    /// dumps must have asked before.
    fn touch_legacy_tables(&self) {
        for program in ["iptables", "ip6tables"] {
            for table in ["filter", "nat", "mangle"] {
                self.run([program, "-t", table, "-S"]).ok();
            }
        }
    }

    /// Which iptables it has.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// The namespace beside it.
    ///
    /// # Panics
    /// When it was built without one.
    pub fn uplink(&self) -> &Uplink {
        self.uplink.as_ref().expect("built with .uplink()")
    }

    /// A folder that the machine sees too.
    pub fn folder(&self) -> &Path {
        self.shims.path()
    }

    /// Writes a file that the machine sees and returns its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.shims.path().join(name);
        fs::write(&path, text).expect("our own folder");
        path.to_str().expect("we chose the name").to_string()
    }

    /// A command line to run in it.
    pub fn command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, argv: I) -> Inside<'_> {
        let mut nsenter = Command::new(programs::tool("nsenter"));
        nsenter.args(["-t", &self.pid, "-n", "-m", "-p", "-u", "-i"]);
        if !Uid::effective().is_root() {
            nsenter.args(["-U", "--preserve-credentials"]);
        }
        nsenter.arg("--");
        let mut line = String::new();
        for word in argv {
            nsenter.arg(&word);
            line.push_str(&word.as_ref().to_string_lossy());
            line.push(' ');
        }
        nsenter
            .env("PATH", &self.path)
            .env("NO_COLOR", "1")
            .env_remove("LOG");
        // So that a program asks the machine's own terminal-less surroundings, not the tester's.
        nsenter.env_remove("SUDO_UID").env("LC_ALL", "C.UTF-8");
        Inside {
            machine: self,
            command: nsenter,
            line,
            input: Vec::new(),
            patience: PATIENCE,
        }
    }

    /// Runs a command line in it.
    #[track_caller]
    pub fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, argv: I) -> Ran {
        self.command(argv).run()
    }

    /// Runs a script of plain shell in it, stopping at the first failure.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Ran {
        self.run(["sh", "-euc", script])
    }

    /// Runs a command line in a pod by `ip netns exec`, which knows nothing of netns-lab.
    #[track_caller]
    pub fn in_pod<'a>(&self, pod: &'a str, argv: impl IntoIterator<Item = &'a str>) -> Ran {
        self.run(["ip", "netns", "exec", pod].into_iter().chain(argv))
    }

    /// `netns-lab` with these words.
    #[track_caller]
    pub fn lab<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Ran {
        self.run(["netns-lab"].into_iter().chain(words))
    }

    /// `miniproxy` with these words.
    #[track_caller]
    pub fn proxy<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Ran {
        self.run(["miniproxy"].into_iter().chain(words))
    }

    /// Loads rules with `iptables-restore --noflush`.
    #[track_caller]
    pub fn restore(&self, rules: &str) {
        self.command(["iptables-restore", "--noflush"])
            .input(rules)
            .run()
            .ok();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The first process reads its end there, and with it every other one ends.
        drop(self.holder.stdin.take());
        if wait(&mut self.holder, Instant::now() + Duration::from_secs(10)).is_none() {
            let _ = self.holder.kill();
            let _ = self.holder.wait();
        }
    }
}

/// A command line in a machine, about to run.
#[derive(Debug)]
pub struct Inside<'a> {
    machine: &'a Machine,
    command: Command,
    line: String,
    input: Vec<u8>,
    patience: Duration,
}

impl Inside<'_> {
    /// What it reads from stdin; nothing unless said.
    #[must_use]
    pub fn input(mut self, text: &str) -> Self {
        self.input = text.as_bytes().to_vec();
        self
    }

    /// An environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(self) -> Ran {
        run(self.command, self.line, &self.input, self.patience)
    }

    /// Starts it and leaves it running.
    #[must_use]
    pub fn start(mut self) -> Running {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("nsenter starts");
        let said = Arc::new(Mutex::new(String::new()));
        follow(child.stdout.take().expect("a pipe"), Arc::clone(&said));
        follow(child.stderr.take().expect("a pipe"), Arc::clone(&said));
        let _ = self.machine;
        Running {
            child,
            line: self.line,
            said,
        }
    }
}

/// A command that runs in a machine meanwhile; dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
    said: Arc<Mutex<String>>,
}

impl Running {
    /// All it wrote so far, to stdout and stderr.
    pub fn said(&self) -> String {
        self.said.lock().expect("nobody panics with it").clone()
    }

    /// Waits until it has said this.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        self.wait_for_times(text, 1);
    }

    /// Waits until it has said this so many times.
    #[track_caller]
    pub fn wait_for_times(&self, text: &str, times: usize) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.said().matches(text).count() < times {
            assert!(
                Instant::now() < end,
                "`{}` never said {text:?}:\n{}",
                self.line,
                self.said()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Closes its stdin.
    pub fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Sends a signal to the program (not to the `nsenter` that waits for it).
    pub fn signal(&self, signal: Signal) {
        // Asked a moment after its start, `nsenter` may not have forked yet.
        let end = Instant::now() + Duration::from_millis(500);
        while Instant::now() < end {
            if let Some(pid) = self.inner_pid() {
                let _ = kill(pid, signal);
                return;
            }
        }
    }

    /// Waits for its end and returns its exit code.
    #[track_caller]
    pub fn end(&mut self, patience: Duration) -> i32 {
        let status = wait(&mut self.child, Instant::now() + patience).unwrap_or_else(|| {
            panic!(
                "`{}` did not end within {patience:?}:\n{}",
                self.line,
                self.said()
            )
        });
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// Ends it as `systemctl stop` or Ctrl-C would, and returns its exit code.
    #[track_caller]
    pub fn stop(mut self, signal: Signal) -> i32 {
        self.signal(signal);
        self.end(Duration::from_secs(10))
    }

    /// The one child of `nsenter`, as the tests' own namespace names it.
    pub fn inner_pid(&self) -> Option<Pid> {
        let me = self.child.id();
        let children = fs::read_to_string(format!("/proc/{me}/task/{me}/children")).ok()?;
        children
            .split_whitespace()
            .next()?
            .parse()
            .ok()
            .map(Pid::from_raw)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::SIGKILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn follow(from: impl std::io::Read + Send + 'static, into: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut said = into.lock().expect("nobody panics with it");
            said.push_str(&line);
            said.push('\n');
        }
    });
}

/// A folder at the head of `PATH`: our programs by their names, `iptables` in the wanted flavour,
/// and a `sudo` that has nothing to do.
fn shims(flavour: Flavour) -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("machine-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .expect("a temporary folder");
    let link = |target: PathBuf, name: &str| {
        symlink(target, folder.path().join(name)).expect("an empty folder");
    };
    link(programs::netns_lab(), "netns-lab");
    link(programs::miniproxy(), "miniproxy");
    link(programs::helper(), "lab-helper");
    for family in ["iptables", "ip6tables"] {
        for suffix in ["", "-save", "-restore"] {
            let tool = programs::tool(&format!("{family}-{}{suffix}", flavour.name()));
            link(tool, &format!("{family}{suffix}"));
        }
    }
    let sudo = folder.path().join("sudo");
    fs::write(&sudo, "#!/bin/sh\nexec \"$@\"\n").expect("our own folder");
    fs::set_permissions(&sudo, fs::Permissions::from_mode(0o755)).expect("our own file");
    folder
}

/// Waits until something holds in a machine, for what the kernel does a moment later.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, Duration::from_secs(10), || holds().then_some(()));
}
