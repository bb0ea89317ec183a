//! The commands that the documentation shows, found so that a test can run each of them.
//!
//! A command is a line `$ …` in a fenced block of `console` or `sh`; the lines below it are its
//! output. An HTML comment right before the fence, `<!-- test: OPTION; OPTION -->`, says what a test
//! must know and a reader need not:
//!
//! - `after COMMAND`: run this first (may stand several times);
//! - `goes on`: in the machine of the block before, not in a fresh one;
//! - `exit N`: the commands end with this code and not with 0;
//! - `interrupt`: the command runs until Ctrl-C, which comes after a second;
//! - `output`: the lines shown must occur in the output, `…` standing for anything;
//! - `skip REASON`: not run.

/// A fenced block with commands.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Block {
    /// The line of its fence.
    pub line: usize,
    /// What is shown.
    pub commands: Vec<Shown>,
    /// What to run before.
    pub setup: Vec<String>,
    /// Exit codes that are right.
    pub exits: Vec<i32>,
    /// In the machine of the block before.
    pub goes_on: bool,
    /// Ended by Ctrl-C.
    pub interrupt: bool,
    /// Whether the shown output must occur.
    pub check_output: bool,
    /// Why it is not run.
    pub skip: Option<String>,
}

/// A command and the output shown below it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The command line, continuation lines joined.
    pub text: String,
    /// The lines below it.
    pub output: Vec<String>,
}

impl Shown {
    /// Lines shown that the real output does not have.
    pub fn missing_from(&self, real: &str) -> Vec<&str> {
        let real: Vec<String> = real.lines().map(spaces_collapsed).collect();
        self.output
            .iter()
            .filter(|line| !line.trim().is_empty())
            .filter(|line| !real.iter().any(|real| matches(&spaces_collapsed(line), real)))
            .map(String::as_str)
            .collect()
    }
}

fn spaces_collapsed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether the parts between `…` occur in this order, the first at the start and the last at the end.
fn matches(pattern: &str, line: &str) -> bool {
    let parts: Vec<&str> = pattern.split('…').collect();
    let [first, middle @ .., last] = parts.as_slice() else {
        return pattern == line;
    };
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    for part in middle {
        let Some((_, after)) = rest.split_once(part) else {
            return false;
        };
        rest = after;
    }
    rest.ends_with(last)
}

/// The blocks of a document that hold commands.
///
/// # Errors
/// With the line and the word, when an option is not known: a typo would switch a check off.
pub fn blocks(markdown: &str) -> Result<Vec<Block>, String> {
    let mut found = Vec::new();
    let mut comment: Option<(usize, String)> = None;
    let mut lines = markdown.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let line = line.trim();
        if let Some(text) = line
            .strip_prefix("<!-- test:")
            .and_then(|rest| rest.strip_suffix("-->"))
        {
            comment = Some((index + 1, text.trim().to_string()));
        } else if let Some(language) = line.strip_prefix("```") {
            let inner: Vec<&str> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| line.trim() != "```")
                .collect();
            let mut block = Block {
                line: index + 1,
                exits: vec![0],
                ..Block::default()
            };
            if let Some((number, text)) = comment.take() {
                options(&mut block, &text).map_err(|problem| format!("line {number}: {problem}"))?;
            }
            if ["console", "sh"].contains(&language.trim()) {
                block.commands = commands(&inner);
                if !block.commands.is_empty() {
                    found.push(block);
                }
            }
        } else if !line.is_empty() {
            comment = None;
        }
    }
    Ok(found)
}

fn options(block: &mut Block, text: &str) -> Result<(), String> {
    for option in text.split(';').map(str::trim) {
        let (word, rest) = option.split_once(' ').unwrap_or((option, ""));
        match (word, rest) {
            ("after", command) if !command.is_empty() => block.setup.push(command.to_string()),
            ("exit", code) => {
                block.exits = vec![code.parse().map_err(|_| format!("`{code}` is no exit code"))?];
            }
            ("skip", reason) if !reason.is_empty() => block.skip = Some(reason.to_string()),
            ("goes", "on") => block.goes_on = true,
            ("interrupt", "") => block.interrupt = true,
            ("output", "") => block.check_output = true,
            _ => {
                return Err(format!(
                    "`{option}` is none of: after, exit, goes on, interrupt, output, skip"
                ));
            }
        }
    }
    Ok(())
}

fn commands(lines: &[&str]) -> Vec<Shown> {
    let mut shown: Vec<Shown> = Vec::new();
    let mut continues = false;
    for line in lines {
        let command = line.trim_start().strip_prefix("$ ");
        if let Some(command) = command {
            shown.push(Shown {
                text: command.to_string(),
                output: Vec::new(),
            });
        } else if let Some(last) = shown.last_mut() {
            if continues {
                last.text.push('\n');
                last.text.push_str(line);
            } else {
                last.output.push((*line).to_string());
            }
        }
        continues = line.ends_with('\\') && (command.is_some() || continues);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Title\n\n<!-- test: after netns-lab up 3-pods; exit 1; output -->\n```console\n\
        $ curl 10.96.0.80 \\\n    -m 1\ncurl: (28)…\n$ true\n```\n\nprose\n\n```rust\n$ not this\n```\n\
        <!-- test: skip needs the network -->\n```sh\n$ git clone x\n```\n";

    #[test]
    fn commands_options_and_output_are_found() {
        let found = blocks(TEXT).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].setup, ["netns-lab up 3-pods"]);
        assert_eq!(
            (found[0].line, &found[0].exits, found[0].check_output),
            (4, &vec![1], true)
        );
        assert_eq!(found[0].commands[0].text, "curl 10.96.0.80 \\\n    -m 1");
        assert_eq!(found[0].commands[0].output, ["curl: (28)…"]);
        assert_eq!(found[0].commands[1].text, "true");
        assert_eq!(found[1].skip.as_deref(), Some("needs the network"));
    }

    #[test]
    fn a_misspelt_option_is_an_error_with_its_line() {
        let problem = blocks("<!-- test: exits 1 -->\n```sh\n$ false\n```\n").unwrap_err();
        assert!(problem.starts_with("line 1: `exits 1`"), "{problem}");
    }

    #[test]
    fn output_may_have_gaps_and_other_spaces() {
        let shown = Shown {
            text: String::new(),
            output: vec!["web-1  10.244.0.2 … yes".into(), "gone".into()],
        };
        assert_eq!(shown.missing_from("web-1 10.244.0.2   x y yes\n"), ["gone"]);
    }
}
