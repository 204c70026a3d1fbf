//! What a handler says to a plain HTTP request: an answer, an answer that goes on, or one later.

use super::{ConnId, Overflow, Token};
use crate::http::{Headers, Response};
use std::time::Duration;

/// Names a request that is answered later: by [`Remote::respond`](crate::Remote::respond) or
/// [`Remote::accept`](crate::Remote::accept), from any thread.
///
/// A request is answered once. A ticket whose request was answered, has expired or whose peer has gone
/// is stale and answers nobody else's: not the next request on the same connection either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket {
    pub(crate) conn: ConnId,
    /// Of the requests of one shard.
    pub(crate) number: u32,
}

impl Ticket {
    pub(crate) fn new(shard: u8, token: Token, number: u32) -> Self {
        Self { conn: ConnId::new(shard, token), number }
    }

    /// The connection that the request came on.
    pub fn conn(self) -> ConnId {
        self.conn
    }
}

/// The answer to a plain HTTP request. A [`Response`] is one.
///
/// ```
/// # use ringwire::{Conn, Handler, Message, Reply, Request, Ticket, Upgrade};
/// # use ringwire::http::Response;
/// # use std::time::Duration;
/// # struct News { waiting: Vec<Ticket> }
/// # impl Handler for News {
/// # type State = ();
/// # fn upgrade(&mut self, _: &Request<'_>) -> Upgrade<()> { Upgrade::accept(()) }
/// # fn message(&mut self, _: &mut Conn<'_, ()>, _: Message<'_>) {}
/// fn http(&mut self, request: &Request<'_>) -> Reply<()> {
///     match request.path() {
///         "/news" => Reply::stream(Response::events(), ()), // `open` follows
///         "/next" => {
///             self.waiting.push(request.ticket()); // for `Remote::respond`
///             Reply::later((), Duration::from_secs(25)) // then `expired`
///         }
///         _ => Response::text(404, "not found\n").into(),
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Reply<S>(pub(crate) Kind<S>);

#[derive(Debug)]
pub(crate) enum Kind<S> {
    Now(Response),
    Stream { response: Response, state: S },
    Later { state: S, within: Duration },
}

impl<S> From<Response> for Reply<S> {
    fn from(response: Response) -> Self {
        Self(Kind::Now(response))
    }
}

impl<S> Reply<S> {
    /// The head of this response and, if it has any, its body as the first piece; more follows. It is
    /// a connection now, with [`open`](crate::Handler::open), [`drain`](crate::Handler::drain) and
    /// [`close`](crate::Handler::close) as a WebSocket has them, limits and deadlines included, but
    /// nothing comes from its peer.
    ///
    /// - Of [`Response::events`] each message sent is an event, text only, and silence of
    ///   [`event_idle_ms`](crate::Deadlines::event_idle_ms) is broken by a comment. Of any other response each
    ///   message is so many bytes of the body.
    /// - [`Conn::close`](crate::Conn::close) ends the body; the code is not told. The connection ends
    ///   with it, and what a peer sends meanwhile is discarded.
    /// - HTTP/1.1 clients get chunks (RFC 9112 §7.1), so that they can tell the end from a loss;
    ///   HTTP/1.0 clients read until the connection ends.
    /// - A request by `HEAD` gets the head, and a response that has no body (204, 304) is sent as it is:
    ///   `open` is not called then.
    pub fn stream(response: Response, state: S) -> Self {
        Self(Kind::Stream { response, state })
    }

    /// The answer comes later, by [`Request::ticket`](crate::Request::ticket), but at the latest
    /// `within` this time, to the nearest tick of 8 ms and at most a week:
    /// [`Handler::expired`](crate::Handler::expired) is asked for it then. Further requests on this connection wait for
    /// it. If the peer goes first, [`Handler::abandoned`](crate::Handler::abandoned) is told.
    pub fn later(state: S, within: Duration) -> Self {
        Self(Kind::Later { state, within })
    }
}

/// What an accepted handshake is answered with, but for what the engine adds.
#[derive(Debug)]
pub(crate) struct Accept<S> {
    pub(crate) state: S,
    pub(crate) subprotocol: Option<String>,
    pub(crate) headers: Headers,
    pub(crate) stream: bool,
    pub(crate) compress: bool,
    pub(crate) overflow: Overflow,
    /// The decision comes within this time.
    pub(crate) later: Option<Duration>,
}

impl<S> Accept<S> {
    pub(crate) fn new(state: S) -> Self {
        Self {
            state,
            subprotocol: None,
            headers: Headers::default(),
            stream: false,
            compress: true,
            overflow: Overflow::DropNewest,
            later: None,
        }
    }
}

/// How messages reach the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// As frames, both ways.
    WebSocket,
    /// As server-sent events: [`Reply::stream`] of [`Response::events`].
    Events,
    /// As bytes of a response's body: [`Reply::stream`] of any other response.
    Body,
}
