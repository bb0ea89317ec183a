//! Random changes of a thousand Services, of somebody else's rules, and of ours by somebody's hand.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use lab_tests::machine::Machine;
use serde_json::{Value, json};

/// Services that are called all the time, over the pods of a lab.
pub(crate) const LIVE: u16 = 6;
/// Pods of the lab; each serves all the time, listed or not.
pub(crate) const PODS: u16 = 6;
/// splitmix64: the same seed makes the same changes.
pub(crate) struct Dice(pub u64);

impl Dice {
    /// Below the limit.
    pub(crate) fn below(&mut self, limit: u16) -> u16 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let part = (mixed ^ (mixed >> 31)) % u64::from(limit.max(1));
        u16::try_from(part).unwrap_or_default()
    }
}

/// A Service that nobody calls.
#[derive(Clone)]
struct Cold {
    address: u16,
    endpoints: Vec<u16>,
    there: bool,
}

/// Where a rule of somebody else goes: table, chain, first (or last).
const FOREIGN: [(&str, &str, bool); 6] = [
    ("filter", "INPUT", true),
    ("filter", "FORWARD", false),
    ("filter", "OUTPUT", false),
    ("nat", "PREROUTING", true),
    ("nat", "OUTPUT", false),
    ("nat", "POSTROUTING", true),
];

/// The registry and the rules of others, as the changes have left them.
pub(crate) struct World<'a> {
    machine: &'a Machine,
    folder: PathBuf,
    dice: Dice,
    cold: Vec<Cold>,
    /// Cold Services whose file is bad now.
    broken: Vec<u16>,
    /// Rules of others: number, place.
    foreign: Vec<(u16, usize)>,
    next_address: u16,
    next_foreign: u16,
    /// How many of each kind of change were made.
    pub(crate) made: BTreeMap<&'static str, usize>,
}

impl<'a> World<'a> {
    /// A registry of so many files.
    pub(crate) fn new(machine: &'a Machine, services: u16, seed: u64) -> Self {
        let cold = services - LIVE;
        let folder = machine.folder().join("registry");
        fs::create_dir(&folder).expect("our own folder");
        let mut world = Self {
            machine,
            folder,
            dice: Dice(seed),
            cold: Vec::new(),
            broken: Vec::new(),
            foreign: Vec::new(),
            next_address: cold,
            next_foreign: 0,
            made: BTreeMap::new(),
        };
        for number in 0..LIVE {
            let pods: Vec<u16> = (0..PODS).collect();
            world.publish(&format!("live-{number}"), &live(number, &pods));
        }
        for number in 0..cold {
            let endpoints = world.some_endpoints();
            world.cold.push(Cold {
                address: number,
                endpoints,
                there: true,
            });
            world.write(number);
        }
        world
    }

    pub(crate) fn folder(&self) -> String {
        self.folder.display().to_string()
    }

    /// Milliseconds until the next change.
    pub(crate) fn pause(&mut self) -> u64 {
        30 + u64::from(self.dice.below(200))
    }

    /// Makes one change, or a few at once.
    pub(crate) fn change(&mut self) {
        let kind = match self.dice.below(100) {
            0..35 | 92..95 => self.move_live(),
            35..60 => self.move_cold(),
            60..68 => self.readdress(),
            68..76 => self.come_or_go(),
            76..80 => self.break_one(false),
            80..84 => self.break_one(true),
            84..89 => self.foreign(),
            89..92 => self.damage(),
            _ => self.burst(),
        };
        *self.made.entry(kind).or_default() += 1;
        while self.broken.len() > usize::from(self.dice.below(6)) {
            let number = self.broken.remove(0);
            self.write(number);
            *self.made.entry("mended").or_default() += 1;
        }
    }

    /// Mends what is broken.
    pub(crate) fn settle(&mut self) {
        for number in std::mem::take(&mut self.broken) {
            self.write(number);
        }
    }

