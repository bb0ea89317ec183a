//! All Services at a glance.

use serde::Serialize;

use super::changes::Change;
use super::report::{Names, Report};
use super::watch::Watch;

/// All Services.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// The version of this form.
    pub schema: u32,
    /// `watchAll`
    pub kind: &'static str,
    /// How long was counted.
    pub seconds: u64,
    /// New connections to any of them.
    pub connections: u64,
    /// Each of them.
    pub services: Vec<Summary>,
    /// Changes of any Service's rules, the newest first.
    pub changes: Vec<Change>,
    /// What one must know to read the figures.
    pub notes: Vec<String>,
}

/// One Service among others.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// `namespace/name:port`
    pub service: String,
    /// `TCP`
    pub protocol: &'static str,
    /// `ip:port` of the cluster IP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// How many backends its rules have.
    pub backends: usize,
    /// New connections.
    pub connections: u64,
    /// New connections in the last whole second.
    pub per_second: u64,
    /// Connections that came to nobody.
    pub lost: u64,
    /// Entries in the connection table.
    pub open: u64,
    /// Entries whose backend is none any more.
    pub stale: u64,
    /// What can be said about the shares.
    pub verdict: super::luck::Verdict,
}

impl Overview {
    /// What is known now.
    pub fn of(watch: &Watch, names: &Names) -> Self {
        let services: Vec<Summary> = watch
            .keys()
            .iter()
            .map(|key| Summary::of(&Report::of(watch, key, names)))
            .collect();
        let mut notes = watch.notes.clone();
        if services.is_empty() {
            notes.push("no Service is in the kernel's rules".to_string());
        }
        if watch.gaps > 0 {
            notes.push(format!(
                "the kernel lost news {} times: at least so many",
                watch.gaps
            ));
        }
        Self {
            schema: 1,
            kind: "watchAll",
            seconds: watch.seconds,
            connections: services.iter().map(|service| service.connections).sum(),
            services,
            changes: watch.changes.iter().rev().cloned().collect(),
            notes,
        }
    }
}

impl Summary {
    fn of(report: &Report) -> Self {
        Self {
            service: report.service.clone(),
            protocol: report.protocol,
            address: report.address.clone(),
            backends: report.backends.iter().filter(|row| row.in_rules).count(),
            connections: report.connections,
            per_second: report.per_second,
            lost: report.lost.connections,
            open: report.backends.iter().map(|row| row.open).sum(),
            stale: report.stale,
            verdict: report.verdict.clone(),
        }
    }
}
