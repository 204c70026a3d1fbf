//! Who on this core is subscribed to what, and what is on its way to them.
//!
//! Knows lists of slot numbers, no connections. The contract that makes the rest simple: a connection
//! stands in at most one list that matches a topic. A filter that another one of the same connection
//! covers is noted at the connection only (see `subscriptions`), so that nothing comes twice and what
//! is published to a topic comes in one queue.
//!
//! A pass goes once through a list with a few messages that wait at its begin, as with messages to
//! all. Messages know how long the list was when they were published: who came later does not get
//! them. So nobody may move to the front while messages wait; who leaves then leaves a hole.

use super::budget::pass_len;
use super::names::{Filter, TopicError, prefixes};
use super::sides::Sides;
use crate::driver::Token;
use crate::ws::Prepared;
use slab::Slab;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// A place that was left.
pub(super) const HOLE: u32 = u32::MAX;
/// Holes below which a list is left as it is.
const FEW_HOLES: usize = 32;

/// A message on its way to this core's subscribers.
#[derive(Debug)]
pub struct OnItsWay {
    /// Where it was published.
    pub topic: Arc<str>,
    /// What.
    pub message: Prepared,
    /// What a later one replaces it by.
    pub key: u64,
    /// Who does not get it.
    pub except: Option<Token>,
    /// What the mailbox counts it for.
    pub held_bytes: usize,
}

/// What a topic's last publication asked to be kept.
#[derive(Debug)]
struct Retained {
    message: Prepared,
    key: u64,
}

/// A message that waits for a list.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    publication: u32,
    /// Who stands from here on came later.
    bound: u32,
}

/// The subscribers to one filter.
#[derive(Debug)]
pub(super) struct List {
    /// The topic, or the prefix.
    name: Arc<str>,
    below: bool,
    /// Slots, and holes.
    entries: Vec<u32>,
    holes: usize,
    /// Subscriptions, covered ones included.
    members: u32,
    waiting: VecDeque<Waiting>,
    /// How many of those make up the pass under way.
    pass: usize,
    /// Where it stands.
    next: u32,
    /// It has its place among the active ones.
    active: bool,
    retained: Option<Retained>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Topics {
    exact: HashMap<Arc<str>, u32>,
    /// By prefix.
    below: HashMap<Arc<str>, u32>,
    pub(super) lists: Slab<List>,
    /// In order of names, for subscribers to wildcards.
    retained: BTreeMap<Arc<str>, u32>,
    retained_bytes: usize,
    /// Names, places and queues of all lists.
    lists_bytes: usize,
    publications: Slab<(OnItsWay, u32)>,
    /// Lists for which something waits, in turn.
    active: VecDeque<u32>,
    /// Bytes of what has been delivered to its last subscriber.
    done_bytes: usize,
    subscriptions: u64,
    matched: Vec<u32>,
}

impl List {
    pub(super) fn filter(&self) -> Filter<'_> {
        if self.below { Filter::Below(&self.name) } else { Filter::Exact(&self.name) }
    }

    /// Acts if the list has a single member: the first one, or the last.
    pub(super) fn if_first_member(&self, act: impl FnOnce(&str, bool)) {
        if self.members == 1 {
            act(&self.name, self.below);
        }
    }

    /// Its name and kind, if anybody is subscribed.
    pub(super) fn wanted(&self) -> Option<(&str, bool)> {
        (self.members > 0).then_some((&*self.name, self.below))
    }

    /// Who stands at a place.
    pub(super) fn at(&self, position: u32) -> Option<u32> {
        self.entries.get(position as usize).copied()
    }

    /// What it holds beside its place in the table of lists.
    fn held_bytes(&self) -> usize {
        self.name.len()
            + self.entries.capacity() * size_of::<u32>()
            + self.waiting.capacity() * size_of::<Waiting>()
    }

    /// Connections that stand in it.
    pub(super) fn subscribers(&self) -> usize {
        self.entries.len() - self.holes
    }
}

impl Topics {
    /// The list of a filter.
    pub(super) fn find(&self, filter: Filter<'_>) -> Option<u32> {
        match filter {
            Filter::Exact(name) => self.exact.get(name).copied(),
            Filter::Below(prefix) => self.below.get(prefix).copied(),
        }
    }

