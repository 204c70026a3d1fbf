//! Users: which connections are bound to whom, on all cores, and who is online.
//!
//! One directory is the truth, so that going online and offline is exact wherever it happens. It is
//! locked, one stripe of many for a few instructions, when a connection is bound or ends, and when a
//! user is looked up. A connection knows its user on its own core, and what is sent to a user is
//! compared with that on arrival: nobody gets what was sent to who was bound there before.

use super::common::Common;
use super::slot::Slot;
use crate::driver::Token;
use crate::handler::ConnId;
use crate::ws::State;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Parts that are locked apart from each other.
const STRIPES: usize = 64;

/// Why a user could not be bound or reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserError {
    /// The caller's fault: the name is empty or longer than
    /// [`Limits::max_user_bytes`](crate::Limits::max_user_bytes).
    Name,
    /// The user has [`Limits::max_user_connections`](crate::Limits::max_user_connections).
    TooManyConnections,
    /// A shard has [`Limits::max_broadcast_bytes`](crate::Limits::max_broadcast_bytes) that it has not
    /// delivered yet. Nobody was sent anything: send less, or later.
    Full,
    /// The connection is closing.
    Closed,
    /// The server does not run.
    Stopped,
}

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "the user's name is empty or longer than max_user_bytes",
            Self::TooManyConnections => "the user has too many connections: close some, or raise max_user_connections",
            Self::Full => "a shard has not delivered what was sent before: send less or later, or raise max_broadcast_bytes",
            Self::Closed => "the connection is closing",
            Self::Stopped => "the server does not run",
        })
    }
}

impl std::error::Error for UserError {}

/// A user came online with a first connection, or went offline with the last one. See
/// [`Handler::presence`](crate::Handler::presence).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Who.
    pub user: Arc<str>,
    /// Whether the user has a connection since.
    pub online: bool,
    /// Grows with every change: shards tell of their changes independently, and the greatest number is
    /// the last.
    pub change: u64,
}

type Stripe = HashMap<Arc<str>, Vec<ConnId>>;

/// The directory of all cores.
#[derive(Debug)]
pub struct Users {
    stripes: [Mutex<Stripe>; STRIPES],
    hasher: RandomState,
    online: AtomicU64,
    changes: AtomicU64,
    max_user_bytes: u32,
    max_user_connections: u32,
}

impl Users {
    /// With nobody in it.
    pub fn new(max_user_bytes: u32, max_user_connections: u32) -> Self {
        Self {
            stripes: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            online: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            max_user_bytes,
            max_user_connections,
        }
    }

    fn stripe(&self, user: &str) -> MutexGuard<'_, Stripe> {
        let stripe = &self.stripes[self.hasher.hash_one(user) as usize % STRIPES];
        // Nothing under the lock can fail half-way.
        stripe.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds a connection; the number of the change if it is the user's first.
    fn bind(&self, user: &str, id: ConnId) -> Result<(Arc<str>, Option<u64>), UserError> {
        if user.is_empty() || user.len() > self.max_user_bytes as usize {
            return Err(UserError::Name);
        }
        let mut stripe = self.stripe(user);
        if let Some((name, _)) = stripe.get_key_value(user) {
            let name = name.clone();
            let Some(connections) = stripe.get_mut(user) else { return Ok((name, None)) };
            if connections.len() >= self.max_user_connections as usize {
                return Err(UserError::TooManyConnections);
            }
            connections.push(id);
            return Ok((name, None));
        }
        let name: Arc<str> = user.into();
        stripe.insert(name.clone(), vec![id]);
        self.online.fetch_add(1, Ordering::Relaxed);
        Ok((name, Some(self.changes.fetch_add(1, Ordering::Relaxed) + 1)))
    }

