//! The command line: shapes and words only.

mod explain;
mod live;
mod node;
mod trace;
mod why;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use labkit::screen::ScreenArgs;
use labkit::shell::OutputFormat;

pub use explain::{ExplainArgs, GraphArgs, GraphFormat, QuestionArgs};
pub use live::LiveArgs;
pub use node::NodeArgs;
pub use trace::TraceArgs;
pub use why::WhyArgs;

/// A mini kube-proxy: turns Kubernetes Services in JSON files into the iptables rules that
/// kube-proxy writes, chain for chain and word for word.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 80, after_help = EXAMPLES)]
pub struct Cli {
    /// Say more on stderr: -v what is done, -vv why, -vvv every rule sent
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sudo netns-lab up 3-pods          a node with three pods and a Service
  sudo miniproxy sync               write the Service's rules
  sudo iptables -t nat -L           and there it is
  miniproxy render --registry svc/  the same rules as text, without root
  sudo miniproxy cleanup            take them away again";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write the rules that the registry wants, and say what changed
    #[command(after_help = "\
Examples:
  sudo miniproxy sync               once
  sudo miniproxy sync --watch       and follow the registry until Ctrl-C
  sudo miniproxy sync --watch --serve
                                    and answer /healthz and /metrics meanwhile
  miniproxy sync --dry-run          show what would be sent to iptables-restore")]
    Sync(SyncArgs),
    /// Print the rules as iptables-restore text; needs neither root nor a kernel
    #[command(after_help = "\
Examples:
  kubectl get svc,endpointslices,pods,nodes -A -o json > cluster.json
  miniproxy render --registry cluster.json
  miniproxy render --family 6")]
    Render(RenderArgs),
    /// Check a registry: say what is wrong, in which file, line, column and field
    #[command(after_help = "\
Examples:
  miniproxy check --registry services/
  miniproxy check --registry web.json && echo good")]
    Check(CheckArgs),
    /// Compare rules by meaning: the kernel's, a saved dump's, the registry's
    #[command(after_help = "\
Examples:
  sudo miniproxy diff                    the kernel and the registry
  miniproxy diff node.save --registry cluster.json
                                         a dump of iptables-save and a registry
  miniproxy diff before.save after.save  two dumps

Exit code: 0 the same, 1 different, 2 something cannot be read.")]
    Diff(DiffArgs),
    /// Walk a packet through the real rules: where it would go, with which chance, and why
    #[command(after_help = "\
Examples:
  sudo miniproxy explain svc/web                 from a pod, by the kernel's rules
  sudo miniproxy explain node:30080 --from outside
  sudo miniproxy explain 10.96.0.80 --icmp       why there is no ping
  miniproxy explain web --rules node.save        by the rules of a real node
  ssh node sudo iptables-save | miniproxy explain web --rules - -o json

Exit code: 0 every new connection gets through, 1 not every one, 2 something cannot be
read or nobody has that name, 3 the kernel cannot be asked.")]
    Explain(ExplainArgs),
    /// Draw one Service: its dice as questions, with the share of each answer
    #[command(after_help = "\
Examples:
  sudo miniproxy graph svc/web
  miniproxy graph web --rules node.save --format mermaid
  miniproxy graph web --rules node.save --format svg > web.svg")]
    Graph(GraphArgs),
    /// Make one real connection and show what the kernel did with it, rule by rule
    #[command(after_help = "\
Examples:
  sudo miniproxy trace svc/web --from web-1
  sudo miniproxy trace 10.96.0.80:80 --from node --plain
  sudo miniproxy trace svc/web --pcap trace.pcapng

Exit code: 0 somebody answered, 1 nobody did, 2 nobody has that name, 3 the kernel
does not trace.")]
    Trace(TraceArgs),
    /// Say why a Service does not answer, and which command cures it
    #[command(after_help = why::EXAMPLES)]
    Why(WhyArgs),
    /// Watch new connections: who gets how many, and what luck alone explains
    #[command(after_help = "\
Examples:
  sudo miniproxy watch svc/web                a screen that stays
  sudo miniproxy watch web --for 10 --plain   ten seconds, in sentences
  sudo miniproxy watch web --follow -o json   a line of JSON each second
  sudo miniproxy watch                        all Services

Without a terminal it counts for 5 seconds, prints once and ends.")]
    Watch(LiveArgs),
    /// Remove every rule and chain that miniproxy made, and nothing else
    Cleanup(CleanupArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the man page
    Man,
}

/// Where the objects are.
#[derive(Debug, Clone, Args)]
pub struct RegistryArgs {
    /// A directory of JSON files or one file; may be given several times
    /// [default: the registry of the lab that is up]
    #[arg(
        long = "registry",
        value_name = "PATH",
        env = "MINIPROXY_REGISTRY",
        hide_env_values = true
    )]
    pub paths: Vec<PathBuf>,
    /// The lab whose registry to read, where several are up
    #[arg(long, value_name = "NAME", conflicts_with = "paths")]
    pub lab: Option<String>,
}

