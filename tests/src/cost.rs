//! What one command costs: wall time, CPU, and the peak memory of itself, told apart from that of
//! the programs it starts. It runs inside a machine, as `lab-helper cost`, so that the way into the
//! machine is not measured along.

use std::fs::{self, File};
use std::io;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeVal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde_json::{Value, json};

/// What a command did cost; times in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// From its start to its end.
    pub wall: f64,
    /// User and system time of itself and of all that it started and waited for.
    pub cpu: f64,
    /// The system time in it: the kernel's own share.
    pub sys: f64,
    /// The system time of what it started and waited for, to the clock tick.
    pub children_sys: f64,
    /// The peak of its own resident memory, in MiB.
    pub peak: f64,
    /// Its exit code; none when it was ended after its time.
    pub code: Option<i32>,
}

impl Cost {
    /// As JSON, for stdout.
    pub fn to_json(&self) -> Value {
        json!({
            "wall": self.wall, "cpu": self.cpu, "sys": self.sys,
            "children_sys": self.children_sys, "peak": self.peak, "code": self.code,
        })
    }

    /// Back from JSON; what is missing is 0.
    pub fn from_json(value: &Value) -> Self {
        let number = |key: &str| value[key].as_f64().unwrap_or(0.0);
        Self {
            wall: number("wall"),
            cpu: number("cpu"),
            sys: number("sys"),
            children_sys: number("children_sys"),
            peak: number("peak"),
            code: value["code"].as_i64().and_then(|code| code.try_into().ok()),
        }
    }
}

/// Runs a command with these files as its input and output, and ends it after the limit.
///
/// # Errors
/// When it cannot be started.
pub fn measure(limit: Duration, input: &str, output: &str, argv: &[&str]) -> io::Result<Cost> {
    let [program, words @ ..] = argv else {
        return Err(io::Error::other("no command"));
    };
    let mut command = Command::new(program);
    command
        .args(words)
        .stdin(Stdio::from(File::open(input)?))
        .stdout(Stdio::from(File::create(output)?));
    let before = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let began = Instant::now();
    let mut child = command.spawn()?;
    let pid = child.id();
    let ended = AtomicBool::new(false);
    let (wall, stat, peak, over) = thread::scope(|scope| {
        let sampler = scope.spawn(|| sample(pid, &ended, began + limit));
        // It stays a zombie, whose counts can still be read.
        let waited = waitid(Id::Pid(to_pid(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let wall = began.elapsed();
        ended.store(true, Ordering::Relaxed);
        waited?;
        let (peak, over) = sampler.join().expect("it does not panic");
        io::Result::Ok((wall, Stat::of(pid), peak, over))
    })?;
    let status = child.wait()?;
    let after = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let sys = seconds(after.system_time()) - seconds(before.system_time());
    Ok(Cost {
        wall: wall.as_secs_f64(),
        cpu: sys + seconds(after.user_time()) - seconds(before.user_time()),
        sys,
        children_sys: stat.map_or(0.0, |stat| stat.children_sys),
        peak,
        code: if over { None } else { status.code() },
    })
}

/// The last sight of its peak, and whether it had to be ended. `wait4` cannot tell: the peak that it
/// reports is that of the largest of a process and all its children.
fn sample(pid: u32, ended: &AtomicBool, end: Instant) -> (f64, bool) {
    let mut peak = 0.0;
    while !ended.load(Ordering::Relaxed) {
        peak = peak_mib(pid).unwrap_or(peak);
        if Instant::now() >= end {
            let _ = kill(to_pid(pid), Signal::SIGKILL);
            return (peak, true);
        }
        thread::sleep(Duration::from_millis(1));
    }
    (peak, false)
}

/// The highest resident memory that a process had so far, in MiB.
pub fn peak_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

/// CPU seconds of a process, to the clock tick.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stat {
    /// Of itself and of the children that it has waited for.
    pub all: f64,
    /// What the kernel took for those children.
    pub children_sys: f64,
}

impl Stat {
    /// What `/proc/PID/stat` tells.
    pub fn of(pid: u32) -> Option<Self> {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten()?;
        #[expect(clippy::cast_precision_loss, reason = "100, not 2^52")]
        Self::read(
            &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?,
            ticks as f64,
        )
    }

    fn read(line: &str, ticks: f64) -> Option<Self> {
        // The second field is the program's name, which may hold anything.
        let (_, rest) = line.rsplit_once(')')?;
        let fields = rest.split_whitespace().skip(11).take(4);
        let [user, sys, user_children, sys_children]: [f64; 4] = fields
            .map(|field| field.parse().ok())
            .collect::<Option<Vec<_>>>()?
            .try_into()
            .ok()?;
        Some(Self {
            all: (user + sys + user_children + sys_children) / ticks,
            children_sys: sys_children / ticks,
        })
    }
}

/// A process as `nix` names it.
pub fn to_pid(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}

fn seconds(time: TimeVal) -> f64 {
    Duration::new(
        u64::try_from(time.tv_sec()).unwrap_or(0),
        u32::try_from(time.tv_usec() * 1000).unwrap_or(0),
    )
    .as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_behind_the_name() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 300 100 20 0 1 0 99 5 6";
        let stat = Stat::read(line, 100.0).unwrap();
        assert_eq!(
            stat,
            Stat {
                all: 6.0,
                children_sys: 1.0
            }
        );
        assert_eq!(Stat::read("7 (a) S 1", 100.0), None);
    }

    #[test]
    fn a_command_is_measured_and_ended_after_its_time() {
        let limit = Duration::from_secs(30);
        let cost = measure(
            limit,
            "/dev/null",
            "/dev/null",
            &["sh", "-c", "sleep 0.05; exit 3"],
        )
        .unwrap();
        assert!(cost.wall >= 0.05 && cost.peak > 0.1, "{cost:?}");
        assert_eq!(cost.code, Some(3));
        assert_eq!(Cost::from_json(&cost.to_json()), cost);
        let limit = Duration::from_millis(50);
        let cost = measure(limit, "/dev/null", "/dev/null", &["sleep", "20"]).unwrap();
        assert!(cost.wall < 10.0, "{cost:?}");
        assert_eq!(cost.code, None);
    }
}