    /// The list of a filter, made if there is room for one.
    fn find_or_make(&mut self, filter: Filter<'_>, max_topics: u32) -> Result<u32, TopicError> {
        if let Some(list) = self.find(filter) {
            return Ok(list);
        }
        if self.lists.len() >= max_topics as usize {
            return Err(TopicError::TooManyTopics);
        }
        let (name, below) = match filter {
            Filter::Exact(name) => (name, false),
            Filter::Below(prefix) => (prefix, true),
        };
        let name: Arc<str> = name.into();
        self.lists_bytes += name.len();
        let index = self.lists.insert(List {
            name: name.clone(),
            below,
            entries: Vec::new(),
            holes: 0,
            members: 0,
            waiting: VecDeque::new(),
            pass: 0,
            next: 0,
            active: false,
            retained: None,
        }) as u32;
        if below {
            self.below.insert(name, index)
        } else {
            self.exact.insert(name, index)
        };
        Ok(index)
    }

    /// A further subscription to a filter; returns the list.
    pub(super) fn add_member(&mut self, filter: Filter<'_>, max_topics: u32) -> Result<u32, TopicError> {
        let list = self.find_or_make(filter, max_topics)?;
        self.lists[list as usize].members += 1;
        self.subscriptions += 1;
        Ok(list)
    }

    /// A subscription has ended, and its connection has [left](Self::leave) the list.
    pub(super) fn remove_member(&mut self, list: u32) {
        self.lists[list as usize].members -= 1;
        self.subscriptions -= 1;
        self.free_if_unused(list);
    }

    /// Puts a connection into a list; returns its place.
    pub(super) fn enter(&mut self, list: u32, slot: u32) -> u32 {
        let list = &mut self.lists[list as usize];
        let before = list.held_bytes();
        if list.entries.len() == list.entries.capacity() {
            // By less than doubling: the longest lists are as long as the core has connections.
            list.entries.reserve_exact((list.entries.len() / 4).max(4));
        }
        list.entries.push(slot);
        self.lists_bytes += list.held_bytes() - before;
        list.entries.len() as u32 - 1
    }

    /// Takes a connection out of a list.
    pub(super) fn leave(&mut self, index: u32, position: u32, sides: &mut Sides) {
        let list = &mut self.lists[index as usize];
        if !list.waiting.is_empty() {
            list.entries[position as usize] = HOLE;
            list.holes += 1;
            return;
        }
        // Nothing waits: the last one may move.
        list.entries.swap_remove(position as usize);
        match list.entries.get(position as usize) {
            Some(&moved) if moved != HOLE => moved_to(sides, moved, index, position),
            _ => {}
        }
        while let Some(&HOLE) = list.entries.last() {
            list.entries.pop();
            list.holes -= 1;
        }
    }

    /// Takes a message for all whose filters match its topic; gives it back if there are none.
    pub fn publish(&mut self, publication: OnItsWay) -> Result<(), OnItsWay> {
        let mut matched = std::mem::take(&mut self.matched);
        matched.extend(self.exact.get(&publication.topic));
        if !self.below.is_empty() {
            matched.extend(prefixes(&publication.topic).filter_map(|prefix| self.below.get(prefix)));
        }
        matched.retain(|list| self.lists[*list as usize].subscribers() > 0);
        let result = if matched.is_empty() {
            Err(publication)
        } else {
            let number = self.publications.insert((publication, matched.len() as u32)) as u32;
            for index in matched.drain(..) {
                let list = &mut self.lists[index as usize];
                let before = list.held_bytes();
                list.waiting.push_back(Waiting { publication: number, bound: list.entries.len() as u32 });
                self.lists_bytes += list.held_bytes() - before;
                if !std::mem::replace(&mut list.active, true) {
                    self.active.push_back(index);
                }
            }
            Ok(())
        };
        self.matched = matched;
        result
    }

    /// A name that is there already, so that none has to be made.
    pub fn known_name(&self, topic: &str) -> Option<Arc<str>> {
        self.exact.get(topic).map(|list| self.lists[*list as usize].name.clone())
    }

