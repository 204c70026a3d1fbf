//! Runs as text: a table for a terminal, and one in Markdown for an issue.

use super::figures::{Cell, Row, rows};
use super::group::{Group, Run, meaning};
use super::markup::plain;
use crate::result::{Load, Verdict};

/// One load of all runs.
struct Table {
    title: String,
    head: Vec<String>,
    /// A section's name, or a figure's with its cells.
    lines: Vec<Line>,
    /// What went wrong, in words.
    notes: Vec<String>,
}

enum Line {
    Section(String),
    Figure(Vec<String>),
}

/// For a terminal.
pub fn text(runs: &[Run<'_>], groups: &[Group<'_>]) -> String {
    let tables: Vec<String> = groups.iter().map(|group| table(runs, group).text()).collect();
    tables.join("\n")
}

/// For an issue.
pub fn markdown(runs: &[Run<'_>], groups: &[Group<'_>]) -> String {
    let tables: Vec<String> = groups.iter().map(|group| table(runs, group).markdown()).collect();
    tables.join("\n")
}

fn table(runs: &[Run<'_>], group: &Group<'_>) -> Table {
    let mut lines = Vec::new();
    let mut section = "";
    for row in rows(group) {
        if row.section != section {
            section = row.section;
            lines.push(Line::Section(section.to_owned()));
        }
        lines.push(Line::Figure(cells(&row)));
    }
    let head = runs.iter().map(|run| plain(&run.title()));
    let head = std::iter::once(String::new()).chain(head).collect();
    Table { title: plain(&group.title), head, lines, notes: notes(runs, group) }
}

fn notes(runs: &[Run<'_>], group: &Group<'_>) -> Vec<String> {
    let of_run = |(run, load): (&Run<'_>, &Load)| {
        let mut notes = load.errors.notes.clone();
        if load.verdict == Verdict::Invalid {
            notes.insert(0, meaning(load.verdict).to_owned());
        }
        notes.into_iter().map(|note| plain(&format!("{}: {note}", run.title()))).collect::<Vec<_>>()
    };
    group.present(runs).flat_map(of_run).collect()
}

fn cells(row: &Row) -> Vec<String> {
    let sign = if row.differs { " ≠" } else { "" };
    let cells = row.cells.iter().map(|cell| cell.as_ref().map_or("–".to_owned(), cell_text));
    std::iter::once(plain(&row.name) + sign).chain(cells).collect()
}

fn cell_text(cell: &Cell) -> String {
    let ratio = cell.ratio.as_ref().map(|ratio| format!(" ({})", ratio.text));
    let invalid = if cell.invalid { " [invalid]" } else { "" };
    plain(&cell.text) + &ratio.unwrap_or_default() + invalid
}

impl Table {
    fn widths(&self) -> Vec<usize> {
        let figures = self.lines.iter().filter_map(|line| match line {
            Line::Section(_) => None,
            Line::Figure(cells) => Some(cells),
        });
        let mut widths = vec![0; self.head.len()];
        for cells in figures.chain(std::iter::once(&self.head)) {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }

    fn text(&self) -> String {
        let widths = self.widths();
        let line = |cells: &[String]| {
            let padded: Vec<String> =
                cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
            format!("  {}", padded.join("  ")).trim_end().to_owned() + "\n"
        };
        let mut text = format!("{}\n{}", self.title, line(&self.head));
        for each in &self.lines {
            match each {
                Line::Section(name) => text += &format!(" {name}\n"),
                Line::Figure(cells) => text += &line(cells),
            }
        }
        text + &self.notes.iter().map(|note| format!(" ! {note}\n")).collect::<String>()
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| inert(cell)).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut text = format!("### {}\n\n{}", inert(&self.title), line(&self.head));
        text += &format!("|---|{}\n", "---:|".repeat(self.head.len() - 1));
        for each in &self.lines {
            match each {
                Line::Section(name) => {
                    text += &format!("| **{name}** |{}\n", " |".repeat(self.head.len() - 1))
                }
                Line::Figure(cells) => text += &line(cells),
            }
        }
        let notes = self.notes.iter().map(|note| format!("- {}\n", inert(note))).collect::<String>();
        text + if notes.is_empty() { "" } else { "\n" } + &notes
    }
}

/// Text in a Markdown table that is nothing but text.
fn inert(text: &str) -> String {
    let mut inert = String::with_capacity(text.len());
    for char in text.chars() {
        if "\\`*_[]<>|#@".contains(char) {
            inert.push('\\');
        }
        inert.push(char);
    }
    inert
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::html::fixture;

    #[test]
    fn columns_line_up_and_ratios_are_to_the_first() {
        let reports =
            [fixture::named("ours", fixture::echo(1.0)), fixture::named("theirs", fixture::echo(2.0))];
        let runs = Run::all(&reports);
        let text = text(&runs, &Group::all(&runs));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "echo");
        let find = |name: &str| *lines.iter().find(|line| line.trim_start().starts_with(name)).unwrap();
        let place = |line: &str, what: &str| line.find(what).map(|at| line[..at].chars().count());
        assert_eq!(place(find("messages  "), "20 B"), place(lines[1], "A · ours"), "{text}");
        assert!(text.contains("400,000/s             200,000/s (×0.50)"), "{text}");
        assert!(find("p99 ").ends_with("(×2.00)") && find("p99 ").matches('×').count() == 1, "{text}");
        assert!(text.contains("closed loop: not the latency at a given rate"), "{text}");
    }

    #[test]
    fn names_do_not_become_markdown_or_commands_to_a_terminal() {
        let mut load = fixture::echo(1.0);
        load["name"] = "a|b <b>@you\u{1b}[2J".into();
        let reports = [fixture::named("x", load)];
        let runs = Run::all(&reports);
        let groups = Group::all(&runs);
        assert!(markdown(&runs, &groups).starts_with(r"### a\|b \<b\>\@you \[2J (echo)"));
        assert!(!text(&runs, &groups).contains('\u{1b}'));
    }
}
