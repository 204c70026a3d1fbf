//! Results, as a person and as a program reads them. The field names are stable.

use crate::board::{Board, Faults};
use crate::host::{CpuTime, Host, Memory};
use crate::run::Measured;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt::Write;

/// The result of one run, as `--json` writes it. Times are in nanoseconds unless named otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `ringwire-loadgen` and its version.
    pub tool: String,
    /// `echo` or `idle`.
    pub scenario: &'static str,
    /// Whether nothing was lost, doubled, corrupted, reordered or closed.
    pub ok: bool,
    /// As given.
    pub url: String,
    /// Bare TCP instead of WebSocket.
    pub raw: bool,
    /// The generator's driver.
    pub driver: &'static str,
    /// The generator's threads.
    pub workers: usize,
    /// Connections held.
    pub connections: u64,
    /// Bytes of a message.
    pub size_bytes: usize,
    /// `text`, `binary`, or `records`: text that looks like JSON.
    pub kind: &'static str,
    /// permessage-deflate was offered.
    pub deflate: bool,
    /// From the first connection asked for to the last opened (and answered, in `idle --echo-once`).
    pub ramp_s: f64,
    /// Wrong answers and the like.
    pub errors: Errors,
    /// What `echo` measures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo: Option<Echo>,
    /// What `idle` measures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    /// Where it ran.
    pub host: Host,
}

/// What went wrong. All zero in a good run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Errors {
    /// Messages that were not answered.
    pub lost: u64,
    /// Answers that came twice.
    pub doubled: u64,
    /// Answers that came behind later ones.
    pub reordered: u64,
    /// Answers that are not what was sent.
    pub corrupted: u64,
    /// Connections that ended before it was time.
    pub closed: u64,
    /// The first of them, in words.
    pub notes: Vec<String>,
}

impl Errors {
    /// What the board shows, with the answers still missing at the end.
    pub fn new(faults: &Faults, unanswered: u64) -> Self {
        Self {
            lost: unanswered + faults.missing(),
            doubled: faults.doubled,
            reordered: faults.reordered,
            corrupted: faults.corrupted,
            closed: faults.closed,
            notes: faults.notes.clone(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty() && self.lost + self.doubled + self.reordered + self.corrupted + self.closed == 0
    }
}

/// A closed loop: each connection sends when its last burst is answered, so that a slow server is
/// asked less. Its latencies are those of a server at the load it sets itself, not at a given rate.
#[derive(Clone, Debug, Serialize)]
pub struct Echo {
    /// `closed`.
    #[serde(rename = "loop")]
    pub loop_: &'static str,
    /// Messages of a burst.
    pub depth: u64,
    /// Before the measurement.
    pub warmup_s: f64,
    /// Of the measurement.
    pub duration_s: f64,
    /// Answered in that time, all of them checked.
    pub messages: u64,
    /// Per second.
    pub messages_per_s: f64,
    /// Payload bytes per second, one way.
    pub bytes_per_s: f64,
    /// From sending a burst to its last answer.
    pub latency: Latency,
    /// The generator's own CPU time per message.
    pub own_cpu_ns_per_message: f64,
    /// The server's, if its process was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerCpu>,
}

/// Of a burst; at depth 1 that is of a message.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th.
    pub p99_ns: u64,
    /// 99.9th.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// Arithmetic mean.
    pub mean_ns: f64,
}

impl Latency {
    /// Of recorded values.
    pub fn new(histogram: &Histogram<u64>) -> Self {
        Self {
            p50_ns: histogram.value_at_quantile(0.5),
            p90_ns: histogram.value_at_quantile(0.9),
            p99_ns: histogram.value_at_quantile(0.99),
            p999_ns: histogram.value_at_quantile(0.999),
            max_ns: histogram.max(),
            mean_ns: histogram.mean(),
        }
    }
}

/// CPU time of the server's process during the measurement.
#[derive(Clone, Debug, Serialize)]
pub struct ServerCpu {
    /// User and system.
    pub cpu_ns_per_message: f64,
    /// The user part: split by the scheduler's ticks, so it needs a second or more.
    pub user_ns_per_message: f64,
    /// The system part.
    pub system_ns_per_message: f64,
    /// CPUs used, 1 for one core all the time.
    pub cpus: f64,
}

impl ServerCpu {
    fn new(used: CpuTime, seconds: f64, messages: u64) -> Self {
        let per_message = |ns: f64| ns / messages.max(1) as f64;
        let total = used.total_ns as f64;
        Self {
            cpu_ns_per_message: per_message(total),
            user_ns_per_message: per_message(used.user_ns()),
            system_ns_per_message: per_message(total - used.user_ns()),
            cpus: total / 1e9 / seconds,
        }
    }
}

impl Echo {
    /// From what was counted.
    pub fn new(board: &Board, measured: &Measured, size: usize, depth: u64, warmup_s: f64) -> Self {
        let messages_per_s = measured.messages as f64 / measured.seconds;
        Self {
            loop_: "closed",
            depth,
            warmup_s,
            duration_s: measured.seconds,
            messages: measured.messages,
            messages_per_s,
            bytes_per_s: messages_per_s * size as f64,
            latency: Latency::new(&board.latencies()),
            own_cpu_ns_per_message: measured.own.total_ns as f64 / measured.messages.max(1) as f64,
            server: measured.server.map(|cpu| ServerCpu::new(cpu, measured.seconds, measured.messages)),
        }
    }
}

/// Connections that are open and silent.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    /// Whether each was used for one echo.
    pub echo_once: bool,
    /// How long they were held.
    pub hold_s: f64,
    /// Connections opened per second.
    pub opened_per_s: f64,
    /// The server's memory, if its process was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<IdleMemory>,
    /// Growth of the kernel's slab per connection, both ends and everything else on the host.
    pub kernel_slab_bytes_per_connection: Option<f64>,
    /// CPUs the server used while it held them.
    pub server_cpus: Option<f64>,
}

