//! A client that opens many connections and counts who answers.
//!
//! It runs inside a machine as `lab-helper load …`, by the standard library's sockets only, and knows
//! of pods no more than the line that they answer: `web-1 (10.244.0.2) sees you as …`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// How to ask for the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `GET /` over a connection of its own.
    Http,
    /// A bare TCP connection that sends one line.
    Tcp,
    /// One datagram from a source port of its own, never repeated.
    Udp,
}

impl Protocol {
    /// From its name in lower case.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "http" => Some(Self::Http),
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            _ => None,
        }
    }
}

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How to ask.
    pub protocol: Protocol,
    /// Whom.
    pub target: SocketAddr,
    /// How often.
    pub count: usize,
    /// How many at a time.
    pub concurrency: usize,
    /// How long to wait for one answer.
    pub timeout: Duration,
}

/// Who answered how often, and what went wrong how often.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Answers by pod.
    pub answers: BTreeMap<String, u64>,
    /// Failures by kind.
    pub failures: BTreeMap<String, u64>,
    /// Answers by pod and the address that it saw: `web-1 10.244.0.1`.
    pub seen: BTreeMap<String, u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, outcome: io::Result<Answer>) {
        let (counts, key) = match outcome {
            Ok(Answer { pod, client }) => {
                *self.seen.entry(format!("{pod} {client}")).or_default() += 1;
                (&mut self.answers, pod)
            }
            Err(error) => (&mut self.failures, kind(&error)),
        };
        *counts.entry(key).or_default() += 1;
    }

    /// As JSON, for stdout.
    pub fn to_json(&self) -> Value {
        json!({ "answers": self.answers, "failures": self.failures, "seen": self.seen })
    }

    /// Back from JSON.
    ///
    /// # Panics
    /// When it is something else.
    pub fn from_json(value: &Value) -> Self {
        let counts = |key: &str| -> BTreeMap<String, u64> {
            let fields = value[key].as_object().expect("an object of counts");
            fields
                .iter()
                .map(|(name, count)| (name.clone(), count.as_u64().expect("a count")))
                .collect()
        };
        Self {
            answers: counts("answers"),
            failures: counts("failures"),
            seen: counts("seen"),
        }
    }

    /// All answers.
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }
}

/// A read past its time limit says "try again", which is the same failure.
fn kind(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "timed out".to_string(),
        other => other.to_string(),
    }
}

/// Runs the plan and counts.
pub fn run(plan: &Plan) -> Tally {
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for _ in 0..plan.concurrency {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if turn >= plan.count {
                        return;
                    }
                    let outcome = once(plan, turn);
                    tally.lock().expect("no thread panics with it").add(outcome);
                }
            });
        }
    });
    tally.into_inner().expect("no thread panics with it")
}

/// One call; `turn` tells the source ports of datagrams apart.
pub(crate) fn once(plan: &Plan, turn: usize) -> io::Result<Answer> {
    match plan.protocol {
        Protocol::Http => {
            let mut stream = connect(plan.target, plan.timeout)?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
            http_answer(&mut BufReader::new(stream))
        }
        Protocol::Tcp => {
            let mut stream = connect(plan.target, plan.timeout)?;
            stream.write_all(b"hello\n")?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            answer(&line)
        }
        Protocol::Udp => datagram(plan, turn),
    }
}

fn connect(target: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn datagram(plan: &Plan, turn: usize) -> io::Result<Answer> {
    // A source port that no other datagram of this run has: for the kernel each is a new connection.
    let port = u16::try_from(10_000 + turn % 22_000).expect("below 32,768, where clients' own begin");
    let any: IpAddr = match plan.target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, port))?;
    socket.set_read_timeout(Some(plan.timeout))?;
    // Connected, so that only an answer from the address that was asked is one.
    socket.connect(plan.target)?;
    socket.send(b"hello\n")?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer)?;
    answer(&String::from_utf8_lossy(&buffer[..length]))
}

/// Reads one HTTP answer with a Content-Length and returns what its body says.
fn http_answer(stream: &mut impl BufRead) -> io::Result<Answer> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(format!("answered {:?}", line.trim_end())));
    }
    let mut length = None;
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
    let length: u64 = length.ok_or_else(|| io::Error::other("no Content-Length"))?;
    let mut body = String::new();
    stream.take(length).read_to_string(&mut body)?;
    answer(&body)
}

/// Who answered, and the address that it saw as the client's.
pub(crate) struct Answer {
    pod: String,
    client: IpAddr,
}

