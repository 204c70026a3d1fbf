//! What one core sends to the subscribers and users of all: at once to its own, and to the other
//! cores as one parcel each turn.

use super::Command;
use super::common::Common;
use super::interest::Counts;
use super::names::{TopicError, check_name};
use super::peers::{Peers, reserve_all};
use super::topics::OnItsWay;
use super::users::{UserError, Users};
use crate::handler::ConnId;
use crate::ws::Prepared;
use std::sync::Arc;

/// A message to publish, and how. See [`Conn::publish_with`](crate::Conn::publish_with).
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    pub(crate) topic: &'a str,
    pub(crate) message: &'a Prepared,
    pub(crate) except: Option<ConnId>,
    pub(crate) retain: bool,
    pub(crate) key: u64,
}

impl<'a> Publication<'a> {
    /// A message to all subscribers of a topic.
    pub fn new(topic: &'a str, message: &'a Prepared) -> Self {
        Self { topic, message, except: None, retain: false, key: 0 }
    }

    /// Leaves out one connection, as a rule the sender.
    pub fn except(self, id: ConnId) -> Self {
        Self { except: Some(id), ..self }
    }

    /// Keeps the message as the topic's last value, for those who subscribe later and
    /// [ask for it](crate::Subscribe::retained). An empty message is delivered too, and ends what was
    /// kept. Every shard keeps it; metric `ringwire_retained_bytes`.
    pub fn retain(self) -> Self {
        Self { retain: true, ..self }
    }

    /// What the value is of, where a topic carries values of several things: an instrument's number.
    /// For subscriptions with [`Overflow::Conflate`](crate::Overflow::Conflate); 0 if it is not called.
    pub fn key(self, key: u64) -> Self {
        Self { key, ..self }
    }
}

/// What goes from one core to another.
#[derive(Debug)]
pub struct Parcel {
    /// For whom.
    pub to: Addressee,
    /// What.
    pub message: Prepared,
    /// What the receiver's mailbox counts it for.
    pub held_bytes: usize,
}

/// For whom a [`Parcel`] is.
#[derive(Debug)]
pub enum Addressee {
    /// The subscribers of a topic.
    Topic {
        /// Its name.
        topic: Arc<str>,
        /// Who does not get it.
        except: Option<ConnId>,
        /// Whether it becomes the topic's last value.
        retain: bool,
        /// What a later one replaces it by.
        key: u64,
    },
    /// A connection, as long as it is bound to this user.
    User {
        /// The connection.
        to: ConnId,
        /// The user.
        user: Arc<str>,
    },
}

/// What a core is about to send to others.
#[derive(Debug)]
pub struct Post {
    pub(super) peers: Arc<Peers>,
    shard: usize,
    counts: Counts,
    /// For each core.
    outgoing: Vec<Vec<Parcel>>,
    waiting: bool,
    /// For users' connections on this core.
    pub(super) own: Vec<Parcel>,
    /// Bytes of its own reservations that are no longer needed.
    done_bytes: usize,
}

impl Post {
    /// Nothing to send.
    pub fn new(peers: Arc<Peers>, shard: u8) -> Self {
        let (shard, counts) = (shard.into(), Counts::default());
        Self { peers, shard, counts, outgoing: Vec::new(), waiting: false, own: Vec::new(), done_bytes: 0 }
    }

    /// This core has a first subscriber to a topic, or to what is below a prefix.
    pub(super) fn begin_interest(&mut self, name: &str, below: bool) {
        self.counts.add(&self.peers.bits, &self.peers.interests[self.shard], name, below);
    }

    /// The last one is gone.
    pub(super) fn end_interest(&mut self, name: &str, below: bool) {
        self.counts.remove(&self.peers.bits, &self.peers.interests[self.shard], name, below);
    }

    /// Whether other cores are told of just these lists.
    pub(super) fn tells_of<'a>(&self, lists: impl Iterator<Item = (&'a str, bool)>) -> bool {
        self.counts.agree(&self.peers.bits, &self.peers.interests[self.shard], lists)
    }

    /// Subscriptions on their way from other threads.
    pub(super) fn coming(&self) -> u32 {
        self.peers.interests[self.shard].coming()
    }

    /// A subscription from another thread has been carried out.
    pub(super) fn subscription_came(&self) {
        self.peers.interests[self.shard].has_come();
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        !self.waiting && self.own.is_empty() && self.done_bytes == 0
    }

    /// Bytes of what has been carried out.
    pub(super) fn take_done_bytes(&mut self) -> usize {
        std::mem::take(&mut self.done_bytes)
    }

    pub(super) fn done(&mut self, bytes: usize) {
        self.done_bytes += bytes;
    }

    /// Who is bound to which connections, on all cores.
    pub fn users(&self) -> &Users {
        &self.peers.users
    }

    fn put(&mut self, core: usize, parcel: Parcel) {
        if self.outgoing.len() <= core {
            self.outgoing.resize_with(core + 1, Vec::new);
        }
        self.outgoing[core].push(parcel);
        self.waiting = true;
    }

    /// Hands each core what is for it: one command and at most one wake-up.
    pub(super) fn send_off(&mut self) {
        if !std::mem::take(&mut self.waiting) {
            return;
        }
        let Self { peers, outgoing, .. } = self;
        for (parcels, mailbox) in outgoing.iter_mut().zip(peers.mailboxes().into_iter().flatten()) {
            if !parcels.is_empty() {
                let bytes: usize = parcels.iter().map(|parcel| parcel.held_bytes).sum();
                // Room was made when each was accepted. A core that has stopped serves nobody.
                if mailbox.post_unbounded(Command::Parcels(std::mem::take(parcels))).is_err() {
                    mailbox.let_go(bytes);
                }
            }
        }
    }
}

