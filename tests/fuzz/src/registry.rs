//! Bytes as a registry.

use std::net::{IpAddr, Ipv4Addr};

use labkit::xtables::Family;
use miniproxy::config::{Compat, DetectLocal, NodePortAddress, Settings};
use miniproxy::node::{Host, NodeOptions};
use miniproxy::registry::problem::Problem;
use miniproxy::registry::{Registry, SourceFile};

use crate::document::assert_written_as_meant;

/// Files of objects, parted by a zero byte, which no JSON has.
///
/// # Panics
/// When a problem is not told in one line, or when the rules are not read back as they were meant.
pub fn registry(bytes: &[u8]) {
    let files: Vec<SourceFile> = bytes
        .split(|byte| *byte == 0)
        .enumerate()
        .map(|(index, bytes)| SourceFile {
            path: format!("{index}.json"),
            bytes: bytes.to_vec(),
        })
        .collect();
    match Registry::read(&files) {
        Ok(registry) => {
            // One of two configurations, as good as by lot: half the work for each input.
            let options = if bytes.len() % 2 == 0 {
                NodeOptions::default()
            } else {
                with_everything()
            };
            for family in Family::ALL {
                assert_written_as_meant(&options.wanted(&registry, family));
            }
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a word");
            problems.iter().for_each(assert_told_in_a_line);
        }
    }
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
        },
    }
}
