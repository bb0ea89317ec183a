//! The life of pods: when a container is started again, who makes room for whom, and what the
//! objects of pods say meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::container::ContainerSpec;
use super::ledger::PodRecord;
use super::name::Label;
use super::topology::{LabelKey, LabelValue, PodSpec};

/// The label that tells which version of an app a pod is.
pub const VERSION_LABEL: &str = "version";

/// The pause before the second start of a container, which doubles with each one after.
pub const BACK_OFF: Duration = Duration::from_secs(10);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(300);
/// Whoever has run so long starts anew.
const FORGIVEN: Duration = Duration::from_secs(600);

/// The pause before a container is started again that has ended so often of late: none the first
/// time, then `first`, and twice as long each time up to five minutes.
pub fn pause(streak: u32, first: Duration) -> Duration {
    match streak.checked_sub(1) {
        None => Duration::ZERO,
        Some(doubled) => first
            .saturating_mul(2_u32.saturating_pow(doubled.min(16)))
            .min(LONGEST.max(first)),
    }
}

/// How often a container has ended of late, when it has run for so long now.
pub fn streak(before: u32, ran: Duration) -> u32 {
    if ran >= FORGIVEN { 0 } else { before }
}

/// How far a rollout may go from the wanted number of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// So many more may be there meanwhile.
    pub surge: usize,
    /// So many may be missing meanwhile.
    pub missing: usize,
}

impl Pace {
    /// All new pods first, then all old ones go.
    pub const AT_ONCE: Self = Self {
        surge: usize::MAX,
        missing: 0,
    };

    /// Where nothing is said: a quarter more, and never fewer than before.
    pub fn careful(pods: usize) -> Self {
        Self {
            surge: pods.div_ceil(4).max(1),
            missing: 0,
        }
    }

    /// What keeps to both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            surge: self.surge.min(other.surge),
            missing: self.missing.min(other.missing),
        }
    }
}

/// A part of a rollout: these come, and when they are ready those go.
pub type Batch = (Vec<PodSpec>, Vec<Label>);

/// Who comes and who goes, batch after batch, as the pace allows.
pub fn batches(old: &[Label], new: &[PodSpec], pace: Pace) -> Vec<Batch> {
    // With neither it would never go on; one more is the way that takes nothing away.
    let surge = if pace.missing == 0 {
        pace.surge.max(1)
    } else {
        pace.surge
    };
    let most = old.len().max(new.len()).saturating_add(surge);
    let least = old.len().min(new.len()).saturating_sub(pace.missing);
    let (mut coming, mut going, mut there) = (new, old, old.len());
    let mut found = Vec::new();
    while !(coming.is_empty() && going.is_empty()) {
        let (come, later) = coming.split_at(coming.len().min(most.saturating_sub(there)));
        there = there.saturating_add(come.len());
        let (go, stay) = going.split_at(going.len().min(there.saturating_sub(least)));
        there = there.saturating_sub(go.len());
        (coming, going) = (later, stay);
        found.push((come.to_vec(), go.to_vec()));
    }
    found
}

/// More pods of an app: as `like` is, with names that nobody has.
pub fn more(app: &str, like: &PodSpec, number: usize, taken: &[PodSpec]) -> Result<Vec<PodSpec>, String> {
    let own = |pod: &PodSpec| {
        pod.name
            .as_str()
            .strip_prefix(app)?
            .strip_prefix('-')?
            .parse()
            .ok()
    };
    let last: usize = taken.iter().filter_map(own).max().unwrap_or(0);
    (1..=number)
        .map(|step| {
            let name = format!("{app}-{}", last.saturating_add(step));
            Ok(PodSpec {
                name: Label::new(&name).map_err(|_| name)?,
                ..like.clone()
            })
        })
        .collect()
}

/// The version that a pod says it is.
pub fn version(pod: &PodSpec) -> Option<&str> {
    let found = pod.labels.iter().find(|(key, _)| key.as_str() == VERSION_LABEL);
    found
        .map(|(_, value)| value.as_str())
        .filter(|value| !value.is_empty())
}

/// The same pod as another version.
pub fn with_version(pod: &PodSpec, version: &LabelValue) -> Result<PodSpec, String> {
    let mut pod = pod.clone();
    pod.labels
        .insert(LabelKey::try_from(VERSION_LABEL.to_string())?, version.clone());
    Ok(pod)
}

/// What is so of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContainerHealth {
    /// It has ended and was not started again yet.
    pub ended: bool,
    /// Its next start has to wait.
    pub backing_off: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// The exit code it has ended with last.
    pub exit_code: u8,
}

/// The exit code of a first process that could not say one: nothing but SIGKILL ends it so.
pub const KILLED: u8 = 137;

