//! For Markdown pages.

use super::{Drawing, From, fill};
use crate::explain::Report;

/// A flowchart for Mermaid.
pub fn mermaid(report: &Report) -> String {
    let drawing = Drawing::of(report);
    let mut text = format!(
        "%% {}\n%%{{init: {{'theme': 'base', 'themeVariables': {{'background': '#ffffff', 'primaryColor': '#ffffff', 'primaryTextColor': '#111111', 'lineColor': '#333333'}}}}}}%%\nflowchart LR\n  accTitle: {}\n",
        words(&drawing.title),
        words(&drawing.title)
    );
    let rules = drawing
        .rules
        .as_ref()
        .map(|rules| format!("<br/>{}", words(rules)));
    text.push_str(&format!(
        "  caller[\"{}\"] --> service([\"{}{}\"])\n",
        words(&drawing.caller),
        words(&drawing.service),
        rules.unwrap_or_default()
    ));
    let mut before = ("service".to_string(), String::new());
    let mut links = 1;
    let mut dashed = Vec::new();
    for (index, question) in drawing.questions.iter().enumerate() {
        let name = format!("dice{index}");
        text.push_str(&format!(
            "  {} -->{} {name}{{\"{}<br/>{}\"}}\n",
            before.0,
            before.1,
            words(&question.asks),
            words(&question.place)
        ));
        links += 1;
        if question.never {
            dashed.push(links);
        }
        text.push_str(&format!(
            "  {name} -->|\"{}\"| backend{}[\"{}\"]\n",
            words(&question.yes),
            question.index,
            words(&question.backend)
        ));
        links += 1;
        before = (
            name,
            question
                .no
                .as_ref()
                .map(|no| format!("|\"{}\"|", words(no)))
                .unwrap_or_default(),
        );
    }
    for (index, stop) in drawing.ends.iter().enumerate() {
        let from = match &stop.from {
            From::Dice => format!("{} -->{}", before.0, before.1),
            From::Backends(backends) if backends.is_empty() => "service -.->".to_string(),
            From::Backends(backends) => {
                let names: Vec<String> = backends
                    .iter()
                    .map(|backend| format!("backend{backend}"))
                    .collect();
                format!("{} {}", names.join(" & "), if stop.open { "-.->" } else { "-->" })
            }
        };
        text.push_str(&format!("  {from} stop{index}[/\"{}\"/]\n", words(&stop.words)));
    }
    if drawing.ends.is_empty() && drawing.questions.is_empty() {
        text.push_str(&format!(
            "  service --> verdict[\"{}\"]\n",
            words(&drawing.verdict)
        ));
    }
    for link in dashed {
        text.push_str(&format!("  linkStyle {link} stroke-dasharray: 5 5\n"));
    }
    let mut backends: Vec<usize> = drawing.questions.iter().map(|question| question.index).collect();
    backends.sort_unstable();
    backends.dedup();
    for index in backends {
        text.push_str(&format!(
            "  style backend{index} fill:{},stroke:#111111,color:#111111\n",
            fill(index)
        ));
    }
    text
}

/// Quotes and signs that Mermaid reads as its own.
fn words(text: &str) -> String {
    text.replace('#', "#35;")
        .replace('"', "#quot;")
        .replace('<', "#lt;")
        .replace('>', "#gt;")
}
