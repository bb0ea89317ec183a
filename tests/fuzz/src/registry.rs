//! Bytes as a registry.

use std::net::{IpAddr, Ipv4Addr};

use labkit::xtables::Family;
use miniproxy::config::{Compat, DetectLocal, NodePortAddress, Settings};
use miniproxy::node::{Host, NodeOptions};
use miniproxy::registry::SourceFile;
use miniproxy::registry::problem::Problem;
use miniproxy::registry::store::Store;

use crate::document::assert_written_as_meant;

/// Files of objects, parted by a zero byte, which no JSON has.
///
/// # Panics
/// When a problem is not told in one line, when the rules of what is in force are not read back as they
/// were meant, or when good files read one by one are not the same as read at once.
pub fn registry(bytes: &[u8]) {
    let files: Vec<SourceFile> = bytes
        .split(|byte| *byte == 0)
        .enumerate()
        .map(|(index, bytes)| SourceFile {
            path: format!("{index}.json"),
            bytes: bytes.to_vec(),
        })
        .collect();
    let mut store = Store::default();
    store.update(&files, &[]);
    let problems = store.problems();
    problems.iter().for_each(assert_told_in_a_line);
    // One of two configurations, as good as by lot: half the work for each input.
    let options = if bytes.len().is_multiple_of(2) {
        NodeOptions::default()
    } else {
        with_everything()
    };
    let rules = |store: &Store| Family::ALL.map(|family| options.wanted(store.registry(), family));
    let at_once = rules(&store);
    at_once.iter().for_each(assert_written_as_meant);
    // With problems it counts which version of an object was good first.
    if problems.is_empty() && files.len() > 1 {
        let mut other = Store::default();
        for file in files.iter().rev() {
            other.update(std::slice::from_ref(file), &[]);
        }
        assert!(other.problems().is_empty(), "{:?}", other.problems());
        assert_eq!(rules(&other), at_once, "read one by one");
    }
    assert_forgets(store, &files);
}

fn assert_forgets(mut store: Store, files: &[SourceFile]) {
    let all: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
    store.update(&[], &all);
    let (problems, left) = (store.problems(), store.registry());
    assert!(problems.is_empty(), "{problems:?}");
    assert!(left.services.is_empty() && left.slice_count() + left.pod_count() + left.nodes.len() == 0);
}

fn assert_told_in_a_line(problem: &Problem) {
    let text = problem.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(problem.line > 0 && problem.column > 0, "{text}");
    assert!(!problem.what.is_empty() && !problem.expected.is_empty(), "{text}");
}

/// Every setting that makes more rules.
fn with_everything() -> NodeOptions {
    let networks = ["10.244.0.0/16", "fd00:244::/64"];
    NodeOptions {
        settings: Settings {
            detect_local: DetectLocal::ClusterCidr(
                networks.iter().flat_map(|network| network.parse()).collect(),
            ),
            node_port_addresses: vec![NodePortAddress::Primary],
            ..Settings::defaults(Compat::Latest)
        },
        host: Host {
            name: "node-1".into(),
            addresses: vec![IpAddr::V4(Ipv4Addr::new(192, 168, 0, 2))],
            tcp_be_liberal: false,
            counters: miniproxy::model::Counters::default(),
        },
    }
}
