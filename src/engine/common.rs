//! What a core's connections share and a handler's calls reach: works, pools, limits, counters.
//!
//! Nothing here knows the driver: sending appends to a [`Work`] and marks the connection dirty;
//! the turn hands every dirty connection's bytes to the driver at once.

use super::admission::Gate;
use super::clock::Stopwatch;
use super::deflate::Contexts;
use super::entropy::Entropy;
use super::heartbeat::Heartbeat;
use super::ledger::Ledger;
use super::lent::Lent;
use super::lifetimes::Lifetimes;
use super::overflow::Dropped;
use super::pool::Pool;
use super::post::Post;
use super::queue::Queue;
use super::rates::{Meters, Pace};
use super::sides::Sides;
use super::slot::{Flags, NO_WORK, PeerTable, Phase, Slot};
use super::stats::Stats;
use super::tls::Secures;
use super::topics::Topics;
use super::users::Bound;
use super::work::{Places, Received, Work};
use crate::config::{Deadlines, Goodbye, Limits, OriginPolicy};
use crate::driver::{SendBuf, Token};
use crate::ws::{self, CloseCode, DecodeLimits, Kind, Prepared, Role, State};
use bytes::Bytes;
use slab::Slab;
use std::sync::Arc;
use std::time::Duration;

/// Pings of one turn that are answered one by one; of those beyond, the last is (RFC 6455 §5.5.3).
pub const MAX_PONGS_PER_TURN: u8 = 16;
/// Bytes beyond `max_outbox_bytes` that only control frames may use.
pub const CONTROL_HEADROOM_BYTES: usize = 4 << 10;
/// From this size on an assembled message that is sent as it is changes hands; a shorter one is copied.
const HAND_OVER_BYTES: usize = 1 << 10;
/// A message of up to so many bytes has the short form of length in its frame (RFC 6455 §5.2).
const SHORT_BYTES: usize = 125;

/// What became of a message that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendResult {
    /// It goes out at the end of this turn at the latest.
    Sent,
    /// It waits behind earlier bytes that the peer has not taken yet, and goes out in order.
    Queued,
    /// It was not taken: [`Limits::max_outbox_bytes`] would have been exceeded. Counted; the
    /// handler's `drain` tells when there is room again, unless nothing was queued
    /// ([`Conn::backpressure_bytes`](crate::Conn::backpressure_bytes) is 0): then the message exceeds
    /// the limit by itself and never fits.
    Dropped,
    /// It was not taken: the connection is closing or gone.
    Closed,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Common {
    /// This core's number, in every [`ConnId`](crate::ConnId).
    pub shard: u8,
    /// Bounds.
    pub limits: Limits,
    /// Deadlines.
    pub deadlines: Deadlines,
    /// When silent connections are pinged.
    pub heartbeat: Heartbeat,
    /// Who may open a WebSocket from a page.
    pub origin: OriginPolicy,
    /// Compressors and decompressors.
    pub deflate: Contexts,
    /// Busy connections' state.
    pub works: Slab<Work>,
    /// Free places for what they receive in part.
    pub places: Places,
    /// Free buffers.
    pub pool: Pool,
    /// Connections with something to flush; each once (see [`Flags::DIRTY`]).
    pub dirty: Vec<Token>,
    /// Connections within TLS.
    pub tls: Secures,
    /// Counters.
    pub stats: Arc<Stats>,
    /// Addresses that do not fit a slot.
    pub peers: PeerTable,
    /// Mask keys for the client role.
    pub entropy: Entropy,
    /// This turn's tick, modulo 2^32.
    pub tick: u32,
    /// This turn's time since the clock was made.
    pub now: Duration,
    /// Measures the handler, in some turns.
    pub stopwatch: Stopwatch,
    /// The number of the last request, modulo 2^32: tickets carry it.
    pub last_request: u32,
    /// No new work: the server is going away.
    pub draining: bool,
    /// Who is let in.
    pub gate: Arc<Gate>,
    /// Answers under way to peers that were not let in.
    pub answers: u32,
    /// Those within TLS, by time.
    pub tls_answers: Pace,
    /// How fast peers may send.
    pub meters: Meters,
    /// When connections have been open long enough.
    pub lifetimes: Lifetimes,
    /// The handler asked for the end.
    pub stop_asked: bool,
    /// What connections make the core hold.
    pub ledger: Ledger,
    /// Bytes queued on all connections.
    pub outbox_bytes: usize,
    /// The message that a handler is reading now, which it may send without a copy.
    pub lent: Option<Lent>,
    /// What connections have beside their slot.
    pub sides: Sides,
    /// Subscribers and what is on its way to them; `None` until somebody subscribes or retains.
    pub topics: Option<Box<Topics>>,
    /// What goes to users and to other cores.
    pub post: Post,
    /// Who the connections are bound to.
    pub bound: Bound,
    /// What connections lost in this turn.
    pub drops: Vec<(Token, Dropped)>,
}

