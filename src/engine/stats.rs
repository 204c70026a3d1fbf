//! Counters of one core, written by that core alone and read by anyone.
//!
//! A single writer needs no locked instruction: a relaxed load and store suffice.

use super::admission::Refusal;
use super::histogram::Histogram;
use super::slot::{Link, Phase, Slot};
use super::spin::SpinCounts;
use crate::driver::DriverStats;
use crate::handler::CloseReason;
use crate::ws::{Kind, Violation};
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
            /// What has more than one series.
            pub labelled: Labelled,
        }

        /// The series above: name, kind, help and how to read it. A name may carry labels; series of one
        /// family follow each other, and the first one's help is the family's.
        pub(super) const METRICS: &[(&str, &str, &str, fn(&Stats) -> u64)] =
            &[$(($name, $kind, $help, |stats| stats.$field.get())),+];
    };
}

stats! {
    websockets "gauge" "ringwire_websockets" "Open WebSocket connections.",
    accepted "counter" "ringwire_accepted_total" "Connections accepted.",
    accept_failures "counter" "ringwire_accept_failures_total" "Times accepting failed for want of descriptors or memory and was put off.",
    accept_pauses "counter" "ringwire_accept_pauses_total" "Times accepting paused at max_connections.",
    admission_unanswered "counter" "ringwire_admission_unanswered_total" "Of the peers that were not let in, those closed without an answer.",
    proxy_headers_invalid "counter" "ringwire_proxy_headers_invalid_total" "Connections of trusted proxies closed for want of a valid PROXY header.",
    upgrades "counter" "ringwire_upgrades_total" "WebSocket handshakes completed.",
    upgrades_refused "counter" "ringwire_upgrades_refused_total" "WebSocket handshakes answered with an error.",
    tls_connections "gauge" "ringwire_tls_connections" "Connections within TLS, their handshake done.",
    tls_shaking "gauge" "ringwire_tls_handshakes_under_way" "TLS handshakes under way.",
    tls_handshakes "counter" "ringwire_tls_handshakes_total" "TLS handshakes completed.",
    tls_away "gauge" "ringwire_tls_steps_away" "Steps of TLS handshakes that helper threads have.",
    tls_helped "counter" "ringwire_tls_steps_helped_total" "Steps of TLS handshakes given to helper threads.",
    tls_helped_in_vain "counter" "ringwire_tls_steps_in_vain_total" "Of these, those whose connection ended meanwhile.",
    tls_resumed "counter" "ringwire_tls_resumed_total" "TLS handshakes that resumed an earlier session.",
    tls_failures "counter" "ringwire_tls_failures_total" "TLS handshakes that failed, by either end.",
    tls_timeouts "counter" "ringwire_tls_timeouts_total" "TLS handshakes that did not end within tls_ms.",
    tls_refused "counter" "ringwire_tls_handshakes_refused_total" "Connections cut at max_tls_handshakes.",
    tls_plain_http "counter" "ringwire_tls_plain_http_total" "Plain HTTP requests on a TLS port.",
    tls_on_plain_port "counter" "ringwire_tls_on_plain_port_total" "TLS handshakes on a plain port.",
    tls_bad_records "counter" "ringwire_tls_bad_records_total" "Connections ended because of a TLS record that was not valid.",
    tls_truncations "counter" "ringwire_tls_truncations_total" "TLS connections that ended without close_notify.",
    tls_ready "gauge" "ringwire_tls_ready" "Connections whose TLS keys stand ready.",
    tls_kernel_sending "counter" "ringwire_tls_kernel_sending_total" "TLS connections whose records the kernel seals.",
    tls_kernel_receiving "counter" "ringwire_tls_kernel_receiving_total" "Of these, those whose records the kernel opens as well.",
    tls_kernel_refused "counter" "ringwire_tls_kernel_refused_total" "TLS connections for which the kernel was asked for and did not take the keys, all or those for receiving.",
    tls_kernel_key_ends "counter" "ringwire_tls_kernel_key_ends_total" "TLS connections ended because keys were to be changed that the kernel has.",
    http_requests "counter" "ringwire_http_requests_total" "Plain HTTP requests given to the handler.",
    http_errors "counter" "ringwire_http_errors_total" "Requests answered with 4xx or 5xx by the engine itself.",
    streams "gauge" "ringwire_streams" "Open responses that go on: event streams and other bodies.",
    streams_opened "counter" "ringwire_streams_opened_total" "Responses that went on.",
    comments_sent "counter" "ringwire_comments_sent_total" "Comments sent to event streams after event_idle_ms of silence.",
    deferred "gauge" "ringwire_requests_deferred" "Requests whose answer was put off and is out.",
    deferred_expired "counter" "ringwire_requests_expired_total" "Requests that nothing answered in time.",
    deferred_abandoned "counter" "ringwire_requests_abandoned_total" "Requests that ended without an answer: the peer or the server went first.",
    messages_answered "counter" "ringwire_messages_answered_in_place_total" "Messages sent out of the receive buffer in which they came.",
    messages_dropped "counter" "ringwire_messages_dropped_total" "Messages not taken because of max_outbox_bytes.",
    messages_dropped_oldest "counter" "ringwire_messages_dropped_oldest_total" "Messages that made room for later ones (Overflow::DropOldest); they are among those sent.",
    messages_conflated "counter" "ringwire_messages_conflated_total" "Messages that later values replaced (Overflow::Conflate); they are among those sent.",
    overflow_closes "counter" "ringwire_overflow_closes_total" "Connections closed because a message did not fit (Overflow::Close).",
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
    rate_closes "counter" "ringwire_rate_closes_total" "Connections closed because the peer exceeded its rate.",
    rate_pauses "counter" "ringwire_rate_pauses_total" "Times receiving paused because the peer exceeded its rate.",
    lifetimes_ended "counter" "ringwire_lifetimes_ended_total" "Connections closed at the end of max_lifetime_ms.",
    draining "gauge" "ringwire_draining" "1 while the shard drains.",
    drain_began_with "gauge" "ringwire_drain_connections" "Connections with which the drain began.",
    disconnects "counter" "ringwire_disconnects_total" "WebSocket connections that ended without a Close frame.",
    receive_pauses "counter" "ringwire_receive_pauses_total" "Times receiving paused at pause_receive_bytes.",
    commands "counter" "ringwire_mailbox_commands_total" "Commands taken from other threads.",
    commands_stale "counter" "ringwire_mailbox_stale_total" "Commands for connections that no longer exist and answers to requests that no longer wait.",
    topics "gauge" "ringwire_topics" "Topics and wildcards with subscribers or a retained message.",
    subscriptions "gauge" "ringwire_subscriptions" "Subscriptions.",
    subscriptions_refused "counter" "ringwire_subscriptions_refused_total" "Subscriptions refused at max_subscriptions or max_topics, or for their names.",
    publications "counter" "ringwire_publications_total" "Publications that came to the shard, its own included.",
    publications_offered "counter" "ringwire_publications_offered_total" "Publications offered to a subscriber: sent, queued or dropped.",
    publications_refused "counter" "ringwire_publications_refused_total" "Publications and messages to users that handlers made and that were refused, by max_broadcast_bytes, max_retained_bytes or for their names.",
    retained_bytes "gauge" "ringwire_retained_bytes" "Bytes of topics' last values.",
    retained_refused "counter" "ringwire_retained_refused_total" "Last values not kept because of max_retained_bytes or max_topics.",
    bound_connections "gauge" "ringwire_bound_connections" "Connections bound to a user.",
    user_binds_refused "counter" "ringwire_user_binds_refused_total" "Bindings refused at max_user_connections, or for the user's name.",
    broadcasts "counter" "ringwire_broadcasts_total" "Messages to all that every connection has been offered.",
    broadcast_bytes "gauge" "ringwire_broadcast_bytes" "Bytes of messages to all that wait or are on their way.",
    turns "counter" "ringwire_turns_total" "Turns of the event loop.",
    outbox_bytes "gauge" "ringwire_outbox_bytes" "Bytes queued or in flight to peers.",
    pool_bytes "gauge" "ringwire_pool_bytes" "Bytes of free buffers kept for reuse.",
    received_bytes "gauge" "ringwire_received_bytes" "Bytes received and kept: heads, frames and messages that are not whole.",
    early_bytes "gauge" "ringwire_early_bytes" "Of these, what came before a request or handshake was whole.",
    memory_bytes "gauge" "ringwire_memory_bytes" "Bytes held in all: queued, received, pools, compression, receive buffers, tables and topics.",
    memory_closes "counter" "ringwire_memory_closes_total" "Connections ended because they, or all together, held too much.",
    memory_refusals "counter" "ringwire_memory_refusals_total" "Requests refused because those half there held max_early_bytes.",
    busy_connections "gauge" "ringwire_busy_connections" "Connections that hold more than their slot.",
    buffer_starvations "counter" "ringwire_receive_buffer_starvations_total" "Times receiving found no free buffer (ENOBUFS).",
    receives_armed "counter" "ringwire_receives_armed_total" "Receives armed or re-armed.",
    submissions "counter" "ringwire_submissions_total" "Entries submitted to io_uring.",
    receive_buffers_low_water "gauge" "ringwire_receive_buffers_low_water" "The fewest receive buffers that were ever left, of receive_buffers.",
    short_writes "counter" "ringwire_short_writes_total" "Sends the kernel took in more than one piece.",
    completion_overflows "counter" "ringwire_completion_overflows_total" "Completion queue overflows.",
    waits "counter" "ringwire_waits_total" "io_uring_enter or epoll_wait calls.",
    busy_polls_met "counter" "ringwire_busy_polls_met_total" "Times traffic came while the shard polled instead of sleeping.",
    busy_polls_vain "counter" "ringwire_busy_polls_vain_total" "Times the shard polled for window_us, met nothing and went to sleep.",
    busy_poll_ns "counter" "ringwire_busy_poll_nanoseconds_total" "Nanoseconds polled, whether traffic came or not.",
    receive_buffers "gauge" "ringwire_receive_buffers" "Receive buffers that hold memory.",
    direct_descriptors "gauge" "ringwire_direct_descriptors" "Connections on io_uring direct descriptors.",
}

