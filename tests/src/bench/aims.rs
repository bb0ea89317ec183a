//! What is good enough, and what of it was missed.

use super::change::{Change, KINDS};
use super::first::First;
use super::path::Data;
use super::table::ratio;
use crate::machine::Flavour;

/// The first sync of the largest scale on iptables-nft, in seconds, and over the kernel's own share.
const NFT_FIRST: f64 = 15.0;
const NFT_OVER_KERNEL: f64 = 5.0;
/// The first sync of the largest scale on iptables-legacy over the bare restore.
const LEGACY_OVER_RESTORE: f64 = 1.15;
/// Our own time in seconds and memory in MiB, at every scale.
const OWN: f64 = 0.5;
const PEAK: f64 = 100.0;
/// One change at the largest scale on iptables-nft over its floor, and at the smallest one in ms.
const CHANGE_OVER_FLOOR: f64 = 2.0;
const SMALL_CHANGE: f64 = 25.0;
/// A change of a burst that comes while another one is written waits for that one and then takes as
/// long as any; a throttle would cost several hundred ms more.
const BURST_CHANGES: f64 = 2.0;
const BURST_SPARE: f64 = 100.0;
/// Two measures of the same path differ by noise only.
const SAME: f64 = 1.2;

const LARGEST: &str = "10000x3";
const SMALLEST: &str = "100x3";

/// Gathers what is above its aim.
struct Judge {
    place: String,
    missed: Vec<String>,
}

impl Judge {
    fn new(place: String) -> Self {
        let missed = Vec::new();
        Self { place, missed }
    }

    /// An aim for a number; what was not measured cannot miss it.
    fn expect(&mut self, what: &str, found: Option<f64>, aim: f64, unit: &str) {
        if let Some(found) = found.filter(|found| *found > aim) {
            self.missed.push(format!(
                "{}: {what}: {found:.2}{unit}, aim {aim:.2}{unit}",
                self.place
            ));
        }
    }

    fn miss(&mut self, what: &str) {
        self.missed.push(format!("{}: {what}", self.place));
    }
}

pub(super) fn of_first(row: &First) -> Vec<String> {
    let mut judge = Judge::new(format!("first sync, {} {}", row.scale, row.flavour.name()));
    judge.expect("own time", Some(row.own), OWN, " s");
    let Some(sync) = row.sync else {
        judge.miss("not done in time");
        return judge.missed;
    };
    judge.expect("memory", Some(sync.peak), PEAK, " MiB");
    if row.scale.to_string() == LARGEST {
        match row.flavour {
            Flavour::Nft => {
                judge.expect("wall time", Some(sync.wall), NFT_FIRST, " s");
                let over = ratio(Some(sync.wall), row.kernel);
                judge.expect("wall time", over, NFT_OVER_KERNEL, " x the kernel's share");
            }
            Flavour::Legacy => {
                let over = ratio(Some(sync.wall), row.restore);
                judge.expect("wall time", over, LEGACY_OVER_RESTORE, " x the restore");
            }
        }
    }
    judge.missed
}

pub(super) fn of_change(row: &Change) -> Vec<String> {
    let mut judge = Judge::new(format!("change, {} {}", row.scale, row.flavour.name()));
    if !row.begun {
        judge.miss("the watcher's first sync was not done in time");
        return judge.missed;
    }
    for wrong in &row.wrong {
        judge.miss(wrong);
    }
    for (what, kind) in KINDS.iter().zip(&row.kinds) {
        if kind.made > 0 && kind.ours.is_none() {
            judge.miss(&format!("{what}: not in the kernel in time"));
        }
        match (row.scale.to_string().as_str(), row.flavour) {
            (LARGEST, Flavour::Nft) => {
                let over = ratio(kind.ours, kind.floor);
                judge.expect(what, over, CHANGE_OVER_FLOOR, " x the floor");
            }
            (SMALLEST, Flavour::Nft) => judge.expect(what, kind.ours, SMALL_CHANGE, " ms"),
            _ => {}
        }
    }
    if let Some(burst) = row.burst {
        judge.expect("memory", Some(burst.peak), PEAK, " MiB");
        if let Some(one) = row.kinds[0].ours {
            let aim = BURST_CHANGES * one + BURST_SPARE;
            judge.expect("the worst of ten", Some(burst.worst), aim, " ms");
        }
    }
    judge.missed
}

