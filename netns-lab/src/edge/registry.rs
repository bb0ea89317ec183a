//! A lab's registry as its commands need it.

use labkit::Failure;

use super::store;
use crate::dns::store::Store;
use crate::model::files::{Change, Files};
use crate::model::ledger::Ledger;
use crate::model::name::Label;
use crate::model::pod_files::{self, Names};

/// All objects of a lab, and the files they stand in.
pub fn files(lab: &Label) -> Files {
    Files::new(&store::registry_files(lab))
}

/// The names that the pods of a lab can be told.
pub fn names(lab: &Label) -> Names {
    let mut objects = Store::default();
    for (file, text) in store::registry_files(lab) {
        objects.update(&file, Some(&text));
    }
    Names::new(&objects.objects())
}

/// Makes a file what it is to become.
pub fn write(lab: &Label, change: &Change) -> Result<(), Failure> {
    let (file, content) = change;
    match content {
        Some(content) => store::publish(lab, file, content),
        None => store::withdraw(lab, file),
    }
}

/// Tells the pods whose files are there of new names.
pub fn refresh_pod_files(ledger: &Ledger) -> Result<(), Failure> {
    let lab = &ledger.lab.name;
    let names = names(lab);
    for record in &ledger.pods {
        let folder = store::pod_files(lab, &record.pod.spec.name);
        if folder.is_dir() {
            store::write_pod_files(&folder, &pod_files::all(ledger, &record.pod, &names))?;
        }
    }
    Ok(())
}