/// Counters of families with labels, by the label's number.
#[derive(Debug, Default)]
pub struct Labelled {
    /// Connections with a slot, by transport and state.
    pub(super) connections: [[Counter; STATES.len()]; Link::NAMES.len()],
    /// Messages handed to the handler, and sent: text, binary.
    pub(super) received: [Traffic; KINDS.len()],
    pub(super) sent: [Traffic; KINDS.len()],
    /// Ends of connections that were open: by close code, by the reason that the handler was told, and within
    /// two of these reasons by what it was.
    pub(super) closes: [Counter; TRACKED_CODES.len() + 1],
    pub(super) reasons: [Counter; REASONS.len()],
    pub(super) violations: [Counter; Violation::ALL.len()],
    pub(super) timeouts: [Counter; DEADLINES.len()],
    /// Peers that were not let in, by the limit.
    pub(super) refusals: [Counter; Refusal::NAMES.len()],
    /// How long turns take, from the end of the wait to the beginning of the next.
    pub turns: Histogram,
    /// How long the handler takes with a message: the first 128 of one turn of 64.
    pub handler: Histogram,
    /// From a ping of the engine's to its pong.
    pub pongs: Histogram,
}

/// Messages and their payload bytes.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) messages: Counter,
    pub(super) bytes: Counter,
}