/// The server's memory before the first connection, when all are open, and after holding them.
#[derive(Clone, Debug, Serialize)]
pub struct IdleMemory {
    /// Before.
    pub before: Memory,
    /// All open.
    pub open: Memory,
    /// At the end.
    pub held: Memory,
    /// Growth of the anonymous memory from `before` to `held`, per connection.
    pub anonymous_bytes_per_connection: f64,
    /// Growth of all resident memory, per connection.
    pub rss_bytes_per_connection: f64,
}

impl IdleMemory {
    /// Of so many connections.
    pub fn new(before: Memory, open: Memory, held: Memory, connections: u64) -> Self {
        let growth = |of: fn(&Memory) -> u64| (of(&held) as f64 - of(&before) as f64) / connections as f64;
        Self {
            before,
            open,
            held,
            anonymous_bytes_per_connection: growth(|memory| memory.anonymous),
            rss_bytes_per_connection: growth(|memory| memory.rss),
        }
    }
}

impl Report {
    /// For a person.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let wire = if self.raw { ", bare TCP" } else { "" };
        line(
            &mut out,
            self.scenario,
            &format!("{} ({} connections, {}{wire})", self.url, self.connections, self.driver),
        );
        line(&mut out, "ramp", &format!("{:.2} s", self.ramp_s));
        if let Some(echo) = &self.echo {
            self.echo_text(echo, &mut out);
        }
        if let Some(idle) = &self.idle {
            idle_text(idle, &mut out);
        }
        let errors = &self.errors;
        if errors.is_empty() {
            line(&mut out, "errors", "none: every answer was checked");
        } else {
            let counts = format!(
                "lost {}, doubled {}, reordered {}, corrupted {}, closed {}",
                errors.lost, errors.doubled, errors.reordered, errors.corrupted, errors.closed
            );
            line(&mut out, "FAILED", &counts);
            for note in &errors.notes {
                line(&mut out, "", note);
            }
        }
        out
    }

    fn echo_text(&self, echo: &Echo, out: &mut String) {
        let what = format!("{} B {}, bursts of {}", self.size_bytes, self.kind, echo.depth);
        line(out, "load", &format!("closed loop, {what}, {:.1} s", echo.duration_s));
        line(out, "messages", &format!("{} ({:.0}/s)", echo.messages, echo.messages_per_s));
        let latency = &echo.latency;
        let us = |ns: u64| ns as f64 / 1e3;
        let text = format!(
            "p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1} µs",
            us(latency.p50_ns),
            us(latency.p90_ns),
            us(latency.p99_ns),
            us(latency.p999_ns),
            us(latency.max_ns)
        );
        line(out, if echo.depth == 1 { "latency" } else { "burst latency" }, &text);
        if let Some(server) = &echo.server {
            let text = format!(
                "{:.1} ns/message (user {:.1}, system {:.1}), {:.2} CPUs",
                server.cpu_ns_per_message,
                server.user_ns_per_message,
                server.system_ns_per_message,
                server.cpus
            );
            line(out, "server CPU", &text);
        }
        line(out, "own CPU", &format!("{:.1} ns/message", echo.own_cpu_ns_per_message));
    }
}

fn idle_text(idle: &Idle, out: &mut String) {
    let used = if idle.echo_once { " after one echo each" } else { "" };
    line(out, "held", &format!("{:.1} s{used}, opened at {:.0}/s", idle.hold_s, idle.opened_per_s));
    if let Some(memory) = &idle.memory {
        let text = format!(
            "{:.0} B per connection resident ({:.0} anonymous); {} KiB before, {} KiB held",
            memory.rss_bytes_per_connection,
            memory.anonymous_bytes_per_connection,
            memory.before.rss >> 10,
            memory.held.rss >> 10
        );
        line(out, "server memory", &text);
    }
    if let Some(bytes) = idle.kernel_slab_bytes_per_connection {
        line(out, "kernel slab", &format!("{bytes:.0} B per connection, both ends"));
    }
    if let Some(cpus) = idle.server_cpus {
        line(out, "server CPU", &format!("{cpus:.4} CPUs while idle"));
    }
}

fn line(out: &mut String, name: &str, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{name:<14}{text}");
}
