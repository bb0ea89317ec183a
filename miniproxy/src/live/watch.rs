//! All that is known while one looks: the rules of each node, the tallies, the open connections.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::changes::{Change, Who, difference};
use super::counters::Counters;
use super::dump::Counted;
use super::flow::{Flow, Name, News};
use super::services::{Door, Key, Service, services, shares};
use super::tally::Tally;
use super::unsettled::{Counts, Unsettled};
use crate::model::Protocol;
use crate::rules::set::Found;

/// So many changes are remembered.
const REMEMBERED: usize = 50;
/// A call that has no answer for so many seconds will hardly get one.
pub const PATIENCE: u64 = 3;

/// The rules of one node.
#[derive(Debug, Default)]
pub struct Node {
    /// Its name, where there are several.
    pub name: Option<String>,
    /// Its own addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The Services in its rules.
    pub services: BTreeMap<Key, Service>,
    /// The rules themselves.
    pub found: Found,
    /// The kernel's number of the rule set.
    pub generation: Option<u32>,
    doors: HashMap<(Protocol, Door), Key>,
    known: bool,
    unsettled: Unsettled,
}

/// Whether rules were written around a reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Writing {
    /// The kernel does not tell of writers: only another reading shows what they did.
    pub untold: bool,
    /// Between the reading before and this one.
    pub before: bool,
    /// While this one was made.
    pub meanwhile: bool,
}

/// A reading of a node's rules.
#[derive(Debug, Default)]
pub struct Reading {
    /// The rules.
    pub counted: Counted,
    /// The addresses that the node had then.
    pub addresses: BTreeSet<IpAddr>,
    /// The kernel's number of the rule set.
    pub generation: Option<u32>,
    /// What is known of writers.
    pub writing: Writing,
    /// Who wrote since the reading before.
    pub by: Vec<Who>,
    /// The time of day.
    pub time: String,
}

#[derive(Debug)]
struct Open {
    key: Key,
    door: Door,
    backend: Option<SocketAddr>,
    protocol: Protocol,
    answered: bool,
    closed: bool,
    since: u64,
    counted: bool,
    /// It was counted before somebody began at zero.
    of_before: bool,
    listed: bool,
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Watch {
    /// Only this Service counts; all of them where there is none.
    pub only: Option<Key>,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The newest last.
    pub changes: Vec<Change>,
    /// How often the kernel lost news.
    pub gaps: u64,
    /// Seconds since counting began.
    pub seconds: u64,
    /// What one must know whatever is shown.
    pub notes: Vec<String>,
    tallies: BTreeMap<Key, Tally>,
    counters: BTreeMap<(usize, Key), Counters>,
    open: HashMap<(usize, Name), Open>,
}

impl Watch {
    /// Looks at so many nodes.
    pub fn new(only: Option<Key>, nodes: impl IntoIterator<Item = Option<String>>) -> Self {
        let nodes = nodes.into_iter().map(|name| Node {
            name,
            ..Node::default()
        });
        Self {
            only,
            nodes: nodes.collect(),
            ..Self::default()
        }
    }

    /// The tally of a Service.
    pub fn tally(&self, key: &Key) -> Option<&Tally> {
        self.tallies.get(key)
    }

    /// The rules of a Service, on the first node that has it.
    pub fn service(&self, key: &Key) -> Option<&Service> {
        self.nodes.iter().find_map(|node| node.services.get(key))
    }

    /// All Services of all nodes, and those that were counted.
    pub fn keys(&self) -> BTreeSet<Key> {
        let of_nodes = self.nodes.iter().flat_map(|node| node.services.keys());
        of_nodes.chain(self.tallies.keys()).cloned().collect()
    }

    /// The counters of a Service on all nodes together.
    pub fn counters(&self, key: &Key) -> Counters {
        let mut sum = Counters::default();
        let of_nodes = self.counters.iter().filter(|((_, of), _)| of == key);
        of_nodes.for_each(|(_, counters)| sum.join(counters));
        sum
    }

    /// Time goes on.
    pub fn advance(&mut self, second: u64) {
        self.seconds = self.seconds.max(second);
        self.tallies.values_mut().for_each(|tally| tally.advance(second));
    }

    /// Counts from nothing; what is open stays open.
    pub fn zero(&mut self) {
        self.tallies.values_mut().for_each(Tally::zero);
        self.counters.values_mut().for_each(Counters::zero);
        self.nodes
            .iter_mut()
            .for_each(|node| node.unsettled = Unsettled::default());
        self.open.values_mut().for_each(|open| open.of_before = true);
        self.gaps = 0;
    }

