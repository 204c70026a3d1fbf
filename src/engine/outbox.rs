//! The sending side of a turn: one send per connection, one in flight, and what follows its end.

use super::Core;
use super::clock::ticks;
use super::common::Common;
use super::slot::{Flags, NO_WORK, Phase, Slot};
use super::work::Work;
use crate::driver::{Driver, SendBuf, Token};
use crate::handler::{CloseReason, Conn, Handler};
use crate::ws::{Role, State};

impl<D: Driver, H: Handler> Core<D, H> {
    /// At the end of a turn: gives every dirty connection's bytes to the driver.
    pub(super) fn flush(&mut self) {
        if !self.sent.is_empty() {
            self.watch_stalled_sends();
        }
        // Where nothing waits for the flush, no answer does.
        if !self.common.dirty.is_empty() {
            self.flush_dirty();
        }
    }

    /// Flushes before the turn ends, if bytes from a connection led to an answer to it and to nothing else (`dirty`
    /// waited before) and it is time.
    #[inline]
    pub(super) fn answer_early(&mut self, token: Token, dirty: usize) {
        let waiting = &self.common.dirty;
        if waiting.len() == dirty + 1 && waiting[dirty] == token && self.answers.is_due(waiting.len()) {
            self.flush_dirty();
        }
    }

    fn flush_dirty(&mut self) {
        self.answers.flushed();
        let pause_receive_bytes = self.common.limits.pause_receive_bytes as usize;
        let mut dirty = std::mem::take(&mut self.common.dirty);
        for token in dirty.drain(..) {
            let Some((mut slot, _)) = self.table.get(token) else { continue };
            slot.flags.take(Flags::DIRTY);
            if slot.flags.has(Flags::TLS) {
                if self.flush_tls(token) {
                    self.settle(token);
                    continue;
                }
                let Some((sealed, _)) = self.table.get(token) else { continue };
                slot = sealed;
            }
            let (phase, tick) = (slot.phase, self.common.tick);
            let Common { works, pool, outbox_bytes, .. } = &mut self.common;
            match works.get_mut(slot.work as usize) {
                Some(work) if work.in_flight > 0 || phase == Phase::Closing => {
                    if std::mem::take(&mut work.answered) {
                        self.sent.push(token);
                        let unawaited = nobody_awaits(slot, work, pause_receive_bytes);
                        self.unawaited |= unawaited;
                        self.hurries |= !unawaited;
                    }
                }
                Some(work) => match work.next_send(pool) {
                    Some(buf) => {
                        work.in_flight = buf.as_slice().len();
                        work.pongs = 0;
                        work.write_since = tick;
                        if !nobody_awaits(slot, work, pause_receive_bytes) {
                            self.sent.push(token);
                            self.driver.send(token, buf);
                        } else if let Some(buf) = self.driver.send_unawaited(token, buf) {
                            *outbox_bytes -= std::mem::take(&mut work.in_flight);
                            pool.give_back(buf);
                            self.common.release_idle_work(slot, token);
                            if slot.work == NO_WORK && self.common.has_its_timer(slot) {
                                continue;
                            }
                        } else {
                            self.sent.push(token);
                            self.unawaited = true;
                        }
                    }
                    None => self.all_sent(token),
                },
                None => self.all_sent(token),
            }
            self.settle(token);
        }
        // Sends of `all_sent`'s callbacks, if any, wait for the next turn.
        dirty.append(&mut self.common.dirty);
        self.common.dirty = dirty;
    }

    pub(super) fn on_sent(&mut self, token: Token, buf: SendBuf, result: std::io::Result<()>) {
        self.common.pool.give_back(buf);
        let Some((slot, _)) = self.table.get(token) else { return };
        let Some(work) = self.common.existing_work(slot) else { return };
        work.answered = false;
        let bytes = std::mem::take(&mut work.in_flight);
        let more = work.queued() > 0 || self.common.tls.owes(slot, token);
        self.common.outbox_bytes -= bytes;
        if result.is_err() {
            return self.abort(token, CloseReason::Disconnected);
        }
        if more {
            self.common.mark_dirty(slot, token);
            self.resume(token);
        } else if is_carefree(slot) {
            self.common.release_idle_work(slot, token);
        } else {
            self.all_sent(token);
        }
    }

    /// Everything queued has been taken by this host's kernel.
    pub(super) fn all_sent(&mut self, token: Token) {
        let Some((slot, state)) = self.table.get(token) else { return };
        match slot.phase {
            Phase::Finishing if slot.flags.has(Flags::EOF) => {
                return self.abort(token, CloseReason::Disconnected);
            }
            // The server ends the transport first (RFC 6455 §7.1.1), and need not wait for the peer: what
            // would be answered with a reset, which could overtake our last bytes, will not come.
            // Within TLS the peer may still say so.
            Phase::Finishing
                if slot.session.role() == Role::Server
                    && slot.session.is_closed_by_both()
                    && !slot.flags.has(Flags::TLS) =>
            {
                return self.abort(token, CloseReason::Local);
            }
            Phase::Finishing => {
                self.common.enter(slot, Phase::Lingering);
                slot.since = self.common.tick;
                // A client waits for the server to end the transport.
                if slot.session.role() == Role::Server {
                    self.driver.shutdown(token);
                }
                if slot.flags.take(Flags::PAUSED) {
                    // Or the peer's FIN would not be seen.
                    self.driver.resume(token);
                }
                self.common.release_idle_work(slot, token);
                self.arm_within(token, self.common.deadlines.close_ms);
                return self.tell_stream_ended(token);
            }
            Phase::Open | Phase::Stream if slot.flags.take(Flags::WANTS_DRAIN) => {
                if let Some(state) = state.as_mut() {
                    self.handler.drain(&mut Conn { token, slot, state, common: &mut self.common });
                }
            }
            Phase::Head => {
                // The time for the next request begins with the end of the last answer.
                slot.since = self.common.tick;
                self.arm_within(token, self.common.deadlines.head_ms);
            }
            _ => {}
        }
        self.resume(token);
        let Some((slot, _)) = self.table.get(token) else { return };
        self.common.release_idle_work(slot, token);
    }

