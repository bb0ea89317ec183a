//! `netns-lab get`: what is in a lab's registry.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service};
use labkit::text::printable;
use labkit::{Failure, Outcome, shell};
use serde::Deserialize;
use serde_json::{Value, json};

use super::find;
use super::objects::now;
use crate::cli::objects::{GetArgs, GetFormat};
use crate::edge::registry;
use crate::model::endpoints::namespace_of;
use crate::model::files::Files;
use crate::model::kind::Kind;
use crate::model::name;
use crate::model::registry::{Identity, identity};
use crate::model::slices;
use crate::model::view::{self, Look};

/// Runs `get`.
pub(super) fn run(args: &GetArgs) -> Result<Outcome, Failure> {
    let ledger = find::lab(args.lab.as_ref())?;
    let files = registry::files(&ledger.lab.name);
    let own = name::object_namespace(&ledger.lab.name).to_string();
    let namespace = args.namespace.as_ref().map_or(own, ToString::to_string);
    let kinds = args
        .kind
        .as_ref()
        .map_or(Kind::ALL.to_vec(), |kinds| kinds.kinds.clone());
    let names = names_of(args);
    let mut found: Vec<(Kind, Vec<Value>)> = Vec::new();
    for kind in kinds {
        let mut of_kind = of_kind(&files, kind);
        of_kind.retain(|(own, object)| {
            let here = args.all_namespaces || kind == Kind::Node || own.namespace == namespace;
            let chosen = args.selector.as_ref();
            let chosen = chosen.is_none_or(|selector| selector.accepts(&labels(object)));
            here && chosen && (names.is_empty() || names.contains(&own.name))
        });
        found.push((kind, of_kind.into_iter().map(|(_, value)| value).collect()));
    }
    let missing = missing(args, &names, &found);
    show(args, &names, found, &namespace)?;
    Failure::all(missing).map_or(Ok(Outcome::Done), Err)
}

/// The names that are asked for, with their kind or without.
fn names_of(args: &GetArgs) -> Vec<String> {
    let Some(kinds) = &args.kind else {
        return args.objects.clone();
    };
    let more = args.objects.iter().map(|word| kinds.name_in(word).to_string());
    kinds.name.iter().cloned().chain(more).collect()
}

fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    labels
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_string())))
        .collect()
}

/// The objects of a kind by namespace and name; a Deployment with what has become of it.
fn of_kind(files: &Files, kind: Kind) -> Vec<(Identity, Value)> {
    let objects = files.objects().filter(|object| Kind::of(object) == Ok(kind));
    let mut found: Vec<_> = objects
        .filter_map(|object| Some((identity(object)?, object.clone())))
        .collect();
    if kind == Kind::EndpointSlice {
        found.extend(slices_of_selectors(files, &found));
    }
    found.sort_by(|(one, _), (other, _)| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    if kind == Kind::Deployment {
        let pods: Vec<Pod> = all(files, Kind::Pod);
        for (own, object) in &mut found {
            let owned: Vec<&Pod> = pods.iter().filter(|pod| view::is_owned(&own.name, pod)).collect();
            object["status"] = view::deployment_status(&owned);
        }
    }
    found
}

/// All objects of a kind that are what the API says they are.
fn all<'a, T: Deserialize<'a>>(files: &'a Files, kind: Kind) -> Vec<T> {
    let objects = files.objects().filter(|object| Kind::of(object) == Ok(kind));
    objects.filter_map(|object| T::deserialize(object).ok()).collect()
}

/// What a controller would write for the Services that nobody has written slices for.
fn slices_of_selectors(files: &Files, written: &[(Identity, Value)]) -> Vec<(Identity, Value)> {
    let pods: Vec<Pod> = all(files, Kind::Pod);
    let has_own = |service: &Service| {
        let mut written = written.iter();
        written.any(|(own, slice)| {
            own.namespace == namespace_of(&service.metadata)
                && labels(slice).get(slices::SERVICE_LABEL) == service.metadata.name.as_ref()
        })
    };
    let services: Vec<Service> = all(files, Kind::Service);
    let made = services.iter().filter(|service| !has_own(service));
    made.flat_map(|service| slices::of_service(service, &pods))
        .filter_map(|slice| {
            let value = serde_json::to_value(&slice).ok()?;
            Some((identity(&value)?, value))
        })
        .collect()
}

fn missing(args: &GetArgs, names: &[String], found: &[(Kind, Vec<Value>)]) -> Vec<Failure> {
    let has = |name: &String| {
        let mut all = found.iter().flat_map(|(_, objects)| objects);
        all.any(|object| object["metadata"]["name"] == name.as_str())
    };
    let names = names.iter().filter(|name| !has(name));
    names
        .map(|name| {
            let kind = match args.kind.as_ref().map(|kinds| &kinds.kinds[..]) {
                Some([kind]) => format!("{}s", kind.name().to_ascii_lowercase()),
                _ => "objects".to_string(),
            };
            Failure::failed(format!("{kind} {name:?} not found"))
                .hint("`netns-lab get` lists what there is; -A looks in all namespaces")
        })
        .collect()
}

fn show(
    args: &GetArgs,
    asked: &[String],
    found: Vec<(Kind, Vec<Value>)>,
    namespace: &str,
) -> Result<(), Failure> {
    if matches!(args.output, GetFormat::Table | GetFormat::Wide) {
        return show_tables(args, asked, &found, namespace);
    }
    if args.output == GetFormat::Name {
        return shell::emit(&names(&found));
    }
    let mut all: Vec<Value> = found.into_iter().flat_map(|(_, objects)| objects).collect();
    let whole = match (asked.len(), all.len()) {
        (1, 0) => return Ok(()),
        (1, 1) => all.remove(0),
        _ => json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": all}),
    };
    if args.output == GetFormat::Json {
        return shell::emit_json(&whole);
    }
    let text = serde_saphyr::to_string(&whole)
        .map_err(|error| Failure::failed(format!("cannot write YAML: {error}")))?;
    shell::emit(&text)
}

/// `service/web`, one a line.
fn names(found: &[(Kind, Vec<Value>)]) -> String {
    let lines = found.iter().flat_map(|(kind, objects)| {
        let names = objects
            .iter()
            .filter_map(|object| object["metadata"]["name"].as_str());
        names.map(|name| printable(&format!("{}/{name}", kind.resource())).into_owned() + "\n")
    });
    lines.collect()
}

fn show_tables(
    args: &GetArgs,
    asked: &[String],
    found: &[(Kind, Vec<Value>)],
    namespace: &str,
) -> Result<(), Failure> {
    let now = now();
    let tables: Vec<_> = found
        .iter()
        .filter(|(_, objects)| !objects.is_empty())
        .map(|(kind, objects)| {
            let look = Look {
                now: &now,
                wide: args.output == GetFormat::Wide,
                namespaces: args.all_namespaces,
                kinds: args.kind.as_ref().is_none_or(|kinds| kinds.kinds.len() > 1),
                labels: args.show_labels,
                headers: !args.no_headers,
            };
            view::table(*kind, &objects.iter().collect::<Vec<_>>(), look)
        })
        .collect();
    if tables.is_empty() && asked.is_empty() {
        let place = if args.all_namespaces {
            String::new()
        } else {
            format!(" in the namespace {namespace}")
        };
        shell::tell(&format!("nothing found{place}"));
    }
    shell::emit(&tables.join("\n"))
}
