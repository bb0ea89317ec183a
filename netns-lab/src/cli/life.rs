//! The command line of the life of pods.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::model::name::Label;
use crate::model::quantity::{Cpu, Memory};
use crate::model::topology::{LabelKey, LabelValue, Port};

/// How pods are ended.
#[derive(Debug, Clone, Args)]
pub struct EndArgs {
    /// How long rules may take to lead elsewhere before the app is told to end;
    /// where none leads to the pod, all of it passes
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub grace: Duration,
    /// How long open connections may then take to end
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub drain: Duration,
}

impl Default for EndArgs {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(1),
            drain: Duration::from_secs(30),
        }
    }
}

/// `500ms`, `1s`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let parse = || {
        let (number, unit) = UNITS
            .iter()
            .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|_| digits)?;
        Some(Duration::from_millis(number.checked_mul(unit)?)).filter(|time| time.as_secs() <= 24 * 3600)
    };
    parse().ok_or_else(|| "expected a time such as 500ms, 1s or 2m, at most 24h".into())
}

/// `pod`.
#[derive(Debug, Args)]
pub struct PodArgs {
    /// What to do
    #[command(subcommand)]
    pub command: PodCommand,
}

/// What can be done with one pod.
#[derive(Debug, Subcommand)]
pub enum PodCommand {
    /// Add a pod
    #[command(after_help = "\
The built-in app runs in it, on ports 8080/TCP (http), 8081/TCP and 8081/UDP
(echo). An `up` without a topology keeps it.

Examples:
  netns-lab pod add web-4 --labels app=web
  netns-lab pod add db --labels app=db,tier=back --node node-2
  netns-lab pod add big --cpu 500m --memory 64Mi --port http=80 --port 53/UDP")]
    Add {
        /// Its name
        pod: Label,
        /// Its labels
        #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
        labels: Vec<(LabelKey, LabelValue)>,
        /// Processor time to ask for, such as 500m; a node of enough is chosen
        #[arg(long, value_name = "CPU", value_parser = Cpu::parse)]
        cpu: Option<Cpu>,
        /// Memory to ask for, such as 64Mi
        #[arg(long, value_name = "MEMORY", value_parser = Memory::parse)]
        memory: Option<Memory>,
        /// A port of its app, instead of the three; repeat for more
        #[arg(long = "port", value_name = "[NAME=]N[/PROTOCOL]", value_parser = port)]
        ports: Vec<Port>,
        /// Its node [default: the one with the fewest pods]
        #[arg(long, value_name = "NODE")]
        node: Option<Label>,
        /// The lab [default: `lab` if it is up, else the only one]
        #[arg(long, value_name = "LAB")]
        lab: Option<Label>,
    },
    /// End pods gracefully and remove them
    #[command(after_help = "\
The pod is marked as terminating first, so that rules lead elsewhere; then its
app gets SIGTERM and ends with its last connection; then its namespace goes.

Examples:
  netns-lab pod rm web-3
  netns-lab pod rm web-2 web-3 --grace 5s")]
    Rm {
        /// The pods
        #[arg(required = true, value_name = "POD")]
        pods: Vec<Label>,
        /// How it ends
        #[command(flatten)]
        end: EndArgs,
        /// The lab [default: `lab` if it is up, else the only one]
        #[arg(long, value_name = "LAB")]
        lab: Option<Label>,
    },
    /// Kill a container as a crash would (SIGKILL)
    #[command(after_help = "\
The lab's agent notices at once, marks the pod as not ready and starts the
container again, as a kubelet does: at once the first time, then after 10 s,
20 s and so on up to 5 minutes. The pod keeps its address.

Examples:
  netns-lab pod kill web-1
  netns-lab pod kill web-1 -c side")]
    Kill {
        /// The pod
        pod: Label,
        /// The container [default: the first one]
        #[arg(short, long, value_name = "CONTAINER")]
        container: Option<Label>,
        /// The lab [default: `lab` if it has such a pod, else the only one]
        #[arg(long, value_name = "LAB")]
        lab: Option<Label>,
    },
    /// End a pod gracefully and have another one of its name, with a new address
    #[command(after_help = "\
Example:
  netns-lab pod restart web-1 && netns-lab get pods -o wide")]
    Restart {
        /// The pod
        pod: Label,
        /// How it ends
        #[command(flatten)]
        end: EndArgs,
        /// The lab [default: `lab` if it has such a pod, else the only one]
        #[arg(long, value_name = "LAB")]
        lab: Option<Label>,
    },
    /// Take back that a pod is not ready
    #[command(after_help = "Example:\n  netns-lab pod ready web-1")]
    Ready {
        /// The pod
        pod: Label,
        /// The lab [default: `lab` if it has such a pod, else the only one]
        #[arg(long, value_name = "LAB")]
        lab: Option<Label>,
    },
    /// Say that a pod is not ready, while its app goes on
    #[command(after_help = "Example:\n  netns-lab pod unready web-1 && miniproxy sync")]
    Unready {
        /// The pod
        pod: Label,
        /// The lab [default: `lab` if it has such a pod, else the only one]
        #[arg(long, value_name = "LAB")]
        lab: Option<Label>,
    },
}

