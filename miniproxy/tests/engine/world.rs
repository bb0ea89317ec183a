//! A kernel in memory, a clock that stands still until it is moved, and the loop between them and
//! the engine.

use std::collections::BTreeMap;
use std::time::Duration;

use labkit::xtables::Family;
use miniproxy::config::Compat;
use miniproxy::config::Settings;
use miniproxy::engine::{Action, Engine, Look, Outcome, Pace, Report};
use miniproxy::node::{Host, NodeOptions};
use miniproxy::registry::SourceFile;
use miniproxy::registry::store::Store;
use miniproxy::registry::touched::Touched;
use miniproxy::rules::delta::Delta;
use miniproxy::rules::documents::{ChainOrder, Limit};
use miniproxy::rules::set::{Found, TableName};
use serde_json::{Value, json};

use crate::memory;

/// How one write goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing of it is taken: the lock is held, the program is missing, the first line is refused.
    Refused,
    /// So many of its tables are taken, the next one is not.
    After(usize),
    /// All of it is taken, but the program is killed before it can say so.
    TakenAndKilled,
    /// Somebody else's change comes right before it.
    Overtaken,
    /// Somebody else's change comes in between.
    Mixed,
}

/// New chains in one document, few so that documents come in parts.
const LIMIT: Limit = Limit { chains: 4, rules: 9 };

/// Everything outside of the engine.
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) store: Store,
    node: NodeOptions,
    pub(crate) now: Duration,
    pub(crate) kernel: BTreeMap<Family, Found>,
    /// The kernel's count of changes.
    pub(crate) count: u32,
    counted: bool,
    /// What goes wrong next, in turn.
    pub(crate) faults: Vec<Fault>,
    pub(crate) reads: usize,
    pub(crate) writes: Vec<(Family, Delta)>,
    pub(crate) reports: Vec<Report>,
    pub(crate) waits: Vec<Duration>,
}

impl World {
    /// A kernel that counts its changes (nft), or one that does not (legacy).
    pub(crate) fn new(counted: bool) -> Self {
        Self::with_min_interval(counted, None)
    }

    pub(crate) fn with_min_interval(counted: bool, min_interval: Option<Duration>) -> Self {
        Self {
            engine: Engine::new(Pace {
                min_interval,
                sync_period: Duration::from_secs(30),
                look: Duration::from_millis(250),
                counted,
            }),
            store: Store::default(),
            node: NodeOptions {
                settings: Settings::defaults(Compat::V1_30),
                host: Host::default(),
            },
            now: Duration::from_secs(100),
            kernel: Family::ALL.map(|family| (family, memory::empty())).into(),
            count: 1,
            counted,
            faults: Vec::new(),
            reads: 0,
            writes: Vec::new(),
            reports: Vec::new(),
            waits: Vec::new(),
        }
    }

    /// Puts a file into the registry and tells the engine.
    pub(crate) fn publish(&mut self, path: &str, objects: &[Value]) {
        self.publish_text(
            path,
            &json!({"kind": "List", "apiVersion": "v1", "items": objects}).to_string(),
        );
    }

    /// The kernel already has what the registry wants.
    pub(crate) fn settle(&mut self) {
        for family in Family::ALL {
            let wanted = self.node.wanted(self.store.registry(), family);
            self.kernel.insert(family, Found::from(&wanted));
        }
    }

    /// Puts a file into the registry, and does not tell the engine yet.
    pub(crate) fn touch(&mut self, path: &str, objects: &[Value]) -> Touched {
        let list = json!({"kind": "List", "apiVersion": "v1", "items": objects});
        let file = SourceFile {
            path: path.into(),
            bytes: list.to_string().into_bytes(),
        };
        self.store.update(&[file], &[])
    }

    /// Tells the engine what changed.
    pub(crate) fn want(&mut self, touched: &Touched) {
        self.engine.want(self.now, &self.node, &self.store, touched);
    }

    pub(crate) fn publish_text(&mut self, path: &str, text: &str) {
        let file = SourceFile {
            path: path.into(),
            bytes: text.as_bytes().to_vec(),
        };
        let touched = self.store.update(&[file], &[]);
        self.engine.want(self.now, &self.node, &self.store, &touched);
    }

    pub(crate) fn withdraw(&mut self, path: &str) {
        let touched = self.store.update(&[], &[path.to_string()]);
        self.engine.want(self.now, &self.node, &self.store, &touched);
    }