    /// A response that went on has been sent to its end.
    fn tell_stream_ended(&mut self, token: Token) {
        let draining = self.common.draining;
        let Some(mut party) = self.party(token) else { return };
        party.tell_close(if draining { CloseReason::Shutdown } else { CloseReason::Local });
    }

    /// Receives again from a connection whose queue has become short.
    pub(super) fn resume(&mut self, token: Token) {
        let resume_below = self.common.limits.pause_receive_bytes as usize / 2 + 1;
        let Some((slot, _)) = self.table.get(token) else { return };
        // Whose request is answered later is not read from before, if more than that came.
        let waits = slot.phase == Phase::Deferred || slot.flags.has(Flags::SLOWED);
        if waits || self.common.queued(slot) >= resume_below || !slot.flags.take(Flags::PAUSED) {
            return;
        }
        self.driver.resume(token);
        match slot.phase {
            Phase::Head => {
                // Pipelined requests that were put off.
                let Some(mut party) = self.party(token) else { return };
                let outcome = party.take_requests(&mut []);
                self.after_received(token, outcome);
                self.finish_after_eof(token);
            }
            Phase::Open => {
                // Silence counts from here: it was of our own making.
                slot.last_seen = self.common.tick;
                slot.flags.take(Flags::PING_SENT);
                self.arm_for_state(token);
            }
            _ => {}
        }
    }

    /// The peer sent FIN while its requests were put off, and all are answered now.
    fn finish_after_eof(&mut self, token: Token) {
        let Some((slot, _)) = self.table.get(token) else { return };
        if slot.phase == Phase::Head && slot.flags.has(Flags::EOF) && !slot.flags.has(Flags::PAUSED) {
            self.finish(token);
        }
    }

    /// Looks at a connection on which something was queued or is half received: a peer that does not
    /// read is not read from, and what has a deadline gets its timer.
    pub(super) fn settle(&mut self, token: Token) {
        let Some((slot, _)) = self.table.get(token) else { return };
        let too_much = match slot.phase {
            Phase::Open | Phase::Head => {
                self.common.queued(slot) >= self.common.limits.pause_receive_bytes as usize
            }
            Phase::Deferred => self.common.received(slot).is_some_and(|received| !received.carry.is_empty()),
            _ => false,
        };
        if too_much && !slot.flags.has(Flags::PAUSED) {
            slot.flags.set(Flags::PAUSED);
            self.common.stats.receive_pauses.add(1);
            self.driver.pause(token);
        }
        if !self.common.has_its_timer(slot) {
            self.arm_for_state(token);
        }
    }

    /// Ends the connection when what is queued has been sent.
    pub(super) fn finish(&mut self, token: Token) {
        let Some(mut party) = self.party(token) else { return };
        let has_more = party.common.queued(party.slot) > 0 || party.owes_last_record();
        if party.slot.flags.has(Flags::EOF) && !has_more {
            return self.abort(token, CloseReason::Disconnected);
        }
        party.finishing();
        self.arm_for_state(token);
    }

    /// Sends of the last turn that have not ended yet: from now on `write_ms` watches them. A send
    /// that ends within a turn, as nearly all do, costs the wheel nothing.
    fn watch_stalled_sends(&mut self) {
        let mut sent = std::mem::take(&mut self.sent);
        for token in sent.drain(..) {
            let Some((slot, _)) = self.table.get(token) else { continue };
            if self.common.existing_work(slot).is_some_and(|work| work.in_flight > 0) {
                self.arm_for_state(token);
            }
        }
        self.sent = sent;
    }
}

impl Common {
    /// Whether the timer is surely early enough: an open connection between messages has no deadline before the idle
    /// one. Its timer may still be that of the handshake, which may be later.
    #[inline(always)]
    fn has_its_timer(&self, slot: &Slot) -> bool {
        let ahead = slot.links.deadline().wrapping_sub(self.tick) as i32;
        slot.phase == Phase::Open
            && slot.session.state() == State::Open
            && !slot.session.is_inside_message()
            && slot.links.is_armed()
            && !self.lifetimes.is_on()
            && ahead <= ticks(self.deadlines.idle_ms) as i32
    }
}

/// Nothing follows the end of the send in flight: no more bytes, no callback, no resumed receiving.
#[inline]
fn nobody_awaits(slot: &Slot, work: &Work, pause_receive_bytes: usize) -> bool {
    work.queued() == work.in_flight && work.in_flight < pause_receive_bytes && is_carefree(slot)
}

/// An open connection that nothing has to be done for when all has been sent.
#[inline]
fn is_carefree(slot: &Slot) -> bool {
    !slot.flags.has(Flags::WANTS_DRAIN)
        && !slot.flags.has(Flags::PAUSED)
        && slot.phase == Phase::Open
        && slot.session.state() == State::Open
}
