//! Which iptables the host uses: the nf_tables flavour or the legacy one.
//!
//! Both can be installed, each shows only its own rules, and packets pass through both. Rules that
//! go to the other one than everybody else's work, but nobody finds them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::nftables::{NfFamily, NfTables};
use crate::{Failure, tool};

/// The kernel interface that an iptables program writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// `iptables-nft`: rules are nf_tables rules.
    Nft,
    /// `iptables-legacy`: rules are the old `ip_tables` blobs.
    Legacy,
}

impl Flavour {
    /// `nf_tables` or `legacy`, as `iptables --version` says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nft => "nf_tables",
            Self::Legacy => "legacy",
        }
    }

    fn short(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }
}

/// IPv4 or IPv6: each has its own programs, tables and rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `iptables`.
    V4,
    /// `ip6tables`.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// `IPv4` or `IPv6`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }
}

/// The programs of one flavour, and how they were chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xtables {
    /// The flavour that is written to.
    pub flavour: Flavour,
    /// Path of the IPv4 `iptables` program; the others are its siblings.
    pub program: PathBuf,
    /// Why this one, in words that follow "using iptables (nf_tables): ".
    pub reason: String,
    /// Rules stand in both flavours: each tool shows only half of what happens to a packet.
    pub mixed: bool,
}

impl Xtables {
    /// Chooses the flavour: the given program, else the one that holds the host's rules, else what
    /// plain `iptables` is.
    ///
    /// # Errors
    /// `HostLacks` when no iptables is found, `Usage` when the given path is none.
    pub fn detect(given: Option<&Path>) -> Result<Self, Failure> {
        if let Some(given) = given {
            return Self::given(given);
        }
        let default = tool::find("iptables").and_then(|path| Some((flavour_of(&path)?, path)));
        let Some((default, path)) = default.or_else(any_flavour) else {
            return Err(Failure::host_lacks("iptables was not found")
                .hint("install it: sudo apt-get install iptables"));
        };
        let (nft, legacy) = (nft_has_rules(), legacy_has_rules());
        let wanted = match (nft, legacy) {
            (true, false) => Flavour::Nft,
            (false, true) => Flavour::Legacy,
            _ => default,
        };
        let reason = match (nft, legacy) {
            (true, true) => "plain `iptables` is this one, though both flavours hold rules".to_string(),
            (false, false) => "plain `iptables` is this one".to_string(),
            _ => "the host's rules are there".to_string(),
        };
        let program = if wanted == default {
            path
        } else {
            tool::find(&format!("iptables-{}", wanted.short())).unwrap_or(path)
        };
        Ok(Self {
            flavour: wanted,
            program,
            reason,
            mixed: nft && legacy,
        })
    }

    fn given(given: &Path) -> Result<Self, Failure> {
        // A bare name is looked up as a shell would.
        let bare = given.components().count() == 1 && !given.exists();
        let program = match given.to_str().filter(|_| bare).map(tool::find) {
            Some(found) => found,
            None => Some(given.to_path_buf()).filter(|path| path.exists()),
        };
        let Some(program) = program else {
            return Err(Failure::usage(format!("there is no {}", given.display()))
                .hint("name a program, such as --iptables iptables-nft"));
        };
        let flavour = flavour_of(&program).ok_or_else(|| {
            Failure::usage(format!("{} is not an iptables program", given.display()))
                .hint("name one, such as --iptables iptables-nft")
        })?;
        Ok(Self {
            flavour,
            program,
            reason: "as --iptables says".into(),
            mixed: false,
        })
    }

    /// What to type to run this very program: a name where that is enough, else the path.
    pub fn typed(&self) -> String {
        let name = self
            .program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let found = |name: &str| tool::find(name).and_then(|path| fs::canonicalize(path).ok());
        let here = fs::canonicalize(&self.program).ok();
        match tool::find("iptables").and_then(|path| flavour_of(&path)) {
            Some(flavour) if flavour == self.flavour && found("iptables") == here => "iptables".into(),
            _ if found(&name) == here => name,
            _ => self.program.display().to_string(),
        }
    }

