//! Bytes as a configuration.

use labkit::xtables::Family;
use miniproxy::config::draft::Draft;
use miniproxy::config::{Compat, ConfigProblem, DetectLocal, Settings};
use miniproxy::node::{Host, NodeOptions};
use miniproxy::registry::Registry;

use crate::document::assert_written_as_meant;

/// A `KubeProxyConfiguration` in YAML or JSON, or a ConfigMap with one.
///
/// # Panics
/// When a problem is not told in one line, when settings are out of kube-proxy's bounds, or when the
/// rules that follow from them are not read back as they were meant.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let draft = match Draft::read("config.yaml", text) {
        Ok(draft) => draft,
        Err(problems) => return assert_told(&problems),
    };
    for note in &draft.notes {
        assert!(!note.chars().any(char::is_control), "{note:?}");
    }
    let settled = [Compat::V1_30, Compat::Latest].map(|compat| draft.settle(compat));
    for problems in settled.iter().filter_map(|settled| settled.as_ref().err()) {
        assert_told(problems);
    }
    // The two differ in what an empty registry has no rules for.
    if let Some(settings) = settled.into_iter().find_map(Result::ok) {
        assert_usable(settings);
    }
}

fn assert_told(problems: &[ConfigProblem]) {
    assert!(!problems.is_empty(), "refused without a word");
    for problem in problems {
        let text = problem.to_string();
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(!problem.what.is_empty() && !problem.expected.is_empty(), "{text}");
    }
}

fn assert_usable(settings: Settings) {
    assert!(settings.masquerade_bit < 32);
    assert!(settings.min_sync_period <= settings.sync_period);
    if let DetectLocal::BridgeInterface(name) | DetectLocal::InterfaceNamePrefix(name) =
        &settings.detect_local
    {
        assert!((1..=15).contains(&name.len()), "{name:?}");
    }
    let host = Host {
        name: "node-1".into(),
        addresses: vec![],
        tcp_be_liberal: false,
        counters: miniproxy::model::Counters::default(),
    };
    let options = NodeOptions { settings, host };
    for family in Family::ALL {
        assert_written_as_meant(&options.wanted(&Registry::default(), family));
    }
}
