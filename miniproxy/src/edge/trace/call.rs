//! The connection itself, made in the caller's network namespace.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use labkit::Failure;
use nix::libc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::edge::probe::QUESTION;
use crate::edge::{facts, netns};
use crate::journey::{Called, Word};
use crate::why::names;

/// The port of name servers.
const DNS: u16 = 53;

/// A call that has its address and port and waits for the word.
pub struct Waiting {
    /// The address and port that it comes from.
    pub source: SocketAddr,
    go: Sender<()>,
    answer: Receiver<Called>,
    thread: JoinHandle<()>,
}

/// What is called, from where.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The caller's network namespace; `None` for this one.
    pub namespace: Option<PathBuf>,
    /// The caller's address, its port is chosen; `None` for the one that the route there has.
    pub from: Option<IpAddr>,
    /// What is called.
    pub to: SocketAddr,
    /// The caller is no part of the cluster.
    pub is_outside: bool,
    /// By UDP.
    pub udp: bool,
    /// How long an answer may take.
    pub timeout: Duration,
}

impl Waiting {
    /// Takes a port, and sends nothing yet.
    ///
    /// # Errors
    /// When the namespace cannot be entered or no port is had.
    pub fn begin(plan: Plan) -> Result<Self, Failure> {
        let (go, may_go) = channel();
        let (answers, answer) = channel();
        let (bound, source) = channel();
        let thread = thread::spawn(move || {
            if let Err(failure) = calls(&plan, &bound, &may_go, &answers) {
                let _ = bound.send(Err(failure));
            }
        });
        let source = source
            .recv()
            .unwrap_or_else(|_| Err(Failure::failed("the caller ended")))?;
        Ok(Self {
            source,
            go,
            answer,
            thread,
        })
    }

    /// Calls. The connection stays open until [`Self::end`].
    pub fn go(&self) {
        // Who has ended answers that, too.
        let _ = self.go.send(());
    }

    /// What came of it, once it is known.
    pub fn answer(&self) -> Option<Called> {
        self.answer.try_recv().ok()
    }

    /// Closes the connection.
    pub fn end(self) {
        drop(self.go);
        let _ = self.thread.join();
    }
}

fn calls(
    plan: &Plan,
    bound: &Sender<Result<SocketAddr, Failure>>,
    may_go: &Receiver<()>,
    answers: &Sender<Called>,
) -> Result<(), Failure> {
    if let Some(namespace) = &plan.namespace {
        netns::enter(namespace)?;
    }
    let from = plan
        .from
        .or_else(|| facts::source_towards(plan.to.ip()))
        .ok_or_else(|| {
            let hint = if plan.is_outside {
                "only nodes and pods have routes to virtual IPs; from outside, call a node port"
            } else {
                "its packets are not even made, so no rule can translate them; miniproxy why SERVICE names the route that is missing"
            };
            Failure::failed(format!("the caller has no route to {}", plan.to.ip())).hint(hint)
        })?;
    let failed = |error: io::Error| Failure::failed(format!("cannot take a port of {from}: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        let socket = Socket::bind(from, plan.udp).await.map_err(failed)?;
        let _ = bound.send(socket.local().map_err(failed));
        if may_go.recv().is_err() {
            return Ok(());
        }
        let begin = Instant::now();
        let mut open = None;
        let result = tokio::time::timeout(plan.timeout, socket.call(plan.to, &mut open)).await;
        let milliseconds = begin.elapsed().as_secs_f64() * 1000.0;
        let (word, answer) = match result {
            Ok(Ok(answer)) => (Word::Answered, answer),
            Ok(Err(error)) => (word(&error), None),
            Err(_) => (Word::Timeout, None),
        };
        let _ = answers.send(Called {
            word,
            answer,
            milliseconds,
        });
        // Kept open until the connection table was asked; the other end may have closed it by now.
        let _ = may_go.recv_timeout(Duration::from_secs(10));
        drop(open);
        Ok(())
    })
}

/// By number, never by text, which is the same for several of them.
fn word(error: &io::Error) -> Word {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Word::Refused,
        // A rule of OUTPUT that drops the caller's own packet says EPERM.
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EPERM | libc::EACCES) => Word::Unreachable,
        Some(libc::ETIMEDOUT) => Word::Timeout,
        _ => Word::Reset,
    }
}

enum Socket {
    Tcp(TcpSocket),
    Udp(UdpSocket),
}

impl Socket {
    async fn bind(from: IpAddr, udp: bool) -> io::Result<Self> {
        let from = SocketAddr::new(from, 0);
        if udp {
            return Ok(Self::Udp(UdpSocket::bind(from).await?));
        }
        let socket = if from.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.bind(from)?;
        Ok(Self::Tcp(socket))
    }

    fn local(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
    }

    /// The first line of the answer; a server that only accepts has answered, too.
    async fn call(self, to: SocketAddr, open: &mut Option<TcpStream>) -> io::Result<Option<String>> {
        let mut buffer = [0; 2048];
        let length = match self {
            Self::Udp(socket) => {
                socket.connect(to).await?;
                // At the port of name servers nobody answers anything but a question.
                let asks = to.port() == DNS;
                socket.send(if asks { &QUESTION } else { b"hello\n" }).await?;
                let length = socket.recv(&mut buffer).await?;
                if asks && let Some(answer) = names::code(&buffer[..length]) {
                    return Ok(Some(answer));
                }
                length
            }
            Self::Tcp(socket) => {
                let stream = open.insert(socket.connect(to).await?);
                let question = format!("GET / HTTP/1.0\r\nHost: {to}\r\nConnection: close\r\n\r\n");
                stream.write_all(question.as_bytes()).await?;
                let mut length = 0;
                // Who accepts and says nothing, or speaks another language, has answered with that.
                while length < buffer.len() {
                    let read =
                        tokio::time::timeout(Duration::from_millis(500), stream.read(&mut buffer[length..]));
                    match read.await {
                        Ok(Ok(0) | Err(_)) | Err(_) => break,
                        Ok(Ok(more)) => length += more,
                    }
                }
                length
            }
        };
        Ok(said(&buffer[..length]))
    }
}

/// The first line of an answer's body, or of what there is.
fn said(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let body = text.split_once("\r\n\r\n").map_or(&*text, |(_, body)| body);
    let line = body
        .lines()
        .find(|line| !line.trim().is_empty())
        .or_else(|| text.lines().next())?;
    Some(labkit::text::printable(line.trim()).chars().take(200).collect())
}
