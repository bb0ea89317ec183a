//! Changes of a Service's rules: what, when, and by whom.

use std::collections::BTreeSet;

use serde::Serialize;

use super::services::{Die, Service};

/// Who changed rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Who {
    /// The process.
    pub pid: u32,
    /// Its name; the kernel keeps 15 letters of it.
    pub name: String,
    /// Who had started it, if that could still be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

impl Who {
    /// `miniproxy[13301]`, by the name of whoever asked for it.
    pub fn text(&self) -> String {
        match &self.parent {
            Some(parent) => format!("{parent} ({}[{}])", self.name, self.pid),
            None => format!("{}[{}]", self.name, self.pid),
        }
    }
}

/// One rule of the choosing chain, as a change tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// Its number.
    pub number: usize,
    /// Where it leads.
    pub backend: String,
    /// `1/3`
    pub rolls: String,
    /// The rule itself.
    pub rule: String,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// When it was seen: `19:24:31`.
    pub time: String,
    /// The node, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The kernel's number of the rule set (nf_tables).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// Who did it; empty where the kernel does not say.
    pub by: Vec<Who>,
    /// Of which Service.
    pub service: String,
    /// In words: `10.244.0.3:8080 is a backend no more`.
    pub what: Vec<String>,
    /// Rules that went.
    pub removed: Vec<Line>,
    /// Rules that came.
    pub added: Vec<Line>,
}

/// What is different, in words and in rules; `None` when nothing is.
pub fn difference(
    old: Option<&Service>,
    new: Option<&Service>,
) -> Option<(Vec<String>, Vec<Line>, Vec<Line>)> {
    let nothing = Service::default();
    let (before, after) = (old.unwrap_or(&nothing), new.unwrap_or(&nothing));
    let doors = |service: &Service| service.doors.keys().copied().collect::<BTreeSet<_>>();
    if before.dice == after.dice && doors(before) == doors(after) {
        return None;
    }
    let mut what = Vec::new();
    match (old, new) {
        (None, _) => what.push("the Service came".to_string()),
        (_, None) => what.push("the Service went".to_string()),
        _ => {}
    }
    let (had, has) = (before.backends(), after.backends());
    what.extend(has.difference(&had).map(|backend| format!("{backend} came")));
    what.extend(had.difference(&has).map(|backend| format!("{backend} went")));
    if doors(before) != doors(after) && old.is_some() && new.is_some() {
        what.push("its addresses changed".into());
    }
    if what.is_empty() {
        what.push("the dice changed".into());
    }
    Some((what, only_in(before, after), only_in(after, before)))
}

fn only_in(one: &Service, other: &Service) -> Vec<Line> {
    let missing = one.dice.iter().filter(|die| !other.dice.contains(die));
    missing.map(Line::of).collect()
}

impl Line {
    fn of(die: &Die) -> Self {
        Self {
            number: die.number,
            backend: die.backend.to_string(),
            rolls: die.rolls.clone(),
            rule: die.text.clone(),
        }
    }
}
