//! Where the real kube-proxy ended: a configuration that it refuses, we refuse by the same field;
//! objects on which it crashed do not stop us.

use labkit::xtables::Family;
use miniproxy::model::LocalDetector;

use super::cases::{Case, recorded};

/// Each case that ended it, and what we do instead.
enum Instead {
    /// The configuration is refused, this field named.
    Refuse(&'static str),
    /// The API server would have filled in three hours.
    AffinityOf(u32),
    /// The Service is there, without the endpoints that nobody can tell a port of.
    WithoutEndpoints,
    /// The new pod network counts from then on.
    FollowPodNetwork(&'static str),
}

const ENDED: [(&str, Instead); 6] = [
    ("refused-affinity-without-config", Instead::AffinityOf(10_800)),
    ("refused-cluster-cidr", Instead::Refuse("clusterCIDR")),
    ("refused-masq-bit", Instead::Refuse("iptables.masqueradeBit")),
    ("refused-npa", Instead::Refuse("nodePortAddresses[0]")),
    ("refused-slice-two-null-ports", Instead::WithoutEndpoints),
    (
        "steps-refused-podcidr",
        Instead::FollowPodNetwork("10.244.9.0/24"),
    ),
];

#[test]
fn what_ends_kube_proxy_does_not_end_us() {
    let mut ended: Vec<Case> = recorded();
    ended.retain(|case| case.file("refused.json").is_some());
    assert_eq!(ended.len(), ENDED.len());
    for case in ended {
        let (_, instead) = ENDED
            .iter()
            .find(|(name, _)| *name == case.name)
            .unwrap_or_else(|| panic!("{} ended kube-proxy: say what we do instead", case.name));
        let model = |step| case.options().unwrap().model(&case.registry(step), Family::V4);
        match instead {
            Instead::Refuse(field) => {
                let problem = case.options().expect_err(&case.name);
                assert_eq!(problem.field, *field, "{}: {problem}", case.name);
                assert!(problem.place.to_string().starts_with("config.yaml:"), "{problem}");
            }
            Instead::AffinityOf(seconds) => {
                assert!(
                    model(1)
                        .ports
                        .iter()
                        .any(|port| port.affinity_seconds == Some(*seconds))
                );
            }
            Instead::WithoutEndpoints => {
                let model = model(1);
                assert!(!model.ports.is_empty() && model.ports.iter().all(|port| port.endpoints.is_empty()));
            }
            Instead::FollowPodNetwork(network) => {
                let detector = LocalDetector::Cidr(network.parse().unwrap());
                assert!(model(1).config.local_detector != detector);
                assert_eq!(model(2).config.local_detector, detector);
            }
        }
    }
}
