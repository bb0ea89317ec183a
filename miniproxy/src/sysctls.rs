//! Which settings of the kernel a node's proxy wants, and what becomes of each.
//!
//! They are those that kube-proxy sets when it starts. What is noted of each change, and how it is put
//! back, is in [`Record`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Conntrack, Settings};

/// Lets packets to 127.0.0.0/8 be translated, for node ports there.
pub const ROUTE_LOCALNET: &str = "net.ipv4.conf.all.route_localnet";
const MAX: &str = "net.netfilter.nf_conntrack_max";
/// The hash table's size. kube-proxy writes the same value by way of `/sys/module/nf_conntrack`, which
/// is read-only in many containers.
const BUCKETS: &str = "net.netfilter.nf_conntrack_buckets";
const TCP_ESTABLISHED: &str = "net.netfilter.nf_conntrack_tcp_timeout_established";
const TCP_CLOSE_WAIT: &str = "net.netfilter.nf_conntrack_tcp_timeout_close_wait";
/// Whether a packet outside of the window is no reason to call a TCP connection INVALID.
pub const TCP_BE_LIBERAL: &str = "net.netfilter.nf_conntrack_tcp_be_liberal";
const UDP: &str = "net.netfilter.nf_conntrack_udp_timeout";
const UDP_STREAM: &str = "net.netfilter.nf_conntrack_udp_timeout_stream";

/// All that this program ever sets: a record that names another is not believed.
pub const KEYS: [&str; 8] = [
    ROUTE_LOCALNET,
    MAX,
    BUCKETS,
    TCP_ESTABLISHED,
    TCP_CLOSE_WAIT,
    TCP_BE_LIBERAL,
    UDP,
    UDP_STREAM,
];

/// No more entries than this, however many CPUs there are: about 300 MB.
const MOST_ENTRIES: u32 = 1 << 20;
/// Entries for each bucket of the hash table.
const ENTRIES_PER_BUCKET: u32 = 4;
/// The kernel rounds the number of buckets up to whole pages, and pages have up to 64 KiB.
const BUCKETS_PER_PAGE: u32 = 8192;

/// One setting that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name, with dots.
    pub key: &'static str,
    /// Its value.
    pub value: u32,
    /// Whether a greater value is as good: it is never lowered.
    pub at_least: bool,
    /// Whether the user asked for it, or its lack is felt; else it is no matter when it cannot be set.
    pub matters: bool,
}

/// What the settings of this node should be. `localhost_node_ports` is that of the IPv4 family's
/// [`crate::model::ProxyConfig`], which heeds `nodePortAddresses`.
pub fn wanted(settings: &Settings, localhost_node_ports: bool, cpus: usize) -> Vec<Wanted> {
    let usual = Settings::defaults(settings.compat).conntrack;
    let conntrack = &settings.conntrack;
    let exactly = |key, value, matters| Wanted {
        key,
        value,
        at_least: false,
        matters,
    };
    let mut wanted = Vec::new();
    if localhost_node_ports {
        wanted.push(exactly(ROUTE_LOCALNET, 1, true));
    }
    if let Some(max) = max_entries(conntrack, cpus) {
        let matters = (conntrack.max_per_core, conntrack.min) != (usual.max_per_core, usual.min);
        let buckets = max
            .div_ceil(ENTRIES_PER_BUCKET)
            .next_multiple_of(BUCKETS_PER_PAGE);
        for (key, value) in [(MAX, max), (BUCKETS, buckets)] {
            wanted.push(Wanted {
                key,
                value,
                at_least: true,
                matters,
            });
        }
    }
    for (key, asked, usual) in [
        (
            TCP_ESTABLISHED,
            conntrack.tcp_established_timeout,
            usual.tcp_established_timeout,
        ),
        (
            TCP_CLOSE_WAIT,
            conntrack.tcp_close_wait_timeout,
            usual.tcp_close_wait_timeout,
        ),
        (UDP, conntrack.udp_timeout, None),
        (UDP_STREAM, conntrack.udp_stream_timeout, None),
    ] {
        wanted.extend(
            asked
                .and_then(seconds)
                .map(|value| exactly(key, value, asked != usual)),
        );
    }
    if conntrack.tcp_be_liberal {
        wanted.push(exactly(TCP_BE_LIBERAL, 1, true));
    }
    wanted
}