/// The first word of such an answer.
pub(crate) fn pod(line: &str) -> io::Result<String> {
    Ok(answer(line)?.pod)
}

/// Reads `web-1 (10.244.0.2) sees you as 10.244.0.5:51848`.
fn answer(line: &str) -> io::Result<Answer> {
    let read = || {
        let (pod, rest) = line.split_once(" (")?;
        let (_, client) = rest.split_once(") sees you as ")?;
        let client: SocketAddr = client.split_whitespace().next()?.parse().ok()?;
        Some(Answer {
            pod: pod.to_string(),
            client: client.ip(),
        })
    };
    read().ok_or_else(|| io::Error::other(format!("answered {line:?}")))
}

/// Opens `plan.count` HTTP connections, keeps all of them open and in use until stdin ends, and opens
/// short-lived ones beside them all the time. Returns the exchanges of both as JSON.
///
/// # Panics
/// When a connection cannot be opened in the first place.
pub fn hold(plan: &Plan) -> Value {
    let mut streams: Vec<_> = (0..plan.count)
        .map(|_| BufReader::new(connect(plan.target, plan.timeout).expect("a connection to hold")))
        .collect();
    crate::load::say(&format!("holding {}", streams.len()));
    let stop = AtomicBool::new(false);
    let (held, fresh) = (Mutex::new(Tally::default()), Mutex::new(Tally::default()));
    let rounds = AtomicU64::new(u64::MAX);
    thread::scope(|scope| {
        for part in streams.chunks_mut(plan.count.div_ceil(plan.concurrency)) {
            scope.spawn(|| rounds.fetch_min(exchange_until(part, &stop, &held), Ordering::Relaxed));
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let outcome = once(plan, 0);
                thread::sleep(Duration::from_millis(5));
                fresh.lock().expect("no thread panics with it").add(outcome);
            }
        });
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        stop.store(true, Ordering::Relaxed);
    });
    let take = |tally: Mutex<Tally>| tally.into_inner().expect("no thread panics with it").to_json();
    json!({ "held": take(held), "fresh": take(fresh), "rounds": rounds.into_inner() })
}

/// One request on each connection, again and again; the number of full rounds.
fn exchange_until(streams: &mut [BufReader<TcpStream>], stop: &AtomicBool, tally: &Mutex<Tally>) -> u64 {
    let mut rounds = 0;
    let mut pods: Vec<Option<String>> = vec![None; streams.len()];
    loop {
        for (stream, pod) in streams.iter_mut().zip(&mut pods) {
            let asked = stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n");
            let outcome = asked.and_then(|()| http_answer(stream)).and_then(|answer| {
                if *pod.get_or_insert_with(|| answer.pod.clone()) == answer.pod {
                    Ok(answer)
                } else {
                    Err(io::Error::other("another pod answers on the same connection"))
                }
            });
            tally.lock().expect("no thread panics with it").add(outcome);
        }
        rounds += 1;
        if stop.load(Ordering::Relaxed) {
            return rounds;
        }
        // Two cores are shared with what is tested; a busy loop would only measure itself.
        thread::sleep(Duration::from_millis(500));
    }
}

/// One line to stdout at once; a reader that has gone needs no line.
pub fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_answer_is_read_to_its_length_and_no_further() {
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 43\r\n\r\nweb-1 (10.244.0.2) sees you as 10.0.0.1:99\n\
                    HTTP/1.1 200 OK\r\n";
        let mut stream = BufReader::new(text.as_bytes());
        let answer = http_answer(&mut stream).unwrap();
        assert_eq!(
            (answer.pod.as_str(), answer.client.to_string().as_str()),
            ("web-1", "10.0.0.1")
        );
        let mut rest = String::new();
        stream.read_line(&mut rest).unwrap();
        assert_eq!(rest, "HTTP/1.1 200 OK\r\n");
    }

    #[test]
    fn a_stranger_is_no_pod() {
        assert!(answer("SSH-2.0-OpenSSH (9.2)").is_err());
    }

    #[test]
    fn a_tally_survives_json() {
        let mut tally = Tally::default();
        tally.add(answer("web-1 (10.244.0.2) sees you as 10.0.0.1:99"));
        tally.add(Err(io::ErrorKind::WouldBlock.into()));
        assert_eq!(Tally::from_json(&tally.to_json()), tally);
        assert_eq!(tally.failures["timed out"], 1);
    }
}
