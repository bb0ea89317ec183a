//! Two questions to nf_tables that disturb nobody: has anything changed, and what uses this chain?
//!
//! Neither waits for whoever writes rules, and both cost microseconds. Message layout and numbers:
//! the kernel's `include/uapi/linux/netfilter/nf_tables.h`.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::libc;

const SUBSYSTEM: u16 = 10 << 8;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_GENERATION: u16 = SUBSYSTEM | 16;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_USE: u16 = 6;
const GENERATION_ID: u16 = 1;
const REQUEST: u16 = 1;
const ERROR_MESSAGE: u16 = 2;
const IPV4: u8 = 2;
/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADER: usize = 20;

/// A netlink socket to the rules of the network namespace it was opened in.
pub struct Chains {
    socket: Socket,
}

impl Chains {
    /// Opens it.
    ///
    /// # Errors
    /// When the kernel has no nf_tables.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// Another number after every transaction of anyone.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn generation(&mut self) -> io::Result<u32> {
        let answer = self.ask(GET_GENERATION, 0, &[])?;
        number(&answer, GENERATION_ID).ok_or_else(|| io::Error::other("no generation"))
    }

    /// The rules in a chain of the IPv4 nat table and the jumps to it; nothing if there is none.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn uses(&mut self, chain: &str) -> io::Result<Option<u32>> {
        let mut names = text(CHAIN_TABLE, "nat");
        names.extend(text(CHAIN_NAME, chain));
        match self.ask(GET_CHAIN, IPV4, &names) {
            Ok(answer) => Ok(number(&answer, CHAIN_USE)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn ask(&mut self, kind: u16, family: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        let length = u32::try_from(HEADER + attributes.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER + attributes.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(REQUEST.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([family, 0, 0, 0]);
        message.extend(attributes);
        self.socket.send(&message, 0)?;
        let (answer, _) = self.socket.recv_from_full()?;
        let short = || io::Error::other("the kernel's answer is too short");
        let kind = answer.get(4..6).ok_or_else(short)?;
        if u16::from_ne_bytes([kind[0], kind[1]]) == ERROR_MESSAGE {
            let code: [u8; 4] = answer
                .get(16..20)
                .and_then(|code| code.try_into().ok())
                .ok_or_else(short)?;
            return Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(code)));
        }
        Ok(answer)
    }
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    let length = 4 + value.len() + 1;
    let mut bytes = Vec::with_capacity(length + 3);
    bytes.extend(u16::try_from(length).expect("a name is short").to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value.as_bytes());
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// The value of a 32-bit attribute of one message.
fn number(message: &[u8], wanted: u16) -> Option<u32> {
    let mut rest = message.get(HEADER..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        if length < 4 || length > rest.len() {
            return None;
        }
        if u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff == wanted {
            return rest[4..length].try_into().ok().map(u32::from_be_bytes);
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_texts_and_never_past_the_end() {
        let mut message = vec![0; HEADER];
        message.extend(text(CHAIN_TABLE, "nat"));
        message.extend(text(CHAIN_NAME, "KUBE-SERVICES"));
        message.extend(8_u16.to_ne_bytes());
        message.extend(CHAIN_USE.to_ne_bytes());
        message.extend(42_u32.to_be_bytes());
        assert_eq!(number(&message, CHAIN_USE), Some(42));
        assert_eq!(number(&message, GENERATION_ID | 0x20), None);
        for cut in 0..message.len() {
            assert_eq!(number(&message[..cut], CHAIN_USE), None, "{cut}");
        }
    }
}
