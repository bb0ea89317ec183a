//! One file for each sub-command: glue and words.

mod agent;
mod apply;
mod arp;
mod break_;
mod check;
mod container;
mod delete;
mod dns;
mod doctor;
mod down;
mod exec;
mod expose;
mod find;
mod fix;
mod get;
mod graph;
pub mod holder;
mod image;
mod learn;
mod life;
mod link;
mod load;
mod logs;
mod namespaces;
mod objects;
mod pod;
mod record;
mod rollout;
mod run;
mod scale;
mod serve;
mod status;
mod talk;
mod up;
mod up_lab;

use clap::CommandFactory as _;
use labkit::{Failure, Outcome, shell};

use crate::cli::{Cli, Command};
use crate::edge::{enter, sandbox};

/// Runs a sub-command.
pub fn run(command: Command) -> Result<Outcome, Failure> {
    match command {
        Command::Up(args) => up::run(&args),
        Command::Down(args) => down::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Exec(args) => exec::run(args),
        Command::Pod(args) => pod::run(args),
        Command::Scale(args) => scale::run(&args),
        Command::Rollout(args) => rollout::run(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Get(args) => get::run(&args),
        Command::Expose(args) => expose::run(&args),
        Command::Apply(args) => apply::run(&args),
        Command::Delete(args) => delete::run(&args),
        Command::Dns(args) => dns::run(&args),
        Command::Break(args) => break_::run(&args),
        Command::Fix(args) => fix::run(&args),
        Command::Link(args) => link::run(&args),
        Command::Graph(args) => graph::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Talk(args) => talk::run(&args),
        Command::Learn(args) => learn::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Record(args) => record::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Run(args) => run::run(args),
        Command::Namespaces(args) => namespaces::run(&args),
        Command::Image(args) => image::run(&args),
        Command::Container(args) => container::run(&args),
        Command::NameServer(args) => dns::in_pod(&args),
        Command::Enter(args) => exec::enter(&args),
        Command::Agent(args) => agent::run(&args),
        Command::Completions { shell } => shell::emit_completions(Cli::command(), shell),
        Command::Man => shell::emit_man(Cli::command()),
        Command::Arp(args) => arp::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Sandbox(args) => {
            let shell = enter::shell_command();
            sandbox::run(if args.command.is_empty() {
                &shell
            } else {
                &args.command
            })
        }
        Command::SandboxInit(args) => sandbox::init(&args.command),
        Command::SandboxJoin(args) => sandbox::join(args.process, args.front, &args.command),
        Command::Trial { iptables } => doctor::trial(&iptables),
        Command::SandboxMap { pid } => sandbox::map_all(pid),
    }
}
