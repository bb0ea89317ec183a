//! A file of packets that Wireshark reads: one interface for each cable, names, the rules as a comment.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use labkit::{Failure, files};
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::name_resolution::{Ipv4Record, Ipv6Record, NameResolutionBlock, Record};

use crate::journey::{Cable, Capture};

/// Timestamps count nanoseconds.
const NANOSECONDS: u8 = 9;

/// Whether a file can be written there, before anything is sent.
///
/// # Errors
/// What is in the way.
pub fn check(path: &Path) -> Result<(), Failure> {
    let refused = |why: String| Failure::usage(format!("cannot write {}: {why}", path.display()));
    if path.is_dir() {
        return Err(refused("it is a folder".into()).hint("name a file in it"));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK)
        .map_err(|error| refused(format!("the folder {}: {}", folder.display(), error.desc())))
}

/// Writes the file.
///
/// `comment` goes to the first packet of the caller's cable, and to the first of another.
///
/// # Errors
/// When the file cannot be written.
pub fn write(
    path: &Path,
    cables: &[Cable],
    captures: &[Capture],
    names: &BTreeMap<IpAddr, String>,
    comment: &str,
) -> Result<(), Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::failed(format!("cannot write {}: {error}", path.display()));
    let bytes = bytes(cables, captures, names, comment).map_err(|error| failed(&error))?;
    files::write_atomically(path, &bytes, 0o644).map_err(|error| failed(&error))
}

fn bytes(
    cables: &[Cable],
    captures: &[Capture],
    names: &BTreeMap<IpAddr, String>,
    comment: &str,
) -> Result<Vec<u8>, pcap_file::PcapError> {
    let mut writer = PcapNgWriter::new(Vec::new())?;
    for cable in cables {
        writer.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(cable.interface.clone())),
                InterfaceDescriptionOption::IfDescription(Cow::Owned(format!(
                    "the cable of pod {}",
                    cable.pod
                ))),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        })?;
    }
    writer.write_pcapng_block(NameResolutionBlock {
        records: names.iter().map(record).collect(),
        options: Vec::new(),
    })?;
    let first_of = |callers: bool| {
        captures.iter().position(|capture| {
            let cable = cables.get(capture.cable);
            cable.is_some_and(|cable| cable.is_callers == callers)
        })
    };
    let commented = [first_of(true), first_of(false)];
    let mut last = 0;
    for (index, capture) in captures.iter().enumerate() {
        // Two listeners may take two packets in the same nanosecond; Wireshark wants an order.
        last = capture.at.max(last + 1);
        let comment = commented
            .contains(&Some(index))
            .then(|| EnhancedPacketOption::Comment(Cow::Owned(comment.to_string())));
        writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id: u32::try_from(capture.cable).unwrap_or_default(),
            timestamp: Duration::from_nanos(u64::try_from(last).unwrap_or(u64::MAX)),
            original_len: u32::try_from(capture.length).unwrap_or(u32::MAX),
            data: Cow::Borrowed(&capture.bytes),
            options: comment.into_iter().collect(),
        })?;
    }
    Ok(writer.into_inner())
}

/// Wireshark's names are those of hosts: no `/`.
fn record<'a>((address, name): (&IpAddr, &String)) -> Record<'a> {
    let names = vec![Cow::Owned(name.replace('/', "."))];
    match address {
        IpAddr::V4(ip) => Record::Ipv4(Ipv4Record {
            ip_addr: Cow::Owned(ip.octets().to_vec()),
            names,
        }),
        IpAddr::V6(ip) => Record::Ipv6(Ipv6Record {
            ip_addr: Cow::Owned(ip.octets().to_vec()),
            names,
        }),
    }
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;

    #[test]
    fn what_is_written_is_read_back_in_order() {
        let cable = |pod: &str, is_callers| Cable {
            pod: pod.into(),
            address: "10.244.0.2".parse().unwrap(),
            interface: format!("veth-{pod}"),
            is_callers,
        };
        let captures: Vec<Capture> = (0..3)
            .map(|n| Capture {
                cable: n % 2,
                at: 1_700_000_000_000_000_000,
                bytes: vec![u8::try_from(n).unwrap(); 60],
                length: 60,
            })
            .collect();
        let names = BTreeMap::from([("10.96.0.80".parse().unwrap(), "svc-web".to_string())]);
        let bytes = bytes(
            &[cable("a", true), cable("b", false)],
            &captures,
            &names,
            "raw #1, nat #2",
        )
        .unwrap();
        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let (mut times, mut comments, mut interfaces) = (Vec::new(), 0, 0);
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::EnhancedPacket(packet) => {
                    times.push(packet.timestamp);
                    comments += packet.options.len();
                }
                Block::InterfaceDescription(_) => interfaces += 1,
                _ => {}
            }
        }
        assert_eq!((times.len(), comments, interfaces), (3, 2, 2));
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    }
}
