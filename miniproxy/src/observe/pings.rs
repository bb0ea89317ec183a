//! `/metrics/slis`: what came of asking `/healthz` beside the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often it was asked. Its only check, `ping`, always succeeds.
#[derive(Debug, Default)]
pub struct Pings(AtomicU64);

impl Pings {
    /// It was asked, and said yes.
    pub fn answered(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// In Prometheus' text format; nothing before it was first asked, as with kube-proxy.
    pub fn text(&self) -> String {
        let count = self.0.load(Ordering::Relaxed);
        if count == 0 {
            return String::new();
        }
        format!(
            "# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.\n\
             # TYPE kubernetes_healthcheck gauge\n\
             kubernetes_healthcheck{{name=\"ping\",type=\"healthz\"}} 1\n\
             # HELP kubernetes_healthchecks_total [STABLE] This metric records the results of all healthcheck.\n\
             # TYPE kubernetes_healthchecks_total counter\n\
             kubernetes_healthchecks_total{{name=\"ping\",status=\"success\",type=\"healthz\"}} {count}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_told_before_it_was_asked() {
        let pings = Pings::default();
        assert_eq!(pings.text(), "");
        pings.answered();
        pings.answered();
        assert!(
            pings.text().ends_with("type=\"healthz\"} 2\n"),
            "{}",
            pings.text()
        );
    }
}