    /// A node's rules were read.
    pub fn read(&mut self, index: usize, reading: Reading) {
        let new = services(&reading.counted.found);
        self.settle(index, &new, reading.writing);
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        let old = std::mem::take(&mut node.services);
        let same = node.known && old == new && node.addresses == reading.addresses;
        if node.known && old != new {
            let seen = changes(&old, &new, self.only.as_ref(), node.name.as_ref(), &reading);
            self.changes.extend(seen);
            let spare = self.changes.len().saturating_sub(REMEMBERED);
            self.changes.drain(..spare);
        }
        node.services = new;
        node.generation = reading.generation;
        node.addresses = reading.addresses;
        node.known = true;
        for (key, service) in &node.services {
            if self.only.as_ref().is_none_or(|only| only == key) {
                let counters = self.counters.entry((index, key.clone())).or_default();
                counters.read(&reading.counted, key, service);
            }
        }
        node.found = reading.counted.found;
        if !same {
            node.doors = doors(&node.services);
            self.promise_again(index);
        }
    }

    /// It is asked from now on whether somebody wrote rules of a node.
    pub fn mark(&mut self, index: usize) {
        if let Some(node) = self.nodes.get_mut(index) {
            node.unsettled.mark();
        }
    }

    /// Nobody had written rules of a node since they were read, when that was asked.
    pub fn calm(&mut self, index: usize) {
        if let Some(node) = self.nodes.get_mut(index) {
            let counts = node.unsettled.take_before();
            self.judge(index, counts);
        }
    }

    /// Nothing waits to be judged.
    pub fn is_settled(&self) -> bool {
        self.nodes.iter().all(|node| node.unsettled.is_empty())
    }

    /// A reading tells which rules the connections met that came since the one before.
    fn settle(&mut self, index: usize, new: &BTreeMap<Key, Service>, writing: Writing) {
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        let differs = node.known && &node.services != new;
        let changed = differs || writing.before || writing.meanwhile;
        let before = node.unsettled.take_before();
        let after = if writing.meanwhile || (writing.untold && differs) {
            node.unsettled.take_after()
        } else {
            Counts::new()
        };
        if !changed {
            self.judge(index, before);
            return;
        }
        for ((key, _, backend), count) in before.into_iter().chain(after) {
            self.tallies.entry(key).or_default().leave(backend, count);
        }
    }

    /// These met the rules that were read last.
    fn judge(&mut self, index: usize, counts: Counts) {
        let Some(node) = self.nodes.get(index) else { return };
        for ((key, door, backend), count) in counts {
            let tally = self.tallies.entry(key.clone()).or_default();
            if tally.promised_by((index, door)).is_none() {
                promise(tally, index, node, &key);
            }
            tally.met((index, door), backend, count);
        }
    }

    /// Tells of this Service and of no other from now on.
    pub fn attend_only(&mut self, key: Key) {
        self.attend(&key);
        self.only = Some(key);
    }

    /// Works out what the rules promise of a Service that nobody may have called yet.
    pub fn attend(&mut self, key: &Key) {
        let tally = self.tallies.entry(key.clone()).or_default();
        for (index, node) in self.nodes.iter().enumerate() {
            promise(tally, index, node, key);
        }
    }

    /// Works out anew what the rules promise; of all Services only those that somebody calls.
    fn promise_again(&mut self, index: usize) {
        if let Some(only) = self.only.clone() {
            self.tallies.entry(only).or_default();
        }
        let Some(node) = self.nodes.get(index) else { return };
        for (key, tally) in &mut self.tallies {
            promise(tally, index, node, key);
        }
    }

    /// The kernel told something about a connection.
    pub fn news(&mut self, node: usize, news: News) {
        match news {
            News::Found(flow) => self.opened(node, &flow, false),
            // One that is known was counted when it began, or had begun before anybody counted.
            News::Recovered(flow) => {
                let known = self.open.contains_key(&(node, flow.name()));
                self.opened(node, &flow, !known);
            }
            News::Began(flow) => self.opened(node, &flow, true),
            News::Changed(flow) => {
                if let Some(open) = self.open.get_mut(&(node, flow.name())) {
                    open.answered |= flow.answered;
                    open.closed = flow.closed;
                }
            }
            News::Ended(flow) => self.ended(node, flow.name(), Some(flow.answered)),
            News::Lost => {
                self.gaps += 1;
                let of_node = self.open.iter_mut().filter(|((of, _), _)| *of == node);
                of_node.for_each(|(_, open)| open.listed = false);
            }
            News::Listed => {
                let of_node = self
                    .open
                    .iter()
                    .filter(|((of, _), open)| *of == node && !open.listed);
                let gone: Vec<Name> = of_node.map(|((_, name), _)| *name).collect();
                for name in gone {
                    self.ended(node, name, None);
                }
            }
        }
    }