impl Common {
    /// Moves a connection to another phase: the only way, as the census counts them.
    pub fn enter(&self, slot: &mut Slot, phase: Phase) {
        self.stats.count_out(slot);
        slot.phase = phase;
        self.stats.count_in(slot);
    }

    /// Decoding limits for a connection.
    #[inline]
    pub fn decode_limits(&self, slot: &Slot) -> DecodeLimits {
        DecodeLimits {
            max_message_bytes: self.limits.max_message_bytes,
            stream: slot.flags.has(Flags::STREAM),
        }
    }

    /// The slot's work, borrowed from the table if it has none.
    #[inline]
    pub fn work(&mut self, slot: &mut Slot) -> &mut Work {
        if slot.work == NO_WORK {
            slot.work = self.works.insert(Work::default()) as u32;
        }
        &mut self.works[slot.work as usize]
    }

    /// The slot's work, if it has one.
    #[inline]
    pub fn existing_work(&mut self, slot: &Slot) -> Option<&mut Work> {
        (slot.work != NO_WORK).then(|| &mut self.works[slot.work as usize])
    }

    /// The place for what has come and is not whole.
    #[inline]
    pub fn receive(&mut self, slot: &mut Slot) -> &mut Received {
        self.work(slot);
        let Self { works, places, .. } = self;
        works[slot.work as usize].receive(places)
    }

    /// What has come and is not whole, if there is anything.
    #[inline]
    pub fn received(&mut self, slot: &Slot) -> Option<&mut Received> {
        self.existing_work(slot)?.received.as_deref_mut()
    }

    /// Takes the beginning of a frame or of a request head that was kept, empty if there is none.
    #[inline]
    pub fn take_carry(&mut self, slot: &Slot) -> Vec<u8> {
        self.received(slot).map(|received| std::mem::take(&mut received.carry)).unwrap_or_default()
    }

    /// Bytes queued on a connection.
    pub fn queued(&self, slot: &Slot) -> usize {
        if slot.work == NO_WORK { 0 } else { self.works[slot.work as usize].queued() }
    }

    /// Gives the work back if nothing is left in it. What was half received when the connection
    /// ended is of no use any more.
    pub fn release_idle_work(&mut self, slot: &mut Slot, token: Token) {
        let Some(work) = self.existing_work(slot).filter(|work| work.queued() == 0) else { return };
        let idle = work.received.as_deref().is_none_or(|received| {
            // What has come of a message that nobody will hear is of no use.
            let ended = slot.phase == Phase::Lingering;
            let is_heard = !ended && slot.session.state() == State::Open;
            let goes_on = is_heard && slot.session.is_inside_message() && !slot.flags.has(Flags::STREAM);
            received.is_idle(ended, is_heard) && !goes_on
        });
        if idle {
            self.drop_work(slot, token);
        }
    }

    /// Gives the work back with all that is in it.
    #[inline]
    pub fn drop_work(&mut self, slot: &mut Slot, token: Token) {
        if slot.work == NO_WORK {
            return;
        }
        let work = self.works.remove(slot.work as usize);
        slot.work = NO_WORK;
        self.outbox_bytes -= work.queued();
        work.queue.dismantle(&mut self.pool);
        if let Some(backlog) = work.backlog {
            backlog.dismantle(&mut self.pool);
        }
        if let Some(received) = work.received {
            self.drop_received(slot, token, received);
        }
    }

    #[inline(never)]
    fn drop_received(&mut self, slot: &Slot, token: Token, mut received: Box<Received>) {
        self.ledger.take_out(received.entry);
        received.give_buffers(&mut self.pool);
        if let Some(inflater) = received.inflating.take().and_then(|job| job.into_inflater()) {
            self.deflate.take_back(token.slot, slot.session.peer_keeps_window(), inflater);
        }
        self.places.give(received);
    }

