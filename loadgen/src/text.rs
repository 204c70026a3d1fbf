//! Results for a person at a terminal.

use crate::result::{
    AttackRow, Broadcast, Churn, Cpu, Echo, Idle, Latency, Load, MemoryGrowth, Rate, Report, Storm, Verdict,
};
use std::fmt::Write;

/// A whole run.
pub fn report(report: &Report) -> String {
    let mut out = String::new();
    for load in &report.loads {
        self::load(load, &mut out);
        out.push('\n');
    }
    for threshold in &report.thresholds {
        let measured = threshold.measured.map_or("not measured".to_owned(), |value| format!("{value:.3}"));
        let state = if threshold.fails { "FAILS" } else { "holds off" };
        line(
            &mut out,
            "fail if",
            &format!("{} on {}: {measured}: {state}", threshold.condition, threshold.load),
        );
    }
    let verdict = match report.verdict {
        Verdict::Ok => "ok",
        Verdict::Invalid => {
            "INVALID: the generator could not keep up; these figures say nothing about the server"
        }
        Verdict::Failed => "FAILED",
        Verdict::Broken => "BROKEN OFF: what is here was measured until then",
    };
    line(&mut out, "verdict", verdict);
    out
}

fn load(load: &Load, out: &mut String) {
    let wire = if load.raw { ", bare TCP" } else { "" };
    let crew = match (load.processes, load.workers) {
        (0 | 1, 0 | 1) => String::new(),
        (0 | 1, workers) => format!(", {workers} workers"),
        (processes, workers) => format!(", {workers} workers in {processes} processes"),
    };
    let urls = load.urls.join(", ");
    let from = if load.driver.is_empty() { String::new() } else { format!(", {}{crew}{wire}", load.driver) };
    line(out, &load.name, &format!("{}: {urls} ({} connections{from})", load.scenario, load.connections));
    if load.ramp.opened > 0 {
        let ramp = &load.ramp;
        let text = format!("{:.2} s, {:.0} connections/s", ramp.duration_s, ramp.opened_per_s);
        line(
            out,
            "ramp",
            &format!("{text}, handshake p50 {} p99 {}", time(ramp.latency.p50_ns), time(ramp.latency.p99_ns)),
        );
    }
    if let Some(message) = &load.message {
        let fragments =
            if message.fragments > 1 { format!(" in {} frames", message.fragments) } else { String::new() };
        let deflate = if message.deflate { ", compressed" } else { "" };
        line(out, "messages of", &format!("{} B {}{fragments}{deflate}", message.size, message.kind));
    }
    if let Some(echo) = &load.echo {
        self::echo(echo, out);
    }
    if let Some(rate) = &load.rate {
        self::rate(rate, out);
    }
    if let Some(idle) = &load.idle {
        self::idle(idle, out);
    }
    if let Some(broadcast) = &load.broadcast {
        self::broadcast(broadcast, out);
    }
    if let Some(churn) = &load.churn {
        self::churn(churn, out);
    }
    if let Some(storm) = &load.storm {
        self::storm(storm, out);
    }
    if let Some(attack) = &load.attack {
        attack.rows.iter().for_each(|row| attack_row(row, out));
    }
    if let Some(cpu) = &load.cpu {
        let unit = if load.message.is_some() { "message" } else { "connection" };
        self::cpu(cpu, unit, out);
    }
    if let Some(memory) = &load.memory {
        self::memory(memory, out);
    }
    errors(load, out);
}

fn echo(echo: &Echo, out: &mut String) {
    line(out, "load", &format!("closed loop, bursts of {}, {:.1} s", echo.depth, echo.duration_s));
    line(out, "messages", &format!("{} ({:.0}/s)", echo.messages, echo.messages_per_s));
    let name = if echo.depth == 1 { "closed-loop latency" } else { "closed-loop burst latency" };
    latency(out, name, &echo.latency);
}

fn rate(rate: &Rate, out: &mut String) {
    let text = format!(
        "open loop, {} arrivals, {:.0}/s asked for, {:.1} s",
        rate.arrivals, rate.asked_per_s, rate.duration_s
    );
    line(out, "load", &text);
    line(
        out,
        "messages",
        &format!("{} ({:.0}/s, sent {:.0}/s)", rate.messages, rate.messages_per_s, rate.sent_per_s),
    );
    latency(out, "latency", &rate.latency);
    latency(out, "own lateness", &rate.send_lag);
}

fn idle(idle: &Idle, out: &mut String) {
    let used = if idle.echo_once { " after one echo each" } else { "" };
    line(out, "held", &format!("{:.1} s{used}", idle.hold_s));
    if let Some(heartbeat) = &idle.heartbeat {
        line(out, "sampled", &format!("{} connections, {} echoes", idle.sampled, heartbeat.count));
        latency(out, "latency", heartbeat);
    }
}

