//! What a user implements ([`Handler`]) and what it is handed.
//!
//! Each shard has a handler of its own, built on its thread, so a handler needs no locks. Calls for
//! one connection come in order: `upgrade`, `open`, then `message`, `fragment` and `drain`, and at
//! last exactly one `close`.

mod push;
mod reply;

use crate::driver::{PeerAddr, Token};
use crate::engine::common::Common;
use crate::engine::outbound::Connect;
use crate::engine::slot::{Flags, Slot};
use crate::engine::table::Table;
use crate::http::{Event, Head, InvalidHeader, Response};
#[cfg(feature = "tls")]
use crate::tls::{TlsClient, TlsInfo};
use crate::ws::{self, CloseCode, Kind, Message, Prepared, Violation, handshake::Offer};
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use crate::engine::common::SendResult;
pub use crate::engine::outbound::ConnectError;
pub use push::{Dropped, Overflow, Presence, Publication, Subscribe, TopicError, UserError};
pub(crate) use reply::{Accept, Kind as ReplyKind};
pub use reply::{Reply, Ticket, Transport};

/// Names a connection for as long as it lives, on any thread. A stale id reaches nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(u64);

impl ConnId {
    pub(crate) fn new(shard: u8, token: Token) -> Self {
        Self(u64::from(shard) << 56 | u64::from(token.slot) << 32 | u64::from(token.generation))
    }

    /// The shard that serves it.
    pub fn shard(self) -> usize {
        (self.0 >> 56) as usize
    }

    pub(crate) fn token(self) -> Token {
        Token { slot: (self.0 >> 32) as u32 & 0x00ff_ffff, generation: self.0 as u32 }
    }
}

const _: () = assert!(size_of::<ConnId>() == 8);

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token();
        write!(f, "{}/{}.{}", self.shard(), token.slot, token.generation)
    }
}

