//! What a server may be told: addresses, driver, limits, deadlines, origin policy.
//!
//! A leaf: it imports nothing of the crate. Every limit has a name, a unit and a default, and the
//! field's documentation says what happens when it is reached and which metric counts it.

mod admission;

pub use admission::{Admission, Goodbye, OverRate, ProxyProtocol, Rates, Subnet};

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where a server listens.
///
/// ```
/// use ringwire::ListenAddr;
/// let tcp: ListenAddr = "127.0.0.1:9001".parse().unwrap();
/// let unix: ListenAddr = "unix:/run/chat.sock".parse().unwrap();
/// assert_eq!(tcp.to_string(), "127.0.0.1:9001");
/// assert_eq!(unix.to_string(), "unix:/run/chat.sock");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// An IPv4 or IPv6 address and port; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A path for a Unix stream socket. A stale socket file is replaced, any other file is an error.
    Unix(PathBuf),
}

/// The text was neither `IP:PORT`, `[IPv6]:PORT` nor `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseListenAddrError(String);

impl std::fmt::Display for ParseListenAddrError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` is not an address to listen on: give IP:PORT, [IPv6]:PORT or unix:PATH", self.0)
    }
}

impl std::error::Error for ParseListenAddrError {}

impl std::str::FromStr for ListenAddr {
    type Err = ParseListenAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(_) => Err(ParseListenAddrError(text.to_owned())),
            None => text.parse().map(Self::Tcp).map_err(|_| ParseListenAddrError(text.to_owned())),
        }
    }
}

impl std::fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for ListenAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

/// Which driver carries the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// io_uring where the kernel offers and permits it, else epoll; the reason is kept and shown.
    #[default]
    Auto,
    /// io_uring or a start error.
    Uring,
    /// epoll or a start error.
    Epoll,
}

impl std::str::FromStr for DriverChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "epoll" => Ok(Self::Epoll),
            other => Err(format!("`{other}` is not a driver: give auto, uring or epoll")),
        }
    }
}

/// Who may open a WebSocket from a page. Checked before the handler is asked.
///
/// Browsers send `Origin` with every WebSocket handshake and do not apply the same-origin policy
/// to it themselves (RFC 6455 §10.2), so an open endpoint can be driven by any page its user visits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OriginPolicy {
    /// An `Origin`, where there is one, must name the host and port of the `Host` header.
    /// Programs that send none are let in.
    #[default]
    SameOrigin,
    /// Only these origins (`https://example.org`, compared without case). `require` refuses
    /// requests without an `Origin` as well.
    Allow {
        /// Serialized origins (RFC 6454 §6.2).
        origins: Vec<String>,
        /// Whether a request without `Origin` is refused.
        require: bool,
    },
    /// No check: any page may connect.
    Any,
}

