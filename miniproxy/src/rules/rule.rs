//! One rule: what it matches and what it does, and when two rules mean the same.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::Protocol;

/// One condition of a rule. A rule matches when all of its conditions do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Match {
    /// `-s` or `-d`: the packet's address.
    Address {
        /// Which of the two addresses.
        side: Side,
        /// The network; a single host is a /32 or /128.
        network: IpNet,
        /// `!`
        negated: bool,
    },
    /// `-i` or `-o`; a trailing `+` stands for any ending.
    Interface {
        /// Source means `-i`, destination `-o`.
        side: Side,
        /// The name or its beginning.
        name: String,
        /// `!`
        negated: bool,
    },
    /// `-p`, with the module of that protocol loaded.
    Protocol(Protocol),
    /// `--dport`
    DestinationPort(u16),
    /// `-m comment`: matches always; says which Service the rule is for.
    Comment(String),
    /// `-m mark`
    Mark {
        /// Compared with the mark's bits under the mask.
        value: u32,
        /// Which bits count.
        mask: u32,
        /// `!`
        negated: bool,
    },
    /// `-m conntrack --ctstate`; made by [`Match::ct_state`].
    CtState {
        /// The states, in the order in which iptables prints them.
        states: Vec<String>,
        /// `!`
        negated: bool,
    },
    /// `-m addrtype --src-type/--dst-type LOCAL`: an address of this node.
    LocalAddress(Side),
    /// `-m statistic --mode random`: the dice.
    Statistic(Probability),
    /// `-m recent --rcheck --seconds … --reap`: this client was sent here before.
    RecentCheck {
        /// The list, named after the endpoint's chain.
        list: String,
        /// How long a client is remembered.
        seconds: u32,
        /// `--reap`: who has been away for longer is forgotten, which makes room in the list.
        reap: bool,
    },
    /// `-m recent --set`: remember this client.
    RecentSet {
        /// The list.
        list: String,
    },
    /// `-m nfacct`: matches always; the packet is counted under this name.
    Counter(String),
    /// Words that this program does not know, as they stand.
    Other(Vec<String>),
}

/// iptables prints connection states in the order of their bits (`libxt_conntrack.c`); kube-proxy
/// writes them so, too.
const CT_STATES: [&str; 7] = [
    "INVALID",
    "NEW",
    "RELATED",
    "ESTABLISHED",
    "UNTRACKED",
    "SNAT",
    "DNAT",
];

impl Match {
    /// `--ctstate` with its states in iptables' own order, so that two sets compare equal.
    pub fn ct_state<S: Into<String>>(states: impl IntoIterator<Item = S>, negated: bool) -> Self {
        let mut states: Vec<String> = states.into_iter().map(Into::into).collect();
        states.sort_by_key(|state| CT_STATES.iter().position(|known| known == state));
        Self::CtState { states, negated }
    }

    /// Every packet meets it: iptables does not even keep `-s 0.0.0.0/0`.
    fn is_always(&self) -> bool {
        matches!(self, Self::Address { network, negated: false, .. } if network.prefix_len() == 0)
    }
}

/// Which end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes to.
    Destination,
}

/// What a rule does with a packet that matches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Go on in another chain, and come back if nothing there decides.
    Jump(String),
    /// Let it pass.
    Accept,
    /// Throw it away silently.
    Drop,
    /// Go back to the chain this one was called from.
    Return,
    /// Throw it away and tell the sender that the port is unreachable.
    Reject,
    /// `mark = (mark & !mask) ^ value`, the only form the kernel knows.
    SetXmark {
        /// The bits to flip in after clearing.
        value: u32,
        /// The bits to clear.
        mask: u32,
    },
    /// Write this node's address over the source.
    Masquerade {
        /// Choose the source port at random.
        random_fully: bool,
    },
    /// Write this `ip:port` over the destination.
    Dnat(String),
    /// Words that this program does not know, as they stand (`-j` or `-g` included).
    Other(Vec<String>),
}

/// A chance, as the kernel keeps it: `value` of 2^31.
///
/// `xt_statistic` compares 31 random bits with it (`net/netfilter/xt_statistic.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Probability(u32);

const ONE: f64 = 2_147_483_648.0;

impl Probability {
    /// The chance 1/n as kube-proxy writes it: ten decimals, then rounded to 31 bits by iptables.
    pub fn one_in(n: u32) -> Self {
        Self::parse(&format!("{:.10}", 1.0 / f64::from(n.max(1)))).unwrap_or(Self(0))
    }

    /// Reads a decimal fraction from 0 to 1.
    pub fn parse(text: &str) -> Option<Self> {
        let fraction: f64 = text.parse().ok()?;
        // The cast cannot truncate: the product is between 0 and 2^31.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        (0.0..=1.0)
            .contains(&fraction)
            .then(|| Self((fraction * ONE).round() as u32))
    }

    /// The fraction, from 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / ONE
    }

    /// Ten decimals where the chance is 1/n for some n, else what `iptables-save` prints.
    pub fn text(self) -> String {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let n = (ONE / f64::from(self.0.max(1))).round() as u32;
        if self == Self::one_in(n) {
            return format!("{:.10}", 1.0 / f64::from(n.max(1)));
        }
        format!("{:.11}", self.fraction())
    }
}

/// One rule. Copies share what it says: the same rule is wanted, known and sent.
#[derive(Debug, Clone, Default)]
pub struct Rule(Arc<Clauses>);