/// What is so of a pod, beyond what was asked for. By default all is well.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Health {
    /// Somebody said that it is not ready, or its holder has ended.
    pub unready: bool,
    /// Since when it is being ended.
    pub terminating: Option<Time>,
    /// Containers that were added to those of the topology.
    pub added: Vec<ContainerSpec>,
    /// Its containers; all is well with those that are not named.
    pub containers: BTreeMap<Label, ContainerHealth>,
}

impl Health {
    /// As the ledger has it, if all containers run that should.
    pub fn of(record: &PodRecord) -> Self {
        let containers = record.containers.iter().map(|container| {
            let health = ContainerHealth {
                restarts: container.restarts,
                exit_code: container.exit_code.unwrap_or(KILLED),
                ..Default::default()
            };
            (container.name.clone(), health)
        });
        Self {
            unready: record.unready,
            terminating: None,
            added: record.added(),
            containers: containers.collect(),
        }
    }

    /// Whether the pod is ready.
    pub fn is_ready(&self) -> bool {
        !self.unready && !self.containers.values().any(|container| container.ended)
    }

    /// What is so of one container.
    pub fn container(&self, name: &str) -> ContainerHealth {
        let mut all = self.containers.iter();
        let found = all.find(|(other, _)| other.as_str() == name);
        found.map(|(_, health)| *health).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::topology::Topology;

    #[test]
    fn the_first_start_is_at_once_and_then_pauses_double() {
        let seconds = |streak| pause(streak, BACK_OFF).as_secs();
        let all: Vec<_> = (0..9).map(seconds).collect();
        assert_eq!(all, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(seconds(u32::MAX), 300);
        assert_eq!(pause(3, Duration::from_millis(100)), Duration::from_millis(400));
        assert_eq!(pause(1, Duration::MAX), Duration::MAX);
        assert_eq!((streak(4, Duration::from_secs(599)), streak(4, FORGIVEN)), (4, 0));
    }

    #[test]
    fn a_rollout_keeps_within_its_pace_and_ends() {
        let pods = Topology::web_pods(1).pods;
        for (old, new) in (0..10_usize).flat_map(|old| (0..12_usize).map(move |new| (old, new))) {
            let names: Vec<_> = more("old", &pods[0], old, &[]).unwrap();
            let names: Vec<_> = names.into_iter().map(|pod| pod.name).collect();
            let coming = more("web", &pods[0], new, &pods).unwrap();
            for (surge, missing) in [(0, 0), (1, 0), (3, 0), (0, 1), (0, 9), (1, 1), (2, 3)] {
                let mut now = old;
                let all = batches(&names, &coming, Pace { surge, missing });
                for (come, go) in &all {
                    assert!(!(come.is_empty() && go.is_empty()));
                    now += come.len();
                    assert!(now <= old.max(new) + surge.max(usize::from(missing == 0)));
                    now -= go.len();
                    assert!(now + missing >= old.min(new), "{old} -> {new}");
                }
                assert_eq!(all.iter().map(|(come, _)| come.len()).sum::<usize>(), new);
                assert_eq!(all.iter().map(|(_, go)| go.len()).sum::<usize>(), old);
            }
        }
        assert_eq!(
            [0, 1, 4, 5, 9].map(|pods| Pace::careful(pods).surge),
            [1, 1, 1, 2, 3]
        );
    }

    #[test]
    fn one_may_be_missing_and_none_more_is_one_for_one() {
        let pods = Topology::web_pods(3).pods;
        let names: Vec<_> = pods.iter().map(|pod| pod.name.clone()).collect();
        let coming = more("web", &pods[0], 3, &pods).unwrap();
        let pace = Pace { surge: 0, missing: 1 };
        let counts = batches(&names, &coming, pace);
        let counts: Vec<_> = counts.iter().map(|(come, go)| (come.len(), go.len())).collect();
        assert_eq!(counts, [(0, 1), (1, 1), (1, 1), (1, 0)]);
    }

    #[test]
    fn more_pods_have_names_of_their_own() {
        let pods = Topology::web_pods(3).pods;
        let two = more("web", &pods[0], 2, &pods).unwrap();
        let names: Vec<_> = two.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(names, ["web-4", "web-5"]);
        assert!(more(&"x".repeat(63), &pods[0], 1, &[]).is_err());
        let second = with_version(&pods[0], &LabelValue::try_from("2".to_string()).unwrap()).unwrap();
        assert_eq!((version(&second), version(&pods[0])), (Some("2"), None));
    }

    #[test]
    fn one_that_has_ended_makes_the_pod_unready() {
        let mut health = Health::default();
        assert!(health.is_ready());
        let ended = ContainerHealth {
            ended: true,
            ..Default::default()
        };
        health.containers.insert(Label::app(), ended);
        assert!(!health.is_ready() && health.container("app").ended && !health.container("side").ended);
    }
}
