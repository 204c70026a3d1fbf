//! From received bytes to the handler: frames, messages, and what ends a connection.

use super::common::Common;
use super::lent::Lent;
use super::party::Party;
use super::slot::{Entry, Flags, NO_WORK, Phase, Slot};
use super::{Core, inflate};
use crate::driver::{Driver, Lease, Token};
use crate::handler::{CloseReason, Conn, Fragment, Handler};
use crate::ws::{self, CloseCode, DecodeLimits, Item, Kind, Message, Role, State, Violation};
use std::ops::Range;

/// What taking bytes from a connection led to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It goes on.
    Continue,
    /// The handler's side is over; the last bytes are queued.
    Ended,
    /// The peer has said within TLS that it sends no more.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "nobody has TLS"))]
    PeerClosed,
    /// There is nothing to say to the peer: close at once.
    Abort,
}

impl<D: Driver, H: Handler> Core<D, H> {
    pub(super) fn on_received(&mut self, token: Token, lease: Lease) {
        let Self { driver, handler, table, common, .. } = self;
        let Some((slot, state)) = table.get(token) else { return driver.release(lease) };
        let dirty = common.dirty.len();
        let mut party = Party { handler, token, slot, state, common };
        let input = driver.bytes(&lease);
        party.common.pool.answering_bytes = input.len();
        let opened = party.slot.entry.has(Entry::OPENED);
        let sealed = party.slot.flags.has(Flags::TLS) && !opened;
        let outcome = if sealed { party.take_sealed(input) } else { party.take(input, true) };
        common.pool.answering_bytes = 0;
        let is_done = common.is_done(slot, &outcome);
        let answered = self.end_lease(token, lease);
        if !is_done {
            self.after_received(token, outcome);
        }
        // A record that the kernel cannot open is an error of the socket's, which a send would be told of
        // in place of the receive that comes next.
        if self.driver.sends_at_once() && !opened && !answered {
            self.answer_early(token, dirty);
        }
    }

    pub(super) fn after_received(&mut self, token: Token, outcome: Outcome) {
        if self.common.meters.is_on() {
            self.pause_the_fast(token);
        }
        if let Some((slot, _)) = self.table.get(token) {
            if self.common.is_done(slot, &outcome) {
                return;
            }
            self.common.account(slot);
        }
        if let Outcome::Abort = outcome {
            return self.abort(token, CloseReason::Disconnected);
        }
        self.settle_received(token);
        if let Outcome::PeerClosed = outcome {
            self.on_eof(token);
        }
    }

    fn settle_received(&mut self, token: Token) {
        let Some((slot, _)) = self.table.get(token) else { return };
        if slot.work != NO_WORK {
            self.common.release_idle_work(slot, token);
            if slot.phase == Phase::Head || !slot.flags.has(Flags::DIRTY) {
                // Requests that were put off wait for the end of a pause, which must have begun. And
                // the flush does not come by what is merely not whole.
                self.settle(token);
            }
            self.keep_to_budget(token);
        }
    }

    /// The peer will send no more. What is queued still goes out.
    pub(super) fn on_eof(&mut self, token: Token) {
        let Some(party) = self.party(token) else { return };
        let (secured, phase) = (party.slot.flags.has(Flags::TLS), party.slot.phase);
        party.slot.flags.set(Flags::EOF);
        if secured && self.eof_waits(token) {
            return;
        }
        if secured && matches!(phase, Phase::Head | Phase::Open) {
            self.count_truncation(token);
        }
        let Some(mut party) = self.party(token) else { return };
        match party.slot.phase {
            // What came before is still delivered, when the peer's time has come.
            Phase::Open if party.slot.flags.has(Flags::SLOWED) => {}
            Phase::Open | Phase::Stream => {
                party.tell_close(CloseReason::Disconnected);
                self.finish(token);
            }
            Phase::Deferred => self.abort(token, CloseReason::Disconnected),
            // Requests that were put off are still answered.
            Phase::Head if party.slot.flags.has(Flags::PAUSED) => {}
            Phase::Head => self.finish(token),
            Phase::Securing => {
                self.common.stats.tls_failures.add(1);
                self.abort(token, CloseReason::Disconnected);
            }
            Phase::Connecting => self.abort(token, CloseReason::Disconnected),
            // Nothing more is owed: the peer has all of ours, or reads no more.
            Phase::Lingering => self.abort(token, CloseReason::Disconnected),
            Phase::Finishing | Phase::Closing => {}
        }
    }
}