/// Bounds on what peers and callers may make a shard hold or do.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections per shard. At the limit accepting pauses until one closes; default 1,048,576.
    pub max_connections: u32,
    /// Bytes of a request head; beyond it the answer is 431. Default 16 KiB.
    pub max_head_bytes: u32,
    /// Header fields of a request; beyond it the answer is 431. Default 64, at most 128.
    pub max_headers: u16,
    /// Bytes of a plain request's body; beyond it the answer is 413. Default 64 KiB.
    pub max_http_body_bytes: u32,
    /// Bytes of one message, and of one frame; beyond it the peer gets 1009. Default 1 MiB.
    pub max_message_bytes: u32,
    /// Bytes waiting to be sent on one connection. A message that would exceed it is
    /// [`Dropped`](crate::SendResult::Dropped); control frames are exempt. Default 4 MiB.
    pub max_outbox_bytes: u32,
    /// Bytes waiting to be sent at which receiving from that connection pauses, so that a peer who
    /// does not read cannot make the server queue answers. Default 256 KiB.
    pub pause_receive_bytes: u32,
    /// Commands from other threads waiting in one shard's mailbox; beyond it
    /// [`Remote`](crate::Remote) returns an error. Default 65,536.
    pub max_mailbox_commands: u32,
    /// Connections of a shard to which messages to all are sent in one turn, and those to topics, before others get theirs.
    /// A send takes some 4 µs; below 100 of them turns begin to cost. Default 256.
    pub max_broadcast_sends_per_turn: u32,
    /// Bytes of messages to all ([`Remote::broadcast`](crate::Remote::broadcast)), to topics and to
    /// users that a shard has not yet sent to the last connection, some 500 for each beside its
    /// payload; beyond it `broadcast` and `publish` return an error. One alone may be larger. Default 64 MiB.
    pub max_broadcast_bytes: u32,
    /// Bytes of a topic's name, or of a wildcard; beyond it
    /// [`TopicError::Name`](crate::TopicError::Name), counted by `ringwire_subscriptions_refused_total` or
    /// `ringwire_publications_refused_total`. Default 256.
    pub max_topic_bytes: u32,
    /// Subscriptions of one connection; beyond it
    /// [`TooManySubscriptions`](crate::TopicError::TooManySubscriptions), counted by
    /// `ringwire_subscriptions_refused_total`. Default 256, at most 65,535.
    pub max_subscriptions: u32,
    /// Topics and wildcards of a shard that have a subscriber or a retained message, some 250 bytes
    /// each; beyond it [`TooManyTopics`](crate::TopicError::TooManyTopics), counted by
    /// `ringwire_subscriptions_refused_total`. Default 1,048,576.
    pub max_topics: u32,
    /// Bytes of topics' last values that a shard keeps; beyond it
    /// [`TooMuchRetained`](crate::TopicError::TooMuchRetained). Every shard keeps all of them, and what
    /// comes from another shard and finds no room is counted by `ringwire_retained_refused_total`.
    /// Default 16 MiB.
    pub max_retained_bytes: u32,
    /// Bytes of a user's name; beyond it [`UserError::Name`](crate::UserError::Name), counted by
    /// `ringwire_user_binds_refused_total`. Default 256.
    pub max_user_bytes: u32,
    /// Connections bound to one user; beyond it
    /// [`TooManyConnections`](crate::UserError::TooManyConnections), counted by
    /// `ringwire_user_binds_refused_total`. Default 1,024.
    pub max_user_connections: u32,
    /// Receive buffers a shard may have. They are published as traffic asks. Default 1,024.
    pub receive_buffers: u16,
    /// Bytes of one receive buffer. Default 64 KiB.
    pub receive_buffer_bytes: u32,
    /// Bytes one connection may hand in per turn before the others get theirs. Default 1 MiB.
    pub max_receive_bytes_per_turn: u32,
    /// Bytes of free buffers a shard keeps for reuse. Of those beyond 64 KiB that were not used within a
    /// second, half are freed each second; a busy shard lets go each sixteenth second. Default 8 MiB.
    pub max_pool_bytes: u32,
    /// TLS handshakes under way on one shard, some 10 KB each; beyond it connections are cut, counted by
    /// `ringwire_tls_handshakes_refused_total`. Default 4,096.
    pub max_tls_handshakes: u32,
    /// Steps of TLS handshakes that a shard takes in one turn, before others get theirs: each is a tenth
    /// of a millisecond, or more with RSA keys. Default 4.
    pub max_tls_handshakes_per_turn: u32,
    /// Connections of a shard whose TLS keys stand ready, some 1.3 KB each; those of the one that has been
    /// silent longest are set aside, and set up again in 0.3 µs. Default 4,096.
    pub max_tls_ready: u32,
    /// Bytes that a shard may hold in all: what is queued, received in part, pooled, compression, receive
    /// buffers and tables (gauge `ringwire_memory_bytes`). Beyond it the free buffers go first, and then
    /// the connections that hold most, with 1013 where they can still be told, until an eighth is free;
    /// counted by `ringwire_memory_closes_total`. Default 8 GiB.
    pub max_shard_bytes: u64,
    /// Bytes that one connection may hold, queued and received together; beyond it, it is ended as above.
    /// Default 0: what the other limits leave it.
    pub max_connection_bytes: u32,
    /// Bytes of requests and handshakes that are not whole, on all connections of a shard; beyond it the
    /// one that came last is answered 503; counted by `ringwire_memory_refusals_total`. Default 64 MiB.
    pub max_early_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1 << 20,
            max_head_bytes: 16 << 10,
            max_headers: 64,
            max_http_body_bytes: 64 << 10,
            max_message_bytes: 1 << 20,
            max_outbox_bytes: 4 << 20,
            pause_receive_bytes: 256 << 10,
            max_mailbox_commands: 65_536,
            max_broadcast_sends_per_turn: 256,
            max_broadcast_bytes: 64 << 20,
            max_topic_bytes: 256,
            max_subscriptions: 256,
            max_topics: 1 << 20,
            max_retained_bytes: 16 << 20,
            max_user_bytes: 256,
            max_user_connections: 1_024,
            receive_buffers: 1_024,
            receive_buffer_bytes: 64 << 10,
            max_receive_bytes_per_turn: 1 << 20,
            max_pool_bytes: 8 << 20,
            max_tls_handshakes: 4_096,
            max_tls_handshakes_per_turn: 4,
            max_tls_ready: 4_096,
            max_shard_bytes: 8 << 30,
            max_connection_bytes: 0,
            max_early_bytes: 64 << 20,
        }
    }
}

