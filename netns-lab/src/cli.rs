//! The command line: shapes and words only.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ipnet::Ipv4Net;
use labkit::shell::{OutputFormat, Shell};

pub use containers::{
    ContainerArgs, EnterArgs, ExecArgs, ImageArgs, ImageCommand, InsideArgs, LogsArgs, NamespacesArgs,
    RunArgs,
};
pub mod breaks;
pub mod life;
pub mod load;
pub mod objects;
pub mod talk;

use crate::app::Listen;
use crate::dns::upstream::UpstreamServer;
use crate::model::name::Label;
use crate::model::topology::Overlay;

#[path = "cli_containers.rs"]
mod containers;

/// Pods and nodes out of network namespaces, veth pairs and a bridge.
#[derive(Debug, Parser)]
#[command(name = "netns-lab", version, about, max_term_width = 80, after_help = AFTER_ALL, subcommand_required = true)]
pub struct Cli {
    /// Say more on stderr; repeat for debug and trace
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_ALL: &str = "\
Examples:
  netns-lab sandbox                   a private machine, no root needed
  sudo netns-lab up 3-pods            web-1, web-2 and web-3 on this machine
  sudo netns-lab exec web-1 -- curl -s 10.244.0.3:8080
  sudo netns-lab down                 and nothing is left

Exit codes: 0 done, 1 failed or the answer is no, 2 wrong usage, 3 the host
lacks something.";

/// The sub-commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a lab, or change it into what is asked for
    Up(UpArgs),
    /// Take labs down and leave nothing behind
    Down(DownArgs),
    /// Show labs and their pods
    Status(StatusArgs),
    /// Run a command in a pod
    Exec(ExecArgs),
    /// Add a container to a pod
    Run(RunArgs),
    /// Add, remove, kill and restart pods, and say whether they are ready
    Pod(life::PodArgs),
    /// Have more or fewer pods of an app
    Scale(life::ScaleArgs),
    /// Replace the pods of an app by those of another version
    Rollout(life::RolloutArgs),
    /// Print what a container said
    Logs(LogsArgs),
    /// Ask the host and each container of a pod the same question
    Namespaces(NamespacesArgs),
    /// Build a small image that a container can have as its root
    Image(ImageArgs),
    /// Ask the bridge by ARP who has an address
    Arp(ArpArgs),
    /// Check what this host has for a lab, and how to get what it lacks
    Doctor(DoctorArgs),
    /// Start a private machine: own network, own /run, root inside, no uplink
    Sandbox(SandboxArgs),
    /// Show Services, pods and other objects
    Get(objects::GetArgs),
    /// Make a Service for an app or a pod
    Expose(objects::ExposeArgs),
    /// Take Kubernetes objects from a file
    Apply(objects::ApplyArgs),
    /// Remove objects
    Delete(objects::DeleteArgs),
    /// Answer names of Services and pods, as a cluster's DNS does
    Dns(objects::DnsArgs),
    /// Break a lab on purpose, in one of twelve classic ways
    Break(breaks::BreakArgs),
    /// Undo what `break` did
    Fix(breaks::FixArgs),
    /// Cut, slow down or thin out the link of a pod
    Link(breaks::LinkArgs),
    /// Make many calls, and count who answers them
    Load(load::LoadArgs),
    /// Tell a talk on stage: types its commands, runs them, checks what is seen
    Talk(talk::TalkArgs),
    /// Learn from a talk: you type its commands
    Learn(talk::LearnArgs),
    /// Run all steps of a talk, and say which are not as it says
    Check(talk::CheckArgs),
    /// Write a recording and a transcript of a talk
    Record(talk::RecordArgs),
    /// The app that runs in a pod
    Serve(ServeArgs),
    /// The first process of a container that runs a command
    #[command(hide = true)]
    Container(ContainerArgs),
    /// The name server in its pod
    #[command(hide = true)]
    NameServer(objects::NameServerArgs),
    /// A process on its way into a container
    #[command(hide = true)]
    Enter(EnterArgs),
    /// The process that marks pods as not ready when their app ends
    #[command(hide = true)]
    Agent(AgentArgs),
    /// The first process of a sandbox
    #[command(hide = true)]
    SandboxInit(SandboxInitArgs),
    /// One more command in a sandbox
    #[command(hide = true)]
    SandboxJoin(talk::SandboxJoinArgs),
    /// The trial that `doctor` makes in a sandbox
    #[command(hide = true)]
    Trial {
        /// The iptables to try
        iptables: PathBuf,
    },
    /// The process that maps the user ids of a sandbox
    #[command(hide = true)]
    SandboxMap {
        /// The sandbox's process
        pid: u32,
    },
    /// Print a completion script
    #[command(
        after_help = "Example:\n  netns-lab completions bash | sudo tee /etc/bash_completion.d/netns-lab"
    )]
    Completions {
        /// For this shell
        shell: Shell,
    },
    /// Print the man page
    #[command(after_help = "Example:\n  netns-lab man | man -l -")]
    Man,
}

