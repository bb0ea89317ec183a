//! What pods are told of the Service's name, and whom they ask.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use serde::Serialize;

use super::evidence::Evidence;
use super::{Finding, add};
use crate::address::parse_ip;

/// Any number does: the socket takes no packets of others.
const ID: u16 = 0x7768;
/// The pod that comes back has another address.
const RESTART: &str = "netns-lab pod restart kube-dns && miniproxy sync";
/// Where a resolv.conf does not tell.
const USUAL_DOMAIN: &str = "cluster.local";

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Said {
    /// Addresses; maybe none.
    Addresses,
    /// There is no such name.
    NoSuchName,
    /// The server said that it cannot tell.
    Failed,
    /// Nothing came back.
    Nothing,
    /// Nobody was asked.
    NotAsked,
}

/// What a resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolv {
    /// Whom to ask, in this order.
    pub servers: Vec<IpAddr>,
    /// The domain of the cluster, by the search list.
    pub domain: Option<String>,
}

impl Resolv {
    /// Reads one; lines that it does not need are left.
    pub fn parse(text: &str) -> Self {
        let mut resolv = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolv.servers.extend(words.next().and_then(parse_ip)),
                Some("search") => {
                    let mut domains = words.filter_map(|word| word.strip_prefix("svc."));
                    resolv.domain = domains
                        .next()
                        .map(|domain| domain.trim_end_matches('.').to_string());
                }
                _ => {}
            }
        }
        resolv
    }
}

/// A question for the Service's address, asked in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lookup {
    /// In which pod.
    pub from: String,
    /// The name that was asked for.
    pub name: String,
    /// The name servers in the pod's resolv.conf; `None` where nobody could look.
    pub servers: Option<Vec<IpAddr>>,
    /// Who was asked.
    pub server: Option<IpAddr>,
    /// The Service's address.
    pub wanted: IpAddr,
    /// What came of it.
    pub said: Said,
    /// The answer.
    pub addresses: Vec<IpAddr>,
}

impl Lookup {
    /// A question that was not asked yet, to the first server of the pod's resolv.conf, else to `usual`.
    pub fn new(
        evidence: &Evidence<'_>,
        from: &str,
        resolv: Option<Resolv>,
        usual: IpAddr,
        wanted: IpAddr,
    ) -> Self {
        let domain = resolv.as_ref().and_then(|resolv| resolv.domain.clone());
        let domain = domain.unwrap_or_else(|| USUAL_DOMAIN.into());
        let (namespace, service) = &evidence.service;
        let servers = resolv.map(|resolv| resolv.servers);
        Self {
            from: from.into(),
            name: format!("{service}.{namespace}.svc.{domain}"),
            server: servers
                .as_ref()
                .map_or(Some(usual), |servers| servers.first().copied()),
            servers,
            wanted,
            said: Said::NotAsked,
            addresses: Vec::new(),
        }
    }

    /// Whether the answer is the Service's address.
    pub fn is_right(&self) -> bool {
        self.said == Said::Addresses && self.addresses.contains(&self.wanted)
    }

    /// The answer as a part of a sentence.
    pub fn answer(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        match self.said {
            Said::Addresses if addresses.is_empty() => "has no address".into(),
            Said::Addresses => format!("is {}", addresses.join(", ")),
            Said::NoSuchName => "is no name".into(),
            Said::Failed => "is a name that the server cannot tell of".into(),
            Said::Nothing => "was not answered".into(),
            Said::NotAsked => "was not asked for".into(),
        }
    }

    /// Who was asked, in words.
    pub fn asked(&self) -> String {
        self.server.map_or_else(|| "nobody".into(), |ip| ip.to_string())
    }
}

/// A question for the name's address; `None` when the name can be none.
pub fn question(name: &str, six: bool) -> Option<Vec<u8>> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    let kind = if six { RecordType::AAAA } else { RecordType::A };
    let mut message = Message::new(ID, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    message.to_vec().ok()
}

