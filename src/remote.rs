//! Reaching connections from any thread: the public side of the cores' mailboxes.

use crate::engine::Command;
use crate::engine::broadcast::Broadcast;
use crate::engine::deferred::Answer;
use crate::engine::mailbox::{Mailbox, PostError};
use crate::engine::names::check_name;
use crate::engine::peers::{Peers, reserve_all};
use crate::engine::post::{Addressee, Parcel};
use crate::engine::prometheus::write_prometheus;
use crate::engine::stats::Stats;
use crate::handler::{ConnId, Publication, Subscribe, Ticket, TopicError, UserError};
use crate::http::Response;
use crate::ws::{CloseCode, Kind, Prepared};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// What all shards of a server share: their mailboxes and counters.
#[derive(Debug)]
pub(crate) struct Directory {
    /// What the shards share among themselves.
    pub(crate) peers: Arc<Peers>,
    pub(crate) stats: Vec<Arc<Stats>>,
    pub(crate) driver: &'static str,
}

/// Sends to and closes connections from any thread: a database listener, a tokio task, another
/// shard's handler. Cheap to clone.
///
/// Commands of one thread for one connection arrive in order. A command for a connection that has
/// ended meanwhile reaches nobody; it is counted (`ringwire_mailbox_stale_total`).
///
/// ```no_run
/// # fn lookup() -> ringwire::ConnId { unimplemented!() }
/// # let remote: ringwire::Remote = unimplemented!();
/// let id: ringwire::ConnId = lookup();
/// std::thread::spawn(move || remote.send_text(id, "from another thread"));
/// ```
#[derive(Clone, Debug)]
pub struct Remote {
    pub(crate) directory: Arc<Directory>,
}

/// How far a graceful end has come, on all shards that have begun theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainProgress {
    /// Connections with which it began.
    pub began_with: u64,
    /// Connections that have not ended.
    pub left: u64,
}

/// Why a [`Remote`] call did nothing. Nothing of the message was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteError {
    /// The shard's mailbox holds `max_mailbox_commands`, or `max_broadcast_bytes` for a message to all:
    /// post less, or later.
    Full,
    /// The shard has not started or has stopped.
    Stopped,
    /// The id is of another server.
    UnknownShard,
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the shard's mailbox is full: try again later, or raise max_mailbox_commands or max_broadcast_bytes",
            Self::Stopped => "the server does not run",
            Self::UnknownShard => "the connection id is of another server",
        })
    }
}

impl std::error::Error for RemoteError {}

impl Remote {
    /// Sends a text message.
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub fn send_text(&self, to: ConnId, text: impl Into<String>) -> Result<(), RemoteError> {
        let payload = Bytes::from(text.into());
        self.post(to, Command::Send { to, kind: Kind::Text, payload })
    }

    /// Sends a binary message.
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub fn send_binary(&self, to: ConnId, bytes: impl Into<Bytes>) -> Result<(), RemoteError> {
        self.post(to, Command::Send { to, kind: Kind::Binary, payload: bytes.into() })
    }

    /// Sends a message that goes to others as well; see [`Prepared`].
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub fn send_prepared(&self, to: ConnId, prepared: &Prepared) -> Result<(), RemoteError> {
        self.post(to, Command::SendPrepared { to, prepared: prepared.clone() })
    }

    /// Offers a message to every open connection of every shard, those that the server opened itself
    /// included: [`Handler::broadcast`](crate::Handler::broadcast) is called for each, with `tag`, and
    /// sends it unless the handler decides otherwise.
    ///
    /// Nobody has to subscribe, so it costs a connection no memory; each costs a call, so it is for
    /// messages that go to many. The frame exists once per shard, however many send it, and shards
    /// share nothing while they do.
    ///
    /// - A connection that is open from this call until its turn comes is offered the message exactly
    ///   once; one that opens or closes meanwhile, at most once.
    /// - Broadcasts of one thread come to each connection in the order in which they were made.
    ///   Between a broadcast and other sends there is no order.
    /// - A shard goes through its connections in steps of
    ///   [`max_broadcast_sends_per_turn`](crate::Limits::max_broadcast_sends_per_turn) and serves
    ///   others in between. Broadcasts that come meanwhile wait, up to
    ///   [`max_broadcast_bytes`](crate::Limits::max_broadcast_bytes).
    ///
    /// # Errors
    /// See [`RemoteError`]. [`Full`](RemoteError::Full) if one shard has no room: then none is
    /// given it.
    pub fn broadcast(&self, message: &Prepared, tag: u64) -> Result<(), RemoteError> {
        let mailboxes = self.directory.peers.mailboxes().ok_or(RemoteError::Stopped)?;
        let held_bytes = message.held_bytes();
        for (at, mailbox) in mailboxes.iter().enumerate() {
            if mailbox.reserve(held_bytes).is_err() {
                mailboxes[..at].iter().for_each(|mailbox| mailbox.cancel(held_bytes));
                return Err(RemoteError::Full);
            }
        }
        let mut result = Err(RemoteError::Stopped);
        for mailbox in mailboxes {
            // Shards that counted references to one frame would wait for each other's caches.
            let message = if mailboxes.len() > 1 { message.for_shard() } else { message.clone() };
            if mailbox.post_reserved(Command::Broadcast(Broadcast { message, tag, held_bytes })).is_ok() {
                result = Ok(());
            }
        }
        result
    }

