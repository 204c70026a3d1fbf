//! The metrics page: read by a parser that takes nothing on trust, and compared with what was done.

use crate::peer::{binary, frame, text};
use crate::stage::{Setup, Stage};
use ringwire::Deadlines;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn page(stage: &Stage) -> Page {
    let mut text = String::new();
    stage.remote.write_metrics(&mut text);
    Page::parse(&text).unwrap_or_else(|wrong| panic!("{wrong}\n{text}"))
}

on_every_driver! {
    fn the_page_is_valid_and_counts_by_kind(on) {
        let stage = Stage::new(on, Setup { shards: 2, ..Setup::default() });
        let mut peer = stage.open("/?tag=a");
        peer.check_echo("hello");
        peer.send(&binary(b"1234567"));
        peer.expect_binary(b"1234567");
        let mut broken = stage.open("/?tag=b");
        broken.send(b"\x81\x00");
        broken.expect_failed(1002);
        stage.closed("b");
        stage.wait_metric("ringwire_connections", 1);
        let page = page(&stage);
        assert_eq!(page.sum("ringwire_messages_received_total", &[("kind", "text")]), 1.0);
        assert_eq!(page.sum("ringwire_messages_received_total", &[("kind", "binary")]), 1.0);
        assert_eq!(page.sum("ringwire_message_bytes_sent_total", &[("kind", "binary")]), 7.0);
        assert_eq!(page.sum("ringwire_connections", &[("state", "open"), ("transport", "tcp")]), 1.0);
        assert_eq!(page.sum("ringwire_connections", &[("state", "closing")]), 0.0);
        assert_eq!(page.sum("ringwire_closes_total", &[("code", "1002")]), 1.0);
        assert_eq!(page.sum("ringwire_close_reasons_total", &[("reason", "violation")]), 1.0);
        assert_eq!(page.sum("ringwire_violations_total", &[]), 1.0);
        assert!(page.sum("ringwire_receive_buffers_low_water", &[]) > 0.0);
    }

    fn connections_are_counted_where_they_stand(on) {
        let stage = Stage::plain(on);
        let mut idle = stage.peer();
        idle.send(b"GET /hel");
        let mut open = stage.open("/?tag=a");
        let mut closing = stage.open("/?tag=b");
        // Who broke the protocol has to hang up.
        closing.send(b"\x81\x00");
        closing.expect_close(1002);
        stage.closed("b");
        let count = |state| page(&stage).sum("ringwire_connections", &[("state", state)]);
        stage.until("one in each state", || {
            count("http") == 1.0 && count("open") == 1.0 && count("closing") == 1.0
        });
        open.check_echo("still open");
    }

    fn turns_and_the_handler_are_timed(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        for number in 0..400 {
            peer.check_echo(&number.to_string());
        }
        let page = page(&stage);
        let (timed, counted) =
            (page.sum("ringwire_turn_seconds_count", &[]), page.sum("ringwire_turns_total", &[]));
        assert!((counted - timed).abs() <= 1.0, "{timed} of {counted} turns");
        let handled = page.sum("ringwire_handler_seconds_count", &[]);
        assert!(handled > 0.0 && handled < 100.0, "{handled} of 400 messages");
    }

    /// How long a pong takes is known from the ping's payload; what a peer makes up is not counted.
    fn pongs_tell_their_latency(on) {
        let deadlines = Deadlines { idle_ms: 300, pong_ms: 2_000, ..Deadlines::default() };
        let stage = Stage::new(on, Setup { deadlines, ..Setup::default() });
        let mut peer = stage.open("/?tag=a");
        let payload = peer.expect_ping();
        peer.send(&[frame(0x8a, b""), frame(0x8a, b"made"), text("alive")].concat());
        peer.expect_text("alive");
        assert_eq!(stage.metric("ringwire_pong_seconds_count"), 0);
        stage.pass(Duration::from_millis(20));
        peer.send(&[frame(0x8a, &payload), frame(0x8a, &payload)].concat());
        stage.wait_metric("ringwire_pong_seconds_count", 1);
        let seconds = page(&stage).sum("ringwire_pong_seconds_sum", &[]);
        assert!((0.015..2.0).contains(&seconds), "{seconds} s");
    }
}

/// Keys and values.
type Labels = Vec<(String, String)>;

/// A page of Prometheus' text format, version 0.0.4.
#[derive(Debug, Default)]
pub struct Page {
    samples: BTreeMap<(String, Labels), f64>,
}

