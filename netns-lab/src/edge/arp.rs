//! Asks a link by ARP who has an address.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use labkit::Failure;
use pnet::datalink::{self, Channel, Config, MacAddr, NetworkInterface};
use pnet::packet::Packet as _;
use pnet::packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};

/// How often the question is put, and how long each time an answer may take.
const QUESTIONS: u32 = 3;
const PATIENCE: Duration = Duration::from_millis(300);

const ETHERNET_BYTES: usize = 14;
const ARP_BYTES: usize = 28;

/// Who has `address`, asked from the link of this name in this thread's network namespace.
///
/// `None` when nobody answers. The link is not made promiscuous: answers are addressed to it.
pub fn who_has(link: &str, own: Ipv4Addr, address: Ipv4Addr) -> Result<Option<MacAddr>, Failure> {
    let failed = |error: io::Error| {
        let failure = Failure::failed(format!("cannot ask on {link}: {error}"));
        if error.kind() == io::ErrorKind::PermissionDenied {
            failure.hint("use sudo")
        } else {
            failure
        }
    };
    let found = datalink::interfaces()
        .into_iter()
        .find(|found| found.name == link);
    let interface = found.ok_or_else(|| Failure::failed(format!("there is no link {link}")))?;
    let config = Config {
        promiscuous: false,
        read_timeout: Some(PATIENCE / 3),
        ..Default::default()
    };
    let channel = datalink::channel(&interface, config).map_err(failed)?;
    let Channel::Ethernet(mut sender, mut receiver) = channel else {
        return Err(Failure::failed(format!("{link} is no Ethernet link")));
    };
    let question = question(&interface, own, address)?;
    for _ in 0..QUESTIONS {
        sender
            .send_to(&question, None)
            .unwrap_or(Ok(()))
            .map_err(failed)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match receiver.next() {
                Ok(frame) => {
                    if let Some(mac) = answer(frame, address) {
                        return Ok(Some(mac));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
    Ok(None)
}

/// `who has ADDRESS? tell OWN`, to everybody.
fn question(interface: &NetworkInterface, own: Ipv4Addr, address: Ipv4Addr) -> Result<Vec<u8>, Failure> {
    let unfit = || Failure::failed(format!("{} has no MAC address", interface.name));
    let mac = interface.mac.ok_or_else(unfit)?;
    let mut body = vec![0; ARP_BYTES];
    let mut arp = MutableArpPacket::new(&mut body).ok_or_else(unfit)?;
    arp.set_hardware_type(ArpHardwareTypes::Ethernet);
    arp.set_protocol_type(EtherTypes::Ipv4);
    arp.set_hw_addr_len(6);
    arp.set_proto_addr_len(4);
    arp.set_operation(ArpOperations::Request);
    arp.set_sender_hw_addr(mac);
    arp.set_sender_proto_addr(own);
    arp.set_target_proto_addr(address);
    let mut frame = vec![0; ETHERNET_BYTES + ARP_BYTES];
    let mut ethernet = MutableEthernetPacket::new(&mut frame).ok_or_else(unfit)?;
    ethernet.set_destination(MacAddr::broadcast());
    ethernet.set_source(mac);
    ethernet.set_ethertype(EtherTypes::Arp);
    ethernet.set_payload(&body);
    Ok(frame)
}

/// The MAC in a frame, if it is the answer.
fn answer(frame: &[u8], address: Ipv4Addr) -> Option<MacAddr> {
    let ethernet = EthernetPacket::new(frame).filter(|frame| frame.get_ethertype() == EtherTypes::Arp)?;
    let arp = ArpPacket::new(ethernet.payload())?;
    let fits = arp.get_operation() == ArpOperations::Reply && arp.get_sender_proto_addr() == address;
    fits.then(|| arp.get_sender_hw_addr())
}
