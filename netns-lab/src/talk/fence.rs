//! The words behind a fence, and the commands between two.

use std::time::Duration;

use super::script::{Background, PATIENCE, Pattern, Run, Shell};

/// What may stand behind a fence.
const KNOWN: &str = "run, expect=\"…\", absent=\"…\", fails, in=PLACE, timeout=5s, background, background=NAME, \
                     stop=NAME, hidden, screen, keep";

/// The run of a fence (`sh run expect="web-1"`); `None` for a block that is only shown.
///
/// # Errors
/// With what is wrong.
pub fn run(info: &str, line: usize) -> Result<Option<Run>, String> {
    let mut words = words(info)?.into_iter();
    let language = words.next().map(|word| word.name).unwrap_or_default();
    let words: Vec<_> = words.collect();
    let runs = words.iter().any(|word| word.name == "run");
    if !runs {
        let ours = words
            .iter()
            .find(|word| ["expect", "absent", "fails"].contains(&word.name.as_str()));
        return match ours {
            Some(word) => Err(format!("`{}` stands without `run`", word.name)),
            None => Ok(None),
        };
    }
    let shell = match language.as_str() {
        "sh" | "shell" | "console" => Shell::Sh,
        "bash" => Shell::Bash,
        other => return Err(format!("`{other}` cannot be run: expected sh or bash")),
    };
    let mut run = Run {
        line,
        shell,
        timeout: PATIENCE,
        ..Run::default()
    };
    for word in words {
        attribute(&mut run, word)?;
    }
    Ok(Some(run))
}

fn attribute(run: &mut Run, word: Word) -> Result<(), String> {
    let Word { name, value } = word;
    match (name.as_str(), value) {
        ("run", None) => {}
        ("expect", Some(text)) => run.expect.push(Pattern::new(&text)?),
        ("absent", Some(text)) => run.absent.push(Pattern::new(&text)?),
        ("fails", None) => run.fails = true,
        ("in", Some(place)) => run.place = Some(name_of(place)?),
        ("timeout", Some(time)) => run.timeout = duration(&time)?,
        ("background", None) => run.background = Some(Background::Step),
        ("background", Some(name)) => run.background = Some(Background::Named(name_of(name)?)),
        ("stop", Some(name)) => run.stop = Some(name_of(name)?),
        ("hidden", None) => run.hidden = true,
        ("screen", None) => run.screen = true,
        ("keep", None) => run.keep = true,
        (name, value) => {
            let value = value.map(|value| format!("={value}")).unwrap_or_default();
            return Err(format!("`{name}{value}` is not known: expected {KNOWN}"));
        }
    }
    Ok(())
}

/// Names go into command lines.
fn name_of(text: String) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !text.is_empty() && !text.starts_with('-') && text.bytes().all(good) {
        Ok(text)
    } else {
        Err(format!(
            "`{text}` is no name: expected letters, digits, `-`, `.` or `_`"
        ))
    }
}

/// `200ms`, `5s` or `2m`, ten minutes at most.
fn duration(text: &str) -> Result<Duration, String> {
    let parse = || {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(digits);
        let factor = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            _ => return None,
        };
        let time = number.parse::<u64>().ok()?.checked_mul(factor)?;
        (1..=600_000)
            .contains(&time)
            .then_some(Duration::from_millis(time))
    };
    parse().ok_or_else(|| format!("`{text}` is no time: expected 200ms, 5s or 2m, ten minutes at most"))
}

/// `expect="a b"`: a name and its value.
struct Word {
    name: String,
    value: Option<String>,
}

/// Splits at spaces that are not in quotes. In quotes `\"` is a quote; all other backslashes stay,
/// for they belong to a regular expression.
fn words(info: &str) -> Result<Vec<Word>, String> {
    let mut found = Vec::new();
    let mut rest = info.trim();
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c == '=' || c.is_whitespace())
            .unwrap_or(rest.len());
        let name = rest[..end].to_string();
        rest = &rest[end..];
        let mut value = None;
        if let Some(after) = rest.strip_prefix('=') {
            let (text, left) = if let Some(quoted) = after.strip_prefix('"') {
                quote(quoted).ok_or_else(|| format!("the quote of `{name}` does not end"))?
            } else {
                let end = after.find(char::is_whitespace).unwrap_or(after.len());
                (after[..end].to_string(), &after[end..])
            };
            value = Some(text);
            rest = left;
        }
        found.push(Word { name, value });
        rest = rest.trim_start();
    }
    Ok(found)
}

/// What is between the quotes, and what comes after them.
fn quote(text: &str) -> Option<(String, &str)> {
    let mut inside = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((inside, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                '"' => inside.push('"'),
                other => inside.extend(['\\', other]),
            },
            other => inside.push(other),
        }
    }
    None
}

