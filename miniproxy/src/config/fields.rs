//! Fields of `KubeProxyConfiguration` that change nothing here, and why; and those of its parts.

use super::tree::{Kind, Tree};

/// What becomes of fields that are not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ignored {
    /// The field, with its parents: `ipvs.scheduler`.
    pub path: &'static str,
    /// Why it changes nothing.
    pub why: &'static str,
}

const API: &str = "the objects come from files, not from an API server";
const IPVS: &str = "it is for mode ipvs";
const NFTABLES: &str = "it is for mode nftables";
const WINDOWS: &str = "it is for Windows";
const LOGGING: &str = "how much is logged is said by -v";

const fn ignored(path: &'static str, why: &'static str) -> Ignored {
    Ignored { path, why }
}

/// Every field that is known and not heeded.
pub const IGNORED: [Ignored; 35] = [
    ignored("clientConnection.kubeconfig", API),
    ignored("clientConnection.acceptContentTypes", API),
    ignored("clientConnection.contentType", API),
    ignored("clientConnection.qps", API),
    ignored("clientConnection.burst", API),
    ignored("configSyncPeriod", API),
    ignored("logging.format", LOGGING),
    ignored("logging.flushFrequency", LOGGING),
    ignored("logging.verbosity", LOGGING),
    ignored("logging.vmodule", LOGGING),
    ignored("logging.options", LOGGING),
    ignored(
        "bindAddressHardFail",
        "an address that cannot be listened on is always said",
    ),
    ignored("enableProfiling", "there is no /debug/pprof"),
    ignored("showHiddenMetricsForVersion", "there are no hidden metrics"),
    ignored(
        "oomScoreAdj",
        "the priority of the process is left to who starts it",
    ),
    ignored(
        "portRange",
        "kube-proxy itself has not used it since it lost its userspace mode",
    ),
    ignored(
        "udpIdleTimeout",
        "kube-proxy itself has not known it since it lost its userspace mode",
    ),
    ignored("ipvs.syncPeriod", IPVS),
    ignored("ipvs.minSyncPeriod", IPVS),
    ignored("ipvs.scheduler", IPVS),
    ignored("ipvs.excludeCIDRs", IPVS),
    ignored("ipvs.strictARP", IPVS),
    ignored("ipvs.tcpTimeout", IPVS),
    ignored("ipvs.tcpFinTimeout", IPVS),
    ignored("ipvs.udpTimeout", IPVS),
    ignored("nftables.masqueradeBit", NFTABLES),
    ignored("nftables.masqueradeAll", NFTABLES),
    ignored("nftables.syncPeriod", NFTABLES),
    ignored("nftables.minSyncPeriod", NFTABLES),
    ignored("winkernel.networkName", WINDOWS),
    ignored("winkernel.sourceVip", WINDOWS),
    ignored("winkernel.enableDSR", WINDOWS),
    ignored("winkernel.rootHnsEndpointName", WINDOWS),
    ignored("winkernel.forwardHealthCheckVip", WINDOWS),
    ignored("windowsRunAsService", WINDOWS),
];

/// What is said of a field that was not read.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One of [`IGNORED`], with a value that would have changed something.
    Ignored(&'static str),
    /// One of [`IGNORED`], with a value that says nothing.
    Empty,
    /// A parent of ignored fields: its children are to be judged.
    Parent,
    /// No kube-proxy has it.
    Unknown,
}

/// Judges a field by its path.
pub fn judge(path: &str, value: &Tree) -> Verdict {
    if let Some(known) = IGNORED.iter().find(|known| known.path == path) {
        return if value.kind.is_empty() {
            Verdict::Empty
        } else {
            Verdict::Ignored(known.why)
        };
    }
    let parent = IGNORED.iter().any(|known| {
        known
            .path
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('.'))
    });
    match (&value.kind, parent) {
        (Kind::Map(_), true) => Verdict::Parent,
        (Kind::Null, true) => Verdict::Empty,
        _ => Verdict::Unknown,
    }
}
