//! `miniproxy why`: looks, calls, judges, and changes nothing.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use labkit::screen::{Mode, hide, print, terminal};
use labkit::shell::{emit, tell};
use labkit::xtables::{Family, Flavour, Xtables, legacy_tables_exist};
use labkit::{Failure, Outcome};

use super::sync::options;
use super::{nodes, why_names, why_places};
use crate::cli::{NodeArgs, WhyArgs};
use crate::conntrack::Frontends;
use crate::edge::tables::{self, every_flavour};
use crate::edge::{conntrack, dump, facts, place};
use crate::lab::Home;
use crate::model::{Model, ServicePort};
use crate::registry::model::{cluster_ips, service_ports};
use crate::registry::{Registry, ServiceKey};
use crate::rules::build::build;
use crate::rules::fixed::SERVICES;
use crate::rules::pasted;
use crate::rules::set::Found;
use crate::target::{PortRef, Target};
use crate::why::call::Call;
use crate::why::evidence::{Evidence, Rules, Seen, Spot};
use crate::why::judge::{is_lost, judge};
use crate::why::names::Lookup;
use crate::why::page::{Screen, page};
use crate::why::report::Report;

/// The kernel tells a caller only so often that it is refused.
const PAUSE: Duration = Duration::from_millis(1100);

/// Runs the command.
pub(super) fn run(args: &WhyArgs) -> Result<Outcome, Failure> {
    let target = Target::parse(&args.service)?;
    let registry = super::source(&args.registry)?.load()?.into_registry();
    let (service, port) = find(&registry, &target, &args.service)?;
    let asked = Asked {
        args,
        registry: &registry,
        service: &service,
        port,
    };
    let report = asked.report()?;
    show(args, &report)?;
    Ok(if report.is_well() {
        Outcome::Done
    } else {
        Outcome::No
    })
}

fn show(args: &WhyArgs, report: &Report) -> Result<(), Failure> {
    let look = args.screen.look();
    let hidden = |text: String| if look.hide { hide::addresses(&text) } else { text };
    match args.screen.mode() {
        Mode::Json => {
            let json = serde_json::to_string_pretty(report);
            let json = json.map_err(|error| Failure::failed(error.to_string()))?;
            emit(&hidden(json + "\n"))
        }
        Mode::Plain => emit(&hidden(report.plain())),
        Mode::Once => print::once(&page(report, &look), &look),
        Mode::Live => {
            let mut screen = Screen {
                report: report.clone(),
                target: format!("svc/{}", args.service.trim_start_matches("svc/")),
            };
            terminal::run(&mut screen, look, Duration::from_secs(1))
        }
    }
}

/// The Service that is meant, and the port of it where one is.
fn find(registry: &Registry, target: &Target, asked: &str) -> Result<(ServiceKey, Option<PortRef>), Failure> {
    let (keys, port): (Vec<&ServiceKey>, _) = match target {
        Target::Named {
            namespace,
            name,
            port,
            ..
        } => {
            let fits = |key: &&ServiceKey| {
                key.1 == *name && namespace.as_ref().is_none_or(|namespace| key.0 == *namespace)
            };
            (registry.services.keys().filter(fits).collect(), port.clone())
        }
        Target::Address { ip, port } => {
            let has = |(_, service): &(&ServiceKey, &std::sync::Arc<_>)| {
                cluster_ips(service).contains(&ip.to_string())
            };
            let found = registry.services.iter().filter(has).map(|(key, _)| key);
            (found.collect(), port.map(PortRef::Number))
        }
        Target::Node { .. } => (Vec::new(), None),
    };
    let keys = match keys.iter().find(|key| key.0 == "default") {
        Some(usual) => vec![*usual],
        None => keys,
    };
    match keys.as_slice() {
        [only] => Ok(((*only).clone(), port)),
        [] => {
            let names = registry.services.keys().take(8);
            let names: Vec<String> = names
                .map(|(namespace, name)| format!("{namespace}/{name}"))
                .collect();
            let failure = Failure::usage(format!("there is no Service {asked} in the registry"));
            Err(failure.hint(match names.as_slice() {
                [] => "the registry has no Service at all: netns-lab expose web".to_string(),
                names => format!("its Services are: {}", names.join(", ")),
            }))
        }
        several => {
            let names = several
                .iter()
                .map(|(namespace, name)| format!("{namespace}/{name}"));
            let names = names.collect::<Vec<_>>().join(", ");
            Err(Failure::usage(format!("several Services are called so: {names}")).hint("name one of them"))
        }
    }
}