/// `None` leaves the limit alone.
fn max_entries(conntrack: &Conntrack, cpus: usize) -> Option<u32> {
    if conntrack.max_per_core == 0 {
        return None;
    }
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    let scaled = conntrack.max_per_core.saturating_mul(cpus);
    Some(scaled.max(conntrack.min).min(MOST_ENTRIES))
}

/// Whole seconds; less than one is none, and leaves the setting alone, as kube-proxy has it.
fn seconds(time: Duration) -> Option<u32> {
    let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    (seconds > 0).then_some(seconds)
}

impl Wanted {
    /// Whether a kernel that has this value has what is wanted.
    pub fn is_met_by(&self, value: &str) -> bool {
        match value.parse::<u64>() {
            Ok(value) if self.at_least => value >= u64::from(self.value),
            Ok(value) => value == u64::from(self.value),
            Err(_) => false,
        }
    }

    /// `net.ipv4.conf.all.route_localnet=1`
    pub fn assignment(&self) -> String {
        format!("{}={}", self.key, self.value)
    }
}

/// What was changed in one network namespace, so that it can be put back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    settings: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    before: String,
    /// What we have written since, or were about to: more than one value where the configuration
    /// changed and a crash may have come between the note and the deed.
    ours: Vec<String>,
}

impl Record {
    /// Notes that a setting that is `now` is about to become `next`.
    ///
    /// A value that is not ours was set by somebody since, and is what they want back.
    pub fn note(&mut self, key: &str, now: &str, next: &str) {
        let entry = self.settings.entry(key.to_string()).or_insert_with(|| Entry {
            before: now.to_string(),
            ours: Vec::new(),
        });
        if !entry.ours.iter().any(|known| known == now) {
            *entry = Entry {
                before: now.to_string(),
                ours: Vec::new(),
            };
        }
        if !entry.ours.iter().any(|known| known == next) {
            entry.ours.push(next.to_string());
        }
    }

    /// Takes back a note: the kernel would not have that value.
    pub fn withdraw(&mut self, key: &str, next: &str) {
        if let Some(entry) = self.settings.get_mut(key) {
            entry.ours.retain(|known| known != next);
            if entry.ours.is_empty() {
                self.forget(key);
            }
        }
    }

