//! Counters of one core, written by that core alone and read by anyone.
//!
//! A single writer needs no locked instruction: a relaxed load and store suffice.

use super::spin::SpinCounts;
use crate::driver::DriverStats;
use crate::ws::CloseCode;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that its one writer changes and anyone reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning core may.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// Subtracts; only the owning core may.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) - n, Ordering::Relaxed);
    }

    /// Replaces; only the owning core may.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! stats {
    ($($field:ident $kind:literal $name:literal $help:literal),+ $(,)?) => {
        /// Everything a core counts. The names are those of the exported metrics.
        #[derive(Debug, Default)]
        pub struct Stats {
            $(#[doc = $help] pub $field: Counter,)+
            /// Close codes received and sent, by code (see [`Stats::count_close`]).
            closes: CloseCounts,
        }

        const METRICS: &[(&str, &str, &str, fn(&Stats) -> u64)] =
            &[$(($name, $kind, $help, |stats| stats.$field.get())),+];
    };
}

stats! {
    connections "gauge" "ringwire_connections" "Connections with a slot, in any state.",
    websockets "gauge" "ringwire_websockets" "Open WebSocket connections.",
    accepted "counter" "ringwire_accepted_total" "Connections accepted.",
    accept_failures "counter" "ringwire_accept_failures_total" "Times accepting failed for want of descriptors or memory and was put off.",
    accept_pauses "counter" "ringwire_accept_pauses_total" "Times accepting paused at max_connections.",
    upgrades "counter" "ringwire_upgrades_total" "WebSocket handshakes completed.",
    upgrades_refused "counter" "ringwire_upgrades_refused_total" "WebSocket handshakes answered with an error.",
    http_requests "counter" "ringwire_http_requests_total" "Plain HTTP requests given to the handler.",
    http_errors "counter" "ringwire_http_errors_total" "Requests answered with 4xx or 5xx by the engine itself.",
    streams "gauge" "ringwire_streams" "Open responses that go on: event streams and other bodies.",
    streams_opened "counter" "ringwire_streams_opened_total" "Responses that went on.",
    comments_sent "counter" "ringwire_comments_sent_total" "Comments sent to event streams after event_idle_ms of silence.",
    deferred "gauge" "ringwire_requests_deferred" "Requests whose answer was put off and is out.",
    deferred_expired "counter" "ringwire_requests_expired_total" "Requests that nothing answered in time.",
    deferred_abandoned "counter" "ringwire_requests_abandoned_total" "Requests that ended without an answer: the peer or the server went first.",
    messages_received "counter" "ringwire_messages_received_total" "Messages handed to the handler, or fragments in stream mode.",
    message_bytes_received "counter" "ringwire_message_bytes_received_total" "Payload bytes handed to the handler.",
    messages_sent "counter" "ringwire_messages_sent_total" "Messages the handler sent that were queued or sent.",
    message_bytes_sent "counter" "ringwire_message_bytes_sent_total" "Payload bytes of those messages.",
    messages_answered "counter" "ringwire_messages_answered_in_place_total" "Messages sent out of the receive buffer in which they came.",
    messages_dropped "counter" "ringwire_messages_dropped_total" "Messages not taken because of max_outbox_bytes.",
    deflated_bytes_received "counter" "ringwire_deflated_bytes_received_total" "Payload bytes of compressed messages received, as they came.",
    inflated_bytes "counter" "ringwire_inflated_bytes_total" "Bytes that those messages inflated to.",
    messages_deflated "counter" "ringwire_messages_deflated_total" "Messages sent compressed.",
    deflated_bytes_sent "counter" "ringwire_deflated_bytes_sent_total" "Payload bytes of those messages on the wire.",
    inflates_held "counter" "ringwire_inflates_held_total" "Compressed messages kept until they were whole because max_inflaters were lent.",
    inflaters_lent "gauge" "ringwire_inflaters_lent" "Decompressors lent to messages of which more is to come.",
    takeover_bytes "gauge" "ringwire_deflate_takeover_bytes" "Bytes owned by connections that keep their compression windows.",
    pings_received "counter" "ringwire_pings_received_total" "Pings received.",
    pongs_withheld "counter" "ringwire_pongs_withheld_total" "Pings not answered one by one because the peer sent many at once or does not read.",
    pings_sent "counter" "ringwire_pings_sent_total" "Pings sent after idle_ms of silence.",
    violations "counter" "ringwire_violations_total" "Connections failed because the peer broke the protocol.",
    timeouts "counter" "ringwire_timeouts_total" "Connections ended by a deadline.",
    disconnects "counter" "ringwire_disconnects_total" "WebSocket connections that ended without a Close frame.",
    receive_pauses "counter" "ringwire_receive_pauses_total" "Times receiving paused at pause_receive_bytes.",
    commands "counter" "ringwire_mailbox_commands_total" "Commands taken from other threads.",
    commands_stale "counter" "ringwire_mailbox_stale_total" "Commands for connections that no longer exist and answers to requests that no longer wait.",
    broadcasts "counter" "ringwire_broadcasts_total" "Messages to all that every connection has been offered.",
    broadcast_bytes "gauge" "ringwire_broadcast_bytes" "Bytes of messages to all that wait or are on their way.",
    turns "counter" "ringwire_turns_total" "Turns of the event loop.",
    outbox_bytes "gauge" "ringwire_outbox_bytes" "Bytes queued or in flight to peers.",
    pool_bytes "gauge" "ringwire_pool_bytes" "Bytes of free buffers kept for reuse.",
    busy_connections "gauge" "ringwire_busy_connections" "Connections that hold more than their slot.",
    buffer_starvations "counter" "ringwire_receive_buffer_starvations_total" "Times receiving found no free buffer (ENOBUFS).",
    receives_armed "counter" "ringwire_receives_armed_total" "Receives armed or re-armed.",
    short_writes "counter" "ringwire_short_writes_total" "Sends the kernel took in more than one piece.",
    completion_overflows "counter" "ringwire_completion_overflows_total" "Completion queue overflows.",
    waits "counter" "ringwire_waits_total" "io_uring_enter or epoll_wait calls.",
    busy_polls_met "counter" "ringwire_busy_polls_met_total" "Times traffic came while the shard polled instead of sleeping.",
    busy_polls_vain "counter" "ringwire_busy_polls_vain_total" "Times the shard polled for window_us, met nothing and went to sleep.",
    busy_poll_ns "counter" "ringwire_busy_poll_nanoseconds_total" "Nanoseconds polled, whether traffic came or not.",
    receive_buffers "gauge" "ringwire_receive_buffers" "Receive buffers published or kept.",
    direct_descriptors "gauge" "ringwire_direct_descriptors" "Connections on io_uring direct descriptors.",
}