impl Traffic {
    #[inline]
    fn count(&self, bytes: usize) {
        self.messages.add(1);
        self.bytes.add(bytes as u64);
    }
}

/// Values of the label `kind` of messages.
pub(super) const KINDS: [&str; 2] = ["text", "binary"];
/// Values of the label `state` of connections.
pub(super) const STATES: [&str; 7] =
    ["http", "deferred", "connecting", "open", "stream", "closing", "securing"];
/// Values of the label `reason` of closes.
pub(super) const REASONS: [&str; 8] =
    ["peer", "local", "violation", "timeout", "disconnected", "rate", "shutdown", "memory"];
/// Values of the label `deadline` of timeouts.
pub(super) const DEADLINES: [&str; 4] = ["pong", "close", "write", "assembly"];
/// Values of the label `code` of closes; what is none of them is `other`.
pub(super) const TRACKED_CODES: [u16; 13] =
    [1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013];

const fn state(phase: Phase) -> usize {
    match phase {
        Phase::Head => 0,
        Phase::Deferred => 1,
        Phase::Connecting => 2,
        Phase::Open => 3,
        Phase::Stream => 4,
        Phase::Finishing | Phase::Lingering | Phase::Closing => 5,
        Phase::Securing => 6,
    }
}

impl Stats {
    /// A connection has taken a slot.
    pub fn count_in(&self, slot: &Slot) {
        self.labelled.connections[slot.link() as usize][state(slot.phase)].add(1);
    }