/// Where a fenced block, as it stands in the file, does not end as it should: so many lines below its
/// first one, and what is wrong. Words would run as commands otherwise.
pub fn unclosed(block: &str) -> Option<(usize, String)> {
    let fence = |line: &str| {
        let line = line.trim_start_matches([' ', '>']);
        let sign = line.chars().next().filter(|sign| "`~".contains(*sign))?;
        let length = line.chars().take_while(|c| *c == sign).count();
        (length >= 3).then(|| (sign, length, line[length..].trim().is_empty()))
    };
    let mut lines = block.trim_end().lines();
    let (sign, length, _) = fence(lines.next()?)?;
    let ours = |line: &str| fence(line).filter(|found| found.0 == sign && found.1 >= length);
    let mut last = None;
    for (index, line) in lines.enumerate() {
        last = ours(line);
        if last.is_some_and(|(.., bare)| !bare) {
            return Some((
                index + 1,
                "a block begins here, but the one above has not ended".to_string(),
            ));
        }
    }
    let ends: String = std::iter::repeat_n(sign, length).collect();
    last.is_none().then(|| {
        (
            0,
            format!("the block does not end: expected {ends} on a line below it"),
        )
    })
}

/// The commands of a block: one a line, but for lines that belong together (a line that ends in
/// `\`, `|` or `&&`, a `for … done`, a here-document, indented lines). Comments are left out.
pub fn commands(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut document: Option<String> = None;
    let mut goes_on = false;
    for line in text.lines() {
        let bare = line.trim();
        if let Some(end) = &document {
            append(&mut found, line);
            if bare == end {
                document = None;
            }
            continue;
        }
        if bare.is_empty() || (bare.starts_with('#') && !goes_on) {
            continue;
        }
        let line = line.strip_prefix("$ ").unwrap_or(line);
        if goes_on || belongs_to_last(line) {
            append(&mut found, line);
        } else {
            found.push(line.to_string());
        }
        goes_on = ["\\", "|", "&&", "||", "{", " do", " then"]
            .iter()
            .any(|end| line.trim_end().ends_with(end));
        document = here_document(line);
    }
    found
}

fn append(found: &mut Vec<String>, line: &str) {
    match found.last_mut() {
        Some(last) => {
            last.push('\n');
            last.push_str(line);
        }
        None => found.push(line.to_string()),
    }
}

fn belongs_to_last(line: &str) -> bool {
    let first = line
        .split(|c: char| c.is_whitespace() || c == ';')
        .next()
        .unwrap_or_default();
    line.starts_with([' ', '\t'])
        || ["do", "done", "then", "else", "elif", "fi", "esac", "}", ")"].contains(&first)
}

/// The word that ends the here-document that this line begins.
fn here_document(line: &str) -> Option<String> {
    let (_, word) = line.split_once("<<")?;
    let word = word.trim_start_matches('-').trim_start();
    if word.starts_with('<') {
        return None;
    }
    let word = word.trim_start_matches(['\'', '"']);
    let end = word
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(word.len());
    (end > 0).then(|| word[..end].to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fence_says_what_must_be_seen() {
        let info = r#"sh run fails expect="Net \"Un\w+\"" expect=b absent=x in=client timeout=200ms keep"#;
        let run = run(info, 7).unwrap().unwrap();
        assert_eq!(run.expect[0].as_str(), r#"Net "Un\w+""#);
        assert_eq!(run.expect.len(), 2);
        assert!(run.fails && run.keep && run.absent.len() == 1);
        assert_eq!((run.place.as_deref(), run.line), (Some("client"), 7));
        assert_eq!(run.timeout, Duration::from_millis(200));
    }

    #[test]
    fn blocks_that_are_only_shown_do_not_run() {
        for info in ["", "sh", "json lab", "console", "text wide"] {
            assert!(run(info, 1).unwrap().is_none(), "{info}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (info, part) in [
            ("sh expect=\"x\"", "without `run`"),
            ("sh run expct=\"x\"", "expct=x"),
            ("sh run expect=\"x", "does not end"),
            ("sh run expect=\"(\"", "regular expression"),
            ("python run", "sh or bash"),
            ("sh run timeout=5", "200ms"),
            ("sh run timeout=11m", "ten minutes"),
            ("sh run in=\"a b\"", "no name"),
            ("sh run fails=yes", "not known"),
        ] {
            let why = run(info, 1).unwrap_err();
            assert!(why.contains(part), "{info}: {why}");
        }
    }

    #[test]
    fn a_block_that_does_not_end_is_told() {
        assert_eq!(unclosed("```sh run\nls\n```\n"), None);
        assert_eq!(unclosed("````md\n```sh run\nls\n```\n````"), None);
        assert_eq!(unclosed("```sh run\nls\n~~~\n").unwrap().0, 0);
        assert_eq!(
            unclosed("```sh run\nls\n\nWords\n\n```sh run\nls\n```\n")
                .unwrap()
                .0,
            5
        );
    }

    #[test]
    fn lines_that_belong_together_are_one_command() {
        let text = "# why\ncurl -s \\\n  10.96.0.10\nfor i in 1 2; do\ncurl x\ndone\ncat <<'END' | sort\nb\n\na\nEND\n\n$ ip a |\ngrep x\n";
        assert_eq!(
            commands(text),
            [
                "curl -s \\\n  10.96.0.10",
                "for i in 1 2; do\ncurl x\ndone",
                "cat <<'END' | sort\nb\n\na\nEND",
                "ip a |\ngrep x",
            ]
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(info in "\\PC*", text in "[a-z<>|\\\\\"' \n#$]*") {
            let _ = run(&info, 1);
            let _ = commands(&text);
        }
    }
}
