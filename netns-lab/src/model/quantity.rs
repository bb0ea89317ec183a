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
const SUFFIXES: [(&str, u64); 10] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
];

impl Cpu {
    /// `2`, `0.5` or `500m`.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let milli = match text.strip_suffix('m') {
            Some(milli) => whole(milli),
            None => thousandths(text),
        };
        milli
            .map(Self)
            .ok_or_else(|| format!("expected CPUs such as \"2\", \"0.5\" or \"500m\", got {text:?}"))
    }
}

impl Memory {
    /// `134217728`, `128Mi` or `1G`.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let split = SUFFIXES
            .iter()
            .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)));
        let (number, unit) = split.unwrap_or((text, 1));
        whole(number)
            .and_then(|number| number.checked_mul(unit))
            .map(Self)
            .ok_or_else(|| format!("expected memory such as \"128Mi\" or \"1G\", got {text:?}"))
    }
}

fn whole(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

/// `1.25` as 1250: at most three digits behind the point, for finer CPU time there is not.
fn thousandths(text: &str) -> Option<u64> {
    let (before, behind) = text.split_once('.').unwrap_or((text, "0"));
    if behind.len() > 3 {
        return None;
    }
    let scale = [1000, 100, 10, 1][behind.len()];
    let fraction = whole(behind)?.checked_mul(scale)?;
    whole(before)?.checked_mul(1000)?.checked_add(fraction)
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
        let mut units = SUFFIXES[..5].iter().rev();
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
        for (text, milli) in [("2", 2000), ("0.5", 500), ("500m", 500), ("1.25", 1250)] {
            assert_eq!(Cpu::parse(text), Ok(Cpu(milli)), "{text}");
        }
        for (text, bytes) in [("1Ki", 1024), ("1k", 1000), ("128Mi", 128 << 20), ("7", 7)] {
            assert_eq!(Memory::parse(text), Ok(Memory(bytes)), "{text}");
        }
        for text in ["", "-1", "1e3", "m", ".5", "1.", "0.0001", "99999999999999999999"] {
            assert!(Cpu::parse(text).is_err(), "{text}");
        }
        for text in ["", "-1", "Mi", "1.5Gi", "1mi", "99999999999999P"] {
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
