//! Objects: `expose`, `apply`, `delete` and `get`, as the API server and kubectl have them.

use lab_tests::machine::Machine;
use lab_tests::registry::publish;
use serde_json::json;

use crate::names::inside;
use crate::support::{cleanup_and_down, lab_with_rules};

#[test]
fn expose_allocates_and_rules_follow() {
    let machine = lab_with_rules("3-pods");
    let door = machine
        .lab([
            "expose",
            "web",
            "--name",
            "door",
            "--port",
            "80",
            "--target-port",
            "8080",
            "--type",
            "NodePort",
            "--affinity",
            "ClientIP",
            "-o",
            "json",
        ])
        .ok()
        .json();
    let spec = &door["spec"];
    assert_eq!(
        (&spec["clusterIP"], &spec["ports"][0]["nodePort"]),
        (&json!("10.96.1.1"), &json!(30_086))
    );
    assert_eq!(
        spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"],
        10_800
    );
    assert_eq!(
        machine.lab(["get", "svc", "door", "-o", "json"]).ok().json(),
        door
    );
    machine
        .proxy(["sync"])
        .ok()
        .says("default/door 10.96.1.1:80/TCP -> 3 endpoints (new)");
    for target in ["10.96.1.1:80", "10.244.0.1:30086"] {
        machine
            .run(["curl", "-sS", "--max-time", "5", target])
            .ok()
            .says("sees you as");
    }
    machine
        .lab(["expose", "web", "--name", "door", "--port", "80"])
        .exits(1)
        .complains("already exists");
    machine
        .lab([
            "expose",
            "web",
            "--name",
            "other",
            "--port",
            "80",
            "--type",
            "NodePort",
            "--node-port",
            "30086",
        ])
        .exits(2)
        .complains("spec.ports[0].nodePort: 30086; expected another node port: default/door has it");
    machine
        .lab(["expose", "web-1", "--port", "81", "--name", "Bad"])
        .exits(2)
        .complains("metadata.name");
    machine
        .lab(["expose", "nobody", "--port", "80"])
        .exits(1)
        .complains("apps of this lab: web");
    machine
        .lab(["expose", "web-1", "--port", "99"])
        .ok()
        .complains("without --target-port")
        .complains("8080 (http)");
    machine
        .lab(["get", "svc"])
        .ok()
        .says("door")
        .says("80:30086/TCP")
        .never_says("other");
}

/// Another lab on the same node has its own addresses, and the same node ports.
#[test]
fn node_ports_are_the_nodes_and_addresses_the_labs() {
    let machine = lab_with_rules("1-pod");
    let door = [
        "expose", "web", "--name", "door", "--port", "80", "--type", "NodePort",
    ];
    machine.lab(door).ok();
    machine.lab(["up", "1-pod", "--name", "blue"]).ok();
    let words = [
        "expose", "web", "--lab", "blue", "--name", "x", "--port", "80", "--type", "NodePort", "-o", "json",
    ];
    let other = machine.lab(words).ok().json();
    assert_eq!(
        (
            &other["spec"]["clusterIP"],
            &other["spec"]["ports"][0]["nodePort"]
        ),
        (&json!("10.97.1.1"), &json!(30_087))
    );
    assert_eq!(other["metadata"]["namespace"], "blue");
}