/// Whether messages are compressed: permessage-deflate (RFC 7692).
///
/// It trades processor time for bytes on the wire, about 4 µs for a message of 1 KiB both ways. A
/// connection between messages holds no memory for it, unless [`DeflateConfig::takeover`] is set.
///
/// Text that holds both a secret and something an attacker chose must not be compressed: the
/// length tells (RFC 7692 §9). See [`Upgrade::without_compression`](crate::Upgrade::without_compression).
///
/// ```
/// use ringwire::{Compression, DeflateConfig};
/// let settings = DeflateConfig { level: 6, min_bytes: 512, ..DeflateConfig::default() };
/// assert!(matches!(Compression::Deflate(settings), Compression::Deflate(_)));
/// assert_eq!(Compression::default(), Compression::Off);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// No offer is accepted and none is made.
    #[default]
    Off,
    /// Offers of clients are accepted, and connections that this end opens make one.
    Deflate(DeflateConfig),
}

/// How permessage-deflate is negotiated and used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeflateConfig {
    /// 1 (fast) to 9 (small). Default 1: on 1 KiB of JSON the compressor takes a third of the time of 6 for a
    /// third more bytes.
    pub level: u8,
    /// Messages of fewer bytes are sent as they are. Default 128; below it hardly a byte is saved.
    pub min_bytes: u32,
    /// The largest LZ77 window of this end's messages, as a power of two: 8 to 15. The peer may ask
    /// for less. Default 15.
    pub max_window_bits: u8,
    /// The largest LZ77 window of the peer's messages, as a power of two: 8 to 15. Not every client
    /// can be asked for less than 15, and it saves memory at the peer only. Default 15.
    pub max_peer_window_bits: u8,
    /// Whether the windows outlive a message. Similar messages shrink much more, but every such
    /// connection owns a compressor and a decompressor, some 350 KiB. Default false.
    pub takeover: bool,
    /// Bytes that connections of one shard may own because of `takeover`. When they are spent,
    /// further connections are agreed upon without takeover; gauge
    /// `ringwire_deflate_takeover_bytes`. Default 64 MiB.
    pub max_takeover_bytes: u32,
    /// Decompressors of one shard that messages received only in part may hold, some 45 KiB each.
    /// Beyond it such messages are kept compressed until they are whole; counted by
    /// `ringwire_inflates_held_total`. Default 256.
    pub max_inflaters: u32,
    /// Bytes of a message for each of its compressed bytes, judged from the 65,536th on; beyond it
    /// the peer gets 1009. 0 turns it off: no stream exceeds 1,032, and
    /// [`Limits::max_message_bytes`] holds in any case. Default 0.
    pub max_ratio: u32,
}

impl Default for DeflateConfig {
    fn default() -> Self {
        Self {
            level: 1,
            min_bytes: 128,
            max_window_bits: 15,
            max_peer_window_bits: 15,
            takeover: false,
            max_takeover_bytes: 64 << 20,
            max_inflaters: 256,
            max_ratio: 0,
        }
    }
}

