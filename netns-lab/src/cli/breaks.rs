//! The command line of failures to order.

use clap::Args;
use labkit::shell::OutputFormat;

use crate::model::breakage::{Name, link};
use crate::model::name::Label;

/// `break`.
#[derive(Debug, Args)]
#[command(after_help = "\
What is changed is written down first; `netns-lab fix` puts it back exactly, and
so does `down`. --check looks at what was broken, so whoever mends it by other
means is told so: exit code 0 when it is mended, 1 when it is not.

Examples:
  netns-lab break --list              the failures, and what each looks like
  netns-lab break hairpin-off
  netns-lab break --surprise          one of them; find out which
  netns-lab break --hint              each call tells one hint more
  netns-lab break --check             is it mended?
  netns-lab fix                       undo it")]
pub struct BreakArgs {
    /// The failure; with --hint or --check one of those that are broken
    #[arg(value_name = "NAME", conflicts_with_all = ["list", "surprise"], hide_possible_values = true)]
    pub failure: Option<Name>,
    /// The lab [default: `lab` if it is up, else the only one]
    #[arg(long, visible_alias = "name", value_name = "LAB")]
    pub lab: Option<Label>,
    /// Tell the failures that can be had
    #[arg(long)]
    pub list: bool,
    /// One by chance, without saying which
    #[arg(long, conflicts_with = "list")]
    pub surprise: bool,
    /// One hint more about what is broken
    #[arg(long, conflicts_with_all = ["list", "surprise"])]
    pub hint: bool,
    /// Whether what is broken is mended
    #[arg(long, conflicts_with_all = ["list", "surprise", "hint"])]
    pub check: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

/// `fix`.
#[derive(Debug, Args)]
#[command(after_help = "\
Rules go back to their place, settings, routes, links and files to what they
were. What you or miniproxy changed since stays.

Examples:
  netns-lab fix                       all that is broken
  netns-lab fix hairpin-off
  netns-lab fix --reveal              only tell what it is
  netns-lab fix --check               is it mended already?")]
pub struct FixArgs {
    /// The failure [default: all]
    #[arg(value_name = "NAME", hide_possible_values = true)]
    pub failure: Option<Name>,
    /// The lab [default: `lab` if it is up, else the only one]
    #[arg(long, visible_alias = "name", value_name = "LAB")]
    pub lab: Option<Label>,
    /// Tell what is broken, and change nothing
    #[arg(long, conflicts_with = "check")]
    pub reveal: bool,
    /// Whether what is broken is mended, as `break --check`
    #[arg(long)]
    pub check: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

/// `link`.
#[derive(Debug, Args)]
#[command(after_help = "\
What goes to the pod is lost, late or slow, at the node's end of its link; what
comes from the pod is not. Loss and delay take the kernel's sch_netem; without
it loss is made by iptables rules, and delay cannot be had (exit code 3). Rate
takes sch_tbf, or sch_netem beside loss or delay. Options add up over calls;
`status` shows them.

Examples:
  netns-lab link web-1                what is wrong with it
  netns-lab link web-1 --down
  netns-lab link web-1 --up --loss 10%
  netns-lab link web-1 --delay 20ms --rate 10mbit
  netns-lab link web-1 --clear")]
pub struct LinkArgs {
    /// The pod
    pub pod: Label,
    /// The lab [default: `lab` if it has such a pod, else the only one that has]
    #[arg(long, visible_alias = "name", value_name = "LAB")]
    pub lab: Option<Label>,
    /// Set it down, as if the cable was cut
    #[arg(long, conflicts_with = "up")]
    pub down: bool,
    /// Set it up again
    #[arg(long)]
    pub up: bool,
    /// Lose this share of the packets, such as 10%
    #[arg(long, value_name = "SHARE", value_parser = link::loss)]
    pub loss: Option<u32>,
    /// Let packets arrive later by this time, such as 20ms
    #[arg(long, value_name = "TIME", value_parser = link::delay)]
    pub delay: Option<u64>,
    /// Let no more through than this, such as 10mbit
    #[arg(long, value_name = "RATE", value_parser = link::rate)]
    pub rate: Option<u64>,
    /// Undo all of it
    #[arg(long, conflicts_with_all = ["down", "up", "loss", "delay", "rate"])]
    pub clear: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

impl LinkArgs {
    /// Whether nothing is to be changed.
    pub fn only_asks(&self) -> bool {
        let values = self.loss.is_some() || self.delay.is_some() || self.rate.is_some();
        !(self.down || self.up || self.clear || values)
    }
}