    /// Puts the connection on the list of those to flush.
    #[inline]
    pub fn mark_dirty(&mut self, slot: &mut Slot, token: Token) {
        if !slot.flags.has(Flags::DIRTY) {
            slot.flags.set(Flags::DIRTY);
            self.dirty.push(token);
        }
    }

    /// A mask for the next frame, if this end has to mask. Without randomness nothing may be sent.
    #[inline]
    pub(super) fn mask(&mut self, slot: &Slot) -> Result<Option<[u8; 4]>, SendResult> {
        match slot.session.role() {
            Role::Server => Ok(None),
            Role::Client => self.entropy.mask().map(Some).map_err(|_| SendResult::Dropped),
        }
    }

    /// Appends bytes to the connection's outbox, whatever its limit.
    pub fn append(
        &mut self,
        slot: &mut Slot,
        token: Token,
        expected: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let Self { works, pool, .. } = self;
        self.outbox_bytes += if slot.work == NO_WORK {
            let queue = Queue::begin(pool, expected, write);
            let bytes = queue.bytes();
            slot.work = works.insert(Work { queue, ..Work::default() }) as u32;
            bytes
        } else {
            works[slot.work as usize].queue.append(pool, expected, write)
        };
        self.mark_dirty(slot, token);
    }

    /// Appends a frame that goes to others as well.
    pub(super) fn share(&mut self, slot: &mut Slot, token: Token, frame: &Bytes) {
        self.work(slot);
        self.works[slot.work as usize].queue.share(&mut self.pool, frame);
        self.outbox_bytes += frame.len();
        self.mark_dirty(slot, token);
    }

    /// Sends one message, compressed if the connection compresses and the message is worth it.
    #[inline]
    pub fn send(&mut self, slot: &mut Slot, token: Token, kind: Kind, payload: &[u8]) -> SendResult {
        if self.send_brief_behind(slot, kind, payload) {
            return SendResult::Sent;
        }
        self.send_at_length(slot, token, kind, payload)
    }

    /// Apart from [`Self::send_brief_behind`], which needs fewer registers to be saved.
    #[inline(never)]
    fn send_at_length(&mut self, slot: &mut Slot, token: Token, kind: Kind, payload: &[u8]) -> SendResult {
        if self.send_first(slot, token, kind, payload)
            || self.send_behind(slot, kind, payload)
            || (slot.session.role() == Role::Client && self.send_masked_behind(slot, kind, payload))
        {
            return SendResult::Sent;
        }
        if self.holds(slot) {
            return self.hold_message(slot, token, kind, payload, true, None);
        }
        if slot.session.deflate().is_some() && payload.len() >= self.deflate.min_bytes() {
            return self.send_as(slot, token, kind, payload, |common, slot, token, mask| {
                common.append_deflated(slot, token, kind, payload, mask);
            });
        }
        self.send_as_it_is(slot, token, kind, payload)
    }

    /// The traffic that is bound by time per message, and what [`Self::send_as`] would find out about it
    /// again: a message behind others that leave in this turn. The room asked for is that of any brief message:
    /// a constant, so that nothing asks again as the message is written.
    #[inline]
    fn send_brief_behind(&mut self, slot: &Slot, kind: Kind, payload: &[u8]) -> bool {
        payload.len() <= ws::MAX_BRIEF
            && slot.session.sends_plainly()
            && self.append_behind(slot, kind, payload.len(), ws::BRIEF_ROOM, |_, out| {
                ws::encode_brief(out, kind, payload);
            })
    }

    /// The same of a longer one, or where there is room for no longer one.
    #[inline]
    fn send_behind(&mut self, slot: &Slot, kind: Kind, payload: &[u8]) -> bool {
        let most = ws::MAX_HEADER + payload.len();
        slot.session.sends_plainly()
            && payload.len() < HAND_OVER_BYTES
            && self
                .append_behind(slot, kind, payload.len(), most, |_, out| ws::encode_plain(out, kind, payload))
    }

    /// The same of a message before which nothing waits.
    #[inline]
    fn send_first(&mut self, slot: &mut Slot, token: Token, kind: Kind, payload: &[u8]) -> bool {
        let most = ws::MAX_HEADER + payload.len();
        let fits = payload.len() < HAND_OVER_BYTES && most <= self.limits.max_outbox_bytes as usize;
        if !fits || slot.work != NO_WORK || slot.phase != Phase::Open || !slot.session.sends_plainly() {
            return false;
        }
        self.append(slot, token, most, |out| ws::encode_plain(out, kind, payload));
        self.stats.count_sent(kind, payload.len());
        true
    }

