//! Calls that were made, and who answered how many of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use labkit::table::Table;
use labkit::text::{count, printable};
use serde::Serialize;
use statrs::distribution::{ChiSquared, ContinuousCDF as _};

/// Where a web server is when nothing is said.
const HTTP: u16 = 80;
/// The longest name that is shown of whoever answers.
const NAME: usize = 40;
/// Fewer calls than this for each backend say nothing about shares.
const FEW: f64 = 5.0;
/// Luck that is rarer than this is doubted, and than that not believed in; `miniproxy watch` has the
/// same limits.
const UNUSUAL: f64 = 0.01;
const BIASED: f64 = 1e-4;
/// Of 100 equal shares 95 are this many standard deviations or fewer from the middle.
const BAND: f64 = 1.96;

/// What is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix("svc/").unwrap_or(text);
        let parse = || {
            if bare.parse::<IpAddr>().is_ok() {
                return Some((bare, HTTP));
            }
            let (host, port) = match bare.rsplit_once(':') {
                Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)?),
                None => (bare, HTTP),
            };
            let host = host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'))
                .unwrap_or(host);
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
            (!host.is_empty() && !host.starts_with('-') && host.bytes().all(good)).then_some((host, port))
        };
        let (host, port) =
            parse().ok_or("expected a name or an address, as web, web:8080 or 10.96.0.80:80")?;
        Ok(Self {
            host: host.to_string(),
            port,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// `200ms` or `2s`, a minute at most.
///
/// # Errors
/// With what was expected.
pub fn time(text: &str) -> Result<Duration, String> {
    let parse = || {
        let (number, factor) = match text.strip_suffix("ms") {
            Some(number) => (number, 1),
            None => (text.strip_suffix('s')?, 1000),
        };
        let time = number.parse::<u64>().ok()?.checked_mul(factor)?;
        (1..=60_000).contains(&time).then(|| Duration::from_millis(time))
    };
    parse().ok_or_else(|| "expected 1ms to 60s, as 200ms or 2s".to_string())
}

/// Why a call had no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Lost {
    /// Nothing came in time.
    TimedOut,
    /// Somebody said that nobody listens.
    Refused,
    /// The network said that there is no way.
    Unreachable,
    /// The connection ended before the answer.
    Closed,
    /// Anything else, as a port that is taken.
    Failed,
}

impl Lost {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::TimedOut => "timed out",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Closed => "closed",
            Self::Failed => "failed",
        }
    }
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// How long it took.
    pub took: Duration,
    /// What the first request was answered with and how many were, or why there was no answer.
    pub end: Result<(String, usize), Lost>,
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// What was called.
    pub target: String,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// From where.
    pub from: String,
    /// How many calls.
    pub calls: usize,
    /// How many at the same time.
    pub at_once: usize,
    /// How many requests each.
    pub requests_per_connection: usize,
}

/// All calls, counted.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    schema: u8,
    kind: &'static str,
    #[serde(flatten)]
    asked: Asked,
    backends: Vec<Backend>,
    /// How many calls had no answer.
    pub lost: usize,
    lost_by: BTreeMap<Lost, usize>,
    verdict: Verdict,
    microseconds: Times,
}

/// Who answered.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Backend {
    name: String,
    connections: usize,
    requests: usize,
    /// Of all calls.
    share: f64,
    /// Which addresses it saw.
    sees: BTreeSet<String>,
}

/// Whether equal shares would look like this.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    /// In a word.
    word: Word,
    /// Not said where there are too few calls, and where it is doubtful.
    equal: Option<bool>,
    chi_squared: f64,
    p: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
