//! `--fail-if`: conditions on what was measured that fail a run.

use crate::result::{Latency, Load, Threshold, Verdict};
use std::str::FromStr;

/// What can be asked about, with the unit it is measured in.
const MEASURES: &[(&str, &str)] = &[
    (
        "p50, p90, p99, p99.9, p99.99, max, mean",
        "latency of messages, handshakes or the last delivery: ns, us, ms, s",
    ),
    ("lag_p99", "the generator's own lateness: ns, us, ms, s"),
    ("heartbeat_p99", "latency of heartbeats: ns, us, ms, s"),
    ("rate", "messages (deliveries, handshakes) per second"),
    ("ramp", "seconds until all connections were open: ns, us, ms, s"),
    ("errors", "all of what went wrong"),
    ("lost, doubled, reordered, corrupted, closed, refused", "one kind of it"),
    ("memory", "bytes of the server per connection, with --pid: B, KiB"),
    ("kernel_memory", "bytes of the kernel's slab per connection, with --pid: B, KiB"),
    ("server_cpu", "CPU time of the server per message, with --pid: ns, us, ms, s"),
    ("server_cpus", "CPUs the server uses, with --pid"),
];

/// What `--fail-if` takes, for the help text.
pub fn help() -> String {
    let mut text =
        String::from("Fails the run on a condition, as in 'p99>2ms', 'rate<100000', 'memory>128B':\n");
    for (names, what) in MEASURES {
        text += &format!("  {names}: {what}\n");
    }
    text
}

/// A condition: a measure, more or less than a bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    measure: String,
    more: bool,
    bound: f64,
    unit: f64,
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = text.find(['<', '>']).ok_or_else(|| format!("`{text}`: give a condition as p99>2ms"))?;
        let (measure, bound) = (text[..at].trim(), text[at + 1..].trim_start_matches('=').trim());
        let known = MEASURES.iter().flat_map(|(names, _)| names.split(", ")).any(|name| name == measure);
        if !known {
            let all: Vec<&str> = MEASURES.iter().map(|(names, _)| *names).collect();
            return Err(format!("`{measure}` is not measured; there are {}", all.join(", ")));
        }
        let digits = bound.find(|sign: char| !sign.is_ascii_digit() && sign != '.').unwrap_or(bound.len());
        let (number, unit) = bound.split_at(digits);
        let number: f64 = number.parse().map_err(|_| format!("`{bound}` is not a number with a unit"))?;
        let is_time = matches!(measure, "lag_p99" | "heartbeat_p99" | "ramp" | "server_cpu" | "max" | "mean")
            || measure.starts_with('p');
        let is_size = measure.ends_with("memory");
        let unit = match unit.trim() {
            "ns" if is_time => 1.0,
            "us" | "µs" if is_time => 1e3,
            "ms" if is_time => 1e6,
            "s" if is_time => 1e9,
            "B" | "" if is_size => 1.0,
            "KiB" if is_size => 1_024.0,
            "" if !is_time => 1.0,
            "" => return Err(format!("`{bound}` needs a unit: ns, us, ms or s")),
            other => return Err(format!("`{other}` is not a unit of {measure}")),
        };
        let more = text.as_bytes()[at] == b'>';
        Ok(Self { text: text.to_owned(), measure: measure.to_owned(), more, bound: number, unit })
    }
}

impl Condition {
    /// Tries it on a load.
    pub fn try_on(&self, load: &Load) -> Threshold {
        let measured = measured(&self.measure, load).map(|value| value / self.unit);
        let fails = match measured {
            Some(value) if self.more => value > self.bound,
            Some(value) => value < self.bound,
            // What was asked for and is not there is no success.
            None => true,
        };
        Threshold { condition: self.text.clone(), load: load.name.clone(), measured, fails }
    }
}

/// The worst of the loads and the thresholds.
pub fn verdict(loads: &[Load], thresholds: &[Threshold]) -> Verdict {
    let worst = loads.iter().map(|load| load.verdict).max().unwrap_or_default();
    let broken = thresholds.iter().any(|threshold| threshold.fails);
    if broken { worst.max(Verdict::Failed) } else { worst }
}

/// The latency a load is known by.
pub fn latency(load: &Load) -> Option<&Latency> {
    let echo = load.echo.as_ref().map(|echo| &echo.latency);
    let rate = load.rate.as_ref().map(|rate| &rate.latency);
    let broadcast = load.broadcast.as_ref().map(|broadcast| &broadcast.last);
    let churn = load.churn.as_ref().map(|churn| &churn.latency);
    let storm = load.storm.as_ref().and_then(|storm| Some(&storm.waves.last()?.latency));
    echo.or(rate).or(broadcast).or(churn).or(storm)
}