    /// As [`Self::send_behind`], to a server. Without randomness nothing is written.
    #[inline]
    fn send_masked_behind(&mut self, slot: &Slot, kind: Kind, payload: &[u8]) -> bool {
        let most = ws::MAX_HEADER + payload.len();
        slot.session.sends_masked()
            && payload.len() < HAND_OVER_BYTES
            && self.append_behind(slot, kind, payload.len(), most, |entropy, out| {
                if let Ok(mask) = entropy.mask() {
                    ws::encode_message(out, kind, payload, Some(mask));
                }
            })
    }

    /// Sends one binary message that consists of `first` and `rest`.
    #[inline]
    pub fn send_joined<const FIRST: usize>(
        &mut self,
        slot: &mut Slot,
        token: Token,
        first: &[u8; FIRST],
        rest: &[u8],
    ) -> SendResult {
        let whole_bytes = FIRST + rest.len();
        let most = ws::MAX_HEADER + whole_bytes;
        let sent = slot.session.sends_masked()
            && whole_bytes <= SHORT_BYTES
            && self.append_behind(slot, Kind::Binary, whole_bytes, most, |entropy, out| {
                if let Ok(mask) = entropy.mask() {
                    ws::encode_joined_masked(out, first, rest, mask);
                }
            });
        if sent { SendResult::Sent } else { self.join_and_send(slot, token, first, rest) }
    }

    #[inline(never)]
    fn join_and_send(&mut self, slot: &mut Slot, token: Token, first: &[u8], rest: &[u8]) -> SendResult {
        let mut whole = self.pool.take(first.len() + rest.len());
        whole.extend_from_slice(first);
        whole.extend_from_slice(rest);
        let result = self.send(slot, token, Kind::Binary, &whole);
        self.pool.give(whole);
        result
    }

    #[inline]
    fn append_behind(
        &mut self,
        slot: &Slot,
        kind: Kind,
        payload_bytes: usize,
        most: usize,
        write: impl FnOnce(&mut Entropy, &mut Vec<u8>),
    ) -> bool {
        if slot.phase != Phase::Open || slot.flags.has(Flags::HOLDS) {
            return false;
        }
        let Self { works, entropy, limits, .. } = self;
        let Some(work) = works.get_mut(slot.work as usize).filter(|work| work.in_flight == 0) else {
            return false;
        };
        let room = limits.max_outbox_bytes as usize;
        let write = |out: &mut Vec<u8>| write(entropy, out);
        let Some(bytes) = work.queue.append_behind(room, most, write) else { return false };
        self.outbox_bytes += bytes;
        self.stats.count_sent(kind, payload_bytes);
        true
    }

    /// Sends one message as it is.
    pub fn send_plain(&mut self, slot: &mut Slot, token: Token, kind: Kind, payload: &[u8]) -> SendResult {
        if self.holds(slot) {
            return self.hold_message(slot, token, kind, payload, false, None);
        }
        self.send_as_it_is(slot, token, kind, payload)
    }

    #[inline]
    fn send_as_it_is(&mut self, slot: &mut Slot, token: Token, kind: Kind, payload: &[u8]) -> SendResult {
        self.send_as(slot, token, kind, payload, |common, slot, token, mask| {
            if payload.len() >= HAND_OVER_BYTES
                && mask.is_none()
                && common.promise(slot, token, kind, payload)
            {
                return;
            }
            let frame = ws::MAX_HEADER + payload.len();
            common.append(slot, token, frame, |out| ws::encode_message(out, kind, payload, mask));
        })
    }

