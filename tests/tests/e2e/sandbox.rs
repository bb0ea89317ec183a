//! `netns-lab sandbox`: the whole main job without root, and nothing left of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use lab_tests::machine::eventually;
use lab_tests::programs::{self, SYSTEM_PATH};
use lab_tests::run::{Ran, run};
use nix::unistd::Uid;
use tempfile::TempDir;

/// The main job, as the README shows it.
const MAIN_JOB: &str = "
set -eu
test \"$(id -u)\" = 0
netns-lab up 3-pods
! curl -s --max-time 1 10.96.0.80
miniproxy sync
iptables -t nat -L KUBE-SERVICES -n
for i in 1 2 3 4 5 6 7 8 9 10; do curl -sS --max-time 5 10.96.0.80; done
lab-helper load http 10.96.0.80:80 300
netns-lab exec web-1 -- curl -sS --max-time 5 10.96.0.80
netns-lab exec web-1 -- hostname
netns-lab run web-1 --name side -- sleep 1000
netns-lab exec web-1 -c side -- grep -q 'CapEff:.0000000000000000' /proc/self/status
netns-lab exec web-1 -c side -- curl -sS --max-time 5 127.0.0.1:8080
! netns-lab exec web-1 -c side -- ip link set eth0 down 2>/dev/null
miniproxy cleanup
netns-lab down
! ip link show cni0 2>/dev/null
echo finished
";

/// Programs that a plain user can reach, wherever the build folder lies.
fn programs_for_all() -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("sandbox-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .unwrap();
    for (path, name) in [
        (programs::netns_lab(), "netns-lab"),
        (programs::miniproxy(), "miniproxy"),
        (programs::helper(), "lab-helper"),
    ] {
        fs::copy(path, folder.path().join(name)).unwrap();
    }
    folder
}

/// Runs a command as a user without any privilege: as oneself, or as nobody if that is root.
fn as_plain_user(folder: &TempDir, argv: &[&str], input: &str) -> Ran {
    let mut command = if Uid::effective().is_root() {
        let mut command = Command::new(programs::tool("setpriv"));
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            "--",
        ]);
        command
    } else {
        Command::new(programs::tool("env"))
    };
    command
        .args(argv)
        .env("PATH", format!("{}:{SYSTEM_PATH}", folder.path().display()))
        .env("HOME", "/")
        .env("NO_COLOR", "1")
        .current_dir("/");
    run(command, argv.join(" "), input.as_bytes(), Duration::from_secs(60))
}

#[test]
fn the_main_job_without_root() {
    let folder = programs_for_all();
    as_plain_user(&folder, &["netns-lab", "sandbox", "--", "sh", "-c", MAIN_JOB], "")
        .ok()
        .says("KUBE-SVC-")
        .says("sees you as 10.244.0.1:")
        .says("\"failures\":{}")
        .says("finished");
}

/// Several nodes, a name server and packets across nodes.
const NODES_JOB: &str = "
set -eu
netns-lab up 2-nodes-4-pods
miniproxy sync
netns-lab exec web-1 -- curl -sS --max-time 5 http://web
netns-lab exec web-1 -- curl -sS --max-time 5 10.96.0.80
netns-lab exec node-2 -- curl -sS --max-time 5 10.96.0.80
netns-lab status
netns-lab down
echo finished
";

#[test]
fn several_nodes_without_root() {
    let folder = programs_for_all();
    as_plain_user(
        &folder,
        &["netns-lab", "sandbox", "--", "sh", "-c", NODES_JOB],
        "",
    )
    .ok()
    .says("2 nodes, 4 pods, 4 ready")
    .says("finished");
}

/// Namespaces as `unshare` makes them, where one user exists and no process has a view of its own.
#[test]
fn a_bare_namespace_will_do() {
    let folder = programs_for_all();
    let script = "mount -t tmpfs tmpfs /run && netns-lab up 2-pods && netns-lab exec web-1 -c app -- id -u && netns-lab down";
    as_plain_user(&folder, &["unshare", "-Urnm", "sh", "-euc", script], "")
        .ok()
        .says("2 pods, 2 ready");
}