/// What a rule says: conditions in the order they are written, and a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clauses {
    /// The conditions.
    pub matches: Vec<Match>,
    /// What to do; `None` counts the packet and goes on.
    pub target: Option<Target>,
}

impl From<Clauses> for Rule {
    fn from(mut clauses: Clauses) -> Self {
        clauses.matches.shrink_to_fit();
        Self(Arc::new(clauses))
    }
}

impl Deref for Rule {
    type Target = Clauses;

    fn deref(&self) -> &Clauses {
        &self.0
    }
}

impl Rule {
    /// A rule without conditions.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with room for this many.
    pub fn with_room(conditions: usize) -> Self {
        Self(Arc::new(Clauses {
            matches: Vec::with_capacity(conditions),
            target: None,
        }))
    }

    /// Adds any condition.
    #[must_use]
    pub fn with(mut self, condition: Match) -> Self {
        let matches = &mut Arc::make_mut(&mut self.0).matches;
        // Exactly: there are a hundred thousand rules, and they live long.
        matches.reserve_exact(1);
        matches.push(condition);
        self
    }

    /// Adds a comment.
    #[must_use]
    pub fn comment(self, text: impl Into<String>) -> Self {
        self.with(Match::Comment(text.into()))
    }

    /// Adds a protocol.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Self {
        self.with(Match::Protocol(protocol))
    }

    /// Adds the one address the packet must come from or go to.
    #[must_use]
    pub fn host(self, side: Side, address: IpAddr) -> Self {
        self.with(Match::Address {
            side,
            network: IpNet::from(address),
            negated: false,
        })
    }

    /// Adds a network the packet must come from or go to, or (`negated`) must not.
    #[must_use]
    pub fn network(self, side: Side, network: IpNet, negated: bool) -> Self {
        self.with(Match::Address {
            side,
            network,
            negated,
        })
    }

    /// Adds a destination port.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.with(Match::DestinationPort(port))
    }

    /// Adds `--ctstate` with one state.
    #[must_use]
    pub fn ct_state(self, state: &str) -> Self {
        self.with(Match::ct_state([state], false))
    }

    /// Sets the target.
    #[must_use]
    pub fn to(mut self, target: Target) -> Self {
        Arc::make_mut(&mut self.0).target = Some(target);
        self
    }

    /// Sets a jump to a chain as the target.
    #[must_use]
    pub fn jump(self, chain: impl Into<String>) -> Self {
        self.to(Target::Jump(chain.into()))
    }

    /// Whether the two are copies that share what they say; what says the same need not share it.
    pub fn is_copy_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What the rule says, without the order in which it says it: equal for two rules that the
    /// kernel cannot tell apart.
    pub fn meaning(&self) -> (Vec<&Match>, Option<&Target>) {
        let mut matches: Vec<&Match> = self
            .matches
            .iter()
            .filter(|condition| !condition.is_always())
            .collect();
        matches.sort();
        (matches, self.target.as_ref())
    }

    /// The only destination address that the rule matches.
    pub fn destination(&self) -> Option<IpAddr> {
        self.matches.iter().find_map(|condition| match condition {
            Match::Address {
                side: Side::Destination,
                network,
                negated: false,
            } if network.prefix_len() == network.max_prefix_len() => Some(network.addr()),
            _ => None,
        })
    }

    /// The rule's comment, if it has one.
    pub fn comment_text(&self) -> Option<&str> {
        self.matches.iter().find_map(|condition| match condition {
            Match::Comment(text) => Some(text.as_str()),
            _ => None,
        })
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.is_copy_of(other)
            || self.target == other.target
                && (self.matches == other.matches || self.meaning() == other.meaning())
    }
}

impl Eq for Rule {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_the_kernel_keeps() {
        // Written by kube-proxy, shown by iptables-save: recorded for both flavours.
        let shown = [
            (2, "0.50000000000"),
            (3, "0.33333333349"),
            (7, "0.14285714272"),
            (11, "0.09090909082"),
            (100, "0.00999999978"),
            (5000, "0.00020000013"),
        ];
        for (n, text) in shown {
            assert_eq!(Probability::one_in(n), Probability::parse(text).unwrap(), "1/{n}");
        }
    }

    #[test]
    fn one_in_n_is_written_with_ten_decimals() {
        let anchors = [
            (1, "1.0000000000"),
            (3, "0.3333333333"),
            (10, "0.1000000000"),
            (10_000, "0.0001000000"),
        ];
        for (n, text) in anchors {
            assert_eq!(Probability::one_in(n).text(), text);
        }
        for n in 1..=20_000 {
            assert_eq!(
                Probability::one_in(n).text(),
                format!("{:.10}", 1.0 / f64::from(n)),
                "1/{n}"
            );
        }
    }

    #[test]
    fn a_chance_outside_0_to_1_is_none() {
        for text in ["1.1", "-0.1", "NaN", "inf", "half"] {
            assert_eq!(Probability::parse(text), None, "{text}");
        }
    }

    #[test]
    fn order_of_conditions_is_no_difference_but_a_condition_is() {
        let one = Rule::new()
            .comment("c")
            .protocol(Protocol::Tcp)
            .port(80)
            .to(Target::Accept);
        let other = Rule::new()
            .protocol(Protocol::Tcp)
            .comment("c")
            .port(80)
            .to(Target::Accept);
        assert_eq!(one, other);
        assert_ne!(one, other.clone().port(80));
        assert_ne!(one, other.to(Target::Drop));
    }
}