/// A service: what happens when peers connect, speak and leave.
///
/// ```
/// use ringwire::{Conn, Handler, Message, Request, Upgrade};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     type State = ();
///
///     fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<()> {
///         Upgrade::accept(())
///     }
///
///     fn message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
///         conn.send(message);
///     }
/// }
/// ```
pub trait Handler: Sized + 'static {
    /// What the handler keeps for each open connection.
    type State: 'static;

    /// Decides about a valid WebSocket handshake whose origin has been checked.
    fn upgrade(&mut self, request: &Request<'_>) -> Upgrade<Self::State>;

    /// The connection is open; messages may be sent.
    fn open(&mut self, _conn: &mut Conn<'_, Self::State>) {}

    /// A whole message came.
    fn message(&mut self, conn: &mut Conn<'_, Self::State>, message: Message<'_>);

    /// Part of a message came, on a connection accepted with [`Upgrade::stream_fragments`].
    /// Messages that came whole are one fragment, both first and last.
    fn fragment(&mut self, _conn: &mut Conn<'_, Self::State>, _fragment: Fragment<'_>) {}

    /// The peer has taken all that was queued, after a send returned [`SendResult::Queued`] or
    /// [`SendResult::Dropped`]; a send through a [`Remote`](crate::Remote) counts as well.
    fn drain(&mut self, _conn: &mut Conn<'_, Self::State>) {}

    /// Messages of this connection were lost, in this turn and as often as is told: publications that
    /// did not fit, and what its [`Overflow`] policy took back. Comes once a turn.
    fn dropped(&mut self, _conn: &mut Conn<'_, Self::State>, _dropped: Dropped) {}

    /// A user came online or went offline ([`Conn::bind_user`]): told once for all shards, on that whose
    /// connection was the first or the last.
    fn presence(&mut self, _shard: &mut Shard<'_, Self::State>, _change: &Presence) {}

    /// A message to all ([`Remote::broadcast`](crate::Remote::broadcast)) has come to this
    /// connection: sends it, unless this is overridden. Here is decided who gets it, by state, tag
    /// or `conn.backpressure_bytes()`, and what becomes of who does not keep up: a message that is
    /// [`Dropped`](SendResult::Dropped) is lost to that connection.
    ///
    /// ```
    /// # use ringwire::{CloseCode, Conn, Handler, Message, Prepared, Request, SendResult, Upgrade};
    /// # struct Rooms;
    /// # impl Handler for Rooms {
    /// # type State = u64;
    /// # fn upgrade(&mut self, _: &Request<'_>) -> Upgrade<u64> { Upgrade::accept(0) }
    /// # fn message(&mut self, _: &mut Conn<'_, u64>, _: Message<'_>) {}
    /// fn broadcast(&mut self, conn: &mut Conn<'_, u64>, message: &Prepared, room: u64) {
    ///     if *conn.state() == room && conn.send_prepared(message) == SendResult::Dropped {
    ///         conn.close(CloseCode::TRY_AGAIN_LATER, "too much is waiting to be read");
    ///     }
    /// }
    /// # }
    /// ```
    fn broadcast(&mut self, conn: &mut Conn<'_, Self::State>, message: &Prepared, _tag: u64) {
        conn.send_prepared(message);
    }

    /// The connection is over. Comes once for each `open`.
    fn close(&mut self, _id: ConnId, _state: Self::State, _reason: CloseReason<'_>) {}

    /// Answers a request that is not an upgrade: with a [`Response`], with one that goes on, or later.
    /// The default knows no path: 404.
    fn http(&mut self, _request: &Request<'_>) -> Reply<Self::State> {
        Response::text(404, "not found\n").into()
    }

    /// Nothing has answered a request within the time that [`Reply::later`] or [`Upgrade::later`] named:
    /// this does, and its ticket is stale from then on. The default is 503.
    fn expired(&mut self, _ticket: Ticket, _state: &mut Self::State) -> Response {
        Response::text(503, "The answer is not ready. Try again.\n").header("Retry-After", "1")
    }

    /// Nobody waits for the answer to a request any more: its peer has gone, or the server is going
    /// away and has said so with 503. Its ticket is stale.
    fn abandoned(&mut self, _ticket: Ticket, _state: Self::State) {}

    /// An outbound connection ([`Shard::connect`]) did not come about.
    fn connect_failed(&mut self, _state: Self::State, _error: ConnectError) {}

    /// Runs at the end of every turn of the event loop. A returned duration is the longest time
    /// until the next turn; `None` leaves it to the traffic.
    fn turn(&mut self, _shard: &mut Shard<'_, Self::State>) -> Option<Duration> {
        None
    }
}

/// An HTTP request, borrowed from the receive buffer.
#[derive(Debug)]
pub struct Request<'a> {
    pub(crate) head: &'a Head<'a>,
    pub(crate) body: &'a [u8],
    pub(crate) peer: PeerAddr,
    pub(crate) offer: Option<&'a Offer<'a>>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<&'a TlsInfo>,
    pub(crate) ticket: Ticket,
}

impl<'a> Request<'a> {
    /// `GET`, `POST`, …
    pub fn method(&self) -> &'a str {
        self.head.method()
    }

    /// The path, without the query, as sent (not percent-decoded).
    pub fn path(&self) -> &'a str {
        self.head.path()
    }

    /// What stands behind `?`, as sent.
    pub fn query(&self) -> Option<&'a str> {
        self.head.query()
    }

    /// The first header field of that name, compared without case. `None` also if it is not ASCII
    /// or UTF-8 text.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.head.header(name)
    }

    /// All header fields in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + '_ {
        self.head.headers()
    }

    /// The value of a cookie (RFC 6265 §4.2), as sent.
    pub fn cookie(&self, name: &str) -> Option<&'a str> {
        self.head.cookie(name)
    }

    /// The subprotocols a WebSocket client offers, in its order of preference.
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.offer.into_iter().flat_map(|offer| offer.protocols())
    }

    /// The body of a plain request.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// What the TLS handshake found out, and who the client has proved to be; `None` on a plain port.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&'a TlsInfo> {
        self.tls
    }

    /// Who asks.
    pub fn peer_addr(&self) -> PeerAddr {
        self.peer
    }

    /// Whether no page of another site made a browser send this: the `Origin` field, where there is one,
    /// names the host and port that were asked. The engine checks handshakes itself; a plain request
    /// that changes something is to be refused with 403 if this is false.
    pub fn is_same_origin(&self) -> bool {
        ws::is_same_origin(self.head)
    }

    /// Its name, for an answer that comes later ([`Reply::later`], [`Upgrade::later`]).
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }
}

/// The answer to a WebSocket handshake.
#[derive(Debug)]
pub struct Upgrade<S>(pub(crate) Decision<S>);

