//! The ports that are wanted, and the ports that are open.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use labkit::text::printable;
use labkit::xtables::Family;
use nix::sys::socket::{setsockopt, sockopt::Ipv6V6Only};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

use super::http::{Answers, Callers, accept};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// Who wants a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// A field of the configuration.
    Field(&'static str),
    /// A Service, and which family's endpoints are counted.
    Service(String, Family),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => f.write_str(name),
            Self::Service(name, _) => write!(f, "healthCheckNodePort of {}", printable(name)),
        }
    }
}

/// A port that is wanted.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) owner: Owner,
    pub(super) address: SocketAddr,
    pub(super) answer: Answers,
}

/// A port that is open.
struct Open {
    owner: Owner,
    /// What is answered now; a change of it needs no new socket.
    answer: Rc<RefCell<Answers>>,
    task: JoinHandle<()>,
}

/// All of them.
pub(super) struct Doors {
    open: BTreeMap<SocketAddr, Open>,
    callers: Rc<Callers>,
    wanted: usize,
}

impl Doors {
    pub(super) fn new() -> Self {
        Self {
            open: BTreeMap::new(),
            callers: Rc::default(),
            wanted: 0,
        }
    }

    /// Whether a port that is wanted is not open.
    pub(super) fn closed(&self) -> bool {
        self.open.len() < self.wanted
    }

    /// Closes what is no longer wanted, opens what is missing, and says what could not be opened.
    pub(super) async fn reconcile(&mut self, wanted: &[Door]) -> Vec<String> {
        self.wanted = wanted.len();
        self.close_others(wanted).await;
        let mut problems = Vec::new();
        for door in wanted {
            if let Some(open) = self.open.get(&door.address)
                && open.owner == door.owner
            {
                *open.answer.borrow_mut() = Rc::clone(&door.answer);
                continue;
            }
            if let Err(error) = self.open(door) {
                let (owner, address) = (&door.owner, door.address);
                problems.push(format!(
                    "{owner}: cannot listen on {address}: {error}; trying again every 5 s"
                ));
            }
        }
        problems
    }

    async fn close_others(&mut self, wanted: &[Door]) {
        let is_wanted = |address: &SocketAddr, open: &Open| {
            wanted
                .iter()
                .any(|door| door.address == *address && door.owner == open.owner)
        };
        let others = self
            .open
            .iter()
            .filter(|(address, open)| !is_wanted(address, open));
        let others: Vec<SocketAddr> = others.map(|(address, _)| *address).collect();
        for address in others {
            let Some(open) = self.open.remove(&address) else {
                continue;
            };
            tracing::debug!(%address, owner = %open.owner, "closed");
            open.task.abort();
            // Only then is the socket closed, and the port free for another owner.
            let _ = open.task.await;
        }
    }

    fn open(&mut self, door: &Door) -> io::Result<()> {
        if let Some(other) = self.open.get(&door.address) {
            return Err(io::Error::other(format!("that is the {}", other.owner)));
        }
        let listener = listen(door.address)?;
        tracing::debug!(address = %door.address, owner = %door.owner, "listening");
        let answer = Rc::new(RefCell::new(Rc::clone(&door.answer)));
        let task = accept(listener, Rc::clone(&answer), Rc::clone(&self.callers));
        self.open.insert(
            door.address,
            Open {
                owner: door.owner.clone(),
                answer,
                task: tokio::task::spawn_local(task),
            },
        );
        Ok(())
    }
}

/// "Everywhere" is everywhere in both families, whichever family's way it is written in: so it is
/// for kube-proxy, which leaves that to Go.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    if address.ip().is_unspecified() {
        let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()));
        match TcpSocket::new_v6() {
            Ok(socket) => {
                setsockopt(&socket, Ipv6V6Only, &false)?;
                return listen_with(socket, everywhere);
            }
            // A kernel without IPv6.
            Err(_) => {
                return listen_with(
                    TcpSocket::new_v4()?,
                    (Ipv4Addr::UNSPECIFIED, address.port()).into(),
                );
            }
        }
    }
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    listen_with(socket, address)
}

fn listen_with(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpListener> {
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
