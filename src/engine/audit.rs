//! The engine's books, added up: for simulations and tests, between two turns.
//!
//! Reads everything and changes nothing. It is linear in the connections, so it is no part of a turn.

use super::Core;
use super::common::Common;
use super::deadlines::{Due, nearest};
use super::sides::COVERED;
use super::slot::{Entry, Flags, NO_WORK, Phase, Slot};
use super::work::Received;
use crate::driver::{Driver, Token};
use crate::handler::{ConnId, Handler};
use std::collections::BTreeSet;
use std::time::Duration;

/// Returns the first wrong as text.
macro_rules! demand {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

impl<D: Driver, H: Handler> Core<D, H> {
    /// Whether nothing is left to be done without a further event, but for what timers bring.
    pub fn is_at_rest(&self) -> bool {
        self.common.dirty.is_empty()
            && self.broadcasts.is_empty()
            && !self.has_post()
            && self.connects.is_empty()
            && !self.common.tls.is_waiting()
            && self.common.tls.away() == 0
            && !matches!(self.accept_paused, super::AcceptPause::Until(_))
    }

    /// What is left in the mailbox: commands, bytes for which room was made, subscriptions that were told of.
    /// At rest there is nothing, but for what another thread is about to post.
    pub fn mail(&self) -> (u32, usize, u32) {
        (self.inbox.queued(), self.inbox.held_bytes(), self.common.post.coming())
    }

    /// When its next turn is due if nothing wakes it before.
    pub fn next_due(&self) -> Option<Duration> {
        self.next_wait().map(|wait| self.clock.now().saturating_add(wait))
    }

    /// Adds up what the cores of a server count, together and each by itself, and compares it with what they
    /// hold. All are to be [at rest](Self::is_at_rest).
    ///
    /// # Errors
    /// What does not agree.
    pub fn audit_all(cores: &[Self]) -> Result<(), String> {
        let (mut let_in, mut shaking, mut bound) = (0, 0, 0);
        for (number, core) in cores.iter().enumerate() {
            let (entered, shakes) = core.audit().map_err(|wrong| format!("shard {number}: {wrong}"))?;
            (let_in, shaking) = (let_in + entered, shaking + shakes);
            bound += core.common.bound.iter().len();
        }
        let Some(core) = cores.first() else { return Ok(()) };
        let counted = core.common.gate.counts();
        demand!(counted == (let_in, shaking), "{let_in} let in, {shaking} shake hands, counted {counted:?}");
        let users = core.common.post.users();
        let counted = if users.online() > 0 { users.bindings() } else { 0 };
        demand!(counted == bound, "{bound} connections are bound to users, the directory has {counted}");
        Ok(())
    }

    /// One core's part. Returns how many it has let in, and how many of them shake hands.
    fn audit(&self) -> Result<(usize, usize), String> {
        let Self { table, common, .. } = self;
        let mut works = BTreeSet::new();
        let (mut armed, mut owed, mut let_in, mut shaking) = (0, 0, 0, 0);
        for (token, slot, state) in table.iter() {
            if slot.work != NO_WORK {
                demand!(common.works.contains(slot.work as usize), "{token:?} has a work that is free");
                demand!(works.insert(slot.work), "{token:?} shares its work");
            }
            armed += usize::from(slot.links.is_armed());
            owed += u64::from(slot.flags.has(Flags::HANDLER_OWED));
            let has_state = state.is_some();
            let wants_state = slot.flags.has(Flags::HANDLER_OWED)
                || matches!(slot.phase, Phase::Connecting | Phase::Deferred);
            demand!(has_state == wants_state, "{token:?} in {:?}: state {has_state}", slot.phase);
            let listed = common.dirty.iter().filter(|dirty| **dirty == token).count();
            let flagged = usize::from(slot.flags.has(Flags::DIRTY));
            demand!(listed == flagged, "{token:?} is {listed} times on the list of the dirty");
            let slowed = slot.flags.has(Flags::SLOWED);
            demand!(!slowed || slot.flags.has(Flags::PAUSED), "{token:?} is slowed and not paused");
            let_in += usize::from(slot.entry.has(Entry::COUNTED));
            shaking += usize::from(slot.entry.has(Entry::SHAKING));
            self.audit_use(token, slot)?;
            self.audit_timer(token, slot)?;
        }
        common.tls.audit(table.iter().map(|(token, slot, _)| (token, slot)))?;
        let counted = common.stats.connections();
        demand!(counted == table.len() as u64, "{} connections, counted {counted}", table.len());
        demand!(works.len() == common.works.len(), "{} works are nobody's", common.works.len() - works.len());
        demand!(armed == self.wheel.armed(), "{armed} timers, the wheel counts {}", self.wheel.armed());
        let queued: usize = common.works.iter().map(|(_, work)| work.queued()).sum();
        demand!(queued == common.outbox_bytes, "{queued} bytes queued, counted {}", common.outbox_bytes);
        self.audit_topics()?;
        self.audit_post()?;
        let open = common.stats.websockets.get() + common.stats.streams.get();
        demand!(owed == open, "{owed} connections are owed a close, counted {open}");
        let deferred = table.iter().filter(|(_, slot, _)| slot.phase == Phase::Deferred).count() as u64;
        let counted = common.stats.deferred.get();
        demand!(deferred == counted, "{deferred} requests wait, counted {counted}");
        let received = common.works.iter().filter_map(|(_, work)| work.received.as_deref());
        let received: usize = received.map(Received::bytes).sum();
        let counted = common.ledger.received_bytes;
        demand!(received == counted, "{received} received bytes are kept, counted {counted}");
        demand!(common.ledger.early_bytes <= counted, "{} of them early", common.ledger.early_bytes);
        let (kept, counted) = (common.pool.capacity_kept(), common.pool.free_bytes());
        demand!(kept == counted, "the pool keeps {kept} bytes, counted {counted}");
        demand!(kept <= common.limits.max_pool_bytes as usize, "the pool keeps {kept} bytes");
        Ok((let_in, shaking))
    }

    /// Other cores know what is wanted here, and who is here.
    fn audit_post(&self) -> Result<(), String> {
        let Common { post, bound, topics, .. } = &self.common;
        if let Some(topics) = topics {
            let lists = topics.lists.iter().filter_map(|(_, list)| list.wanted());
            demand!(post.tells_of(lists), "others are told of other topics");
        }
        let (here, counted) = (bound.iter().len(), self.common.stats.bound_connections.get());
        demand!(here as u64 == counted, "{here} are bound, counted {counted}");
        if here == 0 {
            return Ok(());
        }
        for (slot, user) in bound.iter() {
            let id = self.table.token(slot).map(|token| ConnId::new(self.common.shard, token));
            let known = id.is_some_and(|id| post.users().connections_of(user).contains(&id));
            demand!(known, "{id:?} in slot {slot} is bound to {user}, which the directory does not know");
        }
        Ok(())
    }

    /// Every subscription has its place, and every place its subscription.
    fn audit_topics(&self) -> Result<(), String> {
        let sides = &self.common.sides;
        let (walked, counted) = sides.walked_bytes();
        demand!(walked == counted, "subscribers hold {walked} bytes, counted {counted}");
        let Some(topics) = &self.common.topics else { return Ok(()) };
        let (mut subs, mut placed) = (0, 0);
        for (token, _, state) in self.table.iter() {
            let Some(side) = sides.get(token.slot) else { continue };
            demand!(state.is_some() || side.count() == 0, "{token:?} has ended and is subscribed");
            for sub in side.subs() {
                subs += 1;
                let filter = topics.lists[sub.list as usize].filter();
                let carriers = side.subs().filter(|other| {
                    other.position != COVERED && topics.lists[other.list as usize].filter().covers(filter)
                });
                demand!(carriers.count() == 1, "{token:?} is to get {filter:?} once");
                if sub.position != COVERED {
                    placed += 1;
                    let at = topics.lists[sub.list as usize].at(sub.position);
                    demand!(at == Some(token.slot), "{token:?} is not in {filter:?}, there is {at:?}");
                }
            }
        }
        let listed: usize = topics.lists.iter().map(|(_, list)| list.subscribers()).sum();
        demand!(placed == listed, "{placed} subscriptions have a place, lists count {listed}");
        let (walked, counted) = topics.walked_bytes();
        demand!(walked == counted, "lists hold {walked} bytes, counted {counted}");
        let counted = topics.counts().1;
        demand!(subs == counted, "{subs} subscriptions, counted {counted}");
        Ok(())
    }

    /// A work is held only while something is in it, and within the limits.
    fn audit_use(&self, token: Token, slot: &Slot) -> Result<(), String> {
        let Some(work) = self.common.works.get(slot.work as usize) else { return Ok(()) };
        let limits = &self.common.limits;
        let nothing = Received::default();
        let received = work.received.as_deref().unwrap_or(&nothing);
        let busy = work.queued() > 0
            || !received.carry.is_empty()
            || !received.held.is_empty()
            || received.handshake.is_some()
            || !received.acceptance.is_empty()
            || slot.phase == Phase::Closing
            || (slot.phase == Phase::Open && slot.session.is_inside_message());
        demand!(busy, "{token:?} in {:?} holds a work that is empty", slot.phase);
        let most = limits.max_message_bytes as usize;
        let assembled = received.assembly.message().len();
        demand!(assembled <= most, "{token:?} assembles {assembled} bytes");
        let most = limits.max_head_bytes as usize
            + limits.max_http_body_bytes as usize
            + limits.max_receive_bytes_per_turn as usize
            + limits.receive_buffer_bytes as usize;
        demand!(received.carry.len() <= most, "{token:?} carries {} bytes", received.carry.len());
        Ok(())
    }

    /// Whatever a connection's stamps call for, its timer fires in time. Sends of the last turn are
    /// not watched yet.
    fn audit_timer(&self, token: Token, slot: &Slot) -> Result<(), String> {
        if self.sent.contains(&token) {
            return Ok(());
        }
        let Some((left, due)) = nearest(&self.common, token.slot, slot) else { return Ok(()) };
        // The schedule of pings changes with the number of connections.
        let left = if due == Due::Ping { left + self.common.heartbeat.spread() as i32 } else { left };
        let ahead = slot.links.deadline().wrapping_sub(self.common.tick) as i32;
        let in_time = slot.links.is_armed() && ahead <= left.max(1);
        demand!(
            in_time,
            "{token:?} in {:?}: {due:?} is due in {left} ticks, its timer {} in {ahead}",
            slot.phase,
            if slot.links.is_armed() { "fires" } else { "is not armed, or was" }
        );
        Ok(())
    }
}
