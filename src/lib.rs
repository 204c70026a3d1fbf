//! ringwire: a WebSocket server engine for services that care about the tail of their latency.
//!
//! One pinned thread per core, one io_uring ring per thread (or epoll, behind the same seam), frames
//! decoded where the kernel put them, and one cache line per idle connection. A service implements
//! [`Handler`]; [`Server`] runs it.
//!
//! ```no_run
//! use ringwire::{Conn, Handler, ListenAddr, Message, Request, Server, Upgrade};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type State = ();
//!
//!     fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<()> {
//!         Upgrade::accept(())
//!     }
//!
//!     fn message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
//!         conn.send(message);
//!     }
//! }
//!
//! let addr: ListenAddr = "127.0.0.1:9001".parse()?;
//! Server::builder().listen(addr).bind()?.run(|_shard| Echo)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The house
//!
//! | room | what lives there | may import |
//! |---|---|---|
//! | [`simd`] | pure kernels: unmasking, UTF-8 | core |
//! | [`ws`] | the protocol, sans-IO, both roles | `simd`, `config`, `http` |
//! | [`http`] | request heads and plain responses | `config` |
//! | `tls` | TLS, bytes in, bytes out | `error` |
//! | `driver` | the only room with descriptors: uring, epoll, [`sim`] | `config` |
//! | `engine` | one core: turn, slots, timers, outbox, mailbox, stats | all above |
//! | `handler` | what a user implements and is handed | engine and ws types |
//! | `server`, `remote` | probe, bind, pin, spawn, drain; reaching cores from outside | engine, `driver::probe` |
//! | `simulation` | shards on the simulated driver, for tests of handlers | the server's parts |
//!
//! `config` and `error` are leaves. A test keeps the direction, and keeps `unsafe` in a few named
//! files.
//!
//! # The way of the data
//!
//! The driver reports `Received` with a lease on its buffer; the slot is found by token; the session
//! decodes in place; the handler is called with the payload where it lies; what it sends is
//! appended to the connection's outbox; at the end of the turn each connection's outbox goes to
//! the driver as one send, and all of them to the kernel in one system call (on epoll, which knows no such
//! call, mere answers leave as they come, or 32 together). A handler that sends the
//! very message it was handed spares that: the buffer in which it lies becomes its answer.
//!
//! A message to all ([`Remote::broadcast`]) comes by the mailboxes; each core then goes through its
//! slots, some hundreds a turn, and their outboxes share one frame.
//!
//! # Plain HTTP
//!
//! What is no upgrade goes to [`Handler::http`]. Its answer is a [`Response`](http::Response), or one that
//! goes on, or it comes later; [`Router`] finds who serves a path.
//!
//! ```
//! use ringwire::http::Response;
//! use ringwire::{Conn, Handler, Message, Remote, Reply, Request, Router, Upgrade};
//! use std::time::Duration;
//!
//! struct News {
//!     routes: Router<fn(&Self, &Request<'_>) -> Reply<()>>,
//!     remote: Remote,
//! }
//!
//! impl News {
//!     /// Server-sent events: `open` follows, and what is sent to the connection is an event.
//!     fn events(&self, _request: &Request<'_>) -> Reply<()> {
//!         Reply::stream(Response::events(), ())
//!     }
//!
//!     /// An answer that another thread gives; it is 500 if that panics, and `expired` after 5 s.
//!     fn report(&self, request: &Request<'_>) -> Reply<()> {
//!         let responder = self.remote.responder(request.ticket());
//!         std::thread::spawn(move || responder.respond(Response::text(200, "it took long")));
//!         Reply::later((), Duration::from_secs(5))
//!     }
//! }
//!
//! impl Handler for News {
//!     type State = ();
//!
//!     fn http(&mut self, request: &Request<'_>) -> Reply<()> {
//!         match self.routes.find(request.method(), request.path()) {
//!             Ok(found) => found.value()(self, request),
//!             Err(error) => Response::from(error).into(),
//!         }
//!     }
//! #   fn upgrade(&mut self, _: &Request<'_>) -> Upgrade<()> { Upgrade::accept(()) }
//! #   fn message(&mut self, _: &mut Conn<'_, ()>, _: Message<'_>) {}
//! }
//! ```
//!
//! - **A response that goes on** ([`Reply::stream`]) is a connection as a WebSocket is: `open`, `drain` and
//!   `close`, [`Conn`] and [`Remote`], limits and deadlines. It costs its 64 bytes while nothing is sent.
//! - **A request that waits** ([`Reply::later`]) costs the same. It ends in exactly one of an answer,
//!   [`expired`](Handler::expired) and [`abandoned`](Handler::abandoned); pipelined requests wait behind it.
//! - **A handshake** may wait as well ([`Upgrade::later`]), for a database to say who may enter.
//!
//! # Topics
//!
//! A connection subscribes to topics; whoever publishes need not know who listens, nor on which shard.
//!
//! ```
//! use ringwire::{Conn, Handler, Message, Prepared, Publication, Request, Upgrade};
//!
//! /// A room per path: what one says, the others in it hear.
//! struct Rooms;
//!
//! impl Handler for Rooms {
//!     type State = String;
//!
//!     fn upgrade(&mut self, request: &Request<'_>) -> Upgrade<String> {
//!         Upgrade::accept(format!("room{}", request.path()))
//!     }
//!
//!     fn open(&mut self, conn: &mut Conn<'_, String>) {
//!         let room = conn.state().clone();
//!         if let Err(error) = conn.subscribe(&room) {
//!             conn.send_text(&error.to_string());
//!         }
//!     }
//!
//!     fn message(&mut self, conn: &mut Conn<'_, String>, message: Message<'_>) {
//!         let Message::Text(text) = message else { return };
//!         let (room, said) = (conn.state().clone(), Prepared::text(text));
//!         if let Err(error) = conn.publish_with(Publication::new(&room, &said).except(conn.id())) {
//!             conn.send_text(&error.to_string());
//!         }
//!     }
//! }
//! ```
//!
//! - **Names.** A topic is any text without `#`. `room/#` is all topics below `room/`, at any depth:
//!   `room/1` and `room/1/typing`, but neither `room` nor `room/`. `#` is all topics.
//! - **Order, and at most once.** What one publisher (a shard's handler, or a thread with its [`Remote`])
//!   publishes to one topic comes to each subscriber in that order, and no message twice, however many
//!   of its filters match and while they change. Between topics, and between what handlers publish
//!   with [`Conn`] and what is sent through a [`Remote`], there is no order.
//! - **From when to when.** A subscription gets what is published on its shard after it, and from other
//!   shards what arrives after it. Nothing comes after its end or the connection's.
//! - **Loss is told.** A message is lost to a subscriber only where its outbox is full
//!   ([`Limits::max_outbox_bytes`]), by its [`Overflow`] policy. Each loss is counted, and
//!   [`Handler::dropped`] is told once a turn. With [`Overflow::Conflate`] order is that of each key.
//! - **Pace.** A topic of a hundred thousand does not stall its shard: lists of subscribers take turns, and a
//!   turn offers so much ([`Limits::max_broadcast_sends_per_turn`]). Publications wait meanwhile, up to
//!   [`Limits::max_broadcast_bytes`]; then publishing fails with [`TopicError::Full`], and nobody gets it.
//! - **Cost.** A connection without subscriptions pays nothing. A first one costs 20 bytes; a
//!   second 68, as a record for them all comes with it, as with a policy of its own; further ones some 16
//!   (4,096 connections with the same topics); a topic some 250; a shard with subscriptions has 66 KiB more. A message is encoded, and
//!   compressed, once per shard; subscribers share its bytes. A turn's publications go to
//!   each other shard as one command with at most one wake-up, and not at all where nobody is subscribed.
//!
//! # Users
//!
//! [`Conn::bind_user`] names a connection's user. [`Remote::send_to_user`] and [`Conn::send_to_user`]
//! reach all connections of a user, on all shards, and nobody who was bound there before or after.
//! One directory for all shards is the truth of who is online: [`Handler::presence`] tells of a user's
//! first and last connection exactly once, on one shard, with a number that orders the changes.

