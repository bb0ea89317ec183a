//! The command line of `load`.

use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use labkit::shell::OutputFormat;

use crate::model::load::Target;
use crate::model::name::Label;

/// `load`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each call is a connection of its own, so the rules roll their dice for each; what
answers says who it is. A call that is lost is counted, and stops nothing. Shares
are of ALL calls; LUCK ALONE is where equal shares are 95 times of 100.

Examples:
  netns-lab load --from web-1         300 calls to http://web
  netns-lab load 10.96.0.10:80 --from web-1 -n 3000
  netns-lab load web --from web-1 -n 1 --requests-per-connection 300
  netns-lab load 10.96.0.10:53 --udp --source-port 4000 -n 5 -c 1
  netns-lab load web --from outside -o json | jq '.backends[].share'

Exit code: 0 also when calls are lost, but with --fail-on-lost 1.")]
pub struct LoadArgs {
    /// A name or an address, with a port that is not 80
    #[arg(default_value = "web", value_name = "NAME[:PORT]")]
    pub target: Target,
    /// From this pod or node, or from `outside` [default: from here]
    #[arg(long, value_name = "POD")]
    pub from: Option<Label>,
    /// The lab [default: `lab` if it has such a pod, else the only one that has]
    #[arg(long, value_name = "LAB")]
    pub lab: Option<Label>,
    /// How many calls
    #[arg(short = 'n', long = "calls", default_value_t = 300, value_name = "N",
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub calls: usize,
    /// How many at the same time
    #[arg(short = 'c', long = "at-once", default_value_t = 20, value_name = "N",
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub at_once: usize,
    /// How long to wait for an answer: 200ms, 2s
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = crate::model::load::time)]
    pub timeout: Duration,
    /// How many requests each connection carries
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "udp",
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub requests_per_connection: usize,
    /// Datagrams instead of connections
    #[arg(long)]
    pub udp: bool,
    /// All from this port, so that the kernel takes them for one flow
    #[arg(long, value_name = "PORT", requires = "udp", value_parser = clap::value_parser!(u16).range(1..))]
    pub source_port: Option<u16>,
    /// Exit code 1 when a call is lost
    #[arg(long)]
    pub fail_on_lost: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}
