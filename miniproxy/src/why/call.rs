//! What a call came to, by the kernel's error number and the time, never by words.

use std::net::SocketAddr;

use serde::Serialize;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Word {
    /// Somebody answered.
    Answered,
    /// Refused: a closed port, or a rule that rejects.
    Refused,
    /// No way there, or somebody on the way said so.
    Unreachable,
    /// The connection was made, and cut.
    Reset,
    /// Nothing came back in time.
    TimedOut,
    /// The caller could not even try.
    NotTried,
}

impl Word {
    /// As a screen says it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::TimedOut => "timed out",
            Self::NotTried => "not tried",
        }
    }

    /// Whether the packet came to a backend: one that cuts the connection was reached as well.
    pub fn reached(self) -> bool {
        matches!(self, Self::Answered | Self::Reset)
    }
}

/// What kind of place a call is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A pod of the Service, which may be sent to itself.
    Backend,
    /// A pod that is none of the Service's.
    Pod,
    /// A node.
    Node,
    /// A host that is not of the cluster.
    Outside,
}

impl Kind {
    /// As a screen says it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Backend => "pod of the Service",
            Self::Pod => "other pod",
            Self::Node => "node",
            Self::Outside => "outside",
        }
    }
}

/// Whom a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Via {
    /// An address of the Service.
    Service,
    /// A backend's own address: no rule of a Service is asked.
    Backend,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// From what kind of place.
    pub kind: Kind,
    /// From which: `default/web-1`, `node-1`.
    pub from: String,
    /// On which node.
    pub node: String,
    /// To whom.
    pub to: SocketAddr,
    /// By UDP, where silence may mean that the question was not understood.
    pub udp: bool,
    /// Whether to the Service or to a backend.
    pub via: Via,
    /// How it ended.
    pub word: Word,
    /// After how many milliseconds.
    pub ms: u64,
    /// What was answered, if the answer tells who did.
    pub answered_by: Option<String>,
}

/// Calls from one place to one address, summed up.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// What kind of place.
    pub place: Kind,
    /// Its name.
    pub from: String,
    /// Its node.
    pub node: String,
    /// Whom it called.
    pub to: String,
    /// The Service or a backend.
    pub via: Via,
    /// How most calls ended; how the first lost one did, where any was lost.
    pub word: Word,
    /// The slowest of the calls that the word is about, in milliseconds.
    pub ms: u64,
    /// How many calls there were.
    pub calls: usize,
    /// How many of them came to a backend.
    pub answered: usize,
    /// The share of them that came to a backend, from 0 to 1.
    pub share: f64,
    /// Who answered.
    pub answered_by: Vec<String>,
}

/// Sums up calls by place and address.
pub fn places(calls: &[Call]) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for call in calls {
        let to = call.to.to_string();
        let same = |place: &&mut Place| place.from == call.from && place.place == call.kind && place.to == to;
        if let Some(place) = places.iter_mut().find(same) {
            join(place, call);
        } else {
            places.push(Place {
                place: call.kind,
                from: call.from.clone(),
                node: call.node.clone(),
                to,
                via: call.via,
                word: call.word,
                ms: call.ms,
                calls: 1,
                answered: usize::from(call.word.reached()),
                share: 0.0,
                answered_by: call.answered_by.iter().cloned().collect(),
            });
        }
    }
    for place in &mut places {
        place.answered_by.sort();
        place.share = ratio(place.answered, place.calls);
    }
    places
}

fn join(place: &mut Place, call: &Call) {
    place.calls += 1;
    place.answered += usize::from(call.word.reached());
    // A word of refusal comes for the first of several calls only, for the kernel limits its
    // messages: it says more than the silence of the others.
    if place.word.reached() || (place.word == Word::TimedOut && !call.word.reached()) {
        if place.word != call.word {
            place.ms = call.ms;
        }
        place.word = call.word;
    }
    if place.word == call.word {
        place.ms = place.ms.max(call.ms);
    }
    if let Some(who) = &call.answered_by
        && !place.answered_by.contains(who)
    {
        place.answered_by.push(who.clone());
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    number(part) / number(whole.max(1))
}

/// Who an answer says to come from: the built-in app's first line is `web-1 (10.244.0.2) sees you as …`.
pub fn who(answer: &str) -> Option<String> {
    let body = answer.split_once("\r\n\r\n").map_or(answer, |(_, body)| body);
    let name = body
        .split_once(" sees you as")?
        .0
        .rsplit('\n')
        .next()?
        .split(' ')
        .next()?;
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let good = !name.is_empty() && name.len() <= 253 && name.bytes().all(letter);
    good.then(|| name.to_string())
}
