//! `miniproxy trace`: one real connection, as the kernel saw it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use labkit::screen::{Mode, hide, print, terminal};
use labkit::shell::emit;
use labkit::{Failure, Outcome};

use super::trace_places::Places;
use crate::cli::TraceArgs;
use crate::edge::trace::cable::{Listeners, Wanted};
use crate::edge::trace::call::{Plan, Waiting};
use crate::edge::trace::pcapng;
use crate::edge::trace::signals::Held;
use crate::edge::trace::spots::Running;
use crate::journey::page::page;
use crate::journey::plain::plain;
use crate::journey::show::{Traced, World};
use crate::journey::{Cable, Called, Capture, Known, Report, Word, follow, make};
use crate::model::Protocol;
use crate::rules::trace::Transport;
use crate::target::SenderKind;

/// After the answer the kernel's last words are waited for.
const AFTER: Duration = Duration::from_millis(60);
const TICK: Duration = Duration::from_millis(3);

/// Calls once, and tells; exit code 1 when nobody answered.
pub(super) fn run(args: &TraceArgs) -> Result<Outcome, Failure> {
    let mut tracer = Tracer::new(args)?;
    let report = tracer.again()?;
    let outcome = if report.outcome == Word::Answered {
        Outcome::Done
    } else {
        Outcome::No
    };
    if let Some(path) = &args.pcap {
        tracer.save(path)?;
    }
    let look = args.screen.look();
    let hidden = |text: String| if look.hide { hide::addresses(&text) } else { text };
    match args.screen.mode() {
        Mode::Json => {
            let text =
                serde_json::to_string_pretty(&report).map_err(|error| Failure::failed(error.to_string()))?;
            emit(&hidden(format!("{text}\n")))?;
        }
        Mode::Plain => emit(&hidden(plain(&report)))?,
        Mode::Once => print::once(&page(&report, &look, None, args.all), &look)?,
        Mode::Live => terminal::run(
            &mut Traced::new(report, &mut tracer),
            look,
            Duration::from_secs(60),
        )?,
    }
    Ok(outcome)
}

/// Who calls whom, and what came of it.
struct Tracer {
    args: TraceArgs,
    places: Places,
    last: Option<(Report, Vec<Capture>)>,
}

impl Tracer {
    fn new(args: &TraceArgs) -> Result<Self, Failure> {
        if let Some(path) = &args.pcap {
            pcapng::check(path)?;
        }
        Ok(Self {
            args: args.clone(),
            places: Places::find(args)?,
            last: None,
        })
    }

    fn again(&mut self) -> Result<Report, Failure> {
        let places = &self.places;
        let (protocol, udp) = match places.call.packet.protocol {
            Transport::Of(Protocol::Tcp) => ("tcp", false),
            Transport::Of(Protocol::Udp) => ("udp", true),
            _ => {
                return Err(Failure::usage(
                    "only connections by TCP and packets by UDP can be traced",
                ));
            }
        };
        let to = SocketAddr::new(places.call.packet.destination, places.call.packet.port);
        // Before the threads, which inherit it, and dropped after the marks.
        let held = Held::begin()?;
        let waiting = Waiting::begin(Plan {
            namespace: places.namespace.clone(),
            from: places.from,
            to,
            is_outside: places.call.sender.kind == SenderKind::Outside,
            udp,
            timeout: self.args.patience(),
        })?;
        let source = waiting.source;
        let listeners = self.listen(source);
        let running = Running::begin(places.spots(protocol, source), places.family)?;
        waiting.go();
        let called = wait(&waiting, self.args.patience(), &held)?;
        let nodes = running.end()?;
        waiting.end();
        let mut known = Known {
            caller: places.caller.clone(),
            service: places.call.port.as_ref().map(|port| port.name.to_string()),
            protocol,
            source,
            destination: to,
            called,
            nodes,
            cables: places.cables.iter().map(|(cable, _)| cable.clone()).collect(),
            captures: Vec::new(),
            names: places.names.clone(),
        };
        known.captures = make::own(listeners.stop(), &follow::sources(&known));
        let report = make::journey(&known);
        self.last = Some((report.clone(), known.captures));
        Ok(report)
    }

    /// Packets of this connection, and the first ones of all: where the source is rewritten, only the
    /// sequence number tells that it is the same.
    fn listen(&self, source: SocketAddr) -> Listeners {
        let wanted: Wanted = Arc::new(move |seen| {
            let begins = seen.tcp.is_none_or(|tcp| tcp.opens || tcp.answers || tcp.resets);
            begins || seen.source == source || seen.destination == source
        });
        let mut listeners = Listeners::default();
        for (index, (cable, home)) in self.places.cables.iter().enumerate() {
            // A cable that is gone is what the story may be about.
            if let Err(failure) = listeners.add(index, &cable.interface, home.as_deref(), &wanted) {
                tracing::debug!("{failure}");
            }
        }
        listeners
    }

    fn save(&self, path: &Path) -> Result<(), Failure> {
        let Some((report, captures)) = &self.last else {
            return Err(Failure::failed("nothing was traced yet"));
        };
        let cables: Vec<Cable> = self
            .places
            .cables
            .iter()
            .map(|(cable, _)| cable.clone())
            .collect();
        let hops: Vec<String> = report
            .hops
            .iter()
            .filter(|hop| !hop.table.is_empty())
            .map(|hop| {
                let rule = hop
                    .rule
                    .map_or("policy".to_string(), |number| format!("#{number}"));
                let node = hop
                    .node
                    .as_ref()
                    .map(|node| format!("{node} "))
                    .unwrap_or_default();
                format!("{node}{} {} {rule}: {}", hop.table, hop.chain, hop.what)
            })
            .collect();
        pcapng::write(path, &cables, captures, &self.places.names, &hops.join("\n"))
    }
}

impl World for Tracer {
    fn again(&mut self) -> Result<Report, String> {
        Tracer::again(self).map_err(|failure| failure.to_string())
    }

    fn save(&mut self) -> Result<String, String> {
        let path = self.args.pcap.clone().unwrap_or_else(|| "trace.pcapng".into());
        Tracer::save(self, &path).map_err(|failure| failure.to_string())?;
        Ok(format!("written: {}", path.display()))
    }

    fn other(&self, name: &str) -> Option<Command> {
        let mut command = Command::new(std::env::current_exe().ok()?);
        command.arg(name).arg(&self.args.target);
        for path in &self.args.registry.paths {
            command.arg("--registry").arg(path);
        }
        if name == "explain" {
            command.arg("--from").arg(&self.places.caller);
        }
        Some(command)
    }
}

/// Until the call has ended and the kernel has said its last word of it.
fn wait(waiting: &Waiting, patience: Duration, held: &Held) -> Result<Called, Failure> {
    let limit = Instant::now() + patience + Duration::from_secs(3);
    loop {
        held.check()?;
        // Asked after the clock: who was stopped meanwhile has its answer by now, or a moment later.
        let is_late = Instant::now() > limit;
        if is_late {
            sleep(AFTER);
        }
        if let Some(called) = waiting.answer() {
            sleep(AFTER);
            held.check()?;
            return Ok(called);
        }
        if is_late {
            return Err(Failure::failed("the call did not end"));
        }
        sleep(TICK);
    }
}
