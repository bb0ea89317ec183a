//! What an object says it is, read without reading all of it.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};

/// The version and kind of an object.
#[derive(Default)]
pub(super) struct Head<'a> {
    version: Option<&'a str>,
    kind: Option<&'a str>,
}

impl<'a> Head<'a> {
    /// The first ones that are said. What comes behind them is not looked at: most objects say them first.
    pub(super) fn of(text: &'a str) -> Option<(&'a str, &'a str)> {
        let mut head = Self::default();
        // That it ends early is an error to the reader, and none to us.
        let _ = (&mut head).deserialize(&mut serde_json::Deserializer::from_str(text));
        Some((head.version?, head.kind?))
    }
}

impl<'a> DeserializeSeed<'a> for &mut Head<'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, text: D) -> Result<(), D::Error> {
        text.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for &mut Head<'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        while self.version.is_none() || self.kind.is_none() {
            match map.next_key::<&str>()? {
                Some("apiVersion") => self.version = Some(map.next_value()?),
                Some("kind") => self.kind = Some(map.next_value()?),
                Some(_) => drop(map.next_value::<IgnoredAny>()?),
                None => break,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_said_counts_and_the_rest_is_not_looked_at() {
        let said = |text| Head::of(text);
        let service = Some(("v1", "Service"));
        assert_eq!(
            said(r#"{"spec":{"kind":"x"},"apiVersion":"v1","kind":"Service""#),
            service
        );
        assert_eq!(
            said(r#"{"kind":"Service","apiVersion":"v1","kind":"Pod"}"#),
            service
        );
        assert_eq!(said(r#"{"kind":"Service"}"#), None);
        assert_eq!(said(r#"{"apiVersion":"v1","kind":7}"#), None);
        assert_eq!(said(r#"["v1","Service"]"#), None);
    }
}
