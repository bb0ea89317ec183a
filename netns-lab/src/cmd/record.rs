//! `netns-lab record`: a recording and a transcript of a talk.

use std::fs;
use std::path::Path;

use labkit::text::count;
use labkit::{Failure, Outcome, shell};

use super::talk::file;
use crate::cli::talk::RecordArgs;
use crate::engine::talk::Theatre;
use crate::talk::cast::Film;
use crate::talk::script::Step;
use crate::talk::stage::prompt;
use crate::talk::verdict::misses;

/// Runs `record`.
pub(super) fn run(args: &RecordArgs) -> Result<Outcome, Failure> {
    let talk = file::load(&args.talk)?;
    let steps = talk.script.steps.clone();
    let mut film = Film::new(&talk.script.title);
    let mut theatre = Theatre::open(talk.script, args.talk.host, 1)?;
    for step in &steps {
        record(&mut theatre, step, &mut film).map_err(|failure| {
            failure
                .context(format!("{}: step {} {}", talk.name, step.number, step.title))
                .hint("nothing was written")
        })?;
    }
    for (path, text) in [
        (&args.cast, film.cast()),
        (&args.svg, film.picture()),
        (&args.transcript, film.transcript().to_string()),
    ] {
        if let Some(path) = path {
            write(path, &text)?;
        }
    }
    shell::tell(&format!("recorded {}", count(steps.len(), "step")));
    Ok(Outcome::Done)
}

fn record(theatre: &mut Theatre, step: &Step, film: &mut Film) -> Result<(), Failure> {
    film.step(step.number, &step.title, &step.predict);
    for run in &step.runs {
        let (seen, played) = theatre.play(run)?;
        if let Some(miss) = misses(run, &seen).first() {
            return Err(Failure::failed(format!("line {}: {miss}", run.line)));
        }
        for played in played.iter().filter(|_| !run.hidden) {
            film.typed(&prompt(run), &played.command);
            if run.screen {
                film.screen(&format!("{}{}", prompt(run), played.command), &played.pieces);
            } else {
                film.said(&played.pieces);
            }
        }
    }
    theatre.end_step();
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text)
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}