    fn opened(&mut self, node: usize, flow: &Flow, counts: bool) {
        if let Some(open) = self.open.get_mut(&(node, flow.name())) {
            open.listed = true;
            open.answered |= flow.answered;
            open.closed = flow.closed;
            if open.counted || !counts {
                return;
            }
        }
        let Some((key, door)) = self.place(node, flow) else {
            return;
        };
        let tally = self.tallies.entry(key.clone()).or_default();
        tally.advance(self.seconds);
        let backend = flow.rewritten().then_some(flow.reply_source);
        if counts {
            tally.began(backend);
            self.nodes[node].unsettled.began(key.clone(), door, backend);
        }
        let open = Open {
            key,
            door,
            backend,
            protocol: flow.protocol,
            answered: flow.answered,
            closed: flow.closed,
            since: self.seconds,
            counted: counts,
            of_before: false,
            listed: true,
        };
        self.open.insert((node, flow.name()), open);
    }

    /// Whose connection it is, and by which door it came.
    fn place(&self, node: usize, flow: &Flow) -> Option<(Key, Door)> {
        let node = self.nodes.get(node)?;
        let address = Door::Address(flow.destination);
        let port = Door::NodePort(flow.destination.port());
        let ip = flow.destination.ip();
        let own = ip.is_loopback() || node.addresses.contains(&ip);
        let mut tried = [Some(address), own.then_some(port)].into_iter().flatten();
        let (key, door) = tried.find_map(|door| Some((node.doors.get(&(flow.protocol, door))?, door)))?;
        self.only
            .as_ref()
            .is_none_or(|only| only == key)
            .then(|| (key.clone(), door))
    }

    fn ended(&mut self, node: usize, name: Name, answered: Option<bool>) {
        let Some(open) = self.open.remove(&(node, name)) else {
            return;
        };
        let answered = open.answered || answered.unwrap_or(true) || open.protocol == Protocol::Udp;
        if open.counted
            && !open.of_before
            && !answered
            && let (Some(backend), Some(tally)) = (open.backend, self.tallies.get_mut(&open.key))
        {
            tally.backend(backend).unanswered += 1;
        }
    }

    /// Open connections of each backend, those that wait for an answer too long, and those whose
    /// backend is none any more.
    pub fn open(&self, key: &Key) -> OpenNow {
        let mut now = OpenNow::default();
        for ((node, _), open) in self.open.iter().filter(|(_, open)| &open.key == key) {
            let Some(backend) = open.backend.filter(|_| !open.closed) else {
                continue;
            };
            *now.by_backend.entry(backend).or_default() += 1;
            let waits = !open.answered && self.seconds.saturating_sub(open.since) >= PATIENCE;
            if waits && open.counted && !open.of_before && open.protocol != Protocol::Udp {
                *now.waiting.entry(backend).or_default() += 1;
            }
            let services = self.nodes.get(*node).map(|node| &node.services);
            let service = services.and_then(|services| services.get(key));
            let named = service.is_some_and(|service| {
                service.dice.iter().any(|die| die.backend == backend)
                    && service.doors.contains_key(&open.door)
            });
            now.stale += u64::from(!named);
        }
        now
    }
}

/// The connection table, as far as it is about one Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenNow {
    /// Entries by backend.
    pub by_backend: BTreeMap<SocketAddr, u64>,
    /// Calls that a backend does not answer.
    pub waiting: BTreeMap<SocketAddr, u64>,
    /// Entries whose backend is no backend any more.
    pub stale: u64,
}

fn doors(services: &BTreeMap<Key, Service>) -> HashMap<(Protocol, Door), Key> {
    let all = services.iter().flat_map(|(key, service)| {
        service
            .doors
            .keys()
            .map(|door| ((key.protocol, *door), key.clone()))
    });
    all.collect()
}

fn promise(tally: &mut Tally, index: usize, node: &Node, key: &Key) {
    let Some(service) = node.services.get(key) else {
        return;
    };
    for (door, chain) in &service.doors {
        let shares = chain
            .as_ref()
            .map(|chain| shares(&node.found, *door, key.protocol, chain));
        tally.promise((index, *door), shares.unwrap_or_default());
    }
}

fn changes(
    old: &BTreeMap<Key, Service>,
    new: &BTreeMap<Key, Service>,
    only: Option<&Key>,
    node: Option<&String>,
    reading: &Reading,
) -> Vec<Change> {
    let keys: BTreeSet<&Key> = old.keys().chain(new.keys()).collect();
    let wanted = keys
        .into_iter()
        .filter(|key| only.is_none_or(|only| only == *key));
    let seen = wanted.filter_map(|key| {
        let (what, removed, added) = difference(old.get(key), new.get(key))?;
        Some(Change {
            time: reading.time.clone(),
            node: node.cloned(),
            generation: reading.generation,
            by: reading.by.clone(),
            service: key.name.clone(),
            what,
            removed,
            added,
        })
    });
    seen.collect()
}