    /// What is wrong with the rules of others: each must be there once, and no other.
    pub(crate) fn foreign_faults(&self) -> Vec<String> {
        let dump = self.machine.run(["iptables-save"]).ok().stdout;
        let wanted: Vec<String> = self.foreign.iter().map(|(number, _)| comment(*number)).collect();
        let lost = wanted.iter().filter(|comment| {
            let word = format!("--comment {comment} ");
            dump.matches(&word).count() != 1
        });
        let mut faults: Vec<String> = lost
            .map(|comment| format!("{comment} is not there once"))
            .collect();
        let there = dump.matches("--comment foreign-").count();
        if there != wanted.len() {
            faults.push(format!("{there} rules of others, and not {}", wanted.len()));
        }
        faults
    }

    fn move_live(&mut self) -> &'static str {
        let number = self.dice.below(LIVE);
        let chosen = self.dice.below((1 << PODS) - 1) + 1;
        let pods: Vec<u16> = (0..PODS).filter(|pod| chosen >> pod & 1 == 1).collect();
        self.publish(&format!("live-{number}"), &live(number, &pods));
        "endpoints of a live Service"
    }

    fn move_cold(&mut self) -> &'static str {
        let number = self.whole_one();
        self.cold[usize::from(number)].endpoints = self.some_endpoints();
        self.write(number);
        "endpoints of another Service"
    }

    fn readdress(&mut self) -> &'static str {
        let number = self.whole_one();
        self.cold[usize::from(number)].address = self.next_address;
        self.next_address = self.next_address.saturating_add(1);
        self.write(number);
        "other address"
    }

    fn come_or_go(&mut self) -> &'static str {
        let number = self.whole_one();
        let cold = &mut self.cold[usize::from(number)];
        cold.there = !cold.there;
        self.write(number);
        "Service removed or added"
    }

    /// A file that says something no API server would store, or that ends in the middle.
    fn break_one(&mut self, half: bool) -> &'static str {
        let number = self.whole_one();
        let mut object = self.object(number);
        if !half {
            let port = &mut object["items"][0]["spec"]["ports"][0];
            match self.dice.below(3) {
                0 => port["port"] = json!(70000),
                1 => port["protocol"] = json!("ICMP"),
                _ => object["items"][0]["spec"]["clusterIP"] = json!("10.96.0.999"),
            }
        }
        let text = object.to_string();
        let end = if half {
            usize::from(self.dice.below(u16::try_from(text.len()).unwrap_or(u16::MAX)))
        } else {
            text.len()
        };
        // Over the file itself: no atomic writer leaves a half one.
        fs::write(self.file(number), &text[..end]).expect("our own folder");
        self.cold[usize::from(number)].there = true;
        self.broken.push(number);
        if half { "half a file" } else { "bad object" }
    }

    fn foreign(&mut self) -> &'static str {
        if self.foreign.len() > usize::from(self.dice.below(12)) {
            let (number, place) = self.foreign.remove(0);
            self.iptables(number, place, "-D");
            return "somebody's rule removed";
        }
        let place = usize::from(self.dice.below(6));
        let number = self.next_foreign;
        self.next_foreign += 1;
        self.iptables(number, place, if FOREIGN[place].2 { "-I" } else { "-A" });
        self.foreign.push((number, place));
        "somebody's rule added"
    }

    fn iptables(&self, number: u16, place: usize, verb: &str) {
        let (table, chain, _) = FOREIGN[place];
        let (source, comment) = (format!("203.0.113.{}", number % 250), comment(number));
        let rule = [
            "-s",
            &source,
            "-m",
            "comment",
            "--comment",
            &comment,
            "-j",
            "ACCEPT",
        ];
        let argv = ["iptables", "-w", "10", "-t", table, verb, chain];
        self.machine.run(argv.into_iter().chain(rule)).ok();
    }

    /// Deletes a rule of ours that nobody's traffic needs. It may have changed since it was seen.
    fn damage(&mut self) -> &'static str {
        let dump = self.machine.run(["iptables-save", "-t", "nat"]).ok().stdout;
        let ours: Vec<&str> = dump
            .lines()
            .filter(|line| line.starts_with("-A KUBE-") && line.contains("\"default/cold-"))
            .collect();
        let chosen = usize::from(self.dice.below(u16::try_from(ours.len()).unwrap_or(u16::MAX)));
        let Some(rule) = ours.get(chosen) else {
            return "nothing to delete";
        };
        let document = format!("*nat\n-D {}\nCOMMIT\n", &rule[3..]);
        self.machine
            .command(["iptables-restore", "-w", "10", "--noflush"])
            .input(&document)
            .run();
        "rule of ours deleted"
    }

    fn burst(&mut self) -> &'static str {
        for _ in 0..20 {
            self.move_cold();
        }
        "twenty Services at once"
    }

    /// A cold Service whose file is not broken.
    fn whole_one(&mut self) -> u16 {
        loop {
            let number = self
                .dice
                .below(u16::try_from(self.cold.len()).unwrap_or(u16::MAX));
            if !self.broken.contains(&number) {
                return number;
            }
        }
    }

    fn some_endpoints(&mut self) -> Vec<u16> {
        let (first, count) = (self.dice.below(60_000), self.dice.below(5));
        (0..count).map(|index| first + index * 7).collect()
    }

    fn file(&self, number: u16) -> PathBuf {
        self.folder.join(format!("cold-{number}.json"))
    }

    fn write(&self, number: u16) {
        if self.cold[usize::from(number)].there {
            self.publish(&format!("cold-{number}"), &self.object(number));
        } else {
            // A Service that is gone may have changed as well.
            let _ = fs::remove_file(self.file(number));
        }
    }

    /// Replaces a file in one step.
    fn publish(&self, name: &str, object: &Value) {
        let new = self.folder.join(format!(".{name}.new"));
        fs::write(&new, object.to_string()).expect("our own folder");
        fs::rename(new, self.folder.join(format!("{name}.json"))).expect("our own folder");
    }

    fn object(&self, number: u16) -> Value {
        let cold = &self.cold[usize::from(number)];
        let protocol = if number.is_multiple_of(5) { "UDP" } else { "TCP" };
        let address = format!("10.97.{}.{}", cold.address / 250, cold.address % 250 + 1);
        let ports = [("main", protocol, 80, 8080)];
        let endpoints = cold
            .endpoints
            .iter()
            .map(|low| format!("10.99.{}.{}", low / 250, low % 250 + 1));
        let mut list = list(&format!("cold-{number}"), &address, &ports, endpoints);
        let spec = &mut list["items"][0]["spec"];
        if number.is_multiple_of(7) {
            spec["sessionAffinity"] = json!("ClientIP");
        }
        if number.is_multiple_of(11) {
            spec["type"] = json!("NodePort");
            spec["ports"][0]["nodePort"] = json!(30_000 + number);
        }
        if number.is_multiple_of(22) {
            spec["externalTrafficPolicy"] = json!("Local");
        }
        list
    }
}

