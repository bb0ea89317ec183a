//! The first line of the screen: who calls whom, and that it is a prediction.

use labkit::screen::look::{Role, Sign};
use labkit::screen::{Line, Look};

use super::Report;

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
    let port = packet.port.map(|port| format!(":{port}")).unwrap_or_default();
    let host = if packet.destination.contains(':') && packet.port.is_some() {
        format!("[{}]", packet.destination)
    } else {
        packet.destination.clone()
    };
    Line::from(vec![
        look.text(Role::Strong, " EXPLAIN "),
        look.text(
            Role::Plain,
            format!(
                "{from} {} {}{host}{port}/{}",
                look.sign(Sign::To),
                to.unwrap_or_default(),
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
