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
//! | `driver` | the only room with descriptors: uring, epoll, [`sim`] | `config` |
//! | `engine` | one core: turn, slots, timers, outbox, mailbox, stats | all above |
//! | `handler` | what a user implements and is handed | engine and ws types |
//! | `server`, `remote` | probe, bind, pin, spawn, drain; reaching cores from outside | engine, `driver::probe` |
//! | `simulation` | a shard on the simulated driver, for tests of handlers | the server's parts |
//!
//! `config` and `error` are leaves. A test keeps the direction, and keeps `unsafe` in a few named
//! files.
//!
//! # The way of the data
//!
//! The driver reports `Received` with a lease on its buffer; the slot is found by token; the session
//! decodes in place; the handler is called with the payload where it lies; what it sends is
//! appended to the connection's outbox; at the end of the turn each connection's outbox goes to
//! the driver as one send, and all of them to the kernel in one system call. A handler that sends the
//! very message it was handed spares that: the buffer in which it lies becomes its answer.
//!
//! A message to all ([`Remote::broadcast`]) comes by the mailboxes; each core then goes through its
//! slots, some hundreds a turn, and their outboxes share one frame.

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
pub mod ws;

pub use config::{
    Admission, BusyPoll, Compression, Deadlines, DeflateConfig, DriverChoice, Goodbye, Limits, ListenAddr,
    OriginPolicy, OverRate, ParseListenAddrError, ProxyProtocol, Rates, Subnet,
};
pub use driver::PeerAddr;
#[doc(inline)]
pub use driver::probe as doctor;
pub use error::ServerError;
pub use handler::{
    ClientRequest, CloseReason, Conn, ConnId, ConnectError, Deadline, Fragment, Handler, Reply, Request,
    SendResult, Shard, Ticket, Transport, Upgrade,
};
pub use http::Router;
pub use remote::{DrainProgress, Remote, RemoteError, Responder};
pub use server::{MAX_SHARDS, Server, ServerBuilder, ServerHandle, ShardInfo, available_cores};
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
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
