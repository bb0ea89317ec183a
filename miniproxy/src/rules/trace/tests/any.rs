//! What holds for every rule set.

use proptest::prelude::*;

use super::super::super::rule::{Clauses, Match, Probability, Rule, Side, Target};
use super::super::super::set::{Chains, Wanted};
use super::super::*;
use super::{dice, node, packet, pod};
use crate::model::Protocol;

fn any_condition() -> impl Strategy<Value = Match> {
    let side = || prop_oneof![Just(Side::Source), Just(Side::Destination)];
    let network = prop_oneof![Just("10.0.0.1/32"), Just("10.0.0.0/8"), Just("0.0.0.0/0")]
        .prop_map(|text| text.parse().unwrap());
    prop_oneof![
        (side(), network, any::<bool>()).prop_map(|(side, network, negated)| Match::Address {
            side,
            network,
            negated
        }),
        (side(), any::<bool>()).prop_map(|(side, negated)| Match::Interface {
            side,
            name: "eth+".into(),
            negated
        }),
        Just(Match::Protocol(Protocol::Tcp)),
        Just(Match::DestinationPort(80)),
        (0_u32..3, any::<bool>()).prop_map(|(value, negated)| Match::Mark {
            value,
            mask: 3,
            negated
        }),
        any::<bool>().prop_map(|negated| Match::ct_state(["NEW"], negated)),
        side().prop_map(Match::LocalAddress),
        prop_oneof![Just("0"), Just("0.5"), Just("1")]
            .prop_map(|text| Match::Statistic(Probability::parse(text).unwrap())),
        any::<bool>().prop_map(|reap| Match::RecentCheck {
            list: "L".into(),
            seconds: 1,
            reap
        }),
        Just(Match::RecentSet { list: "L".into() }),
        Just(Match::Counter("C".into())),
        prop::collection::vec("[-!a-z0-9,:]{0,8}", 0..4).prop_map(Match::Other),
    ]
}

fn any_target() -> impl Strategy<Value = Option<Target>> {
    let jump = (0_usize..6).prop_map(|chain| Some(Target::Jump(format!("C{chain}"))));
    prop_oneof![
        4 => jump,
        1 => Just(None),
        1 => Just(Some(Target::Accept)),
        1 => Just(Some(Target::Drop)),
        1 => Just(Some(Target::Return)),
        1 => Just(Some(Target::Reject)),
        1 => (0_u32..3, 0_u32..3).prop_map(|(value, mask)| Some(Target::SetXmark { value, mask })),
        1 => Just(Some(Target::Masquerade { random_fully: true })),
        1 => prop_oneof![Just("10.0.0.1:80"), Just("10.0.0.1"), Just("192.168.0.2:1"), Just("x")]
            .prop_map(|to| Some(Target::Dnat(to.into()))),
        1 => prop::collection::vec("[-!a-zC0-9]{0,4}", 0..4).prop_map(|words| Some(Target::Other(words))),
        1 => (0_usize..6).prop_map(|chain| Some(Target::Other(vec!["-g".into(), format!("C{chain}")]))),
    ]
}

fn any_chains() -> impl Strategy<Value = Chains> {
    let names = prop::sample::select(vec![
        "PREROUTING",
        "INPUT",
        "FORWARD",
        "OUTPUT",
        "POSTROUTING",
        "C0",
        "C1",
        "C2",
        "C3",
        "C4",
    ]);
    let rule = (prop::collection::vec(any_condition(), 0..3), any_target())
        .prop_map(|(matches, target)| Rule::from(Clauses { matches, target }));
    prop::collection::btree_map(
        names.prop_map(str::to_string),
        prop::collection::vec(rule, 0..5),
        0..10,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_rule_set_ends_and_its_shares_add_up(
        tables in prop::collection::btree_map(prop::sample::select(TableName::ALL.to_vec()), any_chains(), 0..4),
        arriving in prop::option::of(Just("eth0")),
        to in prop_oneof![Just("10.0.0.1:80"), Just("192.168.0.2:80"), Just("127.0.0.1:1"), Just("[fd00::1]:80")],
    ) {
        let found = Found::from(&Wanted { tables, ..Wanted::default() });
        let trace = trace_within(&found, &node(), &packet("10.0.0.9", to, arriving), 20_000);
        let all: f64 = trace.outcomes.iter().map(|outcome| outcome.probability).sum::<f64>() + trace.unknown();
        prop_assert!((all - 1.0).abs() < 1e-9, "{all}: {trace:?}");
        prop_assert!(trace.falls_through <= trace.share(Verdict::Accept) + 1e-9);
        for hop in &trace.hops {
            prop_assert!((0.0..=1.0).contains(&hop.matched) && hop.matched <= hop.reached + 1e-9);
        }
        for doubt in &trace.doubts {
            prop_assert!(doubt.possible.iter().all(|outcome| outcome.probability <= doubt.probability));
        }
    }

    #[test]
    fn one_in_those_that_are_left_is_fair(n in 1_u32..=200) {
        let chances: Vec<String> = (0..n).map(|at| Probability::one_in(n - at).text()).collect();
        let chances: Vec<Option<&str>> = chances.iter().map(|text| Some(text.as_str())).collect();
        let trace = pod(&dice(&chances), "10.96.0.1:80");
        let shares = trace.endpoints();
        prop_assert_eq!(shares.len(), n as usize);
        prop_assert!((shares.values().sum::<f64>() - (1.0 - trace.falls_through)).abs() < 1e-9);
        prop_assert!(shares.values().all(|share| (share - 1.0 / f64::from(n)).abs() < 1e-7));
    }
}