#[derive(Debug)]
pub(crate) enum Decision<S> {
    Accept(Accept<S>),
    Reject(Response),
}

impl<S> Upgrade<S> {
    /// Opens the connection with this state.
    pub fn accept(state: S) -> Self {
        Self(Decision::Accept(Accept::new(state)))
    }

    /// Decides later, at the latest `within` this time, as [`Reply::later`] answers later:
    /// [`Remote::accept`](crate::Remote::accept) opens the connection with this state and with what else is
    /// said here, and [`Remote::respond`](crate::Remote::respond) refuses it, both from any thread and by
    /// [`Request::ticket`]. Frames that a client sends meanwhile wait.
    pub fn later(state: S, within: Duration) -> Self {
        Self(Decision::Accept(Accept { later: Some(within), ..Accept::new(state) }))
    }

    /// Refuses with a response of any status but 101.
    pub fn reject(response: Response) -> Self {
        Self(Decision::Reject(response))
    }

    /// Names the subprotocol, one of [`Request::subprotocols`]. One that was not offered fails the
    /// handshake with 500: the client would have to (RFC 6455 §4.1).
    pub fn subprotocol(self, name: &str) -> Self {
        self.change(|accept| accept.subprotocol = Some(name.to_owned()))
    }

    /// Adds a header field to the 101 response, for instance `Set-Cookie`.
    ///
    /// # Errors
    /// If the field cannot stand in a response, or is one that the handshake itself writes.
    pub fn try_header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Result<Self, InvalidHeader> {
        if let Decision::Accept(accept) = &mut self.0 {
            accept.headers.push(name, value)?;
        }
        Ok(self)
    }

    /// Messages come as fragments to [`Handler::fragment`], as they arrive and whatever their size.
    pub fn stream_fragments(self) -> Self {
        self.change(|accept| accept.stream = true)
    }

    /// Declines the client's offer to compress messages, where [`Compression`](crate::Compression)
    /// would accept it: for messages that hold secrets beside text of others (RFC 7692 §9), or that
    /// are compressed already.
    pub fn without_compression(self) -> Self {
        self.change(|accept| accept.compress = false)
    }

    /// What becomes of messages that do not fit the outbox; see [`Conn::set_overflow`].
    pub fn overflow(self, overflow: Overflow) -> Self {
        self.change(|accept| accept.overflow = overflow)
    }

    fn change(mut self, change: impl FnOnce(&mut Accept<S>)) -> Self {
        if let Decision::Accept(accept) = &mut self.0 {
            change(accept);
        }
        self
    }
}

/// Part of a message. Text may end inside a character, but is valid as far as it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Text or binary.
    pub kind: Kind,
    /// The bytes that came; empty only if `last`.
    pub payload: &'a [u8],
    /// Nothing of this message came before.
    pub first: bool,
    /// The message is complete.
    pub last: bool,
}

/// Which deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// `pong_ms`: no sign of life after a ping.
    Pong,
    /// `close_ms`: no answer to our Close frame.
    Close,
    /// `write_ms`: the peer's host takes no bytes.
    Write,
    /// `assembly_ms`: a message that does not end.
    Assembly,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason<'a> {
    /// The peer sent a Close frame first.
    Peer {
        /// `None` if it gave none (1005).
        code: Option<CloseCode>,
        /// Empty if it gave none.
        reason: &'a str,
    },
    /// We sent a Close frame first, and the peer answered it.
    Local,
    /// The peer broke the protocol.
    Violation(Violation),
    /// A deadline passed.
    Timeout(Deadline),
    /// The transport ended without a Close frame (1006).
    Disconnected,
    /// The peer sent faster than [`Rates`](crate::Rates) allows.
    RateLimit,
    /// It held more than [`Limits::max_connection_bytes`](crate::Limits), or most while its shard held
    /// more than [`Limits::max_shard_bytes`](crate::Limits). Bytes that were queued are lost.
    Memory,
    /// The server has stopped and did not wait longer.
    Shutdown,
}

impl CloseReason<'_> {
    /// The close code in RFC 6455's terms, 1005 and 1006 included.
    pub fn code(&self) -> CloseCode {
        match self {
            Self::Peer { code, .. } => code.unwrap_or(CloseCode(1005)),
            Self::Local => CloseCode::NORMAL,
            Self::Violation(violation) => violation.close_code(),
            Self::RateLimit | Self::Timeout(Deadline::Assembly) => CloseCode::POLICY_VIOLATION,
            Self::Timeout(_) | Self::Disconnected => CloseCode(1006),
            Self::Memory => CloseCode::TRY_AGAIN_LATER,
            Self::Shutdown => CloseCode::GOING_AWAY,
        }
    }
}

