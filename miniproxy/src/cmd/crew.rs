//! `sync --watch` on several nodes: a thread for each, for as long as the node is there.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use labkit::rundir::network_namespace;
use labkit::shell::{OutputFormat, emit, tell};
use labkit::{Failure, Kind, Outcome};

use super::nodes_report::Part;
use super::sync::Report;
use crate::edge::netns;
use crate::lab::Home;

/// One node among those that are followed.
pub(super) struct Place {
    home: Home,
    /// The inode of its network namespace.
    namespace: u64,
    /// The first node speaks for all where all would say the same.
    leads: bool,
    news: Option<News>,
}

/// What the threads of nodes tell the first one.
enum Word {
    /// There is a node that nobody follows.
    Found(Home),
    /// A node's thread ended.
    Ended,
}

/// Tells of nodes that nobody follows yet.
#[derive(Clone)]
struct News {
    followed: Arc<Mutex<BTreeSet<String>>>,
    sender: Sender<Word>,
}

/// Why a node is not followed any more.
pub(super) enum End {
    /// A signal asked for it.
    Asked,
    /// The node is gone.
    Gone,
}

impl Place {
    fn enter(home: &Home, leads: bool, news: Option<News>) -> Result<Self, Failure> {
        netns::enter(&home.namespace)?;
        Ok(Self {
            home: home.clone(),
            namespace: network_namespace()?,
            leads,
            news,
        })
    }

    /// The node's name.
    pub(super) fn node(&self) -> &str {
        &self.home.node
    }

    /// Whether the node went away, or another one of its name came.
    pub(super) fn is_gone(&self) -> bool {
        fs::metadata(&self.home.namespace).map(|found| found.ino()).ok() != Some(self.namespace)
    }

    /// Tells of the lab's nodes, some of which may be new.
    pub(super) fn tell_of(&self, homes: Vec<Home>) {
        if let Some(news) = &self.news {
            news.tell(homes);
        }
    }
}

impl News {
    fn tell(&self, homes: Vec<Home>) {
        for home in homes {
            let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
            if home.namespace.exists() && followed.insert(home.node.clone()) {
                // Nobody listens once the command ends, and then nobody needs to.
                let _ = self.sender.send(Word::Found(home));
            }
        }
    }

    /// A node is not followed any more; one of its name may have come again already.
    fn ended(&self, home: Home) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.remove(&home.node);
        drop(followed);
        self.tell(vec![home]);
    }
}

/// Follows the nodes until all of them are gone or the command is to end; `grows`: also those that come
/// later. The exit code is that of the first node that could not be followed.
pub(super) fn run(
    homes: Vec<Home>,
    grows: bool,
    follow: impl Fn(Place) -> Result<End, Failure> + Sync,
) -> Outcome {
    let (sender, receiver) = channel();
    let news = News {
        followed: Arc::default(),
        sender,
    };
    let first = homes.first().map(|home| home.node.clone());
    news.tell(homes);
    let (news, follow, code) = (&news, &follow, &AtomicU8::new(0));
    thread::scope(|scope| {
        let mut running = 0;
        while let Ok(word) = receiver.recv() {
            match word {
                Word::Ended => running -= 1,
                Word::Found(home) => {
                    running += 1;
                    let leads = first.as_ref() == Some(&home.node);
                    scope.spawn(move || {
                        let place = Place::enter(&home, leads, grows.then(|| news.clone()));
                        match place.and_then(follow) {
                            Ok(End::Gone) if grows => news.ended(home),
                            Ok(_) => {}
                            Err(failure) => {
                                // The others go on, so that it is said now and not at their end.
                                let _ = code.compare_exchange(0, failure.exit_code(), Relaxed, Relaxed);
                                if failure.kind() != Kind::ClosedPipe {
                                    tell(&failure.context(&home.node).to_string());
                                }
                            }
                        }
                        let _ = news.sender.send(Word::Ended);
                    });
                }
            }
            if running == 0 {
                break;
            }
        }
    });
    Outcome::Code(code.load(Relaxed))
}

/// How a watch says things: as it is, or with the node's name before each line.
pub(super) struct Voice {
    output: OutputFormat,
    node: Option<String>,
    leads: bool,
}

impl Voice {
    pub(super) fn new(output: OutputFormat, place: Option<&Place>) -> Self {
        Self {
            output,
            node: place.map(|place| place.node().to_string()),
            leads: place.is_none_or(|place| place.leads),
        }
    }

    /// Whether lines are for people, not JSON.
    pub(super) fn is_for_people(&self) -> bool {
        self.output == OutputFormat::Table
    }

    /// Whether this one says what all nodes would say alike.
    pub(super) fn leads(&self) -> bool {
        self.leads
    }

    /// Says it on stdout.
    pub(super) fn emit(&self, text: &str) -> Result<(), Failure> {
        emit(&self.named(text))
    }

    /// Says it on stderr.
    pub(super) fn tell(&self, text: &str) {
        tell(self.named(text).trim_end_matches('\n'));
    }

    /// One line of JSON.
    pub(super) fn json(&self, report: &Report) -> Result<(), Failure> {
        let part = Part {
            node: self.node.as_deref(),
            report,
        };
        let line = serde_json::to_string(&part).map_err(|error| Failure::failed(error.to_string()))?;
        emit(&format!("{line}\n"))
    }

    fn named(&self, text: &str) -> String {
        match &self.node {
            Some(node) => text
                .split_inclusive('\n')
                .flat_map(|line| [node, ": ", line])
                .collect(),
            None => text.to_string(),
        }
    }
}