const FRONT: &str = "
# A front with its pods.
apiVersion: apps/v1
kind: Deployment
metadata: {name: front}
spec:
  replicas: 2
  selector: {matchLabels: {app: front}}
  template:
    metadata: {labels: {app: front}}
    spec:
      containers:
      - name: nginx
        image: nginx
        ports: [{containerPort: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec:
  selector: {app: front}
  ports: [{port: 80}]
";

#[test]
fn apply_takes_what_kubectl_takes() {
    let machine = lab_with_rules("1-pod");
    let apply = |text: &str| {
        machine
            .command(["netns-lab", "apply", "-f", "-"])
            .input(text)
            .run()
    };
    apply(FRONT)
        .ok()
        .says("deployment.apps/front created\nservice/front created\n");
    machine
        .proxy(["sync"])
        .ok()
        .says("default/front 10.96.1.1:80/TCP -> 2 endpoints (new)");
    inside(
        &machine,
        "web-1",
        ["curl", "-sS", "--max-time", "5", "http://front"],
    )
    .ok()
    .says("front-");
    apply(FRONT)
        .ok()
        .says("deployment.apps/front unchanged\nservice/front unchanged\n");
    let names = || {
        let pods = machine.lab(["get", "pods", "-o", "json"]).ok().json();
        let pods = pods["items"].as_array().expect("pods").clone();
        pods.iter()
            .map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_string())
            .collect::<Vec<_>>()
    };
    let two = names();
    assert_eq!(two.len(), 3, "{two:?}");
    apply(&FRONT.replace("replicas: 2", "replicas: 4"))
        .ok()
        .says("configured");
    let four = names();
    assert!(
        two.iter().all(|pod| four.contains(pod)) && four.len() == 5,
        "{four:?}"
    );
    machine.lab(["get", "deploy"]).ok().says("4/4");
    // A pod of a Deployment that is deleted is replaced; a pod of nobody is not.
    machine.lab(["delete", "pod", &two[0]]).ok();
    assert!(!names().contains(&two[0]) && names().len() == 5);
    machine.lab(["delete", "po", "web-1"]).ok();
    assert_eq!(names().len(), 4);
    let wrong = FRONT
        .replace("port: 80}", "port: 70000}")
        .replace("image: nginx", "imge: nginx");
    apply(&wrong)
        .exits(2)
        .complains("stdin:3: Deployment \"front\": spec.template.spec.containers[0].imge: unknown field")
        .complains("stdin:17: Service \"front\": spec.ports[0].port: 70000; expected 1 to 65535")
        .complains("nothing was changed");
    apply("kind: ConfigMap\napiVersion: v1\n")
        .exits(2)
        .complains("stdin:1: kind: \"ConfigMap\"");
    apply("a: [\n").exits(2).complains("stdin:");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db", "labels": {"app": "db"}},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 5432}]}]}});
    apply(&pod.to_string()).ok().says("pod/db created");
    machine.lab(["delete", "deploy", "front"]).ok();
    assert_eq!(names(), ["db"]);
    machine.lab(["delete", "pod", "db", "--grace", "0s"]).ok();
    assert!(names().is_empty());
    machine
        .lab(["delete", "svc", "nobody"])
        .exits(1)
        .complains("not found");
    cleanup_and_down(&machine);
    machine.run(["test", "-e", "/run/netns-lab"]).exits(1);
}

#[test]
fn get_takes_what_kubectl_takes() {
    let machine = Machine::start();
    machine.lab(["up", "2-nodes-3-pods", "--dual-stack"]).ok();
    machine
        .lab(["get", "svc,po"])
        .ok()
        .says("service/web")
        .says("pod/web-1")
        .never_says("<unknown>");
    let named = machine.lab(["get", "po,svc", "-o", "name", "-l", "app=web"]).ok();
    assert_eq!(named.stdout, "pod/web-1\npod/web-2\npod/web-3\n");
    machine.lab(["get", "po", "-l", "app of (web)"]).exits(2);
    let slices = machine.lab(["get", "endpointslices", "-o", "json"]).ok().json();
    let of = |family: &str| {
        let mut all = slices["items"].as_array().expect("items").iter();
        let found = all.find(|slice| slice["addressType"] == family).expect("a slice");
        found["endpoints"].as_array().expect("endpoints").len()
    };
    assert_eq!((of("IPv4"), of("IPv6")), (3, 3));
    machine
        .lab(["get", "svc", "web", "-o", "wide"])
        .ok()
        .says("10.96.0.80,fd00:10:96::50");
    machine
        .lab(["get", "pods", "-o", "wide"])
        .ok()
        .says(",fd00:10:244");
    machine
        .lab(["status"])
        .ok()
        .says("fd00:10:244")
        .says("besides them: kube-dns, ready");
    // A name that is taken, and a Service of the second family alone.
    machine
        .lab(["expose", "web", "--port", "80"])
        .exits(1)
        .complains("the lab came with it")
        .complains("--name web-2");
    let six = [
        "expose",
        "web",
        "--name",
        "six",
        "--port",
        "8080",
        "--ip-families",
        "IPv6",
    ];
    machine.lab(six).ok().says("curl -s [fd00:10:96::");
    let both = [
        "expose",
        "web",
        "--name",
        "both",
        "--port",
        "8080",
        "--ip-family-policy",
        "RequireDualStack",
    ];
    machine.lab(both).ok();
    let both = machine.lab(["get", "svc", "both", "-o", "json"]).ok().json();
    assert_eq!(both["spec"]["clusterIPs"].as_array().map(Vec::len), Some(2));
    // What was made keeps its time, and a second `up` has nothing to do.
    let time = |machine: &Machine| {
        let pod = machine.lab(["get", "pod", "web-1", "-o", "json"]).ok().json();
        pod["metadata"]["creationTimestamp"].clone()
    };
    let made = time(&machine);
    machine.lab(["pod", "unready", "web-1"]).ok();
    machine.lab(["status"]).ok().says("netns-lab pod ready web-1");
    machine.lab(["up"]).ok();
    assert_eq!(time(&machine), made);
}

#[test]
fn get_prints_what_a_terminal_may_see() {
    let machine = lab_with_rules("2-pods");
    let red = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "red", "annotations": {"a": "\u{1b}[31m\n- yes"}, "labels": {"on": "yes"}},
        "spec": {"type": "ExternalName", "externalName": "\u{1b}[2Jx"}});
    publish(&machine, "red", &red);
    for output in ["table", "wide", "json", "yaml"] {
        machine
            .lab(["get", "-o", output])
            .ok()
            .says("red")
            .never_says("\u{1b}");
    }
    let yaml = machine.lab(["get", "svc", "red", "-o", "yaml"]).ok();
    assert!(
        !yaml.stdout.contains("on: yes"),
        "a text that reads as true must be quoted: {yaml}"
    );
    machine
        .lab(["get", "pods", "web-9"])
        .exits(1)
        .complains("not found");
    machine.lab(["get", "svc", "-A"]).ok().says("NAMESPACE");
    machine.lab(["get", "gods"]).exits(2);
    machine.lab(["get", "nodes"]).ok().says("node-1  Ready");
}

