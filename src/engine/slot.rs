//! What an idle connection costs: one cache line.
//!
//! Whatever a connection needs only while it is busy lives in [`Work`](super::work::Work) and is
//! borrowed from the core's pools.

use super::wheel::Links;
use crate::driver::PeerAddr;
use crate::ws::Session;
use slab::Slab;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// "No work": nothing queued, nothing half received.
pub const NO_WORK: u32 = u32::MAX;

/// Where a connection stands. The niche lets a free slab entry share the slot's 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The TLS handshake: no byte of a request yet.
    Securing,
    /// Waiting for a request head (or for the body behind it).
    Head,
    /// We are the client and wait for the answer to our handshake.
    Connecting,
    /// WebSocket frames.
    Open,
    /// A response that goes on. What arrives is discarded.
    Stream,
    /// A request is answered later. What arrives waits.
    Deferred,
    /// The last bytes are queued; then FIN. What arrives is discarded.
    Finishing,
    /// FIN sent: waiting for the peer's, so that its kernel does not answer our last bytes with a reset.
    Lingering,
    /// `Driver::close` was called; waiting for `Closed`.
    Closing,
}

impl Phase {
    /// Messages may be sent.
    #[inline]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Open | Self::Stream)
    }
}

/// A set of [`Slot`] flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// The handler's `open` ran and its `close` is owed.
    pub const HANDLER_OWED: Self = Self(1);
    /// The peer sent FIN.
    pub const EOF: Self = Self(2);
    /// A ping of ours has not been followed by any sign of life.
    pub const PING_SENT: Self = Self(4);
    /// Receiving is paused until the outbox drains.
    pub const PAUSED: Self = Self(8);
    /// The handler takes fragments as they come.
    pub const STREAM: Self = Self(16);
    /// The handler saw backpressure and wants to hear of its end.
    pub const WANTS_DRAIN: Self = Self(32);
    /// The connection is on the list of those to flush.
    pub const DIRTY: Self = Self(64);
    /// Receiving is paused because the peer exceeded its rate.
    pub const SLOWED: Self = Self(1 << 7);
    /// The pong to our ping has not come: it tells how long it took.
    pub const PONG_AWAITED: Self = Self(1 << 8);
    /// A policy other than dropping the newest may apply while the peer does not keep up.
    pub const HOLDS: Self = Self(1 << 9);
    /// Its bytes are sealed by TLS.
    pub const TLS: Self = Self(1 << 10);

    /// What is open to the handler is a response, not a WebSocket.
    pub const HTTP: Self = Self(1 << 11);
    /// The response consists of events.
    pub const EVENTS: Self = Self(1 << 12);
    /// The response comes in chunks.
    pub const CHUNKED: Self = Self(1 << 13);
    /// The request that waits is the connection's last.
    pub const LAST: Self = Self(1 << 14);
    /// The request that waits is for the head alone.
    pub const HEAD_ONLY: Self = Self(1 << 15);
}

/// How a connection came in and what it counts for, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry(u8);

impl Entry {
    /// What carries the connection is a Unix socket.
    pub const UNIX: Self = Self(1);
    /// A PROXY protocol header comes first.
    pub const PROXY_DUE: Self = Self(2);
    /// Counted among the handshakes in progress.
    pub const SHAKING: Self = Self(4);
    /// Counted for its address.
    pub const BY_ADDRESS: Self = Self(8);
    /// Counted among the server's connections.
    pub const COUNTED: Self = Self(16);
    /// Within TLS: the kernel seals what is sent.
    pub const SEALED: Self = Self(32);
    /// Within TLS: the kernel opens what is received.
    pub const OPENED: Self = Self(64);
}

/// What the sets of flags share.
macro_rules! bit_set {
    ($($set:ident)+) => {$(
        impl $set {
            /// Whether `flag` is set.
            pub fn has(self, flag: Self) -> bool {
                self.0 & flag.0 != 0
            }

            /// Sets `flag`.
            pub fn set(&mut self, flag: Self) {
                self.0 |= flag.0;
            }

            /// Sets or clears `flag`.
            pub fn assign(&mut self, flag: Self, to: bool) {
                self.take(flag);
                if to {
                    self.set(flag);
                }
            }

            /// Clears `flag` and tells whether it was set.
            pub fn take(&mut self, flag: Self) -> bool {
                let was = self.has(flag);
                self.0 &= !flag.0;
                was
            }
        }
    )+};
}

