//! What a host has for a lab, judged: facts in, one line for each with its cure.

use labkit::table::Table;
use serde::Serialize;

use super::report::wrapped;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be, or `up` sees to it.
    Ok,
    /// It works, with a limit that the detail tells.
    Warn,
    /// `up` cannot do its work without.
    Fail,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// The command that cures it.
    pub cure: Option<String>,
}

impl Check {
    fn new(name: &str, status: Status, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            status,
            detail: detail.into(),
            cure: None,
        }
    }

    fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }
}

/// Where a kernel feature is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// In the kernel itself.
    BuiltIn,
    /// A module, and loaded.
    Loaded,
    /// A module that could be loaded.
    Loadable,
    /// Neither: this kernel does not have it.
    Missing,
    /// Nothing here tells.
    Unknown,
}

/// A kernel feature by the name of its module, and what it is for.
pub struct Need {
    /// The module's name.
    pub module: &'static str,
    /// What does not work without it.
    pub purpose: &'static str,
    /// Which iptables flavour needs it: `nf_tables`, `legacy`, or both when empty.
    pub flavour: &'static str,
}

const fn need(module: &'static str, purpose: &'static str, flavour: &'static str) -> Need {
    Need {
        module,
        purpose,
        flavour,
    }
}

/// What labs and Services need of a kernel.
pub const NEEDS: [Need; 17] = [
    need("bridge", "the node's bridge", ""),
    need("veth", "the pods' links", ""),
    need("br_netfilter", "Services between pods of one bridge", ""),
    need("nf_conntrack", "connection tracking", ""),
    need("nf_nat", "address translation", ""),
    need("nf_tables", "iptables rules", "nf_tables"),
    need("nft_compat", "iptables rules", "nf_tables"),
    need("nft_chain_nat", "the table nat", "nf_tables"),
    need("ip_tables", "iptables rules", "legacy"),
    need("iptable_filter", "the table filter", "legacy"),
    need("iptable_nat", "the table nat", "legacy"),
    need("xt_nat", "DNAT to a pod", ""),
    need("xt_MASQUERADE", "traffic that leaves the lab", ""),
    need("xt_comment", "comments of rules", ""),
    need("xt_mark", "Service rules", ""),
    need("xt_conntrack", "Service rules", ""),
    need("xt_statistic", "shares between pods", ""),
];

/// What was found on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The kernel's release.
    pub kernel: String,
    /// Effective user 0.
    pub root: bool,
    /// Capabilities that `up` needs and this process lacks.
    pub lacking: Vec<String>,
    /// Inside a user namespace that does not map all ids.
    pub confined: bool,
    /// The knob that forbids a sandbox.
    pub sandbox_knob: Option<String>,
    /// Each of [`NEEDS`], in its order.
    pub features: Vec<Feature>,
    /// What a trial in a throw-away network namespace said, if one was made.
    pub trial: Option<Result<(), String>>,
    /// The iptables in use, or why there is none.
    pub iptables: Result<Tool, String>,
    /// The policy of FORWARD, if its table is there; or without what it cannot be told.
    pub forward_policy: Result<Option<String>, String>,
    /// `net.ipv4.ip_forward`, `bridge-nf-call-iptables`, `conf.all.rp_filter`.
    pub ip_forward: Option<String>,
    /// See above.
    pub bridge_nf: Option<String>,
    /// See above.
    pub rp_filter: Option<String>,
    /// `/proc/sys` may be written.
    pub sysctl_writable: bool,
    /// What a lab with the default ranges and names would collide with: what, and the cure.
    pub clashes: Vec<(String, String)>,
    /// Somebody else's labs are up, and this user may not look into them.
    pub hidden_labs: bool,
    /// A lab is up, so that its settings should be in force.
    pub lab_is_up: bool,
    /// Whether containers can be limited; else why not.
    pub limits: Result<(), String>,
    /// The program `ip` was found.
    pub has_ip: bool,
    /// How to install the packages iptables and iproute2 here.
    pub install: (String, String),
}

