//! Each turn's part of what is published: to subscribers, to users, to other cores; and what the
//! handler is told of it.
//!
//! Lists take turns, so that a topic of a hundred thousand does not keep a small one waiting, and a
//! turn goes only so far, as with messages to all.

use super::Core;
use super::budget::Budget;
use super::overflow::Dropped;
use super::post::{Addressee, Parcel};
use super::topics::Topics;
use crate::driver::{Driver, Token};
use crate::handler::{Conn, Handler, Shard};
use crate::ws::State;

/// Connections that a list is given before the next has its turn.
const CONNECTIONS_PER_STEP: usize = 64;

impl<D: Driver, H: Handler> Core<D, H> {
    /// Whether something published waits for a turn.
    #[inline]
    pub(super) fn has_post(&self) -> bool {
        let common = &self.common;
        common.topics.as_ref().is_some_and(|topics| !topics.is_idle())
            || !common.post.is_empty()
            || !common.drops.is_empty()
            || common.bound.has_changes()
    }

    /// Takes what another core or thread has sent.
    pub(super) fn take_parcel(&mut self, parcel: Parcel) {
        let Parcel { to, message, held_bytes } = parcel;
        match to {
            Addressee::Topic { topic, except, retain, key } => {
                let name = Some(topic.clone());
                self.common.arrive(&topic, name, message, except, retain, key, held_bytes);
            }
            Addressee::User { .. } => self.common.post.own.push(Parcel { to, message, held_bytes }),
        }
    }

    /// Goes on with what is on its way, and tells the handler what came of it.
    #[inline(never)]
    pub(super) fn progress_post(&mut self) {
        self.send_to_users();
        self.progress_topics();
        self.tell_drops();
        self.tell_presence();
        self.common.post.send_off();
        let done = self.common.topics.as_mut().map_or(0, |topics| topics.take_done_bytes());
        let done = done + self.common.post.take_done_bytes();
        if done > 0 {
            self.inbox.let_go(done);
        }
    }

    fn progress_topics(&mut self) {
        if self.common.topics.as_ref().is_none_or(|topics| topics.is_idle()) {
            return;
        }
        let Some(mut topics) = self.common.topics.take() else { return };
        let mut budget = Budget::of_turn(&self.common);
        while !budget.is_spent(&self.common)
            && let Some(list) = topics.next_active()
        {
            self.step(&mut topics, list, &mut budget);
            topics.put_back(list);
        }
        self.common.topics = Some(topics);
    }

    /// Goes a step through a list.
    fn step(&mut self, topics: &mut Topics, list: u32, budget: &mut Budget) {
        let max_dirty = self.common.dirty.len() + CONNECTIONS_PER_STEP;
        while !budget.is_spent(&self.common) && self.common.dirty.len() < max_dirty {
            let Some((index, position)) = topics.next_subscriber(list) else {
                return topics.end_pass(list, &mut self.common.sides);
            };
            let Some(token) = self.table.token(index) else { continue };
            let Some((slot, _)) = self.table.get(token) else { continue };
            for publication in topics.in_pass(list, position) {
                self.common.give(slot, token, list, publication);
                budget.spend(1);
            }
        }
    }

    /// Sends to those who are still bound to the user that the message is for.
    fn send_to_users(&mut self) {
        let mut own = std::mem::take(&mut self.common.post.own);
        for Parcel { to, message, held_bytes } in own.drain(..) {
            self.common.post.done(held_bytes);
            let Addressee::User { to, user } = to else { continue };
            let token = to.token();
            let bound = self.common.bound.user(token.slot).is_some_and(|bound| *bound == user);
            match self.table.get(token) {
                Some((slot, _)) if bound => {
                    self.common.send_published(slot, token, &message, None);
                }
                _ => self.common.stats.commands_stale.add(1),
            }
        }
        self.common.post.own = own;
    }

    /// Tells the handler what its connections have lost in this turn.
    fn tell_drops(&mut self) {
        if self.common.drops.is_empty() {
            return;
        }
        for (token, dropped) in self.common.take_drops() {
            self.tell_dropped(token, dropped);
        }
    }

    fn tell_dropped(&mut self, token: Token, dropped: Dropped) {
        let Some((slot, state)) = self.table.get(token) else { return };
        let is_open = slot.phase.is_open() && slot.session.state() == State::Open;
        if let Some(state) = state.as_mut().filter(|_| is_open) {
            let mut conn = Conn { token, slot, state, common: &mut self.common };
            self.handler.dropped(&mut conn, dropped);
        }
    }

    /// Tells the handler who came online and who went offline by this core's connections.
    pub(super) fn tell_presence(&mut self) {
        if !self.common.bound.has_changes() {
            return;
        }
        for change in self.common.bound.take_changes() {
            let mut shard = Shard {
                table: &mut self.table,
                common: &mut self.common,
                connects: &mut self.connects,
                now: self.clock.now(),
            };
            self.handler.presence(&mut shard, &change);
        }
    }
}
