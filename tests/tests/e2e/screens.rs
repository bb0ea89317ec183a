//! What screens owe their terminal.

use std::time::Duration;

use lab_tests::machine::eventually;

use crate::support::lab_with_rules;

/// A terminal window that is closed takes its screens along. They used to read a terminal that had gone for
/// ever, at full speed; `setsid` keeps the kernel from ending them itself.
#[test]
fn a_terminal_that_goes_takes_its_screen_along() {
    let machine = lab_with_rules("1-pods");
    for screen in ["explain svc/web", "watch", "watch svc/web", "why web", "diff"] {
        let inner = format!(r#"trap "" HUP; exec setsid -w miniproxy {screen}"#);
        let shown = machine.folder().join("shown");
        let script = ["script", "-qefc", &inner, shown.to_str().unwrap()];
        let mut window = machine.command(script).start();
        eventually("the screen stands", || {
            std::fs::read_to_string(&shown).is_ok_and(|text| text.contains("\u{1b}["))
        });
        window.signal(nix::sys::signal::Signal::SIGKILL);
        window.end(Duration::from_secs(20));
        eventually("the screen goes, too", || {
            machine.sh("pgrep -x miniproxy").code() != 0
        });
        std::fs::remove_file(&shown).unwrap();
    }
}