impl Page {
    /// The sum of a metric's samples that carry these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries = |has: &[(String, String)]| {
            labels.iter().all(|(key, value)| has.iter().any(|(k, v)| k == key && v == value))
        };
        let chosen = self.samples.iter().filter(|((of, has), _)| of == name && carries(has));
        let values: Vec<f64> = chosen.map(|(_, value)| *value).collect();
        assert!(!values.is_empty(), "no {name} with {labels:?}");
        values.iter().sum()
    }

    pub fn parse(text: &str) -> Result<Self, String> {
        let mut page = Self::default();
        let (mut seen, mut family, mut kind) = (BTreeSet::new(), "", "");
        let mut help = None;
        if !text.ends_with('\n') {
            return Err("the last line does not end".to_owned());
        }
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, words) = rest.split_once(' ').ok_or(format!("no help: {line}"))?;
                if words.is_empty() || !seen.insert(name) {
                    return Err(format!("empty, or a second time: {line}"));
                }
                help = Some(name);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                (family, kind) = rest.split_once(' ').ok_or(format!("no type: {line}"))?;
                let ends_well = match kind {
                    "counter" => family.ends_with("_total"),
                    "gauge" | "histogram" => !family.ends_with("_total"),
                    _ => false,
                };
                if help.take() != Some(family) || !ends_well || !is_name(family) {
                    return Err(format!("help, name or kind is wrong: {line}"));
                }
            } else {
                let (name, labels, value) = sample(line).ok_or(format!("no sample: {line}"))?;
                let suffix = name.strip_prefix(family).ok_or(format!("not of {family}: {line}"))?;
                let fits = match kind {
                    "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                    _ => suffix.is_empty(),
                };
                if !fits || (kind != "gauge" && value < 0.0) {
                    return Err(format!("not of {family}, a {kind}: {line}"));
                }
                if page.samples.insert((name.to_owned(), labels), value).is_some() {
                    return Err(format!("a second time: {line}"));
                }
            }
        }
        page.check_histograms()?;
        Ok(page)
    }

    /// Buckets hold what those below them hold, and the last one all.
    fn check_histograms(&self) -> Result<(), String> {
        let mut buckets: BTreeMap<(&str, String), Vec<(f64, f64)>> = BTreeMap::new();
        for ((name, labels), count) in &self.samples {
            let Some(family) = name.strip_suffix("_bucket") else { continue };
            let Some((_, le)) = labels.iter().find(|(key, _)| key == "le") else {
                return Err(format!("{name} without le"));
            };
            let bound =
                if le == "+Inf" { f64::INFINITY } else { le.parse().map_err(|_| format!("le {le}"))? };
            let others: Vec<_> = labels.iter().filter(|(key, _)| key != "le").collect();
            buckets.entry((family, format!("{others:?}"))).or_default().push((bound, *count));
        }
        for ((family, labels), mut buckets) in buckets {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            let grows = buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1);
            let last = buckets.last().copied().unwrap_or_default();
            let count = self.samples.iter().find(|((name, has), _)| {
                name.strip_suffix("_count") == Some(family)
                    && format!("{:?}", has.iter().collect::<Vec<_>>()) == labels
            });
            if !grows || last.0 != f64::INFINITY || count.map(|(_, count)| *count) != Some(last.1) {
                return Err(format!("{family}{labels} does not add up: {buckets:?}"));
            }
        }
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    first && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `name{key="value",…} number`.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let (name, rest) = line.split_once('{')?;
    let (mut labels, mut rest) = (Vec::new(), rest);
    loop {
        let (key, after) = rest.split_once("=\"")?;
        let (value, after) = after.split_once('"')?;
        let fresh = labels.iter().all(|(other, _)| other != key);
        if !is_name(key) || !fresh || value.contains(['\\', '\n']) {
            return None;
        }
        labels.push((key.to_owned(), value.to_owned()));
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => {
                let value = after.strip_prefix("} ")?.parse().ok()?;
                return is_name(name).then_some((name, labels, value));
            }
        }
    }
}

/// The parser on pages that are wrong.
#[test]
fn wrong_pages_are_found() {
    let head = "# HELP a_total Help.\n# TYPE a_total counter\n";
    assert!(Page::parse(&format!("{head}a_total{{shard=\"0\"}} 1\n")).is_ok());
    for (page, why) in [
        (format!("{head}a_total{{shard=\"0\"}} 1"), "no end of line"),
        (format!("{head}a_total{{shard=\"0\"}} x\n"), "no number"),
        (format!("{head}a_total{{shard=\"0\"}} 1\na_total{{shard=\"0\"}} 1\n"), "twice"),
        (format!("{head}b_total{{shard=\"0\"}} 1\n"), "of another family"),
        (format!("{head}{head}"), "a family twice"),
        ("# TYPE a_total counter\n".to_owned(), "no help"),
        ("# HELP a Help.\n# TYPE a counter\n".to_owned(), "a counter without _total"),
        (
            "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_count{s=\"0\"} 1\n"
                .to_owned(),
            "buckets that shrink",
        ),
    ] {
        assert!(Page::parse(&page).is_err(), "{why}");
    }
}