impl Common {
    /// Whether all that came has been done with, and the flush sees to the answer.
    #[inline]
    fn is_done(&self, slot: &Slot, outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Continue) && !self.meters.owes() && self.merely_answers(slot)
    }
}

impl<H: Handler> Party<'_, H> {
    /// Takes bytes as the connection's state asks for. `leased` means that `input` is the lease, out of
    /// which may be answered.
    #[inline(always)]
    pub fn take(&mut self, input: &mut [u8], leased: bool) -> Outcome {
        match self.slot.phase {
            Phase::Open => {
                self.slot.last_seen = self.common.tick;
                self.take_frames(input, leased)
            }
            Phase::Head => self.take_requests(input),
            Phase::Connecting => self.take_answer(input),
            Phase::Deferred => self.take_early(input),
            // A connection in `Securing` is within TLS, and bytes do not come here before it is through.
            Phase::Securing | Phase::Stream | Phase::Finishing | Phase::Lingering | Phase::Closing => {
                Outcome::Continue
            }
        }
    }

    /// Decodes frames and hands their content to the handler; `leased` as in [`take`](Self::take).
    pub fn take_frames(&mut self, input: &mut [u8], leased: bool) -> Outcome {
        if self.common.meters.is_on() && self.slot.flags.has(Flags::SLOWED) {
            self.hold(input);
            return Outcome::Continue;
        }
        let mut at = 0;
        let inside = self.slot.session.is_inside_message().then(|| self.common.stats.messages_received());
        if self.slot.work != NO_WORK
            && let Some(outcome) = self.take_carried(input, &mut at)
        {
            return outcome;
        }
        let outcome =
            if self.common.meters.owes() { Outcome::Continue } else { self.decode(input, &mut at, leased) };
        if !matches!(outcome, Outcome::Continue) {
            return outcome;
        }
        if self.slot.session.is_inside_message() && !self.slot.flags.has(Flags::STREAM) {
            let goes_on = inside.is_some_and(|before| self.common.stats.messages_received() == before);
            if !goes_on {
                // Perhaps only its header came: no piece of it would tell.
                self.common.receive(self.slot).assembly_since = self.common.tick;
            }
        }
        if self.common.meters.owes() {
            self.slot.flags.set(Flags::SLOWED);
            self.hold(&input[at..]);
        } else if at < input.len() {
            let mut carry = self.common.pool.take(ws::MAX_CARRY);
            carry.extend_from_slice(&input[at..]);
            self.common.receive(self.slot).carry = carry;
        }
        outcome
    }

    /// Decodes what was kept, with what it lacks from the front of `input`. The outcome, if there is no more to be
    /// decoded.
    #[inline(never)]
    fn take_carried(&mut self, input: &[u8], at: &mut usize) -> Option<Outcome> {
        let mut carry = self.common.take_carry(self.slot);
        if carry.is_empty() {
            return None;
        }
        let whole = complete_carry(&mut carry, input, at);
        // Decoded even if it is not whole: two bytes are enough for most violations. It is one frame at most, so the
        // loop that serves every case is fast enough.
        let outcome = self.decode_watched(&mut carry, &mut 0, false);
        if !whole && matches!(outcome, Outcome::Continue) {
            self.common.receive(self.slot).carry = carry;
            return Some(outcome);
        }
        self.common.pool.give(carry);
        (!matches!(outcome, Outcome::Continue)).then_some(outcome)
    }

    #[inline(always)]
    fn decode(&mut self, input: &mut [u8], at: &mut usize, leased: bool) -> Outcome {
        match (self.common.meters.is_on() || self.common.stopwatch.is_on(), self.slot.session.role()) {
            (false, Role::Server) => self.decode_all::<false, false>(input, at, leased),
            (false, Role::Client) => self.decode_from_server(input, at, leased),
            (true, _) => self.decode_watched(input, at, leased),
        }
    }

    /// As a client. Apart, so that servers, whose messages look otherwise, don't ask for each.
    #[inline(never)]
    fn decode_from_server(&mut self, input: &mut [u8], at: &mut usize, leased: bool) -> Outcome {
        self.decode_all::<false, true>(input, at, leased)
    }

    /// Serves either role, keeps the peer to its rate and measures the handler, where these are asked for.
    #[cold]
    fn decode_watched(&mut self, input: &mut [u8], at: &mut usize, leased: bool) -> Outcome {
        self.decode_all::<true, false>(input, at, leased)
    }

    #[inline(always)]
    fn decode_all<const WATCHED: bool, const FROM_SERVER: bool>(
        &mut self,
        input: &mut [u8],
        at: &mut usize,
        leased: bool,
    ) -> Outcome {
        let limits = self.common.decode_limits(self.slot);
        let mut withheld_ping = None;
        // Of its own, so that it stays in a register.
        let mut next = *at;
        loop {
            if WATCHED && self.common.meters.owes() {
                break;
            }
            if !WATCHED && !FROM_SERVER {
                match self.take_short(&mut input[next..], &limits) {
                    Ok(taken) => next += taken,
                    Err(violation) => return self.fail(violation),
                }
            }
            let listening = self.slot.session.state() == State::Open;
            let session = &mut self.slot.session;
            let item = match (WATCHED, FROM_SERVER) {
                (false, false) => session.decode_others(input, &mut next, &limits),
                (true, false) => session.decode(input, &mut next, &limits),
                (_, true) => session.decode_from_server(input, &mut next, &limits),
            };
            let item = match item {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(violation) => return self.fail(violation),
            };
            match item {
                Item::Close { code, reason } => {
                    let reason = std::str::from_utf8(&input[reason]).unwrap_or_default();
                    return self.closed_by_peer(code, reason);
                }
                // After our Close frame nothing but the peer's is of interest.
                _ if !listening => {}
                _ if WATCHED && !self.keeps_pace(&item) => return self.too_fast(),
                Item::Message { kind, payload } => {
                    if leased {
                        self.lend(input, &payload);
                    }
                    let Some((handler, mut conn)) = self.conn() else { return Outcome::Abort };
                    deliver::<WATCHED, H>(handler, &mut conn, kind, &input[payload]);
                }
                Item::Piece { kind, payload, first, last } => {
                    let Some((handler, mut conn)) = self.conn() else { return Outcome::Abort };
                    piece(handler, &mut conn, kind, &input[payload], first, last);
                }
                Item::Deflated { kind, payload, first, last } => {
                    let Some((handler, mut conn)) = self.conn() else { return Outcome::Abort };
                    let payload = &input[payload];
                    if let Err(violation) = inflate::piece(handler, &mut conn, kind, payload, first, last) {
                        self.slot.session.fail();
                        return self.fail(violation);
                    }
                }
                Item::Ping { payload } => {
                    self.common.stats.pings_received.add(1);
                    if !self.common.pong(self.slot, self.token, &input[payload.clone()]) {
                        self.common.stats.pongs_withheld.add(1);
                        withheld_ping = Some(payload);
                    }
                }
                Item::Pong { payload } => self.common.pong_came(self.slot, &input[payload]),
            }
        }
        *at = next;
        self.answer_withheld(input, withheld_ping);
        Outcome::Continue
    }

    /// Hands over the short messages at the front of `input`, between which nothing is asked that does not change:
    /// how many bytes they are.
    #[inline(always)]
    fn take_short(&mut self, input: &mut [u8], limits: &DecodeLimits) -> Result<usize, Violation> {
        let whole_bytes = input.len();
        let mut rest = input;
        let Some((handler, mut conn)) = self.conn().filter(|_| !limits.stream) else { return Ok(0) };
        while conn.slot.session.awaits_a_client_message()
            && let Some((kind, payload)) = conn.slot.session.split_short(&mut rest, limits)?
        {
            deliver_message::<false, H>(handler, &mut conn, kind, payload);
        }
        Ok(whole_bytes - rest.len())
    }

    /// Of the pings that were not answered one by one, the last is (RFC 6455 §5.5.3).
    fn answer_withheld(&mut self, input: &[u8], ping: Option<Range<usize>>) {
        if let Some(ping) = ping {
            self.common.work(self.slot).pongs = 0;
            self.common.pong(self.slot, self.token, &input[ping]);
        }
    }

    /// The peer broke the protocol: it is told the code and hears nothing more (RFC 6455 §7.1.7).
    #[cold]
    fn fail(&mut self, violation: Violation) -> Outcome {
        let code = Some(violation.close_code());
        self.common.close(self.slot, self.token, code, violation.as_str());
        self.tell_close(CloseReason::Violation(violation));
        self.finishing();
        Outcome::Ended
    }

    fn closed_by_peer(&mut self, code: Option<CloseCode>, reason: &str) -> Outcome {
        let ours_came_first = self.slot.session.state() == State::Closed;
        if !ours_came_first {
            // Answered with the same code (RFC 6455 §5.5.1).
            self.common.close(self.slot, self.token, code, "");
        }
        self.tell_close(match (ours_came_first, self.common.draining) {
            (false, _) => CloseReason::Peer { code, reason },
            (true, false) => CloseReason::Local,
            (true, true) => CloseReason::Shutdown,
        });
        self.finishing();
        Outcome::Ended
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

#[inline]
pub(super) fn deliver<const WATCHED: bool, H: Handler>(
    handler: &mut H,
    conn: &mut Conn<'_, H::State>,
    kind: Kind,
    payload: &[u8],
) {
    if conn.slot.flags.has(Flags::STREAM) {
        return deliver_fragment(handler, conn, Fragment { kind, payload, first: true, last: true });
    }
    deliver_message::<WATCHED, H>(handler, conn, kind, payload);
}

/// As [`deliver`], to a handler that takes no fragments.
#[inline(always)]
fn deliver_message<const WATCHED: bool, H: Handler>(
    handler: &mut H,
    conn: &mut Conn<'_, H::State>,
    kind: Kind,
    payload: &[u8],
) {
    conn.common.stats.count_received(kind, payload.len());
    let message = match kind {
        Kind::Text => Message::Text(ws::text::validated(payload)),
        Kind::Binary => Message::Binary(payload),
    };
    if WATCHED && conn.common.stopwatch.is_on() {
        return measured(conn, |conn| handler.message(conn, message));
    }
    handler.message(conn, message);
}

/// Calls the handler and counts how long it took.
#[cold]
fn measured<S>(conn: &mut Conn<'_, S>, call: impl FnOnce(&mut Conn<'_, S>)) {
    let begin = conn.common.stopwatch.begin();
    call(conn);
    let took = conn.common.stopwatch.now().saturating_sub(begin);
    conn.common.stats.labelled.handler.record(took);
}

fn deliver_fragment<H: Handler>(handler: &mut H, conn: &mut Conn<'_, H::State>, fragment: Fragment<'_>) {
    conn.common.stats.count_received(fragment.kind, fragment.payload.len());
    if conn.common.stopwatch.is_on() {
        return measured(conn, |conn| handler.fragment(conn, fragment));
    }
    handler.fragment(conn, fragment);
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
        return deliver_fragment(handler, conn, Fragment { kind, payload, first, last });
    }
    let whole_bytes = conn.slot.session.declared_bytes();
    conn.common.work(conn.slot);
    let Common { works, places, pool, .. } = &mut *conn.common;
    let received = works[conn.slot.work as usize].receive(places);
    received.assembly.push(pool, payload, whole_bytes);
    if last {
        let assembly = std::mem::take(&mut received.assembly);
        conn.common.lent = Lent::of(conn.token, &assembly);
        deliver::<true, H>(handler, conn, kind, assembly.message());
        let lent = conn.common.lent.take();
        let Common { works, pool, .. } = &mut *conn.common;
        if let Some(frame) = Lent::settle(lent, assembly, pool)
            && let Some(work) = works.get_mut(conn.slot.work as usize)
        {
            work.queue.fulfil(frame);
        }
    }
}
