//! The kernel's settings that a lab needs, changed so that they can be put back.

use std::collections::BTreeMap;
use std::path::Path;

use labkit::{Failure, tool};

use super::store::{self, Shared};
use super::{namespace, sysctl};
use crate::model::ledger::Lab;
use crate::model::node::Host;
use crate::model::settings::{self, BRIDGE_NF, IP_FORWARD};

/// What the namespace that this thread is in has of the settings of a lab's namespace.
pub fn settings(lab: &Lab, host: &Host) -> BTreeMap<String, String> {
    let keys = settings::all(lab, host).into_iter();
    keys.filter_map(|key| Some((key.to_string(), sysctl::read(key)?)))
        .collect()
}

/// Whether the kernel has `br_netfilter`.
pub fn has_bridge_netfilter() -> bool {
    sysctl::read(BRIDGE_NF).is_some()
}

/// Changes settings of a namespace of the lab, in which this thread is. They are gone with it.
pub fn configure(wanted: &[(&'static str, &'static str)]) -> Result<(), Failure> {
    for (key, value) in wanted {
        match sysctl::write(key, value) {
            Err(failure) if !(settings::is_optional(key) && sysctl::read(key).is_none()) => {
                return Err(failure);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Changes a setting, after noting down what it and those that follow it were.
pub fn set(key: &'static str, value: &str, node: u64) -> Result<(), Failure> {
    if sysctl::read(key).as_deref() == Some(value) {
        return Ok(());
    }
    let mut shared = store::shared()?;
    let before = shared.settings.entry(node).or_default();
    if !before.iter().any(|(known, _)| known == key) {
        let own = sysctl::read(key).map(|value| (key.to_string(), value));
        before.extend(own);
        if key == IP_FORWARD {
            before.extend(sysctl::followers_of_ip_forward());
        }
        store::write_shared(&shared)?;
    }
    sysctl::write(key, value)
}

/// Settings of the bridge itself; they are gone with it.
///
/// A new link copies `default`, which an administrator may have set to anything.
pub fn set_up_bridge(bridge: &str) -> Result<(), Failure> {
    sysctl::write(&format!("net/ipv4/conf/{bridge}/forwarding"), "1")?;
    // Either this or the one of `all` would be enough to send them, see SEND_REDIRECTS.
    sysctl::write(&format!("net/ipv4/conf/{bridge}/send_redirects"), "0")?;
    // 2 is loose: an answer that comes in by another link than the route back is still taken.
    sysctl::write(&format!("net/ipv4/conf/{bridge}/rp_filter"), "2")
}

/// Loads `br_netfilter`; `false` when that is not possible here.
///
/// Without it the node still reaches Services, and pods reach each other; only pods that call a
/// Service of the same bridge wait for an answer for ever.
pub fn load_bridge_netfilter() -> Result<bool, Failure> {
    let Some(modprobe) = tool::find("modprobe") else {
        return Ok(false);
    };
    let mut shared = store::shared()?;
    if !shared.loaded_bridge_netfilter {
        shared.loaded_bridge_netfilter = true;
        store::write_shared(&shared)?;
    }
    let loaded =
        tool::run(&modprobe, &["br_netfilter"], None)?.status.success() && sysctl::read(BRIDGE_NF).is_some();
    if !loaded {
        shared.loaded_bridge_netfilter = false;
        store::write_shared(&shared)?;
    }
    Ok(loaded)
}

/// Makes `/run/netns` a mount as `ip netns` does, and notes that down first.
pub fn prepare_netns_directory() -> Result<(), Failure> {
    let mut shared = store::shared()?;
    let made = !Path::new(namespace::DIRECTORY).exists();
    shared.netns_directory = Some(shared.netns_directory.unwrap_or(made));
    store::write_shared(&shared)?;
    namespace::prepare_directory().map(|_| ())
}

/// Puts back the settings of a node.
pub fn restore_settings(node: u64, shared: &mut Shared) -> Vec<Failure> {
    let Some(settings) = shared.settings.get(&node) else {
        return Vec::new();
    };
    let failures: Vec<_> = settings
        .iter()
        .filter_map(|(key, value)| sysctl::restore(key, value).err())
        .collect();
    if failures.is_empty() {
        shared.settings.remove(&node);
    }
    failures
}

/// Undoes what is shared by labs of all nodes.
pub fn restore_shared(shared: &mut Shared) -> Vec<Failure> {
    let mut failures = Vec::new();
    if let Some(made) = shared.netns_directory {
        match namespace::withdraw_directory(made) {
            Ok(()) => shared.netns_directory = None,
            Err(failure) => failures.push(failure),
        }
    }
    if shared.loaded_bridge_netfilter {
        unload_bridge_netfilter();
        shared.loaded_bridge_netfilter = false;
    }
    failures
}

fn unload_bridge_netfilter() {
    // Another program (Docker) may have begun to need it; then the kernel refuses, rightly.
    let unloaded = tool::find("modprobe").map(|modprobe| tool::run(&modprobe, &["-r", "br_netfilter"], None));
    tracing::debug!(?unloaded, "unloading br_netfilter");
}
