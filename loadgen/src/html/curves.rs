//! What is drawn of a load: its distributions by percentile, and its course over time. The lines of several
//! runs share their axes; of one run, what would be several charts shares one.

use super::axis::Axis;
use super::chart::{Chart, Series};
use super::distribution::Curve;
use super::group::{Group, Run};
use super::units::Unit;
use crate::result::{Latency, Load, Point, Verdict};

/// A line has no more points than this: a screen shows no more.
const MAX_POINTS: usize = 600;
/// Beyond this ratio of the largest to the smallest value a logarithmic axis is shown first.
const WIDE_RANGE: f64 = 20.0;

type Points = Vec<Option<(f64, f64)>>;

/// Something of a load that makes a line: its name, and its points in each run.
struct Variant {
    name: &'static str,
    lines: Vec<Option<Points>>,
}

/// All charts of a group.
pub fn charts(runs: &[Run<'_>], group: &Group<'_>) -> Vec<Chart> {
    let mut charts = percentiles(runs, group);
    for course in &COURSES {
        charts.extend(course.charts(runs, group));
    }
    charts
}

/// The distributions of a load, by what they are of. The first is the one that matters.
fn distributions(load: &Load) -> Vec<(&'static str, Vec<&Latency>)> {
    if let Some(echo) = &load.echo {
        return vec![("latency", vec![&echo.latency])];
    }
    if let Some(rate) = &load.rate {
        return vec![("latency", vec![&rate.latency]), ("send lag", vec![&rate.send_lag])];
    }
    if let Some(of) = &load.broadcast {
        return vec![("first", vec![&of.first]), ("median", vec![&of.median]), ("last", vec![&of.last])];
    }
    if let Some(churn) = &load.churn {
        return vec![("handshake", vec![&churn.latency])];
    }
    if let Some(storm) = &load.storm {
        return vec![("reconnect", storm.waves.iter().map(|wave| &wave.latency).collect())];
    }
    match load.idle.as_ref().and_then(|idle| idle.heartbeat.as_ref()) {
        Some(heartbeat) => vec![("echo", vec![heartbeat])],
        None if load.attack.is_some() => Vec::new(),
        None => vec![("handshake", vec![&load.ramp.latency])],
    }
}

fn percentile_note(scenario: &str) -> &'static str {
    match scenario {
        "echo" => "Closed loop: not the latency at a given rate. A slow server is asked less.",
        "rate" => {
            "From the time a message was due, so that nothing is omitted. Send lag is the generator's own lateness in it."
        }
        "broadcast" => "From the time a message was due to its first, its middle and its last subscriber.",
        "storm" => "From a wave's beginning to an open WebSocket, all waves.",
        "idle" => "Of an echo on some of the connections now and then, from the time it was due.",
        _ => "From asking for a connection to its open WebSocket.",
    }
}

fn percentiles(runs: &[Run<'_>], group: &Group<'_>) -> Vec<Chart> {
    let mut variants: Vec<Variant> = Vec::new();
    let mut coarse = false;
    for (at, load) in group.loads.iter().enumerate() {
        for (name, latencies) in load.map(distributions).unwrap_or_default() {
            let Some(curve) = Curve::of(&latencies) else { continue };
            coarse |= curve.coarse;
            let known = variants.iter().position(|variant| variant.name == name).unwrap_or_else(|| {
                variants.push(Variant { name, lines: vec![None; runs.len()] });
                variants.len() - 1
            });
            variants[known].lines[at] = Some(curve.points.into_iter().map(Some).collect());
        }
    }
    let mut note = percentile_note(group.scenario).to_owned();
    if coarse {
        note += " A histogram could not be read: its curve joins the percentiles that the report names.";
    }
    let mut charts = assemble("Latency by percentile", &note, Unit::Nanoseconds, variants, runs, group);
    let alone = charts.len() == 1;
    for (at, chart) in charts.iter_mut().enumerate() {
        // The subscribers of a broadcast are read against each other.
        chart.wide = at == 0 && (alone || group.scenario != "broadcast");
        chart.x_kind = "percentile";
        if chart.title.ends_with(": send lag") {
            chart.note =
                "The generator's own lateness: from the time a message was due to the time it was sent."
                    .into();
        }
        chart.x = Axis::percentiles(end(&chart.series));
        let (linear, logarithmic) = axes(&chart.series, Unit::Nanoseconds);
        chart.y = vec![("linear", linear), ("logarithmic", logarithmic)];
        if range(&chart.series) > WIDE_RANGE {
            chart.y.reverse();
        }
    }
    charts
}

/// Something that is measured over and over.
struct Course {
    title: &'static str,
    note: &'static str,
    unit: Unit,
    /// Only drawn if so many of its points are not zero.
    least: usize,
    /// Only the first is drawn where runs are compared, unless they are of equal weight.
    equal: bool,
    lines: &'static [(&'static str, Read)],
}