/// `up`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_UP)]
pub struct UpArgs {
    /// `N-pods` (web-1 to web-N), `N-nodes-M-pods` or a JSON file; without it
    /// the lab as it was made is repaired, and a first one has 3 pods
    pub topology: Option<String>,
    /// The lab; several can be up at once
    #[arg(long, value_name = "LAB", default_value_t = Label::default_lab())]
    pub name: Label,
    /// The pods' range [default: 10.244.0.0/24, or the next that no lab has]
    #[arg(long, value_name = "CIDR", value_parser = pod_cidr)]
    pub pod_cidr: Option<Ipv4Net>,
    /// The Services' range [default: 10.96.0.0/16, or the next]
    #[arg(long, value_name = "CIDR", value_parser = service_cidr)]
    pub service_cidr: Option<Ipv4Net>,
    /// The bridge's name [default: cni0, or cni-LAB]
    #[arg(long, value_name = "LINK", value_parser = interface)]
    pub bridge: Option<String>,
    /// Make even a single node a network namespace of its own
    #[arg(long)]
    pub isolated: bool,
    /// Give everything an IPv6 address, too; nodes are isolated then
    #[arg(long)]
    pub dual_stack: bool,
    /// Join the pods of different nodes by a tunnel instead of by routes
    #[arg(long, value_enum)]
    pub overlay: Option<Overlay>,
    /// Have the name server kube-dns, a pod [default: where nodes are isolated]
    #[arg(long, conflicts_with = "no_dns")]
    pub dns: bool,
    /// Do without it
    #[arg(long, conflicts_with = "dns_upstream")]
    pub no_dns: bool,
    /// Whom it asks for other names: an address, or `host` for the host's own
    #[arg(long, value_name = "ADDRESS|host")]
    pub dns_upstream: Option<UpstreamServer>,
    /// Say what would be done and do nothing; needs no root
    #[arg(long)]
    pub dry_run: bool,
    /// Write rules with this iptables [default: the one the host uses]
    #[arg(long, value_name = "PATH")]
    pub iptables: Option<PathBuf>,
    /// How to print the lab
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Print on stderr, as JSON, how long each phase took
    #[arg(long)]
    pub timings: bool,
}

const AFTER_UP: &str = "\
Examples:
  netns-lab up 3-pods                 web-1, web-2, web-3, labelled app=web
  netns-lab up 5-pods                 two more; the three stay as they are
  netns-lab up shop.json --name shop  a lab of its own beside the first
  netns-lab up 2-nodes-6-pods         nodes of their own, and a host outside
  netns-lab up 3-pods --dry-run       the plan in sentences

