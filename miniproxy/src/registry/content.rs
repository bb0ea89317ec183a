//! What is kept of an object, and where in the registry it stands.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};

use super::parse::Object;
use super::slice::Slice;
use super::touched::Touched;
use super::{Identity, Registry, ServiceKey};

/// What is kept of an object.
#[derive(Debug)]
pub(super) enum Content {
    Service(Arc<Service>),
    Slice(Arc<Slice>),
    Pod(Arc<Pod>),
    Node(Arc<Node>),
    /// A kind that is passed over.
    Other(String),
}

/// What is kept: of many objects, without what only takes room.
pub(super) fn content(object: Object) -> Content {
    match object {
        Object::Service(mut service) => {
            if let Some(service) = Arc::get_mut(&mut service) {
                service.metadata.managed_fields = None;
                if let Some(ports) = service.spec.as_mut().and_then(|spec| spec.ports.as_mut()) {
                    ports.shrink_to_fit();
                }
            }
            Content::Service(service)
        }
        Object::EndpointSlice(slice) => Content::Slice(Arc::new(Slice::of(&slice))),
        Object::Pod(pod) => Content::Pod(pod),
        Object::Node(node) => Content::Node(node),
        Object::Other(kind) => Content::Other(kind),
    }
}

fn key(identity: &Identity) -> ServiceKey {
    (identity.namespace.clone(), identity.name.clone())
}

/// The Service of a slice; slices without one stand together under no name.
fn owner(identity: &Identity, slice: &Slice) -> ServiceKey {
    let service = slice.service.clone().unwrap_or_default();
    (identity.namespace.clone(), service)
}

/// Puts an object into the registry.
pub(super) fn insert(registry: &mut Registry, identity: &Identity, content: &Content) {
    let name = identity.name.clone();
    match content {
        Content::Service(service) => drop(registry.services.insert(key(identity), Arc::clone(service))),
        Content::Slice(slice) => {
            let slices = registry.slices.entry(owner(identity, slice)).or_default();
            let at = slices.partition_point(|(known, _)| *known < name);
            slices.reserve_exact(1);
            slices.insert(at, (name, Arc::clone(slice)));
        }
        Content::Pod(pod) => {
            let pods = registry.pods.entry(identity.namespace.clone()).or_default();
            pods.insert(name, Arc::clone(pod));
        }
        Content::Node(node) => drop(registry.nodes.insert(name, Arc::clone(node))),
        Content::Other(_) => {}
    }
}

/// Takes an object out of the registry.
pub(super) fn remove(registry: &mut Registry, identity: &Identity, content: &Content) {
    match content {
        Content::Service(_) => drop(registry.services.remove(&key(identity))),
        Content::Slice(slice) => {
            let owner = owner(identity, slice);
            if let Some(slices) = registry.slices.get_mut(&owner) {
                slices.retain(|(name, _)| *name != identity.name);
                if slices.is_empty() {
                    registry.slices.remove(&owner);
                }
            }
        }
        Content::Pod(_) => {
            if let Some(pods) = registry.pods.get_mut(&identity.namespace) {
                pods.remove(&identity.name);
            }
        }
        Content::Node(_) => drop(registry.nodes.remove(&identity.name)),
        Content::Other(_) => {}
    }
}

/// Whether an object that was read again says nothing new.
pub(super) fn is_as_before(before: &Content, now: &Content) -> bool {
    match (before, now) {
        (Content::Service(before), Content::Service(now)) => before == now,
        (Content::Slice(before), Content::Slice(now)) => before.says_the_same_as(now),
        (Content::Pod(before), Content::Pod(now)) => before == now,
        (Content::Node(before), Content::Node(now)) => before == now,
        _ => false,
    }
}

/// Notes which Services an object that came or went touches.
pub(super) fn touch(touched: &mut Touched, pods: &mut Vec<Arc<Pod>>, identity: &Identity, content: &Content) {
    match content {
        Content::Service(_) => drop(touched.services.insert(key(identity))),
        Content::Slice(slice) => drop(touched.services.insert(owner(identity, slice))),
        Content::Pod(pod) => pods.push(Arc::clone(pod)),
        Content::Node(_) => touched.nodes = true,
        Content::Other(_) => {}
    }
}
