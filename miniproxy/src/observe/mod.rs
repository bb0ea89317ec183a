//! What others may ask about the proxy: its health, its numbers, a Service's local endpoints. Pure:
//! every time is an argument.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`configz`] | `/configz`: how is it configured? |
//! | [`health`] | `/healthz` and `/livez`: are changes written in time? |
//! | [`metrics`] | `/metrics`: kube-proxy's, and our own |
//! | [`pings`] | `/metrics/slis`: how often was it asked whether it lives? |
//! | [`service_health`] | a `healthCheckNodePort`: has the Service ready endpoints on this node? |
//!
//! Sources: `pkg/proxy/healthcheck`, `pkg/proxy/metrics` of Kubernetes 1.30 and later.

pub mod configz;
pub mod health;
pub mod metrics;
pub mod pings;
pub mod service_health;

use std::time::Duration;

use jiff::Timestamp;

/// A point in time: by the calendar, which is shown, and by the clock that nobody sets, which counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// By the calendar.
    pub wall: Timestamp,
    /// Since the program began.
    pub up: Duration,
}

/// An answer to an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header fields, their names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// JSON, with the header fields that kube-proxy puts there.
    pub fn json(status: u16, body: String) -> Self {
        Self {
            status,
            headers: vec![
                ("content-type", "application/json".to_string()),
                NO_SNIFFING.own(),
            ],
            body,
        }
    }

    /// Text, of the kind that is given.
    pub fn text(status: u16, kind: &str, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: vec![("content-type", kind.to_string()), NO_SNIFFING.own()],
            body: body.into(),
        }
    }

    /// There is no such path; worded as Go's HTTP server does.
    pub fn not_found() -> Self {
        Self::text(404, PLAIN, "404 page not found\n")
    }

    /// The value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// The content type of plain text.
pub const PLAIN: &str = "text/plain; charset=utf-8";

/// A header field that is always the same.
struct Fixed(&'static str, &'static str);

const NO_SNIFFING: Fixed = Fixed("x-content-type-options", "nosniff");

impl Fixed {
    fn own(&self) -> (&'static str, String) {
        (self.0, self.1.to_string())
    }
}
