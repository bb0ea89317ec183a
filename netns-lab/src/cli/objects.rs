//! The command line of what deals with objects and names.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use labkit::shell::OutputFormat;

use super::InsideArgs;
use super::life::EndArgs;
use crate::dns::CLUSTER_DOMAIN;
use crate::dns::upstream::UpstreamServer;
use crate::model::kind::{Kind, Kinds};
use crate::model::name::Label;
use crate::model::selector::Selector;

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
    #[arg(long, value_name = "ADDRESS|host")]
    pub upstream: Vec<UpstreamServer>,
    /// Listen in this network namespace; upstream is asked from here
    #[arg(long, value_name = "NAME")]
    pub netns: Option<String>,
}

/// `name-server`.
#[derive(Debug, Args)]
pub struct NameServerArgs {
    /// The lab
    #[arg(long)]
    pub lab: Label,
    /// The pod
    #[arg(long)]
    pub pod: Label,
    /// Where it runs
    #[command(flatten)]
    pub inside: InsideArgs,
    /// The network namespace from which upstream is asked
    #[arg(long)]
    pub from: PathBuf,
    /// Who knows other names
    #[arg(long)]
    pub upstream: Vec<UpstreamServer>,
}

fn domain(text: &str) -> Result<String, String> {
    let good = text.len() <= 127 && text.split('.').all(|label| Label::new(label).is_ok());
    if good {
        Ok(text.to_string())
    } else {
        Err("expected a domain in lower case, such as cluster.local".into())
    }
}

/// `expose`.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes a Service as an API server would have stored it: every field has its
default, the address and node ports are allocated. The pods are those of a
Deployment, else a pod's own labels, else the label app=APP.

Examples:
  netns-lab expose web --name shop --port 80 --target-port http
  netns-lab expose web --name door --port 80 --target-port 8080 --type NodePort
  netns-lab expose web --name both --port 8080 --ip-families IPv4,IPv6
  netns-lab expose web --name pods --port 8080 --headless")]
pub struct ExposeArgs {
    /// A Deployment, a pod, or the value of the label `app`
    #[arg(value_name = "APP|POD")]
    pub app: Label,
    /// The Service's port
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// The pods' port: its number or its name [default: the Service's]
    #[arg(long, value_name = "N|NAME")]
    pub target_port: Option<String>,
    /// The Service's name [default: APP]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// ClusterIP, NodePort or LoadBalancer
    #[arg(long = "type", value_name = "TYPE", default_value = "ClusterIP",
          value_parser = ["ClusterIP", "NodePort", "LoadBalancer"])]
    pub kind: String,
    /// The node port [default: the next that is free]
    #[arg(long, value_name = "N")]
    pub node_port: Option<u16>,
    /// ClientIP: each client keeps its pod
    #[arg(long, value_name = "AFFINITY", value_parser = ["None", "ClientIP"])]
    pub affinity: Option<String>,
    /// Local: traffic of outside stays on its node and keeps its source
    #[arg(long, value_name = "POLICY", value_parser = ["Cluster", "Local"])]
    pub external_traffic_policy: Option<String>,
    /// Local: traffic of pods stays on their node
    #[arg(long, value_name = "POLICY", value_parser = ["Cluster", "Local"])]
    pub internal_traffic_policy: Option<String>,
    /// SingleStack, PreferDualStack or RequireDualStack [default: SingleStack]
    #[arg(long, value_name = "POLICY", value_parser = ["SingleStack", "PreferDualStack", "RequireDualStack"])]
    pub ip_family_policy: Option<String>,
    /// IPv4, IPv6 or both, the first one first [default: the lab's first]
    #[arg(long, value_name = "FAMILY,...", value_delimiter = ',', value_parser = ["IPv4", "IPv6"])]
    pub ip_families: Vec<String>,
    /// No virtual IP: names lead to the pods themselves
    #[arg(long)]
    pub headless: bool,
    /// TCP or UDP
    #[arg(long, value_name = "PROTOCOL", default_value = "TCP", value_parser = ["TCP", "UDP", "SCTP"])]
    pub protocol: String,
    /// The lab [default: `lab` if it is up, else the only one]
    #[arg(long, value_name = "LAB")]
    pub lab: Option<Label>,
    /// How to print the Service
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

/// `apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
Takes Services, EndpointSlices, Pods and Deployments as kubectl does, in JSON
or YAML, several documents or a list. All of them are checked before the first
is written. Images are not run: in each pod the built-in app answers on the
ports of its container.

Examples:
  netns-lab apply -f docs/examples/shop.json
  printf 'apiVersion: v1\\nkind: Service\\n...' | netns-lab apply -f -")]
pub struct ApplyArgs {
    /// The file; `-` is stdin; may be given more than once
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    pub file: Vec<PathBuf>,
    /// The lab [default: `lab` if it is up, else the only one]
    #[arg(long, value_name = "LAB")]
    pub lab: Option<Label>,
}

/// `delete`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netns-lab delete service shop
  netns-lab delete pod web-3
  netns-lab delete -f docs/examples/shop.json")]
pub struct DeleteArgs {
    /// service (svc), pod (po), deployment (deploy) or endpointslice
    #[arg(requires = "objects", required_unless_present = "file")]
    pub kind: Option<Kind>,
    /// The objects
    #[arg(value_name = "NAME", conflicts_with = "file")]
    pub objects: Vec<String>,
    /// All objects that this file names; `-` is stdin
    #[arg(short, long = "file", value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// The objects' namespace [default: the lab's own]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<Label>,
    /// How pods end
    #[command(flatten)]
    pub end: EndArgs,
    /// The lab [default: `lab` if it is up, else the only one]
    #[arg(long, value_name = "LAB")]
    pub lab: Option<Label>,
}

/// How `get` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum GetFormat {
    /// Columns for people.
    #[default]
    Table,
    /// More of them.
    Wide,
    /// JSON, as the API has it.
    Json,
    /// YAML, as the API has it.
    Yaml,
    /// Kinds and names, one object a line.
    Name,
}

/// `get`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netns-lab get                       all kinds
  netns-lab get svc
  netns-lab get svc,po -l app=web
  netns-lab get pods -o wide
  netns-lab get svc web -o yaml")]
pub struct GetArgs {
    /// services (svc), pods (po), nodes (no), deployments (deploy),
    /// endpointslices (ep) or all; several with commas; or one as svc/web
    #[arg(value_name = "KIND,...")]
    pub kind: Option<Kinds>,
    /// Only these
    #[arg(value_name = "NAME")]
    pub objects: Vec<String>,
    /// The objects' namespace [default: the lab's own]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<Label>,
    /// Only objects with these labels: KEY=VALUE, KEY!=VALUE, KEY, !KEY,
    /// or KEY in (A,B), KEY notin (A,B)
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<Selector>,
    /// With a column of labels
    #[arg(long)]
    pub show_labels: bool,
    /// Without titles of columns
    #[arg(long)]
    pub no_headers: bool,
    /// Of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// The lab [default: `lab` if it is up, else the only one]
    #[arg(long, value_name = "LAB")]
    pub lab: Option<Label>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: GetFormat,
}
