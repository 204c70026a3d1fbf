//! From received bytes to the handler: frames, messages, and what ends a connection.

use super::common::Common;
use super::inflate::deflated_piece;
use super::slot::{Flags, Phase, Slot};
use super::{Core, requests, tell_close};
use crate::driver::{Driver, Lease, Token};
use crate::handler::{CloseReason, Conn, Fragment, Handler};
use crate::ws::{self, CloseCode, Item, Kind, Message, Role, State, Violation};
use std::ops::Range;

/// What taking bytes from a connection led to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It goes on.
    Continue,
    /// The handler's side is over; the last bytes are queued.
    Ended,
    /// There is nothing to say to the peer: close at once.
    Abort,
}

impl<D: Driver, H: Handler> Core<D, H> {
    pub(super) fn on_received(&mut self, token: Token, lease: Lease) {
        let Self { driver, handler, table, common, .. } = self;
        let mut outcome = Outcome::Continue;
        if let Some((slot, state)) = table.get(token) {
            let input = driver.bytes(&lease);
            outcome = match slot.phase {
                Phase::Open => {
                    slot.last_seen = common.tick;
                    frames(handler, token, slot, state, common, input)
                }
                Phase::Head => requests::take(handler, token, slot, state, common, input),
                Phase::Connecting => requests::take_answer(handler, token, slot, state, common, input),
                Phase::Finishing | Phase::Lingering | Phase::Closing => Outcome::Continue,
            };
        }
        driver.release(lease);
        self.after_received(token, outcome);
    }

    pub(super) fn after_received(&mut self, token: Token, outcome: Outcome) {
        if let Outcome::Abort = outcome {
            return self.abort(token, CloseReason::Disconnected);
        }
        let Some((slot, _)) = self.table.get(token) else { return };
        if slot.work != super::slot::NO_WORK {
            self.common.release_idle_work(slot, token);
            if slot.phase == Phase::Head || !slot.flags.has(Flags::DIRTY) {
                // Requests that were put off wait for the end of a pause, which must have begun. And
                // the flush does not come by what is merely not whole.
                self.settle(token);
            }
        }
    }

    /// The peer will send no more. What is queued still goes out.
    pub(super) fn on_eof(&mut self, token: Token) {
        let Some((slot, state)) = self.table.get(token) else { return };
        slot.flags.set(Flags::EOF);
        match slot.phase {
            Phase::Open => {
                let reason = CloseReason::Disconnected;
                tell_close(&mut self.handler, &self.common, token, slot, state, reason);
                self.finish(token);
            }
            // Requests that were put off are still answered.
            Phase::Head if slot.flags.has(Flags::PAUSED) => {}
            Phase::Head => self.finish(token),
            Phase::Connecting => self.abort(token, CloseReason::Disconnected),
            // Nothing more is owed: the peer has all of ours, or reads no more.
            Phase::Lingering => self.abort(token, CloseReason::Disconnected),
            Phase::Finishing | Phase::Closing => {}
        }
    }
}

