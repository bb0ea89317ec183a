//! Two rule sets beside each other: what is there, and what would be written.

use std::collections::{BTreeMap, BTreeSet};

use labkit::screen::look::{Role, Sign};
use labkit::screen::page::{fit, wrapped};
use labkit::screen::{Line, Look, Page};
use labkit::text::count;

use super::difference::{Finding, Sides, compare};
use crate::rules::delta::is_ours;
use crate::rules::rule::Rule;
use crate::rules::set::{Found, TableName};
use crate::rules::text::rule_text;

/// More rules than this beside each other nobody reads; what differs is told before them all the same.
const MOST_RULES: usize = 5000;

/// A comparison, with what both sides have.
#[derive(Debug, Clone)]
pub struct Compared {
    /// The node, where there are several.
    pub node: Option<String>,
    /// What the sides are called.
    pub names: [String; 2],
    /// What differs.
    pub findings: Vec<Finding>,
    chains: Vec<Chain>,
    left_out: usize,
}

/// A chain on both sides.
#[derive(Debug, Clone)]
struct Chain {
    name: String,
    rules: Vec<Pair>,
}

/// A rule on the left, its like on the right; only one of them where the other side lacks it.
#[derive(Debug, Clone)]
struct Pair {
    left: Option<String>,
    right: Option<String>,
    differ: bool,
}

/// Compares; `beside` keeps all rules of both sides for the screen.
pub fn compared(left: &Found, right: &Found, sides: Sides<'_>, beside: bool) -> Compared {
    let findings = compare(left, right, sides);
    let mut compared = Compared {
        node: None,
        names: [sides.left.to_string(), sides.right.to_string()],
        findings,
        chains: Vec::new(),
        left_out: 0,
    };
    if beside {
        compared.put_beside(left, right);
    }
    compared
}

impl Compared {
    /// The same, of a node with a name.
    #[must_use]
    pub fn of_node(mut self, node: &str) -> Self {
        self.node = Some(node.to_string());
        self
    }

    fn put_beside(&mut self, left: &Found, right: &Found) {
        let mut room = MOST_RULES;
        for table in [TableName::Nat, TableName::Filter] {
            let chains = |found: &Found| -> BTreeSet<String> {
                let chains = found.tables.get(&table).into_iter().flat_map(BTreeMap::keys);
                chains.filter(|chain| is_ours(table, chain)).cloned().collect()
            };
            for name in chains(left).union(&chains(right)) {
                let rules =
                    |found: &Found| found.chain(table, name).map(<[Rule]>::to_vec).unwrap_or_default();
                let (left, right) = (rules(left), rules(right));
                if left.is_empty() && right.is_empty() {
                    continue;
                }
                if room < left.len().max(right.len()) {
                    self.left_out += left.len().max(right.len());
                    continue;
                }
                room -= left.len().max(right.len());
                let rules = self.pairs(table, name, &left, &right);
                self.chains.push(Chain {
                    name: format!("{} {name}", table.name()),
                    rules,
                });
            }
        }
        // Whoever looks wants to see what differs.
        self.chains
            .sort_by_key(|chain| !chain.rules.iter().any(|pair| pair.differ));
    }

    /// The rules of a chain as the findings have them: what they do not name is the same.
    fn pairs(&self, table: TableName, chain: &str, left: &[Rule], right: &[Rule]) -> Vec<Pair> {
        let of_chain = self
            .findings
            .iter()
            .filter(|finding| finding.table == table.name() && finding.chain == chain);
        let findings: Vec<&Finding> = of_chain.collect();
        let mut pairs = Vec::new();
        for rule in left {
            let text = rule_text(rule);
            let named =
                |side: &Option<String>| side.iter().any(|rules| rules.lines().any(|line| line == text));
            let finding = findings.iter().find(|finding| named(&finding.left));
            let whole_chain =
                finding.is_some_and(|finding| finding.left.iter().any(|rules| rules.contains('\n')));
            pairs.push(Pair {
                right: match finding {
                    Some(finding) => finding.right.clone().filter(|_| !whole_chain),
                    None => Some(text.clone()),
                },
                left: Some(text),
                differ: finding.is_some(),
            });
        }
        let only_right = findings.iter().filter(|finding| finding.left.is_none());
        let lines = only_right.flat_map(|finding| finding.right.iter().flat_map(|rules| rules.lines()));
        let known: BTreeSet<String> = right.iter().map(rule_text).collect();
        pairs.extend(lines.filter(|line| known.contains(*line)).map(|line| Pair {
            left: None,
            right: Some(line.to_string()),
            differ: true,
        }));
        pairs
    }

    fn sentence(&self) -> String {
        if self.findings.is_empty() {
            "the same: every rule means what it should".into()
        } else {
            count(self.findings.len(), "difference")
        }
    }
}

/// The screen: a sentence, what differs, then everything in two columns.
pub fn page(all: &[Compared], look: &Look, chosen: Option<usize>) -> Page {
    let mut body = Vec::new();
    let mut texts: Vec<(usize, String)> = Vec::new();
    for compared in all {
        columns(compared, look, &mut body, &mut texts);
    }
    let first_difference = texts
        .iter()
        .position(|(line, _)| starts_with_sign(&body[*line], look));
    // Where nothing differs, the first rule shows what a rule looks like.
    let first = first_difference.or((!texts.is_empty()).then_some(0));
    let at = chosen.map_or(first, |chosen| Some(chosen.min(texts.len().saturating_sub(1))));
    let chosen_text = at.and_then(|at| texts.get(at));
    if let Some((line, _)) = chosen_text
        && let Some(span) = body[*line].spans.first_mut()
    {
        span.style = look.style(Role::Hot);
    }
    let same = all.iter().all(|compared| compared.findings.is_empty());
    Page {
        title: Line::from(vec![
            look.text(Role::Strong, " DIFF "),
            look.text(
                Role::Plain,
                all.first().map(|one| one.names.join(" | ")).unwrap_or_default(),
            ),
        ]),
        state: if same {
            "the same ".into()
        } else {
            "different ".into()
        },
        rule: chosen_text
            .map(|(_, text)| format!(" {text}"))
            .unwrap_or_default(),
        focus: chosen.and(chosen_text.map(|(line, _)| *line)),
        body,
        keys: Vec::new(),
    }
}