struct Asked<'a> {
    args: &'a WhyArgs,
    registry: &'a Registry,
    service: &'a ServiceKey,
    port: Option<PortRef>,
}

impl Asked<'_> {
    fn report(&self) -> Result<Report, Failure> {
        let homes = match &self.args.rules {
            None => nodes::homes(&self.args.registry, None)?,
            Some(_) => Vec::new(),
        };
        let mut evidence = Evidence {
            service: self.service.clone(),
            registry: self.registry,
            spots: self.spots(&homes)?,
            calls: Vec::new(),
            lookups: Vec::new(),
        };
        self.check_ports(&evidence)?;
        if self.args.rules.is_some() {
            return Ok(judge(&evidence));
        }
        let places = why_places::places(&evidence, &homes);
        if std::io::stderr().is_terminal() {
            tell(&format!(
                "calling {} from {} places ...",
                evidence.name(),
                places.len()
            ));
        }
        let files = why_names::PodFiles::of(&super::source(&self.args.registry)?);
        (evidence.calls, evidence.lookups) = thread::scope(|scope| {
            let names = scope.spawn(|| why_names::ask_all(&evidence, &places, &files));
            let calls = why_places::call_all(&evidence, &places);
            (calls, names.join().unwrap_or_default())
        });
        let report = judge(&evidence);
        let lost = |call: &Call| is_lost(call, &evidence.calls);
        let doubtful = evidence.calls.iter().any(lost) || !evidence.lookups.iter().all(Lookup::is_right);
        // Only chance needs a second look; what is proven stays so.
        if !doubtful || report.findings.iter().any(|finding| finding.certain) {
            return Ok(report);
        }
        thread::sleep(PAUSE);
        let snapshot = evidence.calls.clone();
        why_places::call_again(&mut evidence.calls, &places, |call| is_lost(call, &snapshot));
        if !evidence.lookups.iter().all(Lookup::is_right) {
            evidence.lookups = why_names::ask_all(&evidence, &places, &files);
        }
        Ok(judge(&evidence))
    }

    fn check_ports(&self, evidence: &Evidence<'_>) -> Result<(), Failure> {
        let any = |evidence: &Evidence<'_>| {
            let mut rules = evidence.spots.iter().flat_map(|spot| spot.rules.values());
            rules.any(|rules| !rules.ports.is_empty())
        };
        if any(evidence) {
            return Ok(());
        }
        let name = evidence.name();
        let service = self.registry.services.get(self.service);
        let spec = service.and_then(|service| service.spec.as_ref());
        if let Some(spec) = spec.filter(|spec| spec.type_.as_deref() == Some("ExternalName")) {
            let other = spec.external_name.as_deref().unwrap_or("somebody outside");
            return Err(Failure::usage(format!(
                "the Service {name} is of type ExternalName, another name for {other}: iptables rules are made for none such"
            ))
            .hint(format!("ask the name server: netns-lab dns; then whether {other} answers")));
        }
        Err(match &self.port {
            Some(_) => Failure::usage(format!("the Service {name} has no such port")).hint(format!(
                "ask about all of its ports: miniproxy why {name}"
            )),
            None => Failure::usage(format!(
                "the Service {name} is none that iptables rules are made for: it is headless, or has no virtual IP of a family that is here"
            ))
            .hint("the name server answers for it with the addresses of its pods: netns-lab dns"),
        })
    }

    fn spots(&self, homes: &[Home]) -> Result<Vec<Spot>, Failure> {
        if let Some(path) = &self.args.rules {
            return Ok(vec![self.dumped(path)?]);
        }
        if homes.is_empty() {
            return Ok(vec![self.live(&self.args.node, "")?]);
        }
        let answers = nodes::on_each(homes, |home| {
            let prefix = format!("netns-lab exec {} -- ", home.node);
            self.live(&self.args.node.named(&home.node), &prefix)
        });
        let (spots, failures) = nodes::failures(answers);
        match Failure::all(failures) {
            Some(failure) => Err(failure),
            None => Ok(spots.into_iter().map(|(_, spot)| spot).collect()),
        }
    }

    /// The ports that were asked about as a node sees them, and the rules that they should have.
    fn wanted(&self, node: &NodeArgs, family: Family) -> Result<(Model, Vec<ServicePort>), Failure> {
        let config = options(node)?.config(self.registry, family);
        let mut ports = service_ports(self.registry, self.service, &config);
        ports.retain(|port| match &self.port {
            None => true,
            Some(PortRef::Number(number)) => port.port == *number || port.node_port == Some(*number),
            Some(PortRef::Name(name)) => port.name.port == *name,
        });
        let model = Model {
            config,
            ports: ports.clone(),
        };
        Ok((model, ports))
    }

    fn dumped(&self, path: &Path) -> Result<Spot, Failure> {
        let shown = path.display();
        let expected = "expected the output of iptables-save: sudo iptables-save > node.save";
        let bytes = dump::read(path)
            .map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")).hint(expected))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let reading = pasted::read(&text);
        if reading.is_nothing {
            let hint = pasted::something_else(&bytes).unwrap_or(expected);
            return Err(Failure::usage(format!("{shown}: there is no rule in it")).hint(hint));
        }
        let mut rules = BTreeMap::new();
        for family in reading.families.keys() {
            let (model, ports) = self.wanted(&self.args.node, *family)?;
            let wanted = Found::from(&build(&model));
            let text = text.clone();
            rules.insert(
                *family,
                Rules {
                    text,
                    other: None,
                    wanted,
                    ports,
                },
            );
        }
        let node = options(&self.args.node)?.node_name(self.registry);
        Ok(Spot {
            pods: why_places::pods(self.registry, &node, false),
            node,
            prefix: String::new(),
            program: "iptables".into(),
            rules,
            seen: None,
        })
    }

    /// The node whose network namespace this thread is in.
    fn live(&self, node: &NodeArgs, prefix: &str) -> Result<Spot, Failure> {
        let xtables = Xtables::detect(self.args.iptables.as_deref())?;
        let name = options(node)?.node_name(self.registry);
        let mut seen = Seen {
            host: facts::host(&xtables)?,
            links: place::links().unwrap_or_default(),
            conntrack: place::conntrack(),
            routes6: place::routes6(),
            redirects: place::redirects(),
            ..Seen::default()
        };
        let (own, others) = flavours(xtables, &mut seen);
        let mut rules = BTreeMap::new();
        for family in Family::ALL {
            let (model, ports) = self.wanted(node, family)?;
            if ports.is_empty() {
                continue;
            }
            let text = saved(&own, family)?;
            let other = others.iter().find_map(|other| {
                let text = saved(other, family).ok()?;
                (!text.is_empty()).then(|| (other.typed(), text))
            });
            let vips = ports.iter().map(|port| port.cluster_ip);
            let lost = vips.filter(|ip| facts::source_towards(*ip).is_none());
            seen.unroutable.extend(lost);
            match conntrack::stale(family, &Frontends::of(&model)) {
                Ok(flows) => seen.stale.extend(flows),
                Err(failure) => seen.blind.push(failure.message().to_string()),
            }
            let wanted = Found::from(&build(&model));
            rules.insert(
                family,
                Rules {
                    text,
                    other,
                    wanted,
                    ports,
                },
            );
        }
        Ok(Spot {
            pods: why_places::pods(self.registry, &name, true),
            node: name,
            prefix: prefix.to_string(),
            program: own.typed(),
            rules,
            seen: Some(seen),
        })
    }
}