    /// Whether a message may be retained beside the others.
    pub fn has_room_to_retain(&self, topic: &str, message: &Prepared, max_bytes: u32) -> bool {
        let freed = self.exact.get(topic).and_then(|list| self.lists[*list as usize].retained.as_ref());
        let freed = freed.map_or(0, |retained| retained.message.held_bytes());
        self.retained_bytes - freed + message.held_bytes() <= max_bytes as usize
    }

    /// Keeps a message as the topic's last value; an empty one is the end of it.
    pub fn retain(
        &mut self,
        topic: &str,
        message: Option<(Prepared, u64)>,
        max_topics: u32,
    ) -> Result<(), TopicError> {
        let Some((message, key)) = message else {
            if let Some(list) = self.find(Filter::Exact(topic)) {
                self.forget_retained(list);
                self.free_if_unused(list);
            }
            return Ok(());
        };
        let index = self.find_or_make(Filter::Exact(topic), max_topics)?;
        self.forget_retained(index);
        self.retained_bytes += message.held_bytes();
        let list = &mut self.lists[index as usize];
        self.retained.insert(list.name.clone(), index);
        list.retained = Some(Retained { message, key });
        Ok(())
    }

    fn forget_retained(&mut self, index: u32) {
        let list = &mut self.lists[index as usize];
        if let Some(retained) = list.retained.take() {
            self.retained_bytes -= retained.message.held_bytes();
            self.retained.remove(&list.name);
        }
    }

    /// The last values of all topics that match, in order of their names.
    pub(super) fn last_values(&self, filter: Filter<'_>) -> Vec<(Arc<str>, Prepared, u64)> {
        let value = |index: u32| {
            let list = &self.lists[index as usize];
            let retained = list.retained.as_ref()?;
            Some((list.name.clone(), retained.message.clone(), retained.key))
        };
        match filter {
            Filter::Exact(_) => self.find(filter).and_then(value).into_iter().collect(),
            Filter::Below(prefix) => self
                .retained
                .range::<str, _>((Bound::Excluded(prefix), Bound::Unbounded))
                .take_while(|(name, _)| filter.matches(name))
                .filter_map(|(_, index)| value(*index))
                .collect(),
        }
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.active.is_empty()
    }

    /// The list whose turn it is. It goes behind the others if it is [put back](Self::put_back).
    pub(super) fn next_active(&mut self) -> Option<u32> {
        let index = self.active.pop_front()?;
        self.lists[index as usize].active = false;
        Some(index)
    }

    /// The list goes on later, if there is more to do.
    pub(super) fn put_back(&mut self, index: u32) {
        let list = &mut self.lists[index as usize];
        if list.waiting.is_empty() {
            return self.free_if_unused(index);
        }
        if !std::mem::replace(&mut list.active, true) {
            self.active.push_back(index);
        }
    }

    /// Begins a pass, or goes on with the one under way: the next connection from where it stands. `None`
    /// when the pass has ended.
    pub(super) fn next_subscriber(&mut self, index: u32) -> Option<(u32, u32)> {
        let publications = &self.publications;
        let list = &mut self.lists[index as usize];
        if list.pass == 0 {
            list.next = 0;
            let payload_of =
                |waiting: &Waiting| publications[waiting.publication as usize].0.message.parts().1;
            list.pass = pass_len(list.waiting.iter().map(|waiting| payload_of(waiting).len()));
        }
        let bound = list.waiting.get(list.pass.checked_sub(1)?)?.bound;
        while list.next < bound {
            let position = list.next;
            list.next += 1;
            let slot = list.entries[position as usize];
            if slot != HOLE {
                return Some((slot, position));
            }
        }
        None
    }

    /// What a connection at this position gets in the pass under way.
    pub(super) fn in_pass(&self, index: u32, position: u32) -> impl Iterator<Item = &OnItsWay> {
        let list = &self.lists[index as usize];
        let waiting = list.waiting.iter().take(list.pass);
        waiting
            .filter(move |waiting| position < waiting.bound)
            .map(|w| &self.publications[w.publication as usize].0)
    }

