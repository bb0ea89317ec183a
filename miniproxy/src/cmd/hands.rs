//! What keys of `watch` do to the lab and start beside it: other programs, never parts of this one.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use labkit::screen::Flow;
use labkit::screen::page::ARROWS;

use crate::cli::LiveArgs;
use crate::live::report::Report;

/// How many calls one press of a key makes: enough to see shares, few enough to count.
const CALLS: &str = "300";

/// The programs that were started, and which backend is meant.
pub(super) struct Hands {
    lab: Option<String>,
    /// A node that is a namespace: the host has no way to the Services of such a lab.
    from: Option<String>,
    registry: Vec<PathBuf>,
    pub(super) chosen: usize,
    running: Vec<(String, Child)>,
    said: Option<String>,
}

impl Hands {
    pub(super) fn new(args: &LiveArgs, from: Option<String>) -> Self {
        Self {
            lab: args.registry.lab.clone(),
            from,
            registry: args.registry.paths.clone(),
            chosen: 0,
            running: Vec::new(),
            said: None,
        }
    }

    /// What the keys do, for the last line of the screen.
    pub(super) fn keys(one_service: bool, opened: bool) -> Vec<(String, String)> {
        let mine = [("l", "load"), (ARROWS, "row"), ("k", "cut"), ("b", "mend")];
        // The last ones go first where there is no room.
        let all = [("q", "quit"), ("z", "zero"), ("space", "freeze")];
        let others = [("e", "explain"), ("t", "trace")];
        let rows = [(ARROWS, "row"), ("enter", "open")];
        let back = [("esc", "back")];
        let back = back.iter().filter(|_| opened);
        let mine = mine.iter().filter(|_| one_service);
        let others = others.iter().filter(|_| one_service);
        let rows = rows.iter().filter(|_| !one_service);
        back.chain(mine)
            .chain(rows)
            .chain(&all)
            .chain(others)
            .map(|(key, word)| ((*key).to_string(), (*word).to_string()))
            .collect()
    }

    /// What was done last, for the title.
    pub(super) fn said(&self) -> Option<String> {
        self.said.as_ref().map(|said| format!("{said} "))
    }

    /// What a letter does to the Service that is watched.
    pub(super) fn key(&mut self, letter: char, report: &Report) -> Flow {
        self.said = None;
        match letter {
            '1'..='9' => {
                self.chosen = usize::from(letter as u8 - b'1');
                self.said = Some(format!(
                    "chosen: {}",
                    self.backend(report).unwrap_or_else(|| "nobody".into())
                ));
            }
            'l' => match report.address.clone() {
                Some(address) => {
                    let mut words = vec!["load", &*address, "-n", CALLS];
                    let from = self.from.clone();
                    words.extend(from.iter().flat_map(|from| ["--from", from]));
                    self.start("load", &words);
                }
                None => self.said = Some("it has no address to call".into()),
            },
            // A killed process would be started again at once, and a restarted pod has another address.
            'k' | 'b' => match self.backend(report) {
                Some(pod) => {
                    let (word, option) = if letter == 'k' {
                        ("cut the cable of", "--down")
                    } else {
                        ("mend the cable of", "--up")
                    };
                    self.start(&format!("{word} {pod}"), &["link", &pod, option]);
                }
                None => self.said = Some("there is no such backend".into()),
            },
            'e' => return self.beside("explain", report),
            't' => return self.beside("trace", report),
            _ => return Flow::Pass,
        }
        Flow::Draw
    }

    /// A program that took the screen has ended.
    pub(super) fn back(&mut self, failed: Option<io::Error>) {
        self.said = failed.map(|error| error.to_string());
    }

    /// Takes leave of programs that have ended, and tells of those that failed.
    pub(super) fn look_after(&mut self) {
        let mut said = None;
        self.running.retain_mut(|(what, child)| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) if status.success() => {
                said = Some(format!("{what}: done"));
                false
            }
            Ok(Some(status)) => {
                said = Some(format!("{what} failed ({status})"));
                false
            }
            Err(_) => false,
        });
        self.said = said.or(self.said.take());
    }

    fn backend(&self, report: &Report) -> Option<String> {
        let backend = report.backends.get(self.chosen)?;
        Some(backend.name.clone())
    }

    fn start(&mut self, what: &str, words: &[&str]) {
        let mut command = Command::new(sibling("netns-lab"));
        command.args(words);
        if let Some(lab) = &self.lab {
            command.args(["--lab", lab]);
        }
        let started = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.said = Some(match started {
            Ok(child) => {
                self.running.push((what.to_string(), child));
                format!("{what} \u{2026}")
            }
            Err(error) => format!("netns-lab cannot be run: {error}"),
        });
    }

    fn beside(&mut self, name: &str, report: &Report) -> Flow {
        let mut command = Command::new(sibling("miniproxy"));
        command
            .arg(name)
            .arg(report.address.as_ref().unwrap_or(&report.service));
        for path in &self.registry {
            command.arg("--registry").arg(path);
        }
        Flow::Run(Box::new(command))
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            // A load has an end of its own; it is waited for, so that nothing of it is left.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The program beside this one, else the one that the PATH has.
fn sibling(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name(name));
    beside.filter(|path| path.exists()).unwrap_or_else(|| name.into())
}