/// `80`, `http=80`, `dns=53/UDP`.
fn port(text: &str) -> Result<Port, String> {
    let (name, rest) = text
        .split_once('=')
        .map_or((None, text), |(name, rest)| (Some(name), rest));
    let (number, protocol) = rest.split_once('/').unwrap_or((rest, "TCP"));
    let protocol = protocol.to_ascii_uppercase();
    let expected = || "expected [NAME=]NUMBER[/PROTOCOL], such as 80, http=80 or dns=53/UDP".to_string();
    let number: u16 = number.parse().map_err(|_| expected())?;
    let usual = format!("{}-{number}", protocol.to_ascii_lowercase());
    let value = serde_json::json!({
        "name": name.unwrap_or(&usual), "containerPort": number, "protocol": protocol,
    });
    serde_json::from_value(value).map_err(|error| format!("{}: {error}", expected()))
}

fn label(text: &str) -> Result<(LabelKey, LabelValue), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| "expected KEY=VALUE, such as app=web".to_string())?;
    Ok((
        LabelKey::try_from(key.to_string())?,
        LabelValue::try_from(value.to_string())?,
    ))
}

/// `scale`.
#[derive(Debug, Args)]
#[command(after_help = "\
New pods are like the last one of the app. The last ones go first, gracefully
as with `pod rm`.

Examples:
  netns-lab scale web 5
  netns-lab scale front 0")]
pub struct ScaleArgs {
    /// A Deployment, or the value of the label `app`
    pub app: Label,
    /// How many pods
    #[arg(value_name = "N")]
    pub replicas: u16,
    /// How pods end
    #[command(flatten)]
    pub end: EndArgs,
    /// The lab [default: `lab` if it is up, else the only one]
    #[arg(long, value_name = "LAB")]
    pub lab: Option<Label>,
}

/// `rollout`.
#[derive(Debug, Args)]
#[command(after_help = "\
A quarter of the pods at a time: new ones come, and when they are ready as many
old ones go, gracefully. The version is the pods' label `version`, and the app
says it in its answers.

Example:
  netns-lab rollout web --version 2")]
pub struct RolloutArgs {
    /// A Deployment, or the value of the label `app`
    pub app: Label,
    /// The version that all its pods are to be
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub version: LabelValue,
    /// How pods end
    #[command(flatten)]
    pub end: EndArgs,
    /// The lab [default: `lab` if it is up, else the only one]
    #[arg(long, value_name = "LAB")]
    pub lab: Option<Label>,
}

fn version(text: &str) -> Result<LabelValue, String> {
    let value = LabelValue::try_from(text.to_string())?;
    if text.is_empty() {
        return Err("expected a version, such as 2".into());
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_labels_are_read_or_refused() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for text in ["", "s", "1", "-1s", "+1s", "1.5s", "25h", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(label("app=web").is_ok() && label("app=").is_ok());
        assert!(label("app").is_err() && label("=web").is_err() && label("a=\u{1b}").is_err());
        let dns = port("dns=53/udp").unwrap();
        assert_eq!(
            (dns.name.as_str(), dns.container_port.get(), dns.protocol.name()),
            ("dns", 53, "UDP")
        );
        assert_eq!(port("9000").unwrap().name.as_str(), "tcp-9000");
        for text in ["", "x", "0", "70000", "a b=80", "80/ICMP", "=80"] {
            assert!(port(text).is_err(), "{text}");
        }
        assert!(version("").is_err() && version("2 (x)").is_err() && version("1.2").is_ok());
    }
}
