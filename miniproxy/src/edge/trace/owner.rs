//! Who left something behind: a process, told from a later one of the same number.

use std::fmt;
use std::fs;
use std::str::FromStr;

/// A process, by its number and by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pid: u32,
    /// In ticks since boot; field 22 of `/proc/PID/stat`.
    start: u64,
}

impl Owner {
    /// This process.
    pub fn own() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start: started(pid).unwrap_or(0),
        }
    }

    /// Whether it runs still.
    pub fn lives(self) -> bool {
        started(self.pid) == Some(self.start)
    }
}

fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from its end.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(start)
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pid, self.start)
    }
}

impl FromStr for Owner {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (pid, start) = text.split_once(':').ok_or(())?;
        Ok(Self {
            pid: pid.parse().map_err(|_| ())?,
            start: start.parse().map_err(|_| ())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_process_of_the_same_number_is_another() {
        let own = Owner::own();
        assert!(own.lives());
        assert_eq!(own.to_string().parse(), Ok(own));
        let earlier = Owner {
            start: own.start + 1,
            ..own
        };
        assert!(!earlier.lives());
        assert!("12".parse::<Owner>().is_err());
    }
}