type Read = fn(&Load, &Point) -> Option<f64>;

const COURSES: [Course; 8] = [
    Course {
        title: "Throughput",
        note: "Messages received and checked.",
        unit: Unit::PerSecond,
        least: 1,
        equal: false,
        lines: &[
            ("received", |_, point| Some(point.received_per_s)),
            // Only where it is not the same by the scenario's nature.
            ("sent", |load, point| (load.scenario != "echo").then_some(point.sent_per_s)),
        ],
    },
    Course {
        title: "Latency over time",
        note: "",
        unit: Unit::Nanoseconds,
        least: 1,
        equal: true,
        lines: &[
            ("p50", |_, point| point.p50_ns.map(|ns| ns as f64)),
            ("p99", |_, point| point.p99_ns.map(|ns| ns as f64)),
            ("p99.9", |_, point| point.p999_ns.map(|ns| ns as f64)),
        ],
    },
    Course {
        title: "Connections",
        note: "Open at that time.",
        unit: Unit::Count,
        least: 1,
        equal: false,
        lines: &[("open", |_, point| Some(point.connections as f64))],
    },
    Course {
        title: "Handshakes",
        note: "",
        unit: Unit::PerSecond,
        least: 4,
        equal: false,
        lines: &[("handshakes", |_, point| Some(point.handshakes_per_s))],
    },
    Course {
        title: "The server's memory",
        note: "Resident.",
        unit: Unit::Bytes,
        least: 1,
        equal: false,
        lines: &[("resident", |_, point| point.server_rss_bytes.map(|bytes| bytes as f64))],
    },
    Course {
        title: "The kernel's slab",
        note: "Growth since the load began: both ends if both are on this host, and whatever else it does.",
        unit: Unit::Bytes,
        least: 1,
        equal: false,
        lines: &[("slab", |load, point| {
            let first = load.series.iter().find_map(|point| point.kernel_slab_bytes)?;
            Some(point.kernel_slab_bytes?.saturating_sub(first) as f64)
        })],
    },
    Course {
        title: "The server's CPUs",
        note: "1 is one core all the time.",
        unit: Unit::Cpus,
        least: 1,
        equal: false,
        lines: &[("server", |_, point| point.server_cpus)],
    },
    Course {
        title: "Faults so far",
        note: "",
        unit: Unit::Count,
        least: 1,
        equal: false,
        lines: &[("faults", |_, point| Some(point.errors as f64))],
    },
];

