//! What people call the things that packets go to and come from: `svc/web`, `node:30080`, a pod, outside.
//!
//! Words → [`Target`] and [`Caller`] (here) → with what is known of names ([`book`]) → the packet
//! ([`resolve`]). Pure.

pub mod book;
mod nearest;
pub mod resolve;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use labkit::Failure;

use crate::address::parse_ip;

pub use book::{Book, KnownNode, KnownPod, KnownPort};
pub use resolve::{Call, Door, Sender, SenderKind, resolve};

/// The port of a Service: by number or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortRef {
    /// `80`
    Number(u16),
    /// `http`
    Name(String),
}

/// Where a packet is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A Service, or (`web:30080`, without `svc/`) a node, whatever has the name.
    Named {
        /// Its namespace, if it was given.
        namespace: Option<String>,
        /// Its name.
        name: String,
        /// Its port; may be left out where there is one.
        port: Option<PortRef>,
        /// `svc/` was written: it is no node.
        surely_service: bool,
    },
    /// An address.
    Address {
        /// The address.
        ip: IpAddr,
        /// The port; may be left out where the address is a Service's with one port.
        port: Option<u16>,
    },
    /// `node:30080`: a port of the node whose rules are looked at.
    Node {
        /// The port.
        port: u16,
    },
}

/// Who sends the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A pod or a node, by its name; `ns/name` is a pod.
    Named {
        /// The pod's namespace, if it was given.
        namespace: Option<String>,
        /// The name.
        name: String,
    },
    /// `node`: the node whose rules are looked at.
    Node,
    /// `outside`: somebody who is not of the cluster.
    Outside,
    /// Whoever has this address.
    Address(IpAddr),
}

const EXPECTED: &str =
    "expected svc/NAME, NAMESPACE/NAME:PORT, ADDRESS:PORT or node:PORT, such as svc/web or 10.96.0.10:80";
const EXPECTED_CALLER: &str = "expected a pod, a node, `node`, `outside` or an address";

impl Target {
    /// Reads what a person typed.
    ///
    /// # Errors
    /// `Usage` when it is none of the forms.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::usage(format!("{text:?} is no target: {why}")).hint(EXPECTED);
        let bare = text.trim();
        let link = bare
            .strip_prefix("http://")
            .or_else(|| bare.strip_prefix("https://"));
        let bare = link.map_or(bare, |link| link.trim_end_matches('/'));
        if let Some(address) = address(bare) {
            return address.map_err(|why| wrong(&why));
        }
        let (surely_service, rest) = after_kind(bare, &["svc/", "service/", "services/"]);
        let (path, port) = match rest.rsplit_once(':') {
            Some((path, port)) => (path, Some(port)),
            None => (rest, None),
        };
        let port = port.map(port_ref).transpose().map_err(|why| wrong(&why))?;
        if path == "node" && !surely_service {
            return match port {
                Some(PortRef::Number(port)) => Ok(Self::Node { port }),
                _ => Err(wrong("a node is asked for by a port's number, as node:30080")),
            };
        }
        let (namespace, name) = names(path).map_err(|why| wrong(&why))?;
        Ok(Self::Named {
            namespace,
            name,
            port,
            surely_service,
        })
    }
}

impl Caller {
    /// Reads what a person typed.
    ///
    /// # Errors
    /// `Usage` when it is none of the forms.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let bare = text.trim();
        if let Some(ip) = parse_ip(bare.trim_start_matches('[').trim_end_matches(']')) {
            return Ok(Self::Address(ip));
        }
        match bare {
            "node" => return Ok(Self::Node),
            "outside" | "external" | "ext" => return Ok(Self::Outside),
            _ => {}
        }
        let (_, rest) = after_kind(bare, &["pod/", "pods/", "po/", "node/", "nodes/"]);
        let (namespace, name) = match rest.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_string()), name.to_string()),
            None => (None, rest.to_string()),
        };
        if !is_name(&name) || namespace.as_deref().is_some_and(|namespace| !is_name(namespace)) {
            return Err(Failure::usage(format!("{text:?} is nobody who calls")).hint(EXPECTED_CALLER));
        }
        Ok(Self::Named { namespace, name })
    }
}

fn after_kind<'a>(text: &'a str, kinds: &[&str]) -> (bool, &'a str) {
    match kinds.iter().find_map(|kind| text.strip_prefix(kind)) {
        Some(rest) => (true, rest),
        None => (false, text),
    }
}

/// `10.96.0.80`, `10.96.0.80:80`, `fd00::1`, `[fd00::1]:80`; `None` when it looks like no address.
fn address(text: &str) -> Option<Result<Target, String>> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((inside, after)) = rest.split_once(']') else {
            return Some(Err("the ] is missing".into()));
        };
        let Ok(ip) = inside.parse::<Ipv6Addr>() else {
            return Some(Err(format!("{inside:?} is no IPv6 address")));
        };
        return Some(match after.strip_prefix(':') {
            None if after.is_empty() => Ok(Target::Address {
                ip: ip.into(),
                port: None,
            }),
            Some(port) => port_number(port).map(|port| Target::Address {
                ip: ip.into(),
                port: Some(port),
            }),
            None => Err(format!("{after:?} stands behind the ]")),
        });
    }
    if let Some(ip) = parse_ip(text) {
        return Some(Ok(Target::Address { ip, port: None }));
    }
    if let Some(address) = text
        .parse::<SocketAddr>()
        .ok()
        .filter(|address| address.port() != 0)
    {
        return Some(Ok(Target::Address {
            ip: address.ip(),
            port: Some(address.port()),
        }));
    }
    let (host, port) = text.rsplit_once(':')?;
    if let Some(ip) = parse_ip(host) {
        return Some(port_number(port).map(|port| Target::Address { ip, port: Some(port) }));
    }
    let octets = host.split('.').collect::<Vec<_>>();
    let numeric = octets.len() == 4
        && octets
            .iter()
            .all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    numeric.then(|| Err(format!("{host:?} is no address")))
}

fn port_number(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("{text:?} is no port: 1 to 65535")),
        Ok(port) => Ok(port),
    }
}

fn port_ref(text: &str) -> Result<PortRef, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return port_number(text).map(PortRef::Number);
    }
    if is_name(text) {
        Ok(PortRef::Name(text.to_string()))
    } else {
        Err(format!("{text:?} is no port"))
    }
}

/// `web`, `ns/web`, or as the name server knows it: `web.ns`, `web.ns.svc.cluster.local`.
fn names(path: &str) -> Result<(Option<String>, String), String> {
    let (namespace, name) = match path.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_string()), name.to_string()),
        None => match path
            .split_once(".svc.")
            .map(|(name, _)| name)
            .or_else(|| path.strip_suffix(".svc"))
        {
            Some(host) => match host.split_once('.') {
                Some((name, namespace)) => (Some(namespace.to_string()), name.to_string()),
                None => return Err(format!("{path:?} lacks a namespace")),
            },
            None => (None, path.to_string()),
        },
    };
    for part in namespace.iter().chain([&name]) {
        if !is_name(part) {
            return Err(format!("{part:?} is no name"));
        }
    }
    Ok((namespace, name))
}

fn is_name(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(letter)
}

#[cfg(test)]
mod tests;
