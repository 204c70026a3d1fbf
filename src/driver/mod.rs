//! The seam: bytes in, bytes out, and the only room with file descriptors.
//!
//! A [`Driver`] is completion-shaped; epoll imitates completions, so nothing above knows which one
//! runs. The engine is generic over it and everything is monomorphised; the choice is made once.
//!
//! # The seven laws
//!
//! 1. Received bytes for a token arrive once, in order.
//! 2. Each send ends in exactly one [`Event::Sent`], or has ended with its call ([`Driver::send_unawaited`]);
//!    short writes are resolved inside the driver.
//! 3. Nothing follows [`Event::Closed`].
//! 4. A slot is reused only after every operation on it has been reaped. Tokens carry a
//!    generation: a stale completion misses.
//! 5. Running out of buffer leases pauses receiving; it never fails, spins or drops. Receiving
//!    resumes when a lease comes back, not on a timer.
//! 6. Memory lent to the kernel outlives its terminal completion.
//! 7. No connection can starve the others: a bounded number of bytes per connection per turn.
//!
//! # One turn
//!
//! [`Driver::turn`] hands over what was asked since the last one, waits, and collects.
//! [`Driver::next_event`] is then called until it returns `None`. Everything asked in between
//! (sends, releases, closes) may be deferred to the next `turn`, so that one system call carries
//! a whole turn.

mod alarm;
pub mod checked;
pub mod epoll;
#[cfg(test)]
mod laws;
pub mod listen;
pub mod probe;
mod records;
pub mod sim;
mod sys;
mod tag;
pub mod uring;

pub use records::{Half, RecordCipher, RecordKeys};

use bytes::Bytes;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Names a connection: the engine's slot and the generation it was handed out with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Index below [`DriverConfig::max_connections`].
    pub slot: u32,
    /// Differs between two uses of one slot.
    pub generation: u32,
}

/// Received bytes on loan: read and changed through [`Driver::bytes`], returned by
/// [`Driver::release`]. Not `Clone`: it goes back exactly once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a lease that is not released starves the driver"]
pub struct Lease {
    pub(in crate::driver) buffer: u32,
    pub(in crate::driver) offset: u32,
    pub(in crate::driver) len: u32,
}

impl Lease {
    /// Bytes received; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a lease is never empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// The same lease without its first `bytes` bytes, which must not be all of it.
    pub fn without_front(self, bytes: usize) -> Self {
        assert!(bytes < self.len(), "nothing is left of the lease");
        let front = bytes as u32;
        Self { buffer: self.buffer, offset: self.offset + front, len: self.len - front }
    }
}

/// Bytes to send, owned by the driver until [`Event::Sent`] returns them.
#[derive(Debug)]
pub enum SendBuf {
    /// A buffer of the engine's pool.
    Owned(Vec<u8>),
    /// A frame shared with other connections.
    Shared(Bytes),
}

impl SendBuf {
    /// No bytes, and no memory.
    pub const EMPTY: Self = Self::Owned(Vec::new());

    /// The bytes on the wire.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerAddr {
    /// A TCP peer.
    Ip(SocketAddr),
    /// A peer of a Unix socket, which has no address worth telling.
    Unix,
}

impl std::fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(addr) => write!(f, "{addr}"),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// What a turn brought. `S` is [`Driver::Socket`].
#[derive(Debug)]
pub enum Event<S> {
    /// A peer connected. The socket is to be given to [`Driver::attach`] or [`Driver::refuse`].
    Accepted {
        /// Not yet receiving.
        socket: S,
        /// The other end.
        peer: PeerAddr,
        /// The place of the listener that it came by, among those that the driver was given.
        listener: u32,
    },
    /// Accepting failed and is paused until [`Driver::resume_accept`].
    AcceptFailed(io::Error),
    /// A [`Driver::connect`] ended.
    Connected {
        /// As given to `connect`.
        tag: u64,
        /// A socket to be given to [`Driver::attach`] or [`Driver::refuse`], or why there is none.
        result: io::Result<S>,
    },
    /// Bytes arrived.
    Received {
        /// From whom.
        token: Token,
        /// Where they are.
        lease: Lease,
    },
    /// The peer sent FIN: no [`Event::Received`] follows, sending is still possible. Comes once.
    Eof(Token),
    /// The connection is broken (reset, host unreachable). Comes at most once; no
    /// [`Event::Received`] and no [`Event::Eof`] follow. The engine answers with
    /// [`Driver::close`]. An error of kind `InvalidData` means that the kernel could not open a TLS
    /// record; then sending is still possible.
    Failed {
        /// Which one.
        token: Token,
        /// As the kernel said.
        error: io::Error,
    },
    /// A TLS record other than data, which the kernel opened (see [`Driver::hand_over`]). It stands among
    /// `Received` where it came.
    Record {
        /// Of whom.
        token: Token,
        /// Its type (RFC 8446 §5.1).
        kind: u8,
        /// What it held, or the first [`MAX_RECORD_CONTENT_BYTES`] of it.
        content: Vec<u8>,
    },
    /// The outcome of a [`Driver::send`].
    Sent {
        /// Which one.
        token: Token,
        /// The buffer comes back; after [`Driver::send_lease`] one that is empty or was copied to.
        buf: SendBuf,
        /// Whether all bytes were taken by this host's kernel.
        result: io::Result<()>,
    },
    /// Answers [`Driver::close`]: the descriptor is closed, nothing is in flight, the slot is free.
    Closed(Token),
    /// Somebody called [`Waker::wake`]. Several calls may be one event.
    Woken,
}

