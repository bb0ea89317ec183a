//! `netns-lab graph`: what a lab is made of, drawn.

use labkit::shell::{self, OutputFormat};
use labkit::{Failure, Outcome};

use super::find;
use crate::cli::talk::GraphArgs;
use crate::model::graph::Graph;

/// Runs `graph`.
pub(super) fn run(args: &GraphArgs) -> Result<Outcome, Failure> {
    let ledger = find::lab(args.name.as_ref())?;
    let graph = Graph::of(&ledger.lab, ledger.pods.iter().map(|record| &record.pod));
    match args.output {
        OutputFormat::Json => shell::emit_json(&graph)?,
        OutputFormat::Table => shell::emit(&graph.draw(args.format))?,
    }
    Ok(Outcome::Done)
}