/// An iptables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tool {
    /// `nf_tables` or `legacy`.
    pub flavour: String,
    /// Its path.
    pub path: String,
    /// Why this one.
    pub reason: String,
    /// Rules stand in both flavours.
    pub mixed: bool,
}

impl Facts {
    /// What only root may see is not seen.
    fn is_blind(&self) -> bool {
        self.lacking
            .iter()
            .any(|capability| capability == "CAP_NET_ADMIN")
    }

    /// `up` may load modules.
    fn loads_modules(&self) -> bool {
        self.root && !self.confined && self.lacking.is_empty()
    }

    fn bridge_netfilter(&self) -> Option<Feature> {
        let mut features = NEEDS.iter().zip(&self.features);
        let found = features.find(|(need, _)| need.module == "br_netfilter");
        found.map(|(_, feature)| *feature)
    }
}

/// The cure of a line that only root can fill in.
const AS_ROOT: &str = "sudo netns-lab doctor";

/// Judges the facts.
pub fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![
        Check::new("kernel", Status::Ok, facts.kernel.clone()),
        privileges(facts),
        sandbox(facts),
        iptables(facts),
    ];
    checks.extend(mixture(facts));
    checks.extend(features(facts));
    checks.extend(trial(facts));
    checks.extend(forward_policy(facts));
    checks.push(ip_forward(facts));
    checks.push(bridge_nf(facts));
    checks.push(rp_filter(facts));
    let limits = facts.limits.as_ref().err();
    let limits = limits.map_or_else(
        || "of CPU and memory work".into(),
        |why| format!("refused: {why}"),
    );
    checks.push(Check::new("limits", Status::Ok, limits));
    checks.extend(tools(facts));
    checks.extend(ranges(facts));
    checks
}

fn privileges(facts: &Facts) -> Check {
    let name = "privileges";
    if !facts.root {
        let check = |status| Check::new(name, status, "not root, which `up` needs");
        return match facts.sandbox_knob {
            None => check(Status::Warn).cure("netns-lab sandbox   (or sudo netns-lab up)"),
            Some(_) => check(Status::Fail).cure("sudo netns-lab up"),
        };
    }
    if !facts.lacking.is_empty() {
        let detail = format!("root without {}", facts.lacking.join(" and "));
        return Check::new(name, Status::Fail, detail)
            .cure("netns-lab sandbox   (or a container with --privileged)");
    }
    if !facts.sysctl_writable {
        return Check::new(name, Status::Fail, "root, but /proc/sys is read-only")
            .cure("netns-lab sandbox   (or a container with --privileged)");
    }
    let detail = if facts.confined {
        "root of a user namespace (a sandbox)"
    } else {
        "root"
    };
    Check::new(name, Status::Ok, detail)
}

fn sandbox(facts: &Facts) -> Check {
    match &facts.sandbox_knob {
        None => Check::new("sandbox", Status::Ok, "user namespaces are allowed"),
        Some(knob) if facts.root && facts.lacking.is_empty() => {
            Check::new("sandbox", Status::Ok, format!("{knob}, but root needs none"))
        }
        Some(knob) => {
            let setting = knob.replace(" is ", "=");
            let value = if knob.contains("apparmor") {
                "0"
            } else if knob.contains("max_user") {
                "15000"
            } else {
                "1"
            };
            let key = setting.split('=').next().unwrap_or_default().to_string();
            Check::new("sandbox", Status::Warn, format!("no sandbox: {knob}")).cure(format!(
                "sudo sysctl -w {key}={value}   (or use sudo netns-lab up)"
            ))
        }
    }
}

fn iptables(facts: &Facts) -> Check {
    match &facts.iptables {
        Ok(tool) => Check::new(
            "iptables",
            Status::Ok,
            format!("{} ({}): {}", tool.path, tool.flavour, tool.reason),
        ),
        Err(why) => Check::new("iptables", Status::Fail, why.clone()).cure(facts.install.0.clone()),
    }
}

