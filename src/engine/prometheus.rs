//! The counters of all shards as Prometheus' text format (version 0.0.4).
//!
//! Appends to the caller's string and allocates nothing else. Each family has its HELP and TYPE once,
//! and then all its series.

use super::admission::Refusal;
use super::histogram::Histogram;
use super::slot::Link;
use super::stats::{Counter, DEADLINES, KINDS, Labelled, METRICS, REASONS, STATES, Stats, TRACKED_CODES};
use crate::ws::Violation;
use std::fmt::{Display, Write as _};

/// Appends all shards' metrics. `driver` names the driver that runs.
pub fn write_prometheus<'a>(out: &mut String, driver: &str, shards: impl Iterator<Item = &'a Stats> + Clone) {
    let mut page = Page { out, shards };
    page.family("ringwire_info", "gauge", "The driver that carries the bytes.");
    page.line("ringwire_info", format_args!("driver=\"{driver}\""), 1);
    page.plain();
    page.connections();
    page.traffic();
    page.closes();
    page.histogram(
        "ringwire_turn_seconds",
        "Length of the turns of the event loop, without the wait before them.",
        |labelled| &labelled.turns,
    );
    page.histogram(
        "ringwire_handler_seconds",
        "Time the handler takes with a message, measured of the first 128 in one turn of 64.",
        |labelled| &labelled.handler,
    );
    page.histogram("ringwire_pong_seconds", "Time from a ping after idle_ms to its pong.", |labelled| {
        &labelled.pongs
    });
}

struct Page<'o, I> {
    out: &'o mut String,
    shards: I,
}

impl<'a, I: Iterator<Item = &'a Stats> + Clone> Page<'_, I> {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Nothing fails in writing to a string.
    fn line(&mut self, name: &str, labels: impl Display, value: impl Display) {
        let _ = writeln!(self.out, "{name}{{{labels}}} {value}");
    }

    /// What is one number of each shard.
    fn plain(&mut self) {
        let mut last = "";
        for (name, kind, help, read) in METRICS {
            let (family, labels) = name.split_once('{').unwrap_or((name, "}"));
            if family != last {
                self.family(family, kind, help);
                last = family;
            }
            let (comma, labels) = (if labels == "}" { "" } else { "," }, labels.trim_end_matches('}'));
            for (shard, stats) in self.shards.clone().enumerate() {
                self.line(family, format_args!("shard=\"{shard}\"{comma}{labels}"), read(stats));
            }
        }
    }

    fn connections(&mut self) {
        let name = "ringwire_connections";
        self.family(name, "gauge", "Connections with a slot, by transport and state.");
        for (shard, stats) in self.shards.clone().enumerate() {
            for (transport, states) in Link::NAMES.iter().zip(&stats.labelled.connections) {
                for (state, count) in STATES.iter().zip(states) {
                    let labels =
                        format_args!("shard=\"{shard}\",transport=\"{transport}\",state=\"{state}\"");
                    self.line(name, labels, count.get());
                }
            }
        }
    }

    /// One counter for each value of a label.
    fn by_label<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = V> + Clone,
        read: impl Fn(&Labelled, usize) -> &Counter,
    ) {
        self.family(name, "counter", help);
        for (shard, stats) in self.shards.clone().enumerate() {
            for (index, value) in values.clone().enumerate() {
                let count = read(&stats.labelled, index).get();
                self.line(name, format_args!("shard=\"{shard}\",{label}=\"{value}\""), count);
            }
        }
    }

    fn traffic(&mut self) {
        let kinds = KINDS.iter();
        let name = "ringwire_messages_received_total";
        let help = "Messages handed to the handler, or fragments in stream mode.";
        self.by_label(name, help, "kind", kinds.clone(), |all, kind| &all.received[kind].messages);
        let name = "ringwire_message_bytes_received_total";
        let help = "Payload bytes handed to the handler.";
        self.by_label(name, help, "kind", kinds.clone(), |all, kind| &all.received[kind].bytes);
        let name = "ringwire_messages_sent_total";
        let help = "Messages the handler sent that were queued or sent.";
        self.by_label(name, help, "kind", kinds.clone(), |all, kind| &all.sent[kind].messages);
        let name = "ringwire_message_bytes_sent_total";
        self.by_label(name, "Payload bytes of those messages.", "kind", kinds, |all, kind| {
            &all.sent[kind].bytes
        });
    }

    fn closes(&mut self) {
        let name = "ringwire_admission_refused_total";
        let help = "Peers that were not let in, by the limit.";
        self.by_label(name, help, "limit", Refusal::NAMES.iter(), |all, limit| &all.refusals[limit]);
        let name = "ringwire_closes_total";
        let help = "Ended WebSocket connections by close code.";
        let codes = (0..=TRACKED_CODES.len()).map(|index| Code(TRACKED_CODES.get(index).copied()));
        self.by_label(name, help, "code", codes, |all, code| &all.closes[code]);
        let name = "ringwire_close_reasons_total";
        let help = "Ended WebSocket connections and streams by the reason that the handler was told.";
        self.by_label(name, help, "reason", REASONS.iter(), |all, reason| &all.reasons[reason]);
        let name = "ringwire_violations_total";
        let help = "Connections failed because the peer broke the protocol, by the rule.";
        let rules = Violation::ALL.iter().map(|violation| violation.as_str());
        self.by_label(name, help, "rule", rules, |all, rule| &all.violations[rule]);
        let name = "ringwire_timeouts_total";
        let help = "Connections ended by a deadline.";
        self.by_label(name, help, "deadline", DEADLINES.iter(), |all, deadline| &all.timeouts[deadline]);
    }

    fn histogram(&mut self, name: &str, help: &str, read: impl Fn(&Labelled) -> &Histogram) {
        self.family(name, "histogram", help);
        for (shard, stats) in self.shards.clone().enumerate() {
            let histogram = read(&stats.labelled);
            let mut count = 0;
            for (bound, cumulated) in histogram.cumulated() {
                let _ = match bound {
                    Some(s) => {
                        writeln!(self.out, "{name}_bucket{{shard=\"{shard}\",le=\"{s}\"}} {cumulated}")
                    }
                    None => writeln!(self.out, "{name}_bucket{{shard=\"{shard}\",le=\"+Inf\"}} {cumulated}"),
                };
                count = cumulated;
            }
            let _ = writeln!(self.out, "{name}_sum{{shard=\"{shard}\"}} {}", histogram.total_seconds());
            let _ = writeln!(self.out, "{name}_count{{shard=\"{shard}\"}} {count}");
        }
    }
}