const TRACKED_CODES: [u16; 13] =
    [1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013];

#[derive(Debug, Default)]
struct CloseCounts {
    by_code: [Counter; TRACKED_CODES.len()],
    other: Counter,
}

impl Stats {
    /// Counts the end of a WebSocket connection under the code its handler was told.
    pub fn count_close(&self, code: CloseCode) {
        match TRACKED_CODES.iter().position(|tracked| *tracked == code.0) {
            Some(index) => self.closes.by_code[index].add(1),
            None => self.closes.other.add(1),
        }
    }

    /// Takes over the driver's counters.
    pub fn absorb(&self, driver: &DriverStats) {
        self.buffer_starvations.set(driver.buffer_starvations);
        self.receives_armed.set(driver.receives_armed);
        self.short_writes.set(driver.short_writes);
        self.completion_overflows.set(driver.completion_overflows);
        self.waits.set(driver.waits);
        self.receive_buffers.set(driver.receive_buffers);
        self.direct_descriptors.set(driver.direct_descriptors);
    }

    /// Takes over the counters of polling.
    pub fn absorb_spin(&self, spin: &SpinCounts) {
        self.busy_polls_met.set(spin.met);
        self.busy_polls_vain.set(spin.vain);
        self.busy_poll_ns.set(spin.polled_ns);
    }
}

/// Appends all shards' metrics in Prometheus' text format (version 0.0.4). `driver` names the
/// driver that runs.
pub fn write_prometheus<'a>(out: &mut String, driver: &str, shards: impl Iterator<Item = &'a Stats> + Clone) {
    let _ = writeln!(out, "# HELP ringwire_info The driver that carries the bytes.");
    let _ = writeln!(out, "# TYPE ringwire_info gauge\nringwire_info{{driver=\"{driver}\"}} 1");
    for (name, kind, help, read) in METRICS {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (shard, stats) in shards.clone().enumerate() {
            let _ = writeln!(out, "{name}{{shard=\"{shard}\"}} {}", read(stats));
        }
    }
    let name = "ringwire_closes_total";
    let _ = writeln!(out, "# HELP {name} Ended WebSocket connections by close code.\n# TYPE {name} counter");
    for (shard, stats) in shards.enumerate() {
        for (code, counter) in TRACKED_CODES.iter().zip(&stats.closes.by_code) {
            let _ = writeln!(out, "{name}{{shard=\"{shard}\",code=\"{code}\"}} {}", counter.get());
        }
        let _ = writeln!(out, "{name}{{shard=\"{shard}\",code=\"other\"}} {}", stats.closes.other.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_every_shard_and_code() {
        let shards = [Stats::default(), Stats::default()];
        shards[1].messages_received.add(3);
        shards[1].count_close(CloseCode(1002));
        shards[0].count_close(CloseCode(4_000));
        let mut text = String::new();
        write_prometheus(&mut text, "epoll", shards.iter());
        assert!(text.contains("ringwire_info{driver=\"epoll\"} 1\n"));
        assert!(text.contains("# TYPE ringwire_messages_received_total counter\n"));
        assert!(text.contains("ringwire_messages_received_total{shard=\"1\"} 3\n"));
        assert!(text.contains("ringwire_closes_total{shard=\"1\",code=\"1002\"} 1\n"));
        assert!(text.contains("ringwire_closes_total{shard=\"0\",code=\"other\"} 1\n"));
    }
}
