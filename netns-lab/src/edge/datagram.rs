//! A UDP socket whose answers leave from the address that was asked.
//!
//! A pod has one address, but a packet may have been sent to another one of it (127.0.0.1, or an
//! address that someone added): an answer from the wrong one is dropped by the asker's connected
//! socket, and conntrack takes it for a new connection.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use nix::libc::in_pktinfo;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// The socket.
pub struct DatagramSocket {
    socket: UdpSocket,
}

impl DatagramSocket {
    /// Binds it, within a runtime.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
        })
    }

    /// Waits for one datagram and answers it.
    pub async fn answer(&self, words: impl Fn(SocketAddr) -> String) -> io::Result<()> {
        let (client, info) = self
            .socket
            .async_io(Interest::READABLE, || self.receive())
            .await?;
        let Some(client) = client else {
            return Ok(());
        };
        let words = words(SocketAddr::V4(client.into()));
        self.socket
            .async_io(Interest::WRITABLE, || self.send(words.as_bytes(), client, info))
            .await
    }

    fn receive(&self) -> io::Result<(Option<SockaddrIn>, Option<in_pktinfo>)> {
        // What was sent does not matter, only who sent it; the rest of a long one is dropped.
        let mut text = [0; 2048];
        let mut space = nix::cmsg_space!(in_pktinfo);
        let mut slices = [IoSliceMut::new(&mut text)];
        let message = recvmsg::<SockaddrIn>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let info = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
            _ => None,
        });
        Ok((message.address, info))
    }

    fn send(&self, words: &[u8], client: SockaddrIn, info: Option<in_pktinfo>) -> io::Result<()> {
        // From the address it came to, by whatever link leads back.
        let info = info.map(|info| in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: info.ipi_addr,
            ..info
        });
        let control: Vec<_> = info.iter().map(ControlMessage::Ipv4PacketInfo).collect();
        let slices = [IoSlice::new(words)];
        sendmsg(
            self.socket.as_raw_fd(),
            &slices,
            &control,
            MsgFlags::MSG_DONTWAIT,
            Some(&client),
        )?;
        Ok(())
    }
}
