//! The command line of what deals with objects and names.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use crate::dns::CLUSTER_DOMAIN;
use crate::dns::upstream::PORT;
use crate::model::name::Label;

/// `dns`.
#[derive(Debug, Args)]
#[command(after_help = "\
Answers on UDP and TCP by Kubernetes' DNS specification 1.1.0: Services,
headless Services and their endpoints, ExternalName, SRV, PTR, pods by their
address. The registry is followed. A name outside of the domain does not exist,
unless --upstream says who knows.

Examples:
  netns-lab dns --listen 127.0.0.1:5353 &
  dig +short @127.0.0.1 -p 5353 web.default.svc.cluster.local
  netns-lab dns --registry ./objects --upstream host")]
pub struct DnsArgs {
    /// A directory of objects; may be given more than once [default: the lab's]
    #[arg(long, value_name = "DIR")]
    pub registry: Vec<PathBuf>,
    /// The lab [default: `lab` if it is up, else the only one]
    #[arg(long, value_name = "LAB")]
    pub lab: Option<Label>,
    /// Where to listen [default: port 53 of all addresses]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain
    #[arg(long, default_value = CLUSTER_DOMAIN, value_parser = domain)]
    pub domain: String,
    /// Who knows other names: an address, or `host` for the host's own servers
    #[arg(long, value_name = "ADDRESS|host", value_parser = upstream)]
    pub upstream: Vec<UpstreamServer>,
    /// Listen in this network namespace; upstream is asked from here
    #[arg(long, value_name = "NAME")]
    pub netns: Option<String>,
}

/// A name server of elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamServer {
    /// This one.
    At(SocketAddr),
    /// Those that the host asks itself.
    Host,
}

fn upstream(text: &str) -> Result<UpstreamServer, String> {
    if text == "host" {
        return Ok(UpstreamServer::Host);
    }
    let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
    address
        .or_else(|_| text.parse())
        .map(UpstreamServer::At)
        .map_err(|_| "expected an address such as 192.0.2.1 or 192.0.2.1:53, or host".into())
}

fn domain(text: &str) -> Result<String, String> {
    let good = text.len() <= 127 && text.split('.').all(|label| Label::new(label).is_ok());
    if good {
        Ok(text.to_string())
    } else {
        Err("expected a domain in lower case, such as cluster.local".into())
    }
}
