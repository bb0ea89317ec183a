//! `netns-lab scale`: more or fewer pods of an app.

use labkit::{Failure, Outcome};

use super::life::{check_way, more, of_app, refuse_during_rollout, transition};
use super::objects::Open;
use crate::cli::life::ScaleArgs;
use crate::edge::store;
use crate::model::life::Pace;
use crate::model::name::Label;
use crate::model::topology::PodSpec;

/// Runs `scale`.
pub(super) fn run(args: &ScaleArgs) -> Result<Outcome, Failure> {
    let mut open = Open::new(args.lab.as_ref())?;
    refuse_during_rollout(&open, args.app.as_str())?;
    if open.ledger.rollouts.remove(&args.app).is_some() {
        // One that was cut short is not to bring back the number of then.
        store::write_ledger(&open.ledger)?;
    }
    let replicas = usize::from(args.replicas);
    let named = open.deployment(args.app.as_str());
    let wanted = match named {
        Some(mut deployment) => {
            if let Some(spec) = &mut deployment.spec {
                spec.replicas = Some(i32::from(args.replicas));
            }
            let wanted = open.wanted_with(&deployment)?;
            check_way(&open, &wanted, Pace::AT_ONCE)?;
            open.put_object(&deployment)?;
            wanted
        }
        None => of_label(&open, &args.app, replicas)?,
    };
    let (open, said) = transition(open, &wanted, Pace::AT_ONCE, &args.end)?;
    let pods = if replicas == 1 { "pod" } else { "pods" };
    open.finish(&format!("{said}{} has {replicas} {pods}", args.app), &[])?;
    Ok(Outcome::Done)
}

/// All pods of the lab, when an app has so many.
fn of_label(open: &Open, app: &Label, replicas: usize) -> Result<Vec<PodSpec>, Failure> {
    let own = of_app(open, app)?;
    let mut wanted = open.ledger.topology().pods;
    let going: Vec<_> = own.iter().skip(replicas).map(|pod| &pod.name).collect();
    wanted.retain(|pod| !going.contains(&&pod.name));
    if let Some(last) = own.last().filter(|_| replicas > own.len()) {
        wanted.extend(more(open, app, last, replicas - own.len())?);
    }
    Ok(wanted)
}
