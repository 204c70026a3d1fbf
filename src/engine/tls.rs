//! Connections within TLS: from the driver's bytes to what a plain connection would get, and back.
//!
//! What came is opened in the lease and goes the way of plain bytes; what waits is sealed into a buffer of
//! the pool when it is flushed. Handshakes wait for their turn, of which there are few in one turn of the
//! core. The contract: nothing is sealed twice, and nothing but a close_notify or an alert is sealed last.
//!
//! Without the feature `tls` the file `tls_off.rs` stands in, where nobody has TLS.

mod helpers;
mod kernel;
mod secures;

use super::Core;
use super::common::Common;
use super::outbound::ConnectError;
use super::party::Party;
use super::pool::Pool;
use super::receive::Outcome;
use super::requests::Served;
use super::slot::{Entry, Flags, Phase, Slot};
use crate::driver::{Driver, SendBuf, Token};
use crate::handler::{CloseReason, Handler};
use crate::http::Response;
use crate::tls::{Connection, MAX_HANDSHAKE_BYTES, Opened, Shaken, TlsFailure, TlsInfo};
use crate::ws::State;

/// Room for the messages of a handshake, with what rustls is lent for one of them.
const SHAKE_BYTES: usize = 8 << 10;

pub use helpers::{Crew, Helpers, Step};
pub use secures::{Listeners, Secures, kernel_wish};

pub(super) use secures::Prepared;

use helpers::MAX_AWAY;

impl Common {
    /// Gives a slot the client's end that was prepared for it.
    pub(super) fn secure(&mut self, slot: &mut Slot, token: Token, side: Prepared) {
        if let Some(side) = side {
            slot.flags.set(Flags::TLS);
            self.tls.adopt(token.slot, side);
            self.mark_dirty(slot, token);
        }
    }
}