    /// Publishes a message to all subscribers of a topic, on all shards.
    ///
    /// Publications of one thread to one topic come to each subscriber in the order in which they were
    /// made, and at most once; see [Topics](crate#topics). Either all shards take it or none does.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub fn publish(&self, topic: &str, message: &Prepared) -> Result<(), TopicError> {
        self.publish_with(Publication::new(topic, message))
    }

    /// Publishes and says how; see [`Publication`]. A last value for which a shard finds no room is
    /// delivered there and not kept, which is counted (`ringwire_retained_refused_total`).
    ///
    /// # Errors
    /// See [`TopicError`].
    pub fn publish_with(&self, publication: Publication<'_>) -> Result<(), TopicError> {
        let Publication { topic, message, except, retain, key } = publication;
        check_name(topic, self.directory.peers.max_topic_bytes)?;
        let mailboxes = self.directory.peers.mailboxes().ok_or(TopicError::Stopped)?;
        let held_bytes = message.held_bytes();
        let targets = self.directory.peers.cores_for(topic, retain).of(mailboxes);
        reserve_all(targets.clone(), |to| to.reserve(held_bytes), |to| to.cancel(held_bytes))
            .map_err(|_| TopicError::Full)?;
        let topic: Arc<str> = topic.into();
        // Where nobody wants it, nothing went wrong.
        let mut result = if targets.clone().count() == 0 { Ok(()) } else { Err(TopicError::Stopped) };
        for (_, mailbox) in targets {
            let to = Addressee::Topic { topic: topic.clone(), except, retain, key };
            let message = if mailboxes.len() > 1 { message.for_shard() } else { message.clone() };
            if mailbox.post_reserved(Command::Parcel(Parcel { to, message, held_bytes })).is_ok() {
                result = Ok(());
            }
        }
        result
    }

    /// Subscribes a connection, as [`Conn::subscribe_with`](crate::Conn::subscribe_with) does. What is
    /// refused there is counted (`ringwire_subscriptions_refused_total`).
    ///
    /// # Errors
    /// See [`RemoteError`]. A name that is no filter subscribes to nothing.
    pub fn subscribe(&self, id: ConnId, filter: &str, how: Subscribe) -> Result<(), RemoteError> {
        self.post_subscription(id, filter, Some(how))
    }

    /// Ends a connection's subscription, as [`Conn::unsubscribe`](crate::Conn::unsubscribe) does.
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub fn unsubscribe(&self, id: ConnId, filter: &str) -> Result<(), RemoteError> {
        self.post_subscription(id, filter, None)
    }

    fn post_subscription(&self, id: ConnId, filter: &str, how: Option<Subscribe>) -> Result<(), RemoteError> {
        let interest = self.directory.peers.interests.get(id.shard()).ok_or(RemoteError::UnknownShard)?;
        // What this thread publishes from now on must find the way there.
        interest.expect_one();
        let posted = self.post(id, Command::Subscribe { id, filter: filter.to_owned(), how });
        posted.inspect_err(|_| interest.has_come())
    }

    /// Sends a message to all connections that are bound to a user
    /// ([`Conn::bind_user`](crate::Conn::bind_user)), on all shards; tells how many there were. One that
    /// is bound to somebody else when the message arrives does not get it.
    ///
    /// # Errors
    /// See [`UserError`]. [`Full`](UserError::Full) if one shard has no room: then nobody is sent it.
    pub fn send_to_user(&self, user: &str, message: &Prepared) -> Result<usize, UserError> {
        let mailboxes = self.directory.peers.mailboxes().ok_or(UserError::Stopped)?;
        let Some((user, connections)) = self.directory.peers.users.find(user) else { return Ok(0) };
        let held_bytes = message.held_bytes();
        for (at, id) in connections.iter().enumerate() {
            if mailboxes[id.shard()].reserve(held_bytes).is_err() {
                connections[..at].iter().for_each(|id| mailboxes[id.shard()].cancel(held_bytes));
                return Err(UserError::Full);
            }
        }
        let mut sent = 0;
        for &id in &connections {
            let to = Addressee::User { to: id, user: user.clone() };
            let message = if mailboxes.len() > 1 { message.for_shard() } else { message.clone() };
            let parcel = Command::Parcel(Parcel { to, message, held_bytes });
            sent += usize::from(mailboxes[id.shard()].post_reserved(parcel).is_ok());
        }
        if sent == 0 { Err(UserError::Stopped) } else { Ok(sent) }
    }

    /// The connections of a user, on all shards.
    pub fn connections_of(&self, user: &str) -> Vec<ConnId> {
        self.directory.peers.users.connections_of(user)
    }

    /// Whether a user has a connection, on any shard.
    pub fn is_online(&self, user: &str) -> bool {
        self.directory.peers.users.is_online(user)
    }

    /// How many users have a connection.
    pub fn user_count(&self) -> u64 {
        self.directory.peers.users.online()
    }

    /// Answers a request that was put off ([`Reply::later`](crate::Reply::later)), or refuses a handshake
    /// ([`Upgrade::later`](crate::Upgrade::later)). One that does not wait any more is not answered; it is
    /// counted (`ringwire_mailbox_stale_total`).
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub fn respond(&self, ticket: Ticket, response: Response) -> Result<(), RemoteError> {
        self.answer(ticket, Answer::Respond(response))
    }

    /// Accepts a handshake on which the decision was put off ([`Upgrade::later`](crate::Upgrade::later)).
    /// A plain request is answered with 500.
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub fn accept(&self, ticket: Ticket) -> Result<(), RemoteError> {
        self.answer(ticket, Answer::Accept)
    }

    fn answer(&self, ticket: Ticket, answer: Answer) -> Result<(), RemoteError> {
        self.post(ticket.conn(), Command::Answer { ticket, answer: Box::new(answer) })
    }

    /// A promise to answer a request: it is kept with 500 if the responder is dropped before, as when
    /// a task panics or is cancelled.
    pub fn responder(&self, ticket: Ticket) -> Responder {
        Responder { remote: self.clone(), ticket: Some(ticket) }
    }

    /// Begins the closing handshake, as [`Conn::close`](crate::Conn::close) does.
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub fn close(&self, id: ConnId, code: CloseCode, reason: impl Into<String>) -> Result<(), RemoteError> {
        self.post(id, Command::Close { id, code, reason: reason.into() })
    }

    /// Ends the current wait of every shard that runs, or its next one:
    /// [`Handler::turn`](crate::Handler::turn) is called, and can look at what other threads share with it.
    pub fn wake(&self) {
        self.directory.peers.mailboxes().into_iter().flatten().for_each(Mailbox::wake);
    }

    /// Appends the metrics of all shards in Prometheus' text format.
    pub fn write_metrics(&self, out: &mut String) {
        write_prometheus(out, self.directory.driver, self.directory.stats.iter().map(AsRef::as_ref));
    }

    /// Open WebSocket connections on all shards.
    pub fn open_connections(&self) -> u64 {
        self.directory.stats.iter().map(|stats| stats.websockets.get()).sum()
    }

    pub(crate) fn drain_progress(&self) -> Option<DrainProgress> {
        let draining = self.directory.stats.iter().filter(|stats| stats.draining.get() > 0);
        draining.fold(None, |progress: Option<DrainProgress>, stats| {
            let before = progress.unwrap_or(DrainProgress { began_with: 0, left: 0 });
            Some(DrainProgress {
                began_with: before.began_with + stats.drain_began_with.get(),
                left: before.left + stats.connections(),
            })
        })
    }

    fn post(&self, to: ConnId, command: Command) -> Result<(), RemoteError> {
        let mailboxes = self.directory.peers.mailboxes().ok_or(RemoteError::Stopped)?;
        let mailbox = mailboxes.get(to.shard()).ok_or(RemoteError::UnknownShard)?;
        mailbox.post(command).map_err(|error| match error {
            PostError::Full => RemoteError::Full,
            PostError::Stopped => RemoteError::Stopped,
        })
    }

    /// Posts to every shard that runs.
    pub(crate) fn post_to_all(&self, make: impl Fn() -> Command) {
        for mailbox in self.directory.peers.mailboxes().into_iter().flatten() {
            // A shard that has stopped already needs no telling.
            let _ = mailbox.post_unbounded(make());
        }
    }
}

/// Answers one request, whatever becomes of its owner. See [`Remote::responder`].
///
/// ```no_run
/// # use ringwire::{Remote, Request, Reply, http::Response};
/// # fn lookup() -> String { String::new() }
/// # fn http(remote: &Remote, request: &Request<'_>) -> Reply<()> {
/// let responder = remote.responder(request.ticket());
/// std::thread::spawn(move || responder.respond(Response::text(200, lookup())));
/// Reply::later((), std::time::Duration::from_secs(5))
/// # }
/// ```
#[derive(Debug)]
pub struct Responder {
    remote: Remote,
    ticket: Option<Ticket>,
}

impl Responder {
    /// As [`Remote::respond`].
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub fn respond(mut self, response: Response) -> Result<(), RemoteError> {
        self.ticket.take().map_or(Ok(()), |ticket| self.remote.respond(ticket, response))
    }

    /// As [`Remote::accept`].
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub fn accept(mut self) -> Result<(), RemoteError> {
        self.ticket.take().map_or(Ok(()), |ticket| self.remote.accept(ticket))
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            // Where the mailbox is full, `expired` answers.
            let _ = self.remote.respond(ticket, Response::text(500, "The request was not finished.\n"));
        }
    }
}
