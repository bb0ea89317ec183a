//! `miniproxy watch`: new connections as they come, from each node's kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use labkit::screen::{Flow, Key as Pressed, Look, Mode, Page, Show, hide, print, terminal};
use labkit::shell::{emit, tell};
use labkit::xtables::{Family, Xtables};
use labkit::{Failure, Outcome};

use super::hands::Hands;
use super::nodes;
use super::render::family;
use crate::cli::LiveArgs;
use crate::edge::flow_events::{FlowEvents, are_told};
use crate::edge::registry::labs;
use crate::edge::rule_events::{Generation, RuleEvents};
use crate::edge::{addresses, counted, netns};
use crate::lab::Home;
use crate::live::changes::Who;
use crate::live::overview::Overview;
use crate::live::page::{self, Face};
use crate::live::pick::pick;
use crate::live::report::{Names, Report};
use crate::live::services::Key;
use crate::live::watch::Reading;
use crate::live::{News, Watch, sentences};
use crate::rules::set::Found;
use crate::target::Target;

/// Without a terminal, and without another wish.
const USUAL_SECONDS: u64 = 5;
/// Rules are read at most so often, and never more than a fifth of the time.
const SOONEST: Duration = Duration::from_secs(1);

enum Word {
    News(usize, Vec<News>),
    Rewritten(usize),
    Rules(usize, Box<Reading>),
    Failed(Failure),
}

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
        let mut live = Self {
            watch: Watch::new(None, names),
            opened: None,
            row: 0,
            names: pods(args),
            receiver,
            ended,
            began: Instant::now(),
            frozen: None,
            look: Look::default(),
            hands: Hands::new(args),
            failed: None,
        };
        live.first(places.len())?;
        live.watch.only = args
            .service
            .as_deref()
            .map(|name| live.chosen(name))
            .transpose()?;
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
            Word::Rewritten(node) => self.watch.rewritten(node),
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
        match mode {
            Mode::Json => self.emit_json(look.hide, !args.follow),
            Mode::Plain => emit(&hidden(self.sentences(), look.hide)),
            _ => print::once(&self.draw(&look), &look),
        }
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
            state: if self.frozen.is_some() {
                "frozen".into()
            } else {
                format!("{} s", self.watch.seconds)
            },
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
        if let Some(said) = self.hands.said() {
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
fn pods(args: &LiveArgs) -> Names {
    let registry = super::source(&args.registry).and_then(|source| source.load());
    let pods = registry
        .map(|store| store.into_registry().pods)
        .unwrap_or_default();
    let named = pods.values().flatten().filter_map(|(name, pod)| {
        let ip = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
        Some((ip, name.clone()))
    });
    named.collect()
}

/// What listens on one node.
#[derive(Clone)]
struct Listener {
    index: usize,
    home: Option<Home>,
    iptables: Option<std::path::PathBuf>,
    family: Family,
    sender: Sender<Word>,
    ended: Arc<AtomicBool>,
}

impl Listener {
    fn start(self) {
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
        let mut events = RuleEvents::open()?;
        let mut heard = Vec::new();
        let (mut generation, mut like) = (None, Found::default());
        let (mut due, mut last, mut cost) = (Instant::now(), Instant::now(), Duration::ZERO);
        while !self.ended.load(Relaxed) {
            // What was changed is read soon, so that few connections meet rules that nobody has read.
            let soon = !heard.is_empty() && Instant::now() >= last + cost * 2;
            if Instant::now() >= due || soon {
                let began = Instant::now();
                let counted = counted::read(&xtables, self.family, &like)?;
                cost = began.elapsed();
                (due, last) = (began + SOONEST.max(cost * 5), began);
                like = counted.found.clone();
                let meanwhile = events.so_far();
                let torn = !meanwhile.is_empty();
                heard.extend(meanwhile);
                let reading = Reading {
                    counted,
                    addresses: addresses::interface_addresses()?.into_iter().collect(),
                    generation: heard.last().map(|heard: &Generation| heard.number).or(generation),
                    torn,
                    by: writers(&heard),
                    time: jiff::Timestamp::now().strftime("%H:%M:%S").to_string(),
                };
                generation = reading.generation;
                // Whoever wrote while we read may be the one whose change shows only now, or next time.
                heard.retain(|_| torn);
                if self
                    .sender
                    .send(Word::Rules(self.index, Box::new(reading)))
                    .is_err()
                {
                    break;
                }
            }
            let news = events.hear()?.generations;
            if !news.is_empty() && self.sender.send(Word::Rewritten(self.index)).is_err() {
                break;
            }
            heard.extend(news);
        }
        Ok(())
    }
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