    /// A connection has left its slot, or the phase it is in.
    pub fn count_out(&self, slot: &Slot) {
        self.labelled.connections[slot.link() as usize][state(slot.phase)].sub(1);
    }

    /// Counts a peer that was not let in.
    pub fn count_refusal(&self, refusal: Refusal) {
        self.labelled.refusals[refusal as usize].add(1);
    }

    /// Connections with a slot.
    pub fn connections(&self) -> u64 {
        self.labelled.connections.iter().flatten().map(Counter::get).sum()
    }

    /// Counts a message, or a fragment in stream mode, that the handler is handed.
    #[inline]
    pub fn count_received(&self, kind: Kind, bytes: usize) {
        self.labelled.received[kind as usize].count(bytes);
    }

    /// Counts a message that was queued or sent.
    #[inline]
    pub fn count_sent(&self, kind: Kind, bytes: usize) {
        self.labelled.sent[kind as usize].count(bytes);
    }

    /// Counts a message that was compressed to so many bytes.
    pub fn count_deflated(&self, bytes: usize) {
        self.messages_deflated.add(1);
        self.deflated_bytes_sent.add(bytes as u64);
    }

    /// Messages of both kinds that the handler was handed.
    #[inline]
    pub fn messages_received(&self) -> u64 {
        let [text, binary] = &self.labelled.received;
        text.messages.get() + binary.messages.get()
    }

    /// Counts the end of a connection as its handler is told of it. A stream has no close code.
    pub fn count_close(&self, reason: &CloseReason<'_>, is_websocket: bool) {
        let labelled = &self.labelled;
        if is_websocket {
            let code = reason.code().0;
            let code = TRACKED_CODES.iter().position(|tracked| *tracked == code);
            labelled.closes[code.unwrap_or(TRACKED_CODES.len())].add(1);
        }
        let reason = match reason {
            CloseReason::Peer { .. } => 0,
            CloseReason::Local => 1,
            CloseReason::Violation(violation) => {
                labelled.violations[*violation as usize].add(1);
                2
            }
            CloseReason::Timeout(deadline) => {
                labelled.timeouts[*deadline as usize].add(1);
                3
            }
            CloseReason::Disconnected => {
                // A stream has no other end from its peer's side.
                self.disconnects.add(u64::from(is_websocket));
                4
            }
            CloseReason::RateLimit => 5,
            CloseReason::Shutdown => 6,
            CloseReason::Memory => 7,
        };
        labelled.reasons[reason].add(1);
    }

    /// Takes over the driver's counters.
    pub fn absorb(&self, driver: &DriverStats) {
        self.buffer_starvations.set(driver.buffer_starvations);
        self.receives_armed.set(driver.receives_armed);
        self.submissions.set(driver.submissions);
        self.receive_buffers_low_water.set(driver.receive_buffers_low_water);
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
