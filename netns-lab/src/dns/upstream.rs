//! Asks other name servers, from the network namespace that the program was started in.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use labkit::Failure;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::LocalSet;

use super::answer::{self, Transport};
use crate::edge::privilege;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many questions may be under way; others wait.
const AT_ONCE: usize = 256;

/// The port of name servers.
pub const PORT: u16 = 53;

/// A name server of elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum UpstreamServer {
    /// This one.
    At(SocketAddr),
    /// Those that the host asks itself.
    Host,
}

impl FromStr for UpstreamServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "host" {
            return Ok(Self::Host);
        }
        let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
        address
            .or_else(|_| text.parse())
            .map(Self::At)
            .map_err(|_| "expected an address such as 192.0.2.1 or 192.0.2.1:53, or host".into())
    }
}

impl TryFrom<String> for UpstreamServer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<UpstreamServer> for String {
    fn from(server: UpstreamServer) -> Self {
        server.to_string()
    }
}

impl fmt::Display for UpstreamServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Host => f.write_str("host"),
        }
    }
}

struct Request {
    question: Vec<u8>,
    transport: Transport,
    said: oneshot::Sender<Option<Vec<u8>>>,
}

/// Servers of elsewhere.
#[derive(Clone)]
pub struct Upstream {
    requests: mpsc::Sender<Request>,
}

impl Upstream {
    /// Starts a thread that stays in the network namespace of now, wherever the caller goes.
    pub fn start(servers: Vec<SocketAddr>) -> Result<Self, Failure> {
        let (requests, inbox) = mpsc::channel(AT_ONCE);
        let run = move || {
            let failed = privilege::drop_capabilities();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match (failed, runtime) {
                (Ok(()), Ok(runtime)) => LocalSet::new().block_on(&runtime, work(inbox, servers.into())),
                (dropped, _) => tracing::warn!(?dropped, "no upstream"),
            }
        };
        thread::Builder::new()
            .name("upstream".into())
            .spawn(run)
            .map_err(|error| Failure::failed(format!("cannot start a thread: {error}")))?;
        Ok(Self { requests })
    }

    /// What the first server that answers says.
    pub async fn ask(&self, question: Vec<u8>, transport: Transport) -> Option<Vec<u8>> {
        let (said, answer) = oneshot::channel();
        let request = Request {
            question,
            transport,
            said,
        };
        self.requests.send(request).await.ok()?;
        answer.await.ok().flatten()
    }
}

async fn work(mut inbox: mpsc::Receiver<Request>, servers: Rc<[SocketAddr]>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(request) = inbox.recv().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let servers = Rc::clone(&servers);
        tokio::task::spawn_local(async move {
            let _ = request
                .said
                .send(first(&servers, &request.question, request.transport).await);
            drop(place);
        });
    }
}

async fn first(servers: &[SocketAddr], question: &[u8], transport: Transport) -> Option<Vec<u8>> {
    for server in servers {
        let asked = async {
            match transport {
                Transport::Udp => by_datagram(*server, question).await,
                Transport::Tcp => by_stream(*server, question).await,
            }
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(said)) => return Some(said),
            Ok(Err(error)) => tracing::info!(%server, %error, "a name server cannot be asked"),
            Err(_) => tracing::info!(%server, "a name server does not answer"),
        }
    }
    None
}

async fn by_datagram(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port of its own for each question: who does not see it cannot guess an answer.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut said = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut said).await?;
        if answer::answers(&said[..length], question) {
            said.truncate(length);
            return Ok(said);
        }
    }
}

async fn by_stream(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, question).await?;
    let said = read_message(&mut stream).await?;
    if answer::answers(&said, question) {
        Ok(said)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Reads a message behind its length, as a stream has it.
pub async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message behind its length.
pub async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}

/// The servers that a `resolv.conf` names.
pub fn servers_of(resolv_conf: &str) -> Vec<SocketAddr> {
    let lines = resolv_conf.lines().map(str::split_whitespace);
    lines
        .filter_map(|mut words| {
            let server = (words.next() == Some("nameserver")).then(|| words.next())??;
            Some(SocketAddr::new(server.parse().ok()?, PORT))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_resolver_reads_them() {
        let text = "# nameserver 1.1.1.1\nsearch lan\nnameserver\t192.0.2.1\nnameserver fd00::1 \noptions x\n\
                    nameserver nonsense\n";
        let servers: Vec<_> = servers_of(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[fd00::1]:53"]);
    }
}