bit_set!(Flags Entry);

/// A peer address in eight bytes: IPv4 in place, IPv6 by index into a side table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PackedPeer {
    V4 { ip: u32, port: u16 },
    V6 { index: u32 },
    Unix,
}

/// What carries a connection's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// TCP.
    Tcp,
    /// A Unix stream socket.
    Unix,
}

impl Link {
    /// As metrics name them.
    pub const NAMES: [&str; 2] = ["tcp", "unix"];
}

/// Addresses that do not fit a slot.
#[derive(Debug, Default)]
pub struct PeerTable {
    v6: Slab<SocketAddr>,
}

impl PeerTable {
    fn pack(&mut self, peer: PeerAddr) -> PackedPeer {
        match peer {
            PeerAddr::Unix => PackedPeer::Unix,
            PeerAddr::Ip(SocketAddr::V4(addr)) => {
                PackedPeer::V4 { ip: (*addr.ip()).into(), port: addr.port() }
            }
            PeerAddr::Ip(addr @ SocketAddr::V6(_)) => PackedPeer::V6 { index: self.v6.insert(addr) as u32 },
        }
    }

    /// The peer of a slot.
    pub fn get(&self, slot: &Slot) -> PeerAddr {
        match slot.peer {
            PackedPeer::Unix => PeerAddr::Unix,
            PackedPeer::V4 { ip, port } => {
                PeerAddr::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port))
            }
            PackedPeer::V6 { index } => PeerAddr::Ip(self.v6[index as usize]),
        }
    }

    /// Another peer than the one that connected, as its proxy says.
    pub fn replace(&mut self, slot: &mut Slot, peer: PeerAddr) {
        self.forget(slot.peer);
        slot.peer = self.pack(peer);
    }

    fn forget(&mut self, peer: PackedPeer) {
        if let PackedPeer::V6 { index } = peer {
            self.v6.remove(index as usize);
        }
    }
}

/// One connection, 64 bytes.
#[derive(Debug)]
#[repr(align(64))]
pub struct Slot {
    /// Protocol state.
    pub session: Session,
    /// Place in the timer wheel.
    pub links: Links,
    /// Tick of the last bytes from the peer.
    pub last_seen: u32,
    /// Tick at which the state that a deadline bounds began: the head, our ping, our Close, our FIN.
    pub since: u32,
    /// Index into the core's works, or [`NO_WORK`].
    pub work: u32,
    /// Handed out once; tokens carry it.
    pub generation: u32,
    peer: PackedPeer,
    /// Where the connection stands.
    pub phase: Phase,
    /// What else is to be known.
    pub flags: Flags,
    /// How it came in.
    pub entry: Entry,
}

/// `slab` keeps the free list inside free entries; this mirrors its entry.
#[expect(dead_code, reason = "only its size matters")]
enum SlabEntry {
    Vacant(usize),
    Occupied(Slot),
}

const _: () = assert!(size_of::<Slot>() == 64, "a slot is one cache line");
const _: () = assert!(size_of::<SlabEntry>() == 64, "a slot has a niche for slab's free list");

impl Slot {
    /// A slot for a new connection.
    pub fn new(
        peers: &mut PeerTable,
        peer: PeerAddr,
        generation: u32,
        tick: u32,
        phase: Phase,
        session: Session,
    ) -> Self {
        let mut entry = Entry::default();
        entry.assign(Entry::UNIX, peer == PeerAddr::Unix);
        Self {
            session,
            links: Links::IDLE,
            last_seen: tick,
            since: tick,
            work: NO_WORK,
            generation,
            peer: peers.pack(peer),
            phase,
            flags: Flags::default(),
            entry,
        }
    }

    /// What carries the connection.
    pub fn link(&self) -> Link {
        if self.entry.has(Entry::UNIX) { Link::Unix } else { Link::Tcp }
    }

    /// Gives back what the slot held outside of itself.
    pub fn dismantle(self, peers: &mut PeerTable) {
        peers.forget(self.peer);
    }
}
