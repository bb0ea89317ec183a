//! The scheduler: which pod is on which node.
//!
//! Pods that name their node come first, then those that have one and can stay, then the others,
//! each on the node that is least loaded. A node's load is the largest share of what it has that
//! its pods ask for: of its room for pods, its CPU time or its memory.

use std::collections::BTreeMap;

use super::name::Label;
use super::node::Node;
use super::quantity::{Cpu, Memory};
use super::topology::PodSpec;

/// What one or many pods ask for together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Use {
    /// How many they are.
    pub pods: usize,
    /// CPU time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
}

impl Use {
    /// What one pod asks for.
    pub fn of(pod: &PodSpec) -> Self {
        Self {
            pods: 1,
            cpu: pod.cpu.unwrap_or_default(),
            memory: pod.memory.unwrap_or_default(),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            pods: self.pods.saturating_add(other.pods),
            cpu: Cpu(self.cpu.0.saturating_add(other.cpu.0)),
            memory: Memory(self.memory.0.saturating_add(other.memory.0)),
        }
    }
}

/// Why a pod has no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unschedulable {
    /// It names a node that is not there.
    #[error("pod {pod}: there is no node {node}; expected one of {nodes}")]
    NoSuchNode {
        /// The pod.
        pod: Label,
        /// What it names.
        node: Label,
        /// Those that are there.
        nodes: String,
    },
    /// No node has room, or not the one it names.
    #[error("no room for pod {pod}: {why}")]
    NoRoom {
        /// The pod.
        pod: Label,
        /// Each node and what it lacks.
        why: String,
    },
}

/// What is free on a node.
struct Seat<'a> {
    node: &'a Node,
    used: Use,
}

impl Seat<'_> {
    /// What stands in the way of a pod, in words that follow the node's name.
    fn lack(&self, pod: Use) -> Option<String> {
        let (spec, sum) = (&self.node.spec, self.used.plus(pod));
        let room = self.node.max_pods();
        if sum.pods > room {
            return Some(format!("takes {room} pods, and has them"));
        }
        if let Some(cpu) = spec.cpu.filter(|cpu| sum.cpu > *cpu) {
            let free = Cpu(cpu.0.saturating_sub(self.used.cpu.0));
            return Some(format!(
                "has {free} of {cpu} CPU left, and {} is asked for",
                pod.cpu
            ));
        }
        if let Some(memory) = spec.memory.filter(|memory| sum.memory > *memory) {
            let free = Memory(memory.0.saturating_sub(self.used.memory.0));
            let asked = pod.memory;
            return Some(format!(
                "has {free} of {memory} memory left, and {asked} is asked for"
            ));
        }
        None
    }

    /// The load with a pod more, in millionths.
    fn load(&self, pod: Use) -> u128 {
        let (spec, sum) = (&self.node.spec, self.used.plus(pod));
        let share = |used: u64, of: u64| u128::from(used) * 1_000_000 / u128::from(of.max(1));
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        [
            Some(share(count(sum.pods), count(self.node.max_pods()))),
            spec.cpu.map(|cpu| share(sum.cpu.0, cpu.0)),
            spec.memory.map(|memory| share(sum.memory.0, memory.0)),
        ]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or(0)
    }
}

/// A node for each pod, in the order of the pods; `placed` says who has one already.
///
/// # Errors
/// The first pod, in the order in which places are given, that has no place.
pub fn schedule(
    nodes: &[Node],
    pods: &[PodSpec],
    placed: &BTreeMap<Label, Label>,
) -> Result<Vec<Label>, Unschedulable> {
    let mut seats: Vec<_> = nodes
        .iter()
        .map(|node| Seat {
            node,
            used: Use::default(),
        })
        .collect();
    let index: BTreeMap<&Label, usize> = nodes.iter().map(Node::name).zip(0..).collect();
    let mut places: Vec<Option<usize>> = vec![None; pods.len()];
    for (pod, place) in pods.iter().zip(&mut places) {
        if let Some(name) = &pod.node_name {
            *place = Some(take_named(&mut seats, &index, pod, name)?);
        }
    }
    for (pod, place) in pods.iter().zip(&mut places) {
        let before = placed.get(&pod.name).and_then(|name| index.get(name));
        if let (None, Some(seat)) = (*place, before)
            && seats[*seat].lack(Use::of(pod)).is_none()
        {
            seats[*seat].used = seats[*seat].used.plus(Use::of(pod));
            *place = Some(*seat);
        }
    }
    for (pod, place) in pods.iter().zip(&mut places) {
        if place.is_none() {
            *place = Some(take_least_loaded(&mut seats, pod)?);
        }
    }
    let name = |place: Option<usize>| nodes.get(place?).map(|node| node.name().clone());
    Ok(places.into_iter().filter_map(name).collect())
}

fn take_named(
    seats: &mut [Seat],
    index: &BTreeMap<&Label, usize>,
    pod: &PodSpec,
    name: &Label,
) -> Result<usize, Unschedulable> {
    let Some(place) = index.get(name).copied() else {
        return Err(Unschedulable::NoSuchNode {
            pod: pod.name.clone(),
            node: name.clone(),
            nodes: listed(seats.iter().map(|seat| seat.node.name().to_string()), ", "),
        });
    };
    if let Some(lack) = seats[place].lack(Use::of(pod)) {
        return Err(Unschedulable::NoRoom {
            pod: pod.name.clone(),
            why: format!("{name} {lack}"),
        });
    }
    seats[place].used = seats[place].used.plus(Use::of(pod));
    Ok(place)
}

fn take_least_loaded(seats: &mut [Seat], pod: &PodSpec) -> Result<usize, Unschedulable> {
    let asked = Use::of(pod);
    let fitting = (0..seats.len()).filter(|place| seats[*place].lack(asked).is_none());
    // Of equally loaded ones the one with fewer pods, then the first.
    let best = fitting.min_by_key(|place| (seats[*place].load(asked), seats[*place].used.pods));
    let Some(place) = best else {
        let why = seats.iter().filter_map(|seat| {
            let lack = seat.lack(asked)?;
            Some(format!("{} {lack}", seat.node.name()))
        });
        return Err(Unschedulable::NoRoom {
            pod: pod.name.clone(),
            why: listed(why, "; "),
        });
    };
    seats[place].used = seats[place].used.plus(asked);
    Ok(place)
}

/// The first few, and how many more there are.
fn listed(words: impl Iterator<Item = String>, between: &str) -> String {
    const SHOWN: usize = 3;
    let all: Vec<_> = words.collect();
    let mut shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(between);
    if let more @ 1.. = all.len().saturating_sub(SHOWN) {
        shown.push_str(&format!("{between}and {more} more"));
    }
    shown
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