impl Common {
    /// Publishes to the subscribers of all cores.
    pub fn publish(&mut self, publication: &Publication<'_>) -> Result<(), TopicError> {
        let result = self.publish_everywhere(publication);
        self.stats.publications_refused.add(u64::from(result.is_err()));
        result
    }

    fn publish_everywhere(&mut self, publication: &Publication<'_>) -> Result<(), TopicError> {
        let Publication { topic, message, except, retain, key } = *publication;
        check_name(topic, self.limits.max_topic_bytes)?;
        if retain {
            self.check_retain(topic, message)?;
        }
        let held_bytes = message.held_bytes();
        let Some(mailboxes) = self.post.peers.mailboxes() else { return Err(TopicError::Stopped) };
        let mut cores = self.post.peers.cores_for(topic, retain);
        // Here it counts as published in any case.
        cores.add(self.shard.into());
        let targets = cores.of(mailboxes);
        reserve_all(targets.clone(), |to| to.reserve_bytes(held_bytes), |to| to.let_go(held_bytes))
            .map_err(|_| TopicError::Full)?;
        if targets.count() == 1 {
            self.arrive(topic, None, message.clone(), except, retain, key, held_bytes);
            return Ok(());
        }
        let name: Arc<str> =
            self.topics.as_ref().and_then(|topics| topics.known_name(topic)).unwrap_or_else(|| topic.into());
        let others = (0..mailboxes.len()).filter(|core| cores.has(*core) && *core != usize::from(self.shard));
        for core in others {
            // Cores that counted references to one frame would wait for each other's caches.
            let to = Addressee::Topic { topic: name.clone(), except, retain, key };
            self.post.put(core, Parcel { to, message: message.for_shard(), held_bytes });
        }
        self.arrive(topic, Some(name), message.for_shard(), except, retain, key, held_bytes);
        Ok(())
    }

    /// Whether this core could retain a message.
    fn check_retain(&self, topic: &str, message: &Prepared) -> Result<(), TopicError> {
        let limits = &self.limits;
        let topics = self.topics.as_ref();
        let fits = topics.map_or(message.held_bytes() <= limits.max_retained_bytes as usize, |topics| {
            topics.has_room_to_retain(topic, message, limits.max_retained_bytes)
        });
        let known = topics.is_some_and(|topics| topics.known_name(topic).is_some());
        let count = topics.map_or(0, |topics| topics.counts().0);
        match message.parts().1.is_empty() {
            // It is the end of what was kept.
            true => Ok(()),
            false if !fits => Err(TopicError::TooMuchRetained),
            false if !known && count >= limits.max_topics.into() => Err(TopicError::TooManyTopics),
            false => Ok(()),
        }
    }

    /// Takes what was published on this core or on another.
    #[expect(clippy::too_many_arguments, reason = "what a publication is, apart")]
    pub(super) fn arrive(
        &mut self,
        topic: &str,
        name: Option<Arc<str>>,
        message: Prepared,
        except: Option<ConnId>,
        retain: bool,
        key: u64,
        held_bytes: usize,
    ) {
        self.stats.publications.add(1);
        if retain {
            self.retain(topic, &message, key);
        }
        let Some(topics) = &mut self.topics else { return self.post.done(held_bytes) };
        let name = name.or_else(|| topics.known_name(topic)).unwrap_or_else(|| topic.into());
        let except = except.filter(|id| id.shard() == usize::from(self.shard)).map(ConnId::token);
        let unwanted = topics.publish(OnItsWay { topic: name, message, key, except, held_bytes });
        if unwanted.is_err() {
            self.post.done(held_bytes);
        }
    }

    fn retain(&mut self, topic: &str, message: &Prepared, key: u64) {
        let topics = self.topics.get_or_insert_default();
        let is_end = message.parts().1.is_empty();
        let fits = topics.has_room_to_retain(topic, message, self.limits.max_retained_bytes);
        let value = (fits && !is_end).then(|| (message.clone(), key));
        // Where the new value cannot be kept, neither is the old one: it is the last no more.
        if topics.retain(topic, value, self.limits.max_topics).is_err() || !(fits || is_end) {
            self.stats.retained_refused.add(1);
        }
    }

    /// Sends a message to all connections of a user; tells how many there are.
    pub fn send_to_user(&mut self, user: &str, message: &Prepared) -> Result<usize, UserError> {
        let Some(mailboxes) = self.post.peers.mailboxes() else { return Err(UserError::Stopped) };
        let Some((user, connections)) = self.post.peers.users.find(user) else { return Ok(0) };
        let held_bytes = message.held_bytes();
        for (at, id) in connections.iter().enumerate() {
            if mailboxes[id.shard()].reserve_bytes(held_bytes).is_err() {
                connections[..at].iter().for_each(|id| mailboxes[id.shard()].let_go(held_bytes));
                self.stats.publications_refused.add(1);
                return Err(UserError::Full);
            }
        }
        // The directory's order is no order of cores; a clone of a shard's own is still its own.
        let mut of_shard: Option<(usize, Prepared)> = None;
        for &to in &connections {
            let message = match &of_shard {
                Some((shard, own)) if *shard == to.shard() => own.clone(),
                _ => of_shard.insert((to.shard(), message.for_shard())).1.clone(),
            };
            let parcel = Parcel { to: Addressee::User { to, user: user.clone() }, message, held_bytes };
            if to.shard() == usize::from(self.shard) {
                self.post.own.push(parcel);
            } else {
                self.post.put(to.shard(), parcel);
            }
        }
        Ok(connections.len())
    }
}
