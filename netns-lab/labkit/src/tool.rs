//! One child process: text in, text out, and an error that says which command said what.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::Failure;
use crate::watched::Watched;

/// Runs a program to its end and returns what it printed, whatever its exit code.
///
/// `input` becomes its whole standard input, from memory and not through a pipe: if this process
/// dies in the middle, the child still reads all of it and never acts on a part.
///
/// # Errors
/// `HostLacks` when the program is not there or may not be run, `Failed` for other failures to start.
pub fn run<S: AsRef<OsStr>>(program: &Path, args: &[S], input: Option<&[u8]>) -> Result<Output, Failure> {
    let stdin = match input {
        Some(bytes) => Stdio::from(
            in_memory(bytes)
                .map_err(|error| Failure::failed(format!("cannot hold input in memory: {error}")))?,
        ),
        None => Stdio::null(),
    };
    let started = Command::new(program).args(args).stdin(stdin).output();
    started.map_err(|error| not_run(program, &error))
}

/// The same as [`run`], but for a child that does not end: it is killed.
///
/// The input becomes text where it is written, which is the kernel's memory: a large one is never whole
/// in this process.
///
/// # Errors
/// As [`run`]; `Failed` when the child was killed.
pub fn run_within<S: AsRef<OsStr>>(
    program: &Path,
    args: &[S],
    input: &impl Display,
    longest: Duration,
) -> Result<Output, Failure> {
    let cannot = |error: io::Error| not_run(program, &error);
    let (mut stdout, mut stderr) = (in_memory(&[]).map_err(cannot)?, in_memory(&[]).map_err(cannot)?);
    let child = Command::new(program)
        .args(args)
        .stdin(displayed(input).map_err(cannot)?)
        .stdout(stdout.try_clone().map_err(cannot)?)
        .stderr(stderr.try_clone().map_err(cannot)?)
        .spawn()
        .map_err(cannot)?;
    let mut child = Watched::new(child, longest);
    let status = child.end().map_err(cannot)?;
    if let Some(how) = child.killed().filter(|_| !status.success()) {
        let name = program
            .file_name()
            .unwrap_or(program.as_os_str())
            .to_string_lossy();
        return Err(Failure::failed(format!("`{name}` {how}")));
    }
    let read = |file: &mut File| {
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut bytes))
            .map(|_| bytes)
    };
    Ok(Output {
        status,
        stdout: read(&mut stdout).map_err(cannot)?,
        stderr: read(&mut stderr).map_err(cannot)?,
    })
}

/// Runs a program to its end, and hands over each line of its standard output as it comes; the
/// output that is returned holds only the exit code and what went to standard error.
///
/// # Errors
/// As [`run`].
pub fn run_by_line<S: AsRef<OsStr>>(
    program: &Path,
    args: &[S],
    mut line: impl FnMut(&[u8]),
) -> Result<Output, Failure> {
    let cannot = |error: io::Error| not_run(program, &error);
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
    // Into memory, so that it can say much while nobody reads.
    let mut words = in_memory(&[]).map_err(cannot)?;
    let mut child = command
        .stderr(words.try_clone().map_err(cannot)?)
        .spawn()
        .map_err(cannot)?;
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = BufReader::with_capacity(1 << 16, stdout);
        let mut bytes = Vec::new();
        while stdout.read_until(b'\n', &mut bytes).map_err(cannot)? > 0 {
            line(bytes.strip_suffix(b"\n").unwrap_or(&bytes));
            bytes.clear();
        }
    }
    let status = child.wait().map_err(cannot)?;
    let mut stderr = Vec::new();
    words
        .rewind()
        .and_then(|()| words.read_to_end(&mut stderr))
        .map_err(cannot)?;
    Ok(Output {
        status,
        stdout: Vec::new(),
        stderr,
    })
}

fn not_run(program: &Path, error: &io::Error) -> Failure {
    let words = format!("cannot run {}: {error}", program.display());
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Failure::host_lacks(words),
        _ => Failure::failed(words),
    }
}