/// The flavour that holds the rules of Services, and those beside it that hold any.
fn flavours(chosen: Xtables, seen: &mut Seen) -> (Xtables, Vec<Xtables>) {
    let mut others: Vec<Xtables> = every_flavour()
        .into_iter()
        .filter(|one| one.flavour != chosen.flavour)
        .collect();
    // Asked about its tables, iptables-legacy makes them: it is never asked where it has none.
    others.retain(|one| match (one.flavour, legacy_tables_exist(Family::V4)) {
        (Flavour::Legacy, None) => {
            let blind = "whether iptables-legacy has rules: the kernel does not let this user look";
            seen.blind.push(blind.into());
            false
        }
        (Flavour::Legacy, Some(exist)) => exist,
        (Flavour::Nft, _) => true,
    });
    let holds = |one: &Xtables| saved(one, Family::V4).is_ok_and(|text| text.contains(SERVICES));
    match others.iter().position(holds) {
        Some(index) if !holds(&chosen) => {
            let own = others.swap_remove(index);
            others.push(chosen);
            (own, others)
        }
        _ => (chosen, others),
    }
}

/// What iptables-save prints; nothing where there is no rule at all.
fn saved(xtables: &Xtables, family: Family) -> Result<String, Failure> {
    let text = tables::saved(xtables, family, &[])?;
    Ok(if text.lines().nth(1).is_some() {
        text
    } else {
        String::new()
    })
}
