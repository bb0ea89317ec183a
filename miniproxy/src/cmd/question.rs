//! What a question about rules is asked of: the kernel or a dump, with a registry or without.

use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;

use labkit::Failure;
use labkit::xtables::{Family, Xtables};

use super::nodes;
use super::render::family;
use super::sync::options;
use crate::cli::{NodeArgs, QuestionArgs};
use crate::edge::{dump, facts, tables};
use crate::explain::{self, Host, Origin, Question, Report};
use crate::lab::Home;
use crate::model::Protocol;
use crate::node::NodeOptions;
use crate::registry::Registry;
use crate::rules::pasted::{self, Pasted, Reading};
use crate::rules::set::TableName;
use crate::rules::trace::{STEPS, Transport};
use crate::target::{Book, Call, Caller, Target, resolve};

/// A question, with all that answers are made from.
pub(super) struct Asked {
    question: QuestionArgs,
    target: Target,
    caller: Option<Caller>,
    transport: Option<Transport>,
    family: Option<Family>,
    registry: Option<(Registry, NodeOptions)>,
    ground: Ground,
}

/// The rules, and the node that they are on.
struct Ground {
    text: String,
    from: String,
    host: Option<Host>,
    home: Option<Home>,
    here: Option<String>,
}

impl Asked {
    /// Reads everything that is needed.
    ///
    /// # Errors
    /// When words, rules or objects cannot be read.
    pub(super) fn new(question: &QuestionArgs) -> Result<Self, Failure> {
        let target = Target::parse(&question.target)?;
        let caller = question.from.as_deref().map(Caller::parse).transpose()?;
        let transport = match (question.udp, question.icmp) {
            (true, _) => Some(Transport::Of(Protocol::Udp)),
            (_, true) => Some(Transport::Icmp),
            _ => None,
        };
        let registry = registry(question)?;
        let family = match (question.family, &target) {
            (Some(number), _) => Some(family(number)?),
            (None, Target::Address { ip, .. }) => Some(if ip.is_ipv4() { Family::V4 } else { Family::V6 }),
            _ => None,
        };
        let ground = match &question.rules {
            Some(path) => from_dump(path, question, registry.as_ref())?,
            None => from_kernel(question, registry.as_ref(), &target, caller.as_ref(), family)?,
        };
        Ok(Self {
            question: question.clone(),
            target,
            caller,
            transport,
            family,
            registry,
            ground,
        })
    }

    /// As it was asked.
    pub(super) fn question(&self) -> &QuestionArgs {
        &self.question
    }

    /// The pods that are known: `default/web-1`.
    pub(super) fn pods(&self) -> Vec<String> {
        let Some((registry, _)) = &self.registry else {
            return Vec::new();
        };
        let pods = registry.pods.iter();
        pods.flat_map(|(namespace, pods)| pods.keys().map(move |name| format!("{namespace}/{name}")))
            .collect()
    }

    /// The answer, from the caller that was asked for or from another one.
    ///
    /// # Errors
    /// When target or caller are nobody.
    pub(super) fn report(&self, caller: Option<&Caller>) -> Result<Report, Failure> {
        let reading = pasted::read(&self.ground.text);
        if reading.is_nothing && self.ground.host.is_none() {
            return Err(nothing(&self.ground));
        }
        let caller = caller.or(self.caller.as_ref());
        let (family, book, mut call) = self.resolved(&reading, caller)?;
        let empty = Pasted::default();
        let pasted = reading.families.get(&family).unwrap_or(&empty);
        let mut no_route = false;
        if self.ground.host.is_some() && call.packet.arriving.is_none() {
            let source = self.source(call.packet.destination);
            no_route = source.is_none();
            call.packet.source = source.unwrap_or(call.packet.source);
        }
        let mut notes = reading.notes.clone();
        if !reading.families.contains_key(&family) && self.ground.host.is_none() {
            notes.push(format!(
                "there is no {} rule in {}",
                family.name(),
                self.ground.from
            ));
        }
        let origin = Origin {
            from: self.ground.from.clone(),
            rules: TableName::WALKED
                .into_iter()
                .filter_map(|table| pasted.found.tables.get(&table))
                .map(|chains| chains.values().map(Vec::len).sum::<usize>())
                .sum(),
            notes,
        };
        Ok(explain::explain(&Question {
            call: &call,
            book: &book,
            pasted,
            family,
            origin: &origin,
            host: self.ground.host.as_ref(),
            no_route,
            steps: STEPS,
        }))
    }

    /// In the family that was asked for, else in the first one in which the target is known.
    fn resolved(
        &self,
        reading: &Reading<'_>,
        caller: Option<&Caller>,
    ) -> Result<(Family, Book, Call), Failure> {
        let only_six = self.ground.host.is_none()
            && reading.families.contains_key(&Family::V6)
            && !reading.families.contains_key(&Family::V4);
        let first = self
            .family
            .unwrap_or(if only_six { Family::V6 } else { Family::V4 });
        let attempt = |family: Family| {
            let book = self.book(family, reading.families.get(&family));
            let call = resolve(&book, family, &self.target, caller, self.transport)?;
            Ok((family, book, call))
        };
        match attempt(first) {
            Err(failure) if self.family.is_none() && first == Family::V4 => {
                attempt(Family::V6).map_err(|_: Failure| failure)
            }
            answer => answer,
        }
    }