impl<H: Handler> Party<'_, H> {
    /// Takes bytes of a connection within TLS.
    #[inline(never)]
    pub fn take_sealed(&mut self, input: &mut [u8]) -> Outcome {
        let outcome = self.open_sealed(input);
        self.common.tls.count_kept(self.token.slot);
        outcome
    }

    fn open_sealed(&mut self, input: &mut [u8]) -> Outcome {
        if matches!(self.slot.phase, Phase::Finishing | Phase::Lingering | Phase::Closing) {
            return Outcome::Continue;
        }
        let Common { tls, pool, limits, .. } = &mut *self.common;
        let early_bytes = tls.kept_bytes();
        let Some(side) = tls.side(self.token.slot) else { return Outcome::Abort };
        if side.connection.is_shaking() {
            side.keep(pool, input);
            if side.kept.len() > MAX_HANDSHAKE_BYTES || early_bytes > limits.max_early_bytes as usize {
                side.connection.abandon(&mut side.out);
                tls.shaking -= 1;
                return self
                    .fail_tls(TlsFailure::Handshake("the peer sends more than a handshake".to_owned()));
            }
            // While a step is away its return looks after what comes.
            if !side.connection.is_lent() && !std::mem::replace(&mut side.is_waiting, true) {
                tls.waiting.push_back(self.token);
            }
            return Outcome::Continue;
        }
        let mut at = 0;
        if !side.kept.is_empty() {
            let mut kept = std::mem::take(&mut side.kept);
            let whole = complete(&mut kept, pool, input, &mut at);
            if !whole {
                side.kept = kept;
                return Outcome::Continue;
            }
            let outcome = self.take_records(&mut kept);
            self.common.pool.give(kept);
            if !matches!(outcome, Outcome::Continue) {
                return outcome;
            }
        }
        self.take_records(&mut input[at..])
    }

    /// Goes on with what a record held. A function of its own, so that the way of plain bytes stays as it
    /// is compiled without TLS.
    #[inline(never)]
    fn take_opened(&mut self, plain: &mut [u8]) -> Outcome {
        self.take(plain, false)
    }

    /// Opens records and goes on with what they hold. What is not a whole record is kept.
    fn take_records(&mut self, input: &mut [u8]) -> Outcome {
        let mut at = 0;
        loop {
            match self.common.tls.open(self.token.slot, input, &mut at) {
                Ok(Opened::Data(range)) => {
                    let outcome = self.take_opened(&mut input[range]);
                    if !matches!(outcome, Outcome::Continue) {
                        return outcome;
                    }
                }
                Ok(Opened::Wait) => break,
                Ok(Opened::Closed) => {
                    if let Some(side) = self.common.tls.side(self.token.slot) {
                        side.is_closed = true;
                    }
                    return Outcome::PeerClosed;
                }
                Err(failure) => return self.fail_tls(failure),
            }
        }
        let Common { tls, pool, .. } = &mut *self.common;
        let Some(side) = tls.side(self.token.slot) else { return Outcome::Abort };
        if at < input.len() {
            side.keep(pool, &input[at..]);
        }
        if side.owes(false) {
            self.common.mark_dirty(self.slot, self.token);
        }
        Outcome::Continue
    }

    /// Takes the next step of a handshake.
    fn shake(&mut self) -> Outcome {
        if !matches!(self.slot.phase, Phase::Securing | Phase::Connecting) {
            return Outcome::Continue;
        }
        let (mut kept, mut used) = match self.take_kept() {
            Ok(kept) => (kept, 0),
            Err(outcome) => return outcome,
        };
        // What is not whole is soon looked at.
        if self.common.tls.helpers.are_there() && Connection::missing_bytes(&kept) == 0 {
            self.send_away(kept);
            return Outcome::Continue;
        }
        let Common { tls, pool, .. } = &mut *self.common;
        let Some(side) = tls.side(self.token.slot) else { return Outcome::Continue };
        if side.out.capacity() == 0 {
            side.out = pool.take(SHAKE_BYTES);
        }
        let shaken = side.connection.shake(&mut kept, &mut used, &mut side.out);
        self.after_step(kept, used, shaken)
    }

    /// Lets a helper take the next step.
    fn send_away(&mut self, kept: Vec<u8>) {
        let Common { tls, pool, stats, now, .. } = &mut *self.common;
        let Some(side) = tls.side(self.token.slot) else { return pool.give(kept) };
        side.away_bytes = kept.capacity() as u32;
        let step = Step::new(self.token, side.connection.lend(), kept, pool.take(SHAKE_BYTES));
        tls.away += 1;
        stats.tls_helped.add(1);
        tls.helpers.hand_over(step, *now);
    }

    /// Whether a step that was away is still of use.
    fn awaits_step(&self) -> bool {
        matches!(self.slot.phase, Phase::Securing | Phase::Connecting)
            && self.common.tls.is_lent(self.token.slot)
    }

    /// A step has been taken elsewhere.
    fn take_back(&mut self, step: Step) -> Outcome {
        let Step { connection, mut kept, mut used, mut out, shaken, .. } = step;
        let Common { tls, pool, .. } = &mut *self.common;
        let Some(side) = tls.side(self.token.slot) else { return Outcome::Continue };
        side.connection = connection;
        side.away_bytes = 0;
        if side.out.is_empty() {
            std::mem::swap(&mut side.out, &mut out);
        } else {
            side.out.extend_from_slice(&out);
        }
        pool.give(out);
        let came = std::mem::take(&mut side.kept);
        if !came.is_empty() {
            kept.drain(..std::mem::take(&mut used));
            pool.make_room(&mut kept, came.len());
            kept.extend_from_slice(&came);
            if side.connection.is_shaking() && !std::mem::replace(&mut side.is_waiting, true) {
                tls.waiting.push_back(self.token);
            }
        }
        pool.give(came);
        self.after_step(kept, used, shaken)
    }

    fn after_step(&mut self, mut kept: Vec<u8>, used: usize, shaken: Result<Shaken, TlsFailure>) -> Outcome {
        let Common { tls, pool, .. } = &mut *self.common;
        let Some(side) = tls.side(self.token.slot) else { return Outcome::Continue };
        if side.out.is_empty() {
            pool.give(std::mem::take(&mut side.out));
        } else {
            self.common.mark_dirty(self.slot, self.token);
        }
        match shaken {
            Ok(Shaken::Wait) => {
                kept.drain(..used);
                match self.common.tls.side(self.token.slot) {
                    Some(side) if !kept.is_empty() => side.kept = kept,
                    _ => self.common.pool.give(kept),
                }
                Outcome::Continue
            }
            Ok(Shaken::Done(info, mut early)) => {
                self.shaken(info);
                if self.slot.phase == Phase::Head && !self.slot.entry.has(Entry::COUNTED) {
                    // Who was not let in was only to be told so.
                    self.common.pool.give(kept);
                    self.refuse(self.common.refusal());
                    return Outcome::Ended;
                }
                let mut outcome = Outcome::Continue;
                if !early.is_empty() {
                    outcome = self.take_opened(&mut early);
                }
                if matches!(outcome, Outcome::Continue) {
                    outcome = self.take_records(&mut kept[used..]);
                }
                self.common.pool.give(kept);
                outcome
            }
            Err(TlsFailure::PlainHttp) => {
                self.common.pool.give(kept);
                self.answer_plain_http()
            }
            Err(failure) => {
                self.common.pool.give(kept);
                self.common.tls.shaking -= 1;
                self.fail_tls(failure)
            }
        }
    }

    /// What has come for the handshake, without the header that a trusted proxy puts before it.
    fn take_kept(&mut self) -> Result<Vec<u8>, Outcome> {
        let Some(side) = self.common.tls.side(self.token.slot) else { return Err(Outcome::Continue) };
        side.is_waiting = false;
        let mut kept = std::mem::take(&mut side.kept);
        match self.take_proxy_header(&kept) {
            Ok(bytes) => drop(kept.drain(..bytes)),
            Err(Served::Rest) => {
                if let Some(side) = self.common.tls.side(self.token.slot) {
                    side.kept = kept;
                }
                return Err(Outcome::Continue);
            }
            Err(_) => {
                self.common.pool.give(kept);
                return Err(Outcome::Abort);
            }
        }
        if kept.is_empty() {
            self.common.pool.give(kept);
            return Err(Outcome::Continue);
        }
        Ok(kept)
    }

    /// The handshake is done: HTTP begins.
    fn shaken(&mut self, info: Box<TlsInfo>) {
        let Common { tls, stats, tick, .. } = &mut *self.common;
        tls.shaking -= 1;
        tls.open += 1;
        stats.tls_handshakes.add(1);
        stats.tls_resumed.add(info.is_resumed().into());
        if self.slot.phase == Phase::Securing {
            self.slot.since = *tick;
            if let Some(side) = tls.side(self.token.slot) {
                side.info = Some(info);
            }
        }
        if self.slot.phase == Phase::Securing {
            self.common.enter(self.slot, Phase::Head);
        }
        // A client's request waits.
        self.common.mark_dirty(self.slot, self.token);
    }

    /// Who speaks HTTP to a port for TLS is told so in HTTP.
    fn answer_plain_http(&mut self) -> Outcome {
        let Common { tls, pool, stats, .. } = &mut *self.common;
        stats.tls_plain_http.add(1);
        tls.shaking -= 1;
        tls.remove(self.token.slot, pool);
        self.slot.flags.take(Flags::TLS);
        self.common.enter(self.slot, Phase::Head);
        self.refuse(Response::text(400, "This port speaks TLS: use https:// or wss://.\n"));
        Outcome::Ended
    }

    /// TLS has failed: the peer is told by an alert, after what was sent before.
    #[cold]
    fn fail_tls(&mut self, failure: TlsFailure) -> Outcome {
        let Common { tls, pool, works, stats, outbox_bytes, .. } = &mut *self.common;
        let Some(side) = tls.side(self.token.slot) else { return Outcome::Abort };
        side.failure = Some(Box::new(failure.clone()));
        match &failure {
            _ if matches!(self.slot.phase, Phase::Securing | Phase::Connecting) => stats.tls_failures.add(1),
            TlsFailure::Record(_) => stats.tls_bad_records.add(1),
            TlsFailure::KernelKeys => stats.tls_kernel_key_ends.add(1),
            _ => {}
        }
        if !side.connection.is_open()
            && let Some(work) = works.get_mut(self.slot.work as usize)
        {
            // A request that cannot be sent any more.
            *outbox_bytes -= work.queue.bytes();
            std::mem::take(&mut work.queue).dismantle(pool);
            if let Some(received) = &mut work.received {
                received.handshake = None;
            }
        }
        if self.slot.phase == Phase::Connecting
            && let Some(state) = self.state.take()
        {
            self.handler.connect_failed(state, ConnectError::Tls(failure));
        }
        self.tell_close(CloseReason::Disconnected);
        self.finishing();
        Outcome::Ended
    }
}

