//! The first sync into an empty kernel.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::documents::{rules, sorted_chain_lines, sorted_rules};
use super::generate::{self, Scale};
use super::options::Options;
use super::table::{cell, ratio};
use crate::cost::Cost;
use crate::machine::{Flavour, Machine};
use crate::stats::median;

pub(super) const HEAD: &str = "\
First sync: seconds; own is reading, modelling and rendering; peak in MiB is
that of miniproxy itself; x is the wall time over each of the floors
                ---------- miniproxy -----------  ----- floors -----
   scale            wall     cpu    own     peak  restore    kernel      x     x";

/// Medians of one scale; times in seconds.
#[derive(Debug, Clone)]
pub(super) struct First {
    pub(super) scale: Scale,
    pub(super) flavour: Flavour,
    /// Nothing if it was not done in time.
    pub(super) sync: Option<Cost>,
    /// Of `miniproxy render`: all but the kernel.
    pub(super) own: f64,
    /// Of iptables-restore of the same rules, where that was measured.
    pub(super) restore: Option<f64>,
    /// System time of the writing, the least of all ways that were measured.
    pub(super) kernel: Option<f64>,
}

impl First {
    pub(super) fn measured(scale: Scale, flavour: Flavour, options: &Options, scratch: &Path) -> Self {
        let folder = tempfile::tempdir_in(scratch).expect("our own folder");
        generate::write(folder.path(), scale).expect("our own folder");
        let registry = folder.path().to_str().expect("we chose the name");
        let (mut renders, mut syncs, mut restores) = (Vec::new(), Vec::new(), Vec::new());
        for run in 0..options.runs_at(scale, flavour) {
            let machine = Machine::builder().flavour(flavour).start();
            renders.push(cost(
                &machine,
                options.limit(),
                "/dev/null",
                &["miniproxy", "render", "--registry", registry],
            ));
            let sync = cost(
                &machine,
                options.limit(),
                "/dev/null",
                &["miniproxy", "sync", "--registry", registry],
            );
            let done = sync.code.is_some();
            syncs.push(sync);
            if !done {
                break;
            }
            let document = sorted_chain_lines(&machine.proxy(["render", "--registry", registry]).ok().stdout);
            let dump = (run == 0).then(|| dump(&machine));
            if let Some(dump) = &dump {
                assert_eq!(rules(dump), rules(&document), "{scale}: not all rules are there");
            }
            drop(machine);
            if options.with_restore(scale, flavour) {
                restores.push(restore(flavour, options, &document, dump.as_deref()));
            }
        }
        let middle = |costs: &[Cost]| (!costs.is_empty()).then(|| medians(costs));
        let in_time = syncs.iter().all(|cost| cost.code.is_some());
        let (render, sync) = (medians(&renders), medians(&syncs));
        let (sync, restore) = (Some(sync).filter(|_| in_time), middle(&restores));
        Self {
            scale,
            flavour,
            own: render.wall,
            kernel: kernel_share(sync, render, restore),
            restore: restore.map(|cost| cost.wall),
            sync,
        }
    }

    pub(super) fn line(&self) -> String {
        let of = |pick: &dyn Fn(&Cost) -> f64| self.sync.as_ref().map(pick);
        let wall = of(&|cost| cost.wall);
        format!(
            "{:>8} {:<6} {} {} {:>6.3} {} {} {} {} {}",
            self.scale,
            self.flavour.name(),
            cell(wall, 8, 3),
            cell(of(&|cost| cost.cpu), 7, 3),
            self.own,
            cell(of(&|cost| cost.peak), 8, 1),
            cell(self.restore, 8, 3),
            cell(self.kernel, 9, 3),
            cell(ratio(wall, self.restore), 6, 2),
            cell(ratio(wall, self.kernel), 5, 1),
        )
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "scale": self.scale.to_string(), "iptables": self.flavour.name(),
            "sync": self.sync.map(|sync| sync.to_json()), "own": self.own,
            "restore": self.restore, "kernel": self.kernel,
        })
    }
}

