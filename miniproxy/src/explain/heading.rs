//! The first line of the screen: who calls whom, and that it is a prediction.

use labkit::screen::look::{Role, Sign};
use labkit::screen::{Line, Look};

use super::{PacketFacts, Report};
use crate::model::host_port;

/// `10.96.0.80:80`, `[fd00::1]:80`, or the address alone.
pub(crate) fn destination(packet: &PacketFacts) -> String {
    match packet.port {
        Some(port) => host_port(&packet.destination, port),
        None => packet.destination.clone(),
    }
}

pub(super) fn title(report: &Report, look: &Look) -> Line<'static> {
    let packet = &report.packet;
    let from = packet
        .from
        .as_deref()
        .map_or_else(|| packet.source.clone(), super::make::short);
    let to = packet
        .service
        .as_deref()
        .map(|name| format!("svc/{} ", super::make::short(name)));
    Line::from(vec![
        look.text(Role::Strong, " EXPLAIN "),
        look.text(
            Role::Plain,
            format!(
                "{from} {} {}{}/{}",
                look.sign(Sign::To),
                to.unwrap_or_default(),
                destination(packet),
                packet.protocol
            ),
        ),
    ])
}

pub(super) fn state(report: &Report, look: &Look) -> String {
    let node = report
        .rules
        .node
        .as_ref()
        .map(|node| format!("{node} {} ", look.sign(Sign::Dot)));
    let short = look.width < 100;
    let what = if short {
        "prediction"
    } else {
        "a prediction, nothing sent"
    };
    format!("{}{what} ", node.unwrap_or_default())
}
