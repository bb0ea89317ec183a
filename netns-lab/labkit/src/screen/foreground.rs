//! Who has the terminal: it is given to a program, and taken back.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// The terminal of a process that has it now.
#[derive(Debug)]
pub struct Foreground {
    terminal: File,
    group: Pid,
    settings: Termios,
}

impl Foreground {
    /// The terminal, if there is one and this process has it.
    pub fn of_this_process() -> Option<Self> {
        let terminal = File::open("/dev/tty").ok()?;
        let settings = tcgetattr(&terminal).ok()?;
        let group = tcgetpgrp(&terminal).ok().filter(|group| *group == getpgrp())?;
        Some(Self {
            terminal,
            group,
            settings,
        })
    }

    /// Gives it to the processes of a group.
    ///
    /// # Errors
    /// When there is no such group.
    pub fn give_to(&self, group: Pid) -> io::Result<()> {
        Ok(tcsetpgrp(&self.terminal, group)?)
    }

    /// Takes it back, as it was. A shell in a sandbox cannot give it back: it does not know the
    /// numbers of those outside.
    pub fn take_back(&self) {
        as_if_in_front(|| {
            let _ = tcsetpgrp(&self.terminal, self.group);
            let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.settings);
        });
    }

    /// Takes it back if nobody is left who has it.
    pub fn take_back_if_free(&self) {
        let free = tcgetpgrp(&self.terminal).is_ok_and(|group| killpg(group, None) == Err(Errno::ESRCH));
        if free {
            as_if_in_front(|| {
                let _ = tcsetpgrp(&self.terminal, self.group);
            });
        }
    }
}

/// Whoever is not in front and changes the terminal is stopped, unless it holds the signal back.
fn as_if_in_front(change: impl FnOnce()) {
    let mut stopped = SigSet::empty();
    stopped.add(Signal::SIGTTOU);
    let before = stopped.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    change();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
}
