//! What `scripts/bench sync` is asked to do.

use std::time::Duration;

use super::generate::Scale;
use crate::machine::{FLAVOURS, Flavour};

pub(super) const USAGE: &str = "\
Usage: scripts/bench sync [OPTION]...

Times miniproxy at several scales, Services x endpoints, under iptables-nft and
iptables-legacy, each in a fresh network and mount namespace, beside floors that
are taken in the same run:

  first   one full sync into an empty kernel, beside iptables-restore of the
          same rules as one document with sorted chain lines, and beside the
          kernel's own share: the system time of whichever took least of it
  change  sync --watch at that scale: an endpoint replaced, a Service added, one
          removed, from the rename of the file to the rule in the kernel, beside
          iptables-restore of the smallest text that does the same; then ten
          changes 100 ms apart
  path    the set-up of a connection to the first and the last Service, and past
          all of them, beside the same rules written by iptables-restore

Options:
  --scales LIST      [default: 100x3,1000x3,5000x3,10000x3,1x1000,1000x50]
  --flavours LIST    [default: nft,legacy]
  --part LIST        first, change, path [default: all three]
  --runs N           measure so often; medians are shown, and large scales take
                     a third of it [default: 5]
  --whole            also the floors that take iptables-nft-restore minutes, and
                     patience of 15 minutes instead of 3 for one first sync
  -o table|json      [default: table]

Example:
  scripts/bench sync --scales 1000x3 --flavours nft --part change

Exit codes: 0 all aims met, 1 one was missed, 2 wrong usage.";

const SCALES: &str = "100x3,1000x3,5000x3,10000x3,1x1000,1000x50";
/// From so many chains on iptables-nft-restore takes ten seconds to minutes for one document.
const LARGE: usize = 15_000;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The first sync.
    First,
    /// One change among many, and ten.
    Change,
    /// Connections.
    Path,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Options {
    pub(super) scales: Vec<Scale>,
    pub(super) flavours: Vec<Flavour>,
    pub(super) parts: Vec<Part>,
    pub(super) runs: usize,
    pub(super) whole: bool,
    pub(super) json: bool,
}

impl Options {
    /// From the words behind `sync`.
    pub(super) fn read(words: &[&str]) -> Option<Self> {
        let mut options = Self {
            scales: list(SCALES, scale)?,
            flavours: FLAVOURS.to_vec(),
            parts: vec![Part::First, Part::Change, Part::Path],
            runs: 5,
            whole: false,
            json: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if *word == "--whole" {
                options.whole = true;
                continue;
            }
            let value = words.next()?;
            match *word {
                "--scales" => options.scales = list(value, scale)?,
                "--flavours" => options.flavours = list(value, flavour)?,
                "--part" => options.parts = list(value, part)?,
                "--runs" => options.runs = value.parse().ok().filter(|runs| (1..=100).contains(runs))?,
                "-o" => options.json = ["table", "json"].iter().position(|name| name == value)? == 1,
                _ => return None,
            }
        }
        Some(options)
    }

    /// How often to measure something at this scale: what takes a second is worth all runs, what takes
    /// longer varies less.
    pub(super) fn runs_at(&self, scale: Scale, flavour: Flavour) -> usize {
        if is_large(scale) && flavour == Flavour::Nft {
            self.runs.div_ceil(3)
        } else {
            self.runs
        }
    }

    /// Whether the restore of all rules as one document is to be measured.
    pub(super) fn with_restore(&self, scale: Scale, flavour: Flavour) -> bool {
        self.whole || flavour == Flavour::Legacy || !is_large(scale)
    }

    /// How long one first sync may take.
    pub(super) fn limit(&self) -> Duration {
        Duration::from_secs(if self.whole { 900 } else { 180 })
    }
}

fn is_large(scale: Scale) -> bool {
    scale.services + scale.total() >= LARGE
}

fn list<T>(text: &str, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split(',').map(read).collect()
}

fn scale(word: &str) -> Option<Scale> {
    word.parse().ok()
}

fn flavour(word: &str) -> Option<Flavour> {
    FLAVOURS.into_iter().find(|flavour| flavour.name() == word)
}

fn part(word: &str) -> Option<Part> {
    match word {
        "first" => Some(Part::First),
        "change" => Some(Part::Change),
        "path" => Some(Part::Path),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_words_all_is_measured() {
        let options = Options::read(&[]).unwrap();
        assert_eq!(options.scales.len(), 6);
        assert_eq!((options.flavours.len(), options.parts.len()), (2, 3));
        assert!(!options.whole && !options.json);
    }

    #[test]
    fn each_option_is_read() {
        let words = "--scales 1x1,2x3 --flavours legacy --part path,first --runs 2 --whole -o json";
        let options = Options::read(&words.split(' ').collect::<Vec<_>>()).unwrap();
        assert_eq!(options.scales[1].to_string(), "2x3");
        assert_eq!(options.flavours, [Flavour::Legacy]);
        assert_eq!(options.parts, [Part::Path, Part::First]);
        assert_eq!(options.runs, 2);
        assert!(options.whole && options.json);
    }

    #[test]
    fn anything_else_is_refused() {
        for words in [
            "--scales",
            "--scales 3",
            "--scales 1x1,",
            "--flavours nf",
            "--part all",
            "--runs 0",
            "-o yaml",
            "--fast 1",
            "sync",
        ] {
            assert_eq!(
                Options::read(&words.split(' ').collect::<Vec<_>>()),
                None,
                "{words}"
            );
        }
    }

    #[test]
    fn slow_floors_are_left_out_unless_asked_for() {
        let large: Scale = "5000x3".parse().unwrap();
        let mut options = Options::read(&[]).unwrap();
        assert!(!options.with_restore(large, Flavour::Nft));
        assert!(options.with_restore(large, Flavour::Legacy));
        assert!(options.with_restore("1000x3".parse().unwrap(), Flavour::Nft));
        assert_eq!(options.runs_at(large, Flavour::Nft), 2);
        assert_eq!(options.runs_at(large, Flavour::Legacy), options.runs);
        options.whole = true;
        assert!(options.with_restore(large, Flavour::Nft));
    }
}
