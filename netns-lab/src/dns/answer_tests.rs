use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::dns::zone::tests::{pod, service, zone};

fn ask(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn answered(zone: &Zone, question: &Message, transport: Transport) -> Message {
    match answer(zone, &question.to_vec().unwrap(), transport, false) {
        Reply::Bytes(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn cluster() -> Zone {
    let external = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "alias"},
        "spec": {"type": "ExternalName", "externalName": "web.default.svc.cluster.local"},
    });
    let elsewhere = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "foo"},
        "spec": {"type": "ExternalName", "externalName": "www.example.com"},
    });
    let mut ring = elsewhere.clone();
    ring["metadata"]["name"] = json!("ring");
    ring["spec"]["externalName"] = json!("ring.default.svc.cluster.local");
    let mut objects = vec![
        service("web", "10.96.0.80"),
        service("pods", "None"),
        external,
        elsewhere,
        ring,
    ];
    objects
        .extend((1..=100).map(|number| pod(&format!("web-{number}"), &format!("10.244.0.{number}"), true)));
    zone(&objects)
}

fn texts(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .map(|record| {
            format!(
                "{} {} {} {}",
                record.name,
                record.ttl,
                record.record_type(),
                record.data
            )
        })
        .collect()
}

#[test]
fn an_address_with_the_ttl_and_the_letters_of_the_question() {
    let said = answered(
        &cluster(),
        &ask("WeB.default.SVC.cluster.local.", RecordType::A),
        Transport::Udp,
    );
    assert_eq!(
        texts(&said.answers),
        ["WeB.default.SVC.cluster.local. 5 A 10.96.0.80"]
    );
    assert!(
        said.metadata.authoritative && said.metadata.recursion_desired && !said.metadata.recursion_available
    );
    assert_eq!(
        (said.metadata.id, said.metadata.response_code),
        (7, ResponseCode::NoError)
    );
    assert!(said.authorities.is_empty() && said.edns.is_none());
}