/// A close code, or all others.
struct Code(Option<u16>);

impl Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(code) => code.fmt(f),
            None => f.write_str("other"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::{CloseReason, Deadline};
    use crate::ws::{CloseCode, Kind};
    use std::time::Duration;

    #[test]
    fn exports_every_shard_and_label() {
        let shards = [Stats::default(), Stats::default()];
        shards[1].count_received(Kind::Binary, 30);
        shards[0].count_sent(Kind::Text, 7);
        shards[1].count_close(&CloseReason::Violation(Violation::Unmasked), true);
        shards[1].count_close(&CloseReason::Timeout(Deadline::Write), true);
        shards[0].count_close(&CloseReason::Peer { code: Some(CloseCode(4_000)), reason: "" }, true);
        shards[0].labelled.turns.record(Duration::from_micros(3));
        let mut text = String::new();
        write_prometheus(&mut text, "epoll", shards.iter());
        for line in [
            "ringwire_info{driver=\"epoll\"} 1",
            "# TYPE ringwire_messages_received_total counter",
            "ringwire_accepted_total{shard=\"1\"} 0",
            "ringwire_connections{shard=\"0\",transport=\"unix\",state=\"open\"} 0",
            "ringwire_messages_received_total{shard=\"1\",kind=\"binary\"} 1",
            "ringwire_message_bytes_received_total{shard=\"1\",kind=\"binary\"} 30",
            "ringwire_message_bytes_sent_total{shard=\"0\",kind=\"text\"} 7",
            "ringwire_closes_total{shard=\"1\",code=\"1002\"} 1",
            "ringwire_closes_total{shard=\"0\",code=\"other\"} 1",
            "ringwire_close_reasons_total{shard=\"1\",reason=\"timeout\"} 1",
            "ringwire_timeouts_total{shard=\"1\",deadline=\"write\"} 1",
            "ringwire_turn_seconds_bucket{shard=\"0\",le=\"0.000002048\"} 0",
            "ringwire_turn_seconds_bucket{shard=\"0\",le=\"0.000004096\"} 1",
            "ringwire_turn_seconds_bucket{shard=\"0\",le=\"+Inf\"} 1",
            "ringwire_turn_seconds_sum{shard=\"0\"} 0.000003",
            "ringwire_turn_seconds_count{shard=\"1\"} 0",
        ] {
            assert!(text.lines().any(|written| written == line), "{line}\n{text}");
        }
        let rule =
            format!("ringwire_violations_total{{shard=\"1\",rule=\"{}\"}} 1\n", Violation::Unmasked.as_str());
        assert!(text.contains(&rule));
    }

    #[test]
    fn a_second_page_allocates_nothing() {
        let shards = [Stats::default()];
        let mut text = String::new();
        write_prometheus(&mut text, "sim", shards.iter());
        let (capacity, address) = (text.capacity(), text.as_ptr());
        text.clear();
        write_prometheus(&mut text, "sim", shards.iter());
        assert_eq!((text.capacity(), text.as_ptr()), (capacity, address));
    }
}
