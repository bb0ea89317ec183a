//! Tables in memory: reads the same documents as `iptables-restore --noflush`, and refuses what it refuses.

use std::collections::BTreeMap;

use miniproxy::rules::parse::parse;
use miniproxy::rules::rule::{Rule, Target};
use miniproxy::rules::set::{Chains, Found, TableName};

const BUILT_IN: [(TableName, &[&str]); 3] = [
    (TableName::Filter, &["INPUT", "FORWARD", "OUTPUT"]),
    (TableName::Nat, &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
    (
        TableName::Mangle,
        &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
    ),
];

/// An empty kernel.
pub(crate) fn empty() -> Found {
    let chains = |names: &[&str]| names.iter().map(|name| (name.to_string(), Vec::new())).collect();
    Found {
        tables: BUILT_IN
            .iter()
            .map(|(table, names)| (*table, chains(names)))
            .collect(),
    }
}

/// Applies a document; each table's part is taken whole or refused whole.
pub(crate) fn restore(found: &mut Found, document: &str) -> Result<(), String> {
    let mut table: Option<(TableName, Chains)> = None;
    for line in document.lines() {
        if let Some(name) = line.strip_prefix('*') {
            let name = TableName::parse(name).ok_or(line)?;
            table = Some((name, found.tables.get(&name).cloned().unwrap_or_default()));
        } else if line == "COMMIT" {
            let (name, chains) = table.take().ok_or("COMMIT outside of a table")?;
            check_jumps(&chains)?;
            found.tables.insert(name, chains);
        } else {
            let (_, chains) = table.as_mut().ok_or("a line outside of a table")?;
            one_line(chains, line)?;
        }
    }
    if table.is_some() {
        Err("the document ends inside a table".into())
    } else {
        Ok(())
    }
}

fn one_line(chains: &mut Chains, line: &str) -> Result<(), String> {
    if let Some(chain) = line.strip_prefix(':') {
        let name = chain.split(' ').next().unwrap_or_default();
        if name.len() > 28 {
            return Err(format!("chain name too long: {name}"));
        }
        chains.insert(name.to_string(), Vec::new());
        return Ok(());
    }
    let (verb, rest) = line.split_once(' ').ok_or(line)?;
    let (chain, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let rules = chains
        .get_mut(chain)
        .ok_or_else(|| format!("no chain {chain}: {line}"))?;
    match verb {
        "-A" => rules.push(rule(rest)?),
        "-I" => {
            let (number, text) = match rest.split_once(' ') {
                Some((first, text)) if first.parse::<usize>().is_ok() => {
                    (first.parse::<usize>().unwrap(), text)
                }
                _ => (1, rest),
            };
            if number > rules.len() + 1 {
                return Err(format!("no place {number} in {chain}"));
            }
            let rule = rule(text)?;
            rules.insert(number - 1, rule);
        }
        "-D" => {
            let at = match rest.parse::<usize>() {
                Ok(number) => number - 1,
                Err(_) => {
                    let wanted = rule(rest)?;
                    rules
                        .iter()
                        .position(|known| *known == wanted)
                        .ok_or_else(|| format!("no such rule: {line}"))?
                }
            };
            if at >= rules.len() {
                return Err(format!("no rule {rest} in {chain}"));
            }
            rules.remove(at);
        }
        "-X" => {
            chains.remove(chain);
        }
        _ => return Err(format!("what is {line}")),
    }
    Ok(())
}

/// The rule as a dump of one chain would show it.
fn rule(text: &str) -> Result<Rule, String> {
    let found = parse(&format!("*nat\n-A X {text}\nCOMMIT\n")).map_err(|error| error.to_string())?;
    let rules = found.tables[&TableName::Nat]["X"].clone();
    rules.into_iter().next().ok_or_else(|| text.to_string())
}

fn check_jumps(chains: &BTreeMap<String, Vec<Rule>>) -> Result<(), String> {
    for rule in chains.values().flatten() {
        if let Some(Target::Jump(chain)) = &rule.target
            && !chains.contains_key(chain)
        {
            return Err(format!("a rule leads to {chain}, which is not there"));
        }
    }
    Ok(())
}
