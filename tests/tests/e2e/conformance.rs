//! The recorded cases end to end: `miniproxy sync` in a machine of its own, what the kernel then
//! shows beside what the real kube-proxy left there, for every step at once and step by step.
//!
//! `miniproxy/tests/conformance` has the same cases without a kernel, and those that must differ.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab_tests::machine::{Flavour, Machine};
use lab_tests::programs::repository;
use serde_json::Value;

/// Not the same on purpose; `tests/conformance/README.md` says why.
const DEVIATES: [&str; 1] = ["openshift-dns"];

/// Configurations that kube-proxy refuses, and the field that we must name.
const REFUSED: [(&str, &str); 3] = [
    ("refused-cluster-cidr", "clusterCIDR"),
    ("refused-masq-bit", "iptables.masqueradeBit"),
    ("refused-npa", "nodePortAddresses[0]"),
];

/// Machines for each flavour, so that a slow case does not hold up all others.
const LANES: usize = 2;

struct Case {
    name: String,
    folder: PathBuf,
    facts: Value,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut cases: Vec<Self> = fs::read_dir(repository().join("tests/conformance/recorded"))
            .expect("the cases are in the repository")
            .flatten()
            .map(|entry| Self::read(entry.path()))
            .collect();
        cases.sort_by(|one, other| one.name.cmp(&other.name));
        cases
    }

    fn read(folder: PathBuf) -> Self {
        let text = fs::read_to_string(folder.join("case.json")).expect("case.json");
        Self {
            name: folder
                .file_name()
                .expect("a folder")
                .to_string_lossy()
                .into_owned(),
            facts: serde_json::from_str(&text).expect("JSON"),
            folder,
        }
    }

    /// Steps with objects; a dump is there for those that kube-proxy lived to see.
    fn steps(&self) -> usize {
        (1..10)
            .take_while(|step| self.folder.join(format!("registry.{step}.json")).exists())
            .count()
    }

    /// Links and addresses of the node. A bridge without ports is as good as a card.
    fn links(&self) -> Vec<String> {
        let mut script = Vec::new();
        for (name, addresses) in self.interfaces() {
            script.push(format!("ip link add {name} type bridge"));
            for address in addresses {
                let nodad = if address.contains(':') { " nodad" } else { "" };
                script.push(format!("ip addr add {address} dev {name}{nodad}"));
            }
        }
        let sysctls = self.sysctls();
        script.extend(sysctls.map(|(path, value)| format!("echo {value} > /proc/sys/{path}")));
        script
    }

    fn unlinks(&self) -> Vec<String> {
        let links = self.interfaces().map(|(name, _)| format!("ip link del {name}"));
        let sysctls = self
            .sysctls()
            .map(|(path, _)| format!("echo 0 > /proc/sys/{path}"));
        links.chain(sysctls).collect()
    }

    fn interfaces(&self) -> impl Iterator<Item = (&str, Vec<&str>)> {
        let links = self.facts["interfaces"].as_array().into_iter().flatten();
        links.map(|link| {
            let addresses = link["addresses"].as_array().into_iter().flatten();
            let addresses = addresses.filter_map(Value::as_str).collect();
            (link["name"].as_str().expect("a name"), addresses)
        })
    }

    fn sysctls(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.facts["sysctls"].as_object().into_iter().flatten()
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn sync(&self, step: usize) -> String {
        let (config, registry) = (
            self.path("config.yaml"),
            self.path(&format!("registry.{step}.json")),
        );
        format!(
            "miniproxy sync --config {config} --registry {registry} > $T/said 2>&1 \
             || {{ echo \"step {step}: sync failed\"; cat $T/said; }}"
        )
    }

    /// Says what differs from the dump, and how the kernel was brought there.
    fn compare(&self, step: usize, way: &str) -> Vec<String> {
        if !self.folder.join(format!("expect.{step}.v4")).exists() {
            // Here kube-proxy had ended; our sync must not.
            return Vec::new();
        }
        let compare = |(program, ending): (&str, &str)| {
            let own = self.folder.join(format!("expect.{step}.{ending}"));
            let expected = if own.exists() {
                own
            } else {
                repository().join(format!("tests/conformance/no-services.{ending}"))
            };
            format!(
                "{program}-save > $T/now; miniproxy diff $T/now {} > $T/said 2>&1 \
                 || {{ echo \"step {step} {way}, {ending}:\"; cat $T/said; }}",
                expected.display(),
            )
        };
        [("iptables", "v4"), ("ip6tables", "v6")].map(compare).to_vec()
    }

    /// Each step on a fresh node, then (where there are several) one after the other.
    fn script(&self, folder: &Path) -> String {
        let cleanup = "miniproxy cleanup > $T/said 2>&1 || cat $T/said\n\
            { iptables-save; ip6tables-save; } > $T/now; ! grep KUBE- $T/now";
        let mut script = vec![format!("T={}", folder.display())];
        script.extend(self.links());
        let steps = self.steps();
        for step in 1..=steps {
            script.push(self.sync(step));
            script.extend(self.compare(step, "at once"));
            script.push(cleanup.to_string());
        }
        if steps > 1 {
            for step in 1..=steps {
                script.push(self.sync(step));
                script.extend(self.compare(step, "after the steps before"));
            }
            script.push(cleanup.to_string());
        }
        script.extend(self.unlinks());
        script.join("\n")
    }
}

/// Every case of one lane, one after the other in one machine.
fn run_lane(flavour: Flavour, lane: usize) {
    let machine = Machine::builder().flavour(flavour).start();
    let (mut ran, mut wrong) = (0, Vec::new());
    for (index, case) in Case::all().iter().enumerate() {
        if index % LANES != lane || DEVIATES.contains(&case.name.as_str()) {
            continue;
        }
        ran += 1;
        if let Some((_, field)) = REFUSED.iter().find(|(name, _)| *name == case.name) {
            let (config, registry) = (case.path("config.yaml"), case.path("registry.1.json"));
            let sync = machine.proxy(["sync", "--config", &config, "--registry", &registry]);
            sync.exits(2).complains(field).complains("config.yaml:");
            continue;
        }
        let script = case.script(machine.folder());
        let said = machine
            .command(["sh", "-uc", &script])
            .patience(Duration::from_secs(120))
            .run();
        if !said.stdout.is_empty() || !said.stderr.is_empty() {
            let about = &case.facts["about"];
            wrong.push(format!(
                "{} ({about}):\n{}{}",
                case.name, said.stdout, said.stderr
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(ran >= 55, "only {ran} cases were found");
    eprintln!("{ran} cases with iptables-{}", flavour.name());
}

#[test]
fn recorded_rules_with_nft_even() {
    run_lane(Flavour::Nft, 0);
}

#[test]
fn recorded_rules_with_nft_odd() {
    run_lane(Flavour::Nft, 1);
}

#[test]
fn recorded_rules_with_legacy_even() {
    run_lane(Flavour::Legacy, 0);
}

#[test]
fn recorded_rules_with_legacy_odd() {
    run_lane(Flavour::Legacy, 1);
}
