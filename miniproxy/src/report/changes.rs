//! What a sync changed, one line for each service port.

use labkit::text::{count, printable};
use serde::Serialize;

use crate::rules::view::{ServiceView, Views};

/// What happened to one service port.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "camelCase")]
pub enum Change {
    /// It was not there before.
    New {
        /// As it is now.
        service: ServiceView,
    },
    /// Its address or endpoints changed.
    Changed {
        /// As it was.
        before: Box<ServiceView>,
        /// As it is now.
        service: ServiceView,
    },
    /// It is not there any more.
    Removed {
        /// As it was.
        service: ServiceView,
    },
}

/// Compares two states, in the order of names.
pub fn changes(before: &Views, after: Views) -> Vec<Change> {
    let gone = before.iter().filter(|(key, _)| !after.contains_key(*key));
    let gone: Vec<ServiceView> = gone.map(|(_, service)| service.clone()).collect();
    let mut all = Vec::with_capacity(after.len());
    for (key, service) in after {
        match before.get(&key) {
            None => all.push(Change::New { service }),
            Some(old) if *old != service => all.push(Change::Changed {
                before: Box::new(old.clone()),
                service,
            }),
            Some(_) => {}
        }
    }
    all.extend(gone.into_iter().map(|service| Change::Removed { service }));
    all
}

impl Change {
    /// The service port's name, and its protocol.
    pub fn of(&self) -> (&str, &'static str) {
        let (Self::New { service } | Self::Changed { service, .. } | Self::Removed { service }) = self;
        (&service.name, service.protocol)
    }

    /// One line, safe for a terminal.
    pub fn line(&self) -> String {
        let text = match self {
            Self::New { service } => format!("{} -> {} (new)", service.title(), leads_to(service)),
            Self::Changed { before, service } => {
                format!(
                    "{} -> {} ({})",
                    service.title(),
                    leads_to(service),
                    difference(before, service)
                )
            }
            Self::Removed { service } => format!("{} removed", service.title()),
        };
        printable(&text).into_owned()
    }
}

fn leads_to(service: &ServiceView) -> String {
    match service.refused {
        // Packets are dropped where endpoints are elsewhere, and rejected where there are none at all.
        Some(verdict @ "DROP") => format!("no endpoints on this node: {verdict}"),
        Some(verdict) => format!("no endpoints: {verdict}"),
        None => count(service.endpoints.len(), "endpoint"),
    }
}

/// More comings and goings than this are counted, not listed: the line must stay a line.
const LISTED: usize = 3;

fn difference(before: &ServiceView, after: &ServiceView) -> String {
    let only = |left: &ServiceView, right: &ServiceView| -> Vec<String> {
        left.endpoints
            .iter()
            .filter(|endpoint| !right.endpoints.contains(endpoint))
            .cloned()
            .collect()
    };
    let list = |sign: char, endpoints: Vec<String>| -> Option<String> {
        match endpoints.len() {
            0 => None,
            1..=LISTED => Some(
                endpoints
                    .iter()
                    .map(|endpoint| format!("{sign}{endpoint}"))
                    .collect::<Vec<_>>()
                    .join(" "),
            ),
            many => Some(format!("{sign}{many}")),
        }
    };
    let moved = (before.address != after.address).then(|| format!("was at {}", before.address));
    let parts = [
        moved,
        list('-', only(before, after)),
        list('+', only(after, before)),
    ];
    let parts = parts.into_iter().flatten().chain(settings(before, after));
    let text = parts.collect::<Vec<_>>().join(", ");
    if text.is_empty() {
        "rules rewritten".into()
    } else {
        text
    }
}

/// What changed besides address and endpoints, each in words.
fn settings(before: &ServiceView, after: &ServiceView) -> Vec<String> {
    let number = |value: Option<u16>| value.map_or("none".to_string(), |value| value.to_string());
    let seconds = |value: Option<u32>| value.map_or("none".to_string(), |value| format!("{value} s"));
    let list = |values: &[String]| match values {
        [] => "none".to_string(),
        values if values.len() <= LISTED => values.join(" "),
        values => values.len().to_string(),
    };
    let policy = |local: bool| if local { "Local" } else { "Cluster" };
    let parts = [
        ("node port", number(before.node_port), number(after.node_port)),
        ("external", list(&before.external), list(&after.external)),
        (
            "external policy",
            policy(before.external_local).to_string(),
            policy(after.external_local).to_string(),
        ),
        ("sources", list(&before.source_ranges), list(&after.source_ranges)),
        (
            "affinity",
            seconds(before.affinity_seconds),
            seconds(after.affinity_seconds),
        ),
    ];
    let changed = parts.into_iter().filter(|(_, before, after)| before != after);
    changed
        .map(|(what, before, after)| format!("{what} {before} -> {after}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::view::Key;

    fn view(name: &str, endpoints: &[&str]) -> (Key, ServiceView) {
        let service = ServiceView {
            name: name.into(),
            protocol: "TCP",
            address: "10.96.0.80:80".into(),
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
            refused: endpoints.is_empty().then_some("REJECT"),
            ..ServiceView::default()
        };
        ((name.into(), "TCP"), service)
    }

    #[test]
    fn what_changes_besides_endpoints_is_told() {
        let (key, before) = view("a/web", &["1:1"]);
        let after = ServiceView {
            node_port: Some(30080),
            external: vec!["203.0.113.1:80".into()],
            external_local: true,
            affinity_seconds: Some(10800),
            ..before.clone()
        };
        let lines: Vec<String> = changes(&Views::from([(key.clone(), before)]), Views::from([(key, after)]))
            .iter()
            .map(Change::line)
            .collect();
        assert_eq!(
            lines,
            [
                "a/web 10.96.0.80:80/TCP -> 1 endpoint (node port none -> 30080, external none -> \
                 203.0.113.1:80, external policy Cluster -> Local, affinity none -> 10800 s)"
            ]
        );
    }

    #[test]
    fn each_kind_of_change_is_one_line() {
        let before = Views::from([
            view("a/kept", &["1:1"]),
            view("a/less", &["1:1", "2:2", "3:3"]),
            view("a/gone", &["1:1"]),
        ]);
        let after = Views::from([
            view("a/kept", &["1:1"]),
            view("a/less", &["1:1", "3:3"]),
            view("a/none", &[]),
        ]);
        let lines: Vec<String> = changes(&before, after).iter().map(Change::line).collect();
        assert_eq!(
            lines,
            [
                "a/less 10.96.0.80:80/TCP -> 2 endpoints (-2:2)",
                "a/none 10.96.0.80:80/TCP -> no endpoints: REJECT (new)",
                "a/gone 10.96.0.80:80/TCP removed",
            ]
        );
    }
}
