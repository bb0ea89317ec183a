//! The Service that a failure hits: its file in the registry and its rules in `iptables-save`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::Value;

/// A Service of the registry, in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The file.
    pub file: String,
    /// Its namespace and name.
    pub name: String,
    /// Its virtual IP.
    pub ip: Ipv4Addr,
    /// Protocol in lower case, port, and the target port's text.
    pub ports: Vec<Port>,
    /// It is the cluster's own.
    pub is_system: bool,
    /// Its selector.
    pub selector: BTreeMap<String, String>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
    /// The port.
    pub port: u16,
    /// The port of the pods: a number or a name.
    pub target: Value,
}

/// The Services of a registry that have a virtual IPv4 address, `web` first. That of the name server
/// is not among them: without names nobody could look for what is wrong.
pub fn services(files: &BTreeMap<String, Vec<u8>>) -> Vec<Target> {
    let mut found = all_services(files);
    found.retain(|target| !target.is_system);
    found
}

/// The same with that of the name server, which is the last one.
pub fn all_services(files: &BTreeMap<String, Vec<u8>>) -> Vec<Target> {
    let candidates = files
        .iter()
        .filter(|(name, _)| !name.ends_with(".pod.json") && !name.ends_with(".node.json"));
    let mut found: Vec<Target> = candidates
        .filter_map(|(file, content)| target(file, &serde_json::from_slice(content).ok()?))
        .collect();
    found.sort_by_key(|target| (target.is_system, !target.name.ends_with("/web")));
    found
}

fn target(file: &str, object: &Value) -> Option<Target> {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    if object["kind"] != "Service" {
        return None;
    }
    let namespace = metadata["namespace"].as_str().unwrap_or("default");
    let selector = spec["selector"].as_object().into_iter().flatten();
    let ports = spec["ports"].as_array().into_iter().flatten();
    Some(Target {
        file: file.to_string(),
        is_system: namespace == crate::model::name_server::NAMESPACE,
        name: format!("{namespace}/{}", metadata["name"].as_str()?),
        ip: spec["clusterIP"].as_str()?.parse().ok()?,
        ports: ports.filter_map(port).collect(),
        selector: selector
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_string())))
            .collect(),
    })
}

fn port(port: &Value) -> Option<Port> {
    let number = port["port"]
        .as_u64()
        .and_then(|number| u16::try_from(number).ok())?;
    let target = &port["targetPort"];
    Some(Port {
        protocol: port["protocol"].as_str().unwrap_or("TCP").to_ascii_lowercase(),
        port: number,
        target: if target.is_null() {
            number.into()
        } else {
            target.clone()
        },
    })
}

impl Target {
    /// Whether it selects a pod with these labels.
    pub fn selects<'a>(&self, labels: impl Fn(&str) -> Option<&'a str>) -> bool {
        let agrees = |(key, value): (&String, &String)| labels(key) == Some(value.as_str());
        !self.selector.is_empty() && self.selector.iter().all(agrees)
    }

    /// The rule of this table's `KUBE-SERVICES` that speaks of one of its ports.
    pub fn rule(&self, chain: &[String], port: &Port) -> Option<String> {
        let wanted = [
            format!("-d {}/32", self.ip),
            format!("-p {}", port.protocol),
            format!("--dport {}", port.port),
        ];
        let speaks = |line: &&String| wanted.iter().all(|words| has_words(line, words));
        chain.iter().find(speaks).cloned()
    }
}

/// Whether these words stand in a line as words, not as a part of others.
pub fn has_words(line: &str, words: &str) -> bool {
    format!(" {line} ").contains(&format!(" {words} "))
}

/// Where a rule jumps to.
pub fn jump(line: &str) -> Option<&str> {
    let (_, rest) = line.rsplit_once("-j ")?;
    rest.split(' ').next()
}

const STATISTIC: &str = "-m statistic --mode random --probability ";

/// Whether a rule of a Service's chain chooses an endpoint, for callers without affinity.
pub fn chooses(line: &str) -> bool {
    jump(line).is_some_and(|chain| chain.starts_with("KUBE-SEP-")) && !has_words(line, "-m recent")
}

/// The chain of a Service where each of n rules rolls 1/n.
pub fn equal_rolls(chain: &[String]) -> Vec<String> {
    let number = chain.iter().filter(|line| chooses(line)).count();
    let rolls = probability(number);
    let changed = |line: &String| {
        if !chooses(line) {
            return line.clone();
        }
        let plain = without_roll(line);
        match plain.rsplit_once("-j ") {
            Some((conditions, target)) => format!("{conditions}{STATISTIC}{rolls} -j {target}"),
            None => plain,
        }
    };
    chain.iter().map(changed).collect()
}