/// Nanoseconds, bytes, or a plain number; `None` if the load does not measure it.
fn measured(measure: &str, load: &Load) -> Option<f64> {
    let of = |pick: fn(&Latency) -> u64| {
        latency(load).filter(|latency| latency.count > 0).map(|latency| pick(latency) as f64)
    };
    let errors = &load.errors;
    let counts =
        [errors.lost, errors.doubled, errors.reordered, errors.corrupted, errors.closed, errors.refused];
    match measure {
        "p50" => of(|latency| latency.p50_ns),
        "p90" => of(|latency| latency.p90_ns),
        "p99" => of(|latency| latency.p99_ns),
        "p99.9" => of(|latency| latency.p999_ns),
        "p99.99" => of(|latency| latency.p9999_ns),
        "max" => of(|latency| latency.max_ns),
        "mean" => latency(load).filter(|latency| latency.count > 0).map(|latency| latency.mean_ns),
        "lag_p99" => load.rate.as_ref().map(|rate| rate.send_lag.p99_ns as f64),
        "heartbeat_p99" => load.idle.as_ref()?.heartbeat.as_ref().map(|latency| latency.p99_ns as f64),
        "rate" => rate(load),
        "ramp" => Some(load.ramp.duration_s * 1e9),
        "errors" => Some(counts.iter().sum::<u64>() as f64),
        "lost" => Some(errors.lost as f64),
        "doubled" => Some(errors.doubled as f64),
        "reordered" => Some(errors.reordered as f64),
        "corrupted" => Some(errors.corrupted as f64),
        "closed" => Some(errors.closed as f64),
        "refused" => Some(errors.refused as f64),
        "memory" => load.memory.as_ref().map(|memory| memory.rss_bytes_per_connection),
        "kernel_memory" => load.memory.as_ref()?.kernel_bytes_per_connection,
        "server_cpu" => load.cpu.as_ref()?.server_ns_per_message,
        "server_cpus" => load.cpu.as_ref()?.server_cpus,
        _ => None,
    }
}

/// Messages, deliveries or handshakes per second.
pub fn rate(load: &Load) -> Option<f64> {
    let echo = load.echo.as_ref().map(|echo| echo.messages_per_s);
    let rate = load.rate.as_ref().map(|rate| rate.messages_per_s);
    let broadcast = load.broadcast.as_ref().map(|broadcast| broadcast.delivered_per_s);
    let churn = load.churn.as_ref().map(|churn| churn.handshakes_per_s);
    echo.or(rate).or(broadcast).or(churn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        let latency = serde_json::json!({
            "count": 10, "min_ns": 1, "mean_ns": 2.5e6, "p50_ns": 2_000_000, "p90_ns": 3_000_000, "p99_ns": 4_000_000,
            "p999_ns": 5_000_000, "p9999_ns": 6_000_000, "max_ns": 7_000_000, "hdr": ""
        });
        serde_json::from_value(serde_json::json!({
            "name": "a", "scenario": "echo", "verdict": "ok", "began_s": 0.0, "urls": [], "driver": "epoll",
            "processes": 1, "workers": 1, "connections": 1, "raw": false,
            "ramp": {"duration_s": 0.5, "opened": 1, "failed": 0, "opened_per_s": 2.0, "latency": latency},
            "errors": {"lost": 2, "doubled": 0, "reordered": 1, "corrupted": 0, "closed": 0, "refused": 0, "notes": []},
            "echo": {"loop": "closed", "depth": 1, "duration_s": 1.0, "messages": 10, "messages_per_s": 10.0,
                     "bytes_per_s": 200.0, "latency": latency},
            "series": []
        }))
        .unwrap()
    }

    fn fails(condition: &str) -> bool {
        condition.parse::<Condition>().unwrap().try_on(&load()).fails
    }

    #[test]
    fn conditions_compare_in_their_units() {
        assert!(fails("p99>2ms") && fails("p99 > 3999us") && !fails("p99>4ms") && !fails("p99>=5ms"));
        assert!(fails("p99.99>0.005s") && fails("max<1s") && !fails("mean<2ms"));
        assert!(fails("rate<11") && !fails("rate<10") && fails("errors>2") && !fails("errors>3"));
        assert!(fails("ramp>400ms") && fails("lost>0") && !fails("doubled>0"));
        assert_eq!("p50>1ms".parse::<Condition>().unwrap().try_on(&load()).measured, Some(2.0));
    }

    #[test]
    fn what_was_not_measured_fails() {
        assert!(fails("memory>128B") && fails("lag_p99>1s"));
    }

    #[test]
    fn nonsense_is_refused_with_a_word_on_what_there_is() {
        for (text, help) in [
            ("p99", "p99>2ms"),
            ("p98>2ms", "p50, p90, p99"),
            ("p99>2", "needs a unit"),
            ("p99>2KiB", "not a unit"),
            ("rate<x", "not a number"),
            ("memory>1ms", "not a unit"),
        ] {
            let error = text.parse::<Condition>().unwrap_err();
            assert!(error.contains(help), "{text}: {error}");
        }
    }

    #[test]
    fn the_worst_counts() {
        let threshold =
            |fails| Threshold { condition: String::new(), load: String::new(), measured: None, fails };
        let invalid = Load { verdict: Verdict::Invalid, ..load() };
        assert_eq!(verdict(&[load()], &[threshold(false)]), Verdict::Ok);
        assert_eq!(verdict(&[load(), invalid.clone()], &[]), Verdict::Invalid);
        assert_eq!(verdict(&[invalid], &[threshold(true)]), Verdict::Failed);
    }
}
