//! All that is known while one looks: the rules of each node, the tallies, the open connections.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::changes::{Change, Who, difference};
use super::counters::Counters;
use super::dump::Counted;
use super::flow::{Flow, Name, News};
use super::services::{Door, Key, Service, services, shares};
use super::tally::Tally;
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
    /// They have been changed since they were read.
    changed: bool,
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
    /// Rules were changed while they were read.
    pub torn: bool,
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
    since: u64,
    counted: bool,
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
        for (_, counters) in self.counters.iter().filter(|((_, of), _)| of == key) {
            sum.entered += counters.entered;
            sum.refused += counters.refused;
            sum.restarts += counters.restarts;
            for (backend, hits) in &counters.taken {
                *sum.taken.entry(*backend).or_default() += hits;
            }
        }
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
        self.gaps = 0;
    }

    /// A node's rules were read.
    pub fn read(&mut self, index: usize, reading: Reading) {
        let new = services(&reading.counted.found);
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
        node.changed = reading.torn;
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

    /// Rules of a node were changed, and have not been read since.
    pub fn rewritten(&mut self, index: usize) {
        if let Some(node) = self.nodes.get_mut(index) {
            node.changed = true;
        }
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
            News::Recovered(flow) | News::Began(flow) => self.opened(node, &flow, true),
            News::Changed(flow) => {
                if let Some(open) = self.open.get_mut(&(node, flow.name())) {
                    open.answered |= flow.answered;
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
            if open.counted || !counts {
                return;
            }
        }
        let Some((key, door)) = self.place(node, flow) else {
            return;
        };
        let tally = self.tallies.entry(key.clone()).or_default();
        tally.advance(self.seconds);
        if tally.promised_by((node, door)).is_none() {
            promise(tally, node, &self.nodes[node], &key);
        }
        let backend = flow.rewritten().then_some(flow.reply_source);
        if counts {
            tally.began((node, door), backend, !self.nodes[node].changed);
        }
        let open = Open {
            key,
            door,
            backend,
            protocol: flow.protocol,
            answered: flow.answered,
            since: self.seconds,
            counted: counts,
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
            && !answered
            && let (Some(backend), Some(tally)) = (open.backend, self.tallies.get_mut(&open.key))
        {
            tally.backend(backend).unanswered += 1;
        }
    }

    /// Entries in the table for each backend, those that wait for an answer too long, and those whose
    /// backend is none any more.
    pub fn open(&self, key: &Key) -> OpenNow {
        let mut now = OpenNow::default();
        for ((node, _), open) in self.open.iter().filter(|(_, open)| &open.key == key) {
            let Some(backend) = open.backend else { continue };
            *now.by_backend.entry(backend).or_default() += 1;
            let waits = !open.answered && self.seconds.saturating_sub(open.since) >= PATIENCE;
            now.waiting += u64::from(waits && open.counted && open.protocol != Protocol::Udp);
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
    /// Calls that nobody answers.
    pub waiting: u64,
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

#[cfg(test)]
mod tests {
    use super::super::dump::parse;
    use super::*;

    const RULES: &str = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n:KUBE-SEP-A - [0:0]\n\
        -A KUBE-SERVICES -d 10.96.0.80/32 -p tcp -m comment --comment \"default/web:http cluster IP\" -m tcp --dport 80 -j KUBE-SVC-A\n\
        -A KUBE-SVC-A -m comment --comment \"default/web:http -> 10.244.0.2:8080\" -j KUBE-SEP-A\n\
        -A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 10.244.0.2:8080\nCOMMIT\n";

    fn flow(id: u32, port: u16) -> Flow {
        Flow {
            id,
            source: SocketAddr::new([10, 244, 0, 9].into(), port),
            protocol: Protocol::Tcp,
            destination: SocketAddr::new([10, 96, 0, 80].into(), 80),
            reply_source: SocketAddr::new([10, 244, 0, 2].into(), 8080),
            answered: false,
        }
    }

    /// The kernel's ids are hashes: of five thousand entries, two share one in every three-hundredth try.
    #[test]
    fn entries_that_share_an_id_are_two() {
        let mut watch = Watch::new(None, [None]);
        let counted = parse(RULES).unwrap();
        watch.read(
            0,
            Reading {
                counted,
                ..Reading::default()
            },
        );
        let key = watch.keys().into_iter().next().unwrap();
        for news in [
            News::Began(flow(7, 40000)),
            News::Began(flow(7, 40002)),
            // Told by the table and by its news.
            News::Recovered(flow(7, 40002)),
            News::Ended(flow(7, 40000)),
        ] {
            watch.news(0, news);
        }
        assert_eq!(watch.tally(&key).unwrap().connections(), 2);
        assert_eq!(watch.open(&key).by_backend.values().sum::<u64>(), 1);
    }

    /// Nobody knows which rules a connection met that came between two of them.
    #[test]
    fn what_comes_while_rules_change_is_counted_and_not_judged() {
        let mut watch = Watch::new(None, [None]);
        let reading = |torn| Reading {
            counted: parse(RULES).unwrap(),
            torn,
            ..Reading::default()
        };
        watch.read(0, reading(false));
        let key = watch.keys().into_iter().next().unwrap();
        let mut ports = 40000..;
        let mut call = |watch: &mut Watch| {
            let port = ports.next().unwrap();
            watch.news(0, News::Began(flow(u32::from(port), port)));
            let tally = watch.tally(&key).unwrap();
            (tally.connections(), tally.unjudged)
        };
        assert_eq!(call(&mut watch), (1, 0));
        watch.rewritten(0);
        assert_eq!(call(&mut watch), (2, 1));
        watch.read(0, reading(true));
        assert_eq!(call(&mut watch), (3, 2));
        watch.read(0, reading(false));
        assert_eq!(call(&mut watch), (4, 2));
    }
}
