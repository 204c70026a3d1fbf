//! One load of all runs: what went wrong, its figures, its charts, and what only its scenario has.

use super::chart::Chart;
use super::curves::charts;
use super::figures::{ATTACKS, Cell, OUTCOME, Row, SETUP, errors_text, rows};
use super::group::{Group, Run, meaning};
use super::head::badge;
use super::markup::escape;
use super::units::Unit;
use crate::result::{AttackRow, Verdict};
use std::fmt::Write;

/// A group as HTML. `next_id` gives out what is unique on the page.
pub fn html(at: usize, runs: &[Run<'_>], group: &Group<'_>, next_id: &mut usize) -> String {
    let rows: Vec<Row> = rows(group).into_iter().filter(shown).collect();
    let mut html = format!(
        "<section class=\"load\" id=\"load{at}\"><h2>{} {}</h2>\n",
        escape(&group.title),
        badge(group.verdict())
    );
    html += &troubles(runs, group);
    if runs.len() == 1 {
        html += &tiles(&rows);
    }
    html += &attacks(runs, group);
    if group.scenario == "echo" {
        html += "<p class=\"caution\">Closed loop: each connection sends when its last burst is answered. These \
                 latencies are those at the load that the server sets itself, not the latency at a given rate.</p>\n";
    }
    html += &if runs.len() == 1 { sheets(&rows) } else { comparison(runs, group, &rows) };
    html += &waves(runs, group);
    let charts = charts(runs, group);
    html += &shades(&charts);
    html += "<div class=\"charts\">\n";
    for chart in charts {
        html += &chart.html(*next_id);
        *next_id += 1;
    }
    html + "</div></section>\n"
}

/// Attacks have their own table, and the verdict is in the heading.
fn shown(row: &Row) -> bool {
    row.section != ATTACKS && (row.section, row.name.as_str()) != (OUTCOME, "verdict")
}

/// Faults, notes, and verdicts that are not good, before anything else.
fn troubles(runs: &[Run<'_>], group: &Group<'_>) -> String {
    let mut html = String::new();
    for (run, load) in group.present(runs) {
        let errors = errors_text(&load.errors);
        if load.verdict == Verdict::Ok && errors == "none" {
            continue;
        }
        let who = if runs.len() > 1 {
            format!("<h3>{} {}</h3>", escape(&run.title()), badge(load.verdict))
        } else {
            String::new()
        };
        let class = if load.verdict == Verdict::Invalid { "invalid" } else { "failed" };
        let _ = write!(html, "<div class=\"trouble {class}\">{who}");
        let _ = write!(html, "<p>{}</p>", meaning(load.verdict));
        if !matches!(errors.as_str(), "none" | "see the notes") {
            let _ = write!(html, "<p><strong>{}</strong></p>", escape(&errors));
        }
        if !load.errors.notes.is_empty() {
            let notes = load.errors.notes.iter().map(|note| format!("<li>{}</li>", escape(note)));
            let _ = write!(html, "<ul>{}</ul>", notes.collect::<String>());
        }
        html += "</div>\n";
    }
    html
}

fn tiles(rows: &[Row]) -> String {
    let mut html = String::new();
    for row in rows.iter().filter(|row| row.headline) {
        let [Some(cell)] = row.cells.as_slice() else { continue };
        let invalid = if cell.invalid { " class=\"invalid\"" } else { "" };
        let (name, text) = (escape(&row.name), escape(&cell.text));
        let _ = write!(html, "<div{invalid}><dt>{name}</dt><dd>{text}</dd></div>");
    }
    if html.is_empty() { html } else { format!("<dl class=\"tiles\">{html}</dl>\n") }
}

/// One run: a small table for each section.
fn sheets(rows: &[Row]) -> String {
    let mut html = "<div class=\"sheets\">\n".to_owned();
    for section in rows.chunk_by(|a, b| a.section == b.section) {
        let _ = write!(html, "<table><caption>{}</caption><tbody>", section[0].section);
        for row in section {
            let cell = row.cells.first().and_then(Option::as_ref);
            let class = if cell.is_some_and(|cell| cell.invalid) { "invalid" } else { "" };
            let text = cell.map_or("–".to_owned(), |cell| escape(&cell.text));
            let name = escape(&row.name);
            let _ = write!(html, "<tr><th scope=\"row\">{name}</th><td class=\"{class}\">{text}</td></tr>");
        }
        html += "</tbody></table>\n";
    }
    html + "</div>\n"
}

/// What the shaded stretches of the charts are.
fn shades(charts: &[Chart]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (_, _, name) in charts.iter().flat_map(|chart| &chart.bands) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return String::new();
    }
    format!(
        "<p class=\"note\">Grey in the charts is what was not measured: {}.</p>\n",
        escape(&names.join(", "))
    )
}

/// Several runs: side by side, with the ratio to the first.
fn comparison(runs: &[Run<'_>], group: &Group<'_>, rows: &[Row]) -> String {
    let mut html =
        "<div class=\"scroll\" tabindex=\"0\"><table class=\"compare\"><thead><tr><td></td>".to_owned();
    for (run, load) in runs.iter().zip(&group.loads) {
        let verdict = load.map_or("no such load".to_owned(), |load| badge(load.verdict));
        let name = escape(run.name);
        let _ = write!(
            html,
            "<th scope=\"col\" class=\"c{}\"><span class=\"tag\">{}</span> {name}<br>{verdict}</th>",
            run.colour, run.tag
        );
    }
    html += "</tr></thead>\n";
    let (alike, rows): (Vec<&Row>, Vec<&Row>) = rows
        .iter()
        .partition(|row| row.section == SETUP && !row.differs && row.cells.iter().all(Option::is_some));
    for section in rows.chunk_by(|a, b| a.section == b.section) {
        let (name, columns) = (section[0].section, runs.len() + 1);
        let _ = writeln!(
            html,
            "<tbody><tr><th colspan=\"{columns}\" scope=\"rowgroup\"><span>{name}</span></th></tr>"
        );
        for row in section {
            html += &comparison_row(row);
        }
        html += "</tbody>\n";
    }
    self::alike(&alike)
        + &html
        + "</table></div>\n<p class=\"note\">×: ratio to the first run. ▲ better, ▼ worse, nothing: about the same or \
            not to be judged. An invalid run has no ratio. ≠: the runs were not set up alike.</p>\n"
}

/// The settings that are the same in all runs.
fn alike(rows: &[&Row]) -> String {
    let setting = |row: &&Row| {
        let cell = row.cells.first()?.as_ref()?;
        Some(format!("<span><i>{}</i> {}</span>", escape(&row.name), escape(&cell.text)))
    };
    let settings: Vec<String> = rows.iter().filter_map(setting).collect();
    if settings.is_empty() {
        return String::new();
    }
    format!("<p class=\"alike\">Alike in all runs: {}</p>\n", settings.join(" "))
}

fn comparison_row(row: &Row) -> String {
    let differs = if row.differs {
        " <span class=\"differs\" title=\"the runs were not set up alike\">≠</span>"
    } else {
        ""
    };
    let mut html = format!("<tr><th scope=\"row\">{}{differs}</th>", escape(&row.name));
    for cell in &row.cells {
        html += &match cell {
            Some(cell) => comparison_cell(cell),
            None => "<td>–</td>".to_owned(),
        };
    }
    html + "</tr>\n"
}

fn comparison_cell(cell: &Cell) -> String {
    let ratio = cell.ratio.as_ref().map(|ratio| {
        let (class, sign, word) = match ratio.better {
            Some(true) => (" better", "▲", "better"),
            Some(false) => (" worse", "▼", "worse"),
            None => ("", "", ""),
        };
        format!(" <span class=\"ratio{class}\" title=\"{word}\">{} {sign}</span>", ratio.text)
    });
    let class = if cell.invalid { " class=\"invalid\"" } else { "" };
    format!("<td{class}>{}{}</td>", escape(&cell.text), ratio.unwrap_or_default())
}

/// What the server did under each attack.
fn attacks(runs: &[Run<'_>], group: &Group<'_>) -> String {
    let rows = |at: usize| {
        group.loads[at].and_then(|load| load.attack.as_ref()).map_or(&[][..], |attack| &attack.rows)
    };
    let mut known: Vec<&AttackRow> = Vec::new();
    for at in 0..runs.len() {
        known.extend(
            rows(at)
                .iter()
                .filter(|row| known.iter().all(|known| known.name != row.name))
                .collect::<Vec<_>>(),
        );
    }
    if known.is_empty() {
        return String::new();
    }
    let mut html = "<div class=\"scroll\" tabindex=\"0\"><table class=\"list attacks\"><thead><tr>\
                    <th scope=\"col\">attack</th><th scope=\"col\">wanted</th>"
        .to_owned();
    for (at, run) in runs.iter().enumerate() {
        let who = if runs.len() > 1 { format!("{}: ", escape(&run.title())) } else { String::new() };
        let _ = write!(html, "<th scope=\"col\">{who}{}</th>", tally(rows(at)));
    }
    html += "</tr></thead><tbody>\n";
    for row in known {
        let (name, attack, wanted) = (escape(&row.name), escape(&row.attack), escape(&row.wanted));
        let _ = write!(html, "<tr><td><code>{name}</code><br>{attack}</td><td>{wanted}</td>");
        for at in 0..runs.len() {
            html += &attack_cell(rows(at).iter().find(|other| other.name == row.name));
        }
        html += "</tr>\n";
    }
    html + "</tbody></table></div>\n"
}

fn tally(rows: &[AttackRow]) -> String {
    let count = |outcome: &str| rows.iter().filter(|row| row.outcome == outcome).count();
    format!("{} ok, {} failed, {} skipped", count("ok"), count("failed"), count("skipped"))
}

fn attack_cell(row: Option<&AttackRow>) -> String {
    let Some(row) = row else { return "<td>–</td>".to_owned() };
    let (class, sign) = match row.outcome.as_str() {
        "ok" => ("ok", "✓"),
        "skipped" => ("skipped", "–"),
        _ => ("failed", "✗"),
    };
    let took = if row.duration_s > 0.0 {
        format!(" <span class=\"took\">{}</span>", Unit::Seconds.value(row.duration_s))
    } else {
        String::new()
    };
    format!(
        "<td class=\"{class}\"><strong>{sign} {}</strong>{took}<br>{}</td>",
        escape(&row.outcome),
        escape(&row.seen)
    )
}

/// The waves of a storm, each with the bar of its duration.
fn waves(runs: &[Run<'_>], group: &Group<'_>) -> String {
    let storms = || group.present(runs).filter_map(|(run, load)| Some((run, load.storm.as_ref()?)));
    let longest =
        storms().flat_map(|(_, storm)| &storm.waves).map(|wave| wave.duration_s).fold(0.0, f64::max);
    if longest <= 0.0 {
        return String::new();
    }
    let mut html = "<div class=\"scroll\" tabindex=\"0\"><table class=\"list waves\"><thead><tr>".to_owned();
    for name in ["wave", "all back after", "", "reconnected", "made again", "p50", "p99", "max"] {
        let _ = write!(html, "<th scope=\"col\">{name}</th>");
    }
    html += "</tr></thead><tbody>\n";
    for (run, storm) in storms() {
        for (at, wave) in storm.waves.iter().enumerate() {
            let tag = if runs.len() > 1 { format!("{} ", run.tag) } else { String::new() };
            let bar = wave.duration_s / longest * 100.0;
            let _ = write!(html, "<tr><td>{tag}{}</td>", at + 1);
            let _ = write!(html, "<td>{}</td>", Unit::Seconds.value(wave.duration_s));
            let _ = write!(html, "<td class=\"bar c{}\"><i style=\"width:{bar:.1}%\"></i></td>", run.colour);
            for count in [wave.reconnected, wave.retries] {
                let _ = write!(html, "<td>{}</td>", Unit::Count.value(count as f64));
            }
            for ns in [wave.latency.p50_ns, wave.latency.p99_ns, wave.latency.max_ns] {
                let _ = write!(html, "<td>{}</td>", Unit::Nanoseconds.value(ns as f64));
            }
            html += "</tr>\n";
        }
    }
    html + "</tbody></table></div>\n"
}
