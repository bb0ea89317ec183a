//! One call from the network namespace that this thread is in: does anybody answer, and how soon?

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::libc::{ECONNREFUSED, ECONNRESET, EHOSTUNREACH, EINVAL, ENETUNREACH, EPERM};

use crate::model::Protocol;
use crate::why::call::{Word, who};

/// Longer than the first repetition of a SYN, so that one lost packet is no lost call.
pub const PATIENCE: Duration = Duration::from_millis(1500);
/// How long somebody who took the connection may think about the answer.
const ANSWER: Duration = Duration::from_millis(500);
/// Who answers at such length is cut short.
const LONGEST: usize = 4096;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// How it ended.
    pub word: Word,
    /// After how long.
    pub took: Duration,
    /// Who answered, if the answer tells.
    pub who: Option<String>,
}

/// Calls once.
pub fn call(to: SocketAddr, protocol: Protocol) -> Probe {
    let began = Instant::now();
    let (word, who) = match protocol {
        Protocol::Tcp => tcp(to),
        Protocol::Udp => udp(to),
        Protocol::Sctp => (Word::NotTried, None),
    };
    Probe {
        word,
        took: began.elapsed(),
        who,
    }
}

fn tcp(to: SocketAddr) -> (Word, Option<String>) {
    match TcpStream::connect_timeout(&to, PATIENCE) {
        Err(error) => (word(&error), None),
        Ok(stream) => match ask(stream, to) {
            Ok(answer) => (Word::Answered, who(&answer)),
            Err(error) if error.raw_os_error() == Some(ECONNRESET) => (Word::Reset, None),
            // Who speaks another protocol has taken the connection all the same.
            Err(_) => (Word::Answered, None),
        },
    }
}

fn ask(mut stream: TcpStream, to: SocketAddr) -> io::Result<String> {
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {to}\r\nUser-Agent: miniproxy-why\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    while answer.len() < LONGEST {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(part.get(..count).unwrap_or_default()),
            Err(_) if !answer.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A question that name servers answer (the root's own servers), and the built-in app as well.
pub const QUESTION: [u8; 17] = [0x77, 0x68, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

fn udp(to: SocketAddr) -> (Word, Option<String>) {
    match exchange(to, &QUESTION) {
        Ok(answer) => (Word::Answered, who(&String::from_utf8_lossy(&answer))),
        Err(word) => (word, None),
    }
}

/// Sends one datagram, and returns the first that comes back.
///
/// # Errors
/// How it ended where none came.
pub fn exchange(to: SocketAddr, question: &[u8]) -> Result<Vec<u8>, Word> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let attempt = || -> io::Result<Vec<u8>> {
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(question)?;
        let mut answer = vec![0; 1500];
        let count = socket.recv(&mut answer)?;
        answer.truncate(count);
        Ok(answer)
    };
    attempt().map_err(|error| word(&error))
}

fn word(error: &io::Error) -> Word {
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::TimedOut | ErrorKind::WouldBlock, _) => Word::TimedOut,
        (_, Some(ECONNREFUSED)) => Word::Refused,
        (_, Some(ECONNRESET)) => Word::Reset,
        // EPERM: a rule of the caller's own node stops what it sends.
        (_, Some(EHOSTUNREACH | ENETUNREACH | EPERM | EINVAL)) => Word::Unreachable,
        _ => Word::NotTried,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_is_closed_open_or_speaks() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 512];
            let _ = stream.read(&mut asked);
            let answer = "HTTP/1.1 200 OK\r\n\r\nweb-1 (10.244.0.2) sees you as 10.0.0.1:5\n";
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let probe = call(to, Protocol::Tcp);
        server.join().unwrap();
        assert_eq!(
            (probe.word, probe.who.as_deref()),
            (Word::Answered, Some("web-1"))
        );
        assert_eq!(call(to, Protocol::Tcp).word, Word::Refused);
        assert_eq!(call(to, Protocol::Udp).word, Word::Refused);
        assert_eq!(call(to, Protocol::Sctp).word, Word::NotTried);
    }
}