    /// Sends one message in frames of at most `frame_bytes` (RFC 6455 §5.4), compressed as
    /// [`Common::send`] does.
    pub fn send_in_frames(
        &mut self,
        slot: &mut Slot,
        token: Token,
        kind: Kind,
        payload: &[u8],
        frame_bytes: usize,
    ) -> SendResult {
        let whole = ws::MAX_HEADER + payload.len();
        let room = (self.limits.max_outbox_bytes as usize).saturating_sub(self.queued(slot));
        if payload.len() <= frame_bytes || whole > room {
            // In the second case it is refused there.
            return self.send(slot, token, kind, payload);
        }
        if self.holds(slot) {
            let Ok(mask) = self.mask(slot) else { return SendResult::Dropped };
            let mut frames = self.pool.take(whole);
            let next_mask = self.entropy.masks_after(mask);
            ws::encode_in_frames(&mut frames, kind, false, payload, frame_bytes, next_mask);
            return self.hold(slot, token, (kind, payload.len()), SendBuf::Owned(frames), None);
        }
        let deflate = slot.session.deflate().filter(|_| payload.len() >= self.deflate.min_bytes());
        self.send_as(slot, token, kind, payload, |common, slot, token, mask| {
            let role = slot.session.role();
            let Self { deflate: contexts, stats, entropy, .. } = common;
            let deflated = deflate.and_then(|params| contexts.compress(token.slot, params, role, payload));
            if let Some(deflated) = deflated {
                stats.count_deflated(deflated.len());
            }
            let content = deflated.unwrap_or(payload);
            let mut frames = Vec::with_capacity(content.len() + ws::MAX_HEADER);
            let next_mask = entropy.masks_after(mask);
            ws::encode_in_frames(&mut frames, kind, deflated.is_some(), content, frame_bytes, next_mask);
            common.append(slot, token, frames.len(), |out| out.extend_from_slice(&frames));
        })
    }

    /// Sends one message that may go to others as well.
    pub fn send_prepared(&mut self, slot: &mut Slot, token: Token, prepared: &Prepared) -> SendResult {
        if slot.phase != Phase::Open {
            return self.send_prepared_to_stream(slot, token, prepared);
        }
        if self.holds(slot) {
            return self.hold_prepared(slot, token, prepared, None);
        }
        let (kind, payload) = prepared.parts();
        let role = slot.session.role();
        let deflate = slot.session.deflate().filter(|_| payload.len() >= self.deflate.min_bytes());
        if role == Role::Client || deflate.is_some_and(|params| params.outgoing(role).takeover) {
            return self.send(slot, token, kind, payload);
        }
        self.send_as(slot, token, kind, payload, |common, slot, token, _| {
            let frame = match deflate {
                None => prepared.plain(),
                Some(params) => prepared.deflated(params.outgoing(role).bits, |payload| {
                    common.deflate.compress(token.slot, params, role, payload)
                }),
            };
            if let Some(bytes) = prepared.deflated_bytes(frame) {
                common.stats.count_deflated(bytes);
            }
            common.share(slot, token, frame);
        })
    }

    /// What all ways of sending a message share: whether it may be, and the counting. Room in the
    /// outbox is judged by its size as it is.
    #[inline(always)]
    fn send_as(
        &mut self,
        slot: &mut Slot,
        token: Token,
        kind: Kind,
        payload: &[u8],
        append: impl FnOnce(&mut Self, &mut Slot, Token, Option<[u8; 4]>),
    ) -> SendResult {
        if slot.phase != Phase::Open || slot.session.state() != State::Open {
            return self.send_to_stream(slot, token, kind, payload);
        }
        let frame = ws::header_len(payload.len(), slot.session.role() == Role::Client) + payload.len();
        let queued = self.queued(slot);
        if queued + frame > self.limits.max_outbox_bytes as usize {
            self.stats.messages_dropped.add(1);
            if queued > 0 {
                slot.flags.set(Flags::WANTS_DRAIN);
            }
            return SendResult::Dropped;
        }
        let mask = match self.mask(slot) {
            Ok(mask) => mask,
            Err(refused) => return refused,
        };
        append(self, slot, token, mask);
        self.stats.count_sent(kind, payload.len());
        let work = &self.works[slot.work as usize];
        if work.in_flight == 0 || work.answered {
            SendResult::Sent
        } else {
            slot.flags.set(Flags::WANTS_DRAIN);
            SendResult::Queued
        }
    }

    fn append_deflated(
        &mut self,
        slot: &mut Slot,
        token: Token,
        kind: Kind,
        payload: &[u8],
        mask: Option<[u8; 4]>,
    ) {
        let role = slot.session.role();
        let Some(params) = slot.session.deflate() else { return };
        self.work(slot);
        let Self { works, pool, deflate, stats, .. } = self;
        let deflated = deflate.compress(token.slot, params, role, payload);
        let content = deflated.unwrap_or(payload);
        let queue = &mut works[slot.work as usize].queue;
        self.outbox_bytes += queue.append(pool, ws::MAX_HEADER + content.len(), |out| match deflated {
            Some(deflated) => ws::encode_deflated(out, kind, deflated, mask),
            None => ws::encode_message(out, kind, payload, mask),
        });
        if let Some(deflated) = deflated {
            stats.count_deflated(deflated.len());
        }
        self.mark_dirty(slot, token);
    }

