//! Whether changes reach the kernel in time.
//!
//! Healthy is who has no change waiting for longer than two sync periods, in any IP family: a proxy
//! that has nothing to do is healthy, and so is one that has just begun. `/healthz` says in addition
//! whether new connections should come to this node at all; load balancers ask it.

use std::time::Duration;

use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::Node;
use labkit::xtables::Family;
use serde::Serialize;

use super::{Answer, Moment};
use crate::config::Compat;

/// Set by the cluster autoscaler on a node that it is about to remove.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
/// Go's zero time, which stands for "never".
const NEVER: &str = "0001-01-01 00:00:00 +0000 UTC";
const NEVER_JSON: &str = "0001-01-01T00:00:00Z";

/// One IP family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct OfFamily {
    /// The oldest change that is not written yet.
    queued: Option<Moment>,
    updated: Option<Moment>,
}

/// What is known of the proxy's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    compat: Compat,
    timeout: Duration,
    families: [OfFamily; 2],
    eligible: bool,
}

/// Which question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// `/healthz`: the proxy and its node.
    Healthz,
    /// `/livez`: the proxy alone.
    Livez,
}

impl Health {
    /// Nothing has happened yet.
    pub fn new(compat: Compat, sync_period: Duration) -> Self {
        Self {
            compat,
            timeout: sync_period.saturating_mul(2),
            families: [OfFamily::default(); 2],
            eligible: true,
        }
    }

    /// There is a change to write; only the oldest one counts.
    pub fn queued(&mut self, family: Family, now: Moment) {
        self.family(family).queued.get_or_insert(now);
    }

    /// Everything that was waiting is written.
    pub fn updated(&mut self, family: Family, now: Moment) {
        *self.family(family) = OfFamily {
            queued: None,
            updated: Some(now),
        };
    }

    /// Whether new connections should come to this node: see [`eligible`].
    pub fn node(&mut self, eligible: bool) {
        self.eligible = eligible;
    }

    /// Whether the proxy does its work, whatever the node is about to do.
    pub fn is_healthy(&self, now: Moment) -> bool {
        self.families.iter().all(|family| self.in_time(family, now))
    }

    /// The answer, in the words of the kube-proxy that we stand in for.
    pub fn answer(&self, question: Question, now: Moment) -> Answer {
        let eligible = (question == Question::Healthz).then_some(self.eligible);
        let healthy = self.is_healthy(now);
        let good = healthy && eligible.unwrap_or(true);
        let body = match self.compat {
            Compat::V1_30 => self.body_1_30(good, eligible, now),
            Compat::Latest => self.body_latest(good, healthy, eligible, now),
        };
        Answer::json(if good { 200 } else { 503 }, body)
    }

    fn family(&mut self, family: Family) -> &mut OfFamily {
        &mut self.families[usize::from(family == Family::V6)]
    }

    fn in_time(&self, family: &OfFamily, now: Moment) -> bool {
        let waiting = family.queued.map(|since| now.up.saturating_sub(since.up));
        waiting.is_none_or(|waiting| waiting < self.timeout)
    }

    /// When a family was last written that is late; without one, when anything was last written.
    fn last_updated(&self, now: Moment) -> Option<Moment> {
        let late = self.families.iter().find(|family| !self.in_time(family, now));
        match late {
            Some(family) => family.updated,
            None => self.latest(),
        }
    }

    fn latest(&self) -> Option<Moment> {
        let all = self.families.iter().filter_map(|family| family.updated);
        all.max_by_key(|moment| moment.up)
    }

    /// "Last updated" of a healthy proxy is now: older versions wrote everything all the time, and
    /// whoever reads it still relies on a recent time.
    fn body_1_30(&self, good: bool, eligible: Option<bool>, now: Moment) -> String {
        let current = go_time(now);
        let updated = if good {
            current.clone()
        } else {
            self.last_updated(now).map_or(NEVER.to_string(), go_time)
        };
        let eligible = eligible.map_or(String::new(), |eligible| {
            format!(", \"nodeEligible\": {eligible}")
        });
        format!("{{\"lastUpdated\": \"{updated}\",\"currentTime\": \"{current}\"{eligible}}}")
    }

    fn body_latest(&self, good: bool, healthy: bool, eligible: Option<bool>, now: Moment) -> String {
        let status = |family: &OfFamily| {
            let healthy = self.in_time(family, now);
            // A family that was never written and is not late says nothing.
            (family.updated.is_some() || !healthy).then(|| FamilyStatus {
                last_updated: json_time(family.updated),
                healthy,
            })
        };
        let [v4, v6] = &self.families;
        let status = Status {
            v4: status(v4),
            v6: status(v6),
        };
        let body = Body {
            last_updated: json_time(if good { Some(now) } else { self.latest() }),
            current_time: json_time(Some(now)),
            node_eligible: eligible,
            healthy,
            status: (status.v4.is_some() || status.v6.is_some()).then_some(status),
        };
        // Strings and booleans cannot fail.
        serde_json::to_string(&body).unwrap_or_default()
    }
}