    /// The program of a family that changes or lists single rules.
    pub fn iptables(&self, family: Family) -> PathBuf {
        self.sibling(family, "")
    }

    /// The program of a family that prints all rules.
    pub fn save(&self, family: Family) -> PathBuf {
        self.sibling(family, "-save")
    }

    /// The program of a family that writes many rules at once.
    pub fn restore(&self, family: Family) -> PathBuf {
        self.sibling(family, "-restore")
    }

    /// `iptables (nf_tables)`.
    pub fn name(&self) -> String {
        format!("iptables ({})", self.flavour.name())
    }

    fn sibling(&self, family: Family, suffix: &str) -> PathBuf {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        let name = name.replacen(Family::V4.program(), family.program(), 1);
        self.program.with_file_name(format!("{name}{suffix}"))
    }
}

fn any_flavour() -> Option<(Flavour, PathBuf)> {
    [Flavour::Nft, Flavour::Legacy]
        .into_iter()
        .find_map(|flavour| Some((flavour, tool::find(&format!("iptables-{}", flavour.short()))?)))
}

/// What a program is, by the file behind its links, else by what it says of itself.
fn flavour_of(path: &Path) -> Option<Flavour> {
    let file = fs::canonicalize(path).ok()?;
    match file.file_name()?.to_str()? {
        "xtables-nft-multi" | "xtables-compat-multi" => return Some(Flavour::Nft),
        "xtables-legacy-multi" | "xtables-multi" => return Some(Flavour::Legacy),
        _ => {}
    }
    let said = tool::run_ok(path, &["--version"], None).ok()?;
    let said = String::from_utf8_lossy(&said);
    if said.contains("nf_tables") {
        return Some(Flavour::Nft);
    }
    // Before 1.8 there was only one, and it did not say which.
    said.contains("iptables v").then_some(Flavour::Legacy)
}

/// Whether any chain of an nf_tables `ip` or `ip6` table that iptables uses holds a rule.
fn nft_has_rules() -> bool {
    let chains = NfTables::open()
        .and_then(|mut kernel| kernel.chains())
        .unwrap_or_default();
    chains.iter().any(|chain| {
        let iptables = ["filter", "nat", "mangle", "raw", "security"].contains(&chain.table.name.as_str());
        let family = matches!(chain.table.family, NfFamily::Ip | NfFamily::Ip6);
        iptables && family && chain.uses > 0
    })
}

/// Whether a legacy table of this network namespace holds a rule.
fn legacy_has_rules() -> bool {
    Family::ALL
        .into_iter()
        .any(|family| legacy_tables_exist(family) == Some(true) && legacy_dump_has_rules(family))
}

/// Whether this network namespace has any legacy table of a family; `None` when the kernel does not
/// let us look (a user namespace that was made together with its network namespace).
///
/// Ask this before `iptables-legacy-save`, which would make what it asks about.
pub fn legacy_tables_exist(family: Family) -> Option<bool> {
    let names = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    match fs::read_to_string(names) {
        Ok(names) => Some(!names.trim().is_empty()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(false),
        Err(_) => None,
    }
}

fn legacy_dump_has_rules(family: Family) -> bool {
    let Some(save) = tool::find(&format!("{}-legacy-save", family.program())) else {
        return false;
    };
    tool::run_ok::<&str>(&save, &[], None).is_ok_and(|dump| {
        dump.split(|byte| *byte == b'\n')
            .any(|line| line.starts_with(b"-A "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_keep_folder_and_flavour() {
        let xtables = Xtables {
            flavour: Flavour::Nft,
            program: "/usr/sbin/iptables-nft".into(),
            reason: String::new(),
            mixed: false,
        };
        assert_eq!(
            xtables.save(Family::V6),
            Path::new("/usr/sbin/ip6tables-nft-save")
        );
        assert_eq!(
            xtables.restore(Family::V4),
            Path::new("/usr/sbin/iptables-nft-restore")
        );
        assert_eq!(xtables.iptables(Family::V6), Path::new("/usr/sbin/ip6tables-nft"));
    }
}
