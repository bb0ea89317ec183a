//! `miniproxy watch`: new connections as they come, from each node's kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use labkit::screen::{Flow, Key as Pressed, Look, Mode, Page, Show, hide, print, terminal};
use labkit::shell::{emit, tell};
use labkit::xtables::Family;
use labkit::{Failure, Outcome};

use super::hands::Hands;
use super::live_listener::{Listener, Word};
use super::nodes;
use super::render::family;
use crate::address::parse_ip;
use crate::cli::LiveArgs;
use crate::edge::registry::labs;
use crate::lab::Home;
use crate::live::overview::Overview;
use crate::live::page::{self, Face};
use crate::live::pick::pick;
use crate::live::report::{Names, Report};
use crate::live::services::Key;
use crate::live::{Watch, sentences};
use crate::registry::Registry;
use crate::registry::model::cluster_ips;
use crate::target::Target;

/// Without a terminal, and without another wish.
const USUAL_SECONDS: u64 = 5;

/// So long the last connections wait to be judged.
const LAST: Duration = Duration::from_secs(5);

/// Counts until it is to end.
pub(super) fn run(args: &LiveArgs) -> Result<Outcome, Failure> {
    let family = family(args.family)?;
    let (homes, blind) = places(args)?;
    let mut live = Live::begin(args, family, &homes)?;
    live.watch.notes.extend(blind);
    let result = live.show(args);
    live.ended.store(true, Relaxed);
    result.map(|()| Outcome::Done)
}

/// The lab's nodes; where they cannot be read and nobody asked for them, what is missing then.
fn places(args: &LiveArgs) -> Result<(Vec<Home>, Option<String>), Failure> {
    let asked = args.node.is_some() || args.registry.lab.is_some() || !args.registry.paths.is_empty();
    match nodes::homes(&args.registry, args.node.as_deref()) {
        Ok(homes) => Ok((homes, None)),
        Err(failure) if asked => Err(failure),
        // A host without a lab is watched as it is.
        Err(_) if labs().is_ok_and(|labs| labs.is_empty()) => Ok((Vec::new(), None)),
        Err(failure) => {
            let what = format!("only this host is watched: {}", failure.message());
            Ok((Vec::new(), Some(what)))
        }
    }
}

struct Live {
    watch: Watch,
    /// The Service that was opened out of all.
    opened: Option<Key>,
    /// The row of all Services that Enter opens.
    row: usize,
    names: Names,
    receiver: Receiver<Word>,
    ended: Arc<AtomicBool>,
    began: Instant,
    frozen: Option<Page>,
    look: Look,
    hands: Hands,
    failed: Option<Failure>,
}

impl Live {
    /// Starts to listen on every node, and returns when all of them are heard.
    fn begin(args: &LiveArgs, family: Family, homes: &[Home]) -> Result<Self, Failure> {
        let (sender, receiver) = channel();
        let ended = Arc::new(AtomicBool::new(false));
        let places: Vec<Option<Home>> = if homes.is_empty() {
            vec![None]
        } else {
            homes.iter().cloned().map(Some).collect()
        };
        for (index, home) in places.iter().enumerate() {
            let listener = Listener {
                index,
                home: home.clone(),
                iptables: args.iptables.clone(),
                family,
                sender: sender.clone(),
                ended: Arc::clone(&ended),
            };
            listener.start();
        }
        let names = places
            .iter()
            .map(|home| home.as_ref().map(|home| home.node.clone()));
        let registry = super::source(&args.registry)
            .and_then(|source| source.load().map(crate::registry::store::Store::into_registry))
            .unwrap_or_default();
        let mut live = Self {
            watch: Watch::new(None, names),
            opened: None,
            row: 0,
            names: pods(&registry),
            receiver,
            ended,
            began: Instant::now(),
            frozen: None,
            look: Look::default(),
            hands: Hands::new(args, homes.first().map(|home| home.node.clone())),
            failed: None,
        };
        live.first(places.len())?;
        if let Some(name) = &args.service {
            let key = live.chosen(name)?;
            live.watch.attend_only(key);
        }
        let other = other_family(&registry, live.watch.only.as_ref(), family);
        live.watch.notes.extend(other);
        live.began = Instant::now();
        Ok(live)
    }

    /// Waits until each node's table and rules were read once; nothing is counted before.
    fn first(&mut self, nodes: usize) -> Result<(), Failure> {
        let (mut tables, mut rules) = (0, 0);
        while tables < nodes || rules < nodes {
            match self.receiver.recv_timeout(Duration::from_secs(30)) {
                Ok(Word::Failed(failure)) => return Err(failure),
                Ok(word) => {
                    tables += usize::from(matches!(word, Word::News(..)));
                    rules += usize::from(matches!(word, Word::Rules(..)));
                    self.take(word);
                }
                Err(_) => return Err(Failure::failed("a node's rules could not be read in 30 seconds")),
            }
        }
        Ok(())
    }