/// Appends to what is kept of a record what it lacks. False if `input` did not have it all.
fn complete(kept: &mut Vec<u8>, pool: &mut Pool, input: &[u8], at: &mut usize) -> bool {
    loop {
        let missing = Connection::missing_bytes(kept);
        if missing == 0 {
            return true;
        }
        let taken = missing.min(input.len() - *at);
        pool.make_room(kept, missing);
        kept.extend_from_slice(&input[*at..*at + taken]);
        *at += taken;
        if taken < missing {
            return false;
        }
    }
}

impl<D: Driver, H: Handler> Core<D, H> {
    /// Goes on with as many handshakes as one turn may.
    #[inline(never)]
    pub(super) fn progress_handshakes(&mut self) {
        while let Some(step) = self.common.tls.helpers.through(self.common.now) {
            self.on_shaken(step);
        }
        for _ in 0..self.common.limits.max_tls_handshakes_per_turn.max(1) {
            if self.common.tls.away >= MAX_AWAY {
                return;
            }
            let Some(token) = self.common.tls.waiting.pop_front() else { return };
            let Some(mut party) = self.party(token) else { continue };
            let outcome = party.shake();
            self.end_step(token, outcome);
        }
    }

    /// A helper has taken a step.
    pub(super) fn on_shaken(&mut self, step: Box<Step>) {
        self.common.tls.away -= 1;
        let token = step.token;
        let awaited = self.party(token).filter(Party::awaits_step);
        let Some(mut party) = awaited else {
            self.common.stats.tls_helped_in_vain.add(1);
            self.common.pool.give(step.kept);
            return self.common.pool.give(step.out);
        };
        let outcome = party.take_back(*step);
        self.end_step(token, outcome);
    }

