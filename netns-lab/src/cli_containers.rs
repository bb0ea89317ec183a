//! The command line of pods and containers.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use labkit::shell::OutputFormat;

use crate::model::container::{CapabilityName, Cpu, Memory};
use crate::model::ledger::ProcessId;
use crate::model::name::Label;

/// `exec`.
#[derive(Debug, Args)]
#[command(after_help = "\
The exit code is the command's own; 127 when it is not found. The command sees
what the pod's first container sees (its processes, its mounts, the pod's
hostname, /etc/hosts, /etc/resolv.conf and /sys) and keeps your privileges; with
-c it has the user and the capabilities of that container.

Examples:
  netns-lab exec web-1 -- curl -s 10.96.0.80
  netns-lab exec web-1                a shell in the pod
  netns-lab exec node-1 -- iptables -t nat -S
  netns-lab exec outside -- ip route
  netns-lab exec web-1 -c app -- id   as the container itself")]
pub struct ExecArgs {
    /// The pod
    pub pod: Label,
    /// This container, as its user [default: the first one, as you]
    #[arg(short, long, value_name = "CONTAINER")]
    pub container: Option<Label>,
    /// The lab [default: `lab` if it has such a pod, else the only one that has]
    #[arg(long, value_name = "LAB")]
    pub name: Option<Label>,
    /// The command [default: $SHELL or /bin/sh; /bin/sh in a root of its own]
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `run`.
#[derive(Debug, Args)]
#[command(after_help = "\
The container shares the pod's network, hostname, /dev/shm and /volume, and has
processes and mounts of its own. Its user is 65534 (nobody), without any
capability. When it ends it is started again, after pauses as with `pod kill`;
with --once it has ended then. It goes with `pod restart` and with `down`.

Examples:
  netns-lab run web-1 --name side -- sleep 600
  netns-lab run web-1 --name sniff --once --cap NET_RAW -- tcpdump -ni eth0 -c 9
  netns-lab run web-1 --name small --cpu 500m --memory 64Mi -- sleep 600
  netns-lab image build app.tar
  netns-lab run web-1 --name own --rootfs app.tar -- \\
      netns-lab serve --pod own --ip 127.0.0.1 --listen http:9090/tcp")]
pub struct RunArgs {
    /// The pod
    pub pod: Label,
    /// The container's name
    #[arg(long, value_name = "CONTAINER")]
    pub name: Label,
    /// The lab [default: `lab` if it has such a pod, else the only one that has]
    #[arg(long, value_name = "LAB")]
    pub lab: Option<Label>,
    /// Let it end; the pod is ready without it
    #[arg(long)]
    pub once: bool,
    /// A folder or a tar archive that becomes its / [default: the node's files]
    #[arg(long, value_name = "DIR|TAR")]
    pub rootfs: Option<PathBuf>,
    /// A capability to have, such as NET_RAW; repeat for more
    #[arg(long, value_name = "CAPABILITY")]
    pub cap: Vec<CapabilityName>,
    /// The number of its user and group [default: 65534, nobody]; 0 may
    /// write this machine's own files, unless it has a --rootfs
    #[arg(long, value_name = "UID")]
    pub user: Option<u32>,
    /// How much processor time it may use: 500m is half of one
    #[arg(long, value_name = "CPU")]
    pub cpu: Option<Cpu>,
    /// How much memory it may use, such as 64Mi
    #[arg(long, value_name = "MEMORY")]
    pub memory: Option<Memory>,
    /// The command
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netns-lab logs web-1
  netns-lab logs web-1 -c side
  netns-lab logs web-1 --follow")]
pub struct LogsArgs {
    /// The pod
    pub pod: Label,
    /// The container [default: the first one]
    #[arg(short, long, value_name = "CONTAINER")]
    pub container: Option<Label>,
    /// The lab [default: `lab` if it has such a pod, else the only one that has]
    #[arg(long, value_name = "LAB")]
    pub name: Option<Label>,
    /// Go on until interrupted
    #[arg(short, long)]
    pub follow: bool,
}

/// `namespaces`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each column is what a process there sees when it asks the kernel. The numbers
under \"namespaces\" are those of /proc/self/ns: the same number is the same
namespace.

Examples:
  netns-lab namespaces                the first pod
  netns-lab namespaces web-1
  netns-lab namespaces web-1 -o json | jq '.places[].hostname'")]
pub struct NamespacesArgs {
    /// The pod [default: the first one]
    pub pod: Option<Label>,
    /// The lab [default: `lab` if it is up, else the only one]
    #[arg(long, value_name = "LAB")]
    pub name: Option<Label>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

/// `image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// What to do
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Write an image with this program and the libraries that it needs
    #[command(after_help = "\
The archive holds netns-lab, its libraries, /etc/passwd and little else: no
shell. Everything a container needs to answer is in it, installed and ready.

Example:
  netns-lab image build app.tar && tar -tf app.tar")]
    Build {
        /// The archive
        #[arg(default_value = "netns-lab-app.tar", value_name = "FILE.tar")]
        file: PathBuf,
    },
}

/// Where a process is to be.
#[derive(Debug, Clone, Args)]
pub struct InsideArgs {
    /// The container that it is
    #[arg(long, hide = true, default_value_t = Label::app())]
    pub container: Label,
    /// The view of the host to start from; without it this is no container
    #[arg(long, hide = true)]
    pub inside: Option<PathBuf>,
    /// The folder that becomes its root
    #[arg(long, hide = true)]
    pub rootfs: Option<PathBuf>,
    /// See the registry of its lab, where others see nothing
    #[arg(long, hide = true)]
    pub see_registry: bool,
    /// Its control group
    #[arg(long, hide = true)]
    pub cgroup: Option<PathBuf>,
    /// A capability to keep
    #[arg(long, hide = true)]
    pub cap: Vec<CapabilityName>,
    /// The number of its user
    #[arg(long, hide = true)]
    pub user: Option<u32>,
}

/// `container`.
#[derive(Debug, Args)]
pub struct ContainerArgs {
    /// The lab
    #[arg(long)]
    pub lab: Label,
    /// The pod
    #[arg(long)]
    pub pod: Label,
    /// Where it runs
    #[command(flatten)]
    pub inside: InsideArgs,
    /// The command
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `enter`.
#[derive(Debug, Args)]
pub struct EnterArgs {
    /// The first process of the container, and when that started
    #[arg(long, value_name = "PID:START")]
    pub process: ProcessId,
    /// Become its user, with its capabilities
    #[arg(long)]
    pub same_user: bool,
    /// Tell what is seen there, instead of running a command
    #[arg(long)]
    pub ask: bool,
    /// The command
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}
