//! The files that a process in a pod sees in `/etc`.

use super::ledger::{Ledger, Pod};

/// Names and contents of a pod's files.
pub fn all(ledger: &Ledger, pod: &Pod) -> [(&'static str, String); 3] {
    [
        ("hostname", format!("{}\n", pod.spec.name)),
        ("hosts", hosts(ledger, pod)),
        ("resolv.conf", RESOLV_CONF.to_string()),
    ]
}

/// Without a `nameserver` line the resolver asks 127.0.0.1, where nobody listens, and so says at
/// once that it knows no name, instead of after half a minute.
const RESOLV_CONF: &str = "# There is no name server in this lab; /etc/hosts has the pods.\n";

fn hosts(ledger: &Ledger, pod: &Pod) -> String {
    let mut text = format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{}\t{}\n",
        pod.ip, pod.spec.name
    );
    let others = ledger
        .pods
        .iter()
        .filter(|record| record.pod.spec.name != pod.spec.name);
    for record in others {
        text.push_str(&format!("{}\t{}\n", record.pod.ip, record.pod.spec.name));
    }
    text
}
