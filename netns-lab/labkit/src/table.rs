//! Aligned columns for people, as kubectl prints them: no borders, two spaces between columns.

use comfy_table::{ContentArrangement, Table as Grid};

use crate::text::printable;

/// Rows of text under a header; every cell is made safe for a terminal.
#[derive(Debug)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column titles.
    pub fn new(header: &[&str]) -> Self {
        Self {
            header: header.iter().map(ToString::to_string).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds one row; it has as many cells as the header.
    pub fn row<I: IntoIterator<Item = S>, S: AsRef<str>>(&mut self, cells: I) {
        self.rows.push(
            cells
                .into_iter()
                .map(|cell| printable(cell.as_ref()).into_owned())
                .collect(),
        );
    }

    /// The lines of the table, each ended by a newline, without trailing spaces. A table that is too
    /// wide for the terminal (80 columns where there is none) breaks long cells into more lines.
    pub fn render(&self) -> String {
        self.render_within(width())
    }

    /// The lines of the table with each cell whole, however wide that makes it.
    pub fn render_whole(&self) -> String {
        self.render_within(u16::MAX)
    }

    fn render_within(&self, width: u16) -> String {
        let mut grid = Grid::new();
        grid.load_style(comfy_table::presets::NOTHING)
            .set_width(width)
            .set_content_arrangement(ContentArrangement::Dynamic);
        grid.set_header(&self.header);
        for row in &self.rows {
            grid.add_row(row);
        }
        let last = self.header.len().saturating_sub(1);
        for (index, column) in grid.column_iter_mut().enumerate() {
            column.set_padding((0, if index == last { 0 } else { 2 }));
        }
        let mut text = String::new();
        for line in grid.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Columns that a line may have.
fn width() -> u16 {
    let asked = std::env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok());
    let terminal = || terminal_size::terminal_size().map(|(width, _)| width.0);
    asked.or_else(terminal).filter(|width| *width >= 40).unwrap_or(80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_cells_break_where_the_terminal_ends() {
        let mut table = Table::new(&["POD", "LABELS"]);
        table.row([
            "web-1".to_string(),
            "app=web,tier=front,zone=a,team=shop,release=stable".to_string(),
        ]);
        let text = table.render_within(40);
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert!(text.contains("app=web") && text.lines().count() > 2, "{text}");
    }

    #[test]
    fn columns_line_up_and_no_line_ends_in_a_space() {
        let mut table = Table::new(&["POD", "IP", "READY"]);
        table.row(["web-1", "10.244.0.2", "yes"]);
        table.row(["web-10", "10.244.0.11", "no"]);
        assert_eq!(
            table.render(),
            "POD     IP           READY\nweb-1   10.244.0.2   yes\nweb-10  10.244.0.11  no\n"
        );
    }
}
