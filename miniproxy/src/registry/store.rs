//! Files that come, change and go → the objects in force, and which Services that touches.
//!
//! Each object stands or falls by itself: one that is refused leaves its last good version in force,
//! and all others as they are. A file that is no JSON at all keeps what it said before.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::claim::{self, Claim};
use super::content::{Content, content, insert, is_as_before, remove, touch};
use super::parse::{Item, Object, Origin, Refused, parse};
use super::problem::Problem;
use super::slice::Slice;
use super::touched::{Refusals, Touched};
use super::{Identity, Registry, ServiceKey, SourceFile};
use super::{check, name_of, namespace_of, select};
use crate::spread;

/// A good object of a file.
#[derive(Debug)]
struct Held {
    /// `None` for kinds that are passed over.
    identity: Option<Arc<Identity>>,
    /// Addresses and ports that only one Service may have.
    claims: Vec<Claim>,
    content: Content,
    origin: Origin,
}

/// One file as it was last read.
#[derive(Debug, Default)]
struct File {
    held: Vec<Arc<Held>>,
    problems: Vec<Problem>,
    /// What was refused, with the Service that would miss it.
    refused: Vec<(Identity, Option<ServiceKey>)>,
    /// Something in it could not be read, and never was.
    blind: bool,
}

type InForce = HashMap<Arc<Identity>, Arc<Held>>;

/// All files of a registry, and what they come to.
#[derive(Debug, Default)]
pub struct Store {
    files: BTreeMap<String, File>,
    in_force: InForce,
    /// Whose the addresses and ports are.
    owners: HashMap<Claim, Arc<Identity>>,
    registry: Registry,
    conflicts: Vec<Problem>,
}

impl Store {
    /// Reads all files, in the order of their paths.
    ///
    /// # Errors
    /// Everything that is wrong, one problem for each object at most.
    pub fn read(files: &[SourceFile]) -> Result<Self, Vec<Problem>> {
        let mut store = Self::default();
        store.update(files, &[]);
        store.whole()
    }

