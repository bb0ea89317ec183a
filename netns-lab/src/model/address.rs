//! Addresses: which pod gets which, and which ranges are free.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::name::Label;

/// A bridge takes this many ports (`BR_MAX_PORTS` in the kernel's `br_private.h`, less port 0).
pub const MAX_PODS: usize = 1023;

/// The first pod of a node gets the address after the bridge's.
const BRIDGE_HOST: u32 = 1;

/// Why addresses could not be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The range is too small.
    #[error("{cidr} has room for {room} pods, and {wanted} are wanted")]
    Full {
        /// The pod CIDR.
        cidr: Ipv4Net,
        /// How many pods fit.
        room: usize,
        /// How many were asked for.
        wanted: usize,
    },
}

/// The bridge's own address: the first of the range.
pub fn bridge_address(cidr: Ipv4Net) -> Ipv4Addr {
    host(cidr, BRIDGE_HOST)
}

/// How many pods a range can hold: all but its own address, the bridge's and the broadcast.
pub fn room(cidr: Ipv4Net) -> usize {
    let hosts = 1_u64 << (32 - u32::from(cidr.prefix_len()));
    usize::try_from(hosts.saturating_sub(3)).unwrap_or(usize::MAX)
}

/// The `offset`-th address of a range.
pub fn host(cidr: Ipv4Net, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(cidr.network().to_bits().saturating_add(offset))
}

/// The `offset`-th address of an IPv6 range.
pub fn host6(cidr: Ipv6Net, offset: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(cidr.network().to_bits().saturating_add(u128::from(offset)))
}

/// The link-local address of a router: without one the kernel asks for no neighbour of a packet that
/// it forwards, and drops the packet.
pub fn link_local(ip: Ipv4Addr) -> Ipv6Net {
    const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 64);
    let ip = host6(LINK_LOCAL, ip.to_bits());
    Ipv6Net::new(ip, LINK_LOCAL.prefix_len()).unwrap_or(LINK_LOCAL)
}

/// The IPv6 address that goes with an IPv4 one: as far from the begin of its range.
pub fn beside(cidr: Ipv4Net, ip: Ipv4Addr, cidr6: Ipv6Net) -> Ipv6Addr {
    host6(cidr6, ip.to_bits().saturating_sub(cidr.network().to_bits()))
}

/// A MAC that follows from the address, so that captures read the same every time.
///
/// 02 marks it as locally administered: no manufacturer has it.
pub fn mac(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x02, 0x00, a, b, c, d]
}

/// `02:00:0a:f4:00:02`.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// An address for each wanted pod: who has one keeps it, others get the lowest that is free, and one
/// that was given back only when there is no other: the one that was given back first. Nobody gets one that is `held`.
pub fn assign(
    cidr: Ipv4Net,
    kept: &BTreeMap<Label, Ipv4Addr>,
    given_back: &[Ipv4Addr],
    held: &BTreeSet<Ipv4Addr>,
    wanted: &[Label],
) -> Result<Vec<Ipv4Addr>, AddressError> {
    let room = room(cidr);
    if wanted.len() > room {
        return Err(AddressError::Full {
            cidr,
            room,
            wanted: wanted.len(),
        });
    }
    // Only those that stay hold their address: who leaves makes room in the same step.
    let taken: BTreeSet<_> = wanted.iter().filter_map(|pod| kept.get(pod)).copied().collect();
    let last = u32::try_from(room)
        .unwrap_or(u32::MAX)
        .saturating_add(BRIDGE_HOST);
    let mut free = (BRIDGE_HOST + 1..=last)
        .map(|offset| host(cidr, offset))
        .filter(|ip| !given_back.contains(ip))
        .chain(given_back.iter().copied().filter(|ip| cidr.contains(ip)))
        .filter(|ip| !taken.contains(ip) && !held.contains(ip));
    wanted
        .iter()
        .map(|pod| kept.get(pod).copied().or_else(|| free.next()))
        .collect::<Option<Vec<_>>>()
        .ok_or(AddressError::Full {
            cidr,
            room,
            wanted: wanted.len(),
        })
}

/// The longest prefix whose range is large enough for so many pods; none is longer than a /24, as
/// nodes usually have it.
pub fn prefix_for(pods: usize) -> Option<u8> {
    (16..=24)
        .rev()
        .find(|prefix| Ipv4Net::new(Ipv4Addr::UNSPECIFIED, *prefix).is_ok_and(|cidr| room(cidr) >= pods))
}

/// The pod CIDR of a lab that was given none: the first range of 10.244.0.0/16 that is large
/// enough for its pods and overlaps none that other labs have.
pub fn default_pod_cidr(pods: usize, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    first_free(CLUSTER, prefix_for(pods)?, taken)
}

/// The pod CIDR of a lab of several nodes, of which each has a part.
pub const CLUSTER: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16);

