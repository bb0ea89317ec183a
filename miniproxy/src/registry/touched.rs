//! What an update of the registry touches, and what it leaves untold.

use std::collections::BTreeSet;

use super::ServiceKey;

/// What an update changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Services whose own object, slices or Pods changed.
    pub services: BTreeSet<ServiceKey>,
    /// Some Node changed.
    pub nodes: bool,
    /// How many Service objects changed.
    pub service_objects: usize,
    /// How many EndpointSlices changed.
    pub slice_objects: usize,
    /// When the Pods behind changed slices changed, as the slices say (RFC 3339).
    pub triggers: Vec<String>,
}

impl Touched {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.nodes
    }

    /// Counts an object that changed.
    pub(super) fn count(&mut self, kind: &str) {
        match kind {
            "Service" => self.service_objects += 1,
            "EndpointSlice" => self.slice_objects += 1,
            _ => {}
        }
    }

    /// Adds what another update changed.
    pub fn add(&mut self, other: Self) {
        if self.services.is_empty() {
            self.services = other.services;
        } else {
            self.services.extend(other.services);
        }
        self.nodes |= other.nodes;
        self.service_objects += other.service_objects;
        self.slice_objects += other.slice_objects;
        self.triggers.extend(other.triggers);
    }
}

/// Services that cannot be told whole, because an object was refused that has no good version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Those that are known by name.
    pub services: BTreeSet<ServiceKey>,
    /// There may be others: something could not be read that never was read before.
    pub unknown: bool,
}

impl Refusals {
    /// Whether the rules of this Service should stay as they are; `known` when it is in the registry.
    pub fn keeps(&self, service: &ServiceKey, known: bool) -> bool {
        self.services.contains(service) || (self.unknown && !known)
    }
}