    /// The store, if nothing in it is wrong.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn whole(self) -> Result<Self, Vec<Problem>> {
        let problems = self.problems();
        if problems.is_empty() {
            Ok(self)
        } else {
            Err(problems)
        }
    }

    /// How many files there are, those that cannot be read among them.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// The objects in force.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The objects in force, for good.
    pub fn into_registry(self) -> Registry {
        self.registry
    }

    /// Everything that is wrong now, in the order of the files.
    pub fn problems(&self) -> Vec<Problem> {
        let of_files = self.files.values().flat_map(|file| &file.problems);
        of_files.chain(&self.conflicts).cloned().collect()
    }

    /// Which Services cannot be told whole.
    pub fn refusals(&self) -> Refusals {
        let mut refusals = Refusals::default();
        for file in self.files.values() {
            refusals.unknown |= file.blind;
            let lost = file
                .refused
                .iter()
                .filter(|(identity, _)| !self.in_force.contains_key(identity));
            refusals
                .services
                .extend(lost.filter_map(|(_, service)| service.clone()));
        }
        refusals
    }

    /// A file that cannot be read keeps what it said before, as one that is no JSON does.
    pub fn unreadable(&mut self, path: &str, why: &str) {
        let problem = Problem {
            file: path.to_string(),
            line: 1,
            column: 1,
            field: String::new(),
            what: format!("it cannot be read: {why}"),
            expected: "a regular file that may be read".to_string(),
            object: None,
        };
        let known = self.files.contains_key(path);
        let file = self.files.entry(path.to_string()).or_default();
        file.blind |= !known;
        file.problems = vec![problem];
    }

    /// Takes in files that are new or changed, and forgets those that are gone.
    pub fn update(&mut self, changed: &[SourceFile], gone: &[String]) -> Touched {
        // What the changed files said before, and what they say now.
        let mut old: Vec<Arc<Held>> = Vec::new();
        for path in gone {
            old.extend(self.files.remove(path).into_iter().flat_map(|file| file.held));
        }
        let mut new: Vec<Arc<Held>> = Vec::new();
        let read = spread::map(changed, read);
        for (source, read) in changed.iter().zip(read) {
            let before = self.files.remove(&source.path);
            old.extend(before.iter().flat_map(|file| &file.held).cloned());
            let file = match read {
                Ok(objects) => self.file(&source.path, objects, before),
                Err(problem) => File {
                    blind: before.as_ref().is_none_or(|before| before.blind),
                    problems: vec![problem],
                    ..before.unwrap_or_default()
                },
            };
            new.extend(file.held.iter().cloned());
            self.files.insert(source.path.clone(), file);
        }
        if self.is_plain(&old, &new) {
            self.exchange(&old, &new)
        } else {
            self.settle(changed)
        }
    }

    /// Whether these objects can take each other's places without a look at all others: none of them
    /// has, or had, a name, an address or a port that another file's object wants.
    fn is_plain(&self, old: &[Arc<Held>], new: &[Arc<Held>]) -> bool {
        let mut gone: HashMap<&Arc<Identity>, &Arc<Held>> = HashMap::new();
        for held in old {
            match &held.identity {
                Some(identity) => drop(gone.insert(identity, held)),
                None => return false,
            }
        }
        let in_force = gone
            .iter()
            .all(|(id, held)| is_same(self.in_force.get(*id), held));
        let mut names = HashSet::with_capacity(new.len());
        let mut claims = HashSet::with_capacity(new.len());
        for held in new {
            let Some(identity) = &held.identity else {
                return false;
            };
            let name_is_free = !self.in_force.contains_key(identity) || gone.contains_key(identity);
            if !name_is_free || !names.insert(identity) {
                return false;
            }
            for claim in &held.claims {
                let owner = self.owners.get(claim);
                if !claims.insert(claim) || owner.is_some_and(|owner| !gone.contains_key(owner)) {
                    return false;
                }
            }
        }
        self.conflicts.is_empty() && in_force && gone.len() == old.len()
    }

    /// Puts some objects into the places of others; what it costs does not grow with all others.
    fn exchange(&mut self, old: &[Arc<Held>], new: &[Arc<Held>]) -> Touched {
        let of = |all: &[Arc<Held>]| all.iter().map(Arc::as_ptr).collect::<HashSet<_>>();
        let (was, is) = (of(old), of(new));
        let gone: Vec<&Arc<Held>> = old
            .iter()
            .filter(|held| !is.contains(&Arc::as_ptr(held)))
            .collect();
        let new: Vec<&Arc<Held>> = new
            .iter()
            .filter(|held| !was.contains(&Arc::as_ptr(held)))
            .collect();
        for held in &gone {
            if let Some(identity) = &held.identity {
                self.in_force.remove(identity);
            }
            for claim in &held.claims {
                self.owners.remove(claim);
            }
        }
        self.in_force.reserve(new.len());
        for held in &new {
            let Some(identity) = &held.identity else { continue };
            self.in_force.insert(Arc::clone(identity), Arc::clone(held));
            let claims = held.claims.iter();
            self.owners
                .extend(claims.map(|claim| (*claim, Arc::clone(identity))));
        }
        self.index(&gone, &new)
    }

    /// What a file says now; where it says something bad, what it said before.
    fn file(&self, path: &str, objects: Vec<Checked>, before: Option<File>) -> File {
        let mut file = File::default();
        let mut anonymous = false;
        for object in objects {
            match object {
                Ok(held) => file.held.push(Arc::new(held)),
                Err(refused) => {
                    file.problems.push(Problem {
                        object: refused.identity.clone().map(Box::new),
                        ..refused.problem.clone()
                    });
                    let identity = refused.identity.clone().filter(is_possible);
                    anonymous |= identity.is_none();
                    if let Some(identity) = identity {
                        file.held.extend(self.in_force.get(&identity).cloned());
                        let service = service_of(&refused, &identity);
                        file.refused.push((identity, service));
                    }
                }
            }
        }
        if anonymous {
            // It may be any of those that the file had and does not name any more.
            file.blind = before.as_ref().is_none_or(|before| before.held.is_empty());
            let named: BTreeSet<_> = file.held.iter().map(|held| held.identity.clone()).collect();
            let missing = before.into_iter().flat_map(|before| before.held);
            let missing =
                missing.filter(|held| *held.origin.file == *path && !named.contains(&held.identity));
            file.held.extend(missing);
        }
        file
    }

    /// Decides which objects are in force: of two with one name, one address or one port, the first.
    /// Places of fields are told where their file is among these.
    fn settle(&mut self, read: &[SourceFile]) -> Touched {
        let mut claims = Claims {
            texts: read.iter().map(|file| (file.path.as_str(), file)).collect(),
            ..Claims::default()
        };
        let mut losers = Vec::new();
        self.conflicts.clear();
        self.registry.ignored.clear();
        for held in self.files.values().flat_map(|file| &file.held) {
            if let Content::Other(kind) = &held.content {
                let ignored = format!("{kind} in {}", held.origin.file);
                self.registry.ignored.push(ignored);
            } else if let Err(problem) = claims.add(held) {
                self.conflicts.push(Problem {
                    object: held
                        .identity
                        .as_ref()
                        .map(|identity| Box::new((**identity).clone())),
                    ..problem
                });
                losers.push(held);
            }
        }
        for loser in losers {
            let before = loser.identity.as_ref().and_then(|id| self.in_force.get(id));
            if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, loser)) {
                // What is in force of it, if that is at nobody's expense.
                let _ = claims.add(before);
            }
        }
        let names = claims.names.iter();
        let now = names
            .map(|(identity, held)| (Arc::clone(identity), Arc::clone(held)))
            .collect();
        let owners = claims.owners.iter();
        let owners = owners.map(|(claim, owner)| (**claim, Arc::clone(owner)));
        self.owners = owners.collect();
        let before = std::mem::replace(&mut self.in_force, now);
        let now = std::mem::take(&mut self.in_force);
        let gone = before.iter().filter(|(id, held)| !is_same(now.get(*id), held));
        let new = now.iter().filter(|(id, held)| !is_same(before.get(*id), held));
        let (gone, new): (Vec<_>, Vec<_>) = (
            gone.map(|(_, held)| held).collect(),
            new.map(|(_, held)| held).collect(),
        );
        let touched = self.index(&gone, &new);
        self.in_force = now;
        touched
    }

    /// Takes objects out of the registry, and puts others in.
    fn index(&mut self, gone: &[&Arc<Held>], new: &[&Arc<Held>]) -> Touched {
        let mut touched = Touched::default();
        let mut pods = Vec::new();
        // A file that was written again has many objects that say what they said before.
        let before: HashMap<_, _> = gone.iter().map(|held| (&held.identity, &held.content)).collect();
        let same = new.iter().filter(|held| {
            before
                .get(&held.identity)
                .is_some_and(|old| is_as_before(old, &held.content))
        });
        let same: HashSet<&Arc<Identity>> = same.filter_map(|held| held.identity.as_ref()).collect();
        for held in gone {
            let Some(identity) = &held.identity else { continue };
            remove(&mut self.registry, identity, &held.content);
            if !same.contains(identity) {
                touched.count(identity.kind);
                touch(&mut touched, &mut pods, identity, &held.content);
            }
        }
        for held in new {
            let Some(identity) = &held.identity else { continue };
            insert(&mut self.registry, identity, &held.content);
            if same.contains(identity) {
                continue;
            }
            if let Content::Slice(slice) = &held.content {
                touched.triggers.extend(slice.trigger_time.clone());
            }
            if !before.contains_key(&held.identity) {
                touched.count(identity.kind);
            }
            touch(&mut touched, &mut pods, identity, &held.content);
        }
        self.touch_by_pods(&mut touched, &pods);
        touched
    }

    /// Services whose selector finds one of these Pods, where no slice says better.
    fn touch_by_pods(&self, touched: &mut Touched, pods: &[Arc<Pod>]) {
        if pods.is_empty() {
            return;
        }
        let namespaces: BTreeSet<&str> = pods.iter().map(|pod| namespace_of(&pod.metadata)).collect();
        for (key, service) in &self.registry.services {
            if !namespaces.contains(key.0.as_str())
                || self.registry.slices.contains_key(key)
                || touched.services.contains(key)
            {
                continue;
            }
            // Looking at each of many Pods would cost more than doing the Service again.
            if pods.len() > 100 || pods.iter().any(|pod| select::selects(service, pod)) {
                touched.services.insert(key.clone());
            }
        }
    }
}

