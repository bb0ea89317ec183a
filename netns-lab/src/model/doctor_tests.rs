use super::*;

fn good() -> Facts {
    Facts {
        kernel: "6.1.0-18-cloud-amd64".into(),
        root: true,
        lacking: Vec::new(),
        confined: false,
        sandbox_knob: None,
        trial: None,
        forward_policy: Ok(None),
        hidden_labs: false,
        install: (
            "sudo apt-get install iptables".into(),
            "sudo apt-get install iproute2".into(),
        ),
        clashes: Vec::new(),
        lab_is_up: false,
        features: vec![Feature::Loaded; NEEDS.len()],
        iptables: Ok(Tool {
            flavour: "nf_tables".into(),
            path: "/usr/sbin/iptables".into(),
            reason: "plain `iptables` is this one".into(),
            mixed: false,
        }),
        ip_forward: Some("0".into()),
        bridge_nf: Some("1".into()),
        rp_filter: Some("1".into()),
        sysctl_writable: true,
        limits: Ok(()),
        has_ip: true,
    }
}

#[test]
fn a_good_host() {
    let checks = checks(&good());
    assert!(checks.iter().all(|check| check.status == Status::Ok));
    insta::assert_snapshot!(table(&checks));
}

#[test]
fn a_stock_kernel_before_modules_are_loaded() {
    let mut facts = good();
    facts.features = vec![Feature::Loadable; NEEDS.len()];
    facts.bridge_nf = None;
    let checks = checks(&facts);
    assert!(checks.iter().all(|check| check.status != Status::Fail));
    insta::assert_snapshot!(table(&checks));
}

#[test]
fn everything_that_can_be_wrong_has_a_cure() {
    let facts = Facts {
        root: false,
        sandbox_knob: Some("kernel.apparmor_restrict_unprivileged_userns is 1".into()),
        features: vec![Feature::Missing; NEEDS.len()],
        iptables: Err("iptables was not found".into()),
        lacking: vec!["CAP_NET_ADMIN".into()],
        limits: Err("no cgroup2 is mounted".into()),
        forward_policy: Err("root".into()),
        clashes: vec![(
            "a link named cni0 is there".into(),
            "choose another name: --bridge cni0-lab".into(),
        )],
        ..good()
    };
    let checks = checks(&facts);
    assert!(
        checks
            .iter()
            .filter(|check| check.status != Status::Ok)
            .all(|check| check.cure.is_some())
    );
    insta::assert_snapshot!(table(&checks));
}
