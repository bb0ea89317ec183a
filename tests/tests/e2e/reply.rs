//! What a server answers to curl.

use lab_tests::machine::Machine;

/// What came back, or nothing when the connection was refused or closed without an answer.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

#[track_caller]
pub(crate) fn ask(machine: &Machine, url: &str) -> Reply {
    let ran = machine.run(["curl", "-s", "-i", "-g", "--max-time", "5", url]);
    // 7: refused; 52 and 56: nothing came or it was reset, as when the port is closed before the connection
    // that waits there is taken.
    if [7, 52, 56].contains(&ran.code()) {
        return Reply::default();
    }
    let ran = ran.ok();
    let (head, body) = ran.stdout.split_once("\r\n\r\n").expect("a head and a body");
    Reply {
        status: head
            .split_whitespace()
            .nth(1)
            .and_then(|code| code.parse().ok())
            .expect("a status"),
        head: head.to_string(),
        body: body.to_string(),
    }
}
