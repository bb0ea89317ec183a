//! Quantities as Kubernetes writes them: `500m` of a CPU, `128Mi` of memory.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// CPU time, in thousandths of a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Cpu(pub u64);

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Memory(pub u64);

/// The suffixes of Kubernetes' quantities and what they stand for; binary ones first, for `Mi`
/// ends with no other's letter but begins with one.
const SUFFIXES: [(&str, u64); 12] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];
/// How many of them are binary.
const BINARY: usize = 6;

impl Cpu {
    /// `2`, `0.5` or `500m`; what is finer than a thousandth counts as one.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        scaled(text, 1000)
            .map(Self)
            .ok_or_else(|| format!("expected CPUs such as \"2\", \"0.5\" or \"500m\", got {text:?}"))
    }
}

impl Memory {
    /// `134217728`, `128Mi`, `1.5Gi`, `1G` or `1e9`; a part of a byte counts as one.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        scaled(text, 1)
            .map(Self)
            .ok_or_else(|| format!("expected memory such as \"128Mi\" or \"1G\", got {text:?}"))
    }
}

/// A quantity times `factor`, rounded up as Kubernetes does.
fn scaled(text: &str, factor: u128) -> Option<u64> {
    /// More digits than any quantity has that fits.
    const DIGITS: usize = 22;
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let (before, behind) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{before}{behind}");
    if digits.is_empty() || digits.len() > DIGITS || behind.contains('.') {
        return None;
    }
    let (times, by) = unit(suffix)?;
    let digits: u128 = digits.parse().ok()?;
    let by = by.checked_mul(10_u128.checked_pow(u32::try_from(behind.len()).ok()?)?)?;
    let exact = digits.checked_mul(times)?.checked_mul(factor)?;
    u64::try_from(exact.div_ceil(by)).ok()
}

/// What a suffix multiplies with, and what it divides by.
fn unit(suffix: &str) -> Option<(u128, u128)> {
    let known = SUFFIXES.iter().find(|(known, _)| *known == suffix);
    if let Some((_, unit)) = known {
        return Some((u128::from(*unit), 1));
    }
    match suffix {
        "" => return Some((1, 1)),
        "m" => return Some((1, 1_000)),
        "u" => return Some((1, 1_000_000)),
        "n" => return Some((1, 1_000_000_000)),
        _ => {}
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10_u128
        .checked_pow(exponent.unsigned_abs())
        .filter(|_| exponent.abs() <= 18)?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(f, "{}", self.0 / 1000)
        } else {
            write!(f, "{}m", self.0)
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The largest unit that says it exactly; binary ones, as kubectl prints them.
        let mut units = SUFFIXES[..BINARY].iter().rev();
        let exact = units.find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit));
        match exact {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Reads a quantity that may be a text or a number.
struct Quantity<T> {
    expected: &'static str,
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Quantity<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.parse)(&number.to_string()).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.parse)(&number.to_string()).map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        (self.parse)(&number.to_string()).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Cpu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Quantity {
            expected: "CPUs such as 2 or \"500m\"",
            parse: Self::parse,
        })
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Quantity {
            expected: "memory such as \"128Mi\"",
            parse: Self::parse,
        })
    }
}

impl Serialize for Cpu {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, milli) in [
            ("2", 2000),
            ("0.5", 500),
            (".5", 500),
            ("500m", 500),
            ("1.25", 1250),
            ("1e1", 10_000),
            ("0.0001", 1),
        ] {
            assert_eq!(Cpu::parse(text), Ok(Cpu(milli)), "{text}");
        }
        for (text, bytes) in [
            ("1Ki", 1024),
            ("1k", 1000),
            ("128Mi", 128 << 20),
            ("7", 7),
            ("1.5Gi", 3 << 29),
            ("1e3", 1000),
            ("12E-1", 2),
            ("1E", 1_000_000_000_000_000_000),
        ] {
            assert_eq!(Memory::parse(text), Ok(Memory(bytes)), "{text}");
        }
        for text in ["", "-1", "m", ".", "1e", "1e99", "1.2.3", "99999999999999999999"] {
            assert!(Cpu::parse(text).is_err(), "{text}");
        }
        for text in ["", "-1", "Mi", "1mi", "99999999999999P"] {
            assert!(Memory::parse(text).is_err(), "{text}");
        }
        assert_eq!(serde_json::from_str::<Cpu>("1.5").unwrap(), Cpu(1500));
        assert_eq!(serde_json::from_str::<Memory>("1024").unwrap(), Memory(1024));
        assert!(serde_json::from_str::<Cpu>("-1").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(number in any::<u32>()) {
            let number = u64::from(number);
            prop_assert_eq!(Cpu::parse(&Cpu(number).to_string()), Ok(Cpu(number)));
            prop_assert_eq!(Memory::parse(&Memory(number).to_string()), Ok(Memory(number)));
        }
    }
}
