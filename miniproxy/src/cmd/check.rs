//! `miniproxy check`: is this registry good?

use labkit::shell::{OutputFormat, emit, emit_json};
use labkit::text::{count, printable};
use labkit::{Failure, Outcome};
use serde::Serialize;

use crate::cli::CheckArgs;
use crate::registry::Registry;
use crate::registry::problem::{Problem, failure};

#[derive(Serialize)]
struct Answer<'a> {
    good: bool,
    services: usize,
    endpoint_slices: usize,
    pods: usize,
    nodes: usize,
    ignored: &'a [String],
    problems: &'a [Problem],
}

/// Prints what the registry holds, or everything that is wrong with it (exit code 2).
pub(super) fn run(args: &CheckArgs) -> Result<Outcome, Failure> {
    let store = super::source(&args.registry)?.load()?;
    let files = store.file_count();
    match store.whole() {
        Ok(store) => {
            match args.output {
                OutputFormat::Json => emit_json(&answer(store.registry(), &[]))?,
                OutputFormat::Table => emit(&text(files, store.registry()))?,
            }
            // The process ends: nobody needs what giving back many small pieces would make free.
            std::mem::forget(store);
            Ok(Outcome::Done)
        }
        Err(problems) => {
            if args.output == OutputFormat::Json {
                emit_json(&answer(&Registry::default(), &problems))?;
            }
            Err(failure(&problems))
        }
    }
}

fn answer<'a>(registry: &'a Registry, problems: &'a [Problem]) -> Answer<'a> {
    Answer {
        good: problems.is_empty(),
        services: registry.services.len(),
        endpoint_slices: registry.slice_count(),
        pods: registry.pod_count(),
        nodes: registry.nodes.len(),
        ignored: &registry.ignored,
        problems,
    }
}

fn text(files: usize, registry: &Registry) -> String {
    let mut text = format!(
        "good: {} with {}, {}, {}, {}\n",
        count(files, "file"),
        count(registry.services.len(), "Service"),
        count(registry.slice_count(), "EndpointSlice"),
        count(registry.pod_count(), "Pod"),
        count(registry.nodes.len(), "Node"),
    );
    for ignored in &registry.ignored {
        text.push_str(&format!("passed over: {}\n", printable(ignored)));
    }
    text.push_str("next: miniproxy render\n");
    text
}