    /// What a connection at this position has not been given yet.
    pub(super) fn owed(&self, index: u32, position: u32) -> impl Iterator<Item = &OnItsWay> {
        let list = &self.lists[index as usize];
        let done = if position < list.next { list.pass } else { 0 };
        let waiting = list.waiting.iter().skip(done);
        waiting
            .filter(move |waiting| position < waiting.bound)
            .map(|w| &self.publications[w.publication as usize].0)
    }

    /// The pass has gone through the list.
    pub(super) fn end_pass(&mut self, index: u32, sides: &mut Sides) {
        let list = &mut self.lists[index as usize];
        for waiting in list.waiting.drain(..list.pass) {
            let (publication, lists) = &mut self.publications[waiting.publication as usize];
            *lists -= 1;
            if *lists == 0 {
                self.done_bytes += publication.held_bytes;
                self.publications.remove(waiting.publication as usize);
            }
        }
        (list.pass, list.next) = (0, 0);
        if list.holes > FEW_HOLES && list.holes > list.entries.len() / 2 {
            self.close_ranks(index, sides);
        }
    }

    /// Removes the holes of a list between two passes.
    #[cold]
    fn close_ranks(&mut self, index: u32, sides: &mut Sides) {
        let List { entries, waiting, holes, .. } = &mut self.lists[index as usize];
        let mut bounds = waiting.iter_mut().map(|waiting| &mut waiting.bound).peekable();
        let mut kept = 0;
        for at in 0..entries.len() {
            while let Some(bound) = bounds.next_if(|bound| **bound as usize == at) {
                *bound = kept;
            }
            let slot = entries[at];
            if slot != HOLE {
                entries[kept as usize] = slot;
                moved_to(sides, slot, index, kept);
                kept += 1;
            }
        }
        bounds.for_each(|bound| *bound = kept);
        entries.truncate(kept as usize);
        *holes = 0;
    }

    fn free_if_unused(&mut self, index: u32) {
        let list = &self.lists[index as usize];
        if list.members == 0 && list.retained.is_none() && list.waiting.is_empty() && !list.active {
            let list = self.lists.remove(index as usize);
            self.lists_bytes -= list.held_bytes();
            if list.below {
                self.below.remove(&list.name)
            } else {
                self.exact.remove(&list.name)
            };
        }
    }

    /// Bytes of what has been delivered since the last call.
    pub fn take_done_bytes(&mut self) -> usize {
        std::mem::take(&mut self.done_bytes)
    }

    /// Bytes of lists, tables and last values. What is on its way is the mailbox's.
    pub fn held_bytes(&self) -> usize {
        let names = self.exact.capacity() + self.below.capacity();
        self.lists_bytes
            + self.retained_bytes
            + self.lists.capacity() * size_of::<List>()
            + names * size_of::<(Arc<str>, u32)>()
            + self.publications.capacity() * size_of::<(OnItsWay, u32)>()
    }

    /// The same by a walk, for the part that is counted.
    pub(super) fn walked_bytes(&self) -> (usize, usize) {
        (self.lists.iter().map(|(_, list)| list.held_bytes()).sum(), self.lists_bytes)
    }

    /// Topics, subscriptions and retained bytes.
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.lists.len() as u64, self.subscriptions, self.retained_bytes as u64)
    }
}