    /// The settings that are noted, of those that this program knows.
    pub fn keys(&self) -> Vec<&'static str> {
        let noted = |key: &&str| self.settings.contains_key(*key);
        KEYS.into_iter().filter(noted).collect()
    }

    /// What to write back where a setting is `now`; `None` where it is not ours any more.
    pub fn before(&self, key: &str, now: &str) -> Option<&str> {
        let entry = self.settings.get(key)?;
        let ours = entry.ours.iter().any(|known| known == now);
        (ours && entry.before != now).then_some(entry.before.as_str())
    }

    /// Drops what is noted of a setting.
    pub fn forget(&mut self, key: &str) {
        self.settings.remove(key);
    }

    /// Whether nothing is left to put back.
    pub fn is_empty(&self) -> bool {
        self.keys().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignments(settings: &Settings, localhost: bool, cpus: usize) -> Vec<String> {
        wanted(settings, localhost, cpus)
            .iter()
            .map(Wanted::assignment)
            .collect()
    }

    #[test]
    fn the_usual_ones_are_those_of_kube_proxy() {
        assert_eq!(
            assignments(&Settings::default(), true, 2),
            [
                "net.ipv4.conf.all.route_localnet=1",
                "net.netfilter.nf_conntrack_max=131072",
                "net.netfilter.nf_conntrack_buckets=32768",
                "net.netfilter.nf_conntrack_tcp_timeout_established=86400",
                "net.netfilter.nf_conntrack_tcp_timeout_close_wait=3600",
            ]
        );
    }

    #[test]
    fn each_field_that_is_set_or_taken_out_counts() {
        let settings = Settings {
            conntrack: Conntrack {
                max_per_core: 0,
                min: 500,
                tcp_established_timeout: None,
                tcp_close_wait_timeout: Some(Duration::from_millis(900)),
                tcp_be_liberal: true,
                udp_timeout: Some(Duration::from_secs(20)),
                udp_stream_timeout: Some(Duration::from_secs(90)),
            },
            ..Settings::default()
        };
        assert_eq!(
            assignments(&settings, false, 2),
            [
                "net.netfilter.nf_conntrack_udp_timeout=20",
                "net.netfilter.nf_conntrack_udp_timeout_stream=90",
                "net.netfilter.nf_conntrack_tcp_be_liberal=1",
            ]
        );
    }

    #[test]
    fn the_table_grows_with_the_cpus_up_to_a_limit() {
        let conntrack = Settings::default().conntrack;
        let cases = [
            (1, 131_072),
            (8, 262_144),
            (32, 1_048_576),
            (256, 1_048_576),
            (usize::MAX, 1_048_576),
        ];
        for (cpus, expected) in cases {
            assert_eq!(max_entries(&conntrack, cpus), Some(expected), "{cpus} CPUs");
        }
        let mut settings = Settings::default();
        settings.conntrack.min = 200_001;
        let buckets = wanted(&settings, false, 1)
            .into_iter()
            .find(|one| one.key == BUCKETS);
        assert_eq!(buckets.map(|one| one.value), Some(57_344));
    }

    #[test]
    fn a_size_is_never_lowered_and_a_time_is() {
        let all = wanted(&Settings::default(), true, 2);
        let met = |key: &str, value: &str| all.iter().find(|one| one.key == key).unwrap().is_met_by(value);
        assert!(met(MAX, "131072") && met(MAX, "262144") && !met(MAX, "65536"));
        assert!(met(TCP_ESTABLISHED, "86400") && !met(TCP_ESTABLISHED, "432000"));
        assert!(!met(ROUTE_LOCALNET, "0") && !met(ROUTE_LOCALNET, "") && !met(ROUTE_LOCALNET, "-1"));
    }

    #[test]
    fn what_is_put_back_is_what_was_there_and_only_in_place_of_ours() {
        let mut record = Record::default();
        record.note(UDP, "30", "20");
        // Killed before or after the write: either way it was 30.
        record.note(UDP, "30", "20");
        assert_eq!(record.before(UDP, "20"), Some("30"));
        assert_eq!(record.before(UDP, "30"), None);
        // Another configuration; the first value stays the one to go back to.
        record.note(UDP, "20", "25");
        assert_eq!(record.before(UDP, "20"), Some("30"));
        assert_eq!(record.before(UDP, "25"), Some("30"));
        // An administrator's own value is left alone, and is the one to go back to from then on.
        assert_eq!(record.before(UDP, "60"), None);
        record.note(UDP, "60", "25");
        assert_eq!(record.before(UDP, "25"), Some("60"));
        assert_eq!(record.before(UDP, "20"), None);
        assert_eq!(record.keys(), [UDP]);
        record.note(UDP, "25", "0");
        record.withdraw(UDP, "0");
        assert_eq!(record.before(UDP, "25"), Some("60"));
        record.withdraw(UDP, "25");
        assert!(record.is_empty());
    }

    #[test]
    fn a_record_that_names_something_else_is_not_believed() {
        let text = r#"{"settings":{"kernel.core_pattern":{"before":"|/bin/sh","ours":["core"]}}}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert!(record.is_empty());
    }
}
