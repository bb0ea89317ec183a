//! Handles of nf_tables → numbers as `iptables -L --line-numbers` counts, and the rules' own texts.

use std::collections::HashMap;
use std::ffi::CString;

use labkit::nftables::NfTables;
use labkit::xtables::{Family, Flavour, Xtables};
use labkit::{Failure, tool};

use super::events::{At, Raw};
use crate::journey::{Deed, Event, Texts};

/// The tables that iptables makes.
const IPTABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];

/// Where each rule stands.
#[derive(Debug, Default)]
pub struct Places {
    numbers: HashMap<(String, String, u64), usize>,
    /// Whether packets pass at the end of a built-in chain.
    accepts: HashMap<(String, String), bool>,
    /// The rules of each chain, in order.
    pub texts: Texts,
    /// Tables that others made by nft, with their families.
    others: HashMap<String, &'static str>,
}

impl Places {
    /// Reads the rules as they are now. What was known of rules that are gone stays.
    ///
    /// # Errors
    /// When the kernel or iptables-save does not tell.
    pub fn read(&mut self, xtables: &Xtables, family: Family) -> Result<(), Failure> {
        if xtables.flavour == Flavour::Legacy {
            (self.texts, self.accepts) = texts(xtables, family)?;
            return Ok(());
        }
        let failed =
            |error: std::io::Error| Failure::failed(format!("cannot list the rules of nf_tables: {error}"));
        let mut kernel = NfTables::open().map_err(failed)?;
        let own = if family == Family::V6 { "ip6" } else { "ip" };
        let all = kernel.families().map_err(failed)?.into_iter();
        let walked = all.filter(|(of, name)| {
            let is_iptables = *of == own && IPTABLES.contains(&name.as_str());
            ["inet", "bridge", "netdev", own].contains(of) && !is_iptables
        });
        self.others.extend(walked.map(|(family, name)| (name, family)));
        // Read twice where somebody writes meanwhile, so that numbers and texts are of one time.
        for _ in 0..3 {
            let before = kernel.generation().map_err(failed)?;
            let mut last: HashMap<(String, String), usize> = HashMap::new();
            for rule in kernel.rules(family == Family::V6).map_err(failed)? {
                let number = last.entry((rule.table.clone(), rule.chain.clone())).or_default();
                *number += 1;
                self.numbers
                    .insert((rule.table, rule.chain, rule.handle), *number);
            }
            (self.texts, self.accepts) = texts(xtables, family)?;
            if kernel.generation().map_err(failed)? == before {
                break;
            }
        }
        Ok(())
    }

    /// The event with its rule's number and its interfaces' names; `None` for the end of a chain that has
    /// no policy.
    pub fn event(&self, raw: &Raw) -> Option<Event> {
        let chain = (raw.table.clone(), raw.chain.clone());
        let deed = match raw.at {
            At::Policy => Deed::Policy {
                accepts: !raw.stopped,
            },
            At::Handle(handle) => Deed::Rule {
                number: self.numbers.get(&(chain.0, chain.1, handle)).copied(),
                stopped: raw.stopped,
            },
            At::Number(number) => {
                let rules = self.texts.get(&chain).map(Vec::as_slice).unwrap_or_default();
                match rules.get(number.saturating_sub(1)) {
                    Some(text) => Deed::Rule {
                        number: Some(number),
                        stopped: text.contains("-j DROP") || text.contains("-j REJECT"),
                    },
                    None => Deed::Policy {
                        accepts: *self.accepts.get(&chain)?,
                    },
                }
            }
        };
        Some(Event {
            id: raw.id,
            table: self.table(raw),
            chain: raw.chain.clone(),
            deed,
            seen: raw.seen,
            arriving: raw.arriving.and_then(interface),
            leaving: raw.leaving.and_then(interface),
        })
    }
}

impl Places {
    /// The table's name, behind its family where iptables does not know the chain.
    fn table(&self, raw: &Raw) -> String {
        let chain = (raw.table.clone(), raw.chain.clone());
        let known = self.texts.contains_key(&chain) || self.accepts.contains_key(&chain);
        match self.others.get(&raw.table) {
            Some(family) if !known => format!("{family} {}", raw.table),
            _ => raw.table.clone(),
        }
    }
}

/// The rules, and the policies of built-in chains.
type Said = (Texts, HashMap<(String, String), bool>);

fn texts(xtables: &Xtables, family: Family) -> Result<Said, Failure> {
    let none: [&str; 0] = [];
    let saved = tool::run_ok(&xtables.save(family), &none, None)?;
    let (mut texts, mut accepts) = (Texts::new(), HashMap::new());
    let mut table = String::new();
    for line in String::from_utf8_lossy(&saved).lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_string();
        } else if let Some(rest) = line.strip_prefix(':') {
            let mut words = rest.split(' ');
            let (Some(chain), Some(policy)) = (words.next(), words.next()) else {
                continue;
            };
            if policy != "-" {
                accepts.insert((table.clone(), chain.to_string()), policy == "ACCEPT");
            }
        } else if let Some(rest) = line.strip_prefix("-A ") {
            let chain = rest.split(' ').next().unwrap_or_default().to_string();
            texts
                .entry((table.clone(), chain))
                .or_default()
                .push(line.to_string());
        }
    }
    Ok((texts, accepts))
}

fn interface(index: u32) -> Option<String> {
    let name: CString = nix::net::if_::if_indextoname(index).ok()?;
    Some(name.to_string_lossy().into_owned())
}
