//! One connection's subscriptions: to enter lists and to leave them, without loss and without
//! duplicates.
//!
//! Where one filter covers another, the connection stands in the wider one's list alone. When that
//! changes, it is given at once what it is still owed by the list it leaves, and then stands at the
//! end of the other: nothing is lost, nothing comes twice, and each topic stays in order.

use super::common::{Common, SendResult};
use super::names::{Filter, TopicError};
use super::overflow::{Overflow, Via};
use super::sides::{COVERED, Sub};
use super::slot::{Flags, Slot};
use super::topics::{OnItsWay, Topics};
use crate::driver::Token;
use crate::ws::State;

/// How a connection subscribes; see [`Conn::subscribe_with`](crate::Conn::subscribe_with).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subscribe {
    pub(crate) retained: bool,
    pub(crate) overflow: Option<Overflow>,
}

impl Subscribe {
    /// As [`Conn::subscribe`](crate::Conn::subscribe) does.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends the topic's last value at once, if one is retained; for a wildcard those of all topics
    /// that match, in order of their names.
    pub fn retained(self) -> Self {
        Self { retained: true, ..self }
    }

    /// What becomes of this subscription's messages when the peer does not keep up, whatever the
    /// connection's own policy. Of overlapping subscriptions that of the widest counts.
    pub fn overflow(self, overflow: Overflow) -> Self {
        Self { overflow: Some(overflow), ..self }
    }
}

impl Common {
    /// Subscribes a connection. False if it was subscribed before: then only its policy is changed.
    pub fn subscribe(
        &mut self,
        slot: &mut Slot,
        token: Token,
        filter: &str,
        how: Subscribe,
    ) -> Result<bool, TopicError> {
        if !slot.phase.is_open() || slot.session.state() != State::Open {
            return Err(TopicError::Closed);
        }
        let mut topics = self.topics.take().unwrap_or_default();
        let result = Filter::parse(filter, self.limits.max_topic_bytes)
            .and_then(|filter| self.subscribe_in(&mut topics, slot, token, filter, how));
        self.topics = Some(topics);
        self.stats.subscriptions_refused.add(u64::from(result.is_err()));
        result
    }

    fn subscribe_in(
        &mut self,
        topics: &mut Topics,
        slot: &mut Slot,
        token: Token,
        filter: Filter<'_>,
        how: Subscribe,
    ) -> Result<bool, TopicError> {
        if how.overflow.is_some_and(|overflow| overflow != Overflow::DropNewest) {
            slot.flags.set(Flags::HOLDS);
        }
        let side = self.sides.get_mut(token.slot);
        if let (Some(list), Some(side)) = (topics.find(filter), side)
            && let Some(known) = side.subs_mut().find(|sub| sub.list == list)
        {
            known.overflow = how.overflow.or(known.overflow);
            return Ok(false);
        }
        if self.sides.get(token.slot).map_or(0, |side| side.count()) >= self.limits.max_subscriptions as usize
        {
            return Err(TopicError::TooManySubscriptions);
        }
        let list = topics.add_member(filter, self.limits.max_topics)?;
        topics.lists[list as usize].if_first_member(|name, below| self.post.begin_interest(name, below));
        let wildcard = matches!(filter, Filter::Below(_));
        let position = match self.carrier(topics, token, filter) {
            Some(carrier) => {
                if how.retained {
                    // What the topic held before it comes first.
                    self.move_to_end(topics, slot, token, carrier);
                }
                COVERED
            }
            None => {
                if wildcard {
                    self.cover(topics, slot, token, filter);
                }
                topics.enter(list, token.slot)
            }
        };
        self.sides.subscribe(token.slot, Sub { list, position, overflow: how.overflow }, wildcard);
        if how.retained {
            for (topic, message, key) in topics.last_values(filter) {
                self.send_published(slot, token, &message, Some(&Via { list, topic: &topic, key }));
            }
        }
        Ok(true)
    }

    /// The subscription by which a connection gets already what a filter asks for.
    fn carrier(&self, topics: &Topics, token: Token, filter: Filter<'_>) -> Option<Sub> {
        let side = self.sides.get(token.slot).filter(|side| side.wildcards() > 0)?;
        let mut carriers = side.subs().filter(|sub| sub.position != COVERED);
        carriers.find(|sub| topics.lists[sub.list as usize].filter().covers(filter)).copied()
    }

    /// Takes a connection out of the lists that a new filter covers.
    fn cover(&mut self, topics: &mut Topics, slot: &mut Slot, token: Token, filter: Filter<'_>) {
        let Some(side) = self.sides.get(token.slot) else { return };
        let covered =
            |sub: &&Sub| sub.position != COVERED && filter.covers(topics.lists[sub.list as usize].filter());
        let covered: Vec<Sub> = side.subs().filter(covered).copied().collect();
        for sub in covered {
            self.give_owed(topics, slot, token, sub, |_| Some(sub.list));
            topics.leave(sub.list, sub.position, &mut self.sides);
            self.place(token, sub.list, COVERED);
        }
    }

