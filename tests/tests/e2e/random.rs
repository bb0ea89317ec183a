//! Registries that nobody thought of: what miniproxy makes of them, the real iptables takes, and what
//! the kernel shows of it means the same again.

use std::collections::BTreeMap;
use std::fs;

use lab_tests::machine::{Flavour, Machine};
use lab_tests::registry::{REGISTRY, headless_of_selector, publish, service, slice};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::support::up_and_sync;

const CASES: u32 = 40;

/// A Service's ports by name: protocol, port, target.
type Ports = BTreeMap<String, (&'static str, u16, u16)>;

#[derive(Debug, Clone)]
struct Made {
    name: String,
    address: u8,
    ports: Ports,
    endpoints: Vec<u8>,
    six: bool,
}

fn label() -> impl Strategy<Value = String> {
    "[a-z]([a-z0-9-]{0,12}[a-z0-9])?"
}

fn made() -> impl Strategy<Value = Made> {
    let protocol = select(vec!["TCP", "UDP", "SCTP"]);
    let port = (protocol, 1..=u16::MAX, 1..=u16::MAX);
    let endpoints = btree_set(any::<u8>(), 0..14);
    (
        label(),
        any::<u8>(),
        btree_map(label(), port, 1..4),
        endpoints,
        any::<bool>(),
    )
        .prop_map(|(name, address, ports, endpoints, six)| Made {
            name,
            address,
            ports,
            endpoints: endpoints.into_iter().collect(),
            six,
        })
}

/// Distinct in name, address and (address, protocol, port), as the API server sees to.
fn registry() -> impl Strategy<Value = Vec<Made>> {
    vec(made(), 0..6).prop_map(|all| {
        let mut names = std::collections::BTreeSet::new();
        let mut addresses = std::collections::BTreeSet::new();
        all.into_iter()
            .filter(|made| names.insert(made.name.clone()) && addresses.insert((made.six, made.address)))
            .map(|mut made| {
                let mut taken = std::collections::BTreeSet::new();
                made.ports
                    .retain(|_, (protocol, port, _)| taken.insert((*protocol, *port)));
                made
            })
            .collect()
    })
}

fn objects(all: &[Made]) -> Value {
    let mut items = Vec::new();
    for made in all {
        let (service_net, pod_net) = if made.six {
            ("fd00:96::", "fd00:244::")
        } else {
            ("10.96.1.", "10.244.1.")
        };
        let address = if made.six {
            format!("{service_net}{:x}", made.address)
        } else {
            format!("{service_net}{}", made.address)
        };
        let ports: Vec<_> = made
            .ports
            .iter()
            .map(|(name, (protocol, port, _))| (name.as_str(), *protocol, *port, json!(1)))
            .collect();
        let mut object = headless_of_selector(service(&made.name, &address, "x", &ports));
        object["spec"]["ipFamilies"] = json!([if made.six { "IPv6" } else { "IPv4" }]);
        items.push(object);
        let hosts: Vec<String> = made
            .endpoints
            .iter()
            .map(|host| {
                if made.six {
                    format!("{pod_net}{host:x}")
                } else {
                    format!("{pod_net}{host}")
                }
            })
            .collect();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        for (index, (name, (protocol, _, target))) in made.ports.iter().enumerate() {
            let mut object = slice(
                &format!("{}-{index}", made.name),
                &made.name,
                &hosts,
                (name, protocol, *target),
            );
            object["addressType"] = json!(if made.six { "IPv6" } else { "IPv4" });
            items.push(object);
        }
    }
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

/// What the saved rules give each endpoint of each balancing chain, from the rules alone.
fn shares(dump: &str) -> BTreeMap<String, Vec<f64>> {
    let mut chains: BTreeMap<String, (f64, Vec<f64>)> = BTreeMap::new();
    for line in dump.lines().filter(|line| line.contains("-j KUBE-SEP-")) {
        let chain = line.split_whitespace().nth(1).expect("-A CHAIN");
        let (left, shares) = chains.entry(chain.to_string()).or_insert((1.0, Vec::new()));
        let probability = line.split("--probability ").nth(1).map_or(1.0, |rest| {
            rest.split_whitespace()
                .next()
                .expect("a number")
                .parse()
                .expect("a number")
        });
        shares.push(*left * probability);
        *left *= 1.0 - probability;
    }
    chains
        .into_iter()
        .map(|(chain, (_, shares))| (chain, shares))
        .collect()
}

fn check(machine: &Machine, all: &[Made]) {
    let path = machine.file("registry.json", &objects(all).to_string());
    for (family, restore, save) in [
        ("4", "iptables-restore", "iptables-save"),
        ("6", "ip6tables-restore", "ip6tables-save"),
    ] {
        let six = family == "6";
        let text = machine
            .proxy(["render", "--registry", &path, "--family", family])
            .ok()
            .stdout;
        machine.command([restore, "--test"]).input(&text).run().ok();
        machine.command([restore]).input(&text).run().ok();
        let dump = machine.run([save]).ok().stdout;
        let dump_path = machine.file("kernel.save", &dump);
        machine
            .proxy(["diff", &dump_path, "--registry", &path, "--family", family])
            .ok();
        let shares = shares(&dump);
        let wanted: usize = all
            .iter()
            .filter(|made| made.six == six && !made.endpoints.is_empty())
            .map(|made| made.ports.len())
            .sum();
        assert_eq!(shares.len(), wanted, "balancing chains in\n{dump}");
        for (chain, shares) in shares {
            #[expect(clippy::cast_precision_loss, reason = "a dozen endpoints")]
            let equal = 1.0 / shares.len() as f64;
            // The kernel keeps 31 bits of each probability.
            let fair = shares.iter().all(|share| (share - equal).abs() < 4e-9);
            assert!(fair, "{chain}: {shares:?} and not {equal} each");
        }
    }
}

fn every_render_holds(flavour: Flavour) {
    let machine = Machine::builder().flavour(flavour).start();
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&registry(), |all| {
            check(&machine, &all);
            Ok(())
        })
        .unwrap();
}

#[test]
fn every_render_is_taken_and_means_the_same_when_saved_with_nft() {
    every_render_holds(Flavour::Nft);
}

#[test]
fn every_render_is_taken_and_means_the_same_when_saved_with_legacy() {
    every_render_holds(Flavour::Legacy);
}

/// Whatever is changed in the kernel's rules, `diff` sees it.
#[test]
fn diff_sees_each_rule_that_is_missing() {
    let machine = Machine::start();
    up_and_sync(&machine, "3-pods");
    let dump = machine.run(["iptables-save"]).ok().stdout;
    let rules: Vec<&str> = dump.lines().filter(|line| line.starts_with("-A KUBE-")).collect();
    assert!(rules.len() > 15, "{dump}");
    for rule in rules {
        let path = machine.file("less.save", &dump.replacen(&format!("{rule}\n"), "", 1));
        machine.proxy(["diff", &path]).exits(1);
    }
    let path = machine.file("other.save", &dump.replace("0.50000000000", "0.40000000000"));
    machine.proxy(["diff", &path]).exits(1);
}

/// Text that wants to be a rule, a chain, a file or a terminal's command.
const HOSTILE: [&str; 12] = [
    "x\" -j ACCEPT",
    "x\n-A INPUT -j ACCEPT",
    "x\nCOMMIT\n*filter\n:INPUT DROP [0:0]\nCOMMIT\n",
    "-j",
    "--flush",
    "../../../etc/passwd",
    "$(reboot)",
    "`reboot`",
    "\u{1b}]0;owned\u{7}\u{1b}[2J",
    "web\u{202e}bew",
    "",
    "%n%n%s\\x00",
];

/// Places where Kubernetes allows a name only.
fn poisoned(object: &Value, text: &str) -> Vec<Value> {
    let places: [&[&str]; 5] = [
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["spec", "clusterIP"],
        &["spec", "ports", "0", "name"],
        &["spec", "ports", "0", "protocol"],
    ];
    places
        .iter()
        .map(|place| {
            let mut bad = object.clone();
            let mut spot = &mut bad;
            for key in *place {
                spot = match key.parse::<usize>() {
                    Ok(index) => &mut spot[index],
                    Err(_) => &mut spot[*key],
                };
            }
            *spot = json!(text);
            bad["spec"]["clusterIPs"] = json!([bad["spec"]["clusterIP"].clone()]);
            bad
        })
        .collect()
}

#[test]
fn hostile_names_become_neither_a_rule_nor_an_escape() {
    let machine = Machine::start();
    up_and_sync(&machine, "3-pods");
    let good = service(
        "other",
        "10.96.0.90",
        "web",
        &[("http", "TCP", 80, json!(8080)), ("b", "TCP", 81, json!(8080))],
    );
    publish(&machine, "other.service", &good);
    machine.proxy(["sync"]).ok();
    let before = machine.run(["iptables-save"]).ok().stdout;
    let before = lab_tests::witness::rules(&before);
    for text in HOSTILE {
        for bad in poisoned(&good, text) {
            // An empty name in a list of several, an empty address: refused too, but not here.
            publish(&machine, "other.service", &bad);
            for verb in ["check", "sync", "render"] {
                let ran = machine.proxy([verb]);
                let harmless = text.is_empty() && ran.code() == 0;
                assert!(ran.code() == 2 || harmless, "{verb} of {bad:#}: {ran}");
                let raw =
                    ran.stdout.contains('\u{1b}') || ran.stderr.contains(['\u{1b}', '\u{7}', '\u{202e}']);
                assert!(!raw, "{verb} prints an escape: {ran:?}");
                if ran.code() == 2 {
                    assert!(
                        ran.stderr.contains("other.service.json"),
                        "{verb} names the file: {ran}"
                    );
                }
            }
            if !text.is_empty() {
                let now = lab_tests::witness::rules(&machine.run(["iptables-save"]).ok().stdout);
                assert_eq!(now, before, "{text:?} changed the rules");
            }
        }
    }
}

/// Labels and annotations are free text; they change no rule.
#[test]
fn hostile_annotations_change_nothing() {
    let machine = Machine::start();
    machine.lab(["up", "3-pods"]).ok();
    let plain = machine.proxy(["render"]).ok().stdout;
    let path = format!("{REGISTRY}/web.service.json");
    let mut object: Value = machine.run(["cat", &path]).ok().json();
    let annotations: BTreeMap<String, &str> = HOSTILE
        .iter()
        .enumerate()
        .map(|(index, text)| (format!("example.com/a{index}"), *text))
        .collect();
    object["metadata"]["annotations"] = json!(annotations);
    publish(&machine, "web.service", &object);
    assert_eq!(machine.proxy(["render"]).ok().stdout, plain);
}

/// Bytes that are no registry at all: an error with exit code 2, and never a crash.
#[test]
fn noise_is_refused_with_its_place() {
    let machine = Machine::start();
    let config = Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    };
    let good = service("web", "10.96.0.80", "web", &[("http", "TCP", 80, json!(8080))])
        .to_string()
        .into_bytes();
    let noise = prop_oneof![
        vec(any::<u8>(), 0..200),
        // A good file with some bytes overwritten.
        vec((0..good.len(), any::<u8>()), 1..4).prop_map(move |changes| {
            let mut bytes = good.clone();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            bytes
        }),
    ];
    TestRunner::new(config)
        .run(&noise, |bytes| {
            let path = machine.folder().join("noise.json");
            fs::write(&path, &bytes).unwrap();
            let ran = machine.proxy(["check", "--registry", path.to_str().unwrap()]);
            prop_assert!([0, 2].contains(&ran.code()), "{ran}");
            prop_assert!(
                !ran.stderr.contains("panicked") && !ran.stderr.contains('\u{1b}'),
                "{ran}"
            );
            prop_assert!(ran.code() == 0 || ran.stderr.contains("noise.json"), "{ran}");
            Ok(())
        })
        .unwrap();
}
