//! Which talk is meant: a file, or one that comes with the program.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use labkit::Failure;

use crate::cli::talk::Where;
use crate::talk::read;
use crate::talk::script::{Script, Step};

/// The talks that come with the program: name, text, recording.
const SHIPPED: [(&str, &str, &str); 3] = [
    (
        "talk",
        include_str!("../../../../docs/talk/talk.md"),
        include_str!("../../../../docs/talk/talk.cast"),
    ),
    (
        "lightning",
        include_str!("../../../../docs/talk/lightning.md"),
        include_str!("../../../../docs/talk/lightning.cast"),
    ),
    (
        "encores",
        include_str!("../../../../docs/talk/encores.md"),
        include_str!("../../../../docs/talk/encores.cast"),
    ),
];

/// A talk that was read.
pub(in crate::cmd) struct Talk {
    /// The file, as it was called.
    pub(in crate::cmd) name: String,
    /// What it says.
    pub(in crate::cmd) script: Script,
    /// Its recording, if there is one.
    pub(in crate::cmd) cast: Option<String>,
}

/// Reads the talk that is meant.
pub(in crate::cmd) fn load(place: &Where) -> Result<Talk, Failure> {
    if place.host && !nix::unistd::geteuid().is_root() {
        return Err(Failure::host_lacks("a talk on this machine itself needs root")
            .hint("without --host it has a machine of its own, and needs none"));
    }
    let given = place.file.as_deref().unwrap_or(Path::new(SHIPPED[0].0));
    let shipped = SHIPPED.iter().find(|(name, ..)| given.as_os_str() == *name);
    let (name, text, cast) = match (shipped, given.exists()) {
        (Some((name, text, cast)), false) => (
            format!("{name}.md"),
            (*text).to_string(),
            Some((*cast).to_string()),
        ),
        (Some((name, text, cast)), true) if place.file.is_none() => (
            format!("{name}.md"),
            (*text).to_string(),
            Some((*cast).to_string()),
        ),
        _ => {
            let cast = fs::read_to_string(given.with_extension("cast")).ok();
            (given.display().to_string(), text_of(given)?, cast)
        }
    };
    let script = read::script(&text).map_err(|faults| {
        let lines: Vec<_> = faults
            .iter()
            .map(|fault| format!("{name}:{}: {}", fault.line, fault.what))
            .collect();
        Failure::usage(lines.join("\n")).hint("docs/talk.md tells how a talk is written")
    })?;
    Ok(Talk {
        name,
        script,
        cast: cast.filter(|cast| !cast.is_empty()),
    })
}

fn text_of(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| {
        let why = match error.kind() {
            ErrorKind::NotFound => "there is no such file".to_string(),
            ErrorKind::InvalidData => "it is no text".to_string(),
            ErrorKind::IsADirectory => "it is a folder".to_string(),
            _ => error.to_string(),
        };
        let names: Vec<_> = SHIPPED.iter().map(|(name, ..)| *name).collect();
        Failure::usage(format!("cannot read the talk {}: {why}", path.display())).hint(format!(
            "expected a Markdown file, or one that comes with this program: {}",
            names.join(", ")
        ))
    })
}

/// The step of a number, which whoever calls has given.
pub(in crate::cmd) fn step(talk: &Talk, number: usize) -> Result<&Step, Failure> {
    talk.script.step(number).ok_or_else(|| {
        let last = talk.script.steps.len();
        Failure::usage(format!("{} has no step {number}", talk.name)).hint(format!("expected 1 to {last}"))
    })
}
