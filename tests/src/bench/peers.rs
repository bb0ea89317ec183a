//! What others take for as many hosts on one bridge: a plain script of `ip` commands, as tutorials have
//! it, and mininet.

use std::time::Duration;

use super::up::took;
use crate::machine::Machine;

const PATIENCE: Duration = Duration::from_secs(300);

/// Milliseconds.
pub(super) struct Script {
    pub(super) up: f64,
    pub(super) down: f64,
}

/// One command after the other; each pair is made on the node and one end of it moved.
const UP: &str = "\
ip link add br0 type bridge
ip address add 10.244.0.1/16 dev br0
ip link set br0 up
for i in $(seq 1 \"$0\"); do
    ip netns add \"h$i\"
    ip link add \"v$i\" type veth peer name \"e$i\"
    ip link set \"e$i\" netns \"h$i\"
    ip link set \"v$i\" master br0 up
    ip -n \"h$i\" link set \"e$i\" name eth0
    ip -n \"h$i\" address add \"10.244.$((i / 250)).$((i % 250 + 2))/16\" dev eth0
    ip -n \"h$i\" link set eth0 up
    ip -n \"h$i\" link set lo up
    ip -n \"h$i\" route add default via 10.244.0.1
done";

const DOWN: &str = "\
for i in $(seq 1 \"$0\"); do
    ip link delete \"v$i\"
    ip netns delete \"h$i\"
done
ip link delete br0";

/// The script, in a machine of its own.
pub(super) fn script(hosts: usize) -> Script {
    let machine = Machine::start();
    let timed = |text: &str| {
        let hosts = hosts.to_string();
        let words = ["lab-helper", "time", "sh", "-ec", text, &hosts];
        took(&machine.command(words).patience(PATIENCE).run().ok())
    };
    Script {
        up: timed(UP),
        down: timed(DOWN),
    }
}

/// Mininet's hosts on a Linux bridge, made and removed; or in a word why not.
pub(super) fn mininet(hosts: usize) -> Result<f64, String> {
    let machine = Machine::start();
    for program in ["mn", "brctl"] {
        let found = machine
            .command(["sh", "-c", &format!("command -v {program}")])
            .run();
        if found.code() != 0 {
            return Err(format!("no {program}"));
        }
    }
    let topology = format!("--topo=single,{hosts}");
    let words = [
        "lab-helper",
        "time",
        "mn",
        &topology,
        "--switch=lxbr",
        "--controller=none",
        "--test=none",
    ];
    let ran = machine.command(words).patience(PATIENCE).run();
    if ran.code() == 0 {
        Ok(took(&ran))
    } else {
        Err("failed".into())
    }
}
