//! What luck alone can do: the band around an expected share, and the verdict on counted ones.

use serde::Serialize;
use statrs::distribution::{Binomial, ChiSquared, ContinuousCDF as _, DiscreteCDF as _};

/// Below this the shares are not what the rules say. Small, since people look at a screen for long.
const BIASED: f64 = 1e-4;
/// Below this it is worth to go on looking.
const UNUSUAL: f64 = 0.01;
/// Fewer expected than this of any kind, and the chi-squared approximation does not hold.
const FEWEST: f64 = 5.0;

/// Connections that met the same shares.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group {
    /// The share of each kind that the rules promise.
    pub shares: Vec<f64>,
    /// How many there were of each.
    pub counts: Vec<u64>,
}

impl Group {
    fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// From how many connections on it can be judged.
    fn needed(&self) -> u64 {
        let rarest = self
            .shares
            .iter()
            .copied()
            .filter(|share| *share > 0.0)
            .fold(1.0, f64::min);
        ceiling(FEWEST / rarest)
    }
}

/// A verdict in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Word {
    /// Nobody called.
    None,
    /// Luck can do anything with so few.
    TooFew,
    /// As the rules say.
    Fair,
    /// Luck does this now and then.
    Unusual,
    /// Not what the rules say.
    Biased,
    /// Clients come back to the backend they had, so that the shares say nothing of the dice.
    Affinity,
}

impl Word {
    /// As a narrow column says it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::None => "no calls",
            Self::TooFew => "too few",
            Self::Fair => "fair",
            Self::Unusual => "unusual",
            Self::Biased => "biased",
            Self::Affinity => "affinity",
        }
    }
}

/// What can be said about the shares.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// In a word.
    pub word: Word,
    /// In a sentence.
    pub sentence: String,
    /// How far the counts are from what was expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chi_squared: Option<f64>,
    /// Degrees of freedom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degrees: Option<u64>,
    /// How often luck alone is as far off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
}

impl Verdict {
    /// A verdict without figures.
    pub fn plain(word: Word, sentence: impl Into<String>) -> Self {
        Self {
            word,
            sentence: sentence.into(),
            chi_squared: None,
            degrees: None,
            p: None,
        }
    }
}

/// Judges all groups as one; `equal` when the rules promise the same to each.
pub fn judge(groups: &[Group], equal: bool) -> Verdict {
    let total: u64 = groups.iter().map(Group::total).sum();
    if total == 0 {
        return Verdict::plain(Word::None, "no new connection yet");
    }
    let (mut chi, mut degrees) = (0.0, 0_u64);
    for group in groups.iter().filter(|group| group.total() >= group.needed()) {
        let (of_group, kinds) = distance(group);
        chi += of_group;
        degrees += kinds.saturating_sub(1);
    }
    let judged = groups.iter().any(|group| group.total() >= group.needed());
    if !judged {
        let needed = groups.iter().map(Group::needed).min().unwrap_or(0);
        let sentence = format!("too few to tell: {total} of at least {needed} new connections");
        return Verdict::plain(Word::TooFew, sentence);
    }
    if degrees == 0 {
        return Verdict::plain(Word::Fair, "one backend gets all, as the rules say");
    }
    let p = ChiSquared::new(float(degrees)).map_or(1.0, |distribution| distribution.sf(chi));
    let promised = if equal {
        "equal shares"
    } else {
        "the shares that the rules give"
    };
    let (word, opinion) = if p < BIASED {
        (
            Word::Biased,
            format!("biased: not {promised}, luck alone does this less than once in 10000 times"),
        )
    } else if p < UNUSUAL {
        (
            Word::Unusual,
            format!("unusual for {promised}, though luck may do it: watch on"),
        )
    } else {
        (Word::Fair, format!("consistent with {promised}"))
    };
    let figures = format!("(χ² {chi:.2}, {degrees} d.f., p {})", p_text(p));
    Verdict {
        word,
        sentence: format!("{opinion} {figures}"),
        chi_squared: Some(chi),
        degrees: Some(degrees),
        p: Some(p),
    }
}

fn p_text(p: f64) -> String {
    if p < BIASED {
        "< 0.0001".into()
    } else if p < 0.01 {
        format!("= {p:.4}")
    } else {
        format!("= {p:.2}")
    }
}

/// Pearson's statistic, and how many kinds could come up at all.
fn distance(group: &Group) -> (f64, u64) {
    let possible = group
        .shares
        .iter()
        .zip(&group.counts)
        .filter(|(share, _)| **share > 0.0);
    let total = float(possible.clone().map(|(_, count)| *count).sum());
    let all: f64 = possible.clone().map(|(share, _)| *share).sum();
    possible.fold((0.0, 0), |(sum, kinds), (share, count)| {
        let expected = total * share / all;
        (sum + (float(*count) - expected).powi(2) / expected, kinds + 1)
    })
}

/// The shares between which luck stays 95 times in 100, of so many connections.
pub fn band(connections: u64, share: f64) -> (f64, f64) {
    if connections == 0 {
        return (0.0, 1.0);
    }
    let share = share.clamp(0.0, 1.0);
    let n = float(connections);
    match Binomial::new(share, connections) {
        // Exact as long as single connections count; then the bell is the same, and sooner there.
        Ok(luck) if connections <= 1000 => {
            let of = |quantile| float(luck.inverse_cdf(quantile)) / n;
            (of(0.025), of(0.975))
        }
        _ => {
            let width = 1.959_963_984_540_054 * (share * (1.0 - share) / n).sqrt();
            ((share - width).max(0.0), (share + width).min(1.0))
        }
    }
}

/// A count as a number with a fraction.
#[expect(clippy::cast_precision_loss, reason = "no table holds 2^52 connections")]
pub fn float(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative, and a limit"
)]
fn ceiling(value: f64) -> u64 {
    (value - 1e-6).ceil() as u64
}
