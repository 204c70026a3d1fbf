//! One timer per connection: its nearest deadline.
//!
//! A timer may fire too early, because traffic does not move it: what fires looks at the stamps in
//! the slot, acts on what is due, and arms the next. It never fires too late, because every state
//! with a nearer deadline arms it when it begins.

use super::Core;
use super::clock::ticks;
use super::common::Common;
use super::party::Party;
use super::slot::{Entry, Flags, Phase, Slot};
use crate::driver::{Driver, Token};
use crate::handler::{CloseReason, ConnectError, Deadline, Handler};
use crate::http::Response;
use crate::ws::{CloseCode, Role, State};

/// What a connection's stamps say must happen, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Tls,
    Head,
    /// Of a request that was put off.
    Answer,
    Ping,
    /// The ping of event streams.
    Comment,
    Linger,
    Lifetime,
    /// Whether a pong has come.
    Look,
    End(Deadline),
}

/// The nearest deadline of the connection in the slot `index`: ticks from now (0 or less: due), and what it is.
pub(super) fn nearest(common: &Common, index: u32, slot: &Slot) -> Option<(i32, Due)> {
    let left = |since: u32, ms: u32, due: Due| {
        (ms > 0).then(|| (since.wrapping_add(ticks(ms)).wrapping_sub(common.tick) as i32, due))
    };
    let deadlines = &common.deadlines;
    let work = common.works.get(slot.work as usize);
    let write = work
        .filter(|work| work.in_flight > 0)
        .and_then(|work| left(work.write_since, deadlines.write_ms, Due::End(Deadline::Write)));
    let state = match slot.phase {
        // Until an answer has been taken `write_ms` watches it.
        Phase::Head if work.is_some_and(|work| work.queued() > 0) => None,
        Phase::Securing => left(slot.since, deadlines.tls_ms, Due::Tls),
        Phase::Head | Phase::Connecting => left(slot.since, deadlines.head_ms, Due::Head),
        Phase::Deferred => Some((slot.since.wrapping_sub(common.tick) as i32, Due::Answer)),
        Phase::Stream if !slot.flags.has(Flags::EVENTS) => None,
        Phase::Stream => left(slot.last_seen, deadlines.event_idle_ms, Due::Comment).map(|(left, due)| {
            // Streams that came at once take turns.
            let spread = ticks(deadlines.event_idle_ms) / 4;
            (left - spread_over(index, spread) as i32, due)
        }),
        Phase::Finishing => None,
        Phase::Lingering => left(slot.since, deadlines.close_ms, Due::Linger),
        Phase::Closing => return None,
        Phase::Open if slot.session.state() != State::Open => {
            left(slot.since, deadlines.close_ms, Due::End(Deadline::Close))
        }
        // Signs of life lie unread while receiving is paused; `write_ms` watches such a peer.
        Phase::Open if slot.flags.has(Flags::PAUSED) => None,
        Phase::Open if slot.flags.has(Flags::PING_SENT) => {
            let end = left(slot.since, deadlines.pong_ms, Due::End(Deadline::Pong));
            let look = (deadlines.idle_ms > 0).then(|| {
                let tick = common.heartbeat.look(index, slot.since, common.tick);
                (tick.wrapping_sub(common.tick) as i32, Due::Look)
            });
            [end, look].into_iter().flatten().min_by_key(|(left, _)| *left)
        }
        Phase::Open if deadlines.idle_ms == 0 => None,
        Phase::Open => {
            let due = common.heartbeat.due(index, slot.last_seen);
            Some((due.wrapping_sub(common.tick) as i32, Due::Ping))
        }
    };
    let assembly = work
        .filter(|_| slot.phase == Phase::Open && slot.session.state() == State::Open)
        .filter(|_| slot.session.is_inside_message())
        .filter(|_| !slot.flags.has(Flags::STREAM) && !slot.flags.has(Flags::SLOWED))
        .and_then(|work| work.received.as_ref())
        .and_then(|received| {
            left(received.assembly_since, deadlines.assembly_ms, Due::End(Deadline::Assembly))
        });
    let ages = match slot.phase {
        Phase::Open => slot.session.state() == State::Open && slot.session.role() == Role::Server,
        Phase::Stream => slot.flags.has(Flags::EVENTS),
        _ => false,
    };
    let lifetime = (common.lifetimes.end(index))
        .filter(|_| ages)
        .map(|end| (end.wrapping_sub(common.tick) as i32, Due::Lifetime));
    [write, state, assembly, lifetime].into_iter().flatten().min_by_key(|(left, _)| *left)
}

