//! The life of pods: they come and go, die and come back, and nobody who calls them notices.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab_tests::load::Tally;
use lab_tests::machine::{Machine, Running, eventually};
use lab_tests::run::wait_for;
use lab_tests::witness::{Witness, assert_unchanged};
use serde_json::{Value, json};

use crate::kill::named;
use crate::support::{From, VIP, WEB, load, up_and_sync};

/// A lab, and a proxy that follows it.
fn followed(topology: &str) -> (Machine, Running) {
    let machine = Machine::start();
    up_and_sync(&machine, topology);
    let watch = machine.command(["miniproxy", "sync", "--watch"]).start();
    watch.wait_for("following");
    (machine, watch)
}

/// The Pod objects of the registry, by name.
fn pod(machine: &Machine, name: &str) -> Value {
    machine.lab(["get", "pod", name, "-o", "json"]).ok().json()
}

fn names(machine: &Machine) -> Vec<String> {
    let status = machine.lab(["status", "-o", "json"]).ok().json();
    let pods = status["pods"].as_array().expect("pods");
    pods.iter()
        .map(|pod| pod["name"].as_str().expect("a name").to_string())
        .collect()
}

fn rules_lead_to(machine: &Machine, ip: &str) -> bool {
    let rules = machine.run(["iptables-save", "-t", "nat"]).ok().stdout;
    rules.contains(&format!("--to-destination {ip}:8080"))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().expect("conditions");
    conditions
        .iter()
        .any(|one| one["type"] == "Ready" && one["status"] == "True")
}

#[test]
fn a_restarted_pod_has_a_new_address_and_never_the_old_one_at_once() {
    let (machine, _watch) = followed("3-pods");
    let mut seen = vec!["10.244.0.2".to_string()];
    for _ in 0..3 {
        machine
            .lab(["pod", "restart", "web-1", "--grace", "300ms"])
            .ok()
            .says("pod/web-1 restarted");
        let now = pod(&machine, "web-1")["status"]["podIP"]
            .as_str()
            .unwrap()
            .to_string();
        assert!(!seen.contains(&now), "{now} again after {seen:?}");
        let body = machine.run(["curl", "-sS", "--max-time", "5", &format!("{now}:8080")]);
        body.ok().says(&format!("web-1 ({now})"));
        seen.push(now);
    }
    assert_eq!(names(&machine), ["web-1", "web-2", "web-3"]);
    // A following `up` keeps what there is.
    machine.lab(["up"]).ok();
    assert_eq!(pod(&machine, "web-1")["status"]["podIP"], seen[3].as_str());
    let tally = load(&machine, From::Node, "http", WEB, 100);
    assert!(tally.failures.is_empty() && tally.answers.len() == 3, "{tally:?}");
}

