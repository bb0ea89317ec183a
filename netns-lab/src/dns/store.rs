//! The objects of a registry's files, of which each keeps its last good version.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::model::endpoints::{Endpoint, from_pods, from_slices, namespace_of};
use crate::model::registry::{Object, SERVICE_NAME_LABEL, values};

/// What was read, by file.
#[derive(Debug, Default)]
pub struct Store {
    files: BTreeMap<String, Vec<Object>>,
}

impl Store {
    /// Takes a file as it is now, or (`None`) its end. One that is no JSON, perhaps half written,
    /// leaves what it held before.
    pub fn update(&mut self, file: &str, text: Option<&[u8]>) {
        let Some(text) = text else {
            self.files.remove(file);
            return;
        };
        match values(text) {
            Ok(values) => {
                let objects = values.iter().filter_map(Object::of).collect();
                self.files.insert(file.to_string(), objects);
            }
            Err(error) => tracing::warn!(file, %error, "a file of the registry is no JSON"),
        }
    }

    /// The files that are known.
    pub fn files(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }

    /// The objects, found by what they are asked for.
    pub fn objects(&self) -> Objects<'_> {
        let mut objects = Objects::default();
        for object in self.files.values().flatten() {
            match object {
                Object::Service(service) => objects.services.push(service),
                Object::Pod(pod) => {
                    let of_namespace = objects.pods.entry(namespace_of(&pod.metadata)).or_default();
                    of_namespace.push(pod);
                }
                Object::Slice(slice) => {
                    let labels = slice.metadata.labels.as_ref();
                    let service = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL));
                    if let Some(service) = service {
                        let key = (namespace_of(&slice.metadata), service.as_str());
                        objects.slices.entry(key).or_default().push(slice);
                    }
                }
            }
        }
        objects
    }
}

/// The objects that names are made from.
#[derive(Debug, Default)]
pub struct Objects<'a> {
    /// All Services.
    pub services: Vec<&'a Service>,
    /// Pods by their namespace.
    pub pods: BTreeMap<&'a str, Vec<&'a Pod>>,
    /// EndpointSlices by the namespace and the name of their Service.
    pub slices: BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
}

impl Objects<'_> {
    /// The ready endpoints of a Service: those of its slices, else those that its selector finds.
    pub fn endpoints(&self, service: &Service) -> Vec<Endpoint> {
        let namespace = namespace_of(&service.metadata);
        let name = service.metadata.name.as_deref().unwrap_or_default();
        match self.slices.get(&(namespace, name)) {
            Some(slices) => from_slices(slices.iter().copied()),
            None => from_pods(service, self.pods.get(namespace).into_iter().flatten().copied()),
        }
    }
}