    fn control_room(&self, slot: &Slot) -> bool {
        self.queued(slot) < self.limits.max_outbox_bytes as usize + CONTROL_HEADROOM_BYTES
    }

    /// Sends a ping of at most 125 bytes.
    pub fn ping(&mut self, slot: &mut Slot, token: Token, payload: &[u8]) -> SendResult {
        if slot.phase != Phase::Open || slot.session.state() != State::Open {
            return self.comment(slot, token);
        }
        if !self.control_room(slot) {
            return SendResult::Dropped;
        }
        let Ok(mask) = self.mask(slot) else { return SendResult::Dropped };
        let queued = self.queued(slot) > 0;
        self.append(slot, token, 2 + payload.len(), |out| ws::encode_ping(out, payload, mask));
        if queued { SendResult::Queued } else { SendResult::Sent }
    }

    /// Pings a silent connection. The payload tells when, so that the pong tells how long it took.
    pub fn ping_idle(&mut self, slot: &mut Slot, token: Token) {
        slot.since = self.tick;
        slot.flags.set(Flags::PING_SENT);
        slot.flags.set(Flags::PONG_AWAITED);
        self.stats.pings_sent.add(1);
        let payload = (self.now.as_micros() as u32).to_be_bytes();
        self.ping(slot, token, &payload);
    }

    /// A pong came: if it is the answer to [`ping_idle`](Self::ping_idle), counts how long it took.
    /// What a peer makes up is its own, but no more than the deadline.
    pub fn pong_came(&self, slot: &mut Slot, payload: &[u8]) {
        let Ok(sent_us) = payload.try_into().map(u32::from_be_bytes) else { return };
        let us = (self.now.as_micros() as u32).wrapping_sub(sent_us);
        if us / 1_000 <= self.deadlines.pong_ms && slot.flags.take(Flags::PONG_AWAITED) {
            self.stats.labelled.pongs.record(Duration::from_micros(us.into()));
        }
    }

    /// Answers a ping. Returns false when that was one too many for now.
    pub fn pong(&mut self, slot: &mut Slot, token: Token, payload: &[u8]) -> bool {
        if self.work(slot).pongs >= MAX_PONGS_PER_TURN || !self.control_room(slot) {
            return false;
        }
        let Ok(mask) = self.mask(slot) else { return false };
        self.append(slot, token, 2 + payload.len(), |out| ws::encode_pong(out, payload, mask));
        self.work(slot).pongs += 1;
        true
    }

    /// Begins the closing handshake for a reason of the server's own.
    pub fn say_goodbye(&mut self, slot: &mut Slot, token: Token, reason: &str) {
        let code = match self.deadlines.goodbye {
            Goodbye::GoingAway => CloseCode::GOING_AWAY,
            Goodbye::ServiceRestart => CloseCode::SERVICE_RESTART,
        };
        self.close(slot, token, Some(code), reason);
    }

    /// Begins or answers the closing handshake, or ends a response that goes on. Does nothing if our Close
    /// frame was sent before.
    pub fn close(&mut self, slot: &mut Slot, token: Token, code: Option<CloseCode>, reason: &str) {
        if slot.phase == Phase::Stream {
            return self.end_stream(slot, token);
        }
        if slot.phase != Phase::Open || matches!(slot.session.state(), State::CloseSent | State::Closed) {
            return;
        }
        slot.since = self.tick;
        if let Some(work) = self.works.get_mut(slot.work as usize).filter(|work| work.backlog_bytes > 0) {
            work.refill_all(&mut self.pool);
        }
        if let Ok(mask) = self.mask(slot) {
            self.append(slot, token, 16 + reason.len(), |out| ws::encode_close(out, code, reason, mask));
        }
        slot.session.close_sent();
        if slot.flags.has(Flags::SLOWED) {
            // What the peer says is of no interest any more, but for its Close frame.
            self.meters.forgive(token, self.tick);
        }
    }
}
