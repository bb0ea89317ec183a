//! Which Service a person means, out of those that the rules have.

use std::net::IpAddr;

use super::services::{Door, Key, Service};
use crate::target::{PortRef, Target};

/// All that fit; of those that only a namespace tells apart, those of `default`.
pub fn pick<'a>(all: impl Iterator<Item = (&'a Key, &'a Service)>, target: &Target) -> Vec<Key> {
    let fits = all.filter(|(key, service)| match target {
        Target::Named {
            namespace,
            name,
            port,
            ..
        } => {
            let (space, own, of_port) = parts(key);
            own == name
                && namespace.as_ref().is_none_or(|namespace| namespace == space)
                && match port {
                    None => true,
                    Some(PortRef::Name(port)) => port == of_port,
                    Some(PortRef::Number(port)) => has(service, None, Some(*port)),
                }
        }
        Target::Address { ip, port } => has(service, Some(*ip), *port),
        Target::Node { port } => service.doors.contains_key(&Door::NodePort(*port)),
    });
    let mut found: Vec<Key> = fits.map(|(key, _)| key.clone()).collect();
    if found.iter().any(|key| parts(key).0 == "default") {
        found.retain(|key| parts(key).0 == "default");
    }
    found
}

/// `default/web:http` → namespace, name, port.
fn parts(key: &Key) -> (&str, &str, &str) {
    let (space, rest) = key.name.split_once('/').unwrap_or(("", &key.name));
    let (name, port) = rest.split_once(':').unwrap_or((rest, ""));
    (space, name, port)
}

fn has(service: &Service, ip: Option<IpAddr>, port: Option<u16>) -> bool {
    service.doors.keys().any(|door| match door {
        Door::Address(address) => {
            ip.is_none_or(|ip| ip == address.ip()) && port.is_none_or(|port| port == address.port())
        }
        Door::NodePort(own) => ip.is_none() && port == Some(*own),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::Protocol;

    fn service(name: &str, doors: &[Door]) -> (Key, Service) {
        let key = Key {
            name: name.into(),
            protocol: Protocol::Tcp,
        };
        let doors = doors.iter().map(|door| (*door, None));
        let service = Service {
            doors: doors.collect(),
            ..Service::default()
        };
        (key, service)
    }

    #[test]
    fn a_service_is_found_as_other_commands_find_it() {
        let address = |text: &str| Door::Address(text.parse().unwrap());
        let all: BTreeMap<Key, Service> = BTreeMap::from([
            service(
                "default/web:http",
                &[address("10.96.0.80:80"), Door::NodePort(30080)],
            ),
            service("default/web:admin", &[address("10.96.0.80:81")]),
            service(
                "shop/web:http",
                &[address("10.96.0.90:80"), address("192.0.2.7:80")],
            ),
            service("kube-system/kube-dns", &[address("[fd00::a]:53")]),
        ]);
        let found = |text: &str| -> Vec<String> {
            let target = Target::parse(text).unwrap();
            let keys = pick(all.iter(), &target);
            keys.into_iter().map(|key| key.name).collect()
        };
        for (text, names) in [
            ("web", &["default/web:admin", "default/web:http"][..]),
            ("svc/web:http", &["default/web:http"]),
            ("web:80", &["default/web:http"]),
            ("web:30080", &["default/web:http"]),
            ("node:30080", &["default/web:http"]),
            ("shop/web", &["shop/web:http"]),
            ("web.shop.svc.cluster.local", &["shop/web:http"]),
            ("10.96.0.80", &["default/web:admin", "default/web:http"]),
            ("http://192.0.2.7:80/", &["shop/web:http"]),
            ("kube-dns", &["kube-system/kube-dns"]),
            ("[fd00::a]:53", &["kube-system/kube-dns"]),
            ("web:http2", &[]),
            ("node:30081", &[]),
            ("10.96.0.80:82", &[]),
        ] {
            assert_eq!(found(text), names, "{text}");
        }
    }
}