/// Newer versions' body; the order of fields is theirs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Serialize)]
struct Status {
    #[serde(rename = "IPv4", skip_serializing_if = "Option::is_none")]
    v4: Option<FamilyStatus>,
    #[serde(rename = "IPv6", skip_serializing_if = "Option::is_none")]
    v6: Option<FamilyStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyStatus {
    last_updated: String,
    healthy: bool,
}

/// Whether load balancers should send new connections to this node: not while it is being deleted,
/// and not once the cluster autoscaler has marked it. A node that is not known is not held against it.
pub fn eligible(node: Option<&Node>) -> bool {
    let Some(node) = node else { return true };
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_none() && taints.into_iter().all(|taint| taint.key != TO_BE_DELETED)
}

/// As Go prints a time: `2026-05-01 12:00:00.25 +0000 UTC m=+1.000000000`. The last word is what its
/// monotonic clock says, which begins with the program.
fn go_time(moment: Moment) -> String {
    let time = moment.wall.to_zoned(TimeZone::UTC);
    format!(
        "{} +0000 UTC m=+{}.{:09}",
        // Without trailing zeros, and without the point where nothing is left.
        time.strftime("%Y-%m-%d %H:%M:%S%.f"),
        moment.up.as_secs(),
        moment.up.subsec_nanos()
    )
}

/// RFC 3339, as Go puts a time into JSON.
fn json_time(moment: Option<Moment>) -> String {
    moment.map_or(NEVER_JSON.to_string(), |moment| moment.wall.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many milliseconds after a start at noon.
    fn at(millis: u64) -> Moment {
        let start: jiff::Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        let up = Duration::from_millis(millis);
        Moment { wall: start + up, up }
    }

    fn health(compat: Compat) -> Health {
        Health::new(compat, Duration::from_secs(30))
    }

    fn body(health: &Health, question: Question, now: Moment) -> (u16, String) {
        let answer = health.answer(question, now);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        (answer.status, answer.body)
    }

    #[test]
    fn who_has_just_begun_is_healthy() {
        for compat in [Compat::V1_30, Compat::Latest] {
            assert!(health(compat).is_healthy(at(1_000_000)));
        }
    }

    #[test]
    fn late_is_who_lets_a_change_wait_for_two_sync_periods() {
        let mut health = health(Compat::V1_30);
        health.updated(Family::V4, at(0));
        health.queued(Family::V4, at(1000));
        // A second change does not make the first one younger.
        health.queued(Family::V4, at(50_000));
        assert!(health.is_healthy(at(60_999)));
        assert!(!health.is_healthy(at(61_000)));
        // Another family's success does not help.
        health.updated(Family::V6, at(61_001));
        assert!(!health.is_healthy(at(61_002)));
        health.updated(Family::V4, at(61_003));
        assert!(health.is_healthy(at(1_000_000)));
    }

    #[test]
    fn a_first_write_that_never_succeeds_is_not_healthy() {
        let mut health = health(Compat::Latest);
        health.queued(Family::V6, at(0));
        insta::assert_snapshot!(body(&health, Question::Livez, at(60_000)).1, @r#"{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"2026-05-01T12:01:00Z","healthy":false,"status":{"IPv6":{"lastUpdated":"0001-01-01T00:00:00Z","healthy":false}}}"#);
    }

    #[test]
    fn the_words_of_1_30() {
        let mut health = health(Compat::V1_30);
        health.updated(Family::V4, at(250));
        let (status, text) = body(&health, Question::Healthz, at(1500));
        assert_eq!(status, 200);
        insta::assert_snapshot!(text, @r#"{"lastUpdated": "2026-05-01 12:00:01.5 +0000 UTC m=+1.500000000","currentTime": "2026-05-01 12:00:01.5 +0000 UTC m=+1.500000000", "nodeEligible": true}"#);
        health.queued(Family::V4, at(2000));
        let (status, text) = body(&health, Question::Livez, at(62_000));
        assert_eq!(status, 503);
        insta::assert_snapshot!(text, @r#"{"lastUpdated": "2026-05-01 12:00:00.25 +0000 UTC m=+0.250000000","currentTime": "2026-05-01 12:01:02 +0000 UTC m=+62.000000000"}"#);
        health.queued(Family::V6, at(2000));
        health.updated(Family::V4, at(62_000));
        let (_, text) = body(&health, Question::Livez, at(62_500));
        assert!(
            text.starts_with(r#"{"lastUpdated": "0001-01-01 00:00:00 +0000 UTC","#),
            "{text}"
        );
    }

    #[test]
    fn the_words_of_newer_versions() {
        let mut health = health(Compat::Latest);
        let (_, text) = body(&health, Question::Healthz, at(0));
        insta::assert_snapshot!(text, @r#"{"lastUpdated":"2026-05-01T12:00:00Z","currentTime":"2026-05-01T12:00:00Z","nodeEligible":true,"healthy":true}"#);
        health.updated(Family::V4, at(250));
        health.updated(Family::V6, at(123));
        health.node(false);
        let (status, text) = body(&health, Question::Healthz, at(1500));
        assert_eq!(status, 503);
        insta::assert_snapshot!(text, @r#"{"lastUpdated":"2026-05-01T12:00:00.25Z","currentTime":"2026-05-01T12:00:01.5Z","nodeEligible":false,"healthy":true,"status":{"IPv4":{"lastUpdated":"2026-05-01T12:00:00.25Z","healthy":true},"IPv6":{"lastUpdated":"2026-05-01T12:00:00.123Z","healthy":true}}}"#);
        // The node's fate is not the proxy's.
        assert_eq!(body(&health, Question::Livez, at(1500)).0, 200);
    }

    #[test]
    fn a_node_that_is_going_is_not_eligible() {
        let node = |value: serde_json::Value| serde_json::from_value::<Node>(value).unwrap();
        let tainted = |key: &str| {
            node(serde_json::json!({"metadata": {"name": "a"},
                "spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}}))
        };
        assert!(eligible(None));
        assert!(eligible(Some(&tainted("node.kubernetes.io/unschedulable"))));
        assert!(!eligible(Some(&tainted(TO_BE_DELETED))));
        let deleted = serde_json::json!({"metadata": {"deletionTimestamp": "2026-05-01T12:00:00Z"}});
        assert!(!eligible(Some(&node(deleted))));
    }
}