/// What cannot be had is refused before anything is written, so that later wishes are not harmed.
#[test]
fn what_has_no_room_leaves_nothing() {
    let machine = lab_with_rules("2-pods");
    let crowd = machine.file("crowd.yaml", &FRONT.replace("replicas: 2", "replicas: 900"));
    machine
        .lab(["apply", "-f", &crowd])
        .exits(2)
        .complains("has room for 253 pods");
    machine.lab(["get", "deploy,svc"]).ok().never_says("front");
    let front = machine.file("front.yaml", FRONT);
    machine.lab(["apply", "-f", &front]).ok();
    machine.lab(["scale", "front", "900"]).exits(2);
    machine.lab(["get", "deploy", "front"]).ok().says("2/2");
    machine.lab(["pod", "add", "other"]).ok();
}

/// As the API server: what cannot change is refused, whatever else is in the file.
#[test]
fn what_cannot_change_is_refused() {
    let machine = lab_with_rules("2-pods");
    let apply = |text: &str| {
        machine
            .command(["netns-lab", "apply", "-f", "-"])
            .input(text)
            .run()
    };
    apply(FRONT).ok();
    let moved = FRONT.replace(
        "selector: {app: front}\n",
        "selector: {app: front}\n  clusterIP: 10.96.1.77\n",
    );
    assert_ne!(moved, FRONT);
    apply(&moved)
        .exits(2)
        .complains("spec.clusterIP: 10.96.1.77; expected 10.96.1.1, which cannot change");
    let pod = |port: u16| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db", "labels": {"app": "db"}},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": port}]}]}})
        .to_string()
    };
    apply(&pod(5432)).ok().says("pod/db created");
    apply(&pod(5432)).ok().says("pod/db unchanged");
    apply(&pod(5433)).exits(2).complains("delete the pod first");
    machine.lab(["get", "svc/front"]).ok().says("10.96.1.1");
    machine
        .lab(["get", "all", "-l", "app in (front, db)", "--no-headers"])
        .ok()
        .says("pod/db")
        .says("pod/front-")
        .never_says("CLUSTER-IP");
}