fn mixture(facts: &Facts) -> Option<Check> {
    let name = "iptables mix";
    let tool = facts.iptables.as_ref().ok()?;
    if facts.is_blind() {
        return Some(Check::new(name, Status::Warn, "cannot be told without root").cure(AS_ROOT));
    }
    Some(if tool.mixed {
        Check::new(
            name,
            Status::Warn,
            "both nf_tables and legacy hold rules; each tool shows one half",
        )
        .cure("sudo update-alternatives --config iptables, then move the rules of the other")
    } else {
        Check::new(name, Status::Ok, "rules stand in one flavour at most")
    })
}

fn features(facts: &Facts) -> Vec<Check> {
    let flavour = facts.iptables.as_ref().map_or("", |tool| tool.flavour.as_str());
    let proven = facts.trial == Some(Ok(()));
    let needs = NEEDS.iter().zip(&facts.features);
    let needs = needs.filter(|(need, _)| need.flavour.is_empty() || need.flavour == flavour);
    needs
        .map(|(need, feature)| judge(facts, need, *feature, proven))
        .collect()
}

fn judge(facts: &Facts, need: &Need, feature: Feature, proven: bool) -> Check {
    let Need { module, purpose, .. } = *need;
    let load = format!("sudo modprobe {module}");
    let by_hand = module == "br_netfilter";
    match feature {
        Feature::BuiltIn => Check::new(module, Status::Ok, "built in"),
        Feature::Loaded => Check::new(module, Status::Ok, "loaded"),
        Feature::Loadable if by_hand && facts.loads_modules() => {
            // A warning: whoever looks before `up` must see that nothing works without it yet.
            let detail = "a module, not loaded; `up` loads it until `down`";
            Check::new(module, Status::Warn, detail).cure(load)
        }
        Feature::Loadable if by_hand => {
            let detail = format!("a module, not loaded ({purpose}); only root can");
            Check::new(module, Status::Warn, detail).cure(load)
        }
        Feature::Loadable => Check::new(
            module,
            Status::Ok,
            "a module, not loaded; the kernel does at need",
        ),
        Feature::Missing if by_hand => {
            let detail = "not there: no Services between pods of one bridge";
            Check::new(module, Status::Warn, detail).cure(load)
        }
        Feature::Missing => Check::new(module, Status::Fail, format!("not there, needed for: {purpose}"))
            .cure("a kernel with these modules, or the package with its extra modules"),
        Feature::Unknown if proven => Check::new(module, Status::Ok, "a trial worked"),
        Feature::Unknown => {
            // Nothing is known to be wrong; only root, or a trial with an iptables, can tell.
            let check = Check::new(module, Status::Warn, format!("cannot be told here ({purpose})"));
            if facts.root { check } else { check.cure(AS_ROOT) }
        }
    }
}

fn trial(facts: &Facts) -> Option<Check> {
    Some(match facts.trial.as_ref()? {
        Ok(()) => Check::new("trial", Status::Ok, "bridge, veth and rule in a throw-away netns"),
        Err(why) => Check::new("trial", Status::Fail, why.clone())
            .cure("a kernel with bridge, veth, nf_nat and xt_statistic"),
    })
}

fn forward_policy(facts: &Facts) -> Option<Check> {
    let name = "FORWARD policy";
    // Without an iptables there is one thing to mend, and it has its line.
    facts.iptables.as_ref().ok()?;
    Some(match &facts.forward_policy {
        Err(without) => {
            let cure = if facts.root {
                "netns-lab doctor -vv"
            } else {
                AS_ROOT
            };
            Check::new(name, Status::Warn, format!("cannot be told without {without}")).cure(cure)
        }
        Ok(None) => Check::new(name, Status::Ok, "no table filter, so everything passes"),
        Ok(Some(policy)) if policy == "ACCEPT" => Check::new(name, Status::Ok, "ACCEPT"),
        Ok(Some(policy)) => Check::new(
            name,
            Status::Ok,
            format!("{policy} (Docker sets it); `up` lets its pods' traffic pass"),
        ),
    })
}

