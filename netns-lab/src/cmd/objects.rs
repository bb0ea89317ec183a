//! What the commands on objects share: a lab under the lock, and its registry.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::Deployment;
use labkit::rundir::RunDirectory;
use labkit::{Failure, shell};
use serde::Deserialize;
use serde_json::Value;

use super::{find, up, up_lab};
pub(super) use crate::edge::now;
use crate::edge::{registry, store};
use crate::model::deployment;
use crate::model::document::{Document, documents};
use crate::model::files::Files;
use crate::model::kind::Kind;
use crate::model::ledger::{Leaving, Ledger};
use crate::model::name::{self, DEFAULT_LAB, Label};
use crate::model::registry::Identity;
use crate::model::service::{InUse, Pools};
use crate::model::topology::{PodSpec, Topology};

/// A lab that nobody else changes meanwhile.
pub(super) struct Open {
    run: RunDirectory,
    pub(super) ledger: Ledger,
    pub(super) files: Files,
}

impl Open {
    /// Waits for the lock and finds the lab.
    pub(super) fn new(lab: Option<&Label>) -> Result<Self, Failure> {
        let run = RunDirectory::lock()?;
        let ledger = find::lab(lab)?;
        let name = &ledger.lab.name;
        if ledger.leaving {
            let failure = Failure::failed(format!("the lab {name} is being taken down"));
            return Err(failure.hint(format!("finish that: netns-lab down {name}")));
        }
        let files = registry::files(name);
        Ok(Self { run, ledger, files })
    }

    /// The namespace of the lab's own objects.
    pub(super) fn namespace(&self) -> &str {
        name::object_namespace(&self.ledger.lab.name)
    }