impl<S> Event<S> {
    /// Somebody wants something, and more may follow: not merely the end of what was asked here.
    pub fn is_traffic(&self) -> bool {
        !matches!(self, Self::Sent { .. } | Self::Closed(_) | Self::AcceptFailed(_))
    }
}

/// Of a TLS record that is not data no more is told: alerts have 2 bytes.
pub const MAX_RECORD_CONTENT_BYTES: usize = 512;

/// Counters a driver keeps. They only grow, but for the gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverStats {
    /// Times receiving met an empty buffer pool (`ENOBUFS`).
    pub buffer_starvations: u64,
    /// Receives armed or re-armed.
    pub receives_armed: u64,
    /// Sends that the kernel took in more than one piece.
    pub short_writes: u64,
    /// Completion queue overflows.
    pub completion_overflows: u64,
    /// `io_uring_enter` or `epoll_wait` calls.
    pub waits: u64,
    /// Gauge: receive buffers that hold memory.
    pub receive_buffers: u64,
    /// Gauge: the fewest receive buffers that were ever left, of [`DriverConfig::receive_buffers`].
    pub receive_buffers_low_water: u64,
    /// Entries submitted to io_uring.
    pub submissions: u64,
    /// Gauge: receive buffers now on loan.
    pub leases_out: u64,
    /// Gauge: connections on direct descriptors.
    pub direct_descriptors: u64,
}

/// What a driver is built with.
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// Slots are below this.
    pub max_connections: u32,
    /// At most this many receive buffers.
    pub receive_buffers: u16,
    /// Bytes of each.
    pub receive_buffer_bytes: u32,
    /// Law 7's bound.
    pub max_receive_bytes_per_turn: u32,
    /// Drivers that share this one's core: their queues are smaller.
    pub shards_per_core: u32,
    /// Whether turns without a wait follow each other closely, with [`Driver::has_news`] between them.
    pub busy_poll: bool,
}

/// Carries bytes between sockets and the engine. See the module's laws.
///
/// Calls with a token whose generation is stale, or that has been closed, do nothing, but for
/// `send`, which then yields its `Sent` with an error of kind `NotConnected`.
pub trait Driver {
    /// A connected socket not yet attached to a slot. Dropping it closes it.
    type Socket: std::fmt::Debug;

    /// As metrics and benchmark results name it: `uring`, `epoll`, `sim`.
    const NAME: &'static str;

    /// Whether a send is tried when it is asked for, so that nothing is gained by asking for many together.
    fn sends_at_once(&self) -> bool {
        false
    }

    /// Submits what was asked for and waits for events: for ever (`None`), not at all (zero), or
    /// up to a time (which may be exceeded by the clock's granularity). Returns early on any event, and may for nothing.
    fn turn(&mut self, wait: Option<Duration>) -> io::Result<()>;

    /// Whether a turn without a wait may bring anything: cheaper than that turn, where the driver can
    /// tell. To be asked after a turn's events have been taken.
    fn has_news(&mut self) -> bool {
        true
    }

    /// The next event of this turn. Never blocks.
    fn next_event(&mut self) -> Option<Event<Self::Socket>>;

    /// The bytes of a lease.
    fn bytes(&mut self, lease: &Lease) -> &mut [u8];

    /// Returns a lease's buffer.
    fn release(&mut self, lease: Lease);

    /// Ties a socket to a token and begins to receive. The slot must be free (law 4).
    fn attach(&mut self, token: Token, socket: Self::Socket);

    /// Closes a socket that was never attached.
    fn refuse(&mut self, socket: Self::Socket);

    /// Sends all of `buf`, which must not be empty. At most one send per token is in flight: a
    /// second one before its `Sent` is a bug of the caller (debug assertion).
    fn send(&mut self, token: Token, buf: SendBuf);

    /// The same for bytes whose `Sent` nobody waits for: if they are taken at once, it may come with the
    /// next event of another kind only, so that it need not end a wait of its own. Or `buf` is returned,
    /// and there is none.
    fn send_unawaited(&mut self, token: Token, buf: SendBuf) -> Option<SendBuf> {
        self.send(token, buf);
        None
    }

    /// Sends all of a lease's bytes from where they lie, and returns the lease. It is tried once, so that
    /// no peer keeps a receive buffer by not reading (law 5): what is not taken is copied, and follows. As
    /// with `send_unawaited`, a success may be told late.
    fn send_lease(&mut self, token: Token, lease: Lease);

