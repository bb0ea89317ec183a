//! The speaker's notes, from the terminal that talks to the one that only the speaker sees.
//!
//! They go through a socket that is in no file system, so that nothing of it can be left behind.

use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use labkit::Failure;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;

/// Whoever does not read or write for so long has gone.
const PATIENCE: Duration = Duration::from_secs(1);
/// More than this is no note.
const MOST: u64 = 1 << 20;

/// Where a talk tells its notes.
#[derive(Debug, Clone, Default)]
pub struct Desk(Arc<Mutex<String>>);

impl Desk {
    /// Opens it; `None` when another talk of this user has it.
    pub fn open() -> Option<Self> {
        let listener = UnixListener::bind_addr(&address(geteuid().as_raw()).ok()?).ok()?;
        let desk = Self::default();
        let notes = Arc::clone(&desk.0);
        // It ends with the process.
        thread::spawn(move || {
            for mut reader in listener.incoming().filter_map(Result::ok) {
                let text = notes.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let _ = reader.set_write_timeout(Some(PATIENCE));
                if is_ours(&reader) {
                    let _ = reader.write_all(text.as_bytes());
                }
            }
        });
        Some(desk)
    }

    /// Lays down what is to be read now.
    pub fn put(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

/// What the talk of this user tells now.
pub fn read() -> Result<String, Failure> {
    let told = || -> std::io::Result<Option<String>> {
        let stream = UnixStream::connect_addr(&address(geteuid().as_raw())?)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        if !is_ours(&stream) {
            return Ok(None);
        }
        let mut text = String::new();
        stream.take(MOST).read_to_string(&mut text)?;
        Ok(Some(text))
    };
    match told() {
        Ok(Some(text)) if !text.is_empty() => Ok(text),
        _ => Err(Failure::failed("no talk is going on")
            .hint("begin it in another terminal, as the same user: netns-lab talk")),
    }
}

fn address(user: u32) -> std::io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("netns-lab-talk-{user}"))
}

/// Whether the other end is the same user or root: anybody can bind such a name.
fn is_ours(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == geteuid().as_raw() || peer.uid() == 0)
}
