//! The numbers that Prometheus collects: kube-proxy's by its names, and our own.
//!
//! kube-proxy 1.30 has no `ip_family` label, though its two families write to the same gauges, so
//! that each overwrites the other's. There we show what both have together.

mod local;
mod make;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use labkit::xtables::Family;
use prometheus::{Counter, CounterVec, Error, Gauge, Histogram, IntGauge, Registry, TextEncoder};

use super::health::Question;
use crate::config::Compat;
use crate::rules::set::TableName;
pub use local::NoLocalEndpoints;
use make::Maker;

/// What `/metrics` says it is.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Rules by table; kube-proxy counts these two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// In the filter table.
    pub filter: usize,
    /// In the nat table.
    pub nat: usize,
}

impl Rules {
    /// Takes the two tables out of counts of all.
    pub fn of(counts: &BTreeMap<TableName, usize>) -> Self {
        let of = |table| counts.get(&table).copied().unwrap_or_default();
        Self {
            filter: of(TableName::Filter),
            nat: of(TableName::Nat),
        }
    }
}

/// One family's sync that came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sync {
    /// The family.
    pub family: Family,
    /// Everything was compared or written, not only what changed.
    pub full: bool,
    /// How long it took.
    pub duration: Duration,
    /// When it ended.
    pub at: Timestamp,
    /// Rules in force.
    pub total: Rules,
    /// Rules that were sent this time.
    pub sent: Rules,
    /// Our chains in force, of all tables.
    pub chains: usize,
}

/// All numbers. They can be changed and read from several threads.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    v4: OfFamily,
    v6: OfFamily,
    endpoint_changes: Changes,
    service_changes: Changes,
    healthz: CounterVec,
    livez: CounterVec,
    refused: IntGauge,
    /// kube-proxy's, of newer versions only: each with the name of the kernel's counter.
    packets: Vec<(&'static str, Counter)>,
}

/// Changes of one kind of object.
#[derive(Debug)]
struct Changes {
    pending: IntGauge,
    total: Counter,
}

/// One family's.
#[derive(Debug)]
struct OfFamily {
    sync: Histogram,
    full_sync: Histogram,
    partial_sync: Histogram,
    programming: Histogram,
    last_sync: Gauge,
    last_queued: Gauge,
    failures: Counter,
    partial_failures: Counter,
    total: [Share; 2],
    last: [Share; 2],
    no_local: [Share; 2],
    /// kube-proxy's, of newer versions only.
    reconciler: Option<(Histogram, Counter)>,
    repairs: Counter,
    delta_rules: Share,
    chains: Share,
    reads: Counter,
    conntrack: Counter,
}

/// A family's part of a gauge that two families may have in common.
#[derive(Debug)]
struct Share {
    gauge: IntGauge,
    own: AtomicI64,
}

impl Share {
    fn set(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let before = self.own.swap(count, Ordering::Relaxed);
        self.gauge.add(count.saturating_sub(before));
    }
}

impl Metrics {
    /// All of them at 0, with the names and labels of that kube-proxy.
    ///
    /// # Errors
    /// Never, unless two metrics were given one name.
    pub fn new(compat: Compat) -> Result<Self, Error> {
        let registry = Registry::new();
        let maker = Maker::new(&registry, compat)?;
        let changes = |kind: &str, name: &str| -> Result<Changes, Error> {
            Ok(Changes {
                pending: maker.plain_gauge(
                    &format!("kubeproxy_sync_proxy_rules_{kind}_changes_pending"),
                    &format!("[ALPHA] Pending proxy rules {name} changes"),
                )?,
                total: maker.plain_counter(
                    &format!("kubeproxy_sync_proxy_rules_{kind}_changes_total"),
                    &format!("[ALPHA] Cumulative proxy rules {name} changes"),
                )?,
            })
        };
        Ok(Self {
            v4: maker.of_family(Family::V4)?,
            v6: maker.of_family(Family::V6)?,
            endpoint_changes: changes("endpoint", "Endpoint")?,
            service_changes: changes("service", "Service")?,
            healthz: maker.by_code(
                "kubeproxy_proxy_healthz_total",
                "[ALPHA] Cumulative proxy healthz HTTP status",
            )?,
            livez: maker.by_code(
                "kubeproxy_proxy_livez_total",
                "[ALPHA] Cumulative proxy livez HTTP status",
            )?,
            packets: maker.packets()?,
            refused: maker.plain_gauge(
                "miniproxy_refused_objects",
                "Objects of the registry that are refused, and so not in force",
            )?,
            registry,
        })
    }