/// The sorted document into an empty kernel. The dump of our own rules, if given, must be the same.
fn restore(flavour: Flavour, options: &Options, document: &str, ours: Option<&str>) -> Cost {
    let machine = Machine::builder().flavour(flavour).start();
    let file = machine.file("rules", document);
    let cost = cost(&machine, options.limit(), &file, &["iptables-restore"]);
    if let Some(ours) = ours.filter(|_| cost.code.is_some()) {
        let theirs = dump(&machine);
        assert!(
            sorted_rules(ours) == sorted_rules(&theirs),
            "the rules are not the same"
        );
    }
    cost
}

fn dump(machine: &Machine) -> String {
    machine.run(["iptables-save"]).ok().stdout
}

/// What a command costs in a machine.
pub(super) fn cost(machine: &Machine, limit: Duration, input: &str, argv: &[&str]) -> Cost {
    let seconds = limit.as_secs().to_string();
    let words = ["lab-helper", "cost", &seconds, input, "/dev/null"];
    let ran = machine
        .command(words.iter().chain(argv))
        .patience(limit + Duration::from_secs(30))
        .run()
        .ok();
    let cost = Cost::from_json(&ran.json());
    assert!(cost.code.is_none_or(|code| code == 0), "it failed:\n{ran}");
    cost
}

fn medians(costs: &[Cost]) -> Cost {
    let of = |pick: fn(&Cost) -> f64| median(&costs.iter().map(pick).collect::<Vec<_>>());
    Cost {
        wall: of(|cost| cost.wall),
        cpu: of(|cost| cost.cpu),
        sys: of(|cost| cost.sys),
        children_sys: of(|cost| cost.children_sys),
        peak: of(|cost| cost.peak),
        code: costs.first().and_then(|cost| cost.code),
    }
}

/// The system time of writing rules: of the programs that the sync starts for it, or of all that it
/// does but read, whichever is more; and of the restore, if that is less.
fn kernel_share(sync: Option<Cost>, render: Cost, restore: Option<Cost>) -> Option<f64> {
    let writing = sync.map(|sync| sync.children_sys.max(sync.sys - render.sys));
    // Of a few milliseconds the clock ticks and the difference may show nothing.
    let writing = writing.filter(|sys| *sys > 0.0);
    let restoring = restore.filter(|cost| cost.code.is_some()).map(|cost| cost.sys);
    writing.into_iter().chain(restoring).reduce(f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sys(sys: f64) -> Cost {
        Cost {
            sys,
            code: Some(0),
            ..Cost::default()
        }
    }

    #[test]
    fn the_kernels_share_is_the_least_that_any_way_took() {
        assert_eq!(kernel_share(Some(sys(3.0)), sys(0.5), None), Some(2.5));
        assert_eq!(kernel_share(Some(sys(3.0)), sys(0.5), Some(sys(2.0))), Some(2.0));
        assert_eq!(kernel_share(None, sys(0.5), Some(sys(2.0))), Some(2.0));
        assert_eq!(kernel_share(None, sys(0.5), None), None);
        let late = Cost {
            code: None,
            ..sys(1.0)
        };
        assert_eq!(kernel_share(Some(sys(3.0)), sys(0.5), Some(late)), Some(2.5));
    }

    #[test]
    fn a_line_has_its_columns_below_the_head() {
        let first = First {
            scale: "10000x3".parse().unwrap(),
            flavour: Flavour::Legacy,
            sync: Some(Cost {
                wall: 123.456,
                cpu: 12.3,
                peak: 99.9,
                ..sys(1.0)
            }),
            own: 0.321,
            restore: None,
            kernel: Some(2.8),
        };
        let line = first.line();
        assert_eq!(
            line,
            " 10000x3 legacy  123.456  12.300  0.321     99.9        -     2.800      -  44.1"
        );
        assert!(HEAD.lines().all(|line| line.len() <= 80) && line.len() <= 80);
        assert_eq!(HEAD.lines().last().unwrap().len(), line.len());
    }
}
