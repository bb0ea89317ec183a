//! Markdown → script, or what is wrong in which line.

use std::fmt;
use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, MetadataBlockKind, Options, Parser, Tag, TagEnd};

use super::fence;
use super::script::{Background, DEFAULT_LAB, Run, Script, Step};

/// Something wrong in a talk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and what was expected.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// Reads a talk.
///
/// # Errors
/// With all that is wrong.
pub fn script(markdown: &str) -> Result<Script, Vec<Fault>> {
    // Some editors begin a file with it.
    let markdown = markdown.trim_start_matches('\u{feff}');
    let mut reader = Reader::new(markdown);
    let options = Options::ENABLE_YAML_STYLE_METADATA_BLOCKS | Options::ENABLE_TABLES;
    for (event, place) in Parser::new_ext(markdown, options).into_offset_iter() {
        reader.event(event, place);
    }
    reader.finish()
}

/// Which block the text that comes belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Heading(HeadingLevel),
    Quote,
    Code,
    Comment,
    Front,
    Prose,
}

struct Reader<'a> {
    markdown: &'a str,
    script: Script,
    faults: Vec<Fault>,
    /// The block that is open, with its line and text.
    block: Option<(Block, usize, String)>,
    /// The words behind the fence of the open block.
    info: String,
    /// Whether what comes belongs to the last step: a heading without a number ends it.
    in_step: bool,
    /// Hints that stand before the first run of their step.
    hints: Vec<String>,
    /// Steps with a block that cannot be read.
    broken: Vec<usize>,
}

impl<'a> Reader<'a> {
    fn new(markdown: &'a str) -> Self {
        Self {
            markdown,
            script: Script::default(),
            faults: Vec::new(),
            block: None,
            info: String::new(),
            in_step: false,
            hints: Vec::new(),
            broken: Vec::new(),
        }
    }

    fn fault(&mut self, line: usize, what: impl Into<String>) {
        self.faults.push(Fault {
            line,
            what: what.into(),
        });
    }