    /// What of a kind has this name.
    pub(super) fn identity(&self, kind: Kind, namespace: Option<&str>, name: &str) -> Identity {
        let namespace = match kind {
            Kind::Node => "",
            _ => namespace.unwrap_or(self.namespace()),
        };
        Identity {
            kind: kind.name().into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Where addresses come from.
    pub(super) fn pools(&self) -> Pools {
        let lab = &self.ledger.lab;
        // Where the caller's namespace is the node there is no outside to route addresses from.
        let pools = lab.underlay.iter().flat_map(|underlay| {
            let second = underlay.load_balancer_pool6.map(Into::into);
            std::iter::once(underlay.load_balancer_pool.into()).chain(second)
        });
        Pools {
            services: lab.service_ranges(),
            balancers: pools.collect(),
        }
    }

    /// What the Services of all labs have, but for this one. Node ports are the node's, whichever
    /// lab's Service has them.
    pub(super) fn in_use(&self, but: &Identity) -> Result<InUse, Failure> {
        let but = (but.namespace.as_str(), but.name.as_str());
        let mut in_use = InUse::default();
        for object in self.files.objects() {
            in_use.note(object, but);
        }
        for lab in store::labs()?.iter().filter(|lab| **lab != self.ledger.lab.name) {
            for object in registry::files(lab).objects() {
                in_use.note(object, ("", ""));
            }
        }
        Ok(in_use)
    }

    /// Writes an object.
    pub(super) fn put(&mut self, object: &Value) -> Result<(), Failure> {
        match self.files.put(object) {
            Some(change) => registry::write(&self.ledger.lab.name, &change),
            None => Err(Failure::failed("an object without a name")),
        }
    }

    /// Removes an object; false when there is none.
    pub(super) fn remove(&mut self, own: &Identity) -> Result<bool, Failure> {
        match self.files.remove(own) {
            Some(change) => registry::write(&self.ledger.lab.name, &change).map(|()| true),
            None => Ok(false),
        }
    }

    /// The Deployments, in the order of their files.
    pub(super) fn deployments(&self) -> Vec<Deployment> {
        deployments(&self.files)
    }

    /// Makes the lab have these pods of nobody, and those that its Deployments want; of these, the
    /// ones that may stay.
    pub(super) fn reshape(
        &mut self,
        single: Vec<PodSpec>,
        may_stay: impl Fn(&str) -> bool,
    ) -> Result<(), Failure> {
        let pods = self.wanted(single, &self.deployments(), may_stay)?;
        let leaves = self.ledger.pods.iter().any(|record| record.leaving.is_some());
        if pods == self.ledger.topology().pods && !leaves {
            return Ok(());
        }
        self.shape(pods)
    }

    /// These pods of nobody, and those that Deployments want.
    pub(super) fn wanted(
        &self,
        mut single: Vec<PodSpec>,
        deployments: &[Deployment],
        may_stay: impl Fn(&str) -> bool,
    ) -> Result<Vec<PodSpec>, Failure> {
        let records = &self.ledger.pods;
        let standing: Vec<_> = records.iter().map(|record| record.pod.spec.clone()).collect();
        let leaving: Vec<_> = records
            .iter()
            .filter(|record| record.leaving == Some(Leaving::ForGood))
            .map(|record| record.pod.spec.name.as_str())
            .collect();
        let may_stay = |name: &str| !leaving.contains(&name) && may_stay(name);
        for one in deployments {
            let pods = deployment::pods(one, &standing, &may_stay);
            single.extend(pods.map_err(|refusal| Failure::usage(refusal.to_string()))?);
        }
        Ok(single)
    }

    /// All pods, when this is what one of the Deployments wants.
    pub(super) fn wanted_with(&self, changed: &Deployment) -> Result<Vec<PodSpec>, Failure> {
        let mut deployments = self.deployments();
        for one in &mut deployments {
            if one.metadata.name == changed.metadata.name {
                *one = changed.clone();
            }
        }
        self.wanted(self.single_pods(&self.files), &deployments, |_| true)
    }

    /// Fails if the lab could not have these pods; nothing is changed.
    pub(super) fn check(&self, pods: Vec<PodSpec>) -> Result<(), Failure> {
        let topology = Topology {
            pods,
            ..self.ledger.topology()
        };
        up_lab::placed(&self.ledger.lab, &topology, Some(&self.ledger)).map(|_| ())
    }

    /// Makes the lab have these pods.
    pub(super) fn shape(&mut self, pods: Vec<PodSpec>) -> Result<(), Failure> {
        let topology = Topology {
            pods,
            ..self.ledger.topology()
        };
        self.ledger = up::reshape(&self.run, &self.ledger.lab.name.clone(), topology)?;
        self.files = registry::files(&self.ledger.lab.name);
        Ok(())
    }

    /// The Deployment of a name.
    pub(super) fn deployment(&self, name: &str) -> Option<Deployment> {
        let mut all = self.deployments().into_iter();
        all.find(|one| one.metadata.name.as_deref() == Some(name))
    }

    /// Writes an object of a known type.
    pub(super) fn put_object(&mut self, object: &impl serde::Serialize) -> Result<(), Failure> {
        let value = serde_json::to_value(object).map_err(|error| Failure::failed(error.to_string()))?;
        self.put(&value)
    }

    /// The pods that no Deployment of these files has.
    pub(super) fn single_pods(&self, files: &Files) -> Vec<PodSpec> {
        let deployments = deployments(files);
        let names: Vec<_> = deployments
            .iter()
            .filter_map(|one| one.metadata.name.clone())
            .collect();
        let all = self.ledger.topology().pods;
        all.into_iter()
            .filter(|pod| !names.iter().any(|name| deployment::owns(name, pod)))
            .collect()
    }

    /// Tells the pods of what changed, and the user of what comes next.
    pub(super) fn finish(&self, said: &str, next: &[String]) -> Result<(), Failure> {
        registry::refresh_pod_files(&self.ledger)?;
        let lab = &self.ledger.lab.name;
        let sync = if lab.as_str() == DEFAULT_LAB {
            "miniproxy sync".to_string()
        } else {
            format!("miniproxy sync --lab {lab}")
        };
        let lines = std::iter::once(&sync).chain(next);
        let lines: Vec<_> = lines
            .enumerate()
            .map(|(index, line)| format!("{}{line}\n", if index == 0 { "next: " } else { "      " }))
            .collect();
        shell::emit(&format!("{said}\n{}", lines.concat()))
    }
}

fn deployments(files: &Files) -> Vec<Deployment> {
    let objects = files.objects();
    let deployments = objects.filter(|object| Kind::of(object) == Ok(Kind::Deployment));
    deployments
        .filter_map(|object| Deployment::deserialize(object).ok())
        .collect()
}

/// The objects in these files.
pub(super) fn read(files: &[PathBuf]) -> Result<Vec<Document>, Failure> {
    let mut found = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let text = text_of(file)?;
        let name = if file == Path::new("-") {
            "stdin".to_string()
        } else {
            name
        };
        let read = documents(&name, &text).map_err(Failure::usage)?;
        found.extend(read);
    }
    Ok(found)
}

fn text_of(file: &Path) -> Result<Vec<u8>, Failure> {
    /// No list of objects is as large.
    const LARGEST: u64 = 64 << 20;
    let unreadable = |error: std::io::Error| {
        Failure::usage(format!("cannot read {}: {error}", file.display()))
            .hint("expected a file of Kubernetes objects, or - for stdin")
    };
    let mut text = Vec::new();
    if file == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(LARGEST)
            .read_to_end(&mut text)
            .map_err(unreadable)?;
    } else {
        let file = fs::File::open(file).map_err(unreadable)?;
        file.take(LARGEST).read_to_end(&mut text).map_err(unreadable)?;
    }
    Ok(text)
}