fn ip_forward(facts: &Facts) -> Check {
    let name = "ip_forward";
    match (facts.ip_forward.as_deref(), facts.lab_is_up) {
        (Some("1"), _) => Check::new(name, Status::Ok, "1"),
        (None, _) => {
            Check::new(name, Status::Fail, "the kernel does not show it").cure("mount -t proc proc /proc")
        }
        (Some(value), false) => Check::new(
            name,
            Status::Ok,
            format!("{value}; `up` sets it to 1 until `down`"),
        ),
        (Some(value), true) => Check::new(
            name,
            Status::Warn,
            format!("{value}, though a lab is up: Services do not work"),
        )
        .cure("netns-lab up"),
    }
}

fn bridge_nf(facts: &Facts) -> Check {
    let name = "bridge-nf-call-iptables";
    match (facts.bridge_nf.as_deref(), facts.lab_is_up) {
        (Some("1"), _) => Check::new(name, Status::Ok, "1"),
        (None, _) if facts.bridge_netfilter() == Some(Feature::Loadable) && facts.loads_modules() => {
            Check::new(name, Status::Ok, "there once `up` has loaded br_netfilter")
        }
        (None, _) => Check::new(name, Status::Warn, "not there without br_netfilter")
            .cure("sudo modprobe br_netfilter"),
        (Some(value), false) => Check::new(
            name,
            Status::Ok,
            format!("{value}; `up` sets it to 1 until `down`"),
        ),
        (Some(value), true) => {
            let detail = format!("{value}, though a lab is up: a pod that calls a Service gets no answer");
            Check::new(name, Status::Warn, detail).cure("netns-lab up")
        }
    }
}

fn rp_filter(facts: &Facts) -> Check {
    let detail = match facts.rp_filter.as_deref() {
        Some("1") => "1 (strict); `up` sets 2 (loose) on its bridge",
        Some("2") => "2 (loose)",
        Some("0") => "0 (off)",
        _ => "the kernel does not show it",
    };
    Check::new("rp_filter", Status::Ok, detail)
}

fn tools(facts: &Facts) -> Option<Check> {
    (!facts.has_ip).then(|| {
        Check::new(
            "iproute2",
            Status::Warn,
            "`ip` was not found: `up` does not need it, you will",
        )
        .cure(facts.install.1.clone())
    })
}

fn ranges(facts: &Facts) -> Vec<Check> {
    let name = "ranges and names";
    if facts.hidden_labs {
        let detail = "labs of root's are up; what a new one meets cannot be told without root";
        return vec![Check::new(name, Status::Warn, detail).cure(AS_ROOT)];
    }
    if facts.clashes.is_empty() {
        return vec![Check::new(
            name,
            Status::Ok,
            "nothing on this host collides with a new lab",
        )];
    }
    let clashes = facts.clashes.iter();
    clashes
        .map(|(what, cure)| {
            Check::new(name, Status::Fail, what.clone()).cure(format!("netns-lab up: {cure}"))
        })
        .collect()
}

/// The checks for people; below the table what helps, each with the lines that it is for.
pub fn table(checks: &[Check]) -> String {
    let mut table = Table::new(&["STATUS", "CHECK", "DETAIL"]);
    for check in checks {
        table.row([check.status.name(), &check.name, &check.detail]);
    }
    let mut text = table.render();
    let mut cures: Vec<(&String, Vec<&str>)> = Vec::new();
    for check in checks.iter().filter(|check| check.status != Status::Ok) {
        let Some(cure) = &check.cure else { continue };
        match cures.iter_mut().find(|(known, _)| *known == cure) {
            Some((_, names)) => names.push(&check.name),
            None => cures.push((cure, vec![&check.name])),
        }
    }
    if !cures.is_empty() {
        text.push_str("\nwhat helps:\n");
        for (cure, names) in cures {
            text.push_str(&wrapped(&format!("{}: {cure}", names.join(", "))));
        }
    }
    text
}

/// What all of it means for `up`, by this user.
pub fn verdict(facts: &Facts, checks: &[Check]) -> &'static str {
    if checks.iter().any(|check| check.status == Status::Fail) {
        "`netns-lab up` would fail here"
    } else if facts.root {
        "`netns-lab up 3-pods` works here"
    } else {
        "`netns-lab up 3-pods` works in `netns-lab sandbox`, or with sudo"
    }
}

#[cfg(test)]
#[path = "doctor_tests.rs"]
mod tests;
