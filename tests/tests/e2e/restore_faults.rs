//! The ways in which an iptables-restore fails, as a shell script acts them.

/// One way to fail.
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    /// What the wrapper does, before or instead of the real program.
    pub(crate) script: &'static str,
    /// What stderr holds: what failed, why, and what to do.
    pub(crate) says: &'static [&'static str],
    /// Of a single sync.
    pub(crate) code: i32,
}

pub(crate) const KILLED: Fault = Fault {
    name: "killed before it reads",
    script: "kill -9 $$",
    says: &["cannot write the IPv4 rules", "SIGKILL", "hint: is memory short?"],
    code: 1,
};

/// Once: with what is written already, the next attempt has less to do, and this one would not show.
pub(crate) const KILLED_AFTER_A_TABLE: Fault = Fault {
    name: "killed after the first table",
    script: "rm /run/own/fault; sed '/^COMMIT$/q' | \"$real\" \"$@\"; kill -9 $$",
    ..KILLED
};

/// The kernel (nft) or the program (legacy) refuses a line in the middle, in its own words.
pub(crate) const REFUSED_LINE: Fault = Fault {
    name: "a line is refused",
    script: "sed '/^COMMIT$/i -A KUBE-NOPE -j ACCEPT' | \"$real\" \"$@\"; exit $?",
    says: &[
        "cannot write the IPv4 rules",
        "exit status: 1",
        "line ",
        " failed",
        "hint: see what was sent",
    ],
    code: 1,
};

pub(crate) const LOCK: Fault = Fault {
    name: "it does not get the lock",
    script: "echo 'Another app is currently holding the xtables lock. Stopped waiting after 5s.' >&2; exit 4",
    says: &[
        "cannot write the IPv4 rules",
        "holding the xtables lock",
        "hint: another program held the xtables lock for more than 5 s: try again",
    ],
    code: 1,
};

/// What both flavours say of a match that the program has and the kernel has not (recorded with ipvs).
pub(crate) const NO_RECENT: Fault = Fault {
    name: "the kernel lacks xt_recent",
    script: "echo 'Warning: Extension recent revision 0 not supported, missing kernel module?
iptables-restore v1.8.9 (nf_tables): 
line 7: RULE_APPEND failed (No such file or directory): rule in chain KUBE-SVC-LOLE4ISW44XBNF3G' >&2; exit 4",
    says: &[
        "cannot write the IPv4 rules",
        "Extension recent",
        "hint: the kernel lacks a module: sudo modprobe xt_recent",
    ],
    code: 3,
};

pub(crate) const NO_STATISTIC: Fault = Fault {
    name: "the kernel lacks xt_statistic",
    script: "echo 'Warning: Extension statistic revision 0 not supported, missing kernel module?
iptables-restore: line 9 failed' >&2; exit 1",
    says: &[
        "cannot write the IPv4 rules",
        "Extension statistic",
        "hint: the kernel lacks a module: sudo modprobe xt_statistic",
    ],
    code: 3,
};

pub(crate) const ALL: [&Fault; 6] = [
    &KILLED,
    &KILLED_AFTER_A_TABLE,
    &REFUSED_LINE,
    &LOCK,
    &NO_RECENT,
    &NO_STATISTIC,
];
