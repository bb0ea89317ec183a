//! What processes in different places see of one machine, side by side.

use std::collections::{BTreeMap, BTreeSet};

use labkit::table::Table;
use labkit::text::printable;
use serde::{Deserialize, Serialize};

/// The kinds of namespaces, in the order in which they are told.
pub const KINDS: [&str; 7] = ["net", "uts", "ipc", "pid", "mnt", "user", "cgroup"];

/// The widest a cell may be, so that two containers beside the host fit a terminal.
const CELL: usize = 20;

/// What a process sees when it asks the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sight {
    /// The host's name.
    pub hostname: String,
    /// How many processes there are, without the one that asks.
    pub processes: usize,
    /// The command line of number 1.
    pub first_process: String,
    /// The links.
    pub interfaces: Vec<String>,
    /// How many file systems are mounted.
    pub mounts: usize,
    /// The number of its user.
    pub user: u32,
    /// What it may do beyond a plain user.
    pub capabilities: Vec<String>,
    /// How many capabilities the kernel knows.
    pub all_capabilities: usize,
    /// The namespaces it is in.
    pub namespaces: BTreeMap<String, u64>,
}

/// A place and what is seen there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Its name: `host`, or that of a container.
    pub name: String,
    /// What is seen.
    #[serde(flatten)]
    pub sight: Sight,
}

/// The same question asked in several places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// The pod.
    pub pod: String,
    /// The host and the containers.
    pub places: Vec<Place>,
    /// Namespaces that the containers of the pod have in common, but not with the host.
    pub shared: Vec<String>,
    /// Namespaces that each container has for itself.
    pub own: Vec<String>,
    /// Namespaces that all have in common with the host.
    pub host: Vec<String>,
}

impl Comparison {
    /// Compares; the first place is the host.
    pub fn new(pod: String, places: Vec<Place>) -> Self {
        let id = |place: &Place, kind: &str| place.sight.namespaces.get(kind).copied();
        let (host, containers) = places.split_at(places.len().min(1));
        let (mut shared, mut own, mut with_host) = (Vec::new(), Vec::new(), Vec::new());
        for kind in KINDS {
            let outside = host.first().and_then(|host| id(host, kind));
            let inside: BTreeSet<_> = containers.iter().filter_map(|place| id(place, kind)).collect();
            let list = match (
                inside.len(),
                outside.is_some_and(|outside| inside.contains(&outside)),
            ) {
                (0, _) => continue,
                (1, true) => &mut with_host,
                // One container alone has what it would share.
                (1, false) if matches!(kind, "net" | "uts" | "ipc") => &mut shared,
                _ => &mut own,
            };
            list.push(kind.to_string());
        }
        Self {
            pod,
            places,
            shared,
            own,
            host: with_host,
        }
    }

    /// A screen for people.
    pub fn table(&self) -> String {
        let names: Vec<_> = self
            .places
            .iter()
            .map(|place| place.name.to_uppercase())
            .collect();
        let mut header = vec!["ASKED".to_string()];
        header.extend(names);
        let header: Vec<_> = header.iter().map(String::as_str).collect();
        let mut table = Table::new(&header);
        let mut row = |what: &str, cell: &dyn Fn(&Sight) -> String| {
            let cells = self.places.iter().map(|place| short(&cell(&place.sight)));
            table.row(std::iter::once(what.to_string()).chain(cells));
        };
        row("hostname", &|sight| sight.hostname.clone());
        row("processes", &|sight| sight.processes.to_string());
        row("number 1 is", &|sight| sight.first_process.clone());
        row("interfaces", &|sight| list(&sight.interfaces));
        row("mounts", &|sight| sight.mounts.to_string());
        row("user", &|sight| user(sight.user));
        row("capabilities", &capabilities);
        for kind in KINDS {
            row(&format!("ns {kind}"), &|sight| {
                sight.namespaces.get(kind).map_or("-".into(), ToString::to_string)
            });
        }
        format!(
            "the pod {}, and the host it is on: the same question, asked in each\n\n{}\n{}",
            printable(&self.pod),
            table.render(),
            self.words()
        )
    }

