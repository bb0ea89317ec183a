//! `miniproxy graph`: one Service drawn.

use labkit::screen::{Glyphs, Look, hide};
use labkit::shell::{OutputFormat, emit};
use labkit::{Failure, Outcome};

use super::explain::json;
use super::question::Asked;
use crate::cli::{GraphArgs, GraphFormat};
use crate::explain::plain::plain;
use crate::graph;

/// Prints the drawing.
pub(super) fn run(args: &GraphArgs) -> Result<Outcome, Failure> {
    let mut report = Asked::new(&args.question)?.report(None)?;
    if args.output == OutputFormat::Json {
        report.kind = "graph";
        emit(&json(&report, args.hide_addresses)?)?;
        return Ok(Outcome::Done);
    }
    let look = Look {
        glyphs: if args.ascii {
            Glyphs::Ascii
        } else {
            Glyphs::Unicode
        },
        ..Look::default()
    };
    let text = match args.format {
        _ if args.plain => plain(&report),
        GraphFormat::Text => graph::text(&report, &look),
        GraphFormat::Mermaid => graph::mermaid(&report),
        GraphFormat::Dot => graph::dot(&report),
        GraphFormat::Svg => graph::svg(&report),
    };
    emit(&if args.hide_addresses {
        hide::addresses(&text)
    } else {
        text
    })?;
    Ok(Outcome::Done)
}
