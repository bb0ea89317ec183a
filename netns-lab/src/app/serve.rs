//! The app's sockets, on one thread.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use labkit::{Failure, Outcome};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn6, bind, setsockopt, socket, sockopt};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet};

use super::{Identity, Listen};
use crate::edge::datagram::DatagramSocket;
use crate::model::topology::{Answers, Protocol};

/// How many connections may wait to be accepted; thousands come at once in a talk.
const BACKLOG: u32 = 4096;

/// After a failure to accept (out of files) wait this long: others must close first.
const BREATH: Duration = Duration::from_millis(20);

/// The longest line that the echo reads.
const LINE_BYTES: u64 = 4096;

/// How long a process that was asked to end takes new connections still: those whose way was chosen
/// before the rules knew that it goes.
const LINGER: Duration = Duration::from_millis(250);

/// How long a client may take for the head of a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// A socket that listens, before anything is answered.
enum Open {
    Tcp(Answers, TcpListener),
    Udp(DatagramSocket),
    Udp6(UdpSocket),
}

/// Listens on all ports, calls `ready` once, and answers until the process ends.
pub fn serve(
    identity: Identity,
    listen: &[Listen],
    ready: impl FnOnce() -> Result<(), Failure>,
) -> Result<Outcome, Failure> {
    let failed = |error: io::Error| Failure::failed(format!("cannot start the event loop: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let identity = Rc::new(identity);
    LocalSet::new().block_on(&runtime, async {
        let sockets = listen.iter().copied().map(open).collect::<Result<Vec<_>, _>>()?;
        let sockets = sockets.into_iter().flatten();
        ready()?;
        let app = Rc::new(App {
            identity,
            leaves: watch::Sender::new(Leaves::Not),
        });
        let tasks: Vec<_> = sockets
            .map(|socket| {
                let app = Rc::clone(&app);
                tokio::task::spawn_local(async move {
                    match socket {
                        Open::Tcp(answers, listener) => accept(&app, answers, listener).await,
                        Open::Udp(socket) => echo_datagrams(&app.identity, &socket).await,
                        Open::Udp6(socket) => echo_datagrams6(&app.identity, &socket).await,
                    }
                })
            })
            .collect();
        tokio::task::spawn_local(reap());
        if asked_to_end().await.map_err(failed)? == Manner::Graceful {
            app.finish(tasks).await;
        }
        Ok(Outcome::Done)
    })
}

/// What the app's tasks share.
struct App {
    identity: Rc<Identity>,
    /// How far its end is. Each connection listens, so that it is known when the last one is gone.
    leaves: watch::Sender<Leaves>,
}

/// How far the app's end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// It stays.
    Not,
    /// New connections are taken still, and told not to be used again.
    Soon,
    /// No new ones; idle ones are closed.
    Now,
}

impl App {
    /// Takes new connections for a moment still, closes the ports, and waits for those that are open.
    async fn finish(&self, tasks: Vec<JoinHandle<()>>) {
        self.leaves.send_replace(Leaves::Soon);
        tokio::time::sleep(LINGER).await;
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            // Its port is closed when it is gone.
            let _ = task.await;
        }
        self.leaves.send_replace(Leaves::Now);
        self.leaves.closed().await;
    }

    fn goes(&self) -> bool {
        *self.leaves.borrow() != Leaves::Not
    }
}

/// How it is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// When the last connection has.
    Graceful,
    /// At once.
    Prompt,
}

/// The first process of a container must ask to be ended; the kernel does not end it by itself.
async fn asked_to_end() -> io::Result<Manner> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => Manner::Graceful,
        _ = interrupt.recv() => Manner::Prompt,
    })
}

/// Takes leave of processes whose parents have ended: they are its children, if it is the first.
async fn reap() -> io::Result<()> {
    let mut ended = signal(SignalKind::child())?;
    loop {
        while matches!(
            waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)),
            Ok(status) if status != WaitStatus::StillAlive
        ) {}
        ended.recv().await;
    }
}

/// The sockets of a port: one for each family that this pod has addresses of.
fn open(listen: Listen) -> Result<Vec<Open>, Failure> {
    let opened = || {
        let mut sockets = vec![open_on(listen, Ipv4Addr::UNSPECIFIED.into())?];
        if has_ipv6() {
            sockets.push(open_on(listen, Ipv6Addr::UNSPECIFIED.into())?);
        }
        Ok(sockets)
    };
    opened().map_err(|error: io::Error| {
        Failure::failed(format!(
            "cannot listen on port {}/{}: {error}",
            listen.port,
            listen.protocol.name()
        ))
    })
}