    fn end_step(&mut self, token: Token, outcome: Outcome) {
        self.common.tls.count_kept(token.slot);
        let ended_meanwhile = self.party(token).is_some_and(|party| party.slot.flags.has(Flags::EOF));
        self.after_received(token, outcome);
        if ended_meanwhile {
            self.on_eof(token);
        }
        self.arm_for_state(token);
    }

    /// Whether the end of the peer's bytes must wait, as its handshake does.
    pub(super) fn eof_waits(&mut self, token: Token) -> bool {
        self.common.tls.side(token.slot).is_some_and(|side| side.is_waiting || side.connection.is_lent())
    }

    /// Counts an end without close_notify: data may have been cut off on the way (RFC 8446 §6.1).
    pub(super) fn count_truncation(&mut self, token: Token) {
        let Common { tls, stats, .. } = &mut self.common;
        if tls.side(token.slot).is_some_and(|side| side.connection.is_open() && !side.is_closed) {
            stats.tls_truncations.add(1);
        }
    }

    /// Seals what is queued, and hands it to the driver.
    fn flush_sealed(&mut self, token: Token) {
        let Some((slot, _)) = self.table.get(token) else { return };
        let (phase, tick) = (slot.phase, self.common.tick);
        let Common { tls, works, pool, .. } = &mut self.common;
        let mut work = works.get_mut(slot.work as usize);
        if phase == Phase::Closing || work.as_ref().is_some_and(|work| work.in_flight > 0) {
            return;
        }
        let mut finishing = phase == Phase::Finishing;
        if let Some(work) = &mut work {
            work.refill_if_empty(pool);
            finishing &= work.backlog_bytes == 0;
        }
        let queue = work.as_mut().map(|work| &mut work.queue);
        let filled = tls.fill(token, queue, pool, tick, finishing);
        let Ok((out, sealed_bytes)) = filled else { return self.abort(token, CloseReason::Disconnected) };
        if out.is_empty() {
            pool.give(out);
            let shaking = tls.side(token.slot).is_some_and(|side| side.connection.is_shaking());
            return if !shaking {
                self.all_sent(token)
            };
        }
        self.common.outbox_bytes += out.len();
        self.common.outbox_bytes -= sealed_bytes;
        let work = self.common.work(slot);
        work.in_flight = out.len();
        work.pongs = 0;
        work.write_since = tick;
        let is_last = work.queued() == work.in_flight
            && !slot.flags.has(Flags::WANTS_DRAIN)
            && !slot.flags.has(Flags::PAUSED)
            && phase == Phase::Open
            && slot.session.state() == State::Open;
        let unawaited = is_last && out.len() < self.common.limits.pause_receive_bytes as usize;
        let out = SendBuf::Owned(out);
        if unawaited {
            if let Some(out) = self.driver.send_unawaited(token, out) {
                return self.on_sent(token, out, Ok(()));
            }
        } else {
            self.driver.send(token, out);
        }
        self.sent.push(token);
        self.unawaited |= unawaited;
    }
}
