//! The packets on pods' cables. Interfaces never become promiscuous, and bridges are left alone:
//! a bridge that hears everything delivers everything twice.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use labkit::Failure;
use pnet::datalink::{self, Channel, Config, DataLinkReceiver};

use crate::edge::netns;
use crate::journey::{Capture, wire};

/// So many packets are kept: a handshake and an answer have a dozen.
const MOST: usize = 4096;
/// So much of each: enough for any header and a short answer.
const LENGTH: usize = 2048;
const TICK: Duration = Duration::from_millis(20);

/// Which packets are kept.
pub type Wanted = Arc<dyn Fn(&wire::Seen) -> bool + Send + Sync>;

/// Those who listen; nobody at first.
#[derive(Default)]
pub struct Listeners {
    threads: Vec<JoinHandle<()>>,
    ended: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<Capture>>>,
}

impl Listeners {
    /// Listens on one end of a cable, in a node's network namespace where one is given.
    ///
    /// # Errors
    /// When there is no such interface, or the privilege is missing.
    pub fn add(
        &mut self,
        cable: usize,
        interface: &str,
        home: Option<&Path>,
        wanted: &Wanted,
    ) -> Result<(), Failure> {
        let (ended, heard, wanted) = (
            Arc::clone(&self.ended),
            Arc::clone(&self.heard),
            Arc::clone(wanted),
        );
        let (name, home) = (interface.to_string(), home.map(PathBuf::from));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let opened = home
                .map_or(Ok(()), |home| netns::enter(&home))
                .and_then(|()| open(&name));
            match opened {
                Err(failure) => drop(ready.send(Err(failure))),
                Ok(receiver) => {
                    let _ = ready.send(Ok(()));
                    listen(receiver, cable, &ended, &heard, &wanted);
                }
            }
        });
        self.threads.push(thread);
        is_ready
            .recv()
            .unwrap_or_else(|_| Err(Failure::failed("a listener ended")))
    }

    /// Stops, and gives what was heard, in the order of time.
    pub fn stop(mut self) -> Vec<Capture> {
        self.ended.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            // A listener that panicked has heard nothing more.
            let _ = thread.join();
        }
        let mut heard = std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner));
        heard.sort_by_key(|capture| capture.at);
        heard
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn open(name: &str) -> Result<Box<dyn DataLinkReceiver>, Failure> {
    let missing = || {
        Failure::failed(format!("there is no interface {name}"))
            .hint("is the lab whole? see: netns-lab status")
    };
    let interface = datalink::interfaces()
        .into_iter()
        .find(|found| found.name == name)
        .ok_or_else(missing)?;
    let config = Config {
        promiscuous: false,
        read_timeout: Some(TICK),
        ..Config::default()
    };
    match datalink::channel(&interface, config) {
        Ok(Channel::Ethernet(_, receiver)) => Ok(receiver),
        Ok(_) => Err(Failure::failed(format!("{name} is no Ethernet link"))),
        Err(error) => Err(Failure::failed(format!("cannot listen on {name}: {error}"))),
    }
}

fn listen(
    mut receiver: Box<dyn DataLinkReceiver>,
    cable: usize,
    ended: &AtomicBool,
    heard: &Mutex<Vec<Capture>>,
    wanted: &Wanted,
) {
    while !ended.load(Ordering::Relaxed) {
        match receiver.next() {
            Ok(frame) => {
                let at = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_nanos();
                if wire::of_frame(frame).is_some_and(|seen| wanted(&seen)) {
                    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                    if heard.len() < MOST {
                        let bytes = frame[..frame.len().min(LENGTH)].to_vec();
                        heard.push(Capture {
                            cable,
                            at,
                            bytes,
                            length: frame.len(),
                        });
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            // A link that went away has no packets.
            Err(_) => return,
        }
    }
}