    /// Which Service a person means.
    fn chosen(&self, text: &str) -> Result<Key, Failure> {
        let target = Target::parse(text)?;
        let keys = self.watch.keys();
        let services = keys
            .iter()
            .filter_map(|key| Some((key, self.watch.service(key)?)));
        let found = pick(services, &target);
        match found.as_slice() {
            [key] => Ok(key.clone()),
            [] => Err(
                Failure::usage(format!("no Service {text:?} is in the kernel's rules"))
                    .hint("see all of them: miniproxy watch --for 1"),
            ),
            several => {
                let names: Vec<&str> = several.iter().map(|key| key.name.as_str()).collect();
                let failure = Failure::usage(format!("{text:?} may be any of: {}", names.join(", ")));
                Err(failure.hint("name one of them"))
            }
        }
    }

    fn take(&mut self, word: Word) {
        match word {
            Word::News(node, news) => news.into_iter().for_each(|news| self.watch.news(node, news)),
            Word::Mark(node) => self.watch.mark(node),
            Word::Calm(node) => self.watch.calm(node),
            Word::Rules(node, reading) => self.watch.read(node, *reading),
            Word::Failed(failure) => self.failed = Some(failure),
        }
    }

    fn take_all(&mut self) -> Result<(), Failure> {
        self.watch.advance(self.began.elapsed().as_secs());
        while let Ok(word) = self.receiver.try_recv() {
            self.take(word);
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    fn show(&mut self, args: &LiveArgs) -> Result<(), Failure> {
        let look = args.screen.look();
        let mode = args.screen.mode();
        if mode == Mode::Live {
            terminal::run(self, look, Duration::from_millis(500))?;
            return self.failed.take().map_or(Ok(()), Err);
        }
        let seconds = args
            .seconds
            .or((args.count.is_none() && !args.follow).then_some(USUAL_SECONDS));
        tell("watching: the kernel's news are heard from now on");
        let mut told = None;
        loop {
            self.take_all()?;
            let over = seconds.is_some_and(|seconds| self.began.elapsed().as_secs() >= seconds)
                || args.count.is_some_and(|count| self.connections() >= count);
            if args.follow && mode == Mode::Json && told != Some(self.watch.seconds) {
                told = Some(self.watch.seconds);
                self.emit_json(look.hide, false)?;
            }
            if over {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        self.settle()?;
        match mode {
            Mode::Json => self.emit_json(look.hide, !args.follow),
            Mode::Plain => emit(&hidden(self.sentences(), look.hide)),
            _ => print::once(&self.draw(&look), &look),
        }
    }

    /// Counting is over; it is waited for what the last connections were promised.
    fn settle(&mut self) -> Result<(), Failure> {
        let limit = Instant::now() + LAST;
        while !self.watch.is_settled() && Instant::now() < limit {
            match self.receiver.recv_timeout(Duration::from_millis(50)) {
                Ok(Word::News(..)) | Err(_) => {}
                Ok(word) => self.take(word),
            }
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    /// The Service that is shown; none where all are.
    fn shown(&self) -> Option<&Key> {
        self.opened.as_ref().or(self.watch.only.as_ref())
    }

    /// Chooses another row, of Services or of backends.
    fn choose(&mut self, down: bool) {
        let (rows, at) = match self.shown() {
            Some(key) => {
                let rows = Report::of(&self.watch, key, &self.names).backends.len();
                (rows, &mut self.hands.chosen)
            }
            None => (self.watch.keys().len(), &mut self.row),
        };
        *at = if down { *at + 1 } else { at.saturating_sub(1) }.min(rows.saturating_sub(1));
    }

    fn connections(&self) -> u64 {
        match &self.watch.only {
            Some(key) => self
                .watch
                .tally(key)
                .map_or(0, crate::live::tally::Tally::connections),
            None => Overview::of(&self.watch, &self.names).connections,
        }
    }

    fn sentences(&self) -> String {
        match &self.watch.only {
            Some(key) => sentences::of_service(&Report::of(&self.watch, key, &self.names)),
            None => sentences::of_all(&Overview::of(&self.watch, &self.names)),
        }
    }

    fn emit_json(&self, hides: bool, pretty: bool) -> Result<(), Failure> {
        let value = match &self.watch.only {
            Some(key) => serde_json::to_value(Report::of(&self.watch, key, &self.names)),
            None => serde_json::to_value(Overview::of(&self.watch, &self.names)),
        };
        let value = value.map_err(|error| Failure::failed(error.to_string()))?;
        let text = if pretty {
            format!("{value:#}\n")
        } else {
            format!("{value}\n")
        };
        emit(&hidden(text, hides))
    }

    fn draw(&self, look: &Look) -> Page {
        let face = Face {
            state: format!("{} s", self.watch.seconds),
            // On paper nothing is chosen.
            chosen: (look.height > 0).then_some(match self.shown() {
                Some(_) => self.hands.chosen,
                None => self.row,
            }),
            ..Face::default()
        };
        if let Some(key) = self.shown() {
            return page::of_service(&Report::of(&self.watch, key, &self.names), &face, look);
        }
        let mut page = page::of_all(&Overview::of(&self.watch, &self.names), &face, look);
        // The rule that leads to the Service of the chosen row.
        if let Some(key) = self.watch.keys().iter().nth(self.row).filter(|_| look.height > 0) {
            page.rule = format!(" {}", Report::of(&self.watch, key, &self.names).rule);
        }
        page
    }
}

impl Show for Live {
    fn page(&mut self, look: &Look) -> Page {
        self.look = look.clone();
        let mut page = self.frozen.clone().unwrap_or_else(|| self.draw(look));
        page.keys = Hands::keys(self.shown().is_some(), self.opened.is_some());
        if self.frozen.is_some() {
            page.state = "FROZEN (space goes on) ".into();
        } else if let Some(said) = self.hands.said() {
            page.state = said;
        }
        page
    }

    fn key(&mut self, key: Pressed) -> Flow {
        match key {
            Pressed::Char('z') => self.watch.zero(),
            Pressed::Char(' ') => {
                self.frozen = match self.frozen.take() {
                    Some(_) => None,
                    None => Some(self.draw(&self.look)),
                };
            }
            Pressed::Up | Pressed::Down => self.choose(key == Pressed::Down),
            Pressed::Enter if self.shown().is_none() => {
                self.opened = self.watch.keys().into_iter().nth(self.row);
                if let Some(key) = &self.opened {
                    self.watch.attend(key);
                }
                self.hands.chosen = 0;
                self.frozen = None;
            }
            Pressed::Escape | Pressed::Backspace if self.opened.is_some() => {
                self.opened = None;
                self.frozen = None;
            }
            Pressed::Char(letter) => {
                let Some(key) = self.shown() else {
                    return Flow::Pass;
                };
                let report = Report::of(&self.watch, key, &self.names);
                return self.hands.key(letter, &report);
            }
            _ => return Flow::Pass,
        }
        Flow::Draw
    }

    fn back(&mut self, failed: Option<std::io::Error>) {
        self.hands.back(failed);
    }

    fn tick(&mut self) -> Flow {
        self.hands.look_after();
        match self.take_all() {
            Ok(()) => Flow::Draw,
            Err(failure) => {
                self.failed = Some(failure);
                Flow::Quit
            }
        }
    }
}

fn hidden(text: String, hides: bool) -> String {
    if hides { hide::addresses(&text) } else { text }
}

/// The names of pods; none where there is no registry.
fn pods(registry: &Registry) -> Names {
    let named = registry.pods.values().flatten().flat_map(|(name, pod)| {
        let status = pod.status.as_ref();
        let several = status.and_then(|status| status.pod_ips.as_ref());
        let several = several.into_iter().flatten().map(|ip| ip.ip.as_str());
        let all = several.chain(status.and_then(|status| status.pod_ip.as_deref()));
        all.filter_map(|ip| Some((ip.parse().ok()?, name.clone())))
    });
    named.collect()
}

/// That a Service has an address of the other family, too: calls to that one are not counted.
fn other_family(registry: &Registry, only: Option<&Key>, family: Family) -> Option<String> {
    let (number, name) = match family {
        Family::V4 => (6, "IPv6"),
        Family::V6 => (4, "IPv4"),
    };
    let is_meant = |(namespace, name): &(String, String)| {
        only.is_none_or(|key| key.name.split(':').next() == Some(&format!("{namespace}/{name}")))
    };
    let mut services = registry.services.iter().filter(|(key, _)| is_meant(key));
    services.find_map(|(_, service)| {
        let ips = cluster_ips(service);
        let mut ips = ips.iter().filter_map(|ip| parse_ip(ip));
        let other = ips.find(|ip| ip.is_ipv4() == (number == 4))?;
        Some(if only.is_some() {
            format!(
                "calls to its {name} address {other} are not counted here: --family {number} counts those"
            )
        } else {
            format!("calls by {name} are not counted here: --family {number} counts those")
        })
    })
}