/// What a server's bytes say.
pub fn answer(bytes: &[u8]) -> (Said, Vec<IpAddr>) {
    let Ok(message) = Message::from_vec(bytes) else {
        return (Said::Failed, Vec::new());
    };
    let addresses = message.answers.iter().filter_map(|record| match &record.data {
        RData::A(ip) => Some(IpAddr::V4(ip.0)),
        RData::AAAA(ip) => Some(IpAddr::V6(ip.0)),
        _ => None,
    });
    match message.metadata.response_code {
        ResponseCode::NoError => (Said::Addresses, addresses.collect()),
        ResponseCode::NXDomain => (Said::NoSuchName, Vec::new()),
        _ => (Said::Failed, Vec::new()),
    }
}

/// The answer of a name server in words; `None` of anything else.
pub fn code(bytes: &[u8]) -> Option<String> {
    let message = Message::from_vec(bytes).ok()?;
    let metadata = message.metadata;
    (metadata.message_type == MessageType::Response)
        .then(|| format!("a name server's answer ({})", metadata.response_code))
}

/// Pods whose resolv.conf names somebody who knows nothing of Services.
pub fn servers(evidence: &Evidence<'_>, findings: &mut Vec<Finding>) {
    let right = evidence.name_servers();
    if right.is_empty() {
        return;
    }
    for lookup in &evidence.lookups {
        let Some(servers) = &lookup.servers else { continue };
        let first = servers.first();
        if first.is_some_and(|first| right.contains(first)) {
            continue;
        }
        let first = first.map_or_else(|| "nobody".into(), IpAddr::to_string);
        let right = right.first().map_or_else(String::new, IpAddr::to_string);
        let finding = Finding::certain(
            "wrong-name-server",
            format!(
                "Pods ask {first} for names, and not the name server of the cluster: they do not find a Service by its name."
            ),
        );
        let seen = format!(
            "resolv.conf of {} names {first}; kube-dns has {right}",
            lookup.from
        );
        // Whatever is applied, unchanged too, all pods' files are written anew.
        let cure = "netns-lab get service kube-dns -n kube-system -o json | netns-lab apply -f -";
        add(findings, finding.seen(seen).cured_by(cure));
    }
}

/// Names that are not answered as they should be, where nothing else explains it.
pub fn findings(evidence: &Evidence<'_>, findings: &mut Vec<Finding>) {
    // Asked about the server itself, there is nobody else to ask about.
    let next = if evidence.name() == "kube-system/kube-dns" {
        RESTART
    } else {
        "miniproxy why kube-system/kube-dns"
    };
    for lookup in &evidence.lookups {
        if lookup.is_right() || lookup.said == Said::NotAsked {
            continue;
        }
        let seen = format!(
            "{}: asked {}: {} {}; the Service has {}",
            lookup.from,
            lookup.asked(),
            lookup.name,
            lookup.answer(),
            lookup.wanted
        );
        let finding = if lookup.said == Said::Nothing {
            Finding::likely(
                "name-server-silent",
                format!(
                    "The name server {} does not answer: nobody finds a Service by its name.",
                    lookup.asked()
                ),
            )
            .cured_by(next)
        } else {
            Finding::likely(
                "wrong-name",
                format!("The name {} does not lead to {}.", lookup.name, evidence.name()),
            )
            .cured_by(RESTART)
        };
        add(findings, finding.seen(seen));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_read() {
        let text = "# x\nnameserver 10.96.0.10\nnameserver nonsense\nsearch default.svc.lab.test svc.lab.test lab.test\n";
        let resolv = Resolv::parse(text);
        assert_eq!(resolv.servers, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
        assert_eq!(resolv.domain.as_deref(), Some("lab.test"));
        assert_eq!(Resolv::parse("nameserver"), Resolv::default());
    }

    #[test]
    fn an_answer_is_read_and_garbage_is_none() {
        let mut bytes = question("web.default.svc.cluster.local", false).unwrap();
        assert_eq!(answer(&bytes), (Said::Addresses, Vec::new()));
        bytes[7] = 1;
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 96, 0, 80]);
        assert_eq!(answer(&bytes), (Said::Addresses, vec![[10, 96, 0, 80].into()]));
        assert_eq!(code(&bytes), None, "a question");
        bytes[2] |= 0x80;
        assert_eq!(code(&bytes).as_deref(), Some("a name server's answer (No Error)"));
        bytes[3] |= 3;
        assert_eq!(answer(&bytes).0, Said::NoSuchName);
        for length in 0..12 {
            assert_eq!(answer(&bytes[..length]).0, Said::Failed);
        }
        assert_eq!(question("not a name..", false), None);
    }
}