impl Course {
    fn charts(&self, runs: &[Run<'_>], group: &Group<'_>) -> Vec<Chart> {
        let variants = self.lines.iter().map(|&(name, read)| {
            let line = |load: &&Load| self.line(load, read);
            Variant { name, lines: group.loads.iter().map(|load| load.as_ref().and_then(line)).collect() }
        });
        let mut variants: Vec<Variant> =
            variants.filter(|variant| variant.lines.iter().any(Option::is_some)).collect();
        if runs.len() > 1 && !self.equal {
            variants.truncate(1);
        }
        let mut charts = assemble(self.title, self.note, self.unit, variants, runs, group);
        for chart in &mut charts {
            chart.x = Axis::seconds(course_end(group));
            if self.unit == Unit::Nanoseconds && group.scenario == "echo" {
                chart.note += "Closed loop: not the latency at a given rate.";
            }
            if self.unit == Unit::Nanoseconds && range(&chart.series) > WIDE_RANGE {
                chart.y = vec![("logarithmic", axes(&chart.series, self.unit).1)];
            }
            if let [run] = group.loads.as_slice() {
                chart.bands = run.map(phases).unwrap_or_default();
            }
        }
        charts
    }

    fn line(&self, load: &Load, read: Read) -> Option<Points> {
        let point = |point: &Point| Some((point.t_s, read(load, point).filter(|value| value.is_finite())?));
        let points: Points = load.series.iter().map(point).collect();
        let telling = points.iter().flatten().filter(|point| point.1 != 0.0).count();
        (telling >= self.least).then(|| thin(points))
    }
}

/// Of many points keeps the lowest and the highest of each stretch, so that no spike is lost.
fn thin(points: Points) -> Points {
    if points.len() <= MAX_POINTS {
        return points;
    }
    let stretch = points.len().div_ceil(MAX_POINTS / 2);
    let mut thinned = Points::with_capacity(MAX_POINTS);
    for stretch in points.chunks(stretch) {
        let value = |at: &usize| stretch[*at].map_or(f64::NAN, |point| point.1);
        let measured = (0..stretch.len()).filter(|&at| stretch[at].is_some());
        let lowest = measured.clone().min_by(|a, b| value(a).total_cmp(&value(b)));
        let highest = measured.max_by(|a, b| value(a).total_cmp(&value(b)));
        match lowest.zip(highest) {
            Some((lowest, highest)) => {
                thinned.push(stretch[lowest.min(highest)]);
                if lowest != highest {
                    thinned.push(stretch[lowest.max(highest)]);
                }
            }
            None => thinned.push(None),
        }
    }
    thinned
}

/// One chart with all variants for one run, and one for each variant where runs are compared. The x axis is
/// left to the caller.
fn assemble(
    title: &str,
    note: &str,
    unit: Unit,
    variants: Vec<Variant>,
    runs: &[Run<'_>],
    group: &Group<'_>,
) -> Vec<Chart> {
    let charts: Vec<(String, Vec<Series>)> = if runs.len() == 1 {
        let series = variants
            .iter()
            .enumerate()
            .filter_map(|(at, variant)| own_line(at, variants.len(), variant, group));
        vec![(title.to_owned(), series.collect())]
    } else {
        let several = variants.len() > 1;
        let title =
            |variant: &Variant| if several { format!("{title}: {}", variant.name) } else { title.to_owned() };
        variants.iter().map(|variant| (title(variant), lines_of_runs(variant, runs, group))).collect()
    };
    let drawn = charts.into_iter().filter(|chart| !chart.1.is_empty());
    let chart = |(title, series): (String, Vec<Series>)| Chart {
        title,
        note: if runs.len() == 1 && group.verdict() == Verdict::Invalid {
            format!("⚠ Invalid: the generator could not keep up. {note}")
        } else {
            note.to_owned()
        },
        wide: false,
        x_kind: "seconds",
        x: Axis::seconds(1.0),
        y: vec![("linear", axes(&series, unit).0)],
        legend: runs.len() > 1,
        series,
        bands: Vec::new(),
    };
    drawn.map(chart).collect()
}

/// Shades of one colour: of three lines from light to dark, else the strong one first.
const SHADES: [&[&str]; 3] = [&["v1"], &["v1", "v0"], &["v0", "v1", "v2"]];

fn own_line(at: usize, of: usize, variant: &Variant, group: &Group<'_>) -> Option<Series> {
    let invalid = group.verdict() == Verdict::Invalid;
    let shades = SHADES[of.clamp(1, 3) - 1];
    let name = if of > 1 { variant.name } else { "" };
    Some(Series {
        name: variant.name.to_owned() + if invalid { " (invalid)" } else { "" },
        label: name.to_owned(),
        class: shades[at % shades.len()].to_owned() + if invalid { " invalid" } else { "" },
        points: variant.lines.first()?.clone()?,
    })
}

fn lines_of_runs(variant: &Variant, runs: &[Run<'_>], group: &Group<'_>) -> Vec<Series> {
    let series = runs.iter().zip(&variant.lines).enumerate().filter_map(|(at, (run, points))| {
        let invalid = group.loads[at].is_some_and(|load| load.verdict == Verdict::Invalid);
        Some(Series {
            name: run.title() + if invalid { " (invalid)" } else { "" },
            label: run.tag.clone() + if invalid { " ⚠" } else { "" },
            class: format!("c{}{}", run.colour, if invalid { " invalid" } else { "" }),
            points: points.clone()?,
        })
    });
    series.collect()
}

/// What was going on but for measuring, by time.
fn phases(load: &Load) -> Vec<(f64, f64, String)> {
    let mut phases: Vec<(f64, f64, String)> = Vec::new();
    let mut before = 0.0;
    for point in &load.series {
        match phases.last_mut().filter(|phase| phase.2 == point.phase) {
            Some(phase) => phase.1 = point.t_s,
            None => phases.push((before, point.t_s, point.phase.clone())),
        }
        before = point.t_s;
    }
    phases.retain(|phase| phase.2 != "measure");
    phases
}

fn values(series: &[Series]) -> impl Iterator<Item = (f64, f64)> + '_ {
    series.iter().flat_map(|series| series.points.iter().flatten().copied())
}

fn end(series: &[Series]) -> f64 {
    values(series).map(|point| point.0).fold(0.0, f64::max)
}

/// When the longest of the loads ended, in seconds: all courses of a group are as wide.
fn course_end(group: &Group<'_>) -> f64 {
    let points = group.loads.iter().flatten().flat_map(|load| &load.series);
    points.map(|point| point.t_s).fold(0.0, f64::max)
}

fn highest(series: &[Series]) -> f64 {
    values(series).map(|point| point.1).fold(0.0, f64::max)
}

fn lowest(series: &[Series]) -> f64 {
    values(series).map(|point| point.1).filter(|&value| value > 0.0).fold(f64::INFINITY, f64::min)
}

/// How many times the smallest value the largest is.
fn range(series: &[Series]) -> f64 {
    highest(series) / lowest(series)
}

/// A linear and a logarithmic axis for all values.
fn axes(series: &[Series], unit: Unit) -> (Axis, Axis) {
    let (lowest, highest) = (lowest(series), highest(series));
    (Axis::linear(highest, unit), Axis::logarithmic(lowest, highest, unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::html::fixture;

    fn titles(charts: &[Chart]) -> Vec<&str> {
        charts.iter().map(|chart| chart.title.as_str()).collect()
    }

    #[test]
    fn one_run_has_its_percentiles_in_one_chart() {
        let reports = [fixture::named("ours", fixture::load("rate", 1.0))];
        let runs = Run::all(&reports);
        let charts = charts(&runs, &Group::all(&runs)[0]);
        let expected = [
            "Latency by percentile",
            "Throughput",
            "Latency over time",
            "Connections",
            "Handshakes",
            "The server's memory",
            "The kernel's slab",
            "The server's CPUs",
        ];
        assert_eq!(titles(&charts), expected);
        let names = |chart: &Chart| chart.series.iter().map(|series| series.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&charts[2]), ["p50", "p99", "p99.9"]);
        assert_eq!(
            charts[2].bands.iter().map(|band| band.2.as_str()).collect::<Vec<_>>(),
            ["connect", "warmup", "close"]
        );
        assert!(charts[2].series[0].points[0].is_none(), "nothing was measured while connecting");
    }

    #[test]
    fn several_runs_share_a_chart_for_each_percentile() {
        let mut late = fixture::load("rate", 2.0);
        fixture::invalidate(&mut late);
        let reports = [fixture::named("ours", fixture::load("rate", 1.0)), fixture::named("late", late)];
        let runs = Run::all(&reports);
        let charts = charts(&runs, &Group::all(&runs)[0]);
        assert_eq!(
            titles(&charts)[..2],
            ["Latency by percentile: latency", "Latency by percentile: send lag"]
        );
        assert_eq!(
            titles(&charts)[3..6],
            ["Latency over time: p50", "Latency over time: p99", "Latency over time: p99.9"]
        );
        let [ours, late] = charts[0].series.as_slice() else { panic!("{:?}", charts[0].series) };
        assert_eq!((ours.label.as_str(), ours.class.as_str()), ("A", "c0"));
        assert_eq!((late.label.as_str(), late.class.as_str()), ("B ⚠", "c1 invalid"));
    }

    #[test]
    fn a_closed_loop_is_called_one_on_every_chart_of_latency() {
        let reports = [fixture::named("ours", fixture::echo(1.0))];
        let runs = Run::all(&reports);
        let charts = charts(&runs, &Group::all(&runs)[0]);
        let latency = charts.iter().filter(|chart| chart.title.starts_with("Latency"));
        assert_eq!(latency.filter(|chart| chart.note.contains("not the latency at a given rate")).count(), 2);
    }

    #[test]
    fn thinning_keeps_every_spike() {
        let points: Points = (0..100_000)
            .map(|at| Some((f64::from(at), if at == 77_777 { 9.0 } else { f64::from(at % 2) })))
            .collect();
        let thinned = thin(points);
        assert!(thinned.len() <= MAX_POINTS, "{}", thinned.len());
        assert!(thinned.contains(&Some((77_777.0, 9.0))));
        assert!(thinned.is_sorted_by_key(|point| point.unwrap().0));
        assert_eq!(thin(vec![None; 5_000]).iter().flatten().count(), 0);
    }
}
