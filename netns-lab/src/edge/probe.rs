//! Finds out what a host has, and changes nothing on it.

use std::fs;
use std::path::Path;
use std::thread;

use caps::{CapSet, Capability};
use labkit::nftables::NfTables;
use labkit::xtables::{Family, Flavour, Xtables};
use labkit::{Failure, tool};
use nix::sched::{CloneFlags, unshare};
use nix::sys::utsname::uname;

use super::node::Node;
use super::{cgroup, joined, sandbox, sysctl};
use crate::model::doctor::{Facts, Feature, NEEDS, Tool};
use crate::model::settings::{BRIDGE_NF, IP_FORWARD};

/// The facts that do not depend on labs.
pub fn facts(iptables: Option<&Path>) -> Result<Facts, Failure> {
    let xtables = match Xtables::detect(iptables) {
        Err(failure) if iptables.is_some() => return Err(failure),
        other => other,
    };
    let release = uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let kernel = Kernel::new(&release);
    let features: Vec<_> = NEEDS.iter().map(|need| kernel.feature(need.module)).collect();
    let lacking = lacking();
    let root = nix::unistd::geteuid().is_root();
    // Where the files tell nothing (a kernel without modules, a container), a trial does.
    let program = xtables.as_ref().ok().map(|xtables| xtables.iptables(Family::V4));
    let program = program.filter(|_| features.contains(&Feature::Unknown));
    let knob = sandbox::knob();
    let trial = program.and_then(|program| match (root && lacking.is_empty(), knob) {
        (true, _) => Some(trial(&program)),
        (false, None) => trial_in_sandbox(&program),
        (false, Some(_)) => None,
    });
    Ok(Facts {
        kernel: release,
        root,
        lacking,
        confined: is_confined(),
        sandbox_knob: knob.map(ToString::to_string),
        features,
        trial,
        forward_policy: match &xtables {
            Ok(_) if !root => Err("root".into()),
            Ok(xtables) => forward_policy(xtables),
            Err(_) => Err("iptables".into()),
        },
        iptables: xtables
            .map(described)
            .map_err(|failure| failure.message().to_string()),
        ip_forward: sysctl::read(IP_FORWARD),
        bridge_nf: sysctl::read(BRIDGE_NF),
        rp_filter: sysctl::read("net.ipv4.conf.all.rp_filter"),
        sysctl_writable: is_writable("/proc/sys/net/ipv4/ip_forward"),
        clashes: Vec::new(),
        hidden_labs: false,
        install: (install("iptables"), install("iproute2")),
        lab_is_up: false,
        limits: cgroup::can_limit(),
        has_ip: tool::find("ip").is_some(),
    })
}

/// The command that installs a package, or words where no package manager is known.
fn install(package: &str) -> String {
    let hint = tool::install_hint(package);
    hint.strip_prefix("install it: ").unwrap_or(&hint).to_string()
}

fn described(xtables: Xtables) -> Tool {
    Tool {
        flavour: xtables.flavour.name().into(),
        path: xtables.iptables(Family::V4).display().to_string(),
        reason: xtables.reason,
        mixed: xtables.mixed,
    }
}

fn lacking() -> Vec<String> {
    let needed = [Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN];
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    needed
        .into_iter()
        .filter(|capability| !has(*capability))
        .map(|capability| capability.to_string())
        .collect()
}

/// Only the first user namespace maps every id onto itself; a sandbox of root's does so too, and
/// is told by its own mark.
fn is_confined() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    !whole || std::env::var_os("NETNS_LAB_SANDBOX").is_some()
}

fn is_writable(path: &str) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok()
}

/// What the files of a kernel tell of its modules.
struct Kernel {
    built_in: Option<String>,
    loadable: Option<String>,
}

impl Kernel {
    fn new(release: &str) -> Self {
        let folder = Path::new("/lib/modules").join(release);
        Self {
            built_in: fs::read_to_string(folder.join("modules.builtin")).ok(),
            loadable: fs::read_to_string(folder.join("modules.dep")).ok(),
        }
    }

