//! The top of the page: what ran, where, and how it went.

use super::group::{Group, Run, meaning, word};
use super::markup::{escape, shell};
use super::units::{Unit, utc};
use crate::result::{Report, Threshold, Verdict};
use std::fmt::Write;

/// A verdict as a badge.
pub fn badge(verdict: Verdict) -> String {
    let (sign, word) = word(verdict);
    format!("<span class=\"badge {word}\"><span aria-hidden=\"true\">{sign}</span> {word}</span>")
}

/// The page's title, as text.
pub fn title(runs: &[Run<'_>], groups: &[Group<'_>]) -> String {
    match runs {
        [run] => {
            let scenarios: Vec<&str> = groups.iter().map(|group| group.title.as_str()).collect();
            match scenarios.as_slice() {
                [] => run.name.to_owned(),
                [one] => format!("{}: {one}", run.name),
                [one, rest @ ..] => format!("{}: {one} and {} more", run.name, rest.len()),
            }
        }
        _ => runs.iter().map(|run| run.name).collect::<Vec<_>>().join(" · "),
    }
}

/// Everything before the first load.
pub fn html(runs: &[Run<'_>], groups: &[Group<'_>]) -> String {
    let mut html = format!("<header><h1>{}</h1>\n", escape(&title(runs, groups)));
    html += "<div class=\"runs\">";
    for run in runs {
        html += &card(run, runs.len() > 1);
    }
    html += "</div>\n";
    html += &cautions(runs);
    if groups.len() > 1 {
        html += &contents(groups);
    }
    html + "</header>\n" + &thresholds(runs)
}

fn card(run: &Run<'_>, tagged: bool) -> String {
    let Report { host, verdict, .. } = run.report;
    let (_, word) = word(*verdict);
    let mut html = format!("<section class=\"run c{} {word}\"><h2>", run.colour);
    if tagged {
        let _ = write!(html, "<span class=\"tag\">{}</span> {} ", run.tag, escape(run.name));
    }
    let _ = write!(html, "{}</h2><p class=\"meaning\">{}</p><dl>", badge(*verdict), meaning(*verdict));
    let congestion = match host.congestion_control.as_str() {
        "" => String::new(),
        control => format!(" · TCP {control}"),
    };
    let place = format!("{} × {} · Linux {}{congestion}", host.cpus, host.cpu, host.kernel);
    for (name, text) in
        [("began", utc(run.report.started_unix_ms)), ("by", run.report.tool.clone()), ("on", place)]
    {
        let _ = write!(html, "<dt>{name}</dt><dd>{}</dd>", escape(&text));
    }
    // A line of it breaks between arguments.
    let arguments = run.report.command.iter().map(|argument| escape(&shell(argument)));
    let command: Vec<String> = arguments.map(|argument| format!("<span>{argument}</span>")).collect();
    html + &format!("<dt>command</dt><dd><code>{}</code></dd></dl></section>", command.join(" "))
}

/// What a reader of a comparison must know first.
fn cautions(runs: &[Run<'_>]) -> String {
    let differ = |of: &dyn Fn(&Report) -> String| runs.iter().any(|run| of(run.report) != of(runs[0].report));
    let mut cautions = Vec::new();
    if differ(&|report| format!("{}/{}/{}", report.host.cpu, report.host.cpus, report.host.kernel)) {
        cautions.push(
            "The runs were made on different hosts or kernels: their ratios are not those of the servers.",
        );
    }
    if differ(&|report| report.tool.clone()) {
        cautions.push("The runs were made by different versions of the generator.");
    }
    cautions.iter().map(|caution| format!("<p class=\"caution\">⚠ {caution}</p>\n")).collect()
}

fn contents(groups: &[Group<'_>]) -> String {
    let mut html = "<nav aria-label=\"Loads\"><ol>".to_owned();
    for (at, group) in groups.iter().enumerate() {
        let title = escape(&group.title);
        let _ = write!(html, "<li><a href=\"#load{at}\">{title}</a> {}</li>", badge(group.verdict()));
    }
    html + "</ol></nav>\n"
}

fn thresholds(runs: &[Run<'_>]) -> String {
    if runs.iter().all(|run| run.report.thresholds.is_empty()) {
        return String::new();
    }
    let mut html =
        "<section><h2>Thresholds</h2><div class=\"scroll\"><table class=\"list\"><thead><tr>".to_owned();
    if runs.len() > 1 {
        html += "<th scope=\"col\">run</th>";
    }
    for name in ["result", "fails if", "load", "measured"] {
        let _ = write!(html, "<th scope=\"col\">{name}</th>");
    }
    html += "</tr></thead><tbody>";
    for run in runs {
        for threshold in &run.report.thresholds {
            html += &threshold_row(run, threshold, runs.len() > 1);
        }
    }
    html + "</tbody></table></div></section>\n"
}

fn threshold_row(run: &Run<'_>, threshold: &Threshold, tagged: bool) -> String {
    let tag = if tagged { format!("<td>{}</td>", escape(&run.title())) } else { String::new() };
    let (class, result) = if threshold.fails { ("failed", "✗ failed") } else { ("ok", "✓ held") };
    let unit = threshold.condition.trim_start_matches(|char: char| !"<>=".contains(char));
    let unit = unit.trim_start_matches(|char: char| !char.is_alphabetic() && char != '%');
    let measured = match threshold.measured {
        Some(number) => format!("{} {unit}", Unit::Count.value((number * 1e3).round() / 1e3)),
        None => "not measured by this load".to_owned(),
    };
    format!(
        "<tr>{tag}<td class=\"{class}\">{result}</td><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
        escape(&threshold.condition),
        escape(&threshold.load),
        escape(&measured)
    )
}
