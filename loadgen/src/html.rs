//! Reports as one HTML page: verdicts, figures and charts of one run, or of several side by side.
//!
//! The page holds everything it needs and is read from a file, without a network, without JavaScript, on
//! paper too. What stands in a report is text, never markup: see `markup::escape`.

mod axis;
mod chart;
mod curves;
mod distribution;
mod figures;
#[cfg(test)]
pub mod fixture;
mod group;
mod head;
mod markup;
mod section;
mod table;
mod units;

use crate::result::Report;
use group::{Group, Run};
use markup::escape;

/// The page for these reports, each with what its run is called. The first is what the others are compared
/// with.
pub fn render(reports: &[(String, Report)]) -> String {
    let runs = Run::all(reports);
    let groups = Group::all(&runs);
    let mut body = head::html(&runs, &groups);
    let mut next_id = 0;
    for (at, group) in groups.iter().enumerate() {
        body += &section::html(at, &runs, group, &mut next_id);
    }
    let markdown = escape(&table::markdown(&runs, &groups));
    markup::fill(
        include_str!("html/template.html"),
        &[
            ("title", &escape(&head::title(&runs, &groups))),
            ("css", include_str!("html/page.css")),
            ("body", &body),
            ("markdown", &markdown),
            ("js", include_str!("html/page.js")),
        ],
    )
}

/// The same figures as text, for a terminal.
pub fn text(reports: &[(String, Report)]) -> String {
    let runs = Run::all(reports);
    table::text(&runs, &Group::all(&runs))
}

#[cfg(test)]
mod tests;