/// A number below `bound`, far from those of other slots.
fn spread_over(index: u32, bound: u32) -> u32 {
    ((u64::from(index.wrapping_mul(0x9e37_79b1)) * u64::from(bound)) >> 32) as u32
}

impl<D: Driver, H: Handler> Core<D, H> {
    /// Arms the timer for a state that has just begun, unless it fires early enough anyway.
    pub(super) fn arm_within(&mut self, token: Token, ms: u32) {
        if ms == 0 {
            return;
        }
        let tick = self.common.tick.wrapping_add(ticks(ms));
        let Some((slot, _)) = self.table.get(token) else { return };
        let earlier = slot.links.is_armed() && tick.wrapping_sub(slot.links.deadline()) as i32 >= 0;
        if !earlier {
            self.wheel.arm(&mut self.table, token.slot, tick);
        }
    }

    /// Arms the timer for whatever the connection's state asks for.
    pub(super) fn arm_for_state(&mut self, token: Token) {
        let Some((slot, _)) = self.table.get(token) else { return };
        let Some((left, _)) = nearest(&self.common, token.slot, slot) else { return };
        let tick = self.common.tick.wrapping_add(left.max(1) as u32);
        let earlier = slot.links.is_armed() && tick.wrapping_sub(slot.links.deadline()) as i32 >= 0;
        if !earlier {
            self.wheel.arm(&mut self.table, token.slot, tick);
        }
    }

    pub(super) fn wheel_cancel(&mut self, token: Token) {
        if self.table.get(token).is_some() {
            self.wheel.cancel(&mut self.table, token.slot);
        }
    }

    #[inline(never)]
    pub(super) fn fire_timers(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(&mut self.table, self.clock.tick(), &mut due);
        for index in due.drain(..) {
            if let Some(token) = self.table.token(index) {
                self.on_timer(token);
            }
        }
        self.due = due;
    }

    fn on_timer(&mut self, token: Token) {
        let Some(mut party) = self.party(token) else { return };
        let Party { slot, common, .. } = &mut party;
        if slot.flags.has(Flags::PING_SENT) && slot.last_seen.wrapping_sub(slot.since) as i32 >= 0 {
            // The peer lives: something came after our ping, if only in the same tick.
            slot.flags.take(Flags::PING_SENT);
        }
        let due = nearest(common, token.slot, slot).filter(|(left, _)| *left <= 0).map(|(_, due)| due);
        match due {
            None | Some(Due::Look) => {}
            Some(Due::Ping) => common.ping_idle(slot, token),
            Some(Due::Lifetime) => {
                common.stats.lifetimes_ended.add(1);
                common.say_goodbye(slot, token, "the connection has been open for long enough");
            }
            Some(Due::Comment) => drop(common.comment(slot, token)),
            Some(Due::Answer) => return self.expire(token),
            Some(Due::Head) if slot.entry.has(Entry::PROXY_DUE) => {
                common.stats.proxy_headers_invalid.add(1);
                return self.abort(token, CloseReason::Disconnected);
            }
            Some(Due::Head) if slot.phase == Phase::Head && common.existing_work(slot).is_some() => {
                // Part of a request came: say why it ends.
                common.stats.http_errors.add(1);
                let response = Response::text(408, "The request did not come in time.\n").closing();
                party.append_response(&response, false, false);
                return self.finish(token);
            }
            Some(Due::Head) if slot.phase == Phase::Connecting => {
                return self.fail_connect(token, ConnectError::Timeout);
            }
            Some(Due::Tls) => {
                common.stats.tls_timeouts.add(1);
                return self.abort(token, CloseReason::Disconnected);
            }
            Some(Due::Head | Due::Linger) => return self.abort(token, CloseReason::Disconnected),
            Some(Due::End(Deadline::Assembly)) => {
                let reason = "a message did not end in time";
                common.close(slot, token, Some(CloseCode::POLICY_VIOLATION), reason);
                party.tell_close(CloseReason::Timeout(Deadline::Assembly));
                return self.finish(token);
            }
            Some(Due::End(deadline)) => return self.abort(token, CloseReason::Timeout(deadline)),
        }
        self.arm_for_state(token);
    }
}
