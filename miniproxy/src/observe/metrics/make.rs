//! Names, help texts, buckets and labels.

use std::sync::atomic::AtomicI64;

use labkit::xtables::Family;
use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Error, GaugeVec, HistogramOpts, HistogramVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::{OfFamily, Share};
use crate::config::Compat;
use crate::rules::fixed::{INVALID_DROPPED, LOCALHOST_ACCEPTED};

/// The label that tells families apart.
const FAMILY: &str = "ip_family";

/// Makes metrics, and registers each.
pub(super) struct Maker<'a> {
    registry: &'a Registry,
    families: Families,
}

/// What each family has one of.
struct Families {
    times: Times,
    counts: Counts,
    own: Own,
    /// kube-proxy's have the family's label.
    labelled: bool,
}

/// kube-proxy's durations and points in time.
struct Times {
    sync: HistogramVec,
    full_sync: HistogramVec,
    partial_sync: HistogramVec,
    programming: HistogramVec,
    reconciler: Option<HistogramVec>,
    last_sync: GaugeVec,
    last_queued: GaugeVec,
}

/// What kube-proxy counts.
struct Counts {
    failures: CounterVec,
    partial_failures: CounterVec,
    total: IntGaugeVec,
    last: IntGaugeVec,
    no_local: IntGaugeVec,
    reconciler: Option<CounterVec>,
}

/// Our own.
struct Own {
    repairs: CounterVec,
    delta_rules: IntGaugeVec,
    chains: IntGaugeVec,
    reads: CounterVec,
    conntrack: CounterVec,
}

impl<'a> Maker<'a> {
    pub(super) fn new(registry: &'a Registry, compat: Compat) -> Result<Self, Error> {
        let labelled = compat == Compat::Latest;
        let labels: &[&str] = if labelled { &[FAMILY] } else { &[] };
        let families = Families {
            times: Times::new(registry, labels)?,
            counts: Counts::new(registry, labels)?,
            own: Own::new(registry)?,
            labelled,
        };
        Ok(Self { registry, families })
    }

    pub(super) fn plain_gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        register(self.registry, IntGauge::new(name, help)?)
    }

    pub(super) fn plain_counter(&self, name: &str, help: &str) -> Result<Counter, Error> {
        register(self.registry, Counter::new(name, help)?)
    }

    /// Both codes are there from the start: a counter that comes into being at 1 has no rate.
    pub(super) fn by_code(&self, name: &str, help: &str) -> Result<CounterVec, Error> {
        let counter = register(self.registry, CounterVec::new(Opts::new(name, help), &["code"])?)?;
        for code in ["200", "503"] {
            counter.get_metric_with_label_values(&[code])?;
        }
        Ok(counter)
    }

    /// What newer kube-proxies tell of the kernel's counters.
    pub(super) fn packets(&self) -> Result<Vec<(&'static str, Counter)>, Error> {
        if !self.families.labelled {
            return Ok(Vec::new());
        }
        Ok(vec![
            (
                INVALID_DROPPED,
                self.plain_counter(
                    "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
                    "[ALPHA] packets dropped by iptables to work around conntrack problems",
                )?,
            ),
            (
                LOCALHOST_ACCEPTED,
                self.plain_counter(
                    "kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
                    "[ALPHA] Number of packets accepted on nodeports of loopback interface",
                )?,
            ),
        ])
    }

    pub(super) fn of_family(&self, family: Family) -> Result<OfFamily, Error> {
        let Families {
            times, counts, own, ..
        } = &self.families;
        // kube-proxy's: the family's label where it has one. Our own: always.
        let ours: &[&str] = &[family.name()];
        let theirs = if self.families.labelled { ours } else { &[] };
        let pair = |gauges: &IntGaugeVec, values: [&str; 2]| -> Result<[Share; 2], Error> {
            let of = |value| share(gauges, &[theirs, &[value]].concat());
            Ok([of(values[0])?, of(values[1])?])
        };
        let histogram = |all: &HistogramVec| all.get_metric_with_label_values(theirs);
        let gauge = |all: &GaugeVec| all.get_metric_with_label_values(theirs);
        let counter = |all: &CounterVec| all.get_metric_with_label_values(theirs);
        let own_counter = |all: &CounterVec| all.get_metric_with_label_values(ours);
        let reconciler = match (&times.reconciler, &counts.reconciler) {
            (Some(time), Some(entries)) => Some((histogram(time)?, counter(entries)?)),
            _ => None,
        };
        Ok(OfFamily {
            sync: histogram(&times.sync)?,
            full_sync: histogram(&times.full_sync)?,
            partial_sync: histogram(&times.partial_sync)?,
            programming: histogram(&times.programming)?,
            last_sync: gauge(&times.last_sync)?,
            last_queued: gauge(&times.last_queued)?,
            failures: counter(&counts.failures)?,
            partial_failures: counter(&counts.partial_failures)?,
            total: pair(&counts.total, ["filter", "nat"])?,
            last: pair(&counts.last, ["filter", "nat"])?,
            no_local: pair(&counts.no_local, ["internal", "external"])?,
            reconciler,
            repairs: own_counter(&own.repairs)?,
            delta_rules: share(&own.delta_rules, ours)?,
            chains: share(&own.chains, ours)?,
            reads: own_counter(&own.reads)?,
            conntrack: own_counter(&own.conntrack)?,
        })
    }
}