/// Decodes frames and hands their content to the handler.
pub(super) fn frames<H: Handler>(
    handler: &mut H,
    token: Token,
    slot: &mut Slot,
    state: &mut Option<H::State>,
    common: &mut Common,
    input: &mut [u8],
) -> Outcome {
    let mut at = 0;
    let mut withheld_ping = None;
    let was_inside = slot.session.is_inside_message();
    let messages_before = common.stats.messages_received.get();
    let carry = common.existing_work(slot).map(|work| std::mem::take(&mut work.carry));
    if let Some(mut carry) = carry.filter(|carry| !carry.is_empty()) {
        let whole = complete_carry(&mut carry, input, &mut at);
        // Decoded even if it is not whole: two bytes are enough for most violations.
        let mut head = 0;
        let outcome = decode(handler, token, slot, state, common, &mut carry, &mut head, &mut withheld_ping);
        if !matches!(outcome, Outcome::Continue) {
            common.pool.give(carry);
            return outcome;
        }
        answer_withheld(common, slot, token, &carry, withheld_ping.take());
        if !whole {
            common.work(slot).carry = carry;
            return Outcome::Continue;
        }
        common.pool.give(carry);
    }
    let outcome = decode(handler, token, slot, state, common, input, &mut at, &mut withheld_ping);
    if !matches!(outcome, Outcome::Continue) {
        return outcome;
    }
    answer_withheld(common, slot, token, input, withheld_ping);
    let goes_on = was_inside && common.stats.messages_received.get() == messages_before;
    if slot.session.is_inside_message() && !goes_on && !slot.flags.has(Flags::STREAM) {
        // Perhaps only its header came: no piece of it would tell.
        common.work(slot).assembly_since = common.tick;
    }
    if at < input.len() {
        let mut carry = common.pool.take(ws::MAX_CARRY);
        carry.extend_from_slice(&input[at..]);
        common.work(slot).carry = carry;
    }
    Outcome::Continue
}

/// Of the pings that were not answered one by one, the last is (RFC 6455 §5.5.3).
fn answer_withheld(
    common: &mut Common,
    slot: &mut Slot,
    token: Token,
    input: &[u8],
    ping: Option<Range<usize>>,
) {
    if let Some(ping) = ping {
        common.work(slot).pongs = 0;
        common.pong(slot, token, &input[ping]);
    }
}

