//! A line chart as inline SVG.
//!
//! The SVG's box is the plot itself: lines are drawn in a stretched inner box, labels are placed in percent
//! and hang over the edge. So a chart takes any width, and its text and strokes keep their size.

use super::axis::{Axis, Mark};
use super::markup::escape;
use std::fmt::Write;

/// The inner box is so wide and so high.
const BOX: f64 = 10_000.0;
/// Labels at the ends of lines keep this distance, as a part of the height.
const LABEL_DISTANCE: f64 = 0.065;

/// Lines on common axes.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What is shown.
    pub title: String,
    /// What to know when reading it.
    pub note: String,
    /// Takes the whole width.
    pub wide: bool,
    /// How `page.js` reads a place on the x axis: `percentile` or `seconds`.
    pub x_kind: &'static str,
    /// Left to right.
    pub x: Axis,
    /// Bottom to top; the reader picks one if there are two.
    pub y: Vec<(&'static str, Axis)>,
    /// Lines, the first on top.
    pub series: Vec<Series>,
    /// Stretches of the x axis, by name.
    pub bands: Vec<(f64, f64, String)>,
    /// Whether the series are named above the plot, too.
    pub legend: bool,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Series {
    /// In full.
    pub name: String,
    /// At its end.
    pub label: String,
    /// Its colour and kind, for `page.css`.
    pub class: String,
    /// `None` interrupts it.
    pub points: Vec<Option<(f64, f64)>>,
}

impl Chart {
    /// As HTML; `id` is unique on the page.
    pub fn html(&self, id: usize) -> String {
        let mut html = format!("<figure class=\"chart{}\">", if self.wide { " wide" } else { "" });
        let _ = write!(html, "<figcaption><h4>{}</h4>", escape(&self.title));
        if !self.note.is_empty() {
            let _ = write!(html, "<p class=\"note\">{}</p>", escape(&self.note));
        }
        if self.legend {
            html += &self.legend();
        }
        html += "</figcaption>";
        if self.y.len() > 1 {
            html += &self.picks(id);
        }
        for (at, (_, axis)) in self.y.iter().enumerate() {
            let _ = write!(html, "<div class=\"plot y{at}\">{}</div>", self.svg(&format!("{id}-{at}"), axis));
        }
        html + "</figure>\n"
    }

    fn legend(&self) -> String {
        let mut html = "<ul class=\"legend\">".to_owned();
        for series in &self.series {
            let swatch = "<svg viewBox=\"0 0 24 8\" aria-hidden=\"true\"><path d=\"M1 4H23\"/></svg>";
            let _ = write!(html, "<li class=\"{}\">{swatch}{}</li>", series.class, escape(&series.name));
        }
        html + "</ul>"
    }

    fn picks(&self, id: usize) -> String {
        let mut html = String::new();
        for (at, (name, _)) in self.y.iter().enumerate() {
            let checked = if at == 0 { " checked" } else { "" };
            let _ = write!(
                html,
                "<input type=\"radio\" class=\"y{at}\" name=\"y{id}\" id=\"y{id}-{at}\"{checked}>\
                 <label for=\"y{id}-{at}\">{name}</label>"
            );
        }
        html
    }

    fn svg(&self, id: &str, y: &Axis) -> String {
        let mut svg = format!(
            "<svg role=\"img\" aria-labelledby=\"t{id} d{id}\" data-x=\"{}\" data-end=\"{}\">\
             <title id=\"t{id}\">{}</title><desc id=\"d{id}\">{}</desc>",
            self.x_kind,
            self.x.high(),
            escape(&self.title),
            escape(&self.description(y))
        );
        svg += &self.band_rects();
        svg += &grid(&self.x, y);
        let _ = write!(svg, "<svg class=\"inner\" viewBox=\"0 0 {BOX} {BOX}\" preserveAspectRatio=\"none\">");
        for series in self.series.iter().rev() {
            svg += &self.path(series, y);
        }
        svg += "</svg>";
        svg += &self.end_labels(y);
        svg + "</svg>"
    }

    /// What someone learns who does not see the lines.
    fn description(&self, y: &Axis) -> String {
        let texts = self.series.iter().filter_map(|series| {
            let values = || series.points.iter().flatten().map(|point| point.1);
            let lowest = values().reduce(f64::min)?;
            let highest = values().reduce(f64::max)?;
            let last = values().next_back()?;
            let [lowest, highest, last] = [lowest, highest, last].map(|value| y.unit.value(value));
            Some(format!("{}: from {lowest} to {highest}, at the end {last}.", series.name))
        });
        texts.collect::<Vec<_>>().join(" ")
    }

    fn band_rects(&self) -> String {
        let mut svg = String::new();
        for (from, to, name) in &self.bands {
            let (from, to) = (self.x.place(*from), self.x.place(*to));
            let (x, width) = (percent(from), percent(to - from));
            let _ = write!(svg, "<rect class=\"band\" x=\"{x}\" width=\"{width}\" height=\"100%\"/>");
            // About what a word needs in a chart of half the page's width.
            if to - from > 0.015 * name.chars().count() as f64 {
                let _ =
                    write!(svg, "<text class=\"band\" x=\"{x}\" dx=\"4\" dy=\"13\">{}</text>", escape(name));
            }
        }
        svg
    }

    fn path(&self, series: &Series, y: &Axis) -> String {
        let mut path = String::new();
        let mut texts = String::new();
        let mut pen_up = true;
        let mut alone = false;
        for point in &series.points {
            let Some((x, value)) = *point else {
                // A point between two gaps would not be seen but for its round ends.
                path += if alone { "h0" } else { "" };
                (pen_up, alone) = (true, false);
                continue;
            };
            let (left, top) = (self.x.place(x) * BOX, (1.0 - y.place(value)) * BOX);
            let _ = write!(path, "{}{left:.0} {top:.0}", if pen_up { 'M' } else { 'L' });
            let _ = write!(texts, "{}{}", if texts.is_empty() { "" } else { "|" }, y.unit.value(value));
            (pen_up, alone) = (false, pen_up);
        }
        path += if alone { "h0" } else { "" };
        let name = escape(&series.name);
        format!(
            "<path class=\"line {}\" d=\"{path}\" data-name=\"{name}\" data-text=\"{texts}\"/>",
            series.class
        )
    }

    fn end_labels(&self, y: &Axis) -> String {
        let mut ends: Vec<(f64, f64, &Series)> = Vec::new();
        for series in &self.series {
            if let Some((x, value)) = series.points.iter().rev().flatten().next() {
                ends.push((self.x.place(*x), y.place(*value), series));
            }
        }
        ends.sort_by(|a, b| a.1.total_cmp(&b.1));
        spread(&mut ends);
        let mut svg = String::new();
        for (x, y, series) in ends {
            let (x, y) = (percent(x), percent(1.0 - y));
            let label = escape(&series.label);
            let _ = write!(
                svg,
                "<text class=\"end {}\" x=\"{x}\" y=\"{y}\" dx=\"6\" dy=\".34em\">{label}</text>",
                series.class
            );
        }
        svg
    }
}

/// Moves labels that are sorted from low to high apart, upwards, and all of them down again by what the
/// last is too high.
fn spread(ends: &mut [(f64, f64, &Series)]) {
    let mut least = f64::MIN;
    for end in ends.iter_mut() {
        end.1 = end.1.max(least);
        least = end.1 + LABEL_DISTANCE;
    }
    let mut most = 1.0;
    for end in ends.iter_mut().rev() {
        end.1 = end.1.min(most);
        most = end.1 - LABEL_DISTANCE;
    }
}

fn grid(x: &Axis, y: &Axis) -> String {
    let mut svg = String::new();
    for Mark { at, label, .. } in &y.marks {
        let y = percent(1.0 - at);
        let _ = write!(
            svg,
            "<line x2=\"100%\" y1=\"{y}\" y2=\"{y}\"/><text class=\"y\" y=\"{y}\" dx=\"-8\" dy=\".34em\">{label}</text>"
        );
    }
    for Mark { at, label, minor } in &x.marks {
        let x = percent(*at);
        let minor = if *minor { " minor" } else { "" };
        let _ = write!(
            svg,
            "<line class=\"x\" x1=\"{x}\" x2=\"{x}\" y2=\"100%\"/>\
             <text class=\"x{minor}\" x=\"{x}\" y=\"100%\" dy=\"18\">{label}</text>"
        );
    }
    svg
}

fn percent(part: f64) -> String {
    format!("{:.2}%", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::html::units::Unit;

    fn chart(points: Vec<Option<(f64, f64)>>) -> Chart {
        let series = Series { name: "A · <ours>".into(), label: "A".into(), class: "c0".into(), points };
        Chart {
            title: "Latency".into(),
            note: String::new(),
            wide: false,
            x_kind: "seconds",
            x: Axis::seconds(10.0),
            y: vec![("linear", Axis::linear(1_000.0, Unit::Nanoseconds))],
            series: vec![series],
            bands: vec![(0.0, 2.0, "connect".into())],
            legend: true,
        }
    }

    #[test]
    fn a_line_breaks_where_nothing_was_measured() {
        let points =
            vec![Some((0.0, 0.0)), Some((5.0, 500.0)), None, Some((7.5, 250.0)), None, Some((10.0, 1e9))];
        let html = chart(points).html(7);
        assert!(html.contains("d=\"M0 10000L5000 5000M7500 7500h0M10000 0h0\""), "{html}");
        assert!(html.contains("data-text=\"0 ns|500 ns|250 ns|1.00 s\""), "{html}");
    }

    #[test]
    fn a_chart_can_be_read_without_seeing_it() {
        let html = chart(vec![Some((0.0, 100.0)), Some((10.0, 300.0))]).html(7);
        assert!(html.contains("role=\"img\" aria-labelledby=\"t7-0 d7-0\""), "{html}");
        assert!(html.contains("A · &lt;ours&gt;: from 100 ns to 300 ns, at the end 300 ns."), "{html}");
        assert!(!html.contains("<ours>"), "{html}");
    }

    #[test]
    fn labels_at_the_ends_do_not_lie_on_each_other() {
        let chart = chart(vec![]);
        let series = &chart.series[0];
        let mut ends = [0.5, 0.5, 0.99, 1.0].map(|y| (1.0, y, series));
        spread(&mut ends);
        for pair in ends.windows(2) {
            assert!(pair[1].1 - pair[0].1 > LABEL_DISTANCE - 1e-9, "{ends:?}");
        }
        assert!(ends[3].1 <= 1.0 && ends[0].1 >= 0.0);
    }
}
