//! For Markdown pages.

use super::{Drawing, From, fill};
use crate::explain::Report;

/// A flowchart for Mermaid.
pub fn mermaid(report: &Report) -> String {
    let drawing = Drawing::of(report);
    let mut text = head(&drawing);
    let asked = ask(&mut text, &drawing);
    for (index, stop) in drawing.ends.iter().enumerate() {
        let from = match &stop.from {
            From::Dice => asked.next.clone(),
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
    for link in asked.dashed {
        text.push_str(&format!("  linkStyle {link} stroke-dasharray: 5 5\n"));
    }
    fill_backends(&mut text, &drawing);
    text
}

/// White ground, and who calls what.
fn head(drawing: &Drawing) -> String {
    let title = words(&drawing.title);
    let rules = drawing
        .rules
        .as_ref()
        .map(|rules| format!("<br/>{}", words(rules)));
    format!(
        "%% {title}\n%%{{init: {{'theme': 'base', 'themeVariables': {{'background': '#ffffff', 'primaryColor': '#ffffff', 'primaryTextColor': '#111111', 'lineColor': '#333333'}}}}}}%%\nflowchart LR\n  accTitle: {title}\n  caller[\"{}\"] --> service([\"{}{}\"])\n",
        words(&drawing.caller),
        words(&drawing.service),
        rules.unwrap_or_default()
    )
}

/// What the dice have left behind.
struct Asked {
    /// From where a link leads to what comes after the last of them.
    next: String,
    /// Links that no packet took, by their numbers.
    dashed: Vec<usize>,
}

/// The dice in their order, each with the backend of its yes.
fn ask(text: &mut String, drawing: &Drawing) -> Asked {
    let mut asked = Asked {
        next: "service -->".into(),
        dashed: Vec::new(),
    };
    // Mermaid counts links from 0, and the caller's is the first.
    for (index, question) in drawing.questions.iter().enumerate() {
        text.push_str(&format!(
            "  {} dice{index}{{\"{}<br/>{}\"}}\n",
            asked.next,
            words(&question.asks),
            words(&question.place)
        ));
        text.push_str(&format!(
            "  dice{index} -->|\"{}\"| backend{}[\"{}\"]\n",
            words(&question.yes),
            question.index,
            words(&question.backend)
        ));
        if question.never {
            asked.dashed.push(2 * index + 2);
        }
        let no = question.no.as_ref();
        let no = no.map(|no| format!("|\"{}\"|", words(no))).unwrap_or_default();
        asked.next = format!("dice{index} -->{no}");
    }
    asked
}

fn fill_backends(text: &mut String, drawing: &Drawing) {
    let mut backends: Vec<usize> = drawing.questions.iter().map(|question| question.index).collect();
    backends.sort_unstable();
    backends.dedup();
    for index in backends {
        text.push_str(&format!(
            "  style backend{index} fill:{},stroke:#111111,color:#111111\n",
            fill(index)
        ));
    }
}

/// Quotes and signs that Mermaid reads as its own.
fn words(text: &str) -> String {
    text.replace('#', "#35;")
        .replace('"', "#quot;")
        .replace('<', "#lt;")
        .replace('>', "#gt;")
}
