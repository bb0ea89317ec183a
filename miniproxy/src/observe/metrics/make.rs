//! Names, help texts, buckets and labels.

use std::sync::atomic::AtomicI64;

use labkit::xtables::Family;
use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Error, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use super::{OfFamily, Share};
use crate::config::Compat;

/// The label that tells families apart.
const FAMILY: &str = "ip_family";

/// Makes metrics, and registers each.
pub(super) struct Maker<'a> {
    registry: &'a Registry,
    families: Families,
}

/// What each family has one of.
struct Families {
    sync: HistogramVec,
    full_sync: HistogramVec,
    partial_sync: HistogramVec,
    programming: HistogramVec,
    last_sync: GaugeVec,
    last_queued: GaugeVec,
    failures: CounterVec,
    partial_failures: CounterVec,
    total: IntGaugeVec,
    last: IntGaugeVec,
    no_local: IntGaugeVec,
    reconciler: Option<(HistogramVec, CounterVec)>,
    repairs: CounterVec,
    delta_rules: IntGaugeVec,
    chains: IntGaugeVec,
    reads: CounterVec,
    conntrack: CounterVec,
    /// kube-proxy's own have the family's label.
    labelled: bool,
}

impl<'a> Maker<'a> {
    pub(super) fn new(registry: &'a Registry, compat: Compat) -> Result<Self, Error> {
        let families = Families::new(registry, compat == Compat::Latest)?;
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

    pub(super) fn of_family(&self, family: Family) -> Result<OfFamily, Error> {
        let all = &self.families;
        let name = family.name();
        // kube-proxy's: the family's label where it has one. Our own: always.
        let theirs: &[&str] = if all.labelled { &[name] } else { &[] };
        let ours: &[&str] = &[name];
        let share = |gauges: &IntGaugeVec, labels: &[&str]| -> Result<Share, Error> {
            Ok(Share {
                gauge: gauges.get_metric_with_label_values(labels)?,
                own: AtomicI64::new(0),
            })
        };
        let shares = |gauges: &IntGaugeVec, values: [&str; 2]| -> Result<[Share; 2], Error> {
            let of = |value| share(gauges, &[theirs, &[value]].concat());
            Ok([of(values[0])?, of(values[1])?])
        };
        let histogram =
            |all: &HistogramVec| -> Result<Histogram, Error> { all.get_metric_with_label_values(theirs) };
        let gauge = |all: &GaugeVec| -> Result<Gauge, Error> { all.get_metric_with_label_values(theirs) };
        let reconciler = all.reconciler.as_ref().map(|(time, entries)| {
            let entries: Result<Counter, Error> = entries.get_metric_with_label_values(theirs);
            Ok::<_, Error>((histogram(time)?, entries?))
        });
        Ok(OfFamily {
            sync: histogram(&all.sync)?,
            full_sync: histogram(&all.full_sync)?,
            partial_sync: histogram(&all.partial_sync)?,
            programming: histogram(&all.programming)?,
            last_sync: gauge(&all.last_sync)?,
            last_queued: gauge(&all.last_queued)?,
            failures: all.failures.get_metric_with_label_values(theirs)?,
            partial_failures: all.partial_failures.get_metric_with_label_values(theirs)?,
            total: shares(&all.total, ["filter", "nat"])?,
            last: shares(&all.last, ["filter", "nat"])?,
            no_local: shares(&all.no_local, ["internal", "external"])?,
            reconciler: reconciler.transpose()?,
            repairs: all.repairs.get_metric_with_label_values(ours)?,
            delta_rules: share(&all.delta_rules, ours)?,
            chains: share(&all.chains, ours)?,
            reads: all.reads.get_metric_with_label_values(ours)?,
            conntrack: all.conntrack.get_metric_with_label_values(ours)?,
        })
    }
}

impl Families {
    fn new(registry: &Registry, labelled: bool) -> Result<Self, Error> {
        let theirs: &[&str] = if labelled { &[FAMILY] } else { &[] };
        let and = |label| [theirs, &[label]].concat();
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            let options = HistogramOpts::new(name, help).buckets(buckets);
            register(registry, HistogramVec::new(options, theirs)?)
        };
        let time = |name: &str, help: &str| {
            let help = format!("[ALPHA] {help}");
            histogram(name, &help, prometheus::exponential_buckets(0.001, 2.0, 15)?)
        };
        let gauge =
            |name: &str, help: &str| register(registry, GaugeVec::new(Opts::new(name, help), theirs)?);
        let counts = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(registry, CounterVec::new(Opts::new(name, help), labels)?)
        };
        let reconciler = || {
            let duration = time(
                "kubeproxy_conntrack_reconciler_sync_duration_seconds",
                "ReconcileConntrackFlowsLatency latency in seconds",
            )?;
            let entries = counter(
                "kubeproxy_conntrack_reconciler_deleted_entries_total",
                "[ALPHA] Cumulative conntrack flows deleted by conntrack reconciler",
                theirs,
            )?;
            Ok::<_, Error>((duration, entries))
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
                "[ALPHA] In Cluster Network Programming Latency in seconds",
                programming_buckets()?,
            )?,
            last_sync: gauge(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "[ALPHA] The last time proxy rules were successfully synced",
            )?,
            last_queued: gauge(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "[ALPHA] The last time a sync of proxy rules was queued",
            )?,
            failures: counter(
                "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
                "[ALPHA] Cumulative proxy iptables restore failures",
                theirs,
            )?,
            partial_failures: counter(
                "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total",
                "[ALPHA] Cumulative proxy iptables partial restore failures",
                theirs,
            )?,
            // Gauges, whatever their names end in.
            total: counts(
                "kubeproxy_sync_proxy_rules_iptables_total",
                "[ALPHA] Total number of iptables rules owned by kube-proxy",
                &and("table"),
            )?,
            last: counts(
                "kubeproxy_sync_proxy_rules_iptables_last",
                "[ALPHA] Number of iptables rules written by kube-proxy in last sync",
                &and("table"),
            )?,
            no_local: counts(
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                "[ALPHA] Number of services with a Local traffic policy and no endpoints",
                &and("traffic_policy"),
            )?,
            reconciler: labelled.then(reconciler).transpose()?,
            repairs: counter(
                "miniproxy_drift_repairs_total",
                "Times that rules which others had changed were put right",
                &[FAMILY],
            )?,
            delta_rules: counts(
                "miniproxy_delta_rules",
                "Rules that the last write sent",
                &[FAMILY],
            )?,
            chains: counts("miniproxy_chains", "Chains in force", &[FAMILY])?,
            reads: counter(
                "miniproxy_kernel_reads_total",
                "Times that the kernel's rules were read and compared",
                &[FAMILY],
            )?,
            conntrack: counter(
                "miniproxy_conntrack_deletions_total",
                "Entries of the connection table that were deleted",
                &[FAMILY],
            )?,
            labelled,
        })
    }
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
