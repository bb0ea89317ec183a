//! Reads the cases.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use labkit::xtables::Family;
use miniproxy::config::draft::Draft;
use miniproxy::config::{Compat, ConfigProblem};
use miniproxy::node::{Host, NodeOptions};
use miniproxy::registry::{Registry, SourceFile};
use miniproxy::rules::parse::parse;
use miniproxy::rules::rule::Rule;
use miniproxy::rules::set::TableName;
use serde_json::Value;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/conformance");
const BE_LIBERAL: &str = "net/netfilter/nf_conntrack_tcp_be_liberal";

/// One folder.
pub(crate) struct Case {
    folder: PathBuf,
    /// The folder's name.
    pub(crate) name: String,
    /// What it is for.
    pub(crate) about: String,
    facts: Value,
}

/// A rule that must be there, or must not.
pub(crate) struct Promise {
    pub(crate) line: String,
    pub(crate) table: TableName,
    pub(crate) chain: String,
    pub(crate) rule: Rule,
    pub(crate) there: bool,
}

/// What the real kube-proxy did.
pub(crate) fn recorded() -> Vec<Case> {
    folders("recorded")
}

/// What the reference says, in our own cases.
pub(crate) fn own() -> Vec<Case> {
    folders("own")
}

fn folders(kind: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = fs::read_dir(Path::new(CASES).join(kind))
        .expect("the cases are in the repository")
        .flatten()
        .map(|entry| Case::read(entry.path()))
        .collect();
    cases.sort_by(|one, other| one.name.cmp(&other.name));
    cases
}

impl Case {
    fn read(folder: PathBuf) -> Self {
        let text = fs::read_to_string(folder.join("case.json")).expect("case.json");
        let facts: Value = serde_json::from_str(&text).expect("JSON");
        Self {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            about: facts["about"].as_str().unwrap_or_default().to_string(),
            folder,
            facts,
        }
    }

    pub(crate) fn file(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(name)).ok()
    }

    /// The steps whose rules were recorded.
    pub(crate) fn recorded_steps(&self) -> Vec<usize> {
        (1..10)
            .filter(|step| self.folder.join(format!("expect.{step}.v4")).exists())
            .collect()
    }

    /// The configuration by its real way, and the host that the case describes.
    pub(crate) fn options(&self) -> Result<NodeOptions, ConfigProblem> {
        let compat = match self.facts["compat"].as_str() {
            Some("latest") => Compat::Latest,
            _ => Compat::V1_30,
        };
        let first = |mut problems: Vec<ConfigProblem>| problems.swap_remove(0);
        let draft = Draft::read("config.yaml", &self.file("config.yaml").unwrap()).map_err(first)?;
        Ok(NodeOptions {
            settings: draft.settle(compat).map_err(first)?,
            host: Host {
                name: "somewhere-else".into(),
                addresses: self.addresses(),
                tcp_be_liberal: self.facts["sysctls"][BE_LIBERAL] == 1,
                ..Host::default()
            },
        })
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let interfaces = self.facts["interfaces"].as_array().into_iter().flatten();
        let of_links = interfaces.flat_map(|interface| interface["addresses"].as_array().unwrap());
        let texts = of_links.map(|address| address.as_str().unwrap());
        let all = ["127.0.0.1/8", "::1/128"].into_iter().chain(texts);
        all.map(|address| address.split_once('/').unwrap().0.parse().unwrap())
            .collect()
    }

    pub(crate) fn registry(&self, step: usize) -> Registry {
        let name = format!("registry.{step}.json");
        let file = SourceFile {
            bytes: self.file(&name).expect("a registry").into_bytes(),
            path: name,
        };
        Registry::read(&[file]).unwrap_or_else(|problems| panic!("{}: {problems:?}", self.name))
    }

    /// The recorded dump; most cases have nothing of IPv6, and share one.
    pub(crate) fn expected(&self, step: usize, family: Family) -> String {
        let ending = ending(family);
        self.file(&format!("expect.{step}.{ending}")).unwrap_or_else(|| {
            fs::read_to_string(Path::new(CASES).join(format!("no-services.{ending}"))).expect("a dump")
        })
    }

    /// The single rules of one of our own cases.
    pub(crate) fn promises(&self, family: Family) -> Vec<Promise> {
        let text = self
            .file(&format!("rules.1.{}", ending(family)))
            .unwrap_or_default();
        let mut promises = Vec::new();
        let mut table = "nat";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if line != "COMMIT" {
                let absent = line.strip_prefix("! ");
                let dump = format!("*{table}\n{}\nCOMMIT\n", absent.unwrap_or(line));
                let found = parse(&dump).expect("a rule");
                let (table, chains) = found.tables.into_iter().next().unwrap();
                let (chain, mut rules) = chains.into_iter().next().unwrap();
                promises.push(Promise {
                    line: line.to_string(),
                    table,
                    chain,
                    rule: rules.swap_remove(0),
                    there: absent.is_none(),
                });
            }
        }
        promises
    }
}

fn ending(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    }
}
