//! The laws, tried on the drivers that have real sockets: one suite, both drivers, loopback.
//!
//! Peers are plain `std` sockets in blocking mode. A `World` runs one driver, attaches what it
//! accepts, and writes down what it is told.

mod data;
mod denied;
mod ends;
mod leases;
mod limits;
mod outbound;
mod records;
mod silence;
mod soak;
mod unawaited;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::epoll::Epoll;
use super::listen::{Listener, bind};
use super::uring::Uring;
use super::{Driver, DriverConfig, Event, Lease, PeerAddr, SendBuf, Token};
use crate::config::ListenAddr;

/// How long anything may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);

trait Make: Driver + Sized {
    fn make(config: &DriverConfig, listeners: Vec<Listener>) -> io::Result<Self>;
}

impl Make for Uring {
    fn make(config: &DriverConfig, listeners: Vec<Listener>) -> io::Result<Self> {
        Self::new(config, listeners)
    }
}

impl Make for Epoll {
    fn make(config: &DriverConfig, listeners: Vec<Listener>) -> io::Result<Self> {
        Self::new(config, listeners)
    }
}

/// Makes a test of each function for each driver.
macro_rules! on_both_drivers {
    ($($test:ident),* $(,)?) => {
        mod on_uring { $(#[test] fn $test() { super::$test::<crate::driver::uring::Uring>(); })* }
        mod on_epoll { $(#[test] fn $test() { super::$test::<crate::driver::epoll::Epoll>(); })* }
    };
}
use on_both_drivers;

fn config() -> DriverConfig {
    DriverConfig {
        max_connections: 1_024,
        receive_buffers: 64,
        receive_buffer_bytes: 16 << 10,
        max_receive_bytes_per_turn: 128 << 10,
        shards_per_core: 1,
        busy_poll: false,
    }
}

/// What one connection has told.
#[derive(Default, Debug)]
struct Told {
    received: Vec<u8>,
    eof: u32,
    failed: Vec<io::ErrorKind>,
    sent: Vec<io::Result<()>>,
    sent_bytes: usize,
    closed: u32,
    /// To be echoed.
    answer: Vec<u8>,
    sending: bool,
}

struct World<D: Driver> {
    driver: D,
    addr: Option<SocketAddr>,
    told: BTreeMap<(u32, u32), Told>,
    tokens: Vec<Token>,
    peers: Vec<PeerAddr>,
    connected: Vec<(u64, io::Result<Token>)>,
    accept_failed: Vec<io::Error>,
    woken: u32,
    held: Vec<Lease>,
    hold: bool,
    echo: bool,
}

impl<D: Make> World<D> {
    fn new() -> Self {
        Self::with(&config(), "127.0.0.1:0")
    }

    fn with(config: &DriverConfig, listen: &str) -> Self {
        let (listeners, addr) = bind(&listen.parse().unwrap(), 1).unwrap();
        let addr = match addr {
            ListenAddr::Tcp(addr) => Some(addr),
            ListenAddr::Unix(_) => None,
        };
        Self {
            driver: D::make(config, listeners).unwrap(),
            addr,
            told: BTreeMap::new(),
            tokens: Vec::new(),
            peers: Vec::new(),
            connected: Vec::new(),
            accept_failed: Vec::new(),
            woken: 0,
            held: Vec::new(),
            hold: false,
            echo: false,
        }
    }

    fn peer(&self) -> TcpStream {
        let peer = TcpStream::connect(self.addr.unwrap()).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        peer.set_nodelay(true).unwrap();
        peer
    }

    /// A peer and its token.
    fn pair(&mut self) -> (TcpStream, Token) {
        let peer = self.peer();
        let count = self.tokens.len() + 1;
        self.until("accepted", |world| world.tokens.len() == count);
        (peer, *self.tokens.last().unwrap())
    }

    fn attach(&mut self, socket: D::Socket) -> Token {
        // The lowest slot whose last tenant is closed, with the next generation.
        let mut slot = 0;
        let mut generation = 0;
        for (&(s, g), told) in &self.told {
            if s > slot {
                break;
            }
            (slot, generation) = if told.closed > 0 { (s, g + 1) } else { (s + 1, 0) };
        }
        let token = Token { slot, generation };
        self.told.insert((slot, generation), Told::default());
        self.driver.attach(token, socket);
        self.tokens.push(token);
        token
    }

    fn of(&mut self, token: Token) -> &mut Told {
        self.told.get_mut(&(token.slot, token.generation)).expect("an event for an unknown token")
    }

    fn turn(&mut self, wait: Duration) {
        self.driver.turn(Some(wait)).unwrap();
        while let Some(event) = self.driver.next_event() {
            self.note(event);
        }
    }

    fn note(&mut self, event: Event<D::Socket>) {
        match event {
            Event::Accepted { socket, peer, .. } => {
                self.peers.push(peer);
                self.attach(socket);
            }
            Event::AcceptFailed(error) => self.accept_failed.push(error),
            Event::Connected { tag, result } => {
                let result = result.map(|socket| self.attach(socket));
                self.connected.push((tag, result));
            }
            Event::Received { token, lease } => {
                let bytes = self.driver.bytes(&lease).to_vec();
                assert_eq!(bytes.len(), lease.len());
                let told = self.of(token);
                assert_eq!((told.eof, told.failed.len(), told.closed), (0, 0, 0), "bytes after the end");
                told.received.extend_from_slice(&bytes);
                if self.hold {
                    self.held.push(lease);
                } else {
                    self.driver.release(lease);
                }
                if self.echo {
                    self.of(token).answer.extend_from_slice(&bytes);
                    self.answer(token);
                }
            }
            Event::Record { token, kind, .. } => panic!("a record of type {kind} on {token:?}"),
            Event::Eof(token) => {
                let told = self.of(token);
                assert_eq!((told.eof, told.failed.len(), told.closed), (0, 0, 0), "a second end");
                told.eof += 1;
            }
            Event::Failed { token, error } => {
                let told = self.of(token);
                assert_eq!((told.failed.len(), told.closed), (0, 0), "a second end");
                told.failed.push(error.kind());
            }
            Event::Sent { token, buf, result } => {
                let told = self.of(token);
                assert_eq!(told.closed, 0, "an outcome after Closed");
                told.sent_bytes += buf.as_slice().len();
                told.sent.push(result);
                told.sending = false;
                self.answer(token);
            }
            Event::Closed(token) => {
                let told = self.of(token);
                told.closed += 1;
                assert_eq!(told.closed, 1, "closed twice");
            }
            Event::Woken => self.woken += 1,
        }
    }

    /// Echoes what has come, one send at a time.
    fn answer(&mut self, token: Token) {
        let told = self.of(token);
        if !told.sending && !told.answer.is_empty() {
            told.sending = true;
            let answer = std::mem::take(&mut told.answer);
            self.driver.send(token, SendBuf::Owned(answer));
        }
    }

    /// Sends what nobody awaits, and notes its end if that is told by the call.
    fn send_unawaited(&mut self, token: Token, buf: SendBuf) {
        self.of(token).sending = true;
        if let Some(buf) = self.driver.send_unawaited(token, buf) {
            self.note(Event::Sent { token, buf, result: Ok(()) });
        }
    }

    /// Turns until it is so.
    fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !so(self) {
            assert!(start.elapsed() < PATIENCE, "waited in vain: {what}\n{:?}", self.driver.stats());
            self.turn(Duration::from_millis(20));
        }
    }

    /// Some turns in which nothing is expected to come.
    fn settle(&mut self) {
        for _ in 0..5 {
            self.turn(Duration::from_millis(5));
        }
    }

    fn release_all(&mut self) {
        for lease in std::mem::take(&mut self.held) {
            self.driver.release(lease);
        }
    }
}

/// Reproducible noise.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}