    /// Takes a connection away; the number of the change if it was the user's last.
    fn unbind(&self, user: &str, id: ConnId) -> Option<u64> {
        let mut stripe = self.stripe(user);
        let connections = stripe.get_mut(user)?;
        connections.retain(|bound| *bound != id);
        if !connections.is_empty() {
            return None;
        }
        stripe.remove(user);
        self.online.fetch_sub(1, Ordering::Relaxed);
        Some(self.changes.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A user's name as it is shared, and the connections.
    pub fn find(&self, user: &str) -> Option<(Arc<str>, Vec<ConnId>)> {
        let stripe = self.stripe(user);
        stripe.get_key_value(user).map(|(name, connections)| (name.clone(), connections.clone()))
    }

    /// A user's connections.
    pub fn connections_of(&self, user: &str) -> Vec<ConnId> {
        self.stripe(user).get(user).cloned().unwrap_or_default()
    }

    /// How many connections are bound.
    pub fn bindings(&self) -> usize {
        let len = |stripe: &Mutex<Stripe>| {
            let stripe = stripe.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            stripe.values().map(Vec::len).sum::<usize>()
        };
        self.stripes.iter().map(len).sum()
    }

    /// Whether a user has a connection.
    pub fn is_online(&self, user: &str) -> bool {
        self.stripe(user).contains_key(user)
    }

    /// How many users have a connection.
    pub fn online(&self) -> u64 {
        self.online.load(Ordering::Relaxed)
    }
}

/// The users of one core's connections.
#[derive(Debug, Default)]
pub struct Bound {
    by_slot: HashMap<u32, Arc<str>>,
    changes: Vec<Presence>,
}

impl Bound {
    /// The user of a connection.
    pub fn user(&self, slot: u32) -> Option<&Arc<str>> {
        self.by_slot.get(&slot)
    }

    /// All of them, by slot.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (u32, &Arc<str>)> {
        self.by_slot.iter().map(|(slot, user)| (*slot, user))
    }

    /// Changes of which the handler has not been told.
    pub(super) fn take_changes(&mut self) -> Vec<Presence> {
        std::mem::take(&mut self.changes)
    }

    /// Whether there are any.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }
}

impl Common {
    /// Binds a connection to a user, instead of the one before.
    pub fn bind_user(&mut self, slot: &Slot, token: Token, user: &str) -> Result<(), UserError> {
        if !slot.phase.is_open() || slot.session.state() != State::Open {
            return Err(UserError::Closed);
        }
        if self.bound.user(token.slot).is_some_and(|bound| **bound == *user) {
            return Ok(());
        }
        let bound = self.post.peers.users.bind(user, ConnId::new(self.shard, token));
        self.stats.user_binds_refused.add(u64::from(bound.is_err()));
        let (user, change) = bound?;
        self.unbind_user(token);
        if let Some(change) = change {
            self.bound.changes.push(Presence { user: user.clone(), online: true, change });
        }
        self.bound.by_slot.insert(token.slot, user);
        self.stats.bound_connections.add(1);
        Ok(())
    }

    /// Ends a connection's binding, if there is one.
    pub fn unbind_user(&mut self, token: Token) -> bool {
        let Some(user) = self.bound.by_slot.remove(&token.slot) else { return false };
        self.stats.bound_connections.sub(1);
        if let Some(change) = self.post.peers.users.unbind(&user, ConnId::new(self.shard, token)) {
            self.bound.changes.push(Presence { user, online: false, change });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(shard: u8, slot: u32) -> ConnId {
        ConnId::new(shard, Token { slot, generation: 1 })
    }

    #[test]
    fn the_first_and_the_last_connection_are_changes() {
        let users = Users::new(10, 2);
        assert_eq!(users.bind("ann", id(0, 1)).unwrap().1, Some(1));
        assert_eq!(users.bind("ann", id(1, 1)).unwrap().1, None);
        assert_eq!(users.bind("ann", id(2, 1)), Err(UserError::TooManyConnections));
        assert_eq!(users.bind("", id(2, 1)), Err(UserError::Name));
        assert_eq!(users.bind("far too long", id(2, 1)), Err(UserError::Name));
        assert_eq!(users.find("ann").unwrap().1, [id(0, 1), id(1, 1)]);
        assert_eq!((users.online(), users.is_online("ann"), users.is_online("ben")), (1, true, false));
        assert_eq!(users.unbind("ann", id(0, 1)), None);
        assert_eq!(users.unbind("ann", id(0, 1)), None);
        assert_eq!(users.unbind("ann", id(1, 1)), Some(2));
        assert_eq!(users.unbind("ann", id(1, 1)), None);
        assert_eq!((users.online(), users.find("ann")), (0, None));
    }

    /// Whatever threads do, ups and downs of one user alternate, in order of their numbers.
    #[test]
    fn changes_are_exact_across_threads() {
        let users = Users::new(10, 100);
        let mut changes: Vec<(u64, bool)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|shard| {
                    let users = &users;
                    scope.spawn(move || {
                        let mut seen = Vec::new();
                        for round in 0..2_000 {
                            let up = users.bind("ann", id(shard, round)).unwrap().1;
                            seen.extend(up.map(|change| (change, true)));
                            let down = users.unbind("ann", id(shard, round));
                            seen.extend(down.map(|change| (change, false)));
                        }
                        seen
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        changes.sort_unstable();
        assert!(changes.len() > 2, "{}", changes.len());
        for (at, (change, online)) in changes.iter().enumerate() {
            assert_eq!((*change, *online), (at as u64 + 1, at % 2 == 0));
        }
        assert_eq!(users.online(), 0);
    }
}