/// How many rules can be chosen.
pub fn choices(all: &[Compared]) -> usize {
    let chains = all.iter().flat_map(|compared| &compared.chains);
    chains.map(|chain| chain.rules.len()).sum()
}

fn starts_with_sign(line: &Line<'_>, look: &Look) -> bool {
    line.spans
        .first()
        .is_some_and(|span| span.content.starts_with(look.sign(Sign::No)))
}

fn columns(
    compared: &Compared,
    look: &Look,
    body: &mut Vec<Line<'static>>,
    texts: &mut Vec<(usize, String)>,
) {
    let same = compared.findings.is_empty();
    let (role, sign) = if same {
        (Role::Good, Sign::Yes)
    } else {
        (Role::Lost, Sign::No)
    };
    let node = compared
        .node
        .as_ref()
        .map(|node| format!("{node}: "))
        .unwrap_or_default();
    body.push(Line::from(look.text(
        role,
        format!(" {} {node}{}", look.sign(sign), compared.sentence()),
    )));
    for finding in &compared.findings {
        let service = finding
            .service
            .as_ref()
            .map(|name| format!(" (Service {name})"))
            .unwrap_or_default();
        let what = format!("{} {}{service}: {}", finding.table, finding.chain, finding.what);
        body.extend(wrapped(&what, "   ", look).into_iter().map(Line::from));
    }
    body.push(Line::default());
    // Two signs, a bar between the columns, and a blank on either side of it.
    let half = usize::from(look.width).saturating_sub(5) / 2;
    let [left, right] = &compared.names;
    body.push(Line::from(look.text(
        Role::Strong,
        format!("  {} \u{2502} {}", fit(left, half, look), fit(right, half, look)),
    )));
    for chain in &compared.chains {
        body.push(Line::from(look.text(Role::Strong, format!("  {}", chain.name))));
        for pair in &chain.rules {
            let side = |text: &Option<String>| fit(&text.as_deref().map_or("-".into(), telling), half, look);
            let (role, sign) = if pair.differ {
                (Role::Lost, look.sign(Sign::No))
            } else {
                (Role::Plain, "=")
            };
            let text = pair.left.as_ref().or(pair.right.as_ref());
            texts.extend(text.map(|text| (body.len(), text.clone())));
            body.push(Line::from(vec![
                look.text(role, sign),
                look.text(
                    role,
                    format!(" {} \u{2502} {}", side(&pair.left), side(&pair.right)),
                ),
            ]));
        }
    }
    if compared.left_out > 0 {
        body.push(Line::from(format!(
            "  {} more, not shown",
            count(compared.left_out, "rule")
        )));
    }
}

/// What of a rule tells it from others, for a narrow column: without its comment, and without words that
/// say nothing by themselves. All of it stands in the footer.
fn telling(text: &str) -> String {
    let mut short = text.to_string();
    if let Some((before, rest)) = text.split_once("-m comment --comment ") {
        let after = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once("\" ").map(|(_, after)| after),
            None => rest.split_once(' ').map(|(_, after)| after),
        };
        if let Some(after) = after {
            short = format!("{before}{after}");
        }
    }
    for module in [
        "-m statistic --mode random ",
        "-m tcp ",
        "-m udp ",
        "-m sctp ",
        "-m mark ",
    ] {
        short = short.replacen(module, "", 1);
    }
    short
}

#[cfg(test)]
mod tests {
    use labkit::screen::print;

    use super::*;
    use crate::rules::parse::parse;

    fn rules(chance: &str) -> Found {
        let text = format!(
            "*nat\n-A KUBE-SVC-CDGGSHYLG3RE2FKL -m comment --comment \"default/web -> 10.244.0.2:80\" -m statistic --mode random --probability {chance} -j KUBE-SEP-A\n-A KUBE-SVC-CDGGSHYLG3RE2FKL -m comment --comment \"default/web -> 10.244.0.3:80\" -j KUBE-SEP-B\nCOMMIT\n"
        );
        parse(&text).unwrap()
    }

    const SIDES: Sides<'_> = Sides {
        left: "what node-1 has",
        right: "what would be written",
    };

    #[test]
    fn what_is_the_same_and_what_differs_stand_beside_each_other() {
        for (name, chance) in [("same", "0.5000000000"), ("differs", "0.3333333333")] {
            let all = [compared(&rules(chance), &rules("0.5000000000"), SIDES, true)];
            for (width, height) in [(80, 24), (100, 30), (60, 20), (200, 60)] {
                let look = Look::sized(width, height);
                let lines = page(&all, &look, None).draw(&look, 0);
                insta::assert_snapshot!(
                    format!("diff-{name}-{width}x{height}"),
                    print::to_string(&lines, &look)
                );
            }
            let ascii = Look::sized(80, 24).ascii();
            assert!(print::page(&page(&all, &ascii, Some(1)), &ascii).is_ascii());
        }
    }
}