/// Runs a program that must succeed, and returns its standard output.
///
/// # Errors
/// As [`run`]; `Failed` with the command line and its last words when it exits with another code than 0.
pub fn run_ok<S: AsRef<OsStr>>(program: &Path, args: &[S], input: Option<&[u8]>) -> Result<Vec<u8>, Failure> {
    let output = run(program, args, input)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Failure::failed(complaint(program, args, &output)))
}

/// `iptables-restore -w 5 ended with exit status: 1: iptables-restore: line 3 failed`.
pub fn complaint<S: AsRef<OsStr>>(program: &Path, args: &[S], output: &Output) -> String {
    let mut line = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    for arg in args {
        line.push(' ');
        line.push_str(&arg.as_ref().to_string_lossy());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words.trim();
    let said = if words.is_empty() {
        "it said nothing"
    } else {
        words
    };
    format!("`{line}` ended with {}: {said}", output.status)
}

/// The first program of this name on `PATH`, or in the places where system tools live, which the
/// `PATH` of a plain user often lacks.
pub fn find(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|candidate| is_program(candidate))
}

/// How to install a package here, by the package manager that is found: `install it: sudo dnf
/// install iptables`.
pub fn install_hint(package: &str) -> String {
    const MANAGERS: [(&str, &str); 5] = [
        ("apt-get", "sudo apt-get install"),
        ("dnf", "sudo dnf install"),
        ("pacman", "sudo pacman -S"),
        ("apk", "sudo apk add"),
        ("zypper", "sudo zypper install"),
    ];
    match MANAGERS.iter().find(|(program, _)| find(program).is_some()) {
        Some((_, install)) => format!("install it: {install} {package}"),
        None => format!("install the package {package} of your distribution"),
    }
}

fn is_program(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

fn in_memory(bytes: &[u8]) -> io::Result<File> {
    memory(|file| file.write_all(bytes))
}

fn displayed(text: &impl Display) -> io::Result<File> {
    memory(|file| {
        let mut file = BufWriter::with_capacity(1 << 16, file);
        write!(file, "{text}")?;
        file.flush()
    })
}

fn memory(fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
    let mut file = File::from(memfd_create("input", MFdFlags::MFD_CLOEXEC)?);
    fill(&mut file)?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_arrives_whole() {
        let text = vec![b'x'; 300_000];
        assert_eq!(
            run_ok::<&str>(Path::new("/bin/cat"), &[], Some(&text)).unwrap(),
            text
        );
    }

    #[test]
    fn a_failure_names_the_command_and_its_words() {
        let failure = run_ok(
            Path::new("/bin/sh"),
            &["-c", "echo no such table >&2; exit 4"],
            None,
        )
        .unwrap_err();
        assert!(failure.message().contains("`sh -c"), "{failure}");
        assert!(
            failure.message().ends_with("exit status: 4: no such table"),
            "{failure}"
        );
    }

    #[test]
    fn a_child_that_does_not_end_is_ended() {
        let began = std::time::Instant::now();
        let within = |script| {
            run_within(
                Path::new("/bin/sh"),
                &["-c", script],
                &"in",
                Duration::from_millis(300),
            )
        };
        let failure = within("exec sleep 60").unwrap_err();
        assert!(failure.message().contains("had not ended"), "{failure}");
        assert!(began.elapsed() < Duration::from_secs(30));
        let output = within("cat; echo err >&2; exit 3").unwrap();
        assert_eq!(
            (output.stdout, output.stderr),
            (b"in".to_vec(), b"err\n".to_vec())
        );
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn a_large_input_arrives_whole_or_a_child_ends_before_its_end() {
        let text = "line of text\n".repeat(100_000);
        let within = |script| {
            let longest = Duration::from_secs(60);
            run_within(Path::new("/bin/sh"), &["-c", script], &text, longest).unwrap()
        };
        assert_eq!(within("exec cat").stdout.len(), text.len());
        let output = within("read line; echo \"$line\"; exit 4");
        assert_eq!(
            (output.status.code(), output.stdout),
            (Some(4), b"line of text\n".to_vec())
        );
    }

    #[test]
    fn a_missing_program_is_something_the_host_lacks() {
        assert_eq!(
            run::<&str>(Path::new("/nowhere/iptables"), &[], None)
                .unwrap_err()
                .exit_code(),
            3
        );
    }
}