fn open_on(listen: Listen, ip: IpAddr) -> io::Result<Open> {
    let address = SocketAddr::from((ip, listen.port));
    match (listen.protocol, ip) {
        (Protocol::Tcp, IpAddr::V4(_)) => listen_on(TcpSocket::new_v4()?, listen, address),
        (Protocol::Tcp, IpAddr::V6(_)) => {
            let socket = TcpSocket::new_v6()?;
            // IPv4 has a socket of its own.
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
            listen_on(socket, listen, address)
        }
        (Protocol::Udp, IpAddr::V4(_)) => DatagramSocket::bind(address).map(Open::Udp),
        (Protocol::Udp, IpAddr::V6(_)) => datagrams6(address).map(Open::Udp6),
    }
}

fn listen_on(socket: TcpSocket, listen: Listen, address: SocketAddr) -> io::Result<Open> {
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(Open::Tcp(listen.answers, socket.listen(BACKLOG)?))
}

/// A pod has a single IPv6 address, so that answers leave from the right one anyway.
fn datagrams6(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = socket(
        AddressFamily::Inet6,
        SockType::Datagram,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&family, sockopt::Ipv6V6Only, &true)?;
    let SocketAddr::V6(address) = address else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    bind(family.as_raw_fd(), &SockaddrIn6::from(address))?;
    UdpSocket::from_std(family.into())
}

/// Whether a link other than `lo` has an IPv6 address.
fn has_ipv6() -> bool {
    let table = std::fs::read_to_string("/proc/self/net/if_inet6").unwrap_or_default();
    table.lines().any(|line| !line.trim_end().ends_with(" lo"))
}

async fn accept(app: &Rc<App>, answers: Answers, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let (app, leaves) = (Rc::clone(app), app.leaves.subscribe());
                tokio::task::spawn_local(async move {
                    // A client that goes away in the middle is its own affair.
                    let _ = match answers {
                        Answers::Http => http(app, stream, client, leaves).await,
                        Answers::Echo => {
                            let told = echo_lines(&app.identity, stream, client).await;
                            drop(leaves);
                            told
                        }
                    };
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

async fn http(
    app: Rc<App>,
    stream: TcpStream,
    client: SocketAddr,
    mut leaves: watch::Receiver<Leaves>,
) -> io::Result<()> {
    let port = stream.local_addr()?.port();
    stream.set_nodelay(true)?;
    let service = service_fn(move |request| {
        let mut response = answer(&app.identity, &request, client, port);
        if app.goes() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(io::Error::other),
        _ = leaves.wait_for(|leaves| *leaves == Leaves::Now) => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await.map_err(io::Error::other)
}

fn answer(
    identity: &Identity,
    request: &Request<Incoming>,
    client: SocketAddr,
    port: u16,
) -> Response<Full<Bytes>> {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    let (status, kind, body) = if !matches!(*request.method(), Method::GET | Method::HEAD) {
        (
            StatusCode::METHOD_NOT_ALLOWED,
            plain,
            "only GET and HEAD\n".to_string(),
        )
    } else if request.uri().path() == "/healthz" {
        (StatusCode::OK, plain, "ok\n".to_string())
    } else if wants_json(request) {
        let json = HeaderValue::from_static("application/json");
        (StatusCode::OK, json, identity.json(client, port))
    } else {
        (StatusCode::OK, plain, identity.line(client))
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn wants_json(request: &Request<Incoming>) -> bool {
    let accepts = request
        .headers()
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    let query = request.uri().query().unwrap_or_default();
    request.uri().path() == "/json"
        || query.split('&').any(|pair| pair == "format=json")
        || accepts.is_some_and(|accept| accept.contains("application/json"))
}

/// One line on connecting, then one for each line that comes: `nc` shows something at once, and a
/// test can ask again on the same connection.
async fn echo_lines(identity: &Identity, stream: TcpStream, client: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let line = identity.line(client);
    let (reader, mut writer) = stream.into_split();
    writer.write_all(line.as_bytes()).await?;
    let mut reader = BufReader::new(reader);
    let mut read = Vec::new();
    loop {
        read.clear();
        let mut limited = tokio::io::AsyncReadExt::take(&mut reader, LINE_BYTES);
        if limited.read_until(b'\n', &mut read).await? == 0 {
            return Ok(());
        }
        writer.write_all(line.as_bytes()).await?;
    }
}

async fn echo_datagrams(identity: &Identity, socket: &DatagramSocket) {
    loop {
        if let Err(error) = socket.answer(|client| identity.line(client)).await {
            tracing::warn!(%error, "cannot answer a datagram");
            tokio::time::sleep(BREATH).await;
        }
    }
}

async fn echo_datagrams6(identity: &Identity, socket: &UdpSocket) {
    // What was sent does not matter, only who sent it.
    let mut text = [0; 2048];
    loop {
        let answered = async {
            let (_, client) = socket.recv_from(&mut text).await?;
            socket.send_to(identity.line(client).as_bytes(), client).await
        };
        if let Err(error) = answered.await {
            tracing::warn!(%error, "cannot answer a datagram");
            tokio::time::sleep(BREATH).await;
        }
    }
}