/// Appends to a kept header or control frame what it lacks. False if `input` did not have it all.
fn complete_carry(carry: &mut Vec<u8>, input: &[u8], at: &mut usize) -> bool {
    loop {
        let wanted = ws::wanted(carry);
        if wanted == 0 {
            return true;
        }
        let taken = wanted.min(input.len() - *at);
        carry.extend_from_slice(&input[*at..*at + taken]);
        *at += taken;
        if taken < wanted {
            return false;
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one connection, borrowed apart")]
#[inline]
fn decode<H: Handler>(
    handler: &mut H,
    token: Token,
    slot: &mut Slot,
    state: &mut Option<H::State>,
    common: &mut Common,
    input: &mut [u8],
    at: &mut usize,
    withheld_ping: &mut Option<Range<usize>>,
) -> Outcome {
    let limits = common.decode_limits(slot);
    loop {
        let listening = slot.session.state() == State::Open;
        let item = match slot.session.decode(input, at, &limits) {
            Ok(Some(item)) => item,
            Ok(None) => return Outcome::Continue,
            Err(violation) => {
                fail(handler, token, slot, state, common, violation);
                return Outcome::Ended;
            }
        };
        match item {
            Item::Message { kind, payload } if listening => {
                let Some(state) = state.as_mut() else { return Outcome::Abort };
                let conn = &mut Conn { token, slot, state, common };
                deliver(handler, conn, kind, &input[payload]);
            }
            Item::Piece { kind, payload, first, last } if listening => {
                let Some(state) = state.as_mut() else { return Outcome::Abort };
                let conn = &mut Conn { token, slot, state, common };
                piece(handler, conn, kind, &input[payload], first, last);
            }
            Item::Ping { payload } if listening => {
                common.stats.pings_received.add(1);
                if !common.pong(slot, token, &input[payload.clone()]) {
                    common.stats.pongs_withheld.add(1);
                    *withheld_ping = Some(payload);
                }
            }
            Item::Close { code, reason } => {
                let reason = std::str::from_utf8(&input[reason]).unwrap_or_default();
                closed_by_peer(handler, token, slot, state, common, code, reason);
                return Outcome::Ended;
            }
            Item::Deflated { kind, payload, first, last } if listening => {
                let Some(opened) = state.as_mut() else { return Outcome::Abort };
                let conn = &mut Conn { token, slot, state: opened, common };
                if let Err(violation) = deflated_piece(handler, conn, kind, &input[payload], first, last) {
                    slot.session.fail();
                    fail(handler, token, slot, state, common, violation);
                    return Outcome::Ended;
                }
            }
            Item::Deflated { .. } => {}
            Item::Pong { .. } | Item::Message { .. } | Item::Piece { .. } | Item::Ping { .. } => {}
        }
    }
}

#[inline]
pub(super) fn deliver<H: Handler>(
    handler: &mut H,
    conn: &mut Conn<'_, H::State>,
    kind: Kind,
    payload: &[u8],
) {
    conn.common.stats.messages_received.add(1);
    conn.common.stats.message_bytes_received.add(payload.len() as u64);
    if conn.slot.flags.has(Flags::STREAM) {
        handler.fragment(conn, Fragment { kind, payload, first: true, last: true });
        return;
    }
    let message = match kind {
        Kind::Text => Message::Text(ws::text::validated(payload)),
        Kind::Binary => Message::Binary(payload),
    };
    handler.message(conn, message);
}

pub(super) fn piece<H: Handler>(
    handler: &mut H,
    conn: &mut Conn<'_, H::State>,
    kind: Kind,
    payload: &[u8],
    first: bool,
    last: bool,
) {
    if conn.slot.flags.has(Flags::STREAM) {
        conn.common.stats.messages_received.add(1);
        conn.common.stats.message_bytes_received.add(payload.len() as u64);
        handler.fragment(conn, Fragment { kind, payload, first, last });
        return;
    }
    conn.common.work(conn.slot);
    let Common { works, pool, .. } = &mut *conn.common;
    let work = &mut works[conn.slot.work as usize];
    if first && work.assembly.capacity() < payload.len() {
        // As it is not whole in one receive buffer, it is likely to grow.
        let roomy = pool.take(payload.len() * 2);
        pool.give(std::mem::replace(&mut work.assembly, roomy));
    }
    pool.make_room(&mut work.assembly, payload.len());
    work.assembly.extend_from_slice(payload);
    if last {
        let assembly = std::mem::take(&mut work.assembly);
        deliver(handler, conn, kind, &assembly);
        conn.common.pool.give(assembly);
    }
}

/// The peer broke the protocol: it is told the code and hears nothing more (RFC 6455 §7.1.7).
fn fail<H: Handler>(
    handler: &mut H,
    token: Token,
    slot: &mut Slot,
    state: &mut Option<H::State>,
    common: &mut Common,
    violation: Violation,
) {
    common.close(slot, token, Some(violation.close_code()), violation.as_str());
    tell_close(handler, common, token, slot, state, CloseReason::Violation(violation));
    finishing(common, slot, token);
}

fn closed_by_peer<H: Handler>(
    handler: &mut H,
    token: Token,
    slot: &mut Slot,
    state: &mut Option<H::State>,
    common: &mut Common,
    code: Option<CloseCode>,
    reason: &str,
) {
    let ours_came_first = slot.session.state() == State::Closed;
    if !ours_came_first {
        // Answered with the same code (RFC 6455 §5.5.1).
        common.close(slot, token, code, "");
    }
    let told = match (ours_came_first, common.draining) {
        (false, _) => CloseReason::Peer { code, reason },
        (true, false) => CloseReason::Local,
        (true, true) => CloseReason::Shutdown,
    };
    tell_close(handler, common, token, slot, state, told);
    finishing(common, slot, token);
}

/// From here on input is discarded; FIN follows the last queued byte.
pub(super) fn finishing(common: &mut Common, slot: &mut Slot, token: Token) {
    slot.phase = Phase::Finishing;
    slot.since = common.tick;
    common.mark_dirty(slot, token);
}

/// Whether this end sends FIN first: the server does (RFC 6455 §7.1.1), and a client that fails
/// the connection waits for it, up to `close_ms`.
pub(super) fn sends_fin_first(slot: &Slot) -> bool {
    slot.session.role() == Role::Server
}
