//! When an object of the lab's own was made, as a line of its file.
//!
//! What a plan says of an object knows no time, so that the same plan is the same text; the time is
//! put in when the file is written, and left out when file and plan are held against each other.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const METADATA: &str = "\n  \"metadata\": {\n";
const STAMP: &str = "    \"creationTimestamp\": \"";
const ADDRESS: &str = "\n    \"podIP\": \"";

/// The file of an object with the time at which that was made: the one that `before` says if that is
/// the file of the same object, else now.
pub fn stamped(content: &[u8], before: Option<&[u8]>, now: &Time) -> Vec<u8> {
    let text = String::from_utf8_lossy(content);
    let Some((head, rest)) = text.split_once(METADATA) else {
        return content.to_vec();
    };
    let before = before.map(String::from_utf8_lossy);
    let same = before.filter(|before| value(before, ADDRESS) == value(&text, ADDRESS));
    let line = match same.as_deref().and_then(stamp_line) {
        Some(known) => known.to_string(),
        None => format!("{STAMP}{}\",", now.0),
    };
    format!("{head}{METADATA}{line}\n{rest}").into_bytes()
}

/// The file without that time.
pub fn unstamped(mut content: Vec<u8>) -> Vec<u8> {
    let found = str::from_utf8(&content).ok().and_then(|text| {
        let end_of_line = stamp_line(text)?.len() + 1;
        let start = text.find(METADATA)? + METADATA.len();
        Some(start..content.len().min(start + end_of_line))
    });
    if let Some(line) = found {
        content.drain(line);
    }
    content
}

/// The first line of the metadata, if it is the time.
fn stamp_line(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(METADATA)?;
    rest.lines()
        .next()
        .filter(|line| line.starts_with(STAMP) && line.ends_with("\","))
}

/// A pod with another address is another pod. What is no pod has none.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split_once(key)?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::layout::lay_out;
    use crate::model::ledger::Pod;
    use crate::model::life::Health;
    use crate::model::topology::Topology;
    use crate::model::{object, samples};

    #[test]
    fn an_object_keeps_its_time_as_long_as_it_is_the_same() {
        let at = |text: &str| Time(text.parse().unwrap());
        let (first, later) = (at("2026-01-02T03:04:05Z"), at("2026-01-02T03:04:09Z"));
        let lab = samples::lab();
        let pod = lay_out(&lab, &Topology::web_pods(1), None).unwrap().remove(0);
        let plain = object::pod(&lab, &pod, &Health::default());
        let made = stamped(&plain, None, &first);
        let value: serde_json::Value = serde_json::from_slice(&made).unwrap();
        assert_eq!(value["metadata"]["creationTimestamp"], "2026-01-02T03:04:05Z");
        assert_eq!(unstamped(made.clone()), plain);
        assert_eq!(unstamped(plain.clone()), plain);
        assert_eq!(stamped(&plain, Some(&made), &later), made);
        let moved = Pod {
            ip: "10.244.0.99".parse().unwrap(),
            ..pod
        };
        let other = stamped(
            &object::pod(&lab, &moved, &Health::default()),
            Some(&made),
            &later,
        );
        assert!(String::from_utf8(other).unwrap().contains("03:04:09Z"));
        let node = object::node(&lab.nodes[0]);
        let made = stamped(&node, None, &first);
        assert_eq!(stamped(&node, Some(&made), &later), made);
        assert_eq!(stamped(b"junk", None, &first), b"junk");
    }
}
