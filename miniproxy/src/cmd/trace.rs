//! `miniproxy trace`: one real connection, as the kernel saw it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use labkit::screen::{Mode, hide, print, terminal};
use labkit::shell::emit;
use labkit::xtables::{Family, Flavour, Xtables};
use labkit::{Failure, Outcome};

use super::sync::options;
use crate::cli::{NodeArgs, TraceArgs};
use crate::edge::trace::cable::{Listeners, Wanted};
use crate::edge::trace::call::{Plan, Waiting};
use crate::edge::trace::events::Ear;
use crate::edge::trace::mark::Mark;
use crate::edge::trace::pcapng;
use crate::edge::trace::places::Places;
use crate::edge::trace::signals::Held;
use crate::edge::{facts, netns};
use crate::journey::page::page;
use crate::journey::plain::plain;
use crate::journey::show::{Traced, World};
use crate::journey::{Cable, Capture, Known, Report, Word, make};
use crate::lab::{self, INTERFACE_ANNOTATION, NAMESPACE_ANNOTATION};
use crate::model::Protocol;
use crate::registry::Registry;
use crate::registry::store::Store;
use crate::rules::trace::Transport;
use crate::target::{Book, Call, Caller, SenderKind, Target, resolve};

/// So many backends' cables are listened on; a Service with more is traced without the others'.
const CABLES: usize = 64;
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

/// Who calls whom, and by which cables.
struct Tracer {
    args: TraceArgs,
    call: Call,
    caller: String,
    family: Family,
    xtables: Xtables,
    /// The caller's network namespace.
    namespace: Option<PathBuf>,
    cables: Vec<(Cable, Option<PathBuf>)>,
    names: BTreeMap<IpAddr, String>,
    last: Option<(Report, Vec<Capture>)>,
}

/// Where a pod's network namespace and its cable are.
struct Home {
    namespace: PathBuf,
    interface: String,
    node: Option<PathBuf>,
}

impl Tracer {
    fn new(args: &TraceArgs) -> Result<Self, Failure> {
        let registry = registry(args)?;
        let target = Target::parse(&args.target)?;
        let family = match (args.family, &target) {
            (Some(number), _) => super::render::family(number)?,
            (None, Target::Address { ip, .. }) if ip.is_ipv6() => Family::V6,
            _ => Family::V4,
        };
        let book = book(&registry, family)?;
        let transport = args.udp.then_some(Transport::Of(Protocol::Udp));
        let from = args.from.as_deref().map(Caller::parse).transpose()?;
        let homes = homes(&registry);
        let from = match from {
            None => Some(usual_caller(&book, &target, transport, family, &homes)?),
            given => given,
        };
        let call = resolve(&book, family, &target, from.as_ref(), transport)?;
        let caller = call
            .sender
            .name
            .clone()
            .unwrap_or_else(|| call.packet.source.to_string());
        let home = homes.get(&caller);
        let namespace = match call.sender.kind {
            SenderKind::Pod => Some(home.ok_or_else(|| not_here(&caller))?.namespace.clone()),
            SenderKind::Node => None,
            _ => return Err(not_here(&caller)),
        };
        // The rules that the packet meets first are those of the caller's node.
        if let Some(node) = home.and_then(|home| home.node.as_ref()) {
            netns::enter(node)?;
        }
        let xtables = Xtables::detect(None)?;
        if xtables.flavour == Flavour::Legacy {
            return Err(Failure::host_lacks("iptables-legacy tells its traces to the kernel's log only")
                .hint("the same rules in nf_tables can be traced: iptables-nft, and miniproxy sync --iptables iptables-nft")
                .hint("without sending anything: miniproxy explain"));
        }
        let cables = cables(&book, &call, &homes, &caller);
        let names = names(&book, &call);
        Ok(Self {
            args: args.clone(),
            call,
            caller,
            family,
            xtables,
            namespace,
            cables,
            names,
            last: None,
        })
    }

