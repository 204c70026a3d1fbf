//! Requests that are answered later: plain ones, and handshakes on which the decision is out.
//!
//! Such a connection is in [`Phase::Deferred`] and holds nothing but its slot, where `since` is the tick
//! at which the answer is due and `last_seen` the request's number; a handshake holds its 101 response
//! as well. The contract: every such request ends in exactly one of an answer from outside, `expired`
//! and `abandoned`, and a ticket answers its own request or none.

use super::Core;
use super::clock::ticks;
use super::party::Party;
use super::receive::Outcome;
use super::requests::Served;
use super::slot::{Flags, Phase};
use crate::driver::{Driver, Token};
use crate::handler::{Handler, Ticket};
use crate::http::Response;
use std::time::Duration;

/// The longest time for which an answer may be put off: half of what ticks can tell.
const MAX_WAIT_MS: u32 = 7 * 24 * 3_600_000;

/// What a request is answered with from outside.
#[derive(Debug)]
pub enum Answer {
    /// A plain response; to a handshake it is the refusal.
    Respond(Response),
    /// The handshake is accepted.
    Accept,
}

/// What is kept of a request until it is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    /// The connection stays for another request.
    pub keep_alive: bool,
    /// The request was HEAD.
    pub head_only: bool,
}

impl<H: Handler> Party<'_, H> {
    /// Names the request under way.
    pub fn ticket(&self) -> Ticket {
        Ticket::new(self.common.shard, self.token, self.common.last_request)
    }

    /// Puts the answer to the request under way off. False if nobody waits for it any more: the
    /// connection ends then.
    pub fn defer(&mut self, state: H::State, within: Duration, exchange: Exchange) -> bool {
        if self.slot.flags.has(Flags::EOF) {
            let ticket = self.ticket();
            self.handler.abandoned(ticket, state);
            self.finishing();
            return false;
        }
        let ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX).min(MAX_WAIT_MS);
        let Self { slot, common, .. } = self;
        common.enter(slot, Phase::Deferred);
        slot.since = common.tick.wrapping_add(ticks(ms));
        slot.last_seen = common.last_request;
        slot.flags.assign(Flags::LAST, !exchange.keep_alive);
        slot.flags.assign(Flags::HEAD_ONLY, exchange.head_only);
        common.stats.deferred.add(1);
        // The flush arms the timer.
        common.mark_dirty(slot, self.token);
        *self.state = Some(state);
        true
    }

    /// More came from a peer that has not been answered yet. The flush pauses receiving.
    #[inline(never)]
    pub fn take_early(&mut self, input: &[u8]) -> Outcome {
        let mut carry = self.common.take_carry(self.slot);
        if carry.capacity() == 0 {
            carry = self.common.pool.take(input.len());
        }
        carry.extend_from_slice(input);
        self.common.receive(self.slot).carry = carry;
        Outcome::Continue
    }

    /// The ticket of the request that waits.
    fn waiting(&self) -> Ticket {
        Ticket::new(self.common.shard, self.token, self.slot.last_seen)
    }

    /// Takes the request off the wait; returns its state and how it is to be answered.
    fn settle_wait(&mut self) -> (Option<H::State>, Exchange) {
        let exchange = Exchange {
            keep_alive: !self.slot.flags.take(Flags::LAST) && !self.common.draining,
            head_only: self.slot.flags.take(Flags::HEAD_ONLY),
        };
        self.common.enter(self.slot, Phase::Head);
        self.slot.since = self.common.tick;
        self.common.stats.deferred.sub(1);
        (self.state.take(), exchange)
    }

    /// The peer has gone, or the server goes: tells the handler that nobody waits any more.
    pub fn abandon(&mut self) {
        if self.slot.phase != Phase::Deferred {
            return;
        }
        let ticket = self.waiting();
        self.common.stats.deferred_abandoned.add(1);
        if let (Some(state), _) = self.settle_wait() {
            self.handler.abandoned(ticket, state);
        }
    }

    /// Answers the request that waits; what follows it is served again.
    fn answer(&mut self, answer: Answer) -> Served {
        let acceptance =
            self.common.received(self.slot).map(|received| std::mem::take(&mut received.acceptance));
        let acceptance = acceptance.filter(|head| !head.is_empty());
        let (state, exchange) = self.settle_wait();
        match (answer, acceptance, state) {
            (Answer::Accept, Some(head), Some(state)) => {
                self.append(head.len(), |out| out.extend_from_slice(&head));
                self.tell_open(state);
                Served::Open
            }
            (Answer::Accept, ..) => {
                let text = "The server took a plain request for a handshake.\n";
                self.respond(&Response::text(500, text), exchange)
            }
            (Answer::Respond(response), None, _) => self.respond(&response, exchange),
            (Answer::Respond(response), Some(_), _) => {
                self.common.stats.upgrades_refused.add(1);
                self.respond(&response, Exchange { keep_alive: false, ..exchange })
            }
        }
    }

    fn respond(&mut self, response: &Response, exchange: Exchange) -> Served {
        match self.queue_response(response, exchange) {
            true => Served::Rest,
            false => Served::Ended,
        }
    }

    /// Answers and goes on with what came meanwhile.
    fn answer_and_go_on(&mut self, answer: Answer) -> Outcome {
        let served = self.answer(answer);
        if let Served::Rest = served {
            return self.take_requests(&mut []);
        }
        let mut early = self.common.take_carry(self.slot);
        let outcome = self.go_on(&mut early, served);
        self.common.pool.give(early);
        outcome
    }
}

impl<D: Driver, H: Handler> Core<D, H> {
    /// Answers from outside, if the request still waits.
    pub(super) fn on_answer(&mut self, ticket: Ticket, answer: Answer) {
        let token = ticket.conn().token();
        match self.table.get(token) {
            Some((slot, _)) if slot.phase == Phase::Deferred && slot.last_seen == ticket.number => {
                self.answer_waiting(token, answer);
            }
            _ => self.common.stats.commands_stale.add(1),
        }
    }

    /// The time for an answer is over: the handler has the last word.
    pub(super) fn expire(&mut self, token: Token) {
        let Some(party) = self.party(token) else { return };
        let ticket = party.waiting();
        let Some(state) = party.state.as_mut() else { return };
        let response = party.handler.expired(ticket, state);
        self.common.stats.deferred_expired.add(1);
        self.answer_waiting(token, Answer::Respond(response));
    }

    /// The server goes: whoever waits is told so.
    pub(super) fn dismiss_waiting(&mut self, token: Token) {
        let Some(mut party) = self.party(token) else { return };
        party.abandon();
        let response = Response::text(503, "The server is going away.\n").closing();
        party.append_response(&response, false, false);
        self.finish(token);
    }

    fn answer_waiting(&mut self, token: Token, answer: Answer) {
        let Some(mut party) = self.party(token) else { return };
        let was_paused = party.slot.flags.take(Flags::PAUSED);
        let outcome = party.answer_and_go_on(answer);
        if was_paused {
            self.driver.resume(token);
        }
        self.after_received(token, outcome);
        self.arm_for_state(token);
    }
}