/// The Service CIDR of a lab that was given none: 10.96.0.0/16, 10.97.0.0/16, and so on.
pub fn default_service_cidr(taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    first_free(Ipv4Net::new(Ipv4Addr::new(10, 96, 0, 0), 12).ok()?, 16, taken)
}

/// The address of the first Service, `web`; `.10` is where clusters have their DNS.
pub fn first_service(cidr: Ipv4Net) -> Option<Ipv4Addr> {
    (room(cidr) >= 80).then(|| host(cidr, 80))
}

/// The same in IPv6.
pub fn first_service6(cidr: Ipv6Net) -> Ipv6Addr {
    host6(cidr, 80)
}

/// Whether two ranges share an address.
pub fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn first_free(pool: Ipv4Net, prefix: u8, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    pool.subnets(prefix)
        .ok()?
        .find(|candidate| !taken.iter().any(|other| overlap(*candidate, *other)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn labels(names: &[&str]) -> Vec<Label> {
        names.iter().map(|name| Label::new(name).unwrap()).collect()
    }

    #[test]
    fn the_bridge_is_first_and_pods_follow() {
        let cidr = net("10.244.0.0/24");
        assert_eq!(bridge_address(cidr).to_string(), "10.244.0.1");
        let given = assign(
            cidr,
            &BTreeMap::new(),
            &[],
            &BTreeSet::new(),
            &labels(&["a", "b"]),
        )
        .unwrap();
        assert_eq!(
            given,
            [Ipv4Addr::new(10, 244, 0, 2), Ipv4Addr::new(10, 244, 0, 3)]
        );
        assert_eq!(mac_text(mac(given[0])), "02:00:0a:f4:00:02");
    }

    #[test]
    fn who_stays_keeps_the_address_and_who_comes_gets_the_lowest() {
        let cidr = net("10.244.0.0/24");
        let kept = BTreeMap::from([
            (Label::web(1), Ipv4Addr::new(10, 244, 0, 2)),
            (Label::web(3), Ipv4Addr::new(10, 244, 0, 4)),
        ]);
        let given = assign(cidr, &kept, &[], &BTreeSet::new(), &labels(&["web-3", "new"])).unwrap();
        assert_eq!(
            given,
            [Ipv4Addr::new(10, 244, 0, 4), Ipv4Addr::new(10, 244, 0, 2)]
        );
    }

    #[test]
    fn a_full_range_says_how_much_fits() {
        let wanted: Vec<_> = (1..=14).map(Label::web).collect();
        let failure = assign(
            net("10.0.0.0/28"),
            &BTreeMap::new(),
            &[],
            &BTreeSet::new(),
            &wanted,
        )
        .unwrap_err();
        assert_eq!(
            failure.to_string(),
            "10.0.0.0/28 has room for 13 pods, and 14 are wanted"
        );
        assert_eq!(room(net("10.0.0.0/32")), 0);
    }

    #[test]
    fn the_default_range_grows_with_the_pods_and_avoids_other_labs() {
        assert_eq!(default_pod_cidr(3, &[]), Some(net("10.244.0.0/24")));
        assert_eq!(default_pod_cidr(1000, &[]), Some(net("10.244.0.0/22")));
        assert_eq!(
            default_pod_cidr(3, &[net("10.244.0.0/24")]),
            Some(net("10.244.1.0/24"))
        );
        assert_eq!(default_pod_cidr(3, &[net("10.0.0.0/8")]), None);
        assert_eq!(default_service_cidr(&[]), Some(net("10.96.0.0/16")));
        assert_eq!(
            default_service_cidr(&[net("10.96.4.0/24")]),
            Some(net("10.97.0.0/16"))
        );
    }

    proptest! {
        #[test]
        fn no_two_pods_share_an_address(
            prefix in 20_u8..=28,
            kept in proptest::collection::btree_map(0_usize..40, 2_u32..14, 0..12),
            wanted in proptest::collection::btree_set(0_usize..40, 0..14),
        ) {
            let cidr = Ipv4Net::new(Ipv4Addr::new(10, 244, 0, 0), prefix).unwrap();
            // One address, one owner, as a ledger has it.
            let owners: BTreeMap<u32, usize> = kept.into_iter().map(|(pod, offset)| (offset, pod)).collect();
            let kept: BTreeMap<_, _> = owners.iter().map(|(offset, pod)| (Label::web(*pod), host(cidr, *offset))).collect();
            let wanted: Vec<_> = wanted.into_iter().map(Label::web).collect();
            if let Ok(given) = assign(cidr, &kept, &[], &BTreeSet::new(), &wanted) {
                prop_assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), wanted.len());
                for (pod, ip) in wanted.iter().zip(&given) {
                    prop_assert!(cidr.contains(ip) && *ip != bridge_address(cidr) && *ip != cidr.broadcast());
                    if let Some(before) = kept.get(pod) {
                        prop_assert_eq!(before, ip);
                    }
                }
            }
        }
    }
}
