//! For Graphviz.

use super::{Drawing, From, fill};
use crate::explain::Report;

/// A graph for `dot`.
pub fn dot(report: &Report) -> String {
    let drawing = Drawing::of(report);
    let mut text = format!(
        "digraph service {{\n  graph [rankdir=LR, nodesep=0.5, bgcolor=white, fontname=\"sans-serif\", labelloc=t, label={}];\n  node [fontname=\"sans-serif\", fontcolor=\"#111111\", color=\"#111111\", style=filled, fillcolor=white, shape=box];\n  edge [fontname=\"sans-serif\", fontcolor=\"#111111\", color=\"#333333\"];\n",
        quoted(&titled(&drawing))
    );
    text.push_str(&format!("  caller [label={}];\n", quoted(&drawing.caller)));
    text.push_str(&format!(
        "  service [label={}, shape=ellipse, style=\"filled,dashed\"];\n  caller -> service;\n",
        quoted(&drawing.service)
    ));
    let mut before = ("service".to_string(), String::new());
    for (index, question) in drawing.questions.iter().enumerate() {
        let name = format!("dice{index}");
        let asks = quoted(&format!("{}\n{}", question.asks, question.place));
        text.push_str(&format!("  {name} [label={asks}, shape=diamond];\n"));
        text.push_str(&format!("  {} -> {name}{};\n", before.0, before.1));
        text.push_str(&format!(
            "  backend{0} [label={1}, fillcolor=\"{2}\"];\n",
            question.index,
            quoted(&question.backend),
            fill(question.index)
        ));
        let style = if question.never { ", style=dashed" } else { "" };
        text.push_str(&format!(
            "  {name} -> backend{} [label={}{style}];\n",
            question.index,
            quoted(&question.yes)
        ));
        // Inside the column an edge's own label would stand on its arrow.
        let no = question.no.as_ref();
        let no = no.map(|no| format!(" [xlabel={}]", quoted(&format!("{no}  "))));
        before = (name, no.unwrap_or_default());
    }
    text.push_str(&column(&drawing));
    for (index, stop) in drawing.ends.iter().enumerate() {
        let style = if stop.open {
            ", style=\"filled,dashed\""
        } else {
            ""
        };
        text.push_str(&format!(
            "  stop{index} [label={}, shape=octagon{style}];\n",
            quoted(&stop.words)
        ));
        match &stop.from {
            From::Dice => text.push_str(&format!("  {} -> stop{index}{};\n", before.0, before.1)),
            From::Backends(backends) => {
                for backend in backends {
                    text.push_str(&format!("  backend{backend} -> stop{index};\n"));
                }
            }
        }
    }
    if drawing.ends.is_empty() && drawing.questions.is_empty() {
        let verdict = quoted(&drawing.verdict);
        text.push_str(&format!("  verdict [label={verdict}];\n  service -> verdict;\n"));
    }
    text.push_str("}\n");
    text
}

fn titled(drawing: &Drawing) -> String {
    match &drawing.rules {
        Some(rules) => format!("{}\n{rules}", drawing.title),
        None => drawing.title.clone(),
    }
}

/// One die below the other, as the rules stand.
fn column(drawing: &Drawing) -> String {
    let dice = drawing.questions.len();
    let mut names: Vec<String> = (0..dice).map(|index| format!("dice{index};")).collect();
    if dice > 0 {
        names.extend(drawing.left_over().map(|(index, _)| format!("stop{index};")));
    }
    if names.len() > 1 {
        format!("  {{ rank=same; {} }}\n", names.join(" "))
    } else {
        String::new()
    }
}

fn quoted(text: &str) -> String {
    let inside = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("\"{inside}\"")
}
