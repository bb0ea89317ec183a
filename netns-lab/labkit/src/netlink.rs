//! The bytes of netlink messages: headers and attributes, written and read.
//!
//! For what no crate has words for. Layout: the kernel's `include/uapi/linux/netlink.h`.

use std::io;

use netlink_sys::Socket;

/// It asks for something.
pub const NLM_F_REQUEST: u16 = 0x1;
/// An answer is wanted even when all went well.
pub const NLM_F_ACK: u16 = 0x4;
/// In an answer: what is listed changed meanwhile, and something may be missing.
pub const NLM_F_DUMP_INTR: u16 = 0x10;
/// Everything is to be listed.
pub const NLM_F_DUMP: u16 = 0x300;
/// Set in the type of an attribute that holds others.
pub const NLA_F_NESTED: u16 = 0x8000;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;

/// One message that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// What kind it is, in the numbers of its protocol.
    pub kind: u16,
    /// `NLM_F_…`
    pub flags: u16,
    /// The number of the request that it answers.
    pub sequence: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// Whether a list ends here.
    pub fn is_end(&self) -> bool {
        self.kind == NLMSG_DONE
    }

    /// `Ok` unless it says that something was refused. An acknowledgement is an error of number 0.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn refuse_error(&self) -> io::Result<()> {
        if self.kind != NLMSG_ERROR {
            return Ok(());
        }
        match self.body.first_chunk().copied().map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the kernel sent a short error message",
            )),
        }
    }
}

/// A message to the kernel; `body` is the protocol's own header and its attributes.
pub fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = HEADER + body.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(body);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// Appends an attribute.
pub fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Appends an attribute that holds others.
pub fn put_nested(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    put(bytes, kind | NLA_F_NESTED, &inner);
}

/// As much as the kernel puts into one answer of a list, with room to spare.
const ANSWER: usize = 64 * 1024;

/// Asks for a list and passes on each message of it. `false` when what is listed changed meanwhile,
/// so that something may be missing or told twice.
///
/// # Errors
/// What the kernel answered, or the socket.
pub fn dump(
    socket: &Socket,
    kind: u16,
    sequence: u32,
    body: &[u8],
    mut each: impl FnMut(&Message<'_>),
) -> io::Result<bool> {
    socket.send(&message(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, body), 0)?;
    let mut buffer = Vec::with_capacity(ANSWER);
    let mut whole = true;
    loop {
        receive(socket, &mut buffer, 0)?;
        for answer in messages(&buffer).filter(|answer| answer.sequence == sequence) {
            whole &= answer.flags & NLM_F_DUMP_INTR == 0;
            if answer.is_end() {
                return Ok(whole);
            }
            answer.refuse_error()?;
            each(&answer);
        }
    }
}

/// Receives once, in place of what the buffer held.
///
/// # Errors
/// What the socket says; `WouldBlock` with `MSG_DONTWAIT` where nothing has come.
pub fn receive(socket: &Socket, buffer: &mut Vec<u8>, flags: i32) -> io::Result<()> {
    buffer.clear();
    loop {
        match socket.recv(buffer, flags) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
}

/// What one receive brought, message by message; ends at the first that is cut short.
pub fn messages(mut buffer: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(ne32(buffer)?).ok()?;
        let (header, body) = buffer.get(..length)?.split_at_checked(HEADER)?;
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: ne32(&header[8..])?,
            body,
        })
    })
}

/// The attributes in these bytes, each with its type (without flags) and its value.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two highest bits are flags: nested, and network byte order.
        Some((kind & 0x3fff, value))
    })
}

/// The value of the first attribute of this type.
pub fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// The first four bytes in the machine's own order.
pub fn ne32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

/// The first four bytes in network order.
pub fn be32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_be_bytes)
}

/// The first two bytes in network order.
pub fn be16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().copied().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others_and_never_read_past_the_end() {
        let mut body = Vec::new();
        put(&mut body, 1, b"nat\0");
        put(&mut body, 3, b"PREROUTING\0");
        put_nested(&mut body, 5, |inner| put(inner, 2, &[7]));
        assert_eq!(attribute(&body, 3), Some(b"PREROUTING\0".as_slice()));
        assert_eq!(
            attribute(&body, 5).and_then(|inner| attribute(inner, 2)),
            Some([7].as_slice())
        );
        assert_eq!(attribute(&body, 4), None);
        let sent = message(9, NLM_F_REQUEST, 7, &body);
        let read: Vec<Message<'_>> = messages(&sent).collect();
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].kind, read[0].sequence, read[0].body), (9, 7, &body[..]));
        for cut in 0..sent.len() {
            assert_eq!(messages(&sent[..cut]).count(), 0);
            assert!(attributes(&sent[..cut]).count() <= 4);
        }
    }

    #[test]
    fn an_acknowledgement_is_no_error() {
        let answer = |code: i32| message(NLMSG_ERROR, 0, 1, &code.to_ne_bytes());
        let read = |bytes: &[u8]| {
            messages(bytes)
                .map(|message| message.refuse_error())
                .collect::<Result<Vec<()>, _>>()
        };
        assert!(read(&answer(0)).is_ok());
        assert_eq!(
            read(&answer(-2)).map_err(|error| error.raw_os_error()).err(),
            Some(Some(2))
        );
        assert!(read(&message(NLMSG_ERROR, 0, 1, &[])).is_err());
    }
}
