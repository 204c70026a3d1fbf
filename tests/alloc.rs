//! Steady traffic allocates nothing per message.
//!
//! A counting allocator watches one thread at a time: the shard's. Clients speak from other threads
//! over real sockets, so what is counted is what the driver and the engine do.

#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]

use ringwire::sim::{SimPeer, Simulation};
use ringwire::ws::{Kind, encode_message};
use ringwire::{
    Conn, ConnId, DriverChoice, Handler, ListenAddr, Message, Prepared, Remote, Request, Server,
    ServerBuilder, Shard, Subscribe, Upgrade,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

struct Counting;

thread_local! {
    /// Allocations of this thread. Const and without a destructor: reading it allocates nothing.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

thread_local! {
    /// Bytes that this thread has allocated and not freed.
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

fn count(allocated: usize, freed: usize) {
    ALLOCATIONS.with(|count| count.set(count.get() + u64::from(allocated > 0)));
    BYTES.with(|bytes| bytes.set(bytes.get() + allocated as i64 - freed as i64));
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size, layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Echoes, and tells how often its thread has allocated.
struct Echo(Arc<AtomicU64>);

impl Handler for Echo {
    type State = ();

    fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<()> {
        Upgrade::accept(())
    }

    fn open(&mut self, conn: &mut Conn<'_, ()>) {
        conn.subscribe("feed/#").unwrap();
        conn.subscribe("feed/1").unwrap();
    }

    fn message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        conn.send(message);
    }

    fn turn(&mut self, _shard: &mut Shard<'_, ()>) -> Option<Duration> {
        self.0.store(ALLOCATIONS.with(Cell::get), Ordering::Relaxed);
        None
    }
}

/// TCP, or TLS on it.
trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

struct Client {
    stream: Box<dyn Stream>,
    batch: Vec<u8>,
    answer: Vec<u8>,
    expected: Vec<u8>,
}

impl Client {
    fn open(addr: std::net::SocketAddr, within: &Within, bytes: usize, deep: usize) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut stream: Box<dyn Stream> = match within {
            Within::Tcp => Box::new(stream),
            #[cfg(feature = "tls")]
            Within::Tls(tls) => tls.client(stream),
        };
        stream
            .write_all(
                b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            )
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let payload: Vec<u8> = (0..bytes).map(|at| b'a' + (at % 26) as u8).collect();
        let (mut batch, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..deep {
            encode_message(&mut batch, Kind::Text, &payload, Some([1, 2, 3, 4]));
            encode_message(&mut expected, Kind::Text, &payload, None);
        }
        Self { stream, batch, answer: vec![0; expected.len()], expected }
    }

    fn round(&mut self) {
        self.stream.write_all(&self.batch).unwrap();
        self.hear();
    }

    /// What the others are sent as well.
    fn hear(&mut self) {
        self.stream.read_exact(&mut self.answer).unwrap();
        assert!(self.answer == self.expected);
    }
}

/// What messages are carried by.
enum Within {
    Tcp,
    #[cfg(feature = "tls")]
    Tls(Tls),
}

impl Within {
    fn listen(&self, addr: ListenAddr) -> ServerBuilder {
        match self {
            Self::Tcp => Server::builder().listen(addr),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => Server::builder().listen_tls(addr, tls.config.clone()),
        }
    }
}

#[cfg(feature = "tls")]
struct Tls {
    config: ringwire::TlsConfig,
    client: Arc<rustls::ClientConfig>,
}

#[cfg(feature = "tls")]
impl Tls {
    fn within() -> Within {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let config =
            ringwire::TlsConfig::builder().certificate(made.cert.pem(), made.signing_key.serialize_pem());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
        Within::Tls(Self { config: config.build().unwrap(), client: Arc::new(client) })
    }

    fn client(&self, stream: TcpStream) -> Box<dyn Stream> {
        let name = "localhost".try_into().unwrap();
        let connection = rustls::ClientConnection::new(self.client.clone(), name).unwrap();
        Box::new(rustls::StreamOwned::new(connection, stream))
    }
}

const CLIENTS: usize = 4;

/// Allocations of the shard in so many rounds of echo, once it has warmed up.
fn allocations(driver: DriverChoice, within: &Within, bytes: usize, deep: usize) -> u64 {
    steady_allocations(driver, within, bytes, deep, CLIENTS, |clients, _| {
        clients.iter_mut().for_each(Client::round)
    })
}

/// Allocations of the shard in so many messages to all, once it has warmed up.
fn broadcast_allocations(driver: DriverChoice, bytes: usize, deep: usize, clients: usize) -> u64 {
    let payload: Vec<u8> = (0..bytes).map(|at| b'a' + (at % 26) as u8).collect();
    let prepared = Prepared::text(String::from_utf8(payload).unwrap());
    steady_allocations(driver, &Within::Tcp, bytes, deep, clients, |clients, remote| {
        (0..deep).for_each(|_| remote.broadcast(&prepared, 0).unwrap());
        clients.iter_mut().for_each(Client::hear);
    })
}

fn steady_allocations(
    driver: DriverChoice,
    within: &Within,
    bytes: usize,
    deep: usize,
    clients: usize,
    round: impl Fn(&mut [Client], &Remote),
) -> u64 {
    const ROUNDS: usize = 300;
    const WINDOWS: usize = 4;
    let listen: ListenAddr = "127.0.0.1:0".parse().unwrap();
    let server = within.listen(listen).driver(driver).shards(1).bind().unwrap();
    let ListenAddr::Tcp(addr) = server.local_addrs()[0] else { unreachable!() };
    let (handle, remote) = (server.handle(), server.remote());
    let counted = Arc::new(AtomicU64::new(0));
    let for_handler = counted.clone();
    let thread = std::thread::spawn(move || server.run(|_| Echo(for_handler.clone())));
    let mut clients: Vec<Client> = (0..clients).map(|_| Client::open(addr, within, bytes, deep)).collect();
    let mut rounds = |count: usize| {
        for _ in 0..count {
            round(&mut clients, &remote);
        }
        // The turn that sent the last answer has ended when the next round is answered.
        clients[0].round();
        counted.load(Ordering::Relaxed)
    };
    // How long it warms up is chance: a buffer grows when more are in use at once than ever before.
    let mut before = rounds(ROUNDS);
    let mut steady = u64::MAX;
    for _ in 0..WINDOWS {
        let after = rounds(ROUNDS);
        steady = steady.min(after - before);
        before = after;
        if steady == 0 {
            break;
        }
    }
    handle.stop();
    thread.join().unwrap().unwrap();
    steady
}

fn assert_nothing_is_allocated(driver: DriverChoice, within: &Within) {
    for (bytes, deep) in [(20, 1), (20, 16), (1_000, 16), (5_000, 1), (16 << 10, 1), (16 << 10, 16)] {
        let allocated = allocations(driver, within, bytes, deep);
        assert_eq!(allocated, 0, "{bytes} bytes, {deep} deep: allocations in each 300 of 1,200 rounds");
    }
}

fn uring_is_skipped() -> bool {
    let skipped = std::env::var_os("RINGWIRE_SKIP_URING").is_some_and(|value| value == "1");
    if skipped {
        eprintln!("skipped: RINGWIRE_SKIP_URING=1");
    }
    skipped
}

#[test]
fn steady_echo_allocates_nothing_on_uring() {
    if uring_is_skipped() {
        return;
    }
    assert_nothing_is_allocated(DriverChoice::Uring, &Within::Tcp);
}

#[test]
fn steady_echo_allocates_nothing_on_epoll() {
    assert_nothing_is_allocated(DriverChoice::Epoll, &Within::Tcp);
}

/// Records are opened where they lie, and sealed into buffers that come back.
#[cfg(feature = "tls")]
#[test]
fn steady_echo_within_tls_allocates_nothing_on_uring() {
    if uring_is_skipped() {
        return;
    }
    assert_nothing_is_allocated(DriverChoice::Uring, &Tls::within());
}

#[cfg(feature = "tls")]
#[test]
fn steady_echo_within_tls_allocates_nothing_on_epoll() {
    assert_nothing_is_allocated(DriverChoice::Epoll, &Tls::within());
}

/// A message to all is encoded once, and then it is sent by as many as there are.
fn assert_nothing_is_allocated_for_all(driver: DriverChoice) {
    for (bytes, deep, clients) in
        [(20, 1, 40), (20, 8, 40), (4 << 10, 1, 40), (20 << 10, 1, 40), (20 << 10, 3, 4)]
    {
        let allocated = broadcast_allocations(driver, bytes, deep, clients);
        assert_eq!(allocated, 0, "{bytes} bytes, {deep} deep, to {clients}: allocations in 300 rounds");
    }
}

#[test]
fn steady_broadcast_allocates_nothing_on_uring() {
    if uring_is_skipped() {
        return;
    }
    assert_nothing_is_allocated_for_all(DriverChoice::Uring);
}

#[test]
fn steady_broadcast_allocates_nothing_on_epoll() {
    assert_nothing_is_allocated_for_all(DriverChoice::Epoll);
}

/// What is published to a topic is offered to all of its subscribers.
fn assert_nothing_is_allocated_for_subscribers(driver: DriverChoice) {
    for (bytes, deep, clients) in [(20, 1, 40), (20, 8, 40), (4 << 10, 1, 40), (20 << 10, 3, 4)] {
        let payload: Vec<u8> = (0..bytes).map(|at| b'a' + (at % 26) as u8).collect();
        let prepared = Prepared::text(String::from_utf8(payload).unwrap());
        let allocated = steady_allocations(driver, &Within::Tcp, bytes, deep, clients, |clients, remote| {
            (0..deep).for_each(|_| remote.publish("feed/1", &prepared).unwrap());
            clients.iter_mut().for_each(Client::hear);
        });
        assert_eq!(allocated, 0, "{bytes} bytes, {deep} deep, to {clients}: allocations in 300 rounds");
    }
}

#[test]
fn steady_publishing_allocates_nothing_on_uring() {
    if uring_is_skipped() {
        return;
    }
    assert_nothing_is_allocated_for_subscribers(DriverChoice::Uring);
}

#[test]
fn steady_publishing_allocates_nothing_on_epoll() {
    assert_nothing_is_allocated_for_subscribers(DriverChoice::Epoll);
}

/// What the documentation of topics says that subscriptions cost.
#[test]
fn a_subscription_costs_few_bytes() {
    struct Quiet(Rc<RefCell<Vec<ConnId>>>);
    impl Handler for Quiet {
        type State = ();

        fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<()> {
            Upgrade::accept(())
        }

        fn open(&mut self, conn: &mut Conn<'_, ()>) {
            self.0.borrow_mut().push(conn.id());
        }

        fn message(&mut self, _conn: &mut Conn<'_, ()>, _message: Message<'_>) {}
    }
    const PEOPLE: usize = 4_096;
    let ids = Rc::<RefCell<Vec<ConnId>>>::default();
    let mut simulation = Simulation::builder(1).build(|_| Quiet(ids.clone()));
    let mut peers: Vec<SimPeer> = (0..PEOPLE).map(|_| simulation.connect()).collect();
    for peer in &mut peers {
        peer.write(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        );
    }
    simulation.run();
    assert_eq!(ids.borrow().len(), PEOPLE);
    let remote = simulation.remote();
    // A shard has 64 KiB from its first subscription on.
    remote.subscribe(ids.borrow()[0], "first", Subscribe::new()).unwrap();
    remote.unsubscribe(ids.borrow()[0], "first").unwrap();
    simulation.run();
    let mut cost = |topic: &str| {
        let before = BYTES.with(Cell::get);
        for id in ids.borrow().iter() {
            remote.subscribe(*id, topic, Subscribe::new()).unwrap();
        }
        simulation.run();
        (BYTES.with(Cell::get) - before) as f64 / PEOPLE as f64
    };
    let costs = ["a", "b", "c", "d"].map(&mut cost);
    println!("bytes of the 1st to the 4th subscription: {costs:.1?}");
    assert!(costs[0] < 22.0, "the first: {costs:?}");
    // With it comes a record of its own, for them all.
    assert!(costs[1] < 70.0, "the second: {costs:?}");
    assert!((costs[2] + costs[3]) / 2.0 < 28.0, "further ones: {costs:?}");
}

/// The tests above can fail: the counter counts this thread's allocations.
#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.with(Cell::get);
    drop(std::hint::black_box(Vec::<u8>::with_capacity(10)));
    assert_eq!(ALLOCATIONS.with(Cell::get), before + 1);
}
