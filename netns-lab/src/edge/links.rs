//! All links of a network namespace, of each only what a lab asks for.
//!
//! Why not by rtnetlink: it reads every attribute of every link into a tree of its own, which with a
//! thousand pods takes longer than all else that is looked at.

use labkit::Failure;
use labkit::netlink::{self, attribute, attributes, ne32};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc;

use super::breakage::links::{IFLA_BRPORT_MODE, socket};
use super::node::netlink_failure;
use crate::model::observed::Link;

/// How often to ask when links come or go while they are listed.
const ATTEMPTS: usize = 3;
/// The length of what comes before the attributes of a link (`struct ifinfomsg`).
const INFORMATION: usize = 16;
/// Counters of a thousand links are most of the answer, and nobody reads them here.
const RTEXT_FILTER_SKIP_STATS: u32 = 8;

/// The links of the namespace that this thread is in.
pub fn all() -> Result<Vec<Link>, Failure> {
    let mut question = vec![0; INFORMATION];
    netlink::put(
        &mut question,
        libc::IFLA_EXT_MASK,
        &RTEXT_FILTER_SKIP_STATS.to_ne_bytes(),
    );
    let listed = || {
        let socket = socket(NETLINK_ROUTE)?;
        let mut links = Vec::new();
        for attempt in 1..=u32::try_from(ATTEMPTS).unwrap_or(1) {
            links.clear();
            let whole = netlink::dump(&socket, libc::RTM_GETLINK, attempt, &question, |answer| {
                links.extend(link(answer.body));
            })?;
            if whole {
                break;
            }
        }
        Ok(links)
    };
    listed().map_err(|error| netlink_failure("list the links", &error))
}

/// One link, of which family and device type matter to nobody here.
fn link(body: &[u8]) -> Option<Link> {
    let (information, told) = body.split_at_checked(INFORMATION)?;
    let mut link = Link {
        index: ne32(&information[4..])?,
        up: ne32(&information[8..])? & u32::try_from(libc::IFF_UP).ok()? != 0,
        ..Default::default()
    };
    for (kind, value) in attributes(told) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_IFALIAS => link.alias = text(value),
            libc::IFLA_GROUP => link.group = ne32(value).unwrap_or(0),
            libc::IFLA_MASTER => link.master = ne32(value).unwrap_or(0),
            libc::IFLA_LINKINFO => link.hairpin_off = hairpin_is_off(value),
            _ => {}
        }
    }
    Some(link)
}

fn text(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn hairpin_is_off(link_info: &[u8]) -> bool {
    let kind = attribute(link_info, libc::IFLA_INFO_SLAVE_KIND).map(text);
    let port = attribute(link_info, libc::IFLA_INFO_SLAVE_DATA);
    let port = port.filter(|_| kind.as_deref() == Some("bridge"));
    port.and_then(|port| attribute(port, IFLA_BRPORT_MODE)) == Some(&[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_every_namespace_has() {
        let links = all().unwrap();
        let own = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!((own.index, own.master, own.hairpin_off), (1, 0, false));
    }

    #[test]
    fn a_port_of_a_bridge_says_whether_it_sends_back() {
        let info = |kind: &str, mode: u8| {
            let mut bytes = Vec::new();
            netlink::put(&mut bytes, libc::IFLA_INFO_SLAVE_KIND, kind.as_bytes());
            netlink::put_nested(&mut bytes, libc::IFLA_INFO_SLAVE_DATA, |port| {
                netlink::put(port, IFLA_BRPORT_MODE, &[mode]);
            });
            bytes
        };
        assert!(hairpin_is_off(&info("bridge\0", 0)));
        assert!(!hairpin_is_off(&info("bridge\0", 1)));
        assert!(!hairpin_is_off(&info("bond\0", 0)));
        assert_eq!(link(&[0; 15]), None);
    }
}