fn broadcast(broadcast: &Broadcast, out: &mut String) {
    let text = format!(
        "{} publishers to {} subscribers, {:.1}/s, {:.1} s",
        broadcast.publishers, broadcast.subscribers, broadcast.published_per_s, broadcast.duration_s
    );
    line(out, "load", &text);
    line(out, "delivered", &format!("{} ({:.0}/s)", broadcast.delivered, broadcast.delivered_per_s));
    latency(out, "first", &broadcast.first);
    latency(out, "median", &broadcast.median);
    latency(out, "last", &broadcast.last);
}

fn churn(churn: &Churn, out: &mut String) {
    let text = format!("{} in {:.1} s ({:.0}/s)", churn.handshakes, churn.duration_s, churn.handshakes_per_s);
    line(out, "handshakes", &text);
    latency(out, "latency", &churn.latency);
}

fn storm(storm: &Storm, out: &mut String) {
    for (number, wave) in (1..).zip(&storm.waves) {
        let text = format!("{} back in {:.2} s, {} retries", wave.reconnected, wave.duration_s, wave.retries);
        line(out, &format!("wave {number}"), &text);
        latency(out, "latency", &wave.latency);
    }
}

/// One row of an attack, as it is shown when it is done.
pub fn attack_row(row: &AttackRow, out: &mut String) {
    line(out, &row.outcome, &format!("{}: {} ({:.1} s)", row.name, row.seen, row.duration_s));
}

fn cpu(cpu: &Cpu, unit: &str, out: &mut String) {
    if let (Some(cpus), Some(total), Some(user), Some(system)) = (
        cpu.server_cpus,
        cpu.server_ns_per_message,
        cpu.server_user_ns_per_message,
        cpu.server_system_ns_per_message,
    ) {
        let text = format!("{cpus:.4} CPUs, {total:.1} ns/{unit} (user {user:.1}, system {system:.1})");
        line(out, "server CPU", &text);
    }
    line(out, "own CPU", &format!("{:.4} CPUs, {:.1} ns/{unit}", cpu.own_cpus, cpu.own_ns_per_message));
}

fn memory(memory: &MemoryGrowth, out: &mut String) {
    let text = format!(
        "{:.0} B per connection resident ({:.0} anonymous); {} KiB before, {} KiB held",
        memory.rss_bytes_per_connection,
        memory.anonymous_bytes_per_connection,
        memory.before.rss >> 10,
        memory.held.rss >> 10
    );
    line(out, "server memory", &text);
    if let Some(bytes) = memory.kernel_bytes_per_connection {
        line(out, "kernel slab", &format!("{bytes:.0} B per connection, both ends if both are here"));
    }
}

fn errors(load: &Load, out: &mut String) {
    let errors = &load.errors;
    let counts = [
        ("lost", errors.lost),
        ("doubled", errors.doubled),
        ("reordered", errors.reordered),
        ("corrupted", errors.corrupted),
        ("closed", errors.closed),
        ("refused", errors.refused),
    ];
    let found: Vec<String> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    match load.verdict {
        Verdict::Ok if load.attack.is_some() => {}
        Verdict::Ok => line(out, "errors", "none: every message was checked"),
        Verdict::Invalid => line(out, "INVALID", &found.join(", ")),
        Verdict::Failed => line(out, "FAILED", &found.join(", ")),
        Verdict::Broken => line(out, "BROKEN OFF", &found.join(", ")),
    }
    for note in &errors.notes {
        line(out, "", note);
    }
}

fn latency(out: &mut String, name: &str, latency: &Latency) {
    if latency.count == 0 {
        return;
    }
    let text = format!(
        "p50 {}  p90 {}  p99 {}  p99.9 {}  p99.99 {}  max {}",
        time(latency.p50_ns),
        time(latency.p90_ns),
        time(latency.p99_ns),
        time(latency.p999_ns),
        time(latency.p9999_ns),
        time(latency.max_ns)
    );
    line(out, name, &text);
}

/// Three digits and a unit.
pub fn time(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    match value {
        ..10.0 => format!("{value:.2} {unit}"),
        ..100.0 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

fn line(out: &mut String, name: &str, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{name:<14} {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let shown = [999, 1_000, 12_345, 123_456, 1_234_567, 2_000_000_000].map(time);
        assert_eq!(shown, ["999 ns", "1.00 µs", "12.3 µs", "123 µs", "1.23 ms", "2.00 s"]);
    }
}