fn comment(number: u16) -> String {
    format!("foreign-{number}")
}

fn live(number: u16, pods: &[u16]) -> Value {
    let ports = [
        ("http", "TCP", 80, 8080),
        ("echo", "TCP", 81, 8081),
        ("dns", "UDP", 53, 8081),
    ];
    let endpoints = pods.iter().map(|pod| format!("10.244.0.{}", pod + 2));
    list(
        &format!("live-{number}"),
        &live_address(number),
        &ports,
        endpoints,
    )
}

/// The address of a Service that is called.
pub(crate) fn live_address(number: u16) -> String {
    format!("10.96.5.{}", number + 1)
}

/// A Service and its slice: name, address, ports (name, protocol, port, target), endpoints.
fn list(
    name: &str,
    address: &str,
    ports: &[(&str, &str, u16, u16)],
    endpoints: impl Iterator<Item = String>,
) -> Value {
    let service_ports = ports.iter().map(|(name, protocol, port, target)| {
        json!({ "name": name, "protocol": protocol, "port": port, "targetPort": target })
    });
    let slice_ports = ports
        .iter()
        .map(|(name, protocol, _, target)| json!({ "name": name, "protocol": protocol, "port": target }));
    let endpoints =
        endpoints.map(|address| json!({ "addresses": [address], "conditions": { "ready": true } }));
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ports": service_ports.collect::<Vec<_>>(),
        },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-1"),
            "namespace": "default",
            "labels": { "kubernetes.io/service-name": name },
        },
        "addressType": "IPv4",
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": slice_ports.collect::<Vec<_>>(),
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": [service, slice] })
}
