//! Faults of a pod's link, and by which of the kernel's means they are made.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::name::Label;

/// What is wrong with the link of a pod. It is done to what goes to the pod, at the node's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFault {
    /// The pod.
    pub pod: Label,
    /// The node's end of its link.
    pub interface: String,
    /// The node's namespace; none is that of the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The link is down.
    #[serde(default)]
    pub down: bool,
    /// Packets that are lost, in thousandths of a per cent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<u32>,
    /// How much later packets arrive, in µs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<u64>,
    /// Bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Loss is made by iptables rules, for the kernel has no `sch_netem`.
    #[serde(default)]
    pub by_rules: bool,
}

impl LinkFault {
    /// Whether nothing is wrong.
    pub fn is_none(&self) -> bool {
        !self.down && self.loss.is_none() && self.delay.is_none() && self.rate.is_none()
    }

    /// What is wrong, in words.
    pub fn words(&self) -> String {
        let mut words = Vec::new();
        if self.down {
            words.push("down".to_string());
        }
        if let Some(loss) = self.loss {
            let way = if self.by_rules { " (by iptables rules)" } else { "" };
            words.push(format!("loses {} % of the packets to it{way}", thousandths(loss)));
        }
        if let Some(delay) = self.delay {
            words.push(format!("packets to it {:?} late", Duration::from_micros(delay)));
        }
        if let Some(rate) = self.rate {
            words.push(format!("at most {} to it", rate_words(rate)));
        }
        words.join(", ")
    }

    /// What `status` says of it.
    pub fn told(&self) -> String {
        format!(
            "the link of {}: {} (`netns-lab link {} --clear` undoes it)",
            self.pod,
            self.words(),
            self.pod
        )
    }

    /// The words of `tc qdisc replace dev LINK root …`; none where the link needs no qdisc.
    pub fn qdisc(&self) -> Option<Vec<String>> {
        let mut words = vec!["netem".to_string()];
        if let Some(loss) = self.loss.filter(|_| !self.by_rules) {
            words.extend(["loss".into(), format!("{}%", thousandths(loss))]);
        }
        if let Some(delay) = self.delay {
            words.extend(["delay".into(), format!("{delay}us")]);
        }
        match (self.rate, words.len()) {
            (None, 1) => None,
            (None, _) => Some(words),
            (Some(rate), 1) => Some(token_bucket(rate)),
            (Some(rate), _) => {
                words.extend(["rate".into(), format!("{rate}bit")]);
                Some(words)
            }
        }
    }

    /// The probability of the iptables rules that make the loss, as iptables prints it.
    pub fn rule_probability(&self) -> Option<f64> {
        let loss = self.loss.filter(|_| self.by_rules)?;
        Some(f64::from(loss) / 100_000.0)
    }
}

/// A bucket that holds what comes in 10 ms, but at least two packets of the usual size.
fn token_bucket(rate: u64) -> Vec<String> {
    let burst = (rate / 8 / 100).max(3200);
    [
        "tbf",
        "rate",
        &format!("{rate}bit"),
        "burst",
        &burst.to_string(),
        "latency",
        "50ms",
    ]
    .map(str::to_string)
    .to_vec()
}

