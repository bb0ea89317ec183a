//! Tells a talk: makes its machine, runs what it says, goes to any step.

use std::time::{Duration, Instant};

use labkit::{Failure, Kind, tool};

use crate::edge::store;
use crate::edge::talk::running::{Pieces, Running};
use crate::edge::talk::world::World;
use crate::talk::report::{Part, Tried, Wrong};
use crate::talk::script::{Background, Run, Script, Step};
use crate::talk::state;
use crate::talk::trail::{self, Sight, Trail};
use crate::talk::verdict::{End, Miss, Seen, misses};

/// How long a lab may take to be made or taken down.
const LAB: Duration = Duration::from_secs(60);

/// A talk and the machine it is told on.
#[derive(Debug)]
pub struct Theatre {
    script: Script,
    // What runs must end before the machine does.
    background: Vec<(Background, Running)>,
    world: World,
    // Only kept of a machine that is not the talk's own.
    trail: Trail,
    before: Option<Sight>,
}

/// One command that was run: itself, and what it said when.
#[derive(Debug, Clone)]
pub struct Played {
    /// The command.
    pub command: String,
    /// What it said.
    pub pieces: Pieces,
}

impl Theatre {
    /// A machine on which step `number` can begin.
    pub fn open(script: Script, host: bool, number: usize) -> Result<Self, Failure> {
        let world = if host { free_host()? } else { World::private()? };
        let mut theatre = Self {
            script,
            background: Vec::new(),
            world,
            trail: Trail::default(),
            before: None,
        };
        theatre.make(number)?;
        Ok(theatre)
    }

    /// The talk.
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// Makes everything anew, as it is before step `number` when all before it have been told.
    pub fn go_to(&mut self, number: usize) -> Result<(), Failure> {
        self.background.clear();
        match self.world {
            World::Private { .. } => self.world = World::private()?,
            World::Host => self.clear_host()?,
        }
        self.make(number)
    }

    fn make(&mut self, number: usize) -> Result<(), Failure> {
        self.up()?;
        let before = self.script.setup.len();
        let way: Vec<_> = self.script.way_to(number).cloned().collect();
        for (index, run) in way.iter().enumerate() {
            let (seen, _) = self.play(run)?;
            // A step that fails is told by its own check; without its set-up no step can be told.
            if let Some(miss) = misses(run, &seen).first().filter(|_| index < before) {
                return Err(Failure::failed(format!(
                    "line {}: the set-up failed: {miss}",
                    run.line
                )));
            }
        }
        self.end_step();
        Ok(())
    }

    fn up(&self) -> Result<(), Failure> {
        let mut words = vec!["netns-lab", "up"];
        if self.script.topology.is_some() {
            words.push("/dev/stdin");
        }
        words.extend(self.script.up.iter().map(String::as_str));
        let (program, args) = self.world.words(&words);
        let input = self.script.topology.as_deref().map(str::as_bytes);
        let output = tool::run(&program, &args, input)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("error: ");
        let kind = if output.status.code() == Some(3) {
            Kind::HostLacks
        } else {
            Kind::Failed
        };
        Err(Failure::new(
            kind,
            format!("cannot make the lab of the talk: {said}"),
        ))
    }

    /// Takes the lab down, and undoes what commands have changed beside it.
    fn clear_host(&mut self) -> Result<(), Failure> {
        self.background.clear();
        for words in [&["miniproxy", "cleanup"][..], &["netns-lab", "down"]] {
            Running::start(self.world.program(words))?.wait(LAB);
        }
        let script = self.trail.undo(&sight(&self.world)?);
        if !script.is_empty() {
            Running::start(self.world.program(&["sh", "-c", &script]))?.wait(LAB);
        }
        Ok(())
    }

    /// Remembers how a machine that is not the talk's own is before a command.
    pub fn look_before(&mut self) -> Result<(), Failure> {
        if matches!(self.world, World::Host) {
            self.before = Some(sight(&self.world)?);
        }
        Ok(())
    }

    /// Remembers what the command has changed.
    pub fn look_after(&mut self) -> Result<(), Failure> {
        if let Some(before) = self.before.take() {
            self.trail.note(&before, &sight(&self.world)?);
        }
        Ok(())
    }

    /// A command, ready to be started; it may have the terminal.
    pub fn command(&self, run: &Run, text: &str) -> std::process::Command {
        let mut words = Vec::new();
        if let Some(place) = &run.place {
            words.extend(["netns-lab", "exec", place, "--"]);
        }
        words.extend([run.shell.program(), "-c", text]);
        self.world.program(&words)
    }

    /// A shell on the machine.
    pub fn shell(&self) -> std::process::Command {
        self.world
            .shell("A shell on the machine of the talk: `exit` comes back.")
    }

    /// Ends what the run wants ended, before any of its commands.
    pub fn clear_for(&mut self, run: &Run) {
        if let Some(name) = &run.stop {
            let named = Background::Named(name.clone());
            self.background.retain(|(goes_on, _)| *goes_on != named);
        }
    }

