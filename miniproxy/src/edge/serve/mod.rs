//! What is served over HTTP: health, metrics, and the health check node ports of Services.
//!
//! One thread with an event loop of its own: a sync waits for processes, and whoever asks meanwhile
//! must not. The thread ends with [`Servers`].
//!
//! | module | what it does |
//! | --- | --- |
//! | [`doors`] | opens, closes and reopens the ports that are wanted |
//! | [`http`] | answers on one port; bounds how many ask at once, and how long each may take |

mod doors;
mod http;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use labkit::Failure;
use labkit::xtables::Family;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

use super::nfacct;
use crate::config::Settings;
use crate::observe::configz::configz;
use crate::observe::health::{Health, Question};
use crate::observe::metrics::{Metrics, TEXT};
use crate::observe::pings::Pings;
use crate::observe::service_health::{At, Check};
use crate::observe::{Answer, Moment, PLAIN};
use doors::{Door, Doors, Owner};

/// A port that could not be opened is tried again this often.
const AGAIN: Duration = Duration::from_secs(5);
/// The thread only ever waits for sockets: it obeys within microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// The running servers. Dropping it closes all ports.
#[derive(Debug)]
pub struct Servers {
    shared: Arc<Shared>,
    orders: Option<UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// What both threads see.
#[derive(Debug)]
struct Shared {
    health: Mutex<Health>,
    metrics: Metrics,
    /// Answers of `/healthz` beside the metrics.
    pings: Pings,
    /// What `/configz` says.
    configz: String,
    began: Instant,
}

/// The checks that are wanted from now on, and where to say what went wrong.
struct Order(Vec<Check>, SyncSender<Vec<String>>);

impl Servers {
    /// Begins to serve. Ports that cannot be opened are told in words, and tried again every five
    /// seconds, as kube-proxy does.
    ///
    /// # Errors
    /// When there can be no thread or no event loop.
    pub fn start(settings: &Settings) -> Result<(Self, Vec<String>), Failure> {
        let failed =
            |what: &dyn std::fmt::Display| Failure::failed(format!("cannot start the servers: {what}"));
        let shared = Arc::new(Shared {
            health: Mutex::new(Health::new(settings.compat, settings.sync_period)),
            metrics: Metrics::new(settings.compat).map_err(|error| failed(&error))?,
            pings: Pings::default(),
            configz: configz(settings),
            began: Instant::now(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(&error))?;
        let (orders, inbox) = unbounded_channel();
        let (told, problems) = sync_channel(1);
        let (theirs, settings) = (Arc::clone(&shared), settings.clone());
        let thread = std::thread::Builder::new().name("serve".into()).spawn(move || {
            let local = LocalSet::new();
            local.block_on(&runtime, serve(theirs, &settings, inbox, &told));
        });
        let servers = Self {
            shared,
            orders: Some(orders),
            thread: Some(thread.map_err(|error| failed(&error))?),
        };
        let problems = problems.recv_timeout(PATIENCE);
        Ok((servers, problems.map_err(|error| failed(&error))?))
    }

    /// The numbers.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// What time it is for the servers.
    pub fn now(&self) -> Moment {
        self.shared.now()
    }

    /// There is a change to write, for this family.
    pub fn queued(&self, family: Family) {
        let now = self.now();
        self.shared.with_health(|health| health.queued(family, now));
        self.metrics().queued(family, now.wall);
    }

    /// Everything that waited is written, for this family.
    pub fn updated(&self, family: Family) {
        let now = self.now();
        self.shared.with_health(|health| health.updated(family, now));
    }

    /// Whether new connections should come to this node.
    pub fn node(&self, eligible: bool) {
        self.shared.with_health(|health| health.node(eligible));
    }

    /// From now on these health check node ports are served and no others; what cannot be opened is
    /// told in words, and tried again every five seconds.
    pub fn checks(&self, checks: Vec<Check>) -> Vec<String> {
        let (told, problems) = sync_channel(1);
        let sent = self
            .orders
            .as_ref()
            .map(|orders| orders.send(Order(checks, told)));
        let answer = match sent {
            Some(Ok(())) => problems.recv_timeout(PATIENCE).ok(),
            _ => None,
        };
        answer.unwrap_or_else(|| {
            vec!["the health check node ports are not served: their thread is gone".into()]
        })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Nobody gives orders any more: the thread's loop ends, and with it every socket.
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn now(&self) -> Moment {
        Moment {
            wall: Timestamp::now(),
            up: self.began.elapsed(),
        }
    }

    fn with_health<T>(&self, work: impl FnOnce(&mut Health) -> T) -> T {
        // Plain values: there is no half-done change that a panic elsewhere could have left.
        work(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn asked(&self, question: Question) -> Answer {
        let now = self.now();
        let answer = self.with_health(|health| health.answer(question, now));
        self.metrics.asked(question, answer.status);
        answer
    }

    fn health(&self, path: &str) -> Answer {
        match path {
            "/healthz" => self.asked(Question::Healthz),
            "/livez" => self.asked(Question::Livez),
            _ => Answer::not_found(),
        }
    }

    fn numbers(&self, path: &str) -> Answer {
        match path {
            "/metrics" => {
                if self.metrics.counts_packets() {
                    self.metrics.packets(nfacct::packets);
                }
                Answer::text(200, TEXT, self.metrics.text())
            }
            "/metrics/slis" => Answer::text(200, TEXT, self.pings.text()),
            "/healthz" => {
                self.pings.answered();
                Answer::text(200, PLAIN, "ok")
            }
            "/configz" => Answer::json(200, self.configz.clone()),
            "/proxyMode" => Answer::text(200, PLAIN, "iptables"),
            _ => Answer::not_found(),
        }
    }
}

/// The thread's work, until nobody can give orders any more.
async fn serve(
    shared: Arc<Shared>,
    settings: &Settings,
    mut inbox: UnboundedReceiver<Order>,
    told: &SyncSender<Vec<String>>,
) {
    let mut doors = Doors::new();
    let always = main_doors(&shared, settings);
    let mut checks = Vec::new();
    // Whoever started us may have given up waiting; the servers serve all the same.
    let _ = told.try_send(doors.reconcile(&always).await);
    loop {
        tokio::select! {
            order = inbox.recv() => {
                let Some(Order(wanted, told)) = order else { return };
                checks = check_doors(&shared, wanted);
                let _ = told.try_send(doors.reconcile(&[always.as_slice(), checks.as_slice()].concat()).await);
            }
            () = tokio::time::sleep(AGAIN), if doors.closed() => {
                doors.reconcile(&[always.as_slice(), checks.as_slice()].concat()).await;
            }
        }
    }
}

fn main_doors(shared: &Arc<Shared>, settings: &Settings) -> Vec<Door> {
    let (health, numbers) = (Arc::clone(shared), Arc::clone(shared));
    vec![
        Door {
            owner: Owner::Field("healthzBindAddress"),
            address: settings.healthz_bind_address,
            answer: Rc::new(move |path| health.health(path)),
        },
        Door {
            owner: Owner::Field("metricsBindAddress"),
            address: settings.metrics_bind_address,
            answer: Rc::new(move |path| numbers.numbers(path)),
        },
    ]
}

fn check_doors(shared: &Arc<Shared>, checks: Vec<Check>) -> Vec<Door> {
    let mut doors = Vec::new();
    for check in checks {
        let addresses = match &check.at {
            At::Everywhere => vec![SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, check.port))],
            At::Addresses(all) => all.iter().map(|ip| SocketAddr::new(*ip, check.port)).collect(),
        };
        let owner = Owner::Service(format!("{}/{}", check.namespace, check.name), check.family);
        let shared = Arc::clone(shared);
        let answer: http::Answers = Rc::new(move |_| {
            let now = shared.now();
            check.answer(shared.with_health(|health| health.is_healthy(now)))
        });
        doors.extend(addresses.into_iter().map(|address| Door {
            owner: owner.clone(),
            address,
            answer: Rc::clone(&answer),
        }));
    }
    doors
}

#[cfg(test)]
mod tests;
