//! `netns-lab delete`: objects go, and with them what was made of them.

use labkit::{Failure, Outcome, shell};

use super::life::{refuse_during_rollout, retire};
use super::objects::{Open, read};
use crate::cli::life::EndArgs;
use crate::cli::objects::DeleteArgs;
use crate::model::deployment;
use crate::model::kind::Kind;
use crate::model::ledger::Leaving;
use crate::model::name::Label;
use crate::model::registry::Identity;

/// Runs `delete`.
pub(super) fn run(args: &DeleteArgs) -> Result<Outcome, Failure> {
    let documents = read(&args.file)?;
    let mut open = Open::new(args.lab.as_ref())?;
    let mut wanted = Vec::new();
    let given = args.namespace.as_ref().map(ToString::to_string);
    for name in &args.objects {
        let kind = args.kind.ok_or_else(|| Failure::usage("a name without a kind"))?;
        wanted.push((kind, open.identity(kind, given.as_deref(), name)));
    }
    for document in documents {
        let (place, value) = (&document.place, &document.value);
        let kind = Kind::of(value).map_err(|why| Failure::usage(format!("{place}: {why}")))?;
        let Some(name) = value["metadata"]["name"].as_str() else {
            return Err(Failure::usage(format!(
                "{place}: metadata.name: nothing; expected a name"
            )));
        };
        let namespace = value["metadata"]["namespace"].as_str().or(given.as_deref());
        wanted.push((kind, open.identity(kind, namespace, name)));
    }
    if wanted.iter().any(|(kind, _)| *kind == Kind::Node) {
        let failure = Failure::usage("a lab has the nodes of its topology");
        return Err(failure.hint("change them there: netns-lab up FILE"));
    }
    let (mut said, mut failures) = (String::new(), Vec::new());
    let mut pods = Vec::new();
    let mut reshapes = false;
    for (kind, own) in &wanted {
        let gone = match kind {
            Kind::Pod => {
                pods.push(own.name.clone());
                open.files.get(own).is_some()
            }
            Kind::Deployment => {
                refuse_during_rollout(&open, &own.name)?;
                reshapes = true;
                disown(&open, own, &mut pods);
                open.remove(own)?
            }
            _ => open.remove(own)?,
        };
        if gone {
            said.push_str(&format!("{} {:?} deleted\n", kind.resource(), own.name));
        } else {
            failures.push(missing(*kind, own));
        }
    }
    reshapes |= !pods.is_empty();
    if reshapes {
        open = remove_pods(open, &pods, &args.end)?;
    }
    if !said.is_empty() {
        open.finish(said.trim_end(), &[])?;
    }
    Failure::all(failures).map_or(Ok(Outcome::Done), Err)
}

/// The pods of a Deployment go with it.
fn disown(open: &Open, own: &Identity, pods: &mut Vec<String>) {
    let owned = open.ledger.topology().pods;
    let owned = owned.iter().filter(|pod| deployment::owns(&own.name, pod));
    pods.extend(owned.map(|pod| pod.name.to_string()));
}

/// Ends pods gracefully and makes what their Deployments want instead.
fn remove_pods(mut open: Open, gone: &[String], end: &EndArgs) -> Result<Open, Failure> {
    let stays = |name: &str| !gone.iter().any(|other| other == name);
    let single = |open: &Open| {
        let mut single = open.single_pods(&open.files);
        single.retain(|pod| stays(pod.name.as_str()));
        single
    };
    // What would be refused is refused before any of them is told to end.
    let wanted = open.wanted(single(&open), &open.deployments(), stays)?;
    let lacks = open.check(wanted).err();
    let names: Vec<_> = gone.iter().filter_map(|name| Label::new(name).ok()).collect();
    open = retire(open, &names, Leaving::ForGood, end)?;
    let Some(why) = lacks else {
        let single = single(&open);
        open.reshape(single, stays)?;
        return Ok(open);
    };
    // A Deployment that stays wants pods that have no place: it has none of them, as before.
    shell::tell(&format!(
        "note: no pods were made in their place: {}",
        why.message()
    ));
    let mut pods = open.ledger.topology().pods;
    pods.retain(|pod| stays(pod.name.as_str()));
    open.shape(pods)?;
    Ok(open)
}

fn missing(kind: Kind, own: &Identity) -> Failure {
    let name = &own.name;
    let plural = format!("{}s", kind.name().to_ascii_lowercase());
    Failure::failed(format!(
        "{plural} {name:?} not found in the namespace {:?}",
        own.namespace
    ))
    .hint(format!("`netns-lab get {plural}` lists what there is"))
}