    fn feature(&self, module: &str) -> Feature {
        if is_loaded(module) {
            return Feature::Loaded;
        }
        if self.built_in.as_deref().is_some_and(|list| lists(list, module)) {
            return Feature::BuiltIn;
        }
        if self.loadable.as_deref().is_some_and(|list| lists(list, module)) {
            return Feature::Loadable;
        }
        // br_netfilter's setting is there exactly when it is.
        if module == "br_netfilter" {
            return if sysctl::read(BRIDGE_NF).is_some() {
                Feature::BuiltIn
            } else {
                Feature::Missing
            };
        }
        if Path::new("/sys/module").join(module).exists() {
            return Feature::BuiltIn;
        }
        if self.built_in.is_some() && self.loadable.is_some() {
            Feature::Missing
        } else {
            Feature::Unknown
        }
    }
}

fn is_loaded(module: &str) -> bool {
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    let mut names = modules.lines().filter_map(|line| line.split(' ').next());
    names.any(|name| name == module)
}

/// `kernel/net/bridge/bridge.ko.xz: …`, with `-` for `_` in some names.
fn lists(list: &str, module: &str) -> bool {
    list.lines()
        .filter_map(|line| line.split(':').next())
        .any(|path| {
            let file = path.rsplit('/').next().unwrap_or_default();
            file.split(".ko")
                .next()
                .is_some_and(|name| name.replace('-', "_") == module)
        })
}

/// A bridge, a veth pair and a rule, in a network namespace that ends with this function.
pub fn trial(iptables: &Path) -> Result<(), String> {
    let attempt = || -> Result<(), Failure> {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|error| Failure::failed(format!("no network namespace: {error}")))?;
        Node::open()?.try_links()?;
        let rule = "-t nat -A POSTROUTING -m comment --comment trial -m mark --mark 1 -m conntrack --ctstate NEW \
                    -m statistic --mode random --probability 0.5 -j MASQUERADE";
        let words: Vec<_> = rule.split_ascii_whitespace().collect();
        tool::run_ok(iptables, &words, None).map(|_| ())
    };
    let result = thread::scope(|scope| joined(scope.spawn(attempt)));
    result.map_err(|failure| failure.message().to_string())
}

/// The same for a plain user, who may only be root of a sandbox.
fn trial_in_sandbox(iptables: &Path) -> Option<Result<(), String>> {
    let own = std::env::current_exe().ok()?;
    let words = [
        "sandbox".as_ref(),
        "--".as_ref(),
        own.as_os_str(),
        "trial".as_ref(),
        iptables.as_os_str(),
    ];
    let output = tool::run(&own, &words, None).ok()?;
    let said = String::from_utf8_lossy(&output.stderr)
        .trim()
        .trim_start_matches("error: ")
        .to_string();
    Some(if output.status.success() {
        Ok(())
    } else {
        Err(said)
    })
}

/// The policy of FORWARD, if the table is there: to ask for a table that is not would make it.
/// An error says without what it cannot be told.
fn forward_policy(xtables: &Xtables) -> Result<Option<String>, String> {
    let is_there = match xtables.flavour {
        Flavour::Nft => {
            let chains = NfTables::open().and_then(|mut kernel| kernel.chains());
            let chains = chains.map_err(|error| format!("a look at nf_tables ({error})"))?;
            chains
                .iter()
                .any(|chain| chain.table.name == "filter" && chain.name == "FORWARD")
        }
        Flavour::Legacy => match fs::read_to_string("/proc/thread-self/net/ip_tables_names") {
            Ok(names) => names.lines().any(|name| name == "filter"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(format!("/proc/net/ip_tables_names ({error})")),
        },
    };
    if !is_there {
        return Ok(None);
    }
    let program = xtables.iptables(Family::V4);
    let listed = tool::run_ok(&program, &["-t", "filter", "-S", "FORWARD"], None)
        .map_err(|failure| format!("a list ({})", failure.message()))?;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let policy = listed.lines().find_map(|line| line.strip_prefix("-P FORWARD "));
    Ok(policy.map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_lists_are_read() {
        let list = "kernel/net/bridge/br_netfilter.ko.xz: kernel/net/bridge/bridge.ko.xz\nkernel/drivers/net/veth.ko:\n";
        assert!(lists(list, "br_netfilter") && lists(list, "veth"));
        assert!(
            !lists(list, "bridge"),
            "a dependency's mention is not its own line"
        );
    }
}