/// An object that passed all checks, or why it did not.
type Checked = Result<Held, Box<Refused>>;

/// What one file says, which no other file has a part in.
fn read(source: &SourceFile) -> Result<Vec<Checked>, Problem> {
    let objects = parse(source)?.into_iter();
    Ok(objects.map(|item| item.and_then(held)).collect())
}

/// Checks an object that was read.
fn held(item: Item<'_>) -> Checked {
    let identity = item.object.identity().map(|(kind, metadata)| Identity {
        kind,
        namespace: match kind {
            "Node" => String::new(),
            _ => namespace_of(metadata).to_string(),
        },
        name: name_of(metadata).to_string(),
    });
    if let Err(problem) = check::check(&item) {
        let service = match &item.object {
            Object::EndpointSlice(slice) => Slice::of(slice).service,
            _ => None,
        };
        return Err(Box::new(Refused {
            problem,
            identity,
            service,
        }));
    }
    Ok(Held {
        identity: identity.map(Arc::new),
        claims: match &item.object {
            Object::Service(service) => claim::of(service),
            _ => Vec::new(),
        },
        content: content(item.object),
        origin: item.place.origin,
    })
}

/// A name that no object can have tells nothing about which one was meant.
fn is_possible(identity: &Identity) -> bool {
    let in_namespace = identity.kind != "Node";
    check::is_name(identity.kind, &identity.name) && (!in_namespace || check::is_label(&identity.namespace))
}

