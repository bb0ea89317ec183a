//! The removal of all that is ours as text for `iptables-restore`: one document, or several.

use std::fmt::Write as _;

use super::delta::Delta;
use super::fixed;
use super::name::ChainKind;
use super::set::TableName;

impl Delta {
    /// A removal as several documents, none of them removing more than `limit` chains: the first one takes the
    /// Services out of force at once, the others take away what nothing leads to any more.
    pub fn removal_documents(&self, limit: usize) -> Vec<String> {
        let (mut first, mut rest) = (self.clone(), Vec::new());
        if let Some(nat) = first.tables.get_mut(&TableName::Nat)
            && nat.removed.len() > limit
        {
            // A chain goes after all that lead to it.
            let order = [
                ChainKind::Firewall,
                ChainKind::External,
                ChainKind::Service,
                ChainKind::ServiceLocal,
                ChainKind::Endpoint,
            ];
            let rank =
                |chain: &str| ChainKind::of(chain).and_then(|kind| order.iter().position(|one| *one == kind));
            rest = nat
                .removed
                .iter()
                .filter_map(|chain| Some((rank(chain)?, chain.clone())))
                .collect();
            rest.sort_unstable();
            nat.removed
                .retain(|chain| rank(chain).is_none() && chain != fixed::MARK_MASQ);
            if self.tables[&TableName::Nat].removed.contains(fixed::MARK_MASQ) {
                rest.push((order.len(), fixed::MARK_MASQ.to_string()));
            }
        }
        let later = rest.chunks(limit.max(1)).map(|chains| {
            let mut text = String::from("*nat\n");
            let lines = |text: &mut String, begin: &str, end: &str| {
                for (_, chain) in chains {
                    let _ = writeln!(text, "{begin}{chain}{end}");
                }
            };
            lines(&mut text, ":", " - [0:0]");
            lines(&mut text, "-X ", "");
            text + "COMMIT\n"
        });
        std::iter::once(first.document()).chain(later).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::documents::tests::found;

    #[test]
    fn a_large_removal_unhooks_first_and_takes_chains_after_what_leads_to_them() {
        let delta = Delta::removal(&found()).unwrap();
        assert_eq!(delta.removal_documents(100), [delta.document()]);
        let documents = delta.removal_documents(2);
        assert_eq!(documents.len(), 4, "{documents:#?}");
        assert!(documents[0].contains("-D PREROUTING ") && documents[0].contains("-X KUBE-SERVICES\n"));
        assert!(!documents[0].contains("KUBE-SVC-") && !documents[0].contains("MARK-MASQ"));
        let removed = |document: &String| {
            let chains = document
                .lines()
                .filter_map(|line| line.strip_prefix("-X "))
                .map(String::from);
            chains.collect::<Vec<_>>()
        };
        let order: Vec<String> = documents.iter().flat_map(removed).collect();
        let at = |chain: &str| order.iter().position(|one| one.starts_with(chain)).unwrap();
        assert!(at("KUBE-SVC-B") < at("KUBE-SEP-A"));
        assert_eq!(order.last().map(String::as_str), Some("KUBE-MARK-MASQ"));
    }
}
