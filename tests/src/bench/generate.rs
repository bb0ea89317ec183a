//! Registries of any size, the same at every call.
//!
//! One file holds one Service and its EndpointSlices of at most 100 endpoints, as the API server's
//! own controller cuts them. All numbers in endpoint addresses have three digits, so that their
//! order as text is their order as numbers, and a fresh one comes behind all others.

use std::fmt;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::str::FromStr;

use serde_json::{Value, json};

/// The namespace of all of them.
pub const NAMESPACE: &str = "bench";
/// The port of each Service.
pub const PORT: u16 = 80;
/// The port of each endpoint.
pub const TARGET_PORT: u16 = 8080;

const SLICE: usize = 100;
const MOST_SERVICES: usize = 20_000;
const MOST_ENDPOINTS: usize = 200_000;

/// So many Services with so many endpoints each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Services.
    pub services: usize,
    /// Endpoints of each.
    pub endpoints: usize,
}

impl Scale {
    /// All endpoints.
    pub fn total(self) -> usize {
        self.services * self.endpoints
    }
}

impl FromStr for Scale {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (services, endpoints) = text.split_once('x').ok_or(())?;
        let number = |word: &str, most: usize| word.parse().ok().filter(|number| (1..=most).contains(number));
        let scale = Self {
            services: number(services, MOST_SERVICES).ok_or(())?,
            endpoints: number(endpoints, MOST_ENDPOINTS).ok_or(())?,
        };
        (scale.total() <= MOST_ENDPOINTS).then_some(scale).ok_or(())
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}x{}", self.services, self.endpoints))
    }
}

/// A Service as one file of the registry holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    index: usize,
    /// Its endpoints' addresses.
    pub endpoints: Vec<Ipv4Addr>,
}

impl Service {
    /// The one with this number, at this scale.
    pub fn new(index: usize, scale: Scale) -> Self {
        let first = index * scale.endpoints;
        Self {
            index,
            endpoints: (first..first + scale.endpoints).map(endpoint).collect(),
        }
    }

    /// Its name.
    pub fn name(&self) -> String {
        format!("s-{:05}", self.index)
    }

    /// Its namespace and name.
    pub fn full_name(&self) -> String {
        format!("{NAMESPACE}/{}", self.name())
    }

    /// The file that holds it.
    pub fn file_name(&self) -> String {
        format!("{}.json", self.name())
    }

    /// Its ClusterIP.
    pub fn address(&self) -> Ipv4Addr {
        plus(Ipv4Addr::new(10, 96, 0, 1), self.index)
    }

    /// The file's text, laid out as kubectl does.
    pub fn text(&self) -> String {
        let slices = self.endpoints.chunks(SLICE).enumerate();
        let items: Vec<Value> = [self.service()]
            .into_iter()
            .chain(slices.map(|(number, part)| self.slice(number, part)))
            .collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        format!("{list:#}\n")
    }

    fn service(&self) -> Value {
        let address = self.address().to_string();
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": self.name(), "namespace": NAMESPACE },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": address,
                "clusterIPs": [address],
                "ipFamilies": ["IPv4"],
                "ports": [
                    { "name": "http", "protocol": "TCP", "port": PORT, "targetPort": TARGET_PORT },
                ],
            },
        })
    }

    fn slice(&self, number: usize, endpoints: &[Ipv4Addr]) -> Value {
        let ready = |address: &Ipv4Addr| json!({ "addresses": [address.to_string()], "conditions": { "ready": true } });
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{number}", self.name()),
                "namespace": NAMESPACE,
                "labels": { "kubernetes.io/service-name": self.name() },
            },
            "addressType": "IPv4",
            "endpoints": endpoints.iter().map(ready).collect::<Vec<_>>(),
            "ports": [{ "name": "http", "protocol": "TCP", "port": TARGET_PORT }],
        })
    }
}

fn plus(address: Ipv4Addr, number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address) + u32::try_from(number).expect("bounded by the scale"))
}

/// 10.100.100.100, 10.100.100.101 … 10.119.199.199.
fn endpoint(number: usize) -> Ipv4Addr {
    three_digits(100, number)
}

/// An address that no Service of a generated registry has.
pub fn fresh(number: usize) -> Ipv4Addr {
    three_digits(190, number)
}

fn three_digits(second: usize, number: usize) -> Ipv4Addr {
    let octet = |number: usize| u8::try_from(number).expect("bounded by the scale");
    Ipv4Addr::new(
        10,
        octet(second + number / 10_000),
        octet(100 + number / 100 % 100),
        octet(100 + number % 100),
    )
}

/// Writes the registry into an empty folder and returns what it holds.
///
/// # Errors
/// When a file cannot be written.
pub fn write(folder: &Path, scale: Scale) -> io::Result<Vec<Service>> {
    let services: Vec<Service> = (0..scale.services)
        .map(|index| Service::new(index, scale))
        .collect();
    for service in &services {
        fs::write(folder.join(service.file_name()), service.text())?;
    }
    Ok(services)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn scales_are_read_and_bounded() {
        let scale: Scale = "1000x50".parse().unwrap();
        assert_eq!((scale.services, scale.endpoints), (1000, 50));
        assert_eq!(scale.to_string(), "1000x50");
        for wrong in [
            "", "x", "100", "0x3", "3x0", "3x-1", "100000x1", "20000x20", "1x2x3",
        ] {
            assert!(wrong.parse::<Scale>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_addresses_differ_and_sort_as_text() {
        let scale = Scale {
            services: 2000,
            endpoints: 100,
        };
        let services: Vec<Service> = (0..2000).map(|index| Service::new(index, scale)).collect();
        let all: Vec<String> = services
            .iter()
            .flat_map(|service| &service.endpoints)
            .map(Ipv4Addr::to_string)
            .collect();
        assert!(all.is_sorted());
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 200_000);
        assert!(fresh(0).to_string() > *all.last().unwrap());
        let addresses: BTreeSet<Ipv4Addr> = services.iter().map(Service::address).collect();
        assert_eq!(addresses.len(), 2000);
    }

    #[test]
    fn slices_hold_a_hundred_endpoints() {
        let scale = Scale {
            services: 1,
            endpoints: 250,
        };
        let text = Service::new(0, scale).text();
        let list: Value = serde_json::from_str(&text).unwrap();
        let sizes: Vec<usize> = list["items"].as_array().unwrap()[1..]
            .iter()
            .map(|slice| slice["endpoints"].as_array().unwrap().len())
            .collect();
        assert_eq!(sizes, [100, 100, 50]);
        assert_eq!(text, Service::new(0, scale).text(), "the same at every call");
    }
}
