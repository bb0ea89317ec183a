//! `netns-lab apply`: Kubernetes objects from files.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use labkit::{Failure, Outcome, shell};
use serde::Deserialize;
use serde_json::Value;

use super::life::{check_way, refuse_during_rollout, transition};
use super::objects::{Open, now, read};
use crate::cli::life::EndArgs;
use crate::cli::objects::ApplyArgs;
use crate::model::document::{Document, typed};
use crate::model::files::Files;
use crate::model::kind::Kind;
use crate::model::life::Pace;
use crate::model::refusal::Refusal;
use crate::model::registry::Identity;
use crate::model::topology::PodSpec;
use crate::model::{deployment, service, slice};

/// An object that passed all checks, and what becomes of it.
enum Wanted {
    /// It goes into the registry as it is.
    Object(Value),
    /// The lab is to have this pod.
    Pod(Box<PodSpec>),
}

/// Runs `apply`.
pub(super) fn run(args: &ApplyArgs) -> Result<Outcome, Failure> {
    let documents = read(&args.file)?;
    let mut open = Open::new(args.lab.as_ref())?;
    let now = now();
    let before = open.files.clone();
    let mut wanted = Vec::new();
    let mut failures = Vec::new();
    for document in documents {
        match prepare(&open, &document, &now) {
            Ok((own, kind, one)) => {
                if let Wanted::Object(value) = &one {
                    // The next one sees what this one has been given.
                    open.files.put(value);
                }
                wanted.push((own, kind, one));
            }
            Err(failure) => failures.push(failure),
        }
    }
    if let Some(failure) = Failure::all(failures) {
        return Err(failure.hint("nothing was changed"));
    }
    check_pods(&open, &before, &wanted)?;
    open.files = before;
    let (open, said) = take(open, wanted)?;
    open.finish(said.trim_end(), &[])?;
    Ok(Outcome::Done)
}

/// Checks an object and fills in what is left out.
fn prepare(open: &Open, document: &Document, now: &Time) -> Result<(Identity, Kind, Wanted), Failure> {
    let Document { place, value } = document;
    let kind = Kind::of(value).map_err(|why| Failure::usage(format!("{place}: {why}")))?;
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = value["metadata"]["namespace"].as_str();
    let own = open.identity(kind, namespace, name);
    let in_words = |refusal: Refusal| Failure::usage(format!("{place}: {kind} {name:?}: {refusal}"));
    let mut value = value.clone();
    if namespace.is_none() && value["metadata"].is_object() {
        value["metadata"]["namespace"] = open.namespace().into();
    }
    let wanted = match kind {
        Kind::Service => {
            let asked: Service = typed(&value).map_err(in_words)?;
            let old = open
                .files
                .get(&own)
                .and_then(|old| Service::deserialize(old).ok());
            let made = service::settle(asked, old.as_ref(), &open.pools(), &open.in_use(&own)?, now);
            Wanted::Object(object(&made.map_err(in_words)?)?)
        }
        Kind::EndpointSlice => {
            let asked: EndpointSlice = typed(&value).map_err(in_words)?;
            let old = open
                .files
                .get(&own)
                .and_then(|old| EndpointSlice::deserialize(old).ok());
            let made = slice::settle(asked, old.as_ref(), now).map_err(in_words)?;
            Wanted::Object(object(&made)?)
        }
        Kind::Deployment => {
            let asked: Deployment = typed(&value).map_err(in_words)?;
            only_here(open, &own).map_err(in_words)?;
            refuse_during_rollout(open, name)?;
            let old = open
                .files
                .get(&own)
                .and_then(|old| Deployment::deserialize(old).ok());
            let made = deployment::settle(asked, old.as_ref(), now).map_err(in_words)?;
            deployment::pods(&made, &[], &|_: &str| true).map_err(in_words)?;
            Wanted::Object(object(&made)?)
        }
        Kind::Pod => {
            let asked: Pod = typed(&value).map_err(in_words)?;
            only_here(open, &own).map_err(in_words)?;
            let pod = deployment::single(&asked).map_err(in_words)?;
            let mut standing = open.ledger.pods.iter();
            let old = standing.find(|record| record.pod.spec.name == pod.name);
            let pod = match old {
                Some(old) => deployment::relabelled(&old.pod, &pod).map_err(in_words)?,
                None => pod,
            };
            Wanted::Pod(Box::new(pod))
        }
        Kind::Node => {
            let failure = Failure::usage(format!("{place}: a lab has the nodes of its topology"));
            return Err(failure.hint("name them there: netns-lab up FILE"));
        }
    };
    Ok((own, kind, wanted))
}

