//! `netns-lab dns`: the name server of a lab.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::{fs, net};

use labkit::rundir::RUN_DIRECTORY;
use labkit::{Failure, Outcome, shell};
use nix::sched::{CloneFlags, setns};

use super::{container, find};
use crate::cli::objects::{DnsArgs, NameServerArgs};
use crate::dns::CLUSTER_DOMAIN;
use crate::dns::server::{Settings, serve};
use crate::dns::upstream::{PORT, Upstream, UpstreamServer, servers_of};
use crate::edge::{namespace, pod, privilege, stdio, store};
use crate::engine::launch;

/// The host's own list of name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Runs `dns`.
pub(super) fn run(args: &DnsArgs) -> Result<Outcome, Failure> {
    let mut registries = args.registry.clone();
    if registries.is_empty() {
        let ledger = find::lab(args.lab.as_ref())?;
        registries.push(store::registry(&ledger.lab.name));
    }
    let servers = servers(&args.upstream)?;
    // It stays here, where elsewhere can be reached; then the rest of us moves.
    let upstream = (!servers.is_empty())
        .then(|| Upstream::start(servers))
        .transpose()?;
    if let Some(pod) = &args.netns {
        setns(namespace::open(pod)?, CloneFlags::CLONE_NEWNET)
            .map_err(|error| Failure::failed(format!("cannot enter {pod}: {error}")))?;
    }
    let listen = if args.listen.is_empty() {
        vec![everywhere()]
    } else {
        args.listen.clone()
    };
    let settings = Settings {
        registries,
        listen,
        domain: args.domain.clone(),
        upstream,
    };
    serve(&settings, || {
        // Not before: port 53 is root's to listen on. The registry is the user's own to read.
        privilege::drop_capabilities()?;
        let words: Vec<_> = settings.listen.iter().map(ToString::to_string).collect();
        shell::tell(&format!("names of {} on {}", settings.domain, words.join(", ")));
        Ok(())
    })
}

/// Runs `name-server`: the same in a pod of the lab's own.
///
/// It starts in the pod's network namespace, and with the mounts of whoever started it.
pub(super) fn in_pod(args: &NameServerArgs) -> Result<Outcome, Failure> {
    let _ = nix::unistd::setsid();
    container::leaving_code(&args.lab, &args.pod, &args.inside, || name_server(args))
}

fn name_server(args: &NameServerArgs) -> Result<Outcome, Failure> {
    // Before the container's view is made: it has neither the host's resolv.conf nor the others'
    // processes.
    let servers = servers(&args.upstream)?;
    let from = fs::File::open(&args.from)
        .map_err(|error| Failure::failed(format!("cannot open {}: {error}", args.from.display())))?;
    // Before there is a second thread: the kernel changes the mounts of all or of none.
    container::furnish(&args.lab, &args.pod, &args.inside)?;
    let upstream = (!servers.is_empty())
        .then(|| upstream_from(&from, servers))
        .transpose()?;
    drop(from);
    let settings = Settings {
        registries: vec![RUN_DIRECTORY.into()],
        listen: vec![everywhere()],
        domain: CLUSTER_DOMAIN.to_string(),
        upstream,
    };
    serve(&settings, || {
        privilege::drop_capabilities()?;
        shell::tell(&format!("names of {} on {}", settings.domain, settings.listen[0]));
        stdio::tell_starter(&launch::word(&args.pod, &args.inside.container))
    })
}

/// Others are asked from there, and this thread comes back.
fn upstream_from(place: &fs::File, servers: Vec<SocketAddr>) -> Result<Upstream, Failure> {
    let home = namespace::current()?;
    pod::enter(place)?;
    let upstream = Upstream::start(servers);
    pod::enter(&home)?;
    upstream
}

/// All addresses of both families; where there is no IPv6, of IPv4.
fn everywhere() -> SocketAddr {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let ip: IpAddr = match net::UdpSocket::bind(both) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, PORT)
}

fn servers(upstream: &[UpstreamServer]) -> Result<Vec<SocketAddr>, Failure> {
    let mut servers = Vec::new();
    for one in upstream {
        match one {
            UpstreamServer::At(address) => servers.push(*address),
            UpstreamServer::Host => {
                let text = fs::read_to_string(RESOLV_CONF)
                    .map_err(|error| Failure::host_lacks(format!("cannot read {RESOLV_CONF}: {error}")))?;
                let found = servers_of(&text);
                if found.is_empty() {
                    let failure = Failure::host_lacks(format!("{RESOLV_CONF} names no server"));
                    return Err(failure.hint("name one: --upstream 192.0.2.1"));
                }
                servers.extend(found);
            }
        }
    }
    Ok(servers)
}
