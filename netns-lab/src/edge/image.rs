//! A small image: this program, the libraries that it needs, and a few files.
//!
//! Which libraries those are, the kernel has known since this process was started.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use labkit::Failure;
use tar::{Builder, EntryType, Header};

/// Where the program is in the image.
pub const PROGRAM: &str = "usr/bin/netns-lab";

/// Folders that programs expect, with their modes.
const FOLDERS: [(&str, u32); 10] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o555),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("var", 0o755),
    ("volume", 0o1777),
];

/// Files that programs expect. Those that a pod has of its own are bound over the empty ones.
const FILES: [(&str, &str); 7] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/:/usr/bin/nologin\nnobody:x:65534:65534:nobody:/:/usr/bin/nologin\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/nsswitch.conf", "hosts: files dns\n"),
    ("etc/os-release", "NAME=\"netns-lab image\"\nID=netns-lab\n"),
    ("etc/hostname", ""),
    ("etc/hosts", ""),
    ("etc/resolv.conf", ""),
];

/// Writes the image and returns what is in it.
pub fn build(file: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |what: &str| {
        let message = format!("cannot write the image {}: {what}", file.display());
        move |error: io::Error| Failure::failed(format!("{message}: {error}"))
    };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut temporary = tempfile_in(folder.unwrap_or(Path::new(".")), file).map_err(failed("the file"))?;
    let mut image = Image {
        archive: Builder::new(&mut temporary.file),
        known: BTreeSet::new(),
    };
    image.fill().map_err(failed("its content"))?;
    image.archive.finish().map_err(failed("its end"))?;
    let known = std::mem::take(&mut image.known);
    drop(image);
    temporary.keep(file).map_err(failed("its name"))?;
    Ok(known.into_iter().collect())
}

/// A file that is not there under its name until it is whole.
struct Temporary {
    file: File,
    path: PathBuf,
    kept: bool,
}

fn tempfile_in(folder: &Path, name: &Path) -> io::Result<Temporary> {
    let name = name.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let path = folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let file = fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    Ok(Temporary {
        file,
        path,
        kept: false,
    })
}

impl Temporary {
    fn keep(mut self, name: &Path) -> io::Result<()> {
        fs::rename(&self.path, name)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

struct Image<'a> {
    archive: Builder<&'a mut File>,
    known: BTreeSet<PathBuf>,
}

impl Image<'_> {
    fn fill(&mut self) -> io::Result<()> {
        for (name, mode) in FOLDERS {
            self.folder(Path::new(name), mode)?;
        }
        self.link(Path::new("bin"), Path::new("usr/bin"))?;
        for (name, content) in FILES {
            let header = header(EntryType::Regular, 0o644, content.len() as u64);
            self.append(header, Path::new(name), content.as_bytes())?;
        }
        let program = fs::read("/proc/self/exe")?;
        let header = header(EntryType::Regular, 0o755, program.len() as u64);
        self.append(header, Path::new(PROGRAM), &program[..])?;
        for library in libraries()? {
            self.with_links(&library)?;
            self.aliases(&library)?;
        }
        match interpreter(&program) {
            Some(interpreter) => self.with_links(&interpreter),
            None => Ok(()),
        }
    }

