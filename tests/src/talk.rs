//! A client that keeps its UDP socket, as a resolver or a statistics sender does.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::load::{pod, say};

/// How often it sends.
const PAUSE: Duration = Duration::from_millis(20);
/// Without an answer for so long, nobody is there.
const PATIENCE: Duration = Duration::from_millis(400);

/// Sends a datagram now and then from one source port until stdin ends, and says whenever somebody
/// else answers than before: `web-1 answers`, `nobody answers`, `refused`.
///
/// # Panics
/// When the port is taken.
pub fn talk(target: SocketAddr, source_port: u16) {
    let socket = match target {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, source_port)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, source_port)),
    };
    let socket = socket.expect("a free port");
    socket.set_read_timeout(Some(PAUSE)).expect("a time limit");
    // Connected, so that only an answer from the address that was asked is one.
    socket.connect(target).expect("a way there");
    let mut last = String::new();
    let mut answered_at = Instant::now();
    let ended = thread::spawn(|| io::stdin().read(&mut [0]));
    while !ended.is_finished() {
        let now = exchange(&socket);
        if now.is_some() {
            answered_at = Instant::now();
        }
        let silent = (answered_at.elapsed() > PATIENCE).then(|| "nobody answers".to_string());
        if let Some(words) = now.or(silent)
            && words != last
        {
            say(&words);
            last = words;
        }
    }
}

/// Nothing when no answer has come.
fn exchange(socket: &UdpSocket) -> Option<String> {
    let mut buffer = [0; 1500];
    let received = socket.send(b"hello\n").and_then(|_| socket.recv(&mut buffer));
    match received {
        Ok(length) => {
            thread::sleep(PAUSE);
            let pod = pod(&String::from_utf8_lossy(&buffer[..length]));
            Some(pod.map_or_else(|error| error.to_string(), |pod| format!("{pod} answers")))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => None,
        Err(error) => {
            thread::sleep(PAUSE);
            // No route: an unreachable network is nobody, too.
            (error.kind() == io::ErrorKind::ConnectionRefused).then(|| "refused".to_string())
        }
    }
}
