//! What of the host goes into rules: its name, its interfaces' addresses, one sysctl.

use std::net::IpAddr;

use labkit::Failure;

use super::sysctls;
use crate::model::Counters;
use crate::node::Host;
use crate::sysctls::TCP_BE_LIBERAL;

/// This host; its interfaces are asked only where rules depend on them.
///
/// # Errors
/// When the interfaces cannot be listed.
pub fn host(with_addresses: bool) -> Result<Host, Failure> {
    Ok(Host {
        name: nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        addresses: if with_addresses {
            interface_addresses()?
        } else {
            Vec::new()
        },
        // Not there means that connections are not tracked yet, and then it will be 0. What an earlier
        // sync set is no fact of the host: where it is not asked for any more it is put back.
        counters: Counters::default(),
        tcp_be_liberal: sysctls::apart_from_ours(TCP_BE_LIBERAL).is_some_and(|value| value != "0"),
    })
}

/// Every address of every interface, as kube-proxy asks for them at each sync.
///
/// # Errors
/// When they cannot be listed.
pub fn interface_addresses() -> Result<Vec<IpAddr>, Failure> {
    let interfaces = nix::ifaddrs::getifaddrs()
        .map_err(|error| Failure::failed(format!("cannot list the addresses of the interfaces: {error}")))?;
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| {
            address
                .as_sockaddr_in6()
                .map(|address| IpAddr::from(address.ip()))
        })
    });
    Ok(addresses.collect())
}
