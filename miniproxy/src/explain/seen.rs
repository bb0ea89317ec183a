//! Whose address a backend sees.

use std::net::SocketAddr;

use super::make::Made;
use super::{Masquerade, Verdict};
use crate::rules::trace::Outcome;
use crate::target::SenderKind;

impl Made<'_> {
    /// The source is rewritten on the way out: what is in doubt there is told as not known.
    pub(super) fn masquerade(&self, verdict: Verdict) -> Masquerade {
        let nat = self.way_out();
        let possible = nat.doubts.iter().flat_map(|doubt| &doubt.possible);
        let all: Vec<Outcome> = nat.outcomes.iter().chain(possible).cloned().collect();
        match masquerade(&all, verdict) {
            Masquerade::Some if !nat.doubts.is_empty() => Masquerade::Unknown,
            certain => certain,
        }
    }

    pub(super) fn seen(&self, masquerade: Masquerade, verdict: Verdict) -> (Option<String>, String) {
        let rewritten = |outcome: &&Outcome| outcome.masqueraded && outcome.destination.is_some();
        let nat = self.way_out();
        let itself = |outcome: &Outcome| {
            outcome
                .destination
                .is_some_and(|to| to.ip() == self.packet.source)
        };
        let only_itself = nat.outcomes.iter().filter(rewritten).all(itself);
        let source = self.packet.source;
        let who = match self.question.call.sender.kind {
            _ if self.packet.arriving.is_none() => "the node, which made the packet",
            SenderKind::Pod | SenderKind::Outside | SenderKind::OtherNode | SenderKind::Node => {
                "the real client"
            }
            SenderKind::Address => "the real source",
        };
        match (verdict, masquerade) {
            (Verdict::Reject | Verdict::Drop | Verdict::NoRule, _) => (None, "no backend sees it".into()),
            (_, Masquerade::No) => (Some(source.to_string()), who.into()),
            (_, Masquerade::Unknown) => (
                None,
                format!("{source}, or the node's own address: that hangs on what is not understood"),
            ),
            (_, Masquerade::Some) if only_itself => (
                None,
                format!("{source}, or the node's own address where the caller reaches itself"),
            ),
            (_, Masquerade::Some) => (
                None,
                format!("{source}, or the node's own address: that differs by backend"),
            ),
            (_, Masquerade::Yes) => {
                let backends = self.choosing().endpoints();
                let host = self.question.host;
                let own = |to: &SocketAddr| host.and_then(|host| host.address_towards(to.ip()));
                let mut all = backends.keys().map(own);
                let first = all.next().flatten();
                let same = first.filter(|_| all.all(|other| other == first));
                (
                    same.map(|ip| ip.to_string()),
                    "an address of the node: the client's is gone".into(),
                )
            }
        }
    }
}

fn masquerade(outcomes: &[Outcome], verdict: Verdict) -> Masquerade {
    if !verdict.connects() {
        return Masquerade::No;
    }
    let sent = || {
        outcomes
            .iter()
            .filter(|outcome| outcome.destination.is_some() || verdict == Verdict::Accept)
    };
    match (
        sent().any(|outcome| outcome.masqueraded),
        sent().all(|outcome| outcome.masqueraded),
    ) {
        (false, _) => Masquerade::No,
        (true, true) => Masquerade::Yes,
        (true, false) => Masquerade::Some,
    }
}