/// One open connection, lent to the handler for the time of a call.
#[derive(Debug)]
pub struct Conn<'a, S> {
    pub(crate) token: Token,
    pub(crate) slot: &'a mut Slot,
    pub(crate) state: &'a mut S,
    pub(crate) common: &'a mut Common,
}

impl<S> Conn<'_, S> {
    /// Its name, to be kept for [`Remote`](crate::Remote) or [`Shard::conn`].
    pub fn id(&self) -> ConnId {
        ConnId::new(self.common.shard, self.token)
    }

    /// Who is at the other end.
    pub fn peer_addr(&self) -> PeerAddr {
        self.common.peers.get(self.slot)
    }

    /// The handler's state of this connection.
    pub fn state(&self) -> &S {
        self.state
    }

    /// The handler's state of this connection.
    pub fn state_mut(&mut self) -> &mut S {
        self.state
    }

    /// Sends a message. It leaves at the end of the turn at the latest, together with the others of this
    /// connection. On epoll the answer to a connection that nobody else is told of may leave before, when all that came
    /// at once from it has been taken.
    #[inline]
    pub fn send(&mut self, message: Message<'_>) -> SendResult {
        match message {
            Message::Text(text) => self.send_text(text),
            Message::Binary(bytes) => self.send_binary(bytes),
        }
    }

    /// Sends a text message.
    #[inline]
    pub fn send_text(&mut self, text: &str) -> SendResult {
        self.common.send(self.slot, self.token, Kind::Text, text.as_bytes())
    }

    /// Sends a binary message.
    #[inline]
    pub fn send_binary(&mut self, bytes: &[u8]) -> SendResult {
        self.common.send(self.slot, self.token, Kind::Binary, bytes)
    }

    /// Sends a binary message that consists of `first` and `rest`, as a number and what it stands for: they need
    /// not be joined before. `FIRST` is at most 16 bytes.
    ///
    /// ```
    /// # use ringwire::{Conn, SendResult};
    /// fn numbered(conn: &mut Conn<'_, u64>, payload: &[u8]) -> SendResult {
    ///     *conn.state_mut() += 1;
    ///     let number = conn.state().to_be_bytes();
    ///     conn.send_binary_joined(&number, payload)
    /// }
    /// ```
    #[inline]
    pub fn send_binary_joined<const FIRST: usize>(&mut self, first: &[u8; FIRST], rest: &[u8]) -> SendResult {
        self.common.send_joined(self.slot, self.token, first, rest)
    }

    /// Sends a message uncompressed, whatever was agreed upon: for bytes that are compressed already,
    /// or secret.
    pub fn send_uncompressed(&mut self, message: Message<'_>) -> SendResult {
        let (kind, bytes) = message.parts();
        self.common.send_plain(self.slot, self.token, kind, bytes)
    }

    /// Sends a message in frames of at most `frame_bytes`, for peers or proxies that take no larger
    /// ones (RFC 6455 §5.4). Text may be cut inside a character.
    ///
    /// # Panics
    /// If `frame_bytes` is 0.
    pub fn send_in_frames(&mut self, message: Message<'_>, frame_bytes: usize) -> SendResult {
        assert!(frame_bytes > 0, "frames of no bytes carry no message");
        let (kind, bytes) = message.parts();
        self.common.send_in_frames(self.slot, self.token, kind, bytes, frame_bytes)
    }

    /// Sends a message that goes to others as well; see [`Prepared`]. Where nothing waits to be sent
    /// before it, its frame is not copied: all connections send the same bytes.
    pub fn send_prepared(&mut self, prepared: &Prepared) -> SendResult {
        self.common.send_prepared(self.slot, self.token, prepared)
    }

    /// Sends an event to who hears a stream of them ([`Response::events`]). Over a WebSocket, and in
    /// another body, its data is a text message.
    pub fn send_event(&mut self, event: &Event<'_>) -> SendResult {
        self.common.send_event(self.slot, self.token, event)
    }

    /// How messages reach the peer. A text message is an event's data, and a binary one is that in
    /// Base64.
    pub fn transport(&self) -> Transport {
        self.slot.transport()
    }

    /// Sends a ping; of `payload`, the first 125 bytes. Pongs count as a sign of life and are not
    /// reported. To a stream of events it is a comment, and to another body nothing:
    /// [`SendResult::Closed`].
    pub fn ping(&mut self, payload: &[u8]) -> SendResult {
        self.common.ping(self.slot, self.token, payload)
    }

    /// Begins the closing handshake. Nothing can be sent after, and no message comes any more;
    /// `close` is called when the peer has answered or `close_ms` has passed. A code that may not be
    /// sent (RFC 6455 §7.4) is left out; the reason is cut to 123 bytes.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        self.common.close(self.slot, self.token, Some(code), reason);
    }

    /// Bytes sent that the peer's host has not taken yet.
    pub fn backpressure_bytes(&self) -> usize {
        self.common.queued(self.slot)
    }

    /// Whether this end and the peer agreed to compress messages (RFC 7692).
    pub fn compresses(&self) -> bool {
        self.slot.session.deflate().is_some()
    }

    /// Whether messages come as fragments.
    pub fn streams_fragments(&self) -> bool {
        self.slot.flags.has(Flags::STREAM)
    }
}