    fn words(&self) -> String {
        let together = if self.places.len() > 2 {
            "the containers share with each other"
        } else {
            "a second container would share"
        };
        let sentences = [
            (together, &self.shared),
            ("each container has its own", &self.own),
            ("all are in the host's", &self.host),
        ];
        let sentences = sentences.iter().filter(|(_, kinds)| !kinds.is_empty());
        let lines: Vec<_> = sentences
            .map(|(who, kinds)| format!("{who}: {}\n", kinds.join(", ")))
            .collect();
        let alone = self.places.first().is_some_and(|host| {
            let mut containers = self.places.iter().skip(1);
            containers.any(|place| place.sight.user == host.sight.user && place.sight.capabilities.is_empty())
        });
        let note = "the user is the host's: no other exists here, but it has no capability\n";
        lines.concat() + if alone { note } else { "" }
    }
}

fn short(text: &str) -> String {
    let text = printable(text);
    if text.chars().count() <= CELL {
        return text.into_owned();
    }
    let start: String = text.chars().take(CELL - 1).collect();
    format!("{start}…")
}

/// As many as fit, and how many more there are.
fn list(words: &[String]) -> String {
    let mut text = words.join(" ");
    let mut shown = words.len();
    while text.chars().count() > CELL && shown > 0 {
        shown -= 1;
        text = format!("{} +{}", words[..shown].join(" "), words.len() - shown);
    }
    text
}

fn user(number: u32) -> String {
    match number {
        0 => "0 (root)".into(),
        65534 => "65534 (nobody)".into(),
        other => other.to_string(),
    }
}

fn capabilities(sight: &Sight) -> String {
    match sight.capabilities.len() {
        0 => "none".into(),
        all if all == sight.all_capabilities => format!("all {all}"),
        many @ 6.. => format!("{many} of {}", sight.all_capabilities),
        _ => list(&sight.capabilities),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, ids: [u64; 7]) -> Place {
        let host = name == "host";
        Place {
            name: name.into(),
            sight: Sight {
                hostname: if host { "laptop" } else { "web-1" }.into(),
                processes: if host { 212 } else { 1 },
                first_process: if host {
                    "/sbin/init splash"
                } else {
                    "netns-lab serve"
                }
                .into(),
                interfaces: if host {
                    vec!["lo".into(), "wlan0".into(), "cni0".into(), "veth-web-1".into()]
                } else {
                    vec!["lo".into(), "eth0".into()]
                },
                mounts: if host { 41 } else { 33 },
                user: if host { 0 } else { 65534 },
                capabilities: match name {
                    "host" => (0..41).map(|number| format!("C{number}")).collect(),
                    "side" => vec!["NET_RAW".into()],
                    _ => Vec::new(),
                },
                all_capabilities: 41,
                namespaces: KINDS.iter().map(ToString::to_string).zip(ids).collect(),
            },
        }
    }

    fn comparison() -> Comparison {
        let base = 4_026_531_000;
        Comparison::new(
            "web-1".into(),
            vec![
                place("host", [1, 2, 3, 4, 5, 6, 7].map(|number| base + number)),
                place("app", [11, 12, 13, 14, 15, 6, 7].map(|number| base + number)),
                place("side", [11, 12, 13, 24, 25, 6, 7].map(|number| base + number)),
            ],
        )
    }

    #[test]
    fn one_screen_for_a_pod_of_two_containers() {
        let screen = comparison().table();
        assert!(screen.lines().count() <= 23, "a prompt must fit below it");
        assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
        insta::assert_snapshot!(screen);
    }

    #[test]
    fn as_json() {
        insta::assert_json_snapshot!(comparison());
    }

    #[test]
    fn what_a_container_is_called_cannot_move_the_cursor() {
        let mut places = comparison();
        places.places[1].sight.first_process = "\u{1b}[2Jrm".into();
        assert!(!places.table().contains('\u{1b}'));
    }
}
