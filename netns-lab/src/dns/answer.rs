//! A zone and the bytes of a question → the bytes of an answer. The protocol is hickory's.

use std::collections::BTreeSet;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zone::{Data, Zone};

/// How long an answer may be kept, in seconds. Names follow the registry at once, but for this.
const TTL: u32 = 5;

/// The largest datagram without EDNS, and with it: what fits everywhere without fragments.
const PLAIN_SIZE: u16 = 512;
const LARGEST_SIZE: u16 = 1232;

/// CNAMEs that are followed within the cluster.
const HOPS: usize = 8;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// In a stream, where size is no matter.
    Tcp,
}

/// What to do about a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing: it is no question.
    Nothing,
    /// Send these bytes.
    Bytes(Vec<u8>),
    /// Ask elsewhere and hand on what is said.
    Forward,
    /// Ask elsewhere for this name of the same type, and add what is said to this answer.
    Chase(Box<Started>),
}

/// An answer that begins with a name of ours and goes on elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    response: Message,
    limit: u16,
    /// The question to ask elsewhere.
    pub question: Vec<u8>,
}

impl Started {
    /// The whole answer, when this was said elsewhere; without the rest when nothing was.
    pub fn finish(mut self, said: Option<&[u8]>) -> Option<Vec<u8>> {
        if let Some(rest) = said.and_then(|bytes| Message::from_vec(bytes).ok()) {
            self.response.answers.extend(rest.answers);
            self.response.metadata.response_code = rest.metadata.response_code;
        }
        encode(self.response, self.limit).ok()
    }
}

/// Answers a question. `upstream`: names of elsewhere can be asked for.
pub fn answer(zone: &Zone, question: &[u8], transport: Transport, upstream: bool) -> Reply {
    let asked = match Message::from_vec(question) {
        Ok(asked) if asked.metadata.message_type == MessageType::Query => asked,
        Ok(_) => return Reply::Nothing,
        Err(_) => return not_understood(question),
    };
    let mut response = Message::response(asked.metadata.id, asked.metadata.op_code);
    response.metadata = Metadata::response_from_request(&asked.metadata);
    response.metadata.recursion_available = upstream;
    response.metadata.authentic_data = false;
    response.queries.clone_from(&asked.queries);
    let limit = limit(&asked, transport);
    if let Some(edns) = &asked.edns {
        response.edns = Some(own_edns(edns));
    }
    if let Some(code) = refusal(&asked) {
        response.metadata.response_code = code;
        return bytes(response, limit);
    }
    let Some(query) = asked.queries.first() else {
        return Reply::Nothing;
    };
    let name = plain(&query.name);
    if zone.has_in_domain(&name) || zone.find(&name).is_some_and(|found| !found.is_empty()) {
        return of_zone(zone, query, response, limit, upstream);
    }
    if upstream {
        return Reply::Forward;
    }
    // There is no other world, so that nobody waits for it.
    response.metadata.authoritative = true;
    response.metadata.response_code = ResponseCode::NXDomain;
    response.authorities.extend(soa(zone, Name::root()));
    bytes(response, limit)
}

/// An answer that says that the one who was asked elsewhere said nothing.
pub fn failed(question: &[u8]) -> Option<Vec<u8>> {
    let asked = Message::from_vec(question).ok()?;
    let mut response = Message::response(asked.metadata.id, asked.metadata.op_code);
    response.metadata = Metadata::response_from_request(&asked.metadata);
    response.metadata.recursion_available = true;
    response.metadata.response_code = ResponseCode::ServFail;
    response.queries = asked.queries;
    response.edns = asked.edns.as_ref().map(own_edns);
    encode(response, PLAIN_SIZE).ok()
}

/// Whether these bytes answer that question.
pub fn answers(said: &[u8], question: &[u8]) -> bool {
    let (Ok(said), Ok(question)) = (Message::from_vec(said), Message::from_vec(question)) else {
        return false;
    };
    said.metadata.message_type == MessageType::Response
        && said.metadata.id == question.metadata.id
        && said.queries == question.queries
}

