//! What `watch` hears of one node: connections by one thread, rules by another.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use labkit::Failure;
use labkit::xtables::{Family, Flavour, Xtables};

use crate::edge::flow_events::{FlowEvents, are_told};
use crate::edge::rule_events::{Generation, Heard, RuleEvents};
use crate::edge::{addresses, counted, netns};
use crate::lab::Home;
use crate::live::News;
use crate::live::changes::Who;
use crate::live::watch::{Reading, Writing};
use crate::rules::set::Found;

/// Rules are read at most so often, and never more than a fifth of the time.
const SOONEST: Duration = Duration::from_secs(1);

/// What a listener tells.
pub(super) enum Word {
    News(usize, Vec<News>),
    Mark(usize),
    Calm(usize),
    Rules(usize, Box<Reading>),
    Failed(Failure),
}

/// What listens on one node.
#[derive(Clone)]
pub(super) struct Listener {
    pub(super) index: usize,
    pub(super) home: Option<Home>,
    pub(super) iptables: Option<PathBuf>,
    pub(super) family: Family,
    pub(super) sender: Sender<Word>,
    pub(super) ended: Arc<AtomicBool>,
}

impl Listener {
    pub(super) fn start(self) {
        let other = self.clone();
        thread::spawn(move || self.guarded(Self::flows));
        thread::spawn(move || other.guarded(Self::rules));
    }

    fn guarded(&self, work: fn(&Self) -> Result<(), Failure>) {
        let entered = self
            .home
            .as_ref()
            .map_or(Ok(()), |home| netns::enter(&home.namespace));
        if let Err(failure) = entered.and_then(|()| work(self)) {
            // Nobody listens once the command ends.
            let _ = self.sender.send(Word::Failed(failure));
        }
    }

    fn flows(&self) -> Result<(), Failure> {
        if !are_told() {
            let home = self.home.as_ref();
            let node = home.map_or_else(|| "this host".to_string(), |home| home.node.clone());
            let prefix = home.map_or_else(|| "sudo".to_string(), |_| format!("netns-lab exec {node} --"));
            return Err(
                Failure::host_lacks(format!("the kernel tells of no connections of {node}"))
                    .hint(format!("{prefix} sysctl -w net.netfilter.nf_conntrack_events=1")),
            );
        }
        let mut events = FlowEvents::open()?;
        let mut news: Vec<News> = events.listed()?.into_iter().map(News::Found).collect();
        while !self.ended.load(Relaxed) && self.sender.send(Word::News(self.index, news)).is_ok() {
            news = events.hear()?;
        }
        Ok(())
    }

    fn rules(&self) -> Result<(), Failure> {
        let xtables = Xtables::detect(self.iptables.as_deref())?;
        let untold = xtables.flavour == Flavour::Legacy;
        let mut events = RuleEvents::open()?;
        let mut heard = Vec::new();
        let (mut generation, mut like, mut lost) = (None, Found::default(), false);
        let (mut due, mut last, mut cost) = (Instant::now(), Instant::now(), Duration::ZERO);
        while !self.ended.load(Relaxed) {
            // What was changed is read soon, so that few connections meet rules that nobody has read.
            let soon = !heard.is_empty() && Instant::now() >= last + cost * 2;
            if Instant::now() >= due || soon {
                let began = Instant::now();
                let addresses = addresses::interface_addresses()?.into_iter().collect();
                lost |= note(&mut heard, events.so_far());
                self.send(Word::Mark(self.index));
                let counted = counted::read(&xtables, self.family, &like)?;
                cost = began.elapsed();
                (due, last) = (began + SOONEST.max(cost * 5), began);
                like = counted.found.clone();
                let meanwhile = events.so_far();
                let writing = Writing {
                    untold,
                    before: lost || !heard.is_empty(),
                    meanwhile: meanwhile.lost || !meanwhile.generations.is_empty(),
                };
                note(&mut heard, meanwhile);
                lost = false;
                let reading = Reading {
                    counted,
                    addresses,
                    generation: heard.last().map(|heard: &Generation| heard.number).or(generation),
                    writing,
                    by: writers(&heard),
                    time: jiff::Timestamp::now().strftime("%H:%M:%S").to_string(),
                };
                generation = reading.generation;
                // Whoever wrote while we read may be the one whose change shows only now, or next time.
                heard.retain(|_| writing.meanwhile);
                self.send(Word::Rules(self.index, Box::new(reading)));
            }
            lost |= note(&mut heard, events.hear()?);
            if !untold && heard.is_empty() && !lost {
                self.send(Word::Mark(self.index));
                lost |= note(&mut heard, events.so_far());
                if heard.is_empty() && !lost {
                    self.send(Word::Calm(self.index));
                }
            }
        }
        Ok(())
    }

    /// Who does not listen any more has ended, and tells so.
    fn send(&self, word: Word) {
        if self.sender.send(word).is_err() {
            self.ended.store(true, Relaxed);
        }
    }
}

/// Adds what was heard; whether more may have been said.
fn note(heard: &mut Vec<Generation>, more: Heard) -> bool {
    heard.extend(more.generations);
    more.lost
}

/// Each writer once.
fn writers(heard: &[Generation]) -> Vec<Who> {
    let mut writers: Vec<Who> = Vec::new();
    for who in heard.iter().filter_map(|generation| generation.by.as_ref()) {
        if !writers.contains(who) {
            writers.push(who.clone());
        }
    }
    writers
}