    /// Gives a connection all that its list owes it, and moves it to where it is owed nothing.
    fn move_to_end(&mut self, topics: &mut Topics, slot: &mut Slot, token: Token, sub: Sub) {
        self.give_owed(topics, slot, token, sub, |_| Some(sub.list));
        topics.leave(sub.list, sub.position, &mut self.sides);
        let position = topics.enter(sub.list, token.slot);
        self.place(token, sub.list, position);
    }

    fn place(&mut self, token: Token, list: u32, position: u32) {
        let side = self.sides.get_mut(token.slot);
        if let Some(sub) = side.and_then(|side| side.subs_mut().find(|sub| sub.list == list)) {
            sub.position = position;
        }
    }

    /// Sends what a subscription has not been given yet, on behalf of the list that `chosen` names.
    fn give_owed(
        &mut self,
        topics: &Topics,
        slot: &mut Slot,
        token: Token,
        sub: Sub,
        chosen: impl Fn(&str) -> Option<u32>,
    ) {
        for publication in topics.owed(sub.list, sub.position) {
            if let Some(list) = chosen(&publication.topic) {
                self.give(slot, token, list, publication);
            }
        }
    }

    /// Sends a publication to a subscriber.
    #[inline]
    pub(super) fn give(&mut self, slot: &mut Slot, token: Token, list: u32, publication: &OnItsWay) {
        if publication.except == Some(token) {
            return;
        }
        let via = Via { list, topic: &publication.topic, key: publication.key };
        if self.send_published(slot, token, &publication.message, Some(&via)) != SendResult::Closed {
            self.stats.publications_offered.add(1);
        }
    }

    /// Ends a subscription. False if there was none. What is on its way does not come any more.
    pub fn unsubscribe(&mut self, slot: &mut Slot, token: Token, filter: &str) -> bool {
        let Ok(filter) = Filter::parse(filter, self.limits.max_topic_bytes) else { return false };
        let Some(mut topics) = self.topics.take() else { return false };
        let wildcard = matches!(filter, Filter::Below(_));
        let list = topics.find(filter);
        let sub = list.and_then(|list| self.sides.unsubscribe(token.slot, list, wildcard));
        if let Some(sub) = sub {
            if sub.position != COVERED {
                if wildcard {
                    self.uncover(&mut topics, slot, token, filter, sub);
                }
                topics.leave(sub.list, sub.position, &mut self.sides);
            }
            topics.lists[sub.list as usize]
                .if_first_member(|name, below| self.post.end_interest(name, below));
            topics.remove_member(sub.list);
        }
        self.topics = Some(topics);
        sub.is_some()
    }

    /// What a filter that ends has covered stands for itself again.
    fn uncover(
        &mut self,
        topics: &mut Topics,
        slot: &mut Slot,
        token: Token,
        filter: Filter<'_>,
        ended: Sub,
    ) {
        let Some(side) = self.sides.get(token.slot) else { return };
        let filter_of = |sub: &Sub| topics.lists[sub.list as usize].filter();
        let uncovered = |sub: &&Sub| {
            sub.position == COVERED
                && filter.covers(filter_of(sub))
                && !side.subs().any(|other| other.list != sub.list && filter_of(other).covers(filter_of(sub)))
        };
        let uncovered: Vec<Sub> = side.subs().filter(uncovered).copied().collect();
        let heir =
            |topic: &str| uncovered.iter().find(|sub| filter_of(sub).matches(topic)).map(|sub| sub.list);
        self.give_owed(topics, slot, token, ended, heir);
        for sub in uncovered {
            let position = topics.enter(sub.list, token.slot);
            self.place(token, sub.list, position);
        }
    }

    /// Whether a connection has subscribed with this very filter.
    pub fn is_subscribed(&self, token: Token, filter: &str) -> bool {
        let Ok(filter) = Filter::parse(filter, self.limits.max_topic_bytes) else { return false };
        let list = self.topics.as_ref().and_then(|topics| topics.find(filter));
        let side = self.sides.get(token.slot);
        list.zip(side).is_some_and(|(list, side)| side.of(list).is_some())
    }

    /// How many subscriptions a connection has.
    pub fn subscriptions(&self, token: Token) -> usize {
        self.sides.get(token.slot).map_or(0, |side| side.count())
    }

    /// Connections of this core to which a publication to the topic goes.
    pub fn subscribers(&self, topic: &str) -> usize {
        let Some(topics) = &self.topics else { return 0 };
        let filters = super::names::prefixes(topic).map(Filter::Below).chain([Filter::Exact(topic)]);
        let lists = filters.filter_map(|filter| topics.find(filter));
        lists.map(|list| topics.lists[list as usize].subscribers()).sum()
    }

    /// The connection has ended: nothing is on its way to it any more.
    pub(super) fn forget(&mut self, token: Token) {
        self.unbind_user(token);
        let Some(side) = self.sides.take(token.slot) else { return };
        let Some(topics) = &mut self.topics else { return };
        for sub in side.subs() {
            if sub.position != COVERED {
                topics.leave(sub.list, sub.position, &mut self.sides);
            }
            topics.lists[sub.list as usize]
                .if_first_member(|name, below| self.post.end_interest(name, below));
            topics.remove_member(sub.list);
        }
    }
}