    /// A sync of this family was asked for.
    pub fn queued(&self, family: Family, at: Timestamp) {
        self.of(family).last_queued.set(seconds(at));
    }

    /// Objects changed: so many Services, so many EndpointSlices.
    pub fn changed(&self, services: usize, endpoints: usize) {
        self.service_changes.total.inc_by(as_float(services));
        self.endpoint_changes.total.inc_by(as_float(endpoints));
    }

    /// Changes that are not written yet.
    pub fn pending(&self, services: usize, endpoints: usize) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.service_changes.pending.set(gauge(services));
        self.endpoint_changes.pending.set(gauge(endpoints));
    }

    /// A sync came to its end, and the kernel has what is wanted.
    pub fn synced(&self, sync: &Sync) {
        let own = self.of(sync.family);
        own.attempted(sync.full, sync.duration);
        own.last_sync.set(seconds(sync.at));
        own.total[0].set(sync.total.filter);
        own.total[1].set(sync.total.nat);
        own.last[0].set(sync.sent.filter);
        own.last[1].set(sync.sent.nat);
        own.delta_rules.set(sync.sent.filter + sync.sent.nat);
        own.chains.set(sync.chains);
    }

    /// iptables-restore failed; the sync had taken so long.
    pub fn failed(&self, family: Family, full: bool, duration: Duration) {
        let own = self.of(family);
        own.attempted(full, duration);
        own.failures.inc();
        if !full {
            own.partial_failures.inc();
        }
    }

    /// How long changes of EndpointSlices took from the API server to the kernel, by their
    /// annotation `endpoints.kubernetes.io/last-change-trigger-time`.
    pub fn network_programming(&self, family: Family, durations: &[Duration]) {
        for duration in durations {
            self.of(family).programming.observe(duration.as_secs_f64());
        }
    }

    /// Service ports without the local endpoints that they insist on.
    pub fn no_local_endpoints(&self, family: Family, count: NoLocalEndpoints) {
        let [internal, external] = &self.of(family).no_local;
        internal.set(count.internal);
        external.set(count.external);
    }

    /// Entries of the connection table were looked through, and so many deleted.
    pub fn conntrack(&self, family: Family, duration: Duration, deleted: usize) {
        let own = self.of(family);
        own.conntrack.inc_by(as_float(deleted));
        if let Some((time, entries)) = &own.reconciler {
            time.observe(duration.as_secs_f64());
            entries.inc_by(as_float(deleted));
        }
    }

    /// Somebody else had changed our rules, and they are as they should be again.
    pub fn repaired(&self, family: Family) {
        self.of(family).repairs.inc();
    }

    /// The kernel's rules were read, because what was known of them no longer held or was to be checked.
    pub fn kernel_read(&self, family: Family) {
        self.of(family).reads.inc();
    }

    /// So many objects of the registry are refused.
    pub fn refused(&self, objects: usize) {
        self.refused.set(i64::try_from(objects).unwrap_or(i64::MAX));
    }

    /// Whether the kernel's packet counters are told of.
    pub fn counts_packets(&self) -> bool {
        !self.packets.is_empty()
    }

    /// Takes over what the kernel counted by now, `counted` being asked by name.
    pub fn packets(&self, counted: impl Fn(&str) -> Option<u64>) {
        for (name, counter) in &self.packets {
            // The cast is exact below 2^53 packets.
            #[expect(clippy::cast_precision_loss)]
            let more = counted(name).map_or(0.0, |count| count as f64 - counter.get());
            // A counter that was made anew begins at 0; ours goes on.
            counter.inc_by(more.max(0.0));
        }
    }

    /// A health question was answered so.
    pub fn asked(&self, question: Question, code: u16) {
        let counter = match question {
            Question::Healthz => &self.healthz,
            Question::Livez => &self.livez,
        };
        if let Ok(counter) = counter.get_metric_with_label_values(&[code.to_string()]) {
            counter.inc();
        }
    }

    /// All numbers in Prometheus' text format, sorted by name.
    pub fn text(&self) -> String {
        // It refuses only families without metrics, and the registry gives it none.
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
    }

    fn of(&self, family: Family) -> &OfFamily {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl OfFamily {
    fn attempted(&self, full: bool, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.sync.observe(seconds);
        if full {
            self.full_sync.observe(seconds);
        } else {
            self.partial_sync.observe(seconds);
        }
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

fn as_float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn noon() -> Timestamp {
        "2026-05-01T12:00:00.5Z".parse().unwrap()
    }

    fn sync(family: Family, full: bool) -> Sync {
        Sync {
            family,
            full,
            duration: Duration::from_millis(3),
            at: noon(),
            total: Rules { filter: 10, nat: 100 },
            sent: Rules { filter: 1, nat: 7 },
            chains: 42,
        }
    }

    fn everything(compat: Compat) -> Metrics {
        let metrics = Metrics::new(compat).unwrap();
        metrics.changed(2, 3);
        metrics.pending(2, 3);
        for family in Family::ALL {
            metrics.queued(family, noon());
            metrics.synced(&sync(family, family == Family::V4));
            metrics.no_local_endpoints(
                family,
                NoLocalEndpoints {
                    internal: 1,
                    external: 2,
                },
            );
        }
        metrics.failed(Family::V6, false, SECOND);
        metrics.failed(Family::V4, true, SECOND);
        metrics.network_programming(Family::V4, &[Duration::from_millis(300), 200 * SECOND]);
        metrics.conntrack(Family::V6, SECOND / 4, 5);
        metrics.repaired(Family::V4);
        metrics.kernel_read(Family::V4);
        metrics.refused(3);
        metrics.asked(Question::Healthz, 200);
        metrics.asked(Question::Livez, 503);
        metrics
    }

    /// Without the many buckets, but for the first and the last two.
    fn short(text: &str) -> String {
        let lines: Vec<&str> = text.lines().collect();
        let bucket = |line: Option<&&str>| line.is_some_and(|line| line.contains("_bucket"));
        let inner = |index: usize| {
            bucket(lines.get(index.wrapping_sub(1)))
                && bucket(lines.get(index))
                && bucket(lines.get(index + 1))
        };
        let kept = (0..lines.len()).filter(|index| !inner(*index));
        kept.map(|index| format!("{}\n", lines[index]))
            .collect::<Vec<_>>()
            .concat()
    }

    #[test]
    fn the_text_of_1_30() {
        insta::assert_snapshot!(short(&everything(Compat::V1_30).text()));
    }

    #[test]
    fn the_text_of_newer_versions() {
        insta::assert_snapshot!(short(&everything(Compat::Latest).text()));
    }

    #[test]
    fn buckets_are_kube_proxys() {
        let text = everything(Compat::V1_30).text();
        let bounds = |name: &str| -> Vec<String> {
            let start = format!("{name}_bucket{{le=\"");
            let bounds = text
                .lines()
                .filter_map(|line| line.strip_prefix(&start)?.split('"').next());
            bounds.map(str::to_string).collect()
        };
        let sync = bounds("kubeproxy_sync_proxy_rules_duration_seconds");
        assert_eq!(
            sync.join(" "),
            "0.001 0.002 0.004 0.008 0.016 0.032 0.064 0.128 0.256 0.512 1.024 2.048 4.096 8.192 16.384 +Inf"
        );
        let programming = bounds("kubeproxy_network_programming_duration_seconds");
        assert_eq!(programming.len(), 2 + 59 + 12 + 7 + 1);
        for bound in [
            "0.25", "0.5", "1", "59", "60", "65", "115", "120", "150", "300", "+Inf",
        ] {
            assert!(
                programming.iter().any(|known| known == bound),
                "{bound}: {programming:?}"
            );
        }
    }

    #[test]
    fn without_a_family_label_a_gauge_is_what_both_have() {
        let metrics = everything(Compat::V1_30);
        metrics.synced(&Sync {
            total: Rules { filter: 4, nat: 40 },
            ..sync(Family::V6, false)
        });
        let text = metrics.text();
        assert!(
            text.contains("kubeproxy_sync_proxy_rules_iptables_total{table=\"nat\"} 140\n"),
            "{text}"
        );
        let text = everything(Compat::Latest).text();
        let v6 = "kubeproxy_sync_proxy_rules_iptables_total{ip_family=\"IPv6\",table=\"nat\"} 100\n";
        assert!(text.contains(v6), "{text}");
    }
}