    fn again(&mut self) -> Result<Report, Failure> {
        let (protocol, udp) = match self.call.packet.protocol {
            Transport::Of(Protocol::Tcp) => ("tcp", false),
            Transport::Of(Protocol::Udp) => ("udp", true),
            _ => {
                return Err(Failure::usage(
                    "only connections by TCP and packets by UDP can be traced",
                ));
            }
        };
        let to = SocketAddr::new(self.call.packet.destination, self.call.packet.port);
        let from = match self.namespace {
            Some(_) => self.call.packet.source,
            None => facts::source_towards(to.ip()).unwrap_or(self.call.packet.source),
        };
        // Before the threads of the call and of the cables, which inherit it, and dropped after the mark.
        let held = Held::begin()?;
        let waiting = Waiting::begin(Plan {
            namespace: self.namespace.clone(),
            from: SocketAddr::new(from, 0),
            to,
            udp,
            timeout: self.args.patience(),
        })?;
        let source = waiting.source;
        let mut ear = Ear::open(source).map_err(|error| {
            Failure::host_lacks(format!("cannot listen to the kernel's traces: {error}"))
                .hint("run as root (sudo), or inside `netns-lab sandbox`")
        })?;
        let listeners = self.listen(source);
        let mark = Mark::set(
            &self.xtables,
            self.family,
            protocol,
            source,
            to,
            self.namespace.is_none(),
        )?;
        let mut places = Places::default();
        places.read(&self.xtables, self.family)?;
        let before = places.texts.clone();
        waiting.go();
        let called = wait(&waiting, &mut ear, self.args.patience(), &held)?;
        places.read(&self.xtables, self.family)?;
        waiting.end();
        let captures = make::own(listeners.stop(), source);
        drop(mark);
        let events = ear.traces.iter().map(|raw| places.event(raw)).collect();
        let known = Known {
            caller: self.caller.clone(),
            service: self.call.port.as_ref().map(|port| port.name.to_string()),
            protocol,
            source,
            destination: to,
            called,
            events,
            texts: if places.texts.is_empty() {
                before
            } else {
                places.texts
            },
            cables: self.cables.iter().map(|(cable, _)| cable.clone()).collect(),
            captures,
            tracked: ear.tracked,
            names: self.names.clone(),
            bridge_nf: bridge_nf(),
        };
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
        for (index, (cable, home)) in self.cables.iter().enumerate() {
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
        let cables: Vec<Cable> = self.cables.iter().map(|(cable, _)| cable.clone()).collect();
        let hops: Vec<String> = report
            .hops
            .iter()
            .filter(|hop| !hop.table.is_empty())
            .map(|hop| {
                let rule = hop
                    .rule
                    .map_or("policy".to_string(), |number| format!("#{number}"));
                format!("{} {} {rule}: {}", hop.table, hop.chain, hop.what)
            })
            .collect();
        pcapng::write(path, &cables, captures, &self.names, &hops.join("\n"))
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
            command.arg("--from").arg(&self.caller);
        }
        Some(command)
    }
}

/// Until the call has ended and the kernel has said its last word of it.
fn wait(
    waiting: &Waiting,
    ear: &mut Ear,
    patience: Duration,
    held: &Held,
) -> Result<crate::journey::Called, Failure> {
    let failed =
        |error: std::io::Error| Failure::failed(format!("the kernel's traces cannot be read: {error}"));
    let limit = Instant::now() + patience + Duration::from_secs(3);
    let mut called = None;
    let mut end = limit;
    while Instant::now() < end {
        held.check()?;
        ear.hear().map_err(failed)?;
        if called.is_none() {
            called = waiting.answer();
            if called.is_some() {
                end = Instant::now() + AFTER;
            }
        }
        sleep(TICK);
    }
    ear.hear().map_err(failed)?;
    called.ok_or_else(|| Failure::failed("the call did not end"))
}

fn registry(args: &TraceArgs) -> Result<Registry, Failure> {
    let files = super::source(&args.registry)?.files()?;
    let mut store = Store::default();
    store.update(&files, &[]);
    Ok(store.into_registry())
}