pub mod config;
#[doc(hidden)]
pub mod driver;
#[doc(hidden)]
pub mod engine;
pub mod error;
mod handler;
pub mod http;
mod remote;
mod server;
pub mod simd;
mod simulation;
#[cfg(feature = "tls")]
mod tls;
pub mod ws;

pub use config::{
    Admission, BusyPoll, Compression, Deadlines, DeflateConfig, DriverChoice, Goodbye, Limits, ListenAddr,
    OriginPolicy, OverRate, ParseListenAddrError, ProxyProtocol, Rates, Subnet,
};
pub use driver::PeerAddr;
#[doc(inline)]
pub use driver::probe as doctor;
pub use error::{ServerError, TlsError};
pub use handler::{
    ClientRequest, CloseReason, Conn, ConnId, ConnectError, Deadline, Dropped, Fragment, Handler, Overflow,
    Presence, Publication, Reply, Request, SendResult, Shard, Subscribe, Ticket, TopicError, Transport,
    Upgrade, UserError,
};
pub use http::Router;
pub use remote::{DrainProgress, Remote, RemoteError, Responder};
pub use server::{MAX_SHARDS, Server, ServerBuilder, ServerHandle, ShardInfo, available_cores};
#[cfg(feature = "tls")]
pub use tls::{
    Alert, ClientAuth, KernelTls, Pem, TlsClient, TlsConfig, TlsConfigBuilder, TlsFailure, TlsInfo,
    TlsVersion,
};
pub use ws::{CloseCode, Message, Prepared};

/// A service in a simulated world: seeded, deterministic, without a kernel.
///
/// [`Simulation`](sim::Simulation) is what a test of a handler needs; the rest is the network it
/// runs in.
pub mod sim {
    pub use crate::driver::sim::{
        Fault, Faults, Sim, SimListener, SimNet, SimPeer, SimRng, SimSocket, TraceOnPanic,
    };
    pub use crate::simulation::{Simulation, SimulationBuilder};
}

/// The README's example compiles.
#[cfg(all(doctest, feature = "tls"))]
#[doc = include_str!("../README.md")]
struct Readme;
