//! What the commands of a talk changed on a machine that is not theirs, and how it is undone.

use std::collections::BTreeMap;

/// Prints what is looked at: rules of both families, and the settings that talks change.
pub const PROBE: &str = r#"
for tool in iptables ip6tables; do "$tool-save" 2>/dev/null | sed "s/^/$tool /"; done
cd /proc/sys/net
grep -s "" bridge/bridge-nf-call-* ipv4/ip_forward ipv4/conf/*/route_localnet ipv4/conf/*/rp_filter | sed "s/^/sysctl /"
exit 0
"#;

/// Which rules: of which family, in which table.
type Place = (String, String);

/// What was seen at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    rules: Vec<(Place, String)>,
    settings: BTreeMap<String, String>,
}

impl Sight {
    /// Reads what [`PROBE`] has printed.
    pub fn read(text: &str) -> Self {
        let mut sight = Self::default();
        let mut table = String::new();
        for line in text.lines() {
            let Some((kind, rest)) = line.split_once(' ') else {
                continue;
            };
            if kind == "sysctl" {
                if let Some((name, value)) = rest.split_once(':') {
                    sight.settings.insert(name.to_string(), value.to_string());
                }
            } else if let Some(name) = rest.strip_prefix('*') {
                table = name.to_string();
            } else if rest.starts_with("-A ") || (rest.starts_with(':') && rest.contains(" - ")) {
                let rule = rest.split(" [").next().unwrap_or(rest).to_string();
                sight.rules.push(((kind.to_string(), table.clone()), rule));
            }
        }
        sight
    }
}

impl Sight {
    /// Whether there is a chain whose name begins so.
    pub fn has_chain(&self, start: &str) -> bool {
        let chains = self.rules.iter().filter_map(|(_, rule)| rule.strip_prefix(':'));
        chains.into_iter().any(|name| name.starts_with(start))
    }
}

/// What commands of a talk have changed so far.
#[derive(Debug, Default)]
pub struct Trail {
    /// The rules before the first command: as many of each stay.
    others: Option<Vec<(Place, String)>>,
    made: Vec<(Place, String)>,
    was: BTreeMap<String, String>,
}

impl Trail {
    /// A command has run between these two.
    pub fn note(&mut self, before: &Sight, after: &Sight) {
        self.others.get_or_insert_with(|| before.rules.clone());
        self.made.extend(only_in(&after.rules, &before.rules));
        for (name, value) in &before.settings {
            if after.settings.get(name).is_some_and(|now| now != value) {
                self.was.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
    }

    /// The script that undoes what is still there of it; empty for nothing.
    pub fn undo(&mut self, now: &Sight) -> String {
        let mut left = only_in(&now.rules, &self.others.take().unwrap_or_default());
        let mut tables: BTreeMap<Place, (String, String)> = BTreeMap::new();
        for (place, rule) in std::mem::take(&mut self.made) {
            let Some(at) = left
                .iter()
                .position(|(other, text)| *other == place && *text == rule)
            else {
                continue;
            };
            left.swap_remove(at);
            let (rules, chains) = tables.entry(place).or_default();
            match rule.strip_prefix("-A ") {
                Some(words) => rules.push_str(&format!("-D {words}\n")),
                None => chains.push_str(&format!(
                    "-X {}\n",
                    rule[1..].split(' ').next().unwrap_or_default()
                )),
            }
        }
        let mut script = String::new();
        for ((tool, table), (rules, chains)) in tables {
            script += &format!("{tool}-restore --noflush <<'UNDO'\n*{table}\n{rules}{chains}COMMIT\nUNDO\n");
        }
        for (name, value) in std::mem::take(&mut self.was) {
            if now.settings.get(&name).is_some_and(|found| *found != value) {
                script += &format!("echo '{value}' > '/proc/sys/net/{name}'\n");
            }
        }
        script
    }
}

/// What the first has more than the second, as often as it has it more.
fn only_in(these: &[(Place, String)], others: &[(Place, String)]) -> Vec<(Place, String)> {
    let mut others = others.to_vec();
    let mut only = these.to_vec();
    only.retain(|one| match others.iter().position(|other| other == one) {
        Some(at) => {
            others.swap_remove(at);
            false
        }
        None => true,
    });
    only
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "iptables *nat\niptables :PREROUTING ACCEPT [0:0]\niptables :OTHERS - [0:0]\n\
                          iptables -A PREROUTING -j OTHERS\niptables COMMIT\nsysctl ipv4/ip_forward:1\n";

    fn after() -> String {
        BEFORE
            .replace("iptables COMMIT", "iptables :MINE - [0:0]\niptables -A PREROUTING -j MINE\niptables -A MINE -m comment --comment \"a b\" -j OTHERS\niptables -A PREROUTING -j OTHERS\niptables COMMIT")
            .replace("forward:1", "forward:0")
    }

    #[test]
    fn what_was_made_is_undone_and_nothing_else() {
        let (before, after) = (Sight::read(BEFORE), Sight::read(&after()));
        let mut trail = Trail::default();
        trail.note(&before, &after);
        assert!(after.has_chain("MI") && !before.has_chain("MI") && !after.has_chain("PRE"));
        insta::assert_snapshot!(trail.undo(&after));
        assert_eq!(trail.undo(&after), "", "once");
    }

    #[test]
    fn what_has_gone_by_itself_is_left_alone() {
        let (before, after) = (Sight::read(BEFORE), Sight::read(&after()));
        let mut trail = Trail::default();
        trail.note(&before, &after);
        assert_eq!(trail.undo(&before), "");
    }
}