fn share(gauges: &IntGaugeVec, labels: &[&str]) -> Result<Share, Error> {
    Ok(Share {
        gauge: gauges.get_metric_with_label_values(labels)?,
        own: AtomicI64::new(0),
    })
}

impl Times {
    fn new(registry: &Registry, labels: &[&str]) -> Result<Self, Error> {
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            let options = HistogramOpts::new(name, format!("[ALPHA] {help}")).buckets(buckets);
            register(registry, HistogramVec::new(options, labels)?)
        };
        let time =
            |name: &str, help: &str| histogram(name, help, prometheus::exponential_buckets(0.001, 2.0, 15)?);
        let gauge = |name: &str, help: &str| {
            let options = Opts::new(name, format!("[ALPHA] {help}"));
            register(registry, GaugeVec::new(options, labels)?)
        };
        let reconciler = || {
            time(
                "kubeproxy_conntrack_reconciler_sync_duration_seconds",
                "ReconcileConntrackFlowsLatency latency in seconds",
            )
        };
        Ok(Self {
            sync: time(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds",
            )?,
            full_sync: time(
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for full resyncs",
            )?,
            partial_sync: time(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for partial resyncs",
            )?,
            programming: histogram(
                "kubeproxy_network_programming_duration_seconds",
                "In Cluster Network Programming Latency in seconds",
                programming_buckets()?,
            )?,
            reconciler: is_newer(labels).then(reconciler).transpose()?,
            last_sync: gauge(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
            )?,
            last_queued: gauge(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "The last time a sync of proxy rules was queued",
            )?,
        })
    }
}

impl Counts {
    fn new(registry: &Registry, labels: &[&str]) -> Result<Self, Error> {
        let counter = |name: &str, help: &str| {
            let options = Opts::new(name, format!("[ALPHA] {help}"));
            register(registry, CounterVec::new(options, labels)?)
        };
        // Gauges, whatever their names end in.
        let gauge = |name: &str, help: &str, label: &str| {
            let options = Opts::new(name, format!("[ALPHA] {help}"));
            register(registry, IntGaugeVec::new(options, &[labels, &[label]].concat())?)
        };
        let reconciler = || {
            counter(
                "kubeproxy_conntrack_reconciler_deleted_entries_total",
                "Cumulative conntrack flows deleted by conntrack reconciler",
            )
        };
        Ok(Self {
            failures: counter(
                "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
                "Cumulative proxy iptables restore failures",
            )?,
            partial_failures: counter(
                "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total",
                "Cumulative proxy iptables partial restore failures",
            )?,
            total: gauge(
                "kubeproxy_sync_proxy_rules_iptables_total",
                "Total number of iptables rules owned by kube-proxy",
                "table",
            )?,
            last: gauge(
                "kubeproxy_sync_proxy_rules_iptables_last",
                "Number of iptables rules written by kube-proxy in last sync",
                "table",
            )?,
            no_local: gauge(
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                "Number of services with a Local traffic policy and no endpoints",
                "traffic_policy",
            )?,
            reconciler: is_newer(labels).then(reconciler).transpose()?,
        })
    }
}

impl Own {
    fn new(registry: &Registry) -> Result<Self, Error> {
        let counter =
            |name: &str, help: &str| register(registry, CounterVec::new(Opts::new(name, help), &[FAMILY])?);
        let gauge =
            |name: &str, help: &str| register(registry, IntGaugeVec::new(Opts::new(name, help), &[FAMILY])?);
        Ok(Self {
            repairs: counter(
                "miniproxy_drift_repairs_total",
                "Times that rules which others had changed were put right",
            )?,
            delta_rules: gauge("miniproxy_delta_rules", "Rules that the last write sent")?,
            chains: gauge("miniproxy_chains", "Chains in force")?,
            reads: counter(
                "miniproxy_kernel_reads_total",
                "Times that the kernel's rules were read and compared",
            )?,
            conntrack: counter(
                "miniproxy_conntrack_deletions_total",
                "Entries of the connection table that were deleted",
            )?,
        })
    }
}

/// The label and the reconciler's numbers came with the same version, 1.33.
fn is_newer(labels: &[&str]) -> bool {
    !labels.is_empty()
}

/// Fine where changes usually arrive, coarse up to five minutes.
fn programming_buckets() -> Result<Vec<f64>, Error> {
    let parts = [
        prometheus::linear_buckets(0.25, 0.25, 2)?,
        prometheus::linear_buckets(1.0, 1.0, 59)?,
        prometheus::linear_buckets(60.0, 5.0, 12)?,
        prometheus::linear_buckets(120.0, 30.0, 7)?,
    ];
    Ok(parts.concat())
}

fn register<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> Result<M, Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
