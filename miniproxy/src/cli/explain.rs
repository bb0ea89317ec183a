//! The flags of questions about rules: `explain` and `graph`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use labkit::screen::ScreenArgs;
use labkit::shell::OutputFormat;

use super::RegistryArgs;

/// Which packet, and whose rules.
#[derive(Debug, Clone, Args)]
pub struct QuestionArgs {
    /// Where the packet goes: svc/web, ns/web:http, 10.96.0.80:80, [fd00::1]:80, node:30080
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// Who sends it: a pod, a node, `node`, `outside` or an address
    /// [default: a pod that is no endpoint]
    #[arg(long, value_name = "POD|NODE|outside|IP")]
    pub from: Option<String>,
    /// A UDP packet
    #[arg(long, conflicts_with = "icmp")]
    pub udp: bool,
    /// An ICMP echo request, as ping sends
    #[arg(long)]
    pub icmp: bool,
    /// Rules as iptables-save prints them, a file or - for stdin; needs no root
    /// [default: the kernel's]
    #[arg(long, value_name = "DUMP")]
    pub rules: Option<PathBuf>,
    /// Where the objects are; the rules alone will do
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// The node whose rules these are
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// The iptables program to ask [default: the flavour that the host uses]
    #[arg(long, value_name = "PATH")]
    pub iptables: Option<PathBuf>,
    /// The IP family: 4 or 6 [default: that of the target]
    #[arg(long, value_parser = clap::value_parser!(u8).range(4..=6))]
    pub family: Option<u8>,
}

/// Arguments of `explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// The question
    #[command(flatten)]
    pub question: QuestionArgs,
    /// How it looks
    #[command(flatten)]
    pub screen: ScreenArgs,
}

/// How a graph is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum GraphFormat {
    /// For a terminal.
    #[default]
    Text,
    /// For Markdown.
    Mermaid,
    /// For Graphviz.
    Dot,
    /// A picture.
    Svg,
}

/// Arguments of `graph`.
#[derive(Debug, Clone, Args)]
pub struct GraphArgs {
    /// The question
    #[command(flatten)]
    pub question: QuestionArgs,
    /// How it is written
    #[arg(long, value_enum, default_value_t, conflicts_with_all = ["output", "plain"])]
    pub format: GraphFormat,
    /// How to print; json is the report that the graph is drawn from
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Sentences, one fact a line
    #[arg(long, conflicts_with = "output")]
    pub plain: bool,
    /// Names in place of addresses
    #[arg(long)]
    pub hide_addresses: bool,
    /// Only characters of ASCII, with --format text
    #[arg(long)]
    pub ascii: bool,
}