    /// Has the kernel seal what is sent from here on by TLS, or open what is received. First the sending half.
    /// Nothing may be in flight in that direction, and what was received and belongs to records must
    /// have been taken. After the receiving half, records that are not data come as [`Event::Record`].
    ///
    /// # Errors
    /// `WouldBlock`: not now, as received bytes have left the socket that no event has told of. `NotFound` or
    /// `Unsupported`: no connection's keys are taken here. Else this connection's are not. Everything is
    /// as before then.
    fn hand_over(&mut self, token: Token, half: Half, keys: &RecordKeys<'_>) -> io::Result<()>;

    /// As `send`, a TLS record of a kind of its own: an alert. Where the kernel does not seal what the
    /// connection sends, the error is of kind `InvalidInput`, and nothing is sent.
    fn send_record(&mut self, token: Token, kind: u8, content: Vec<u8>);

    /// Stops receiving. What has been received already may still be delivered.
    fn pause(&mut self, token: Token);

    /// Receives again.
    fn resume(&mut self, token: Token);

    /// Ends the sending side (FIN) once the send in flight is done. Receiving goes on.
    fn shutdown(&mut self, token: Token);

    /// Tears the connection down. Later events of the token are a `Sent` for a send in flight,
    /// then exactly one `Closed`.
    fn close(&mut self, token: Token);

    /// Opens a connection, from the address `source` if one is given and else from the one that the
    /// kernel chooses; ends in [`Event::Connected`] with the same tag. The source port is chosen for
    /// the pair of addresses, so each source has all ports for each destination.
    fn connect(&mut self, to: SocketAddr, source: Option<IpAddr>, tag: u64);

    /// Stops accepting; peers wait in the listen backlog. Sockets accepted already may still come.
    fn pause_accept(&mut self);

    /// Accepts again.
    fn resume_accept(&mut self);

    /// Stops accepting for good and closes the listeners.
    fn close_listeners(&mut self);

    /// Whether there is memory that [`shed`](Self::shed) or [`rest_silent`](Self::rest_silent) may give back, at
    /// once or when called again.
    fn has_spare(&self) -> bool;

    /// Gives back the memory of receive buffers that nothing has needed since the last call. To be called about
    /// once a second while [`has_spare`](Self::has_spare), after a turn's events have been taken.
    fn shed(&mut self);

    /// Takes connections that have long been silent for such that will be for longer, which may cost them less memory
    /// and more time for the next byte. To be called about once a second while [`has_spare`](Self::has_spare).
    fn rest_silent(&mut self) {}

    /// A handle by which any thread ends the current or next wait.
    fn waker(&self) -> Waker;

    /// Counters since the start.
    fn stats(&self) -> DriverStats;
}

/// An empty vector that grows to `capacity` without moving: a copy of megabytes would stall a turn.
/// The reservation is address space only; where even that is short, it grows as vectors do.
fn reserved<T>(capacity: u32) -> Vec<T> {
    let mut vec = Vec::new();
    let _ = vec.try_reserve_exact(capacity as usize);
    vec
}

/// Ends a driver's wait from any thread.
#[derive(Clone, Debug)]
pub struct Waker(pub(in crate::driver) Arc<WakeTarget>);

impl Waker {
    /// Ends the current or next wait with [`Event::Woken`]. At most one system call, which is safe
    /// in a signal handler, and none while an earlier call has not been seen.
    ///
    /// What the caller wrote before is visible to the driver's thread when it sees the event.
    pub fn wake(&self) {
        match &*self.0 {
            WakeTarget::Eventfd { fd, pending } => {
                if !pending.swap(true, Ordering::AcqRel) {
                    sys::eventfd_signal(fd.as_fd());
                }
            }
            WakeTarget::Flag(flag) => flag.store(true, Ordering::Release),
        }
    }
}

#[derive(Debug)]
pub(in crate::driver) enum WakeTarget {
    Eventfd {
        fd: OwnedFd,
        /// Signalled and not yet seen.
        pending: AtomicBool,
    },
    Flag(AtomicBool),
}

impl WakeTarget {
    pub(in crate::driver) fn eventfd() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self::Eventfd { fd: sys::eventfd()?, pending: AtomicBool::new(false) }))
    }

    /// The eventfd, for the drivers that made one.
    fn raw_fd(&self) -> RawFd {
        match self {
            Self::Eventfd { fd, .. } => fd.as_raw_fd(),
            Self::Flag(_) => -1,
        }
    }

    /// To be called between seeing the signal and telling the engine: whatever is written before a
    /// later `wake` is announced again.
    fn seen(&self) {
        match self {
            Self::Eventfd { pending, .. } => pending.swap(false, Ordering::AcqRel),
            Self::Flag(flag) => flag.swap(false, Ordering::AcqRel),
        };
    }
}
