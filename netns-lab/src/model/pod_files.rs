//! The files that a process in a pod sees in `/etc`.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::ledger::{Ledger, Pod};
use super::name::Label;
use super::node::Machine;

/// Names and contents of a pod's files.
pub fn all(ledger: &Ledger, pod: &Pod) -> [(&'static str, String); 3] {
    [
        ("hostname", format!("{}\n", pod.spec.name)),
        ("hosts", hosts(ledger, pod)),
        ("resolv.conf", RESOLV_CONF.to_string()),
    ]
}

/// Without a `nameserver` line the resolver asks 127.0.0.1, where nobody listens, and so says at
/// once that it knows no name, instead of after half a minute.
const RESOLV_CONF: &str = "# There is no name server in this lab; /etc/hosts has the pods.\n";

/// The same of a node or of the host outside. Neither knows the pods' names, as on a real one.
pub fn of_machine(ledger: &Ledger, name: &Label, machine: &Machine) -> [(&'static str, String); 3] {
    let mut text = LOCALHOST.to_string();
    text.push_str(&lines(machine.ip, machine.ip6, name.as_str()));
    for (host, other) in ledger.lab.machines().filter(|(_, other)| *other != machine) {
        text.push_str(&lines(other.ip, other.ip6, &host.to_string()));
    }
    [
        ("hostname", format!("{name}\n")),
        ("hosts", text),
        ("resolv.conf", RESOLV_CONF.to_string()),
    ]
}

const LOCALHOST: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n";

fn lines(ip: Ipv4Addr, ip6: Option<Ipv6Addr>, name: &str) -> String {
    let second = ip6.map_or_else(String::new, |ip| format!("{ip}\t{name}\n"));
    format!("{ip}\t{name}\n{second}")
}

fn hosts(ledger: &Ledger, pod: &Pod) -> String {
    let own = lines(pod.ip, pod.ip6, pod.spec.name.as_str());
    let others = ledger.pods.iter().map(|record| &record.pod);
    let others = others
        .filter(|other| other.spec.name != pod.spec.name)
        .map(|other| lines(other.ip, other.ip6, other.spec.name.as_str()));
    format!("{LOCALHOST}{own}{}", others.collect::<String>())
}