#[test]
fn no_such_name_and_no_such_record_are_two_things() {
    let zone = cluster();
    for (name, kind, code) in [
        (
            "web.default.svc.cluster.local.",
            RecordType::AAAA,
            ResponseCode::NoError,
        ),
        ("default.svc.cluster.local.", RecordType::A, ResponseCode::NoError),
        (
            "nobody.default.svc.cluster.local.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        (
            "web.default.svc.cluster.local.default.svc.cluster.local.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        ("example.com.", RecordType::A, ResponseCode::NXDomain),
        ("9.9.9.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain),
        (
            "a\\.default.svc.cluster.local.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
    ] {
        let said = answered(&zone, &ask(name, kind), Transport::Udp);
        assert_eq!(said.metadata.response_code, code, "{name}");
        assert!(said.answers.is_empty(), "{name}");
        let [soa] = said.authorities.as_slice() else {
            panic!("{name}: {said:?}")
        };
        assert_eq!((soa.record_type(), soa.ttl), (RecordType::SOA, 5), "{name}");
        assert!(soa.name.zone_of(&Name::from_ascii(name).unwrap()), "{name}");
    }
    let said = answered(&zone, &ask("cluster.local.", RecordType::SOA), Transport::Udp);
    assert_eq!(said.answers.len(), 1);
}

#[test]
fn ports_come_with_the_addresses_of_their_hosts() {
    let said = answered(
        &cluster(),
        &ask("_https._tcp.web.default.svc.cluster.local.", RecordType::SRV),
        Transport::Udp,
    );
    assert_eq!(
        texts(&said.answers),
        ["_https._tcp.web.default.svc.cluster.local. 5 SRV 0 100 443 web.default.svc.cluster.local."]
    );
    assert_eq!(
        texts(&said.additionals),
        ["web.default.svc.cluster.local. 5 A 10.96.0.80"]
    );
}

#[test]
fn an_alias_is_followed_within_the_cluster_and_once() {
    let zone = cluster();
    let said = answered(
        &zone,
        &ask("alias.default.svc.cluster.local.", RecordType::A),
        Transport::Udp,
    );
    assert_eq!(said.answers.len(), 2, "{said:?}");
    let said = answered(
        &zone,
        &ask("foo.default.svc.cluster.local.", RecordType::A),
        Transport::Udp,
    );
    assert_eq!(
        texts(&said.answers),
        ["foo.default.svc.cluster.local. 5 CNAME www.example.com."]
    );
    let said = answered(
        &zone,
        &ask("ring.default.svc.cluster.local.", RecordType::A),
        Transport::Udp,
    );
    assert_eq!(said.answers.len(), 1);
}

#[test]
fn elsewhere_is_asked_only_where_there_is_somebody_to_ask() {
    let zone = cluster();
    let question = ask("example.com.", RecordType::A).to_vec().unwrap();
    assert_eq!(answer(&zone, &question, Transport::Udp, true), Reply::Forward);
    let question = ask("nobody.default.svc.cluster.local.", RecordType::A)
        .to_vec()
        .unwrap();
    assert!(matches!(
        answer(&zone, &question, Transport::Udp, true),
        Reply::Bytes(_)
    ));
    let question = ask("foo.default.svc.cluster.local.", RecordType::A)
        .to_vec()
        .unwrap();
    let Reply::Chase(started) = answer(&zone, &question, Transport::Udp, true) else {
        panic!("an alias that leads out")
    };
    let asked = Message::from_vec(&started.question).unwrap();
    let mut said = Message::response(asked.metadata.id, OpCode::Query);
    let ip = RData::A(A("192.0.2.53".parse().unwrap()));
    said.add_answer(Record::from_rdata(
        Name::from_ascii("www.example.com.").unwrap(),
        99,
        ip,
    ));
    let whole = Message::from_vec(&started.finish(Some(&said.to_vec().unwrap())).unwrap()).unwrap();
    assert_eq!(
        texts(&whole.answers),
        [
            "foo.default.svc.cluster.local. 5 CNAME www.example.com.",
            "www.example.com. 99 A 192.0.2.53"
        ]
    );
}

#[test]
fn what_does_not_fit_is_cut_and_whole_in_a_stream() {
    let zone = cluster();
    let mut question = ask("pods.default.svc.cluster.local.", RecordType::A);
    let size = |question: &Message| match answer(&zone, &question.to_vec().unwrap(), Transport::Udp, false) {
        Reply::Bytes(bytes) => bytes.len(),
        other => panic!("{other:?}"),
    };
    let cut = answered(&zone, &question, Transport::Udp);
    assert!(cut.metadata.truncation && size(&question) <= 512 && cut.answers.len() > 20);
    question
        .set_edns(Edns::new())
        .edns
        .as_mut()
        .unwrap()
        .set_max_payload(4096);
    let cut = answered(&zone, &question, Transport::Udp);
    assert!(cut.metadata.truncation && size(&question) <= 1232 && cut.answers.len() > 60);
    assert!(cut.edns.is_some());
    let whole = answered(&zone, &question, Transport::Tcp);
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 100));
}

#[test]
fn what_is_no_question_of_ours_is_refused() {
    let zone = cluster();
    let mut message = ask("web.default.svc.cluster.local.", RecordType::A);
    message
        .set_edns(Edns::new())
        .edns
        .as_mut()
        .unwrap()
        .set_version(1);
    // The number is BADSIG's, too.
    assert_eq!(
        u16::from(answered(&zone, &message, Transport::Udp).metadata.response_code),
        u16::from(ResponseCode::BADVERS)
    );
    let mut message = ask("web.default.svc.cluster.local.", RecordType::A);
    message.queries[0].query_class = DNSClass::CH;
    assert_eq!(
        answered(&zone, &message, Transport::Udp).metadata.response_code,
        ResponseCode::Refused
    );
    message.metadata.op_code = OpCode::Update;
    assert_eq!(
        answered(&zone, &message, Transport::Udp).metadata.response_code,
        ResponseCode::NotImp
    );
    let none = Message::new(7, MessageType::Query, OpCode::Query);
    assert_eq!(
        answered(&zone, &none, Transport::Udp).metadata.response_code,
        ResponseCode::FormErr
    );
    let response = Message::response(7, OpCode::Query).to_vec().unwrap();
    assert_eq!(answer(&zone, &response, Transport::Udp, false), Reply::Nothing);
    assert_eq!(answer(&zone, b"short", Transport::Udp, false), Reply::Nothing);
}

proptest! {
    /// Whatever comes: no panic, nothing above the size, and only a question is answered.
    #[test]
    fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), like_one in any::<bool>()) {
        let zone = cluster();
        if like_one {
            let mut question = ask("web.default.svc.cluster.local.", RecordType::A).to_vec().unwrap();
            let place = bytes.len() % question.len();
            question[place] ^= bytes.first().copied().unwrap_or(1);
            bytes = question;
        }
        if let Reply::Bytes(said) = answer(&zone, &bytes, Transport::Udp, false) {
            prop_assert!(said.len() <= 1232 && said[..2] == bytes[..2] && said[2] & 0x80 != 0);
        }
    }
}