    fn book(&self, family: Family, pasted: Option<&Pasted<'_>>) -> Book {
        let mut book = Book {
            here: self.ground.here.clone(),
            ..Book::default()
        };
        if let Some(host) = &self.ground.host {
            let own = host.interfaces.iter().map(|(_, network)| network.addr());
            book.own
                .extend(own.filter(|ip| ip.is_ipv4() == (family == Family::V4)));
        }
        if let Some((registry, options)) = &self.registry {
            let ports = options.model(registry, family).ports;
            book.add_registry(registry, &ports, family);
        }
        if let Some(pasted) = pasted {
            book.add_rules(&pasted.found);
        }
        book
    }

    /// The address that the node's own packets to there have.
    fn source(&self, to: IpAddr) -> Option<IpAddr> {
        match &self.ground.home {
            None => facts::source_towards(to),
            Some(home) => {
                let answers = nodes::on_each(std::slice::from_ref(home), |_| Ok(facts::source_towards(to)));
                answers.into_iter().next()?.1.ok()?
            }
        }
    }
}

/// The registry that was named, or that of the lab that is up; with a dump only one that was named.
fn registry(question: &QuestionArgs) -> Result<Option<(Registry, NodeOptions)>, Failure> {
    let args = &question.registry;
    let named = !args.paths.is_empty() || args.lab.is_some();
    if question.rules.is_some() && !named {
        return Ok(None);
    }
    let source = match super::source(args) {
        Ok(source) => source,
        Err(failure) if named => return Err(failure),
        // Without a lab the rules themselves have to tell.
        Err(_) => return Ok(None),
    };
    // What is wrong with other objects is no matter here.
    let registry = match source.load() {
        Ok(store) => store.into_registry(),
        Err(failure) if named => return Err(failure),
        Err(_) => return Ok(None),
    };
    let node = NodeArgs {
        node: question.node.clone(),
        ..NodeArgs::default()
    };
    let options = options(&node)?;
    Ok(Some((registry, options)))
}

fn from_dump(
    path: &Path,
    question: &QuestionArgs,
    registry: Option<&(Registry, NodeOptions)>,
) -> Result<Ground, Failure> {
    let shown = path.display().to_string();
    let bytes = if shown == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin()
            .lock()
            .take(dump::LARGEST)
            .read_to_end(&mut bytes);
        read.map(|_| bytes)
    } else {
        dump::read(path)
    };
    let bytes = bytes.map_err(|error| {
        Failure::usage(format!("cannot read {shown}: {error}")).hint("expected the output of iptables-save")
    })?;
    if let Some(hint) = pasted::compressed(&bytes) {
        return Err(Failure::usage(format!("{shown}: there is no rule in it")).hint(hint));
    }
    let only_node = registry.and_then(|(registry, _)| {
        let mut nodes = registry.nodes.keys();
        nodes.next().filter(|_| nodes.next().is_none()).cloned()
    });
    Ok(Ground {
        text: pasted::mended(&pasted::text_of(bytes)).into_owned(),
        from: if shown == "-" { "stdin".into() } else { shown },
        host: None,
        home: None,
        here: question.node.clone().or(only_node),
    })
}

fn from_kernel(
    question: &QuestionArgs,
    registry: Option<&(Registry, NodeOptions)>,
    target: &Target,
    caller: Option<&Caller>,
    family: Option<Family>,
) -> Result<Ground, Failure> {
    let homes = match registry {
        Some(_) => nodes::homes(&question.registry, question.node.as_deref())?,
        None => Vec::new(),
    };
    let read = |home: Option<&Home>| -> Result<Ground, Failure> {
        let xtables = Xtables::detect(question.iptables.as_deref())?;
        let families = family.map_or_else(|| Family::ALL.to_vec(), |family| vec![family]);
        let mut text = String::new();
        for family in families {
            text.push_str(&tables::saved(&xtables, family, &["-c"])?);
        }
        Ok(Ground {
            text,
            from: "the kernel".into(),
            host: Some(facts::host(&xtables)?),
            home: home.cloned(),
            here: home
                .map(|home| home.node.clone())
                .or_else(|| registry.map(|(registry, options)| options.node_name(registry))),
        })
    };
    let Some((registry, options)) = registry.filter(|_| !homes.is_empty()) else {
        return read(None);
    };
    let node = place(registry, options, target, caller, family.unwrap_or(Family::V4));
    let home = homes
        .iter()
        .find(|home| Some(&home.node) == node.as_ref())
        .unwrap_or(&homes[0]);
    let mut answers = nodes::on_each(std::slice::from_ref(home), |home| read(Some(home)));
    match answers.pop() {
        Some((node, answer)) => answer.map_err(|failure| failure.context(node)),
        None => read(None),
    }
}

/// The node whose rules the packet meets first: that of the caller, or the one that is called.
pub(super) fn place(
    registry: &Registry,
    options: &NodeOptions,
    target: &Target,
    caller: Option<&Caller>,
    family: Family,
) -> Option<String> {
    let mut book = Book::default();
    book.add_registry(registry, &options.model(registry, family).ports, family);
    if let Some(Caller::Named {
        namespace: None,
        name,
    }) = caller
        && book.nodes.iter().any(|node| node.name == *name)
    {
        return Some(name.clone());
    }
    let call = resolve(&book, family, target, caller, None).ok()?;
    call.sender.node.or_else(|| book.name_of(call.packet.destination))
}

fn nothing(ground: &Ground) -> Failure {
    let failure = Failure::usage(format!("{}: there is no rule in it", ground.from));
    let hint = pasted::something_else(ground.text.as_bytes());
    failure.hint(hint.unwrap_or("expected the output of iptables-save: sudo iptables-save > node.save"))
}
