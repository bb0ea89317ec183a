//! What pods are told of the Service's name: by the name server that their own resolv.conf names.

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;

use super::why_places::Place;
use crate::edge::registry::Source;
use crate::edge::{netns, probe};
use crate::registry::model::cluster_ips;
use crate::why::evidence::Evidence;
use crate::why::names::{self, Lookup, Resolv, Said};

/// The port of name servers.
const PORT: u16 = 53;
/// No resolv.conf is longer.
const LONGEST: u64 = 64 << 10;

/// Where a lab keeps the files that its pods see in `/etc`: beside its registry.
pub(super) struct PodFiles(Vec<PathBuf>);

impl PodFiles {
    pub(super) fn of(source: &Source) -> Self {
        let registries = source.paths.iter().filter(|path| path.ends_with("registry"));
        let labs = registries.filter_map(|path| path.parent());
        Self(labs.map(|lab| lab.join("pods")).collect())
    }

    fn resolv_conf(&self, pod: &str) -> Option<Resolv> {
        let (_, name) = pod.split_once('/')?;
        // The name is out of a file: it leads nowhere else.
        if name.starts_with('.') || name.contains('/') {
            return None;
        }
        let opened = self
            .0
            .iter()
            .find_map(|folder| File::open(folder.join(name).join("resolv.conf")).ok())?;
        let mut text = String::new();
        opened.take(LONGEST).read_to_string(&mut text).ok()?;
        Some(Resolv::parse(&text))
    }
}

/// Asks in each pod of the places; nobody is asked where the lab has no name server.
pub(super) fn ask_all(evidence: &Evidence<'_>, places: &[Place], files: &PodFiles) -> Vec<Lookup> {
    let servers = evidence.name_servers();
    let Some(service) = evidence.registry.services.get(&evidence.service) else {
        return Vec::new();
    };
    let wanted = cluster_ips(service);
    let wanted = wanted.iter().filter_map(|ip| crate::address::parse_ip(ip));
    let wanted: Vec<IpAddr> = wanted.collect();
    let Some(usual) = servers.first().copied() else {
        return Vec::new();
    };
    let pods = places.iter().filter(|place| place.is_pod());
    let work: Vec<(&Place, Lookup)> = pods
        .flat_map(|place| {
            let resolv = files.resolv_conf(&place.name);
            let lookup =
                move |wanted: &IpAddr| Lookup::new(evidence, &place.name, resolv.clone(), usual, *wanted);
            let lookups: Vec<Lookup> = wanted.iter().map(lookup).collect();
            lookups.into_iter().map(move |lookup| (place, lookup))
        })
        .collect();
    thread::scope(|scope| {
        let threads: Vec<_> = work
            .into_iter()
            .map(|(place, lookup)| scope.spawn(move || asked(place, lookup)))
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .collect()
    })
}

fn asked(place: &Place, mut lookup: Lookup) -> Lookup {
    let entered = place.namespace.as_deref().map_or(Ok(()), netns::enter);
    let (Ok(()), Some(server)) = (entered, lookup.server) else {
        return lookup;
    };
    let Some(question) = names::question(&lookup.name, lookup.wanted.is_ipv6()) else {
        return lookup;
    };
    let answer = probe::exchange(SocketAddr::new(server, PORT), &question);
    (lookup.said, lookup.addresses) = match answer {
        Ok(answer) => names::answer(&answer),
        Err(_) => (Said::Nothing, Vec::new()),
    };
    lookup
}
