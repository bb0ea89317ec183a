//! What a packet's bytes say of it.

use std::net::{IpAddr, SocketAddr};

use pnet::packet::Packet as _;
use pnet::packet::ethernet::{EtherTypes, EthernetPacket};
use pnet::packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::ipv6::Ipv6Packet;
use pnet::packet::tcp::{TcpFlags, TcpPacket};
use pnet::packet::udp::UdpPacket;

/// A packet, as far as a journey is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes to.
    pub destination: SocketAddr,
    /// What TCP says; `None` for UDP.
    pub tcp: Option<Segment>,
}

/// What a TCP header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The number of its first byte.
    pub sequence: u32,
    /// The number that is expected next.
    pub acknowledgement: u32,
    /// SYN without ACK: the first packet of a connection.
    pub opens: bool,
    /// SYN with ACK.
    pub answers: bool,
    /// RST.
    pub resets: bool,
}

/// An Ethernet frame's packet; `None` for other protocols and cut headers.
pub fn of_frame(frame: &[u8]) -> Option<Seen> {
    let frame = EthernetPacket::new(frame)?;
    match frame.get_ethertype() {
        EtherTypes::Ipv4 | EtherTypes::Ipv6 => of_packet(frame.payload()),
        _ => None,
    }
}

/// A whole IP packet.
pub fn of_packet(bytes: &[u8]) -> Option<Seen> {
    if bytes.first()? >> 4 == 4 {
        let packet = Ipv4Packet::new(bytes)?;
        of_headers(bytes, packet.payload())
    } else {
        let packet = Ipv6Packet::new(bytes)?;
        of_headers(bytes, packet.payload())
    }
}

/// A network header, and the bytes of the transport header, as the kernel tells them apart.
pub fn of_headers(network: &[u8], transport: &[u8]) -> Option<Seen> {
    let (source, destination, protocol): (IpAddr, IpAddr, _) = if network.first()? >> 4 == 4 {
        let header = Ipv4Packet::new(network)?;
        (
            header.get_source().into(),
            header.get_destination().into(),
            header.get_next_level_protocol(),
        )
    } else {
        let header = Ipv6Packet::new(network)?;
        (
            header.get_source().into(),
            header.get_destination().into(),
            header.get_next_header(),
        )
    };
    let (ports, tcp) = transport_of(protocol, transport)?;
    Some(Seen {
        source: SocketAddr::new(source, ports.0),
        destination: SocketAddr::new(destination, ports.1),
        tcp,
    })
}

fn transport_of(protocol: IpNextHeaderProtocol, bytes: &[u8]) -> Option<((u16, u16), Option<Segment>)> {
    match protocol {
        IpNextHeaderProtocols::Tcp => {
            let header = TcpPacket::new(bytes)?;
            let flags = header.get_flags();
            let has = |flag: u8| flags & flag != 0;
            let segment = Segment {
                sequence: header.get_sequence(),
                acknowledgement: header.get_acknowledgement(),
                opens: has(TcpFlags::SYN) && !has(TcpFlags::ACK),
                answers: has(TcpFlags::SYN) && has(TcpFlags::ACK),
                resets: has(TcpFlags::RST),
            };
            Some(((header.get_source(), header.get_destination()), Some(segment)))
        }
        IpNextHeaderProtocols::Udp => {
            let header = UdpPacket::new(bytes)?;
            Some(((header.get_source(), header.get_destination()), None))
        }
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A TCP packet without options.
    pub(crate) fn tcp(source: &str, destination: &str, sequence: u32, flags: u8) -> Vec<u8> {
        let (source, destination): (SocketAddr, SocketAddr) =
            (source.parse().unwrap(), destination.parse().unwrap());
        let (IpAddr::V4(from), IpAddr::V4(to)) = (source.ip(), destination.ip()) else {
            panic!("IPv4 only");
        };
        let mut bytes = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
        bytes.extend(from.octets());
        bytes.extend(to.octets());
        bytes.extend(source.port().to_be_bytes());
        bytes.extend(destination.port().to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn a_first_packet_is_read_and_a_cut_one_is_none() {
        let bytes = tcp("10.244.0.2:40000", "10.96.0.80:80", 7, 2);
        let seen = of_packet(&bytes).unwrap();
        assert_eq!(seen.source.to_string(), "10.244.0.2:40000");
        assert_eq!(seen.destination.to_string(), "10.96.0.80:80");
        assert!(
            seen.tcp
                .is_some_and(|tcp| tcp.sequence == 7 && tcp.opens && !tcp.answers)
        );
        assert_eq!(of_headers(&bytes[..20], &bytes[20..]), Some(seen));
        for cut in 0..bytes.len() {
            let _ = of_packet(&bytes[..cut]);
            let _ = of_frame(&bytes[..cut]);
        }
    }
}