/// A handler's own shard, between two turns: its connections, time, and new ones to open.
#[derive(Debug)]
pub struct Shard<'a, S> {
    pub(crate) table: &'a mut Table<S>,
    pub(crate) common: &'a mut Common,
    pub(crate) connects: &'a mut Vec<Connect<S>>,
    pub(crate) now: Duration,
}

impl<S> Shard<'_, S> {
    /// Time since the shard started, as of this turn; simulated in a simulation.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Opens a WebSocket connection to a server: [`Handler::open`] follows with this state, or
    /// [`Handler::connect_failed`].
    pub fn connect(&mut self, to: SocketAddr, request: ClientRequest, state: S) {
        self.connects.push(Connect { to, request, state });
    }

    /// An open connection of this shard.
    pub fn conn(&mut self, id: ConnId) -> Option<Conn<'_, S>> {
        if id.shard() != usize::from(self.common.shard) {
            return None;
        }
        let token = id.token();
        let (slot, state) = self.table.get(token)?;
        let state = state.as_mut().filter(|_| slot.phase.is_open())?;
        Some(Conn { token, slot, state, common: self.common })
    }

    /// Visits every open connection of this shard, in no particular order.
    ///
    /// It is one long step, however many there are. A message to all goes by
    /// [`Remote::broadcast`](crate::Remote::broadcast), which lets others have their turn.
    pub fn each_conn(&mut self, mut visit: impl FnMut(&mut Conn<'_, S>)) {
        for index in 0..self.table.bound() {
            let Some(token) = self.table.token(index) else { continue };
            let Some((slot, state)) = self.table.get(token) else { continue };
            if let (true, Some(state)) = (slot.phase.is_open(), state) {
                visit(&mut Conn { token, slot, state, common: self.common });
            }
        }
    }

    /// Closes every connection of this shard with 1001 and then stops it.
    pub fn stop(&mut self) {
        self.common.stop_asked = true;
    }
}

/// What a client asks for when it opens a WebSocket.
#[derive(Clone, Debug, Default)]
pub struct ClientRequest {
    /// The `Host` header; empty means the address connected to.
    pub host: String,
    /// Path and query; empty means `/`.
    pub path: String,
    /// Subprotocols offered.
    pub subprotocols: Vec<String>,
    /// The `Origin` header, if one is to be sent.
    pub origin: Option<String>,
    /// Further header fields.
    pub headers: Vec<(String, String)>,
    /// Offers no compression, whatever [`Compression`](crate::Compression) says.
    pub no_compression: bool,
    /// The address to connect from, of the destination's family; `None` leaves it to the kernel. Each
    /// has the ports of `net.ipv4.ip_local_port_range` (28,232 by default) for each destination, so
    /// several are the way to more connections than that. One that this host does not have, or of the
    /// other family, is [`ConnectError::Io`].
    pub source: Option<IpAddr>,
    /// Connects within TLS (`wss`); the server's certificate must be for `host`, or for the address if
    /// that is empty.
    #[cfg(feature = "tls")]
    pub tls: Option<TlsClient>,
}
