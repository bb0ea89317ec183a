//! Handles of nf_tables → numbers as `iptables -L --line-numbers` counts, and the rules' own texts.

use std::collections::HashMap;
use std::ffi::CString;

use labkit::nftables::NfTables;
use labkit::xtables::{Family, Xtables};
use labkit::{Failure, tool};

use super::events::Raw;
use crate::journey::{Deed, Event, Texts};

/// Where each rule stands.
#[derive(Debug, Default)]
pub struct Places {
    numbers: HashMap<(String, String, u64), usize>,
    /// The rules of each chain, in order.
    pub texts: Texts,
}

impl Places {
    /// Reads the rules as they are now. What was known of rules that are gone stays.
    ///
    /// # Errors
    /// When the kernel or iptables-save does not tell.
    pub fn read(&mut self, xtables: &Xtables, family: Family) -> Result<(), Failure> {
        let failed =
            |error: std::io::Error| Failure::failed(format!("cannot list the rules of nf_tables: {error}"));
        let mut kernel = NfTables::open().map_err(failed)?;
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
            self.texts = texts(xtables, family)?;
            if kernel.generation().map_err(failed)? == before {
                break;
            }
        }
        Ok(())
    }

    /// The event with its rule's number and its interfaces' names.
    pub fn event(&self, raw: &Raw) -> Event {
        let deed = match raw.rule {
            None => Deed::Policy {
                accepts: !raw.stopped,
            },
            Some(handle) => {
                let key = (raw.table.clone(), raw.chain.clone(), handle);
                Deed::Rule {
                    number: self.numbers.get(&key).copied(),
                    stopped: raw.stopped,
                }
            }
        };
        Event {
            id: raw.id,
            table: raw.table.clone(),
            chain: raw.chain.clone(),
            deed,
            seen: raw.seen,
            arriving: raw.arriving.and_then(interface),
            leaving: raw.leaving.and_then(interface),
        }
    }
}

fn texts(xtables: &Xtables, family: Family) -> Result<Texts, Failure> {
    let none: [&str; 0] = [];
    let saved = tool::run_ok(&xtables.save(family), &none, None)?;
    let mut texts = Texts::new();
    let mut table = String::new();
    for line in String::from_utf8_lossy(&saved).lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_string();
        } else if let Some(rest) = line.strip_prefix("-A ") {
            let chain = rest.split(' ').next().unwrap_or_default().to_string();
            texts
                .entry((table.clone(), chain))
                .or_default()
                .push(line.to_string());
        }
    }
    Ok(texts)
}

fn interface(index: u32) -> Option<String> {
    let name: CString = nix::net::if_::if_indextoname(index).ok()?;
    Some(name.to_string_lossy().into_owned())
}