/// The Service that is not whole without this object.
fn service_of(refused: &Refused, identity: &Identity) -> Option<ServiceKey> {
    let name = match identity.kind {
        "Service" => identity.name.clone(),
        "EndpointSlice" => refused.service.clone()?,
        _ => return None,
    };
    Some((identity.namespace.clone(), name))
}

/// What only one object may have: its name, and a Service its cluster IPs and node ports.
#[derive(Default)]
struct Claims<'a> {
    names: HashMap<&'a Arc<Identity>, &'a Arc<Held>>,
    owners: HashMap<&'a Claim, &'a Arc<Identity>>,
    /// Files that were just read, by their paths.
    texts: HashMap<&'a str, &'a SourceFile>,
}

impl<'a> Claims<'a> {
    fn problem(&self, held: &Held, field: &str, what: String, expected: &str) -> Problem {
        let file = self.texts.get(&*held.origin.file);
        let text = file.and_then(|file| std::str::from_utf8(&file.bytes).ok());
        held.origin.problem(text, field, what, expected)
    }

    fn add(&mut self, held: &'a Arc<Held>) -> Result<(), Problem> {
        let Some(identity) = &held.identity else {
            return Ok(());
        };
        if let Some(first) = self.names.get(identity) {
            let first = &first.origin.file;
            let (kind, name) = (identity.kind, &identity.name);
            let what = match kind {
                "Node" => format!("there is another Node {name}, in {first}"),
                _ => format!(
                    "there is another {kind} {}/{name}, in {first}",
                    identity.namespace
                ),
            };
            let expected = "one object for each kind, namespace and name";
            return Err(self.problem(held, "metadata.name", what, expected));
        }
        for claim in &held.claims {
            if let Some(owner) = self.owners.get(claim) {
                let what = format!("{claim} belongs to Service {}/{}", owner.namespace, owner.name);
                return Err(self.problem(held, &claim.field(&held.content), what, claim.expected()));
            }
        }
        self.owners
            .extend(held.claims.iter().map(|claim| (claim, identity)));
        self.names.insert(identity, held);
        Ok(())
    }
}

fn is_same(one: Option<&Arc<Held>>, other: &Arc<Held>) -> bool {
    one.is_some_and(|one| Arc::ptr_eq(one, other))
}
