//! A network beside the machine, behind its default route: what arrives there has left the lab.

use std::time::Duration;

use crate::machine::{Machine, Running};
use crate::run::Ran;

/// The machine's own address on the way out.
pub const NODE_ADDRESS: &str = "192.0.2.2";
/// The router's address; `lab-helper whoami` listens there on TCP 7.
pub const ROUTER_ADDRESS: &str = "192.0.2.1";

/// The namespace, held by a process of the machine.
#[derive(Debug)]
pub struct Uplink {
    holder: Running,
}

/// Both ends know each other's MAC for good and speak no IPv6, so that the count of packets is zero
/// unless somebody really sends one.
const WIRE: &str = "
ip link add uplink0 address 02:00:00:00:00:02 type veth peer name eth0 address 02:00:00:00:00:01 netns $1
sysctl -qw net.ipv6.conf.uplink0.disable_ipv6=1
nsenter -t $1 -n sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1
nsenter -t $1 -n ip address add 192.0.2.1/30 dev eth0
nsenter -t $1 -n ip link set eth0 up
nsenter -t $1 -n ip neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent
ip address add 192.0.2.2/30 dev uplink0
ip link set uplink0 up
ip neighbour add 192.0.2.1 lladdr 02:00:00:00:00:01 dev uplink0 nud permanent
ip route add default via 192.0.2.1
";

/// Makes the namespace, the wire and the default route.
pub(crate) fn attach(machine: &Machine) -> Uplink {
    let holder = machine
        .command([
            "unshare",
            "-n",
            "sh",
            "-euc",
            "ip link set lo up; exec lab-helper whoami 0.0.0.0:7",
        ])
        .start();
    holder.wait_for("listening as ");
    let uplink = Uplink { holder };
    machine.run(["sh", "-euc", WIRE, "wire", &uplink.pid()]).ok();
    uplink
}

impl Uplink {
    /// Runs a command there: a client from outside of the cluster, whose packets for addresses beyond
    /// the wire go to the machine.
    #[track_caller]
    pub fn run(&self, machine: &Machine, argv: &[&str]) -> Ran {
        let pid = self.pid();
        let enter = ["nsenter", "-t", &pid, "-n"];
        let route = ["ip", "route", "replace", "default", "via", NODE_ADDRESS];
        machine.run(enter.iter().chain(&route)).ok();
        machine.run(enter.iter().chain(argv))
    }

    /// How many packets have arrived there, by the link's own counter.
    pub fn packets(&self, machine: &Machine) -> u64 {
        // A packet sent a moment ago may still be on its way.
        std::thread::sleep(Duration::from_millis(50));
        let links = machine
            .run([
                "nsenter",
                "-t",
                &self.pid(),
                "-n",
                "ip",
                "-j",
                "-s",
                "link",
                "show",
                "eth0",
            ])
            .ok()
            .json();
        links[0]["stats64"]["rx"]["packets"].as_u64().expect("a count")
    }

    /// The process in it, as the machine numbers it.
    fn pid(&self) -> String {
        let said = self.holder.said();
        let rest = said.split("listening as ").nth(1).expect("it listens");
        rest.split_whitespace().next().expect("a number").to_string()
    }
}