/// 1/n as the kernel keeps it, in 31 bits, and as iptables prints it.
fn probability(number: usize) -> String {
    const BITS: u64 = 1 << 31;
    let number = u64::try_from(number.max(1)).unwrap_or(BITS);
    let kept = (BITS + number / 2) / number;
    #[expect(clippy::cast_precision_loss, reason = "31 bits fit")]
    let share = kept as f64 / BITS as f64;
    format!("{share:.11}")
}

fn without_roll(line: &str) -> String {
    let Some((head, tail)) = line.split_once(STATISTIC) else {
        return line.to_string();
    };
    let rest = tail.split_once(' ').map_or("", |(_, rest)| rest);
    format!("{head}{rest}")
}

/// The shares of a Service's endpoints, and what falls through all of them.
pub fn shares(chain: &[String]) -> (Vec<f64>, f64) {
    let mut left = 1.0;
    let mut shares = Vec::new();
    for line in chain.iter().filter(|line| chooses(line)) {
        let roll = line.split_once(STATISTIC);
        let roll = roll.and_then(|(_, tail)| tail.split(' ').next()?.parse().ok());
        let roll: f64 = roll.unwrap_or(1.0);
        shares.push(left * roll);
        left *= 1.0 - roll;
    }
    (shares, left)
}

/// Whether all endpoints have the same share and nothing falls through.
pub fn are_fair(chain: &[String]) -> bool {
    let (shares, lost) = shares(chain);
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let fair = 1.0 / shares.len().max(1) as f64;
    // Each roll is rounded to 31 bits.
    lost < 1e-6 && !shares.is_empty() && shares.iter().all(|share| (share - fair).abs() < 1e-6)
}

/// Where an endpoint's chain sends packets: `10.244.0.2:8080`.
pub fn destination(chain: &[String]) -> Option<&str> {
    let mut found = chain
        .iter()
        .filter_map(|line| line.split_once("--to-destination "));
    found.find_map(|(_, rest)| rest.split(' ').next())
}

/// The file with a selector that selects nothing.
pub fn with_wrong_selector(content: &[u8]) -> Option<String> {
    let mut object: Value = serde_json::from_slice(content).ok()?;
    let selector = object["spec"]["selector"].as_object_mut()?;
    let value = selector.values_mut().next()?;
    let was = value.as_str()?;
    // A typo such as people make, and a valid value still: it is no longer than it was.
    *value = match was.char_indices().next_back() {
        Some((last, letter)) => format!("{}{}", &was[..last], if letter == 'x' { 'y' } else { 'x' }).into(),
        None => "x".into(),
    };
    let mut text = serde_json::to_string_pretty(&object).ok()?;
    text.push('\n');
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> Vec<String> {
        [
            "! -s 10.244.0.0/24 -j KUBE-MARK-MASQ",
            "-m comment --comment \"a -> b\" -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-A",
            "-m comment --comment \"a -> c\" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-B",
            "-m comment --comment \"a -> d\" -j KUBE-SEP-C",
        ]
        .map(str::to_string)
        .to_vec()
    }

    #[test]
    fn equal_rolls_lose_a_part() {
        assert!(are_fair(&chain()));
        let wrong = equal_rolls(&chain());
        assert_eq!(wrong[..2], chain()[..2], "the first rolls 1/3 anyhow");
        assert_eq!(
            wrong[3],
            "-m comment --comment \"a -> d\" -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-C"
        );
        let (shares, lost) = shares(&wrong);
        assert!((lost - 8.0 / 27.0).abs() < 1e-6, "{shares:?} {lost}");
        assert!(!are_fair(&wrong));
        assert!(!are_fair(&[]));
    }

    #[test]
    fn probabilities_are_what_the_kernel_keeps() {
        for (number, text) in [(1, "1.00000000000"), (2, "0.50000000000"), (7, "0.14285714272")] {
            assert_eq!(probability(number), text);
        }
    }

    #[test]
    fn a_service_is_found_with_its_rule() {
        let file = br#"{"kind": "Service", "metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.0.8",
            "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}"#;
        let files = BTreeMap::from([
            ("a.json".to_string(), file.to_vec()),
            ("b.json".into(), b"[]".to_vec()),
        ]);
        let found = services(&files);
        assert_eq!(found.len(), 1);
        let dump = [
            "-d 10.96.0.80/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-X",
            "-d 10.96.0.8/32 -p tcp -m tcp --dport 800 -j KUBE-SVC-Y",
            "-d 10.96.0.8/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-Z",
        ]
        .map(str::to_string);
        let rule = found[0].rule(&dump, &found[0].ports[0]).unwrap();
        assert_eq!(jump(&rule), Some("KUBE-SVC-Z"));
        let labels = |key: &str| (key == "app").then_some("web");
        assert!(found[0].selects(labels));
        let wrong = with_wrong_selector(file).unwrap();
        let files = BTreeMap::from([("a.json".to_string(), wrong.into_bytes())]);
        assert!(!services(&files)[0].selects(labels));
        assert_eq!(services(&files)[0].selector["app"], "wex");
    }
}
