//! A picture: dark on white, so that it can be printed and shown on any page.

use super::{End, Graph, NodeBox, Switch};

/// A box.
const WIDTH: usize = 150;
const HEIGHT: usize = 46;
/// Between boxes; a cable with its name fits in it.
const GAP: usize = 20;
const CABLE: usize = 44;
/// More pods than this go into another row.
const COLUMNS: usize = 6;
const MARGIN: usize = 20;
const TITLE: usize = 34;

/// The whole picture.
pub(super) fn draw(graph: &Graph) -> String {
    let mut body = String::new();
    let mut top = MARGIN + TITLE;
    let left = left_of(graph);
    // A line along which all machines are joined, drawn when its end is known.
    let bus = MARGIN + WIDTH / 2;
    let (mut first, mut last) = (0, 0);
    if let (Some(underlay), Some(outside)) = (&graph.underlay, &graph.outside) {
        body += &bridge(MARGIN, top, underlay);
        first = top + HEIGHT;
        top = first + GAP;
        body += &stub(bus, left, top + HEIGHT / 2, outside);
        body += &boxed(left, top, &outside.name, &outside.ip, "");
        last = top + HEIGHT / 2;
        top += HEIGHT + GAP;
    }
    for node in &graph.nodes {
        if let Some(uplink) = &node.uplink {
            last = top + GAP;
            body += &stub(bus, left, last, uplink);
        }
        body += &node_box(left, top, node);
        top += node_height(node) + GAP;
    }
    if last > first {
        body += &line(bus, first, bus, last);
    }
    let wide = graph.nodes.iter().map(node_width).max().unwrap_or(WIDTH);
    body += &boxed_wide(
        left,
        top,
        wide.max(2 * WIDTH),
        &graph.ghost(),
        " stroke-dasharray=\"5 4\"",
    );
    let (width, height) = (left + wide.max(2 * WIDTH) + MARGIN, top + HEIGHT + MARGIN);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" font-family=\"sans-serif\" font-size=\"15\" fill=\"#111\">\n\
         <title>{title}: nodes, bridges, cables and pods</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{MARGIN}\" y=\"{}\" font-size=\"22\" font-weight=\"bold\">{title}</text>\n{body}</svg>\n",
        MARGIN + 16,
        title = graph.title(),
    )
}

/// Machines stand right of the line that joins them.
fn left_of(graph: &Graph) -> usize {
    if graph.underlay.is_some() {
        MARGIN + WIDTH + GAP + CABLE
    } else {
        MARGIN
    }
}

fn columns(node: &NodeBox) -> usize {
    node.pods.len().clamp(1, COLUMNS)
}

fn node_width(node: &NodeBox) -> usize {
    columns(node) * (WIDTH + GAP) + GAP
}

fn node_height(node: &NodeBox) -> usize {
    TITLE + HEIGHT + node.pods.len().div_ceil(COLUMNS) * (CABLE + HEIGHT) + GAP
}

fn node_box(left: usize, top: usize, node: &NodeBox) -> String {
    let (width, height) = (node_width(node), node_height(node));
    let mut text = format!(
        "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"none\" stroke=\"#111\"/>\n\
         <text x=\"{}\" y=\"{}\" font-weight=\"bold\">node {}</text>\n",
        left + GAP,
        top + 23,
        node.name
    );
    let bar = top + TITLE;
    text += &boxed_wide(
        left + GAP,
        bar,
        width - 2 * GAP,
        &format!("{}  {}", node.bridge.name, node.bridge.address),
        " stroke-width=\"3\"",
    );
    for (index, pod) in node.pods.iter().enumerate() {
        let x = left + GAP + index % COLUMNS * (WIDTH + GAP);
        let from = bar + HEIGHT + index / COLUMNS * (CABLE + HEIGHT);
        text += &line(x + WIDTH / 2, from, x + WIDTH / 2, from + CABLE);
        text += &format!(
            "<text x=\"{}\" y=\"{}\" font-size=\"12\">{}</text>\n",
            x + WIDTH / 2 + 5,
            from + CABLE / 2 + 4,
            pod.interface
        );
        text += &boxed(x, from + CABLE, &pod.name, &pod.ip, "");
    }
    text
}

/// A cable from the line that joins the machines to one of them.
fn stub(from: usize, to: usize, y: usize, end: &End) -> String {
    let name = format!(
        "<text x=\"{}\" y=\"{}\" font-size=\"12\">{} {}</text>\n",
        from + 6,
        y - 5,
        end.interface,
        end.ip
    );
    line(from, y, to, y) + &name
}

fn bridge(x: usize, y: usize, switch: &Switch) -> String {
    boxed(x, y, &switch.name, &switch.address, " stroke-width=\"3\"")
}

fn line(x1: usize, y1: usize, x2: usize, y2: usize) -> String {
    format!("<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" stroke=\"#111\" stroke-width=\"2\"/>\n")
}

/// A box with a name and an address.
fn boxed(x: usize, y: usize, name: &str, address: &str, style: &str) -> String {
    let middle = x + WIDTH / 2;
    format!(
        "<rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\" stroke=\"#111\"{style}/>\n\
         <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" font-weight=\"bold\">{name}</text>\n\
         <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{address}</text>\n",
        y + 19,
        y + 38
    )
}

/// A box with one line of text.
fn boxed_wide(x: usize, y: usize, width: usize, text: &str, style: &str) -> String {
    format!(
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{HEIGHT}\" fill=\"#fff\" stroke=\"#111\"{style}/>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{text}</text>\n",
        x + width / 2,
        y + 28
    )
}
