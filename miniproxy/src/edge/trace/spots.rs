//! The nodes on which a connection is traced: a thread in the network namespace of each.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use labkit::Failure;
use labkit::xtables::{Family, Flavour, Xtables};

use super::events::Ear;
use super::log::Log;
use super::logger::Logger;
use super::mark::{Mark, Wanted};
use super::places::Places;
use crate::edge::netns;
use crate::journey::OnNode;

const TICK: Duration = Duration::from_millis(3);

/// A node on which the connection is to be traced.
#[derive(Debug, Clone)]
pub struct Spot {
    /// Its name, where it is one of several.
    pub node: Option<String>,
    /// Its network namespace; `None` for this one.
    pub home: Option<PathBuf>,
    /// What is traced there.
    pub wanted: Wanted,
}

/// Traces that run; when this is dropped their rules are gone.
#[derive(Default)]
pub struct Running {
    stop: Vec<Sender<()>>,
    /// With each node's place among those that were asked for.
    threads: Vec<(usize, JoinHandle<Result<OnNode, Failure>>)>,
}

impl Running {
    /// Marks the connection on each of these nodes, and begins to listen.
    ///
    /// # Errors
    /// When one of them cannot be traced; then none is.
    pub fn begin(spots: Vec<Spot>, family: Family) -> Result<Self, Failure> {
        let mut running = Self::default();
        let mut spots: Vec<(usize, Spot)> = spots.into_iter().enumerate().collect();
        // One after the other, and all traces in the same order: of two that want the same two nodes,
        // where only one at a time can listen, neither waits for what the other holds.
        spots.sort_by(|(_, one), (_, other)| one.home.cmp(&other.home));
        for (index, spot) in spots {
            let (stop, stopped) = channel();
            let (ready, is_ready) = channel();
            let thread = thread::spawn(move || trace(&spot, family, &ready, &stopped));
            running.stop.push(stop);
            running.threads.push((index, thread));
            if is_ready.recv().is_err() {
                return Err(match running.end() {
                    Err(failure) => failure,
                    Ok(_) => Failure::failed("a listener ended"),
                });
            }
        }
        Ok(running)
    }

    /// Ends them, and gives what they heard, in the order in which they were given.
    ///
    /// # Errors
    /// The first thing that went wrong.
    pub fn end(mut self) -> Result<Vec<OnNode>, Failure> {
        self.stop.clear();
        let mut threads = std::mem::take(&mut self.threads);
        threads.sort_by_key(|(index, _)| *index);
        let answers: Vec<_> = threads
            .into_iter()
            .map(|(_, thread)| {
                let lost = || Failure::failed("a thread of a node ended in the middle");
                thread.join().unwrap_or_else(|_| Err(lost()))
            })
            .collect();
        answers.into_iter().collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.clear();
        for (_, thread) in self.threads.drain(..) {
            // What it would tell is asked by nobody any more.
            let _ = thread.join();
        }
    }
}

fn trace(spot: &Spot, family: Family, ready: &Sender<()>, stop: &Receiver<()>) -> Result<OnNode, Failure> {
    let named = |failure: Failure| match &spot.node {
        Some(node) => failure.context(node),
        None => failure,
    };
    traced(spot, family, ready, stop).map_err(named)
}

fn traced(spot: &Spot, family: Family, ready: &Sender<()>, stop: &Receiver<()>) -> Result<OnNode, Failure> {
    if let Some(home) = &spot.home {
        netns::enter(home)?;
    }
    let xtables = Xtables::detect(None)?;
    let mut log = match xtables.flavour {
        Flavour::Nft => None,
        Flavour::Legacy => Some(Log::open().map_err(|error| {
            Failure::host_lacks(format!(
                "cannot listen to the traces of iptables-legacy (group 0 of nfnetlink_log): {error}"
            ))
            .hint("does another program have that group, such as ulogd or xtables-monitor?")
            .hint("without sending anything: miniproxy explain")
        })?),
    };
    let logger = log.as_ref().map(|_| Logger::set(family)).transpose()?;
    let mark = Mark::set(&xtables, family, &spot.wanted)?;
    let mut places = Places::default();
    places.read(&xtables, family)?;
    let before = places.texts.clone();
    // Not before all that takes its time: who does not listen at once loses what others do meanwhile.
    let mut ear = Ear::open().map_err(|error| {
        Failure::host_lacks(format!("cannot listen to the kernel's traces: {error}"))
            .hint("run as root (sudo), or inside `netns-lab sandbox`")
    })?;
    let failed =
        |error: std::io::Error| Failure::failed(format!("the kernel's traces cannot be read: {error}"));
    // Who does not wait for it has ended, and so will this.
    let _ = ready.send(());
    while stop.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        ear.hear().map_err(failed)?;
        if let Some(log) = &mut log {
            log.hear(&mut ear.traces).map_err(failed)?;
        }
    }
    ear.hear().map_err(failed)?;
    if let Some(log) = &mut log {
        log.hear(&mut ear.traces).map_err(failed)?;
    }
    let lost = ear.lost() + log.as_ref().map_or(0, Log::lost);
    places.read(&xtables, family)?;
    drop(mark);
    drop(logger);
    Ok(OnNode {
        node: spot.node.clone(),
        events: ear.traces.iter().filter_map(|raw| places.event(raw)).collect(),
        texts: if places.texts.is_empty() {
            before
        } else {
            places.texts
        },
        lost,
        tracked: ear.tracked,
        bridge_nf: bridge_nf(),
    })
}

fn bridge_nf() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables").ok()?;
    Some(text.trim().to_string())
}
