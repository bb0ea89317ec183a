//! Entries of the connection table, and the news of them.

use std::net::SocketAddr;

use crate::model::Protocol;

/// One entry of the connection table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// What the kernel names it by: a hash of 32 bits, which two entries of thousands may share.
    pub id: u32,
    /// Who called.
    pub source: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where the client wanted to go.
    pub destination: SocketAddr,
    /// Who answers: the backend after DNAT, else the destination itself.
    pub reply_source: SocketAddr,
    /// A packet came back.
    pub answered: bool,
    /// Both ends have closed it, or one has cut it off; the entry is kept a while.
    pub closed: bool,
}

/// What tells an entry from all others that are there.
pub type Name = (u32, SocketAddr);

impl Flow {
    /// Its name among the entries of one node.
    pub fn name(&self) -> Name {
        (self.id, self.source)
    }

    /// Whether a rule gave it another destination.
    pub fn rewritten(&self) -> bool {
        self.destination != self.reply_source
    }
}

/// What the kernel told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It was there before anybody looked.
    Found(Flow),
    /// It is there, and the news of its beginning may have been lost.
    Recovered(Flow),
    /// A connection began.
    Began(Flow),
    /// Something about it changed.
    Changed(Flow),
    /// The entry is gone.
    Ended(Flow),
    /// News were lost; what is still in the table follows as [`News::Recovered`].
    Lost,
    /// The table was listed anew: what did not turn up in it is gone.
    Listed,
}