/// Whether an answer says that it was cut.
pub fn is_cut(said: &[u8]) -> bool {
    Message::from_vec(said).is_ok_and(|said| said.metadata.truncation)
}

/// FORMERR, if there is at least a header of a question.
fn not_understood(question: &[u8]) -> Reply {
    const HEADER: usize = 12;
    match question {
        [high, low, flags, ..] if question.len() >= HEADER && flags & 0x80 == 0 => {
            let id = u16::from_be_bytes([*high, *low]);
            let op_code = OpCode::from_u8((flags >> 3) & 0xf);
            let response = Message::error_msg(id, op_code, ResponseCode::FormErr);
            bytes(response, PLAIN_SIZE)
        }
        _ => Reply::Nothing,
    }
}

fn refusal(asked: &Message) -> Option<ResponseCode> {
    if asked.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Some(ResponseCode::BADVERS);
    }
    if asked.metadata.op_code != OpCode::Query {
        return Some(ResponseCode::NotImp);
    }
    match asked.queries.as_slice() {
        [query] if matches!(query.query_class, DNSClass::IN | DNSClass::ANY) => None,
        [_] => Some(ResponseCode::Refused),
        _ => Some(ResponseCode::FormErr),
    }
}

fn limit(asked: &Message, transport: Transport) -> u16 {
    match transport {
        Transport::Tcp => u16::MAX,
        Transport::Udp => asked.edns.as_ref().map_or(PLAIN_SIZE, |edns| {
            edns.max_payload().clamp(PLAIN_SIZE, LARGEST_SIZE)
        }),
    }
}

fn own_edns(asked: &Edns) -> Edns {
    let mut own = Edns::new();
    own.set_max_payload(LARGEST_SIZE)
        .set_version(0)
        .set_dnssec_ok(asked.flags().dnssec_ok);
    own
}

fn of_zone(zone: &Zone, query: &Query, mut response: Message, limit: u16, upstream: bool) -> Reply {
    response.metadata.authoritative = true;
    let (mut owner, mut name) = (query.name.clone(), plain(&query.name));
    let mut seen = BTreeSet::new();
    for _ in 0..HOPS {
        let Some(records) = zone.find(&name) else {
            if zone.has_in_domain(&name) {
                response.metadata.response_code = ResponseCode::NXDomain;
                return negative(zone, response, limit);
            }
            return elsewhere(query, response, limit, upstream, &name);
        };
        let fits = |data: &&Data| query.query_type == RecordType::ANY || kind(data) == query.query_type;
        let fitting: Vec<_> = records.iter().filter(fits).collect();
        if !fitting.is_empty() {
            let turn = usize::from(response.metadata.id) % fitting.len();
            let in_turn = fitting.iter().cycle().skip(turn).take(fitting.len());
            response
                .answers
                .extend(in_turn.filter_map(|data| record(owner.clone(), data)));
            add_hosts(zone, &mut response);
            return bytes(response, limit);
        }
        // The first question of a new name that is an alias.
        let alias = records.iter().find_map(|data| match data {
            Data::Cname(target) => Some((data, target)),
            _ => None,
        });
        let Some((data, target)) = alias.filter(|_| seen.insert(name.clone())) else {
            if query.query_type == RecordType::SOA && name == zone.domain() {
                response.answers.extend(soa(zone, owner));
                return bytes(response, limit);
            }
            return negative(zone, response, limit);
        };
        response.answers.extend(record(owner, data));
        (owner, name) = (full(target).unwrap_or_else(Name::root), target.clone());
    }
    bytes(response, limit)
}

/// The alias leads out of the cluster.
fn elsewhere(query: &Query, response: Message, limit: u16, upstream: bool, name: &str) -> Reply {
    let Some(target) = full(name).filter(|_| upstream) else {
        return bytes(response, limit);
    };
    let mut question = Message::new(response.metadata.id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(target, query.query_type));
    match question.to_vec() {
        Ok(question) => Reply::Chase(Box::new(Started {
            response,
            limit,
            question,
        })),
        Err(_) => bytes(response, limit),
    }
}