    fn event(&mut self, event: Event<'_>, place: Range<usize>) {
        let line = self.markdown[..place.start].matches('\n').count() + 1;
        match event {
            Event::Start(Tag::Heading { level, .. }) => self.open(Block::Heading(level), line),
            Event::Start(Tag::BlockQuote(_)) => self.open(Block::Quote, line),
            Event::Start(Tag::HtmlBlock) => self.open(Block::Comment, line),
            Event::Start(Tag::MetadataBlock(MetadataBlockKind::YamlStyle)) => self.open(Block::Front, line),
            Event::Start(Tag::CodeBlock(kind)) => {
                // Taken from the source: Markdown itself would eat the backslashes.
                let block = &self.markdown[place];
                let fence = block.lines().next().unwrap_or_default();
                self.info = match kind {
                    CodeBlockKind::Fenced(_) => {
                        if let Some((after, what)) = fence::unclosed(block) {
                            self.fault(line + after, what);
                        }
                        fence.trim_start_matches(['`', '~']).trim().to_string()
                    }
                    CodeBlockKind::Indented => String::new(),
                };
                self.open(Block::Code, line);
            }
            Event::Start(Tag::Paragraph | Tag::Item | Tag::TableCell) if self.block.is_none() => {
                self.open(Block::Prose, line);
            }
            Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) => self.text(&text),
            Event::Code(text) => self.text(&format!("`{text}`")),
            Event::SoftBreak => self.text(" "),
            Event::HardBreak => self.text("\n"),
            Event::End(end) => self.end(end),
            _ => {}
        }
    }

    fn open(&mut self, block: Block, line: usize) {
        self.close();
        self.block = Some((block, line, String::new()));
    }

    fn text(&mut self, more: &str) {
        if let Some((_, _, text)) = &mut self.block {
            text.push_str(more);
        }
    }

    fn end(&mut self, end: TagEnd) {
        let open = self.block.as_ref().map(|(block, ..)| *block);
        let ends = match end {
            TagEnd::Paragraph if open == Some(Block::Quote) => {
                self.text("\n");
                false
            }
            TagEnd::Paragraph | TagEnd::Item | TagEnd::TableCell => open == Some(Block::Prose),
            TagEnd::Heading(_)
            | TagEnd::BlockQuote(_)
            | TagEnd::HtmlBlock
            | TagEnd::MetadataBlock(_)
            | TagEnd::CodeBlock => true,
            _ => false,
        };
        if ends {
            self.close();
        }
    }

    fn close(&mut self) {
        let Some((block, line, text)) = self.block.take() else {
            return;
        };
        match block {
            Block::Heading(HeadingLevel::H1) if self.script.title.is_empty() => {
                self.script.title = text.trim().to_string();
            }
            Block::Heading(HeadingLevel::H2) => self.heading(line, text.trim()),
            Block::Heading(_) | Block::Prose => self.prose(text.trim()),
            Block::Quote => self.quote(text.trim()),
            Block::Comment => self.comments(line, &text),
            Block::Front => self.front(line, &text),
            Block::Code => self.code(line, &text),
        }
    }

    /// `5. One rule makes it exist`
    fn heading(&mut self, line: usize, text: &str) {
        self.hints.clear();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let title = text[digits..].strip_prefix('.').map(str::trim);
        self.in_step = digits > 0 && title.is_some();
        let (true, Some(title)) = (self.in_step, title) else {
            self.prose(text);
            return;
        };
        let number = self.script.steps.len() + 1;
        if text[..digits] != *number.to_string() {
            self.fault(
                line,
                format!("this is step {}, expected `## {number}. …`", &text[..digits]),
            );
        }
        if title.is_empty() {
            self.fault(line, format!("step {number} has no title"));
        }
        self.script.steps.push(Step {
            number,
            title: title.to_string(),
            line,
            ..Step::default()
        });
    }

    fn step(&mut self) -> Option<&mut Step> {
        self.script.steps.last_mut().filter(|_| self.in_step)
    }

    fn prose(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let text = text.to_string();
        let before = self.script.steps.is_empty();
        match self.step() {
            Some(step) => {
                step.told_at.push(step.runs.len());
                step.prose.push(text);
            }
            None if before => self.script.prose.push(text),
            None => {}
        }
    }

    fn quote(&mut self, text: &str) {
        let question = text.strip_prefix("predict:");
        match (question, self.step()) {
            (Some(question), Some(step)) => {
                let lines = question.lines().map(|line| line.trim().to_string());
                step.predict.extend(lines.filter(|line| !line.is_empty()));
            }
            _ => self.prose(text),
        }
    }

    fn comments(&mut self, line: usize, html: &str) {
        for comment in html.split("<!--").skip(1) {
            let inside = comment.split("-->").next().unwrap_or_default();
            let inside: Vec<_> = inside
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .collect();
            let inside = inside.join(" ");
            let Some((word, text)) = inside.split_once(':') else {
                continue;
            };
            let text = text.trim().to_string();
            match word.trim() {
                "note" | "notes" => match self.step() {
                    Some(step) => step.notes.push(text),
                    None => self.fault(line, "a note stands in a step: below `## N. …`"),
                },
                "hint" => self.hint(text),
                "task" => {
                    let run = self.step().and_then(|step| step.runs.last_mut());
                    match run {
                        Some(run) => run.tasks.push(text),
                        None => self.fault(line, "a task stands below the block that it is about"),
                    }
                }
                _ => {}
            }
        }
    }

    /// A hint belongs to the run above it, or else to the first one of its step.
    fn hint(&mut self, text: String) {
        match self.step().and_then(|step| step.runs.last_mut()) {
            Some(run) => run.hints.push(text),
            None => self.hints.push(text),
        }
    }

    /// `lab: 3-pods --pod-cidr 10.244.1.0/24`
    fn front(&mut self, line: usize, text: &str) {
        for (index, entry) in text.lines().enumerate() {
            let Some((key, value)) = entry.split_once(':') else {
                continue;
            };
            match key.trim() {
                "lab" | "up" => {
                    let value = value.trim().trim_matches(['"', '\'']);
                    self.script.up = value.split_ascii_whitespace().map(str::to_string).collect();
                }
                "title" => self.script.title = value.trim().trim_matches(['"', '\'']).to_string(),
                other => self.fault(
                    line + 1 + index,
                    format!("`{other}` is not known: expected `lab: …` or `title: …`"),
                ),
            }
        }
    }

    fn code(&mut self, line: usize, text: &str) {
        let info = std::mem::take(&mut self.info);
        if info.split_ascii_whitespace().eq(["json", "lab"]) {
            if let Err(error) = serde_json::from_str::<serde_json::Value>(text) {
                self.fault(line + error.line(), format!("the lab is no JSON: {error}"));
            }
            self.script.topology = Some(text.to_string());
            return;
        }
        match fence::run(&info, line) {
            Ok(Some(run)) => self.run(run, text),
            Ok(None) => {}
            Err(what) => {
                self.fault(line, what);
                self.broken.push(self.script.steps.len());
            }
        }
    }

    fn run(&mut self, run: Run, text: &str) {
        let run = Run {
            commands: fence::commands(text),
            hints: std::mem::take(&mut self.hints),
            ..run
        };
        let line = run.line;
        if run.commands.is_empty() && run.stop.is_none() {
            self.fault(line, "the block has no command");
        }
        if run.background.is_some() && (run.fails || run.commands.len() > 1) {
            self.fault(
                line,
                "what goes on in the background is one command, and has no end to fail at",
            );
        }
        let before = self.script.steps.is_empty();
        match self.step() {
            Some(step) => step.runs.push(run),
            None if before => self.script.setup.push(run),
            None => self.fault(line, "a block that runs stands in a step: below `## N. …`"),
        }
    }

    /// What is to be stopped must have been started before.
    fn stops(&mut self) {
        let steps = self.script.steps.iter().flat_map(|step| &step.runs);
        let mut names = Vec::new();
        let mut wrong = Vec::new();
        for run in self.script.setup.iter().chain(steps) {
            if let Some(name) = run.stop.as_ref().filter(|name| !names.contains(*name)) {
                let what = format!("`stop={name}`: no block above has `background={name}`");
                wrong.push((run.line, what));
            }
            if let Some(Background::Named(name)) = &run.background {
                names.push(name.clone());
            }
        }
        for (line, what) in wrong {
            self.fault(line, what);
        }
    }

    fn finish(mut self) -> Result<Script, Vec<Fault>> {
        self.close();
        self.stops();
        if self.script.steps.is_empty() {
            self.fault(
                1,
                "there is no step: expected a heading such as `## 1. The virtual IP exists nowhere`",
            );
        }
        let silent: Vec<_> = self
            .script
            .steps
            .iter()
            .filter(|step| step.runs.is_empty() && !self.broken.contains(&step.number))
            .collect();
        let silent: Vec<_> = silent.iter().map(|step| (step.line, step.number)).collect();
        for (line, number) in silent {
            self.fault(
                line,
                format!("step {number} runs nothing: expected a block ```sh run"),
            );
        }
        if self.script.up.is_empty() && self.script.topology.is_none() {
            self.script.up = vec![DEFAULT_LAB.to_string()];
        }
        if self.script.title.is_empty() {
            self.script.title = "A talk".to_string();
        }
        if self.faults.is_empty() {
            return Ok(self.script);
        }
        self.faults.sort_by_key(|fault| fault.line);
        Err(self.faults)
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