enum Word {
    #[default]
    TooFew,
    Equal,
    Doubtful,
    NotEqual,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Times {
    median: u64,
    p99: u64,
    longest: u64,
}

impl Report {
    /// Counts calls.
    pub fn new(asked: Asked, calls: &[Call]) -> Self {
        let mut found = BTreeMap::<String, Backend>::new();
        let mut lost_by = BTreeMap::new();
        for call in calls {
            match &call.end {
                Ok((said, requests)) => add(&mut found, said, *requests),
                Err(lost) => *lost_by.entry(*lost).or_default() += 1,
            }
        }
        let mut backends: Vec<_> = found.into_values().collect();
        for backend in &mut backends {
            backend.share = number(backend.connections) / number(calls.len().max(1));
        }
        Self {
            schema: 1,
            kind: "load",
            lost: lost_by.values().sum(),
            lost_by,
            verdict: Verdict::of(&backends),
            microseconds: Times::of(calls),
            backends,
            asked,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let Asked {
            target,
            protocol,
            from,
            calls,
            ..
        } = &self.asked;
        let at_once = self.asked.at_once.min(*calls);
        let calls = count(*calls, "call");
        format!(
            "{calls} to {target}/{protocol} from {from}, {at_once} at a time\n\n{}\n{}",
            self.table().render(),
            self.sentences().join("\n") + "\n"
        )
    }

    fn table(&self) -> Table {
        let many = self.asked.requests_per_connection > 1;
        let mut header = vec!["ANSWERED BY", "CALLS"];
        header.extend(many.then_some("REQUESTS"));
        header.extend(["SHARE", "LUCK ALONE", "SEES YOU AS"]);
        let mut table = Table::new(&header);
        let band = self.band();
        for backend in &self.backends {
            let mut cells = vec![backend.name.clone(), backend.connections.to_string()];
            cells.extend(many.then(|| backend.requests.to_string()));
            cells.extend([percent(backend.share), band.clone(), backend.seen()]);
            table.row(cells);
        }
        let share = number(self.lost) / number(self.asked.calls.max(1));
        let mut cells = vec!["nobody".to_string(), self.lost.to_string()];
        cells.extend(many.then(|| "0".to_string()));
        cells.extend([percent(share), "-".to_string(), "-".to_string()]);
        table.row(cells);
        table
    }

    /// Between which numbers equal shares are 95 times of 100.
    fn band(&self) -> String {
        let answered: usize = self.backends.iter().map(|backend| backend.connections).sum();
        let share = 1.0 / number(self.backends.len().max(1));
        let middle = number(answered) * share;
        let width = BAND * (middle * (1.0 - share)).sqrt();
        if self.backends.len() < 2 {
            return "-".to_string();
        }
        format!("{:.0} to {:.0}", (middle - width).max(0.0), middle + width)
    }

    fn sentences(&self) -> Vec<String> {
        let mut said = Vec::new();
        if self.lost > 0 {
            let why = self
                .lost_by
                .iter()
                .map(|(lost, number)| format!("{number} {}", lost.words()));
            said.push(format!("lost: {}", why.collect::<Vec<_>>().join(", ")));
        }
        said.push(self.opinion());
        let Times { median, p99, .. } = self.microseconds;
        said.push(format!(
            "half took at most {}, 99 of 100 at most {}",
            milliseconds(median),
            milliseconds(p99)
        ));
        said
    }
}

impl Report {
    /// What the shares of those that answered say. Of others that should have, nothing is known here.
    fn opinion(&self) -> String {
        let Verdict {
            word, chi_squared, p, ..
        } = self.verdict;
        let several = self.backends.len();
        // Shares of what is left say nothing of what was lost.
        let of = if self.lost > 0 { ", lost calls apart" } else { "" };
        match (word, &self.backends[..]) {
            (_, []) => "nobody answered".to_string(),
            (_, [one]) => format!("all answers are from {}", one.name),
            (Word::TooFew, _) => "too few calls to tell luck from unequal shares".to_string(),
            (Word::Equal, _) => format!(
                "equal shares look like this{of}: {several} answered (chi-squared {chi_squared:.2}, p = {p:.2})"
            ),
            (Word::Doubtful, _) => format!(
                "doubtful: luck alone does this less than once in 100 times{of} (chi-squared \
                 {chi_squared:.2},\n          p = {p:.4}); call again"
            ),
            (Word::NotEqual, _) => format!(
                "NOT equal shares{of}: luck does this less than once in 10000 times (chi-squared {chi_squared:.0})"
            ),
        }
    }
}

/// Counts an answer such as `web-1 (10.244.0.2) sees you as 10.244.0.5:51848`.
fn add(found: &mut BTreeMap<String, Backend>, said: &str, requests: usize) {
    let line = said.lines().next().unwrap_or_default();
    let name = line.split_whitespace().next().unwrap_or("somebody");
    let name = printable(&name.chars().take(NAME).collect::<String>()).into_owned();
    let backend = found.entry(name.clone()).or_default();
    backend.name = name;
    backend.connections += 1;
    backend.requests += requests;
    let client = line.split_once("sees you as ").map(|(_, client)| client.trim());
    let client = client.and_then(|client| client.parse::<std::net::SocketAddr>().ok());
    backend.sees.extend(client.map(|client| client.ip().to_string()));
}

impl Backend {
    /// Which address it saw, or how many.
    fn seen(&self) -> String {
        match self.sees.len() {
            0 => "-".to_string(),
            1 => self.sees.iter().cloned().collect(),
            several => format!("{several} addresses"),
        }
    }
}

impl Verdict {
    fn of(backends: &[Backend]) -> Self {
        let answered: usize = backends.iter().map(|backend| backend.connections).sum();
        let expected = number(answered) / number(backends.len().max(1));
        let degrees = number(backends.len().saturating_sub(1));
        let Some(distribution) = ChiSquared::new(degrees).ok().filter(|_| expected >= FEW) else {
            return Self::default();
        };
        let terms = backends
            .iter()
            .map(|backend| (number(backend.connections) - expected).powi(2) / expected);
        let chi_squared = terms.sum();
        let p = distribution.sf(chi_squared);
        let word = match p {
            p if p < BIASED => Word::NotEqual,
            p if p < UNUSUAL => Word::Doubtful,
            _ => Word::Equal,
        };
        Self {
            word,
            equal: (word != Word::Doubtful).then_some(word == Word::Equal),
            chi_squared,
            p,
        }
    }
}

impl Times {
    fn of(calls: &[Call]) -> Self {
        let mut times: Vec<_> = calls
            .iter()
            .map(|call| u64::try_from(call.took.as_micros()).unwrap_or(u64::MAX))
            .collect();
        times.sort_unstable();
        let at = |hundredths: usize| {
            let last = times.len().saturating_sub(1);
            times
                .get((times.len() * hundredths / 100).min(last))
                .copied()
                .unwrap_or_default()
        };
        Self {
            median: at(50),
            p99: at(99),
            longest: at(100),
        }
    }
}

/// No count here is near 2^52.
#[expect(clippy::cast_precision_loss)]
fn number(count: usize) -> f64 {
    count as f64
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn milliseconds(microseconds: u64) -> String {
    let tenths = microseconds.div_ceil(100);
    if tenths < 100 {
        format!("{}.{} ms", tenths / 10, tenths % 10)
    } else {
        format!("{} ms", tenths / 10)
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