/// No such name, or nothing of that type: the SOA says how long that may be believed.
fn negative(zone: &Zone, mut response: Message, limit: u16) -> Reply {
    let owner = full(zone.domain()).unwrap_or_else(Name::root);
    response.authorities.extend(soa(zone, owner));
    bytes(response, limit)
}

fn soa(zone: &Zone, owner: Name) -> Option<Record> {
    let server = full(&zone.name_server())?;
    let mailbox = full(&format!("hostmaster.{}", zone.domain()))?;
    let soa = SOA::new(server, mailbox, zone.serial(), 7200, 1800, 86_400, TTL);
    Some(Record::from_rdata(owner, TTL, RData::SOA(soa)))
}

/// The addresses of hosts that answers name, so that nobody must ask again.
fn add_hosts(zone: &Zone, response: &mut Message) {
    let mut hosts = BTreeSet::new();
    for record in &response.answers {
        if let RData::SRV(srv) = &record.data {
            hosts.insert(plain(&srv.target));
        }
    }
    for host in hosts {
        let (Some(owner), Some(found)) = (full(&host), zone.find(&host)) else {
            continue;
        };
        let addresses = found
            .iter()
            .filter(|data| matches!(data, Data::A(_) | Data::Aaaa(_)));
        let records = addresses.filter_map(|data| record(owner.clone(), data));
        response.additionals.extend(records);
    }
}

fn kind(data: &Data) -> RecordType {
    match data {
        Data::A(_) => RecordType::A,
        Data::Aaaa(_) => RecordType::AAAA,
        Data::Srv(..) => RecordType::SRV,
        Data::Ptr(_) => RecordType::PTR,
        Data::Cname(_) => RecordType::CNAME,
        Data::Txt(_) => RecordType::TXT,
        Data::Ns(_) => RecordType::NS,
    }
}

fn record(owner: Name, data: &Data) -> Option<Record> {
    let data = match data {
        Data::A(ip) => RData::A(A(*ip)),
        Data::Aaaa(ip) => RData::AAAA(AAAA(*ip)),
        Data::Srv(port, host) => RData::SRV(SRV::new(0, 100, *port, full(host)?)),
        Data::Ptr(name) => RData::PTR(PTR(full(name)?)),
        Data::Cname(name) => RData::CNAME(CNAME(full(name)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
        Data::Ns(name) => RData::NS(NS(full(name)?)),
    };
    Some(Record::from_rdata(owner, TTL, data))
}

/// As the zone spells names.
fn plain(name: &Name) -> String {
    let text = name.to_lowercase().to_ascii();
    text.strip_suffix('.').unwrap_or(&text).to_string()
}

fn full(name: &str) -> Option<Name> {
    // Underscores are no letters of hosts, but of names of ports.
    Name::from_ascii(format!("{name}.")).ok()
}

fn bytes(response: Message, limit: u16) -> Reply {
    encode(response, limit).map_or(Reply::Nothing, Reply::Bytes)
}

/// The message in at most so many bytes: without what is only handy, then with fewer answers and
/// the word that there are more.
fn encode(mut message: Message, limit: u16) -> Result<Vec<u8>, ProtoError> {
    let fits = |bytes: &Vec<u8>| bytes.len() <= usize::from(limit);
    let whole = message.to_vec()?;
    if fits(&whole) {
        return Ok(whole);
    }
    message.additionals.clear();
    let lean = message.to_vec()?;
    if fits(&lean) {
        return Ok(lean);
    }
    message.metadata.truncation = true;
    let all = std::mem::take(&mut message.answers);
    let (mut few, mut many) = (0, all.len());
    while few < many {
        let middle = few + (many - few).div_ceil(2);
        message.answers = all[..middle].to_vec();
        if fits(&message.to_vec()?) {
            few = middle;
        } else {
            many = middle - 1;
        }
    }
    message.answers = all[..few].to_vec();
    message.to_vec()
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
