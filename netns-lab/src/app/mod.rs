//! The app in a pod: it tells who it is and whom it sees.

pub mod serve;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::Serialize;

use crate::model::name::Label;
use crate::model::topology::{Answers, Protocol};

/// One port to listen on: `http:8080/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// What to answer.
    pub answers: Answers,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (answers, place) = text.split_once(':')?;
            let (port, protocol) = place.split_once('/').unwrap_or((place, "tcp"));
            let listen = Self {
                answers: match answers {
                    "http" => Answers::Http,
                    "echo" => Answers::Echo,
                    _ => return None,
                },
                port: port.parse().ok().filter(|port| *port > 0)?,
                protocol: match protocol {
                    "tcp" => Protocol::Tcp,
                    "udp" => Protocol::Udp,
                    _ => return None,
                },
            };
            let possible = listen.protocol == Protocol::Tcp || listen.answers == Answers::Echo;
            possible.then_some(listen)
        };
        parse().ok_or_else(|| "expected http:PORT/tcp, echo:PORT/tcp or echo:PORT/udp".to_string())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = match self.answers {
            Answers::Http => "http",
            Answers::Echo => "echo",
        };
        write!(
            f,
            "{answers}:{}/{}",
            self.port,
            self.protocol.name().to_ascii_lowercase()
        )
    }
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The pod's name.
    pub pod: Label,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Which version of the app it is, where that was said.
    pub version: Option<String>,
}

/// The answer as data.
#[derive(Debug, Serialize)]
struct Sight<'a> {
    pod: &'a str,
    ip: Ipv4Addr,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    client: String,
    #[serde(rename = "clientPort")]
    client_port: u16,
    #[serde(rename = "localPort")]
    local_port: u16,
    protocol: &'a str,
}

impl Identity {
    /// `web-1 (10.244.0.2) sees you as 10.244.0.5:51848`; with a version `web-1 v2 (…) …`.
    pub fn line(&self, client: SocketAddr) -> String {
        let version = self.version.as_ref();
        let version = version.map(|version| format!(" v{}", version.trim_start_matches('v')));
        let version = version.unwrap_or_default();
        format!("{}{version} ({}) sees you as {client}\n", self.pod, self.ip)
    }

    /// The same as JSON.
    pub fn json(&self, client: SocketAddr, local_port: u16) -> String {
        let sight = Sight {
            pod: self.pod.as_str(),
            ip: self.ip,
            version: self.version.as_deref(),
            client: client.ip().to_string(),
            client_port: client.port(),
            local_port,
            protocol: Protocol::Tcp.name(),
        };
        serde_json::to_string(&sight).unwrap_or_default() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_who_and_whom() {
        let identity = Identity {
            pod: Label::web(1),
            ip: Ipv4Addr::new(10, 244, 0, 2),
            version: None,
        };
        let client = "10.244.0.5:51848".parse().unwrap();
        assert_eq!(
            identity.line(client),
            "web-1 (10.244.0.2) sees you as 10.244.0.5:51848\n"
        );
        for version in ["2", "v2"] {
            let second = Identity {
                version: Some(version.into()),
                ..identity.clone()
            };
            assert!(second.line(client).starts_with("web-1 v2 (10.244.0.2) sees"));
        }
        insta::assert_snapshot!(identity.json(client, 8080), @r#"{"pod":"web-1","ip":"10.244.0.2","client":"10.244.0.5","clientPort":51848,"localPort":8080,"protocol":"TCP"}"#);
    }

    #[test]
    fn ports_are_read_or_refused() {
        assert!("http:8080/tcp".parse::<Listen>().is_ok());
        assert!("echo:8081/udp".parse::<Listen>().is_ok());
        for text in [
            "",
            "http",
            "http:0",
            "http:99999",
            "http:80/udp",
            "ftp:21",
            "echo:1/sctp",
        ] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }
}
