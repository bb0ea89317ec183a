//! `netns-lab graph`: what a lab is made of, drawn.

use labkit::screen::{hide, page};
use labkit::shell::{self, OutputFormat};
use labkit::{Failure, Outcome};

use super::find;
use crate::cli::talk::GraphArgs;
use crate::model::graph::Graph;

/// Runs `graph`.
pub(super) fn run(args: &GraphArgs) -> Result<Outcome, Failure> {
    let ledger = find::lab(args.name.as_ref())?;
    let graph = Graph::of(&ledger.lab, ledger.pods.iter().map(|record| &record.pod));
    let text = match args.output {
        OutputFormat::Json => shell::json(&graph)?,
        OutputFormat::Table if args.plain => graph.sentences(),
        OutputFormat::Table => graph.draw(args.format),
    };
    let text = if args.hide_addresses {
        hide::addresses(&text)
    } else {
        text
    };
    shell::emit(&if args.ascii {
        text.chars().map(page::as_ascii).collect()
    } else {
        text
    })?;
    Ok(Outcome::Done)
}