/// When a shard polls instead of sleeping: a sleeping core takes tens of microseconds to wake up,
/// which is most of the latency of a message that comes alone.
///
/// After traffic the shard polls for `window_us` and sleeps only then. So a core is busy as long as
/// messages follow each other within the window, and idle when none come. Shards that share a core
/// do not poll. Off unless [`ServerBuilder::busy_poll`](crate::ServerBuilder::busy_poll) is called.
///
/// ```
/// use ringwire::{BusyPoll, Server};
/// let builder = Server::builder().busy_poll(BusyPoll { window_us: 100, ..BusyPoll::default() });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// Microseconds after traffic; 0 never polls. At most 1,000,000. Default 50: a peer on a fast
    /// network answers within that.
    pub window_us: u32,
    /// Most of the time that windows in which nothing came may take, in percent; unused share is saved
    /// for 100 ms. At most 100. Default 25. After 16 such windows in a row only one occasion in 16 is
    /// taken, until one meets traffic; metrics `ringwire_busy_polls_met_total`,
    /// `ringwire_busy_polls_vain_total` and `ringwire_busy_poll_nanoseconds_total`.
    pub max_vain_percent: u8,
}

impl Default for BusyPoll {
    fn default() -> Self {
        Self { window_us: 50, max_vain_percent: 25 }
    }
}

/// How long a peer may take, in milliseconds. 0 turns a deadline off.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// From accept to the end of the TLS handshake, on listeners that have one; a client's end counts as
    /// `head_ms`. Counted by `ringwire_tls_timeouts_total`. Default 10,000.
    pub tls_ms: u32,
    /// From accept, or from the end of the last answer, to a whole request head: then 408 if part
    /// of a head has come, else a silent close. Default 10,000.
    pub head_ms: u32,
    /// Silence on an open connection before a ping is sent. Default 170,000, below the common
    /// NAT expiry of three minutes. From 10,000 on connections take turns, so that those that came
    /// at once are not pinged at once: a ping may come early, after half the time at the soonest.
    pub idle_ms: u32,
    /// Silence on a stream of events before a comment is sent, which keeps proxies from taking it for dead
    /// and tells of a client that has gone; it comes up to a quarter early, so that not all come at once.
    /// Counted by `ringwire_comments_sent_total`. Default 15,000.
    pub event_idle_ms: u32,
    /// From our ping to any sign of life. Default 20,000.
    pub pong_ms: u32,
    /// From our Close frame to the peer's, and from the end of sending to the peer's FIN.
    /// Default 5,000.
    pub close_ms: u32,
    /// For queued bytes to be taken by the peer's host. Default 30,000.
    pub write_ms: u32,
    /// From the first byte of a message to its last. Default 60,000.
    pub assembly_ms: u32,
    /// A graceful shutdown waits this long for peers to answer its [`goodbye`](Self::goodbye), from when
    /// the last has been told. Default 5,000.
    pub drain_ms: u32,
    /// A graceful shutdown tells its peers over this time, each at a moment of its own, so that they do
    /// not come back at once; until then they are served. Default 0: all at once.
    pub drain_window_ms: u32,
    /// What peers are told at a graceful shutdown and at the end of `max_lifetime_ms`. Default 1001.
    pub goodbye: Goodbye,
    /// How long an accepted connection may be open before it is closed with `goodbye`, so that clients
    /// spread anew over servers; a stream of events ends with its last chunk, other bodies are left to
    /// their handlers. Counted by `ringwire_lifetimes_ended_total`. Default 0: for ever.
    pub max_lifetime_ms: u32,
    /// By how much of it each connection's lifetime is shorter, at random: percent, at most 100.
    /// Default 10.
    pub lifetime_jitter_percent: u8,
    /// Silence on an accepted TCP connection before the kernel probes the peer's host, in seconds; it
    /// does so three times at most, a third of that time apart (tcp(7), `TCP_KEEPIDLE`). Pings do
    /// more. Default 0: off.
    pub tcp_keepalive_s: u32,
    /// How long sent bytes may stay unacknowledged before the kernel ends an accepted TCP connection
    /// (tcp(7), `TCP_USER_TIMEOUT`). Default 0: as the kernel does it, some 15 minutes.
    pub tcp_user_timeout_ms: u32,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            tls_ms: 10_000,
            head_ms: 10_000,
            idle_ms: 170_000,
            event_idle_ms: 15_000,
            pong_ms: 20_000,
            close_ms: 5_000,
            write_ms: 30_000,
            assembly_ms: 60_000,
            drain_ms: 5_000,
            drain_window_ms: 0,
            goodbye: Goodbye::GoingAway,
            max_lifetime_ms: 0,
            lifetime_jitter_percent: 10,
            tcp_keepalive_s: 0,
            tcp_user_timeout_ms: 0,
        }
    }
}
