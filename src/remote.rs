//! Reaching connections from any thread: the public side of the cores' mailboxes.

use crate::engine::Command;
use crate::engine::broadcast::Broadcast;
use crate::engine::deferred::Answer;
use crate::engine::mailbox::{Mailbox, PostError};
use crate::engine::prometheus::write_prometheus;
use crate::engine::stats::Stats;
use crate::handler::{ConnId, Ticket};
use crate::http::Response;
use crate::ws::{CloseCode, Kind, Prepared};
use bytes::Bytes;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// What all shards of a server share: their mailboxes and counters.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Filled when every shard has started.
    pub(crate) mailboxes: OnceLock<Vec<Mailbox<Command>>>,
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
        let mailboxes = self.directory.mailboxes.get().ok_or(RemoteError::Stopped)?;
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
        self.directory.mailboxes.get().into_iter().flatten().for_each(Mailbox::wake);
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
        let mailboxes = self.directory.mailboxes.get().ok_or(RemoteError::Stopped)?;
        let mailbox = mailboxes.get(to.shard()).ok_or(RemoteError::UnknownShard)?;
        mailbox.post(command).map_err(|error| match error {
            PostError::Full => RemoteError::Full,
            PostError::Stopped => RemoteError::Stopped,
        })
    }

    /// Posts to every shard that runs.
    pub(crate) fn post_to_all(&self, make: impl Fn() -> Command) {
        for mailbox in self.directory.mailboxes.get().into_iter().flatten() {
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
