//! The one command that a screen runs at a time.

use std::time::Instant;

use labkit::Failure;

use crate::edge::talk::running::Running;
use crate::engine::talk::Theatre;
use crate::talk::script::Run;
use crate::talk::verdict::End;

/// What became of it.
pub(in crate::cmd) enum News {
    /// It says this, all of it so far.
    Says(String),
    /// It has ended, or goes on in the background, having said this.
    Ended(String, End),
}

/// A command that runs for a screen.
#[derive(Debug, Default)]
pub(in crate::cmd) struct Hand {
    running: Option<(Running, Instant)>,
}

impl Hand {
    /// Starts a command of a run.
    pub(in crate::cmd) fn start(
        &mut self,
        theatre: &mut Theatre,
        run: &Run,
        text: &str,
    ) -> Result<(), Failure> {
        self.running = Some((theatre.start(run, text)?, Instant::now()));
        Ok(())
    }

    /// Whether one runs.
    pub(in crate::cmd) const fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Ends it.
    pub(in crate::cmd) fn stop(&mut self) {
        if let Some((running, _)) = &mut self.running {
            running.leave();
        }
    }

    /// Forgets it, and ends it thereby.
    pub(in crate::cmd) fn drop_it(&mut self) {
        self.running = None;
    }

    /// What is new of it.
    pub(in crate::cmd) fn look(&mut self, theatre: &mut Theatre, run: &Run) -> Option<News> {
        let (mut running, began) = self.running.take()?;
        let text = running.text();
        let late = began.elapsed() >= run.timeout;
        if let Some(code) = running.ended() {
            let _ = theatre.look_after();
            return Some(News::Ended(running.text(), End::Code(code)));
        }
        if let Some(background) = &run.background
            && (late || run.is_settled(&text, began.elapsed()))
        {
            theatre.let_go_on(background.clone(), running);
            return Some(News::Ended(text, End::GoesOn));
        }
        if late {
            running.leave();
            let _ = theatre.look_after();
            return Some(News::Ended(running.text(), End::TooLong));
        }
        self.running = Some((running, began));
        Some(News::Says(text))
    }
}