fn book(registry: &Registry, family: Family) -> Result<Book, Failure> {
    let options = options(&NodeArgs::default())?;
    let mut book = Book {
        here: Some(options.node_name(registry)),
        ..Book::default()
    };
    book.add_registry(registry, &options.model(registry, family).ports, family);
    Ok(book)
}

/// Who calls where nobody was named: a pod that is no endpoint, else the first pod, else the node.
fn usual_caller(
    book: &Book,
    target: &Target,
    transport: Option<Transport>,
    family: Family,
    homes: &BTreeMap<String, Home>,
) -> Result<Caller, Failure> {
    let call = resolve(book, family, target, None, transport)?;
    let usual = call.sender.name.filter(|name| homes.contains_key(name));
    let name = usual.or_else(|| homes.keys().next().cloned());
    Caller::parse(name.as_deref().unwrap_or("node"))
}

fn homes(registry: &Registry) -> BTreeMap<String, Home> {
    let nodes: BTreeMap<String, PathBuf> = lab::homes(registry)
        .into_iter()
        .map(|home| (home.node, home.namespace))
        .collect();
    let mut homes = BTreeMap::new();
    for (namespace, pods) in &registry.pods {
        for (name, pod) in pods {
            let told = pod.metadata.annotations.as_ref();
            let of = |key: &str| told.and_then(|told| told.get(key));
            let (Some(path), Some(interface)) = (of(NAMESPACE_ANNOTATION), of(INTERFACE_ANNOTATION)) else {
                continue;
            };
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
            let home = Home {
                namespace: path.into(),
                interface: interface.clone(),
                node: node.and_then(|node| nodes.get(node)).cloned(),
            };
            homes.insert(format!("{namespace}/{name}"), home);
        }
    }
    homes
}

fn not_here(caller: &str) -> Failure {
    Failure::usage(format!(
        "{caller} is no pod of a lab on this machine, so that nothing can be sent from it"
    ))
    .hint("name one with --from; netns-lab status lists them; or ask without sending: miniproxy explain")
}

/// The caller's cable, then those of the backends.
fn cables(
    book: &Book,
    call: &Call,
    homes: &BTreeMap<String, Home>,
    caller: &str,
) -> Vec<(Cable, Option<PathBuf>)> {
    let mut wanted: Vec<(String, IpAddr)> = Vec::new();
    if call.sender.kind == SenderKind::Pod {
        wanted.push((caller.to_string(), call.packet.source));
    }
    let endpoints: BTreeSet<IpAddr> = match &call.port {
        Some(port) => port.endpoints.clone(),
        None => BTreeSet::from([call.packet.destination]),
    };
    let backends = endpoints.into_iter().filter_map(|ip| {
        let pod = book.pod_at(ip)?;
        Some((format!("{}/{}", pod.namespace, pod.name), ip))
    });
    wanted.extend(backends.filter(|(pod, _)| pod != caller).take(CABLES));
    let cables = wanted.into_iter().filter_map(|(pod, address)| {
        let home = homes.get(&pod)?;
        let cable = Cable {
            is_callers: pod == caller,
            interface: home.interface.clone(),
            pod,
            address,
        };
        Some((cable, home.node.clone()))
    });
    cables.collect()
}

fn names(book: &Book, call: &Call) -> BTreeMap<IpAddr, String> {
    let pods = book.pods.iter().flat_map(|pod| {
        let name = format!("{}/{}", pod.namespace, pod.name);
        pod.addresses.iter().map(move |ip| (*ip, name.clone()))
    });
    let mut names: BTreeMap<IpAddr, String> = pods.collect();
    if let Some(port) = &call.port {
        let name = format!("svc-{}", port.name.name);
        names.extend(port.cluster_ip.map(|ip| (ip, name)));
    }
    names
}

fn bridge_nf() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables").ok()?;
    Some(text.trim().to_string())
}