#[test]
fn a_shell_reads_from_a_pipe_and_passes_its_exit_code() {
    let folder = programs_for_all();
    as_plain_user(&folder, &["netns-lab", "sandbox"], "echo hello\nexit 7\n")
        .exits(7)
        .says("hello");
    as_plain_user(&folder, &["netns-lab", "sandbox", "--", "sh", "-c", "exit 3"], "").exits(3);
    as_plain_user(&folder, &["netns-lab", "sandbox", "--", "/no/such"], "").exits(127);
    let echoed = as_plain_user(&folder, &["netns-lab", "sandbox", "--", "cat"], "two\nlines").ok();
    assert_eq!(echoed.stdout, "two\nlines");
}

#[test]
fn it_is_a_machine_of_its_own() {
    let folder = programs_for_all();
    let mine = fs::read_link("/proc/self/ns/net").unwrap();
    let look = "readlink /proc/self/ns/net; ip -o link | wc -l; ip route | wc -l; ls -A /run; echo pids: $(ls /proc | grep -c '^[0-9]')";
    let ran = as_plain_user(&folder, &["netns-lab", "sandbox", "--", "sh", "-c", look], "").ok();
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_ne!(lines[0], mine.to_str().unwrap());
    assert_eq!(lines[1].trim(), "1", "only lo: {ran}");
    assert_eq!(lines[2].trim(), "0", "no route leads out: {ran}");
    as_plain_user(
        &folder,
        &[
            "netns-lab",
            "sandbox",
            "--",
            "sh",
            "-c",
            "ip link set lo up && ip -br link show lo",
        ],
        "",
    )
    .ok()
    .says("LOOPBACK,UP");
}

/// Whatever was started in it ends with it, even if its own end was a `kill -9`.
#[test]
fn it_vanishes_with_all_that_was_in_it() {
    let folder = programs_for_all();
    let ran = as_plain_user(
        &folder,
        &[
            "netns-lab",
            "sandbox",
            "--",
            "sh",
            "-c",
            "netns-lab up 3-pods >/dev/null; readlink /proc/self/ns/net",
        ],
        "",
    )
    .ok();
    let namespace = ran.stdout.lines().last().unwrap().to_string();
    eventually("no process is left in the sandbox's network", || {
        none_in(&namespace)
    });
    let ran = as_plain_user(
        &folder,
        &[
            "netns-lab",
            "sandbox",
            "--",
            "sh",
            "-c",
            "netns-lab up 3-pods >/dev/null; readlink /proc/self/ns/net; kill -9 $$",
        ],
        "",
    );
    assert_eq!(ran.code(), 137, "{ran}");
    let namespace = ran.stdout.lines().last().unwrap().to_string();
    eventually("no process is left after kill -9", || none_in(&namespace));
    assert!(
        !fs::exists("/run/netns-lab").unwrap(),
        "the host's /run was written to"
    );
}

fn none_in(namespace: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().all(|entry| {
        fs::read_link(entry.path().join("ns/net")).map_or(true, |net| net.to_string_lossy() != namespace)
    })
}

/// A sandbox inside a sandbox, and one for root.
#[test]
fn it_works_in_itself() {
    let folder = programs_for_all();
    let inner = "netns-lab sandbox -- sh -c 'netns-lab up 2-pods && miniproxy sync && curl -sS --max-time 5 10.96.0.80'";
    as_plain_user(&folder, &["netns-lab", "sandbox", "--", "sh", "-c", inner], "")
        .ok()
        .says("sees you as");
}

#[test]
fn doctor_finds_all_well_in_it() {
    let folder = programs_for_all();
    as_plain_user(
        &folder,
        &["netns-lab", "sandbox", "--", "netns-lab", "doctor"],
        "",
    )
    .ok();
}