    /// A file of the host under the same path, with all links that lead to it.
    fn with_links(&mut self, path: &Path) -> io::Result<()> {
        const LONGEST: usize = 40;
        let mut path = path.to_path_buf();
        'links: for _ in 0..LONGEST {
            let mut walked = PathBuf::from("/");
            let parts: Vec<_> = path.components().collect();
            for (place, part) in parts.iter().enumerate() {
                match part {
                    Component::Normal(name) => walked.push(name),
                    Component::ParentDir => {
                        walked.pop();
                    }
                    _ => continue,
                }
                if let Ok(target) = fs::read_link(&walked) {
                    self.parents(&walked)?;
                    self.link(inner(&walked), &target)?;
                    let folder = walked.parent().unwrap_or(Path::new("/"));
                    let rest: PathBuf = parts[place + 1..].iter().collect();
                    path = folder.join(target).join(rest);
                    continue 'links;
                }
            }
            self.parents(&walked)?;
            return self.file(&walked);
        }
        Err(io::Error::other(format!(
            "{} is a circle of links",
            path.display()
        )))
    }

    /// Links beside a library that lead to it: programs ask for `libx.so.1`, the file is `libx.so.1.2`.
    fn aliases(&mut self, library: &Path) -> io::Result<()> {
        let Some(folder) = library.parent() else {
            return Ok(());
        };
        for entry in fs::read_dir(folder)?.filter_map(Result::ok) {
            let path = entry.path();
            let leads_there = entry.file_type().is_ok_and(|kind| kind.is_symlink())
                && fs::canonicalize(&path).is_ok_and(|found| found == library);
            if leads_there {
                self.with_links(&path)?;
            }
        }
        Ok(())
    }

    fn parents(&mut self, path: &Path) -> io::Result<()> {
        let mut parents: Vec<_> = inner(path).ancestors().skip(1).collect();
        parents.reverse();
        for parent in parents
            .into_iter()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            self.folder(parent, 0o755)?;
        }
        Ok(())
    }

    fn folder(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        self.append(header(EntryType::Directory, mode, 0), path, io::empty())
    }

    fn file(&mut self, path: &Path) -> io::Result<()> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let header = header(EntryType::Regular, 0o755, length);
        self.append(header, inner(path), file.by_ref().take(length))
    }

    fn link(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        if self.known.insert(path.to_path_buf()) {
            let mut header = header(EntryType::Symlink, 0o777, 0);
            self.archive.append_link(&mut header, path, target)?;
        }
        Ok(())
    }

    fn append(&mut self, mut header: Header, path: &Path, content: impl io::Read) -> io::Result<()> {
        if self.known.insert(path.to_path_buf()) {
            self.archive.append_data(&mut header, path, content)?;
        }
        Ok(())
    }
}

/// The same on every day and for every user, so that the same program gives the same image.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

/// A path within the image.
fn inner(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// The files that are mapped into this process to be executed, other than the program.
fn libraries() -> io::Result<BTreeSet<PathBuf>> {
    let program = fs::read_link("/proc/self/exe")?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let lines = maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let executed = fields.nth(1)?.contains('x');
        let path = fields.nth(3)?;
        (executed && path.starts_with('/')).then(|| PathBuf::from(path))
    });
    Ok(lines.filter(|path| *path != program).collect())
}

/// The program that starts this one, as its ELF header names it; a static program has none.
fn interpreter(program: &[u8]) -> Option<PathBuf> {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, length: usize| {
        let bytes = program.get(at..at + length)?;
        let digits = bytes.iter().enumerate();
        let value = digits.fold(0_u64, |value, (place, byte)| {
            value | u64::from(*byte) << (8 * place)
        });
        usize::try_from(value).ok()
    };
    // 64 bits, the lowest byte first: all that this program is built for.
    if program.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let mut segments = (0..count).map(|index| table + index * size);
    let segment = segments.find(|at| number(*at, 4) == usize::try_from(PT_INTERP).ok())?;
    let (offset, length) = (number(segment + 8, 8)?, number(segment + 32, 8)?);
    let name = program.get(offset..offset.checked_add(length)?)?;
    let name = std::str::from_utf8(name).ok()?.trim_end_matches('\0');
    name.starts_with('/').then(|| PathBuf::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_is_read_from_the_program_and_nothing_panics() {
        let program = fs::read("/proc/self/exe").unwrap();
        if let Some(interpreter) = interpreter(&program) {
            assert!(interpreter.exists(), "{interpreter:?}");
        }
        for length in 0..200 {
            let _ = interpreter(&program[..length]);
        }
        assert_eq!(interpreter(b"#!/bin/sh"), None);
    }

    #[test]
    fn a_process_knows_its_libraries() {
        for library in libraries().unwrap() {
            assert!(library.is_file(), "{library:?}");
        }
    }
}
