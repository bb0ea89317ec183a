//! The flags of `trace`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use labkit::screen::ScreenArgs;

use super::RegistryArgs;

/// Arguments of `trace`.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// What is called: svc/web, ns/web:http, 10.96.0.80:80, node:30080
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// Who calls: a pod or node of the lab, or `outside` [default: a pod that is no endpoint]
    #[arg(long, value_name = "POD|NODE|outside")]
    pub from: Option<String>,
    /// A UDP packet
    #[arg(long)]
    pub udp: bool,
    /// How long an answer may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub timeout: u64,
    /// Write the packets of both cables into a file for Wireshark
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Show every event of the kernel, those that lead nowhere included
    #[arg(long)]
    pub all: bool,
    /// Where the objects are
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// The IP family: 4 or 6 [default: that of the target, else 4]
    #[arg(long, value_parser = clap::value_parser!(u8).range(4..=6))]
    pub family: Option<u8>,
    /// How it looks
    #[command(flatten)]
    pub screen: ScreenArgs,
}

impl TraceArgs {
    /// How long an answer may take.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}
