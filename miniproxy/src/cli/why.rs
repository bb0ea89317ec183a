//! The flags of `why`.

use std::path::PathBuf;

use clap::Args;
use labkit::screen::ScreenArgs;

use super::{NodeArgs, RegistryArgs};

pub(super) const EXAMPLES: &str = "\
Examples:
  sudo miniproxy why web                 calls from pods, nodes and outside
  sudo miniproxy why default/web:http    one port of it
  sudo miniproxy why web -o json         for scripts
  miniproxy why web --rules node.save --registry cluster.json
                                         what a dump and objects tell, without root

Nothing is changed. Exit code: 0 nothing is wrong, 1 a cause was found or calls are
lost, 2 something cannot be read, 3 the host lacks something.";

/// Arguments of `why`.
#[derive(Debug, Clone, Args)]
pub struct WhyArgs {
    /// The Service: web, svc/web, default/web:http, 10.96.0.80:80
    #[arg(value_name = "SERVICE")]
    pub service: String,
    /// Rules as iptables-save prints them, in place of the kernel's: no call is made then
    #[arg(long, value_name = "DUMP")]
    pub rules: Option<PathBuf>,
    /// Where the objects are
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// How this node proxies
    #[command(flatten)]
    pub node: NodeArgs,
    /// The iptables program to ask [default: the flavour that the host uses]
    #[arg(long, value_name = "PATH")]
    pub iptables: Option<PathBuf>,
    /// How it looks
    #[command(flatten)]
    pub screen: ScreenArgs,
}
