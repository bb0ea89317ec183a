//! The data path: how long the set-up of a connection takes with many Services.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::{Value, json};

use super::documents::sorted_chain_lines;
use super::first::cost;
use super::generate::{PORT, Scale, Service, TARGET_PORT};
use super::options::Options;
use super::table::{cell, ratio};
use crate::machine::{Flavour, Machine, Running};
use crate::stats::median;

pub(super) const HEAD: &str = "\
Connection set-up in µs: client, node with the rules, server; all Services have
the same endpoint; direct goes to the server's own address, past all rules
                          -- miniproxy --     - the same by restore -     x
Services          first   last direct    first   last direct   first  last";

/// Connections to each address in one round.
const CONNECTS: usize = 400;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 250, 2, 2);
/// A client and a server, each in a namespace beside the node.
const LINKS: &str = "
for side in 1-client 2-server; do
    number=${side%-*} name=${side#*-}
    ip netns add $name
    ip link add to-$name type veth peer name eth0 netns $name
    ip address add 10.250.$number.1/24 dev to-$name
    ip link set to-$name up
    ip -n $name address add 10.250.$number.2/24 dev eth0
    ip -n $name link set lo up
    ip -n $name link set eth0 up
    ip -n $name route add default via 10.250.$number.1
done
sysctl -qw net.ipv4.ip_forward=1
";

/// Medians in µs: to the first Service, to the last one, past all of them.
#[derive(Debug, Clone)]
pub(super) struct Data {
    pub(super) services: usize,
    pub(super) flavour: Flavour,
    pub(super) ours: [f64; 3],
    pub(super) theirs: [f64; 3],
}

impl Data {
    pub(super) fn measured(services: usize, flavour: Flavour, options: &Options, scratch: &Path) -> Self {
        let folder = tempfile::tempdir_in(scratch).expect("our own folder");
        let scale = Scale {
            services,
            endpoints: 1,
        };
        for index in 0..services {
            let mut service = Service::new(index, scale);
            service.endpoints = vec![SERVER];
            fs::write(folder.path().join(service.file_name()), service.text()).expect("our own folder");
        }
        let registry = folder.path().to_str().expect("we chose the name");
        let sides = [true, false].map(|ours| Side::new(flavour, registry, ours, options));
        let mut rounds: [Vec<[f64; 3]>; 2] = Default::default();
        for _ in 0..options.runs {
            // In turn, so that what else the machine does meets both.
            for (side, rounds) in sides.iter().zip(&mut rounds) {
                rounds.push(side.round());
            }
        }
        let middle = |rounds: &[[f64; 3]]| {
            [0, 1, 2].map(|column| median(&rounds.iter().map(|round| round[column]).collect::<Vec<_>>()))
        };
        Self {
            services,
            flavour,
            ours: middle(&rounds[0]),
            theirs: middle(&rounds[1]),
        }
    }

    /// Ours over theirs for the first and the last Service.
    pub(super) fn ratios(&self) -> [Option<f64>; 2] {
        [0, 1].map(|column| ratio(Some(self.ours[column]), Some(self.theirs[column])))
    }

    pub(super) fn line(&self) -> String {
        let three = |values: [f64; 3]| values.map(|value| cell(Some(value), 6, 1)).join(" ");
        let [first, last] = self.ratios().map(|ratio| cell(ratio, 5, 2));
        format!(
            "{:>8} {:<6}  {}   {}   {first} {last}",
            self.services,
            self.flavour.name(),
            three(self.ours),
            three(self.theirs),
        )
    }

    pub(super) fn to_json(&self) -> Value {
        let three =
            |[first, last, direct]: [f64; 3]| json!({ "first": first, "last": last, "direct": direct });
        json!({
            "services": self.services, "iptables": self.flavour.name(),
            "ours": three(self.ours), "theirs": three(self.theirs),
        })
    }
}

/// A machine with the rules, written by us or by iptables-restore.
struct Side {
    machine: Machine,
    addresses: [String; 3],
    /// Runs as long as this is held.
    _server: Running,
}

impl Side {
    fn new(flavour: Flavour, registry: &str, ours: bool, options: &Options) -> Self {
        let machine = Machine::builder().flavour(flavour).start();
        machine.sh(LINKS).ok();
        let wrote = if ours {
            let argv = ["miniproxy", "sync", "--registry", registry];
            cost(&machine, options.limit(), "/dev/null", &argv)
        } else {
            let document = machine.proxy(["render", "--registry", registry]).ok().stdout;
            let file = machine.file("rules", &sorted_chain_lines(&document));
            cost(&machine, options.limit(), &file, &["iptables-restore"])
        };
        assert!(
            wrote.code.is_some(),
            "the rules were not written in {:?}",
            options.limit()
        );
        let listing = machine
            .run(["iptables", "-t", "nat", "-S", "KUBE-SERVICES"])
            .ok()
            .stdout;
        let (first, last) = ends(&listing).expect("the chain leads to Services");
        let any = format!("0.0.0.0:{TARGET_PORT}");
        let server = machine
            .command(["ip", "netns", "exec", "server", "lab-helper", "accept", &any])
            .start();
        server.wait_for("listening");
        Self {
            machine,
            addresses: [
                format!("{first}:{PORT}"),
                format!("{last}:{PORT}"),
                format!("{SERVER}:{TARGET_PORT}"),
            ],
            _server: server,
        }
    }

    fn round(&self) -> [f64; 3] {
        let count = CONNECTS.to_string();
        let words = ["lab-helper", "connects", &count];
        let addresses = self.addresses.iter().map(String::as_str);
        let ran = self
            .machine
            .in_pod("client", words.into_iter().chain(addresses))
            .ok();
        let medians = ran.json();
        [0, 1, 2].map(|index| medians[index].as_f64().expect("a median for each address"))
    }
}

/// The ClusterIPs of the first and the last Service of the dispatch chain.
fn ends(listing: &str) -> Option<(&str, &str)> {
    let mut services = listing
        .lines()
        .filter(|line| line.contains("-j KUBE-SVC-"))
        .filter_map(|line| {
            let (_, rest) = line.split_once("-d ")?;
            rest.split(['/', ' ']).next()
        });
    let first = services.next()?;
    Some((first, services.next_back().unwrap_or(first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_chain() {
        let listing = "-N KUBE-SERVICES\n-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -j KUBE-SVC-A\n\
                       -A KUBE-SERVICES -d 10.96.0.9/32 -p tcp -j KUBE-SVC-B\n-A KUBE-SERVICES -j KUBE-NODEPORTS\n";
        assert_eq!(ends(listing), Some(("10.96.0.1", "10.96.0.9")));
        assert_eq!(ends("-N KUBE-SERVICES\n"), None);
    }

    #[test]
    fn a_line_has_its_columns_below_the_head() {
        let data = Data {
            services: 10_000,
            flavour: Flavour::Legacy,
            ours: [40.3, 288.3, 280.5],
            theirs: [40.0, 290.0, 281.0],
        };
        assert_eq!(
            data.line().len(),
            HEAD.lines().last().unwrap().len(),
            "{}",
            data.line()
        );
    }
}
