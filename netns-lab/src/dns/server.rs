//! The sockets of the name server, on one thread.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use labkit::{Failure, Outcome};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, spawn_local};

use super::answer::{self, Reply, Transport, answer};
use super::store::Store;
use super::upstream::{Upstream, read_message, write_message};
use super::watch::{self, Watch};
use super::zone::Zone;

/// How long a stream may be silent.
const IDLE: Duration = Duration::from_secs(10);

/// How many streams, and how many questions for elsewhere, may be open at once.
const AT_ONCE: usize = 256;

/// How long a writer may take between two events that are one change.
const QUIET: Duration = Duration::from_millis(2);

/// After a failure of a socket wait this long.
const BREATH: Duration = Duration::from_millis(20);

/// What a server is made of.
pub struct Settings {
    /// Directories of objects.
    pub registries: Vec<PathBuf>,
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain.
    pub domain: String,
    /// Who is asked for names of elsewhere.
    pub upstream: Option<Upstream>,
}

/// Answers until the process ends. `ready` is called once, when all sockets listen.
pub fn serve(settings: &Settings, ready: impl FnOnce() -> Result<(), Failure>) -> Result<Outcome, Failure> {
    let failed = |error: io::Error| Failure::failed(format!("cannot start the event loop: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    LocalSet::new().block_on(&runtime, async {
        let mut sockets = Vec::new();
        for address in &settings.listen {
            sockets.push(
                open(*address)
                    .await
                    .map_err(|error| cannot_listen(*address, &error))?,
            );
        }
        // Before the first look, so that no change falls between the two.
        let watch = Watch::new(&settings.registries)
            .map_err(|error| Failure::failed(format!("cannot follow the registry: {error}")))?;
        let mut followed = Followed::new(settings);
        followed.look_at_all();
        let server = Rc::new(Server {
            zone: RefCell::new(followed.zone()),
            upstream: settings.upstream.clone(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        });
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        ready()?;
        for (datagrams, listener) in sockets {
            spawn_local(Rc::clone(&server).answer_datagrams(Rc::new(datagrams)));
            spawn_local(Rc::clone(&server).accept(listener));
        }
        // The first process of a container ends on no signal that it does not wait for.
        tokio::select! {
            _ = terminate.recv() => Ok(Outcome::Done),
            ended = follow(watch, followed, &server) => {
                ended.map_err(|error| Failure::failed(format!("cannot follow the registry: {error}")))
            }
        }
    })
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Failure {
    let failure = Failure::failed(format!("cannot listen on {address}: {error}"));
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            failure.hint("ports below 1024 are root's; another one: --listen 127.0.0.1:5353")
        }
        _ => failure,
    }
}

async fn open(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    const BACKLOG: u32 = 1024;
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    // The same port for both, also where the kernel chose it.
    let datagrams = UdpSocket::bind(listener.local_addr()?).await?;
    Ok((datagrams, listener))
}

/// The registry as it was last seen.
struct Followed<'a> {
    settings: &'a Settings,
    store: Store,
    serial: u32,
}

impl<'a> Followed<'a> {
    fn new(settings: &'a Settings) -> Self {
        Self {
            settings,
            store: Store::default(),
            serial: 0,
        }
    }

    fn look_at(&mut self, file: &Path) {
        let name = file.display().to_string();
        match fs::read(file) {
            Ok(text) => self.store.update(&name, Some(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.store.update(&name, None),
            Err(error) => tracing::warn!(file = name, %error, "a file of the registry cannot be read"),
        }
    }

    fn look_at_all(&mut self) {
        let directories = self.settings.registries.iter();
        let mut files: BTreeSet<PathBuf> = directories
            .flat_map(|directory| watch::files(directory))
            .collect();
        files.extend(self.store.files().into_iter().map(PathBuf::from));
        for file in &files {
            self.look_at(file);
        }
    }

    fn zone(&mut self) -> Rc<Zone> {
        self.serial = self.serial.wrapping_add(1);
        Rc::new(Zone::new(
            &self.store.objects(),
            &self.settings.domain,
            self.serial,
        ))
    }
}

async fn follow(mut watch: Watch, mut followed: Followed<'_>, server: &Server) -> io::Result<Outcome> {
    loop {
        let mut changed = Some(watch.changed().await?);
        // Many files may change at once; one new zone is enough for what comes in one go.
        for _ in 0..4096 {
            match changed {
                Some(Some(file)) => followed.look_at(&file),
                Some(None) => followed.look_at_all(),
                None => break,
            }
            changed = match tokio::time::timeout(QUIET, watch.changed()).await {
                Ok(more) => Some(more?),
                Err(_) => None,
            };
        }
        *server.zone.borrow_mut() = followed.zone();
    }
}

struct Server {
    zone: RefCell<Rc<Zone>>,
    upstream: Option<Upstream>,
    places: Arc<Semaphore>,
}

impl Server {
    fn reply(&self, question: &[u8], transport: Transport) -> Reply {
        let zone = Rc::clone(&self.zone.borrow());
        answer(&zone, question, transport, self.upstream.is_some())
    }

    async fn answer_datagrams(self: Rc<Self>, socket: Rc<UdpSocket>) {
        let mut question = vec![0; 4096];
        loop {
            let (length, client) = match socket.recv_from(&mut question).await {
                Ok(received) => received,
                Err(error) => {
                    // What an earlier answer met on its way is told here, too.
                    tracing::debug!(%error, "cannot receive");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            match self.reply(&question[..length], Transport::Udp) {
                Reply::Nothing => {}
                Reply::Bytes(bytes) => send(&socket, &bytes, client).await,
                later => {
                    let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                        continue;
                    };
                    let (server, socket) = (Rc::clone(&self), Rc::clone(&socket));
                    let question = question[..length].to_vec();
                    spawn_local(async move {
                        if let Some(bytes) = server.ask_elsewhere(&question, later, Transport::Udp).await {
                            send(&socket, &bytes, client).await;
                        }
                        drop(place);
                    });
                }
            }
        }
    }

    async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "cannot accept");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                continue;
            };
            let server = Rc::clone(&self);
            spawn_local(async move {
                let ended = server.answer_stream(stream).await;
                tracing::trace!(?ended, "a stream ended");
                drop(place);
            });
        }
    }

    async fn answer_stream(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let question = tokio::time::timeout(IDLE, read_message(&mut stream)).await??;
            let reply = match self.reply(&question, Transport::Tcp) {
                Reply::Nothing => return Ok(()),
                Reply::Bytes(bytes) => Some(bytes),
                later => self.ask_elsewhere(&question, later, Transport::Tcp).await,
            };
            let Some(reply) = reply else { return Ok(()) };
            tokio::time::timeout(IDLE, write_message(&mut stream, &reply)).await??;
        }
    }

    async fn ask_elsewhere(&self, question: &[u8], reply: Reply, transport: Transport) -> Option<Vec<u8>> {
        let upstream = self.upstream.as_ref()?;
        match reply {
            Reply::Chase(started) => {
                let mut said = upstream.ask(started.question.clone(), Transport::Udp).await;
                if said.as_deref().is_some_and(answer::is_cut) {
                    said = upstream.ask(started.question.clone(), Transport::Tcp).await;
                }
                started.finish(said.as_deref())
            }
            _ => match upstream.ask(question.to_vec(), transport).await {
                Some(said) => Some(said),
                None => answer::failed(question),
            },
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%client, %error, "an answer could not be sent");
    }
}