pub(super) fn of_path(row: &Data) -> Vec<String> {
    let mut judge = Judge::new(format!("path, {} {}", row.services, row.flavour.name()));
    for (what, over) in ["the first Service", "the last Service"].iter().zip(row.ratios()) {
        judge.expect(what, over, SAME, " x that by iptables-restore");
    }
    judge.missed
}

#[cfg(test)]
mod tests {
    use super::super::change::{Burst, Kind};
    use super::*;
    use crate::cost::Cost;

    fn first(scale: &str, flavour: Flavour, wall: f64) -> First {
        First {
            scale: scale.parse().unwrap(),
            flavour,
            sync: Some(Cost {
                wall,
                peak: 80.0,
                ..Cost::default()
            }),
            own: 0.4,
            restore: Some(2.0),
            kernel: Some(2.0),
        }
    }

    fn change(scale: &str, flavour: Flavour, ours: f64, worst: f64) -> Change {
        let kind = Kind {
            made: 3,
            ours: Some(ours),
            floor: Some(80.0),
        };
        Change {
            scale: scale.parse().unwrap(),
            flavour,
            begun: true,
            kinds: [kind; 3],
            burst: Some(Burst {
                first: ours,
                median: ours,
                worst,
                cpu: 1.0,
                peak: 50.0,
            }),
            wrong: Vec::new(),
        }
    }

    #[test]
    fn the_first_sync_has_aims_at_the_largest_scale() {
        assert!(of_first(&first("10000x3", Flavour::Nft, 9.9)).is_empty());
        assert_eq!(of_first(&first("10000x3", Flavour::Nft, 10.1)).len(), 1);
        assert_eq!(of_first(&first("10000x3", Flavour::Nft, 15.1)).len(), 2);
        assert!(of_first(&first("5000x3", Flavour::Nft, 15.1)).is_empty());
        assert!(of_first(&first("10000x3", Flavour::Legacy, 2.29)).is_empty());
        assert_eq!(of_first(&first("10000x3", Flavour::Legacy, 2.31)).len(), 1);
    }

    #[test]
    fn time_memory_and_an_end_are_wanted_at_every_scale() {
        let mut row = first("100x3", Flavour::Nft, 1.0);
        row.own = 0.51;
        row.sync.as_mut().unwrap().peak = 100.1;
        assert_eq!(of_first(&row).len(), 2);
        row.sync = None;
        let missed = of_first(&row);
        assert_eq!(missed.len(), 2);
        assert_eq!(missed[1], "first sync, 100x3 nft: not done in time");
    }

    #[test]
    fn one_change_has_aims_at_both_ends() {
        assert!(of_change(&change("10000x3", Flavour::Nft, 159.0, 200.0)).is_empty());
        assert_eq!(of_change(&change("10000x3", Flavour::Nft, 161.0, 200.0)).len(), 3);
        assert_eq!(of_change(&change("100x3", Flavour::Nft, 26.0, 30.0)).len(), 3);
        assert!(of_change(&change("100x3", Flavour::Legacy, 26.0, 30.0)).is_empty());
    }

    #[test]
    fn a_throttle_shows_in_a_burst() {
        assert!(of_change(&change("1000x3", Flavour::Nft, 50.0, 190.0)).is_empty());
        assert_eq!(of_change(&change("1000x3", Flavour::Nft, 50.0, 1100.0)).len(), 1);
    }

    #[test]
    fn what_never_came_is_missed() {
        let mut row = change("1000x3", Flavour::Legacy, 50.0, 60.0);
        row.kinds[1].ours = None;
        row.kinds[2] = Kind::default();
        row.wrong = vec!["no rule for 10.0.0.1".into()];
        assert_eq!(of_change(&row).len(), 2);
        row.begun = false;
        assert_eq!(of_change(&row).len(), 1);
    }

    #[test]
    fn the_same_path_takes_the_same_time() {
        let mut row = Data {
            services: 10_000,
            flavour: Flavour::Nft,
            ours: [40.0, 280.0, 280.0],
            theirs: [41.0, 270.0, 280.0],
        };
        assert!(of_path(&row).is_empty());
        row.ours[1] = 400.0;
        assert_eq!(of_path(&row).len(), 1);
    }
}
