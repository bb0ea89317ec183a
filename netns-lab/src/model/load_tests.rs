use super::*;

fn calls(answers: &[(&str, usize)], lost: usize) -> Vec<Call> {
    let answered = answers.iter().flat_map(|(name, number)| {
        let said = format!("{name} (10.244.1.3) sees you as 10.244.1.2:40000\n");
        std::iter::repeat_n(Ok((said, 1)), *number)
    });
    let ends = answered.chain(std::iter::repeat_n(Err(Lost::TimedOut), lost));
    let took = Duration::from_micros(450);
    ends.map(|end| Call { took, end }).collect()
}

fn report(answers: &[(&str, usize)], lost: usize) -> Report {
    let calls = calls(answers, lost);
    let asked = Asked {
        target: "10.96.0.10:80".into(),
        protocol: "tcp",
        from: "client".into(),
        calls: calls.len(),
        at_once: 20,
        requests_per_connection: 1,
    };
    Report::new(asked, &calls)
}

#[test]
fn equal_shares_are_told_with_their_band() {
    insta::assert_snapshot!(report(&[("web-1", 1016), ("web-2", 961), ("web-3", 1023)], 0).text());
}

#[test]
fn unequal_shares_and_lost_calls_are_told() {
    insta::assert_snapshot!(report(&[("web-1", 498), ("web-2", 341), ("web-3", 219)], 442).text());
}

#[test]
fn shares_that_luck_seldom_makes_are_never_called_equal() {
    let doubtful = report(&[("web-1", 130), ("web-2", 83), ("web-3", 87)], 0);
    assert_eq!(doubtful.verdict.equal, None);
    assert!(doubtful.text().contains("doubtful: "), "{}", doubtful.text());
    let biased = report(&[("web-1", 150), ("web-2", 75), ("web-3", 75)], 0);
    assert_eq!(biased.verdict.equal, Some(false));
    assert!(biased.text().contains("NOT equal shares"), "{}", biased.text());
    let lost = report(&[("web-1", 100), ("web-2", 100)], 100);
    assert!(
        lost.text().contains("lost calls apart: 2 answered"),
        "{}",
        lost.text()
    );
}

#[test]
fn few_calls_say_nothing() {
    assert!(
        report(&[("web-1", 4), ("web-3", 2)], 0)
            .text()
            .contains("too few")
    );
    assert!(
        report(&[("web-1", 40)], 0)
            .text()
            .contains("all answers are from web-1")
    );
    assert!(report(&[], 3).text().contains("nobody answered"));
}

#[test]
fn the_report_is_data_too() {
    let report = report(&[("web-1", 3)], 1);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["kind"], "load");
    assert_eq!(json["backends"][0]["share"], 0.75);
    assert_eq!(json["lostBy"]["timedOut"], 1);
    assert_eq!(json["verdict"]["equal"], serde_json::Value::Null);
}

#[test]
fn targets_and_times_are_read() {
    for (text, host, port) in [
        ("web", "web", 80),
        ("svc/web:8080", "web", 8080),
        ("10.96.0.10", "10.96.0.10", 80),
        ("[fd00::1]:81", "fd00::1", 81),
        ("fd00::1", "fd00::1", 80),
    ] {
        let target: Target = text.parse().unwrap();
        assert_eq!((target.host.as_str(), target.port), (host, port), "{text}");
    }
    for text in ["", ":80", "web:0", "web:http", "a b", "-x", "web\u{1b}"] {
        assert!(text.parse::<Target>().is_err(), "{text:?}");
    }
    assert_eq!(time("200ms").unwrap(), Duration::from_millis(200));
    assert!(time("0s").is_err() && time("61s").is_err() && time("5").is_err());
}

#[test]
fn whoever_answers_cannot_write_to_the_terminal() {
    let said = "\u{1b}[31mweb sees you as nobody".to_string();
    let call = Call {
        took: Duration::ZERO,
        end: Ok((said, 1)),
    };
    let asked = report(&[], 1).asked;
    assert!(!Report::new(asked, &[call]).text().contains('\u{1b}'));
}