    /// Does what the engine says until it waits; returns until when.
    pub(crate) fn run(&mut self) -> Duration {
        for _ in 0..1000 {
            match self.engine.poll(self.now) {
                Action::Wait(until) => return until,
                Action::Look => {
                    let look = if self.counted {
                        Look::Count(self.count)
                    } else {
                        Look::Canary(
                            self.kernel[&Family::V4]
                                .chain(TableName::Mangle, "KUBE-PROXY-CANARY")
                                .is_some(),
                        )
                    };
                    self.engine.looked(Some(look), self.now);
                }
                Action::Read(family) => {
                    self.reads += 1;
                    let count = self.counted.then_some(self.count);
                    self.engine
                        .read(family, Some(self.kernel[&family].clone()), count);
                }
                Action::Write(family, delta) => self.write(family, &delta),
            }
        }
        panic!("the engine never rests");
    }

    /// Runs, and moves the clock to where the engine waits, until so much time has passed.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let until = self.run();
            if until > end {
                self.now = end;
                self.run();
                return;
            }
            self.now = until.max(self.now);
        }
    }

    fn write(&mut self, family: Family, delta: &Delta) {
        if delta.is_empty() {
            self.done(family, self.counted.then_some(self.count));
            return;
        }
        let fault = (!self.faults.is_empty()).then(|| self.faults.remove(0));
        if matches!(fault, Some(Fault::Overtaken | Fault::Mixed)) {
            self.foreign();
        }
        let overtaken = self.counted && self.engine.count() != Some(self.count);
        if overtaken && fault != Some(Fault::Mixed) && !self.engine.insists(family) {
            self.reports
                .extend(self.engine.wrote(family, Outcome::Overtaken, self.now));
            return;
        }
        match fault {
            Some(Fault::Refused) => return self.failed(family),
            Some(Fault::After(tables)) => {
                let whole = delta.document();
                let parts: Vec<&str> = whole.split_inclusive("COMMIT\n").take(tables).collect();
                self.offer(family, &parts.concat()).unwrap();
                return self.failed(family);
            }
            _ => {}
        }
        self.writes.push((family, delta.clone()));
        for document in delta.documents(LIMIT, ChainOrder::Rising).iter() {
            let taken = self.offer(family, &document.to_string());
            // What others did meanwhile may leave nothing to edit; else every document must fit.
            if taken.is_err() && fault == Some(Fault::Mixed) {
                return self.failed(family);
            }
            taken.unwrap_or_else(|what| panic!("{what} in\n{document}"));
        }
        match fault {
            Some(Fault::TakenAndKilled) => self.failed(family),
            Some(Fault::Mixed) => self.done(family, None),
            _ => self.done(family, self.counted.then_some(self.count)),
        }
    }

    fn offer(&mut self, family: Family, document: &str) -> Result<(), String> {
        let kernel = self.kernel.get_mut(&family).unwrap();
        memory::restore(kernel, document)?;
        self.count += u32::try_from(document.matches("COMMIT\n").count()).unwrap();
        Ok(())
    }

    fn done(&mut self, family: Family, count: Option<u32>) {
        // A write takes its time.
        self.now += Duration::from_millis(1);
        let report = self.engine.wrote(family, Outcome::Done(count), self.now);
        self.reports.extend(report);
    }

    fn failed(&mut self, family: Family) {
        self.waits.push(self.engine.failed(family, self.now).wait);
    }

    /// Somebody else writes rules of their own.
    pub(crate) fn foreign(&mut self) {
        self.foreign_text("*filter\n-A FORWARD -m comment --comment \"somebody else\" -j ACCEPT\nCOMMIT\n");
    }

    pub(crate) fn foreign_text(&mut self, document: &str) {
        memory::restore(self.kernel.get_mut(&Family::V4).unwrap(), document).unwrap();
        self.count += 1;
    }

    /// Whether the kernel has exactly what the registry wants, of both families.
    #[track_caller]
    pub(crate) fn assert_in_force(&self) {
        for family in Family::ALL {
            let wanted = self.node.wanted(self.store.registry(), family);
            let delta = Delta::between(&self.kernel[&family], &wanted);
            assert!(
                delta.is_empty(),
                "{}: still to do: {}",
                family.name(),
                delta.document()
            );
        }
    }

    /// What was told about changes, in order; taken away.
    pub(crate) fn told(&mut self) -> Vec<String> {
        let reports = std::mem::take(&mut self.reports);
        let changes = reports.into_iter().flat_map(|report| report.changes);
        changes.map(|change| change.line()).collect()
    }
}

/// A Service with one port and these endpoints.
pub(crate) fn web(name: &str, last: u8, endpoints: &[&str]) -> Vec<Value> {
    let ip = format!("10.96.0.{last}");
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}}))
        .collect();
    vec![
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIP": ip, "clusterIPs": [ip],
                     "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}]},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{name}-1"), "namespace": "default",
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        }),
    ]
}