/// Pods of a lab are all in one namespace.
fn only_here(open: &Open, own: &Identity) -> Result<(), Refusal> {
    if own.namespace == open.namespace() {
        return Ok(());
    }
    let expected = format!("{}, where the pods of this lab are", open.namespace());
    Err(Refusal::new(
        "metadata.namespace",
        own.namespace.clone(),
        expected,
    ))
}

fn object(made: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(made).map_err(|error| Failure::failed(error.to_string()))
}

/// Fails if the lab could not have the pods of all this, which `open` has among its files already.
fn check_pods(open: &Open, before: &Files, wanted: &[(Identity, Kind, Wanted)]) -> Result<(), Failure> {
    if !wanted.iter().any(|(_, kind, _)| kind.makes_pods()) {
        return Ok(());
    }
    let mut single = open.single_pods(before);
    for (_, _, one) in wanted {
        if let Wanted::Pod(pod) = one {
            put_pod(&mut single, pod);
        }
    }
    let (pods, pace) = rolled(open, &single)?;
    check_way(open, &pods, pace.unwrap_or(Pace::AT_ONCE))
}

fn put_pod(pods: &mut Vec<PodSpec>, pod: &PodSpec) {
    match pods.iter_mut().find(|other| other.name == pod.name) {
        Some(place) => *place = pod.clone(),
        None => pods.push(pod.clone()),
    }
}

/// Writes what has changed, and makes the pods.
fn take(mut open: Open, wanted: Vec<(Identity, Kind, Wanted)>) -> Result<(Open, String), Failure> {
    let mut said = String::new();
    let standing = open.ledger.topology().pods;
    let mut single = open.single_pods(&open.files);
    let runs_images = wanted.iter().any(|(_, kind, _)| kind.makes_pods());
    for (own, kind, one) in wanted {
        let word = match one {
            Wanted::Object(value) => match open.files.get(&own) {
                Some(old) if *old == value => "unchanged",
                old => {
                    let word = if old.is_some() { "configured" } else { "created" };
                    open.put(&value)?;
                    word
                }
            },
            Wanted::Pod(pod) => {
                let old = standing.iter().find(|other| other.name == pod.name);
                let word = match old {
                    Some(old) if *old == *pod => "unchanged",
                    Some(_) => "configured",
                    None => "created",
                };
                put_pod(&mut single, &pod);
                word
            }
        };
        said.push_str(&format!("{}/{} {word}\n", kind.resource(), own.name));
    }
    if runs_images {
        open = roll(open, &single)?;
        open.reshape(single, |_| true)?;
        shell::tell("note: images are not run; the built-in app answers on each container's ports");
    }
    Ok((open, said))
}

/// Pods of Deployments that have another template now are replaced a few at a time.
fn roll(open: Open, single: &[PodSpec]) -> Result<Open, Failure> {
    match rolled(&open, single)? {
        (wanted, Some(pace)) => transition(open, &wanted, pace, &EndArgs::default()).map(|(open, _)| open),
        (_, None) => Ok(open),
    }
}

/// All pods that are wanted, and how fast those of Deployments are replaced, if any are.
fn rolled(open: &Open, single: &[PodSpec]) -> Result<(Vec<PodSpec>, Option<Pace>), Failure> {
    let deployments = open.deployments();
    let wanted = open.wanted(single.to_vec(), &deployments, |_| true)?;
    let stays = |pod: &PodSpec| wanted.iter().any(|other| other.name == pod.name);
    let going: Vec<_> = open
        .ledger
        .topology()
        .pods
        .into_iter()
        .filter(|pod| !stays(pod))
        .collect();
    let paces = deployments.iter().filter_map(|one| {
        let name = one.metadata.name.as_deref()?;
        let replaced = going.iter().any(|pod| deployment::owns(name, pod));
        replaced.then(|| deployment::pace(one))
    });
    let pace = paces.reduce(Pace::and);
    Ok((wanted, pace))
}