A topology file:
  {\"pods\": [{\"name\": \"db\", \"labels\": {\"app\": \"db\"}, \"app\": \"serve\",
             \"ports\": [{\"name\": \"sql\", \"containerPort\": 5432,
                        \"protocol\": \"TCP\", \"answers\": \"echo\"}]}]}
Only \"name\" must be there. \"app\" is \"serve\" (the built-in app) or \"none\".
Instead of \"app\" and \"ports\" a pod may have \"containers\": [{\"name\": \"app\",
\"ports\": [...]}, {\"name\": \"side\", \"command\": [\"sleep\", \"60\"]}], each with
\"rootfs\", \"cpu\", \"memory\", \"capabilities\" and \"user\" as `netns-lab run` has.

Several nodes, each a network namespace of its own (so is a single one with
\"isolated\": true):
  {\"nodes\": [{\"name\": \"a\", \"zone\": \"east\", \"pods\": 20, \"cpu\": \"4\",
              \"memory\": \"8Gi\"}, {\"name\": \"b\"}],
   \"dualStack\": true, \"overlay\": \"vxlan\",
   \"pods\": [{\"name\": \"db\", \"nodeName\": \"a\", \"cpu\": \"500m\"}, {\"name\": \"web\"}]}
Pods that name no node go to the least loaded one. `exec outside` is on a host
beside the nodes, from which 203.0.113.0/24 leads to them.

What is touched: a bridge and veth links, names in /run/netns, three iptables
rules marked \"netns-lab LAB\", net.ipv4.ip_forward, bridge-nf-call-iptables,
files in /run/netns-lab. `netns-lab down` undoes all of it. Nodes of their own
leave this network namespace as it is.";

/// `down`.
#[derive(Debug, Args)]
#[command(after_help = "\
The lab's registry goes with it, and with the registry your Service files in
it: keep them elsewhere (miniproxy --registry PATH) if you want them again.

Examples:
  netns-lab down                      the only lab
  netns-lab down shop                 or --name shop
  netns-lab down --all")]
pub struct DownArgs {
    /// The lab; not needed when there is only one
    #[arg(conflicts_with = "all")]
    pub lab: Option<Label>,
    /// The same, as an option
    #[arg(long, value_name = "LAB", conflicts_with_all = ["lab", "all"])]
    pub name: Option<Label>,
    /// All labs
    #[arg(long)]
    pub all: bool,
    /// How to print what was removed
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Print on stderr, as JSON, how long it took
    #[arg(long)]
    pub timings: bool,
}

/// `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
A pod is ready when its namespace, link and routes are there and its app runs;
whether the app answers is not asked. Exit code 1 when there is no such lab. As JSON one lab, or the one you name, is
an object with \"lab\", \"nodes\", \"pods\" and more; several, where you name
none, are {\"labs\": [...]}.

Examples:
  netns-lab status
  netns-lab status --name shop
  netns-lab status -o json | jq -r '.pods[].ip'")]
pub struct StatusArgs {
    /// Only this lab
    pub lab: Option<Label>,
    /// The same, as an option
    #[arg(long, value_name = "LAB", conflicts_with = "lab")]
    pub name: Option<Label>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

/// `arp`.
#[derive(Debug, Args)]
#[command(after_help = "\
A pod answers for its address. A virtual IP is on no interface, so nobody does:
exit code 1.

Examples:
  netns-lab arp 10.244.0.3
  netns-lab arp 10.96.0.80 --from web-1
  netns-lab arp 172.18.0.2 --from outside")]
pub struct ArpArgs {
    /// The address
    pub address: Ipv4Addr,
    /// Ask from this pod or node, or from `outside` [default: the first node]
    #[arg(long, value_name = "POD")]
    pub from: Option<Label>,
    /// The lab [default: `lab` if it is up, else the only one]
    #[arg(long, value_name = "LAB")]
    pub name: Option<Label>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

/// `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code 3 when something is missing that `up` needs.

Examples:
  netns-lab doctor
  netns-lab doctor -o json | jq '.checks[] | select(.status != \"ok\")'")]
pub struct DoctorArgs {
    /// Look with this iptables [default: the one the host uses]
    #[arg(long, value_name = "PATH")]
    pub iptables: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

/// `sandbox`.
#[derive(Debug, Args)]
#[command(after_help = "\
Everything in it vanishes on exit. Files are the host's own: what you write to
your home directory stays.

Examples:
  netns-lab sandbox                   a shell
  netns-lab sandbox -- sh -c 'netns-lab up 3-pods && ip address'")]
pub struct SandboxArgs {
    /// The command [default: $SHELL or /bin/sh]
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

/// `sandbox-init`.
#[derive(Debug, Args)]
pub struct SandboxInitArgs {
    /// The command
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

/// `serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
HTTP answers one line, who answered and whom it saw; as JSON at /json, with
?format=json or `Accept: application/json`; `ok` at /healthz. Echo answers the
same line: on TCP at once on connecting and then for each line it reads, on UDP
for each datagram. On SIGTERM it goes on for a quarter of a second, then closes
its ports, and ends when the last connection has; on SIGINT it ends at once.

Example:
  netns-lab serve --pod me --ip 127.0.0.1 --listen http:8080/tcp")]
pub struct ServeArgs {
    /// The lab, for whoever lists processes
    #[arg(long, default_value_t = Label::default_lab())]
    pub lab: Label,
    /// The name to answer with
    #[arg(long)]
    pub pod: Label,
    /// The address to answer with
    #[arg(long)]
    pub ip: Ipv4Addr,
    /// The version to answer with
    #[arg(long, value_name = "VERSION")]
    pub app_version: Option<String>,
    /// What to answer where: http:8080/tcp, echo:8081/tcp, echo:8081/udp
    #[arg(long, required = true)]
    pub listen: Vec<Listen>,
    /// Where it runs
    #[command(flatten)]
    pub inside: InsideArgs,
}

/// `agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The lab
    #[arg(long)]
    pub lab: Label,
    /// The pause before the second start of a container, in milliseconds
    #[arg(long, value_name = "MS")]
    pub restart_backoff: Option<u64>,
}

fn pod_cidr(text: &str) -> Result<Ipv4Net, String> {
    range(text, 29)
}

fn service_cidr(text: &str) -> Result<Ipv4Net, String> {
    range(text, 30)
}

fn range(text: &str, longest: u8) -> Result<Ipv4Net, String> {
    let net: Ipv4Net = text
        .parse()
        .map_err(|_| "expected an IPv4 range such as 10.50.0.0/24".to_string())?;
    let first = net.network();
    if net.addr() != first {
        return Err(format!(
            "expected the first address of the range: {first}/{}",
            net.prefix_len()
        ));
    }
    if !(8..=longest).contains(&net.prefix_len()) {
        return Err(format!("expected a range from /8 to /{longest}"));
    }
    if first.is_loopback() || first.is_multicast() || first.is_unspecified() || first.is_broadcast() {
        return Err("expected a range that hosts can have, such as 10.50.0.0/24".into());
    }
    Ok(net)
}

fn interface(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let long = crate::model::name::INTERFACE_BYTES;
    let reserved = matches!(text, "." | ".." | "lo" | "all" | "default");
    let starts_well = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_well && text.len() <= long && !reserved && text.bytes().all(good) {
        Ok(text.to_string())
    } else {
        Err(format!(
            "expected a link name: 1 to {long} letters, digits, \"-\", \"_\" or \".\""
        ))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_texts_fit_a_terminal_and_stay_as_they_are() {
        let mut command = Cli::command().term_width(80);
        command.build();
        let mut all = command.render_long_help().to_string();
        for sub in command
            .get_subcommands_mut()
            .filter(|sub| sub.get_name() != "help")
        {
            let (name, help) = (sub.get_name().to_string(), sub.render_long_help());
            all = format!("{all}\n=== {name}\n{help}");
        }
        let long: Vec<_> = all.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty(), "{long:#?}");
        insta::assert_snapshot!(all);
    }

    #[test]
    fn ranges_and_names_are_checked() {
        assert!(pod_cidr("10.50.0.0/24").is_ok());
        for text in [
            "10.50.0.1/24",
            "10.50.0.0/30",
            "0.0.0.0/0",
            "127.0.0.0/24",
            "224.0.0.0/24",
            "fd00::/64",
            "x",
        ] {
            assert!(pod_cidr(text).is_err(), "{text}");
        }
        assert!(interface("br-web").is_ok());
        for text in ["", "lo", "..", "a/b", "-x", "a b", "a\u{1b}", "0123456789abcdef"] {
            assert!(interface(text).is_err(), "{text}");
        }
    }
}