#[test]
fn readiness_is_flipped_and_the_rules_follow() {
    let (machine, _watch) = followed("3-pods");
    // To look at the rules starts processes, which on a busy machine may take longer than what is
    // measured: the best of some is.
    let mut best = Duration::MAX;
    for (word, there) in [("unready", false), ("ready", true)].repeat(5) {
        machine.lab(["pod", word, "web-2"]).ok();
        let begin = Instant::now();
        let took = wait_for("the rules follow", Duration::from_secs(5), || {
            (rules_lead_to(&machine, "10.244.0.3") == there).then(|| begin.elapsed())
        });
        eprintln!("pod {word}: in the rules {took:?} after the command");
        best = best.min(took);
        assert_eq!(is_ready(&pod(&machine, "web-2")), there);
    }
    assert!(best < Duration::from_millis(100), "{best:?}");
    machine.lab(["pod", "unready", "web-2"]).ok();
    // The app goes on, and `up` does not take back what was said.
    machine
        .run(["curl", "-sS", "--max-time", "5", "10.244.0.3:8080"])
        .ok()
        .says("web-2");
    machine.lab(["up"]).ok();
    let seen = pod(&machine, "web-2");
    assert!(!is_ready(&seen), "{seen:#}");
    assert_eq!(seen["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(
        machine.lab(["status", "-o", "json"]).ok().json()["pods"][1]["ready"],
        false
    );
    machine.lab(["pod", "ready", "web-2"]).ok();
    assert!(is_ready(&pod(&machine, "web-2")));
}

#[test]
fn a_killed_container_comes_back_at_once_and_then_after_pauses() {
    let machine = Machine::start();
    let up = machine.command(["netns-lab", "up", "2-pods"]);
    up.env("NETNS_LAB_RESTART_BACKOFF_MS", "2000").run().ok();
    let restarts = |machine: &Machine| {
        let seen = pod(machine, "web-1");
        let count = seen["status"]["containerStatuses"][0]["restartCount"].as_u64();
        (count.expect("a count"), is_ready(&seen), seen)
    };
    for (turn, least) in [(1, 0), (2, 1800)] {
        let begin = Instant::now();
        machine.lab(["pod", "kill", "web-1"]).ok();
        if turn == 2 {
            let (_, ready, seen) = wait_for("the pod is not ready", Duration::from_secs(1), || {
                Some(restarts(&machine)).filter(|(_, ready, _)| !ready)
            });
            let own = &seen["status"]["containerStatuses"][0];
            assert!(!ready && own["ready"] == false, "{seen:#}");
            assert_eq!(own["state"]["waiting"]["reason"], "CrashLoopBackOff", "{seen:#}");
            assert_eq!(seen["status"]["conditions"][0]["reason"], "ContainersNotReady");
        }
        let took = wait_for("the container is back", Duration::from_secs(10), || {
            let (count, ready, _) = restarts(&machine);
            (count == turn && ready).then(|| begin.elapsed())
        });
        eprintln!("kill {turn}: ready again after {took:?}");
        assert!(took >= Duration::from_millis(least), "{turn}: {took:?}");
        assert!(took < Duration::from_millis(least + 1500), "{turn}: {took:?}");
        let body = machine.run(["curl", "-sS", "--max-time", "5", "10.244.0.2:8080"]);
        body.ok().says("web-1 (10.244.0.2)");
    }
    // Nobody is left who waits for a parent.
    let zombies = machine.sh("grep -ls '^State:.Z' /proc/[0-9]*/status || :").ok();
    assert_eq!(zombies.stdout, "");
}

#[test]
fn an_app_is_scaled_up_and_down_and_pods_are_added_and_removed() {
    let (machine, _watch) = followed("2-pods");
    machine.lab(["scale", "web", "4"]).ok().says("pod/web-4 created");
    assert_eq!(names(&machine), ["web-1", "web-2", "web-3", "web-4"]);
    eventually("all four are asked", || {
        load(&machine, From::Node, "http", WEB, 60).answers.len() == 4
    });
    machine.lab(["scale", "web", "1"]).ok().says("pod/web-4 deleted");
    assert_eq!(names(&machine), ["web-1"]);
    machine.lab(["up"]).ok();
    assert_eq!(names(&machine), ["web-1"]);
    machine
        .lab(["pod", "add", "db", "--labels", "app=db,tier=back"])
        .ok()
        .says("pod/db created");
    machine.lab(["pod", "add", "db"]).exits(1).complains("already");
    machine
        .lab(["pod", "rm", "db", "--grace", "0s"])
        .ok()
        .says("pod/db deleted");
    // An app may have no pod at all, and so may a lab; both come back.
    machine.lab(["scale", "web", "0"]).ok().says("pod/web-1 deleted");
    assert_eq!(names(&machine), Vec::<String>::new());
    machine
        .lab(["status"])
        .ok()
        .says("0 pods, 0 ready")
        .never_says("warning");
    machine.lab(["up"]).ok();
    machine
        .lab([
            "pod", "add", "web-1", "--labels", "app=web", "--cpu", "250m", "--memory", "64Mi",
        ])
        .ok();
    let asked = &pod(&machine, "web-1")["spec"]["containers"][0]["resources"]["requests"];
    assert_eq!(asked["cpu"], "250m");
    eventually("the one pod is asked", || {
        load(&machine, From::Node, "http", WEB, 5).answered() == 5
    });
    machine.lab(["pod", "rm", "nobody"]).exits(1).complains("nobody");
    machine
        .lab(["scale", "nobody", "2"])
        .exits(1)
        .complains("pod add nobody-1");
    assert_eq!(names(&machine), ["web-1"]);
    // A Deployment keeps the number of its own.
    let deployment = r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "front"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "front"}}, "template": {
        "metadata": {"labels": {"app": "front"}},
        "spec": {"containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 80}]}]}}}}"#;
    machine
        .command(["netns-lab", "apply", "-f", "-"])
        .input(deployment)
        .run()
        .ok();
    machine.lab(["scale", "front", "3"]).ok();
    machine
        .lab(["rollout", "front", "--version", "2"])
        .ok()
        .says("front is v2 now");
    let front: Vec<_> = names(&machine)
        .into_iter()
        .filter(|name| name.starts_with("front-"))
        .collect();
    assert_eq!(front.len(), 3, "{front:?}");
    machine
        .lab(["pod", "rm", &front[0]])
        .exits(1)
        .complains("scale front");
    machine.lab(["get", "deploy"]).ok().says("3/3");
}

#[test]
fn a_rollout_under_two_thousand_connections_loses_none() {
    let (machine, _watch) = followed("4-pods");
    let over = AtomicBool::new(false);
    let (mut total, mut old, mut new) = (0, 0, 0);
    thread::scope(|scope| {
        let rollout = scope.spawn(|| {
            let ran = machine.lab(["rollout", "web", "--version", "2"]);
            over.store(true, Ordering::Relaxed);
            ran
        });
        while !over.load(Ordering::Relaxed) || total < 2000 {
            let tally: Tally = load(&machine, From::Node, "http", WEB, 500);
            assert!(tally.failures.is_empty(), "after {total}: {tally:?}");
            total += tally.answered();
            for (who, count) in &tally.answers {
                *(if who.ends_with(" v2") { &mut new } else { &mut old }) += count;
            }
        }
        let ran = rollout.join().expect("it ran").ok();
        eprintln!(
            "{total} connections in {:?}: {old} to the old pods, {new} to v2",
            ran.took
        );
    });
    assert!(total >= 2000 && old > 0 && new > 0, "{total} {old} {new}");
    assert_eq!(names(&machine), ["web-5", "web-6", "web-7", "web-8"]);
    let answer = machine.run(["curl", "-sS", "--max-time", "5", VIP]).ok();
    assert!(answer.stdout.contains(" v2 (10.244.0."), "{answer}");
    machine
        .lab(["rollout", "web", "--version", "2"])
        .ok()
        .says("web is v2 already");
}

/// A Deployment of four pods, of a version.
fn deployment(version: &str) -> String {
    let template = json!({"metadata": {"labels": {"app": "front", "version": version}},
        "spec": {"containers": [{"name": "c", "image": "x", "ports": [{"name": "http", "containerPort": 8080}]}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "front"},
        "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "front"}}, "template": template,
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"},
        "spec": {"clusterIP": "10.96.0.90", "selector": {"app": "front"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    json!({"apiVersion": "v1", "kind": "List", "items": [deployment, service]}).to_string()
}

#[test]
fn another_template_rolls_and_nobody_who_calls_notices() {
    const FRONT: &str = "10.96.0.90:80";
    let (machine, _watch) = followed("1-pods");
    let apply = |version: &str| {
        let apply = machine.command(["netns-lab", "apply", "-f", "-"]);
        apply
            .input(&deployment(version))
            .patience(Duration::from_secs(120))
            .run()
    };
    apply("1").ok().says("deployment.apps/front created");
    // As the Deployment controller counts them: without those that are being ended.
    let pods = |machine: &Machine| {
        let all = machine
            .lab(["get", "pods", "-l", "app=front", "-o", "json"])
            .ok()
            .json();
        let staying = all["items"].as_array().expect("pods").iter();
        let staying = staying.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let name = |pod: &Value| pod["metadata"]["name"].as_str().expect("a name").to_string();
        staying.map(name).collect::<Vec<_>>()
    };
    let old = pods(&machine);
    assert_eq!(old.len(), 4, "{old:?}");
    eventually("all four answer", || {
        load(&machine, From::Node, "http", FRONT, 60).answers.len() == 4
    });
    let over = AtomicBool::new(false);
    let mut total = 0;
    thread::scope(|scope| {
        let rolled = scope.spawn(|| {
            let ran = apply("2");
            over.store(true, Ordering::Relaxed);
            ran
        });
        while !over.load(Ordering::Relaxed) {
            let tally: Tally = load(&machine, From::Node, "http", FRONT, 200);
            assert!(tally.failures.is_empty(), "after {total}: {tally:?}");
            total += tally.answered();
            // Never fewer than wanted, and never more than one above.
            let there = pods(&machine).len();
            assert!((4..=5).contains(&there), "{there} pods");
        }
        rolled
            .join()
            .expect("it ran")
            .ok()
            .says("deployment.apps/front configured");
    });
    let new = pods(&machine);
    assert_eq!(new.len(), 4, "{new:?}");
    assert!(new.iter().all(|pod| !old.contains(pod)), "{old:?} {new:?}");
    let tally = load(&machine, From::Node, "http", FRONT, 60);
    assert!(tally.answers.keys().all(|who| who.ends_with(" v2")), "{tally:?}");
    // The same again changes nothing.
    apply("2").ok().says("deployment.apps/front unchanged");
    assert_eq!(pods(&machine), new);
}

#[test]
fn a_graceful_end_waits_for_a_long_connection() {
    let (machine, _watch) = followed("2-pods");
    let script = "exec 3<>/dev/tcp/10.244.0.3/8081; read -r line <&3; echo \"open: $line\"; \
                  sleep 3; echo >&3; read -r line <&3; echo \"still: $line\"";
    let mut caller = machine.command(["bash", "-euc", script]).start();
    caller.wait_for("open: web-2");
    let removed = machine.lab(["pod", "rm", "web-2", "--grace", "200ms"]).ok();
    assert_eq!(caller.end(Duration::from_secs(5)), 0, "{}", caller.said());
    caller.wait_for("still: web-2");
    assert!(removed.took > Duration::from_secs(2), "{:?}", removed.took);
    // Whoever does not end is ended.
    let script = "exec 3<>/dev/tcp/10.244.0.2/8081; read -r line <&3; echo \"open: $line\"; \
                  read -r line <&3 || echo over";
    let caller = machine.command(["bash", "-euc", script]).start();
    caller.wait_for("open: web-1");
    let argv = ["pod", "restart", "web-1", "--grace", "0s", "--drain", "500ms"];
    assert!(machine.lab(argv).ok().took < Duration::from_secs(3));
    caller.wait_for("over");
}

#[test]
fn the_life_of_pods_can_be_cut_at_every_step() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    let steps = named("life");
    assert!(steps.len() >= 5, "{steps:?}");
    for step in steps {
        machine.lab(["up", "2-pods"]).ok();
        let words: &[&str] = if step == "life:flipped" {
            &["netns-lab", "pod", "unready", "web-1"]
        } else {
            &["netns-lab", "pod", "restart", "web-1", "--grace", "0s"]
        };
        let command = machine.command(words).env("NETNS_LAB_KILL_AT", &step);
        command.run().exits(137);
        machine.lab(["up"]).ok();
        assert_eq!(names(&machine), ["web-1", "web-2"], "{step}");
        if step != "life:flipped" {
            assert!(is_ready(&pod(&machine, "web-1")), "{step}");
            assert_ne!(pod(&machine, "web-1")["status"]["podIP"], "10.244.0.2", "{step}");
        }
        machine.lab(["down"]).ok();
        assert_unchanged(&machine, &before, &format!("{step}: after down"));
    }
    for step in named("agent") {
        let up = machine.command(["netns-lab", "up", "1-pods"]);
        up.env("NETNS_LAB_KILL_AT", &step).run().ok();
        machine.lab(["pod", "kill", "web-1"]).ok();
        let find = "grep -lsza '^agent$' /proc/[0-9]*/cmdline || :";
        eventually("the agent has died", || {
            machine.sh(find).ok().stdout.trim().is_empty()
        });
        machine.lab(["up"]).ok();
        assert!(is_ready(&pod(&machine, "web-1")), "{step}");
        machine.lab(["down"]).ok();
        assert_unchanged(&machine, &before, &format!("{step}: after down"));
    }
}

/// What a container ended with is told, as a kubelet tells it.
#[test]
fn exit_codes_are_told() {
    let machine = Machine::start();
    machine.lab(["up", "1-pod"]).ok();
    let script = [
        ("c", "exit 3"),
        ("d", "kill -9 $$"),
        ("e", "kill -SEGV $$"),
        ("f", "true"),
    ];
    for (name, script) in script {
        machine
            .lab(["run", "web-1", "--name", name, "--", "sh", "-c", script])
            .ok();
    }
    machine.lab(["pod", "kill", "web-1"]).ok();
    eventually("each container has ended", || {
        let pod = pod(&machine, "web-1");
        let statuses = pod["status"]["containerStatuses"].as_array().unwrap();
        let last = statuses.iter().map(|status| {
            let ended = &status["lastState"]["terminated"];
            (
                ended["exitCode"].as_i64().unwrap_or(-1),
                ended["reason"].as_str().unwrap_or_default(),
            )
        });
        let wanted = [
            (137, "Error"),
            (3, "Error"),
            (137, "Error"),
            (139, "Error"),
            (0, "Completed"),
        ];
        last.eq(wanted)
    });
    machine.lab(["up", "--dry-run"]).ok().says("nothing to do");
    machine.lab(["down"]).ok();
}