fn thousandths(loss: u32) -> String {
    let text = format!("{}.{:03}", loss / 1000, loss % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn rate_words(rate: u64) -> String {
    for (unit, name) in [(1_000_000_000, "gbit/s"), (1_000_000, "mbit/s"), (1000, "kbit/s")] {
        if rate >= unit && rate.is_multiple_of(unit) {
            return format!("{} {name}", rate / unit);
        }
    }
    format!("{rate} bit/s")
}

/// `10%`, `0.5%` or `0.5`, in thousandths of a per cent.
///
/// # Errors
/// Words that say what was expected.
pub fn loss(text: &str) -> Result<u32, String> {
    let expected = || "expected a share of the packets such as 10% or 0.5%, at most 100%".to_string();
    let digits = text.strip_suffix('%').unwrap_or(text);
    let thousandths = fraction(digits, 1000).ok_or_else(expected)?;
    match u32::try_from(thousandths) {
        Ok(loss @ 1..=100_000) => Ok(loss),
        _ => Err(expected()),
    }
}

/// `20ms`, `1.5s`, `300us`, in µs.
///
/// # Errors
/// Words that say what was expected.
pub fn delay(text: &str) -> Result<u64, String> {
    let units = [("us", 1), ("ms", 1000), ("s", 1_000_000)];
    let micros = with_unit(text, &units).filter(|micros| (1..=60_000_000).contains(micros));
    micros.ok_or_else(|| "expected a time such as 20ms, 1.5s or 300us, at most 60s".to_string())
}

/// `10mbit`, `500kbit`, `1gbit`, in bits per second.
///
/// # Errors
/// Words that say what was expected.
pub fn rate(text: &str) -> Result<u64, String> {
    let units = [
        ("kbit", 1000),
        ("mbit", 1_000_000),
        ("gbit", 1_000_000_000),
        ("bit", 1),
    ];
    let rate = with_unit(text, &units).filter(|rate| (8000..=100_000_000_000).contains(rate));
    rate.ok_or_else(|| "expected a rate such as 10mbit, 500kbit or 1gbit, at least 8kbit".to_string())
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    units
        .iter()
        .find_map(|(unit, size)| fraction(text.strip_suffix(unit)?, *size))
}

/// A decimal number times a unit; `None` for what is no number or too long a one.
fn fraction(text: &str, unit: u64) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 9 {
        return None;
    }
    let parts = if part.is_empty() {
        0
    } else {
        part.parse::<u64>().ok()?
    };
    let scale = 10_u64.checked_pow(u32::try_from(part.len()).ok()?)?;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(unit)?
        .checked_add(parts.checked_mul(unit)? / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> LinkFault {
        LinkFault {
            pod: Label::new("web-1").unwrap(),
            interface: "veth-web-1".into(),
            namespace: None,
            down: false,
            loss: None,
            delay: None,
            rate: None,
            by_rules: false,
        }
    }

    #[test]
    fn numbers_with_units() {
        assert_eq!(loss("10%"), Ok(10_000));
        assert_eq!(loss("0.5"), Ok(500));
        assert_eq!(delay("20ms"), Ok(20_000));
        assert_eq!(delay("1.5s"), Ok(1_500_000));
        assert_eq!(rate("10mbit"), Ok(10_000_000));
        for wrong in ["", "%", "0%", "101%", "-1%", "1e3%", "10%%", "٣%"] {
            assert!(loss(wrong).is_err(), "{wrong}");
        }
        for wrong in ["20", "ms", "-1ms", "99999999999999999999s", "2m"] {
            assert!(delay(wrong).is_err(), "{wrong}");
        }
        assert!(rate("10").is_err() && rate("1bit").is_err());
    }

    #[test]
    fn a_qdisc_does_what_is_asked() {
        assert_eq!(fault().qdisc(), None);
        let all = LinkFault {
            loss: Some(10_000),
            delay: Some(20_000),
            rate: Some(10_000_000),
            ..fault()
        };
        assert_eq!(
            all.qdisc().unwrap().join(" "),
            "netem loss 10% delay 20000us rate 10000000bit"
        );
        let rate = LinkFault {
            rate: Some(10_000_000),
            ..fault()
        };
        assert_eq!(
            rate.qdisc().unwrap().join(" "),
            "tbf rate 10000000bit burst 12500 latency 50ms"
        );
        let rules = LinkFault {
            loss: Some(500),
            by_rules: true,
            ..fault()
        };
        assert_eq!((rules.qdisc(), rules.rule_probability()), (None, Some(0.005)));
        assert_eq!(
            rules.told(),
            "the link of web-1: loses 0.5 % of the packets to it (by iptables rules) \
             (`netns-lab link web-1 --clear` undoes it)"
        );
    }
}