    /// Starts a command of a run; [`Theatre::look_after`] belongs behind its end.
    pub fn start(&mut self, run: &Run, text: &str) -> Result<Running, Failure> {
        self.look_before()?;
        Running::start(self.command(run, text))
    }

    /// Lets a command go on beside the others.
    pub fn let_go_on(&mut self, background: Background, running: Running) {
        self.background.push((background, running));
    }

    /// Runs all commands of a run, and says what they showed.
    pub fn play(&mut self, run: &Run) -> Result<(Seen, Vec<Played>), Failure> {
        self.clear_for(run);
        let (mut seen, mut played) = (Seen::default(), Vec::new());
        for command in &run.commands {
            let mut running = self.start(run, command)?;
            let end = watch(run, &mut running);
            self.look_after()?;
            played.push(spoken(command, &running, &mut seen));
            seen.ends.push(end);
            if let (End::GoesOn, Some(background)) = (end, &run.background) {
                self.let_go_on(background.clone(), running);
            } else if end != End::Code(0) {
                break;
            }
        }
        Ok((seen, played))
    }

    /// What goes on to the end of its step ends.
    pub fn end_step(&mut self) {
        self.background
            .retain(|(goes_on, _)| *goes_on != Background::Step);
    }

    /// Runs a step, and says what was not as it says.
    pub fn check(&mut self, step: &Step) -> Result<Tried, Failure> {
        let began = Instant::now();
        let mut wrong = Vec::new();
        for run in &step.runs {
            let (seen, _) = self.play(run)?;
            wrong.extend(
                misses(run, &seen)
                    .into_iter()
                    .map(|miss| Wrong { line: run.line, miss }),
            );
            if !wrong.is_empty() {
                break;
            }
        }
        self.end_step();
        Ok(Tried::new(
            Part::Step,
            step.number,
            &step.title,
            began.elapsed(),
            wrong,
        ))
    }

    /// Goes to a step, and compares with how it was when all before it had been told.
    pub fn check_jump(&mut self, step: &Step, straight: &[String]) -> Result<Tried, Failure> {
        let began = Instant::now();
        self.go_to(step.number)?;
        let took = began.elapsed();
        let wrong = state::differences(straight, &self.state()?)
            .into_iter()
            .map(|line| Wrong {
                line: step.line,
                miss: difference(&line),
            });
        Ok(Tried::new(
            Part::Jump,
            step.number,
            &step.title,
            took,
            wrong.collect(),
        ))
    }

    /// What the machine is like.
    pub fn state(&self) -> Result<Vec<String>, Failure> {
        let mut running = Running::start(self.world.program(&["sh", "-c", state::PROBE]))?;
        match running.wait(LAB) {
            End::Code(0) => Ok(state::lines(&running.text())),
            _ => Err(Failure::failed("cannot look at the machine of the talk")),
        }
    }
}

/// This machine, if nothing is on it that the end of a talk would take down.
fn free_host() -> Result<World, Failure> {
    if let Some(lab) = store::labs()?.first() {
        return Err(Failure::failed(format!("the lab {lab} is up on this machine"))
            .hint("take it down first: netns-lab down"));
    }
    if sight(&World::Host)?.has_chain("KUBE-") {
        return Err(
            Failure::failed("this machine has rules of miniproxy or kube-proxy")
                .hint("if they are miniproxy's: miniproxy cleanup; or leave --host out, for a sandbox"),
        );
    }
    Ok(World::Host)
}

fn sight(world: &World) -> Result<Sight, Failure> {
    let mut running = Running::start(world.program(&["sh", "-c", trail::PROBE]))?;
    running.wait(LAB);
    Ok(Sight::read(&running.text()))
}

impl Drop for Theatre {
    fn drop(&mut self) {
        if matches!(self.world, World::Host)
            && let Err(failure) = self.clear_host()
        {
            labkit::shell::tell(&format!("warning: {}", failure.message()));
        }
    }
}

/// Waits until a command ends, or, if it is to go on, until it has said what it must.
fn watch(run: &Run, running: &mut Running) -> End {
    if run.background.is_none() {
        return running.wait(run.timeout);
    }
    let began = Instant::now();
    let enough = |text: &str| run.is_settled(text, began.elapsed());
    running.wait_for(run.timeout, enough);
    running.ended().map_or(End::GoesOn, End::Code)
}

fn spoken(command: &str, running: &Running, seen: &mut Seen) -> Played {
    let pieces = running.pieces();
    seen.text.extend(pieces.iter().map(|(_, text)| text.as_str()));
    Played {
        command: command.to_string(),
        pieces,
    }
}

/// One line that is there on one way only.
fn difference(line: &str) -> Miss {
    match line.split_at_checked(2) {
        Some(("- ", lost)) => Miss {
            expected: format!("`{lost}`, as when all steps before were told (is a run without `keep`?)"),
            seen: "nothing of it after a jump".to_string(),
        },
        other => Miss {
            expected: "the same as when all steps before were told".to_string(),
            seen: format!("`{}` only after a jump", other.map_or(line, |(_, more)| more)),
        },
    }
}
