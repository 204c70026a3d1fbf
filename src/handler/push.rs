//! What a handler does with topics and users.

use super::{Conn, ConnId, Shard};
use crate::ws::Prepared;
use std::sync::Arc;

pub use crate::engine::names::TopicError;
pub use crate::engine::overflow::{Dropped, Overflow};
pub use crate::engine::post::Publication;
pub use crate::engine::subscriptions::Subscribe;
pub use crate::engine::users::{Presence, UserError};

/// Topics.
impl<S> Conn<'_, S> {
    /// Subscribes to a topic (`room/1`), to all topics below a prefix (`room/#`: `room/1` and
    /// `room/1/typing`, but not `room`), or to all (`#`). False if it was subscribed to that before.
    ///
    /// What is published from now on comes, until [`unsubscribe`](Self::unsubscribe) or the
    /// connection's end; see [Topics](crate#topics) for what is guaranteed. A topic needs no making,
    /// and is gone when nobody is subscribed. Where several filters of a connection match, a message
    /// comes once.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub fn subscribe(&mut self, filter: &str) -> Result<bool, TopicError> {
        self.subscribe_with(filter, Subscribe::new())
    }

    /// Subscribes and says how; see [`Subscribe`].
    ///
    /// ```
    /// # use ringwire::{Conn, Overflow, Subscribe, TopicError};
    /// # fn open(conn: &mut Conn<'_, ()>) -> Result<(), TopicError> {
    /// // Who does not keep up gets the latest prices, not all of them.
    /// conn.subscribe_with("prices/#", Subscribe::new().retained().overflow(Overflow::Conflate))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`TopicError`].
    pub fn subscribe_with(&mut self, filter: &str, how: Subscribe) -> Result<bool, TopicError> {
        self.common.subscribe(self.slot, self.token, filter, how)
    }

    /// Ends a subscription, named as it was made. False if there was none. What is on its way does
    /// not come any more.
    pub fn unsubscribe(&mut self, filter: &str) -> bool {
        self.common.unsubscribe(self.slot, self.token, filter)
    }

    /// Whether the connection is subscribed to this very topic or wildcard.
    pub fn is_subscribed(&self, filter: &str) -> bool {
        self.common.is_subscribed(self.token, filter)
    }

    /// How many subscriptions the connection has.
    pub fn subscriptions(&self) -> usize {
        self.common.subscriptions(self.token)
    }

    /// Publishes a message to all subscribers of a topic, on all shards. Who is subscribed on this
    /// shard is served in this turn, or as soon as it is its turn.
    ///
    /// ```
    /// # use ringwire::{Conn, Prepared, Publication, TopicError};
    /// # fn message(conn: &mut Conn<'_, ()>, line: &str) -> Result<(), TopicError> {
    /// let said = Prepared::text(line);
    /// conn.publish("room/1", &said)?;
    /// // To all but this connection, and kept for who comes later.
    /// conn.publish_with(Publication::new("room/1", &said).except(conn.id()).retain())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`TopicError`]. Nobody gets it then.
    pub fn publish(&mut self, topic: &str, message: &Prepared) -> Result<(), TopicError> {
        self.publish_with(Publication::new(topic, message))
    }

    /// Publishes and says how; see [`Publication`].
    ///
    /// # Errors
    /// See [`TopicError`].
    pub fn publish_with(&mut self, publication: Publication<'_>) -> Result<(), TopicError> {
        self.common.publish(&publication)
    }

    /// Sets what becomes of messages that do not fit the connection's outbox; [`Overflow::DropNewest`]
    /// at first. Subscriptions may have a policy of their own.
    pub fn set_overflow(&mut self, overflow: Overflow) {
        self.common.set_overflow(self.slot, self.token, overflow);
    }

    /// Sets how many bytes may wait for this connection: what does not fit behind them is treated as its
    /// [`Overflow`] policy says. [`Limits::max_outbox_bytes`](crate::Limits::max_outbox_bytes) holds as
    /// well. A message alone, with nothing before it, may be larger.
    pub fn set_max_outbox_bytes(&mut self, bytes: u32) {
        self.common.set_max_outbox(self.slot, self.token, bytes);
    }
}

/// Users.
impl<S> Conn<'_, S> {
    /// Binds the connection to a user: an account's name or number as text. A user may have many
    /// connections, on any shard; a connection has one user, and is bound to the last one named.
    ///
    /// # Errors
    /// See [`UserError`]. The connection stays bound as it was.
    pub fn bind_user(&mut self, user: &str) -> Result<(), UserError> {
        self.common.bind_user(self.slot, self.token, user)
    }

    /// Ends the binding, as the connection's end does. False if there was none.
    pub fn unbind_user(&mut self) -> bool {
        self.common.unbind_user(self.token)
    }

    /// The user that the connection is bound to.
    pub fn user(&self) -> Option<&str> {
        self.common.bound.user(self.token.slot).map(|user| &**user)
    }

    /// Sends a message to all connections of a user, on all shards; tells how many there were. Those
    /// of this shard are served in this turn. Messages of one handler to one user come in order.
    ///
    /// # Errors
    /// See [`UserError`].
    pub fn send_to_user(&mut self, user: &str, message: &Prepared) -> Result<usize, UserError> {
        self.common.send_to_user(user, message)
    }

    /// The connections of a user, on all shards.
    pub fn connections_of(&self, user: &str) -> Vec<ConnId> {
        self.common.post.users().connections_of(user)
    }

    /// Whether a user has a connection, on any shard.
    pub fn is_online(&self, user: &str) -> bool {
        self.common.post.users().is_online(user)
    }
}

/// Topics and users.
impl<S> Shard<'_, S> {
    /// As [`Conn::publish`].
    ///
    /// # Errors
    /// See [`TopicError`].
    pub fn publish(&mut self, topic: &str, message: &Prepared) -> Result<(), TopicError> {
        self.publish_with(Publication::new(topic, message))
    }

    /// As [`Conn::publish_with`].
    ///
    /// # Errors
    /// See [`TopicError`].
    pub fn publish_with(&mut self, publication: Publication<'_>) -> Result<(), TopicError> {
        self.common.publish(&publication)
    }

    /// Connections of this shard that get what is published to a topic.
    pub fn subscribers(&self, topic: &str) -> usize {
        self.common.subscribers(topic)
    }

    /// As [`Conn::send_to_user`].
    ///
    /// # Errors
    /// See [`UserError`].
    pub fn send_to_user(&mut self, user: &str, message: &Prepared) -> Result<usize, UserError> {
        self.common.send_to_user(user, message)
    }

    /// The connections of a user, on all shards.
    pub fn connections_of(&self, user: &str) -> Vec<ConnId> {
        self.common.post.users().connections_of(user)
    }

    /// Whether a user has a connection, on any shard.
    pub fn is_online(&self, user: &str) -> bool {
        self.common.post.users().is_online(user)
    }

    /// How many users have a connection, on all shards.
    pub fn user_count(&self) -> u64 {
        self.common.post.users().online()
    }

    /// The user that a connection of this shard is bound to, shared.
    pub fn user_of(&self, id: ConnId) -> Option<Arc<str>> {
        let token = id.token();
        let known =
            id.shard() == usize::from(self.common.shard) && self.table.token(token.slot) == Some(token);
        self.common.bound.user(token.slot).filter(|_| known).cloned()
    }
}
