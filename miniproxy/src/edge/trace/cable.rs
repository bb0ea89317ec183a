//! The packets on pods' cables. Interfaces never become promiscuous, and bridges are left alone:
//! a bridge that hears everything delivers everything twice.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _, IntoRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use labkit::Failure;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt,
    socket,
};
use nix::sys::time::TimeSpec;
use pnet::datalink::{self, Channel, Config, DataLinkReceiver, DataLinkSender};

use crate::edge::netns;
use crate::journey::{Capture, wire};

/// So many packets are kept: a handshake and an answer have a dozen. As many again of those that are wanted.
const MOST: usize = 4096;
/// So much of each: enough for any header and a short answer.
const LENGTH: usize = 2048;
const TICK: u16 = 20;
/// As long as any frame of a cable.
const FRAME: usize = 65_536;

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
                Ok(cable_end) => {
                    let _ = ready.send(Ok(()));
                    listen(&cable_end, cable, &ended, &heard, &wanted);
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

/// One end of a cable. pnet binds it to its link; read it is by us, for the kernel says when each
/// packet came, which pnet does not hand on, and threads that read several cables take turns.
struct End {
    socket: OwnedFd,
    /// Closes its own copy of the socket when it is dropped.
    _bound: (Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>),
}

fn open(name: &str) -> Result<End, Failure> {
    let missing = || {
        Failure::failed(format!("there is no interface {name}"))
            .hint("is the lab whole? see: netns-lab status")
    };
    let interface = datalink::interfaces()
        .into_iter()
        .find(|found| found.name == name)
        .ok_or_else(missing)?;
    let failed = |error: io::Error| Failure::failed(format!("cannot listen on {name}: {error}"));
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .map_err(|error| failed(error.into()))?;
    setsockopt(&socket, ReceiveTimestampns, &true).map_err(|error| failed(error.into()))?;
    let config = Config {
        promiscuous: false,
        socket_fd: Some(socket.try_clone().map_err(failed)?.into_raw_fd()),
        ..Config::default()
    };
    match datalink::channel(&interface, config) {
        Ok(Channel::Ethernet(sender, receiver)) => Ok(End {
            socket,
            _bound: (sender, receiver),
        }),
        Ok(_) => Err(Failure::failed(format!("{name} is no Ethernet link"))),
        Err(error) => Err(failed(error)),
    }
}

fn listen(end: &End, cable: usize, ended: &AtomicBool, heard: &Mutex<Vec<Capture>>, wanted: &Wanted) {
    let mut buffer = vec![0; FRAME];
    while !ended.load(Ordering::Relaxed) {
        let mut asked = [PollFd::new(end.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut asked, PollTimeout::from(TICK)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        let (length, at) = match receive(&end.socket, &mut buffer) {
            Ok(frame) => frame,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            // A link that went away has no packets.
            Err(_) => return,
        };
        let frame = &buffer[..length.min(FRAME)];
        let Some(seen) = wire::of_frame(frame) else {
            continue;
        };
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        // The packets of others are kept while there is room: later it may turn out whose they are.
        if heard.len() < MOST || (wanted(&seen) && heard.len() < 2 * MOST) {
            heard.push(Capture {
                cable,
                at,
                bytes: frame[..frame.len().min(LENGTH)].to_vec(),
                length,
            });
        }
    }
}

/// One frame: how long it was, and when the kernel took it, in nanoseconds since 1970.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, u128)> {
    let mut room = nix::cmsg_space!(TimeSpec);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags)?;
    let told = message.cmsgs()?.find_map(|told| match told {
        ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
        _ => None,
    });
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok((message.bytes, told.unwrap_or_else(now).as_nanos()))
}