/// Arguments of `sync`.
#[derive(Debug, Clone, Args)]
pub struct SyncArgs {
    /// Where the objects are
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// How this node proxies
    #[command(flatten)]
    pub node: NodeArgs,
    /// The iptables program to use; ip6tables, -save and -restore are found beside it
    /// [default: the flavour that the host uses]
    #[arg(long, value_name = "PATH")]
    pub iptables: Option<PathBuf>,
    /// Print what would be sent to iptables-restore and change nothing
    #[arg(long, conflicts_with = "watch")]
    pub dry_run: bool,
    /// Follow the registry until SIGINT or SIGTERM
    #[arg(long)]
    pub watch: bool,
    /// Refuse the whole registry when one object of it is bad [default: refuse that object, which
    /// keeps the rules it has]
    #[arg(long)]
    pub strict: bool,
    /// With --watch: seconds between two full comparisons with the kernel
    /// [default: the configuration's syncPeriod, else 30]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub sync_period: Option<u64>,
    /// With --watch: serve health (port 10256), metrics (127.0.0.1:10249) and the health check node
    /// ports of Services, as kube-proxy does
    #[arg(long, requires = "watch")]
    pub serve: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

/// Arguments of `render`.
#[derive(Debug, Clone, Args)]
pub struct RenderArgs {
    /// Where the objects are
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// How this node proxies
    #[command(flatten)]
    pub node: NodeArgs,
    /// The IP family: 4 or 6
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(4..=6))]
    pub family: u8,
    /// Refuse the whole registry when one object of it is bad [default: leave that object out]
    #[arg(long)]
    pub strict: bool,
}

/// Arguments of `check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Where the objects are
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

/// Arguments of `diff`.
#[derive(Debug, Clone, Args)]
pub struct DiffArgs {
    /// A dump of iptables-save (IPv4 or IPv6) [default: the kernel]
    #[arg(value_name = "A")]
    pub left: Option<PathBuf>,
    /// Another dump, or a registry (a directory or a .json file) [default: the registry]
    #[arg(value_name = "B")]
    pub right: Option<PathBuf>,
    /// Where the objects are
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// How this node proxies
    #[command(flatten)]
    pub node: NodeArgs,
    /// The iptables program to ask [default: the flavour that the host uses]
    #[arg(long, value_name = "PATH")]
    pub iptables: Option<PathBuf>,
    /// The IP family of the dumps: 4 or 6
    #[arg(long, value_parser = clap::value_parser!(u8).range(4..=6))]
    pub family: Option<u8>,
    /// Refuse the whole registry when one object of it is bad [default: leave its Service out of the
    /// comparison]
    #[arg(long)]
    pub strict: bool,
    /// Both sides in two columns, also where stdout is no terminal
    #[arg(long)]
    pub side_by_side: bool,
    /// How it looks
    #[command(flatten)]
    pub screen: ScreenArgs,
}

/// Arguments of `cleanup`.
#[derive(Debug, Clone, Args)]
pub struct CleanupArgs {
    /// The iptables program to use [default: every flavour that holds our rules]
    #[arg(long, value_name = "PATH")]
    pub iptables: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}
