//! Makes calls, many at a time.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use labkit::Failure;

use crate::dns::upstream::servers_of;
use crate::model::load::{Call, Lost, Target};

/// The longest answer that is read.
const ANSWER: usize = 64 << 10;

/// What calls are made.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Where they go.
    pub to: SocketAddr,
    /// How many.
    pub calls: usize,
    /// How many at the same time.
    pub at_once: usize,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How many requests a connection carries.
    pub requests: usize,
    /// Datagrams.
    pub udp: bool,
    /// The port that datagrams leave from.
    pub source_port: Option<u16>,
}

/// The address of a target, as this namespace knows it.
pub fn resolve(target: &Target) -> Result<SocketAddr, Failure> {
    match (target.host.as_str(), target.port).to_socket_addrs() {
        Ok(mut addresses) => addresses.next().ok_or_else(|| unknown(target)),
        Err(error) if error.to_string().contains(SILENCE) => Err(silent(target)),
        Err(_) => Err(unknown(target)),
    }
}

/// What the C library says when no name server has answered (`EAI_AGAIN`), the standard library keeps
/// only as text.
const SILENCE: &str = "Temporary failure in name resolution";

fn unknown(target: &Target) -> Failure {
    Failure::failed(format!("{} has no address here", target.host))
        .hint("`netns-lab get svc` lists the Services; pods know their names: --from POD")
}

fn silent(target: &Target) -> Failure {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    match servers_of(&text).first() {
        None => unknown(target),
        Some(server) => Failure::failed(format!(
            "nobody can tell the address of {}: the name server {} does not answer",
            target.host,
            server.ip()
        ))
        .hint("is it the lab's own? it is a pod behind a Service: miniproxy sync; netns-lab get svc,pods -A"),
    }
}

/// Makes all calls.
pub fn run(plan: &Plan) -> Vec<Call> {
    let (begun, made) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(plan.calls)));
    thread::scope(|scope| {
        for _ in 0..plan.at_once.min(plan.calls) {
            scope.spawn(|| {
                while begun.fetch_add(1, Ordering::Relaxed) < plan.calls {
                    let call = call(plan);
                    made.lock().unwrap_or_else(PoisonError::into_inner).push(call);
                }
            });
        }
    });
    made.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn call(plan: &Plan) -> Call {
    let began = Instant::now();
    let end = if plan.udp {
        datagram(plan)
    } else {
        connection(plan)
    };
    Call {
        took: began.elapsed(),
        end: end.map_err(|error| lost(&error)),
    }
}

fn connection(plan: &Plan) -> io::Result<(String, usize)> {
    let mut stream = TcpStream::connect_timeout(&plan.to, plan.timeout)?;
    stream.set_read_timeout(Some(plan.timeout))?;
    stream.set_write_timeout(Some(plan.timeout))?;
    stream.set_nodelay(true)?;
    let first = request(&mut stream, plan, plan.requests == 1)?;
    let mut answered = 1;
    while answered < plan.requests && request(&mut stream, plan, answered + 1 == plan.requests).is_ok() {
        answered += 1;
    }
    Ok((first, answered))
}

/// One request and its answer.
fn request(stream: &mut TcpStream, plan: &Plan, last: bool) -> io::Result<String> {
    let close = if last { "Connection: close\r\n" } else { "" };
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nAccept: text/plain\r\n{close}\r\n",
        plan.to
    );
    stream.write_all(head.as_bytes())?;
    let until = Instant::now() + plan.timeout;
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let got = stream.read(&mut buffer)?;
        heard.extend_from_slice(&buffer[..got]);
        if let Some(answer) = answer(&heard, got == 0) {
            return Ok(answer);
        }
        if got == 0 || heard.len() > ANSWER {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if Instant::now() > until {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

/// The text of an answer, once it is whole: by HTTP's length, or a line of whoever does not speak it.
fn answer(heard: &[u8], ended: bool) -> Option<String> {
    let text = String::from_utf8_lossy(heard);
    if !text.starts_with("HTTP/") {
        let whole = text.contains('\n') && !"HTTP/".starts_with(&*text);
        return whole.then(|| text.into_owned());
    }
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let value = value.trim().parse::<usize>().ok()?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    let whole = length.map_or(ended, |length| body.len() >= length);
    whole.then(|| body.to_string())
}

fn datagram(plan: &Plan) -> io::Result<(String, usize)> {
    let any = match plan.to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, plan.source_port.unwrap_or(0)))?;
    socket.set_read_timeout(Some(plan.timeout))?;
    socket.connect(plan.to)?;
    socket.send(b"who\n")?;
    let mut buffer = [0; 2048];
    let got = socket.recv(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..got]).into_owned(), 1))
}

fn lost(error: &io::Error) -> Lost {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Lost::TimedOut,
        ErrorKind::ConnectionRefused => Lost::Refused,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => Lost::Unreachable,
        ErrorKind::ConnectionReset
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof
        | ErrorKind::ConnectionAborted => Lost::Closed,
        _ => Lost::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_before_they_are_read() {
        let http = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nweb-1\n";
        for cut in 0..http.len() {
            assert_eq!(answer(&http[..cut], false), None, "{cut}");
        }
        assert_eq!(answer(http, false).as_deref(), Some("web-1\n"));
        assert_eq!(answer(b"web-1 sees\n", false).as_deref(), Some("web-1 sees\n"));
        assert_eq!(
            answer(b"HTTP/1.0 200 OK\r\n\r\nold", true).as_deref(),
            Some("old")
        );
    }

    #[test]
    fn a_call_to_a_closed_port_is_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        drop(listener);
        let plan = Plan {
            to,
            calls: 3,
            at_once: 2,
            timeout: Duration::from_secs(2),
            requests: 1,
            udp: false,
            source_port: None,
        };
        let calls = run(&plan);
        assert_eq!(calls.len(), 3);
        assert!(calls.iter().all(|call| matches!(call.end, Err(Lost::Refused))));
    }
}
