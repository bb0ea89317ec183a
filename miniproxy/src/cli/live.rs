//! The command line of `watch`.

use std::path::PathBuf;

use clap::Args;
use labkit::screen::ScreenArgs;

use super::RegistryArgs;

/// Arguments of `watch`.
#[derive(Debug, Clone, Args)]
pub struct LiveArgs {
    /// The Service: svc/web, NAMESPACE/NAME:PORT or ADDRESS:PORT [default: all of them]
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,
    /// Where names of pods come from, and the lab's nodes
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Only this node of the lab
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// The iptables program to ask [default: the flavour that the host uses]
    #[arg(long, value_name = "PATH")]
    pub iptables: Option<PathBuf>,
    /// The IP family: 4 or 6
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(4..=6))]
    pub family: u8,
    /// End after so many seconds [default without a terminal: 5]
    #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
    /// End after so many new connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// With -o json: a line each second
    #[arg(long)]
    pub follow: bool,
    /// How it looks
    #[command(flatten)]
    pub screen: ScreenArgs,
}