/// Tells a connection of its place in a list.
fn moved_to(sides: &mut Sides, slot: u32, list: u32, position: u32) {
    let side = sides.get_mut(slot);
    let sub = side.and_then(|side| side.subs_mut().find(|sub| sub.list == list));
    debug_assert!(sub.is_some(), "slot {slot} stands in a list that it does not know");
    if let Some(sub) = sub {
        sub.position = position;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sides::Sub;

    const TOPIC: Filter<'static> = Filter::Exact("t");

    fn publication(topic: &str, text: &str) -> OnItsWay {
        let message = Prepared::text(text);
        OnItsWay { topic: topic.into(), message, key: 0, except: None, held_bytes: 1 }
    }

    fn join(topics: &mut Topics, sides: &mut Sides, filter: Filter<'_>, slot: u32) {
        let list = topics.add_member(filter, 100).unwrap();
        let position = topics.enter(list, slot);
        sides.subscribe(slot, Sub { list, position, overflow: None }, false);
    }

    fn part(topics: &mut Topics, sides: &mut Sides, filter: Filter<'_>, slot: u32) {
        let list = topics.find(filter).unwrap();
        let sub = sides.unsubscribe(slot, list, false).unwrap();
        topics.leave(list, sub.position, sides);
        topics.remove_member(list);
    }

    #[test]
    fn lists_take_turns() {
        let (mut topics, mut sides) = (Topics::default(), Sides::default());
        (0..5).for_each(|slot| join(&mut topics, &mut sides, TOPIC, slot));
        join(&mut topics, &mut sides, Filter::Exact("few"), 9);
        topics.publish(publication("t", "")).unwrap();
        topics.publish(publication("few", "")).unwrap();
        let many = topics.next_active().unwrap();
        assert_eq!(topics.next_subscriber(many), Some((0, 0)));
        topics.put_back(many);
        let few = topics.next_active().unwrap();
        assert_eq!(topics.next_subscriber(few), Some((9, 0)));
        assert_eq!(topics.next_subscriber(few), None);
        topics.end_pass(few, &mut sides);
        topics.put_back(few);
        assert_eq!(topics.next_active(), Some(many));
        assert_eq!(topics.next_subscriber(many), Some((1, 1)));
        assert_eq!(topics.take_done_bytes(), 1);
    }

    /// People come and go in the middle of passes over a list with many holes: against a model.
    #[test]
    fn whoever_stays_gets_each_message_once() {
        let (mut topics, mut sides) = (Topics::default(), Sides::default());
        let mut random = 7_u32;
        let mut below = |n: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % n
        };
        // By slot: the messages that are owed, in order.
        let mut owed: BTreeMap<u32, VecDeque<u32>> = BTreeMap::new();
        let mut number = 0;
        let mut longest = 0;
        for round in 0..60_000 {
            // Many leave in the one half of the time, many come in the other.
            let few = if round / 2_000 % 2 == 0 { 150 } else { 20 };
            let slot = below(few);
            match below(8) {
                0..3 if owed.contains_key(&slot) => {
                    part(&mut topics, &mut sides, TOPIC, slot);
                    owed.remove(&slot);
                }
                0..3 => {
                    join(&mut topics, &mut sides, TOPIC, slot);
                    owed.insert(slot, VecDeque::new());
                }
                3 => {
                    if few == 20 && owed.len() > 40 {
                        for slot in owed.keys().copied().filter(|slot| *slot >= 20).collect::<Vec<_>>() {
                            part(&mut topics, &mut sides, TOPIC, slot);
                            owed.remove(&slot);
                        }
                    }
                    number += 1;
                    let taken = topics.publish(publication("t", &number.to_string())).is_ok();
                    assert_eq!(taken, !owed.is_empty());
                    owed.values_mut().for_each(|messages| messages.push_back(number));
                }
                _ => {
                    let Some(list) = topics.next_active() else { continue };
                    match topics.next_subscriber(list) {
                        None => topics.end_pass(list, &mut sides),
                        Some((slot, position)) => {
                            for publication in topics.in_pass(list, position) {
                                let first = owed.get_mut(&slot).and_then(VecDeque::pop_front).unwrap();
                                assert_eq!(publication.message.parts().1, first.to_string().as_bytes());
                            }
                        }
                    }
                    topics.put_back(list);
                }
            }
            longest = longest.max(topics.lists.iter().map(|(_, list)| list.entries.len()).max().unwrap_or(0));
        }
        while let Some(list) = topics.next_active() {
            while let Some((slot, position)) = topics.next_subscriber(list) {
                for _ in topics.in_pass(list, position) {
                    owed.get_mut(&slot).and_then(VecDeque::pop_front).unwrap();
                }
            }
            topics.end_pass(list, &mut sides);
            topics.put_back(list);
        }
        assert!(owed.values().all(VecDeque::is_empty));
        assert!(number > 5_000 && longest > 100 && longest < 2_000, "{number} {longest}");
        for slot in owed.into_keys().collect::<Vec<_>>() {
            part(&mut topics, &mut sides, TOPIC, slot);
        }
        assert_eq!((topics.counts(), sides.used()), ((0, 0, 0), 0));
        assert!(topics.publications.is_empty());
    }
}
