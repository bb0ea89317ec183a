//! What a Deployment comes to.

use super::*;

#[test]
fn a_template_is_rolled_out_by_its_strategy() {
    let with = |strategy: Value| {
        let mut made = serde_json::to_value(deployment(10, "a")).unwrap();
        made["spec"]["strategy"] = strategy;
        let pace = pace(&serde_json::from_value(made).unwrap());
        (pace.surge, pace.missing)
    };
    let rolling = |surge: Value, missing: Value| {
        let update = json!({"maxSurge": surge, "maxUnavailable": missing});
        with(json!({"type": "RollingUpdate", "rollingUpdate": update}))
    };
    assert_eq!(with(json!({})), (3, 2));
    assert_eq!(rolling(json!("50%"), json!("15%")), (5, 1));
    assert_eq!(rolling(json!(4), json!(0)), (4, 0));
    assert_eq!(rolling(json!(0), json!("5%")), (0, 1));
    assert_eq!(with(json!({"type": "Recreate"})), (0, usize::MAX));
}

#[test]
fn a_strategy_that_the_api_server_refuses_is_refused_by_its_field() {
    let refused = |strategy: Value| {
        let mut made = serde_json::to_value(deployment(3, "a")).unwrap();
        made["spec"]["strategy"] = strategy;
        let made = serde_json::from_value(made).unwrap();
        let settled = settle(made, None, &Time("2026-01-02T03:04:05Z".parse().unwrap()));
        settled.err().map(|refusal| refusal.to_string())
    };
    let rolling = |surge: Value, missing: Value| {
        refused(json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": missing}}))
    };
    for (refusal, field) in [
        (
            rolling(json!(0), json!(0)),
            "maxUnavailable: 0; expected more than 0",
        ),
        (rolling(json!("0%"), json!(0)), "maxUnavailable: 0"),
        (rolling(json!(-1), json!(1)), "maxSurge: -1"),
        (rolling(json!(1), json!("half")), "maxUnavailable: \"half\""),
        (
            refused(json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}})),
            "spec.strategy.rollingUpdate: it",
        ),
    ] {
        let refusal = refusal.unwrap_or_default();
        assert!(refusal.contains(field), "{field}: {refusal}");
    }
    assert_eq!(rolling(json!(0), json!("5%")), None);
    assert_eq!(refused(json!({"type": "Recreate"})), None);
}

fn deployment(replicas: i32, image: &str) -> Deployment {
    serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shop"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "shop"}}, "template": {
            "metadata": {"labels": {"app": "shop", "tier": "front"}},
            "spec": {"containers": [{"name": "c", "image": image, "ports": [
                {"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}, {"name": "admin", "containerPort": 9000},
            ]}]},
        }},
    }))
    .unwrap()
}

fn all(_: &str) -> bool {
    true
}

fn names(pods: &[PodSpec]) -> Vec<String> {
    pods.iter().map(|pod| pod.name.to_string()).collect()
}

#[test]
fn a_deployment_becomes_pods_with_names_and_labels() {
    let pods = pods(&deployment(3, "nginx"), &[], &all).unwrap();
    insta::assert_json_snapshot!(pods);
    assert!(
        pods.iter()
            .all(|pod| owns("shop", pod) && !owns("sho", pod) && !owns("web", pod))
    );
}

#[test]
fn who_stands_stays_and_another_template_makes_others() {
    let three = pods(&deployment(3, "nginx"), &[], &all).unwrap();
    let five = pods(&deployment(5, "nginx"), &three, &all).unwrap();
    assert_eq!(names(&five)[..3], names(&three));
    let two = pods(&deployment(2, "nginx"), &five, &all).unwrap();
    assert_eq!(names(&two), names(&three)[..2]);
    let replaced = pods(&deployment(3, "nginx"), &three, &|name: &str| {
        name != three[0].name.as_str()
    })
    .unwrap();
    assert_eq!(names(&replaced)[..2], names(&three)[1..]);
    assert!(!names(&three).contains(&names(&replaced)[2]));
    let other = pods(&deployment(3, "nginx:2"), &three, &all).unwrap();
    assert!(names(&other).iter().all(|name| !names(&three).contains(name)));
}

#[test]
fn what_a_lab_cannot_have_is_refused_by_its_field() {
    let now = Time("2026-01-02T03:04:05Z".parse().unwrap());
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut value = serde_json::to_value(deployment(1, "x")).unwrap();
        change(&mut value);
        let deployment = serde_json::from_value(value).unwrap();
        let settled = settle(deployment, None, &now).and_then(|settled| pods(&settled, &[], &all));
        settled.unwrap_err().field
    };
    assert_eq!(
        refused(&|value| value["metadata"]["name"] = json!("A")),
        "metadata.name"
    );
    assert_eq!(
        refused(&|value| value["spec"]["replicas"] = json!(-1)),
        "spec.replicas"
    );
    assert_eq!(
        refused(&|value| value["spec"]["selector"]["matchLabels"]["app"] = json!("other")),
        "spec.template.metadata.labels"
    );
    let twice = |value: &mut Value| {
        value["spec"]["replicas"] = json!(0);
        let containers = &mut value["spec"]["template"]["spec"]["containers"];
        let first = containers[0].clone();
        *containers = json!([first.clone(), first]);
    };
    assert_eq!(refused(&twice), "spec.template.spec.containers");
    let never = |value: &mut Value| value["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    assert_eq!(refused(&never), "spec.template.spec.restartPolicy");
    let old = settle(deployment(1, "x"), None, &now).unwrap();
    let mut new = serde_json::to_value(deployment(1, "x")).unwrap();
    new["spec"]["selector"]["matchLabels"] = json!({"app": "other"});
    new["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    let new = serde_json::from_value(new).unwrap();
    assert_eq!(settle(new, Some(&old), &now).unwrap_err().field, "spec.selector");
    let containers = |value: &mut Value| value["spec"]["template"]["spec"]["containers"] = json!([]);
    assert_eq!(refused(&containers), "spec.template.spec.containers");
    let port = |value: &mut Value| {
        value["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(0);
    };
    assert!(refused(&port).starts_with("spec.template.spec.containers[0].ports"));
}
