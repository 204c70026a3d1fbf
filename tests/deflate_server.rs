//! Compression through a running server, on both drivers: what is lent, owned, shared and refused.

use ringwire::ws::client::ClientHandshake;
use ringwire::ws::deflate::{DeflateOffer, DeflateParams, Deflater};
use ringwire::ws::{Codec, Event, FrameHead, Kind, Opcode, encode_deflated, encode_frame, encode_message};
use ringwire::{
    ClientRequest, CloseReason, Compression, Conn, ConnId, Deadlines, DeflateConfig, DriverChoice, Fragment,
    Handler, Limits, ListenAddr, Message, Prepared, Remote, Request, Server, ServerHandle, Shard, Upgrade,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Echoes at `/`, streams at `/stream`, does not compress at `/plain`, and at `/sends` answers in
/// each way of sending.
struct Service {
    told: Sender<String>,
    connect: Option<SocketAddr>,
    prepared: Prepared,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Echo,
    Sends,
    Client,
}

impl Handler for Service {
    type State = Path;

    fn upgrade(&mut self, request: &Request<'_>) -> Upgrade<Path> {
        match request.path() {
            "/plain" => Upgrade::accept(Path::Echo).without_compression(),
            "/stream" => Upgrade::accept(Path::Echo).stream_fragments(),
            "/sends" => Upgrade::accept(Path::Sends),
            _ => Upgrade::accept(Path::Echo),
        }
    }

    fn open(&mut self, conn: &mut Conn<'_, Path>) {
        if *conn.state() == Path::Client {
            self.told.send(format!("client compresses: {}", conn.compresses())).unwrap();
            conn.send_text(&prose(5_000));
        }
    }

    fn message(&mut self, conn: &mut Conn<'_, Path>, message: Message<'_>) {
        match conn.state() {
            Path::Echo => {
                conn.send(message);
            }
            Path::Sends => {
                conn.send(message);
                conn.send_uncompressed(message);
                conn.send_prepared(&self.prepared);
                conn.send_text("short");
            }
            Path::Client => {
                assert!(message == Message::Text(&prose(5_000)));
                self.told.send("client got its echo".to_owned()).unwrap();
                conn.close(ringwire::CloseCode::NORMAL, "");
            }
        }
    }

    fn fragment(&mut self, conn: &mut Conn<'_, Path>, fragment: Fragment<'_>) {
        let Fragment { payload, first, last, .. } = fragment;
        self.told.send(format!("fragment of {} {first} {last}", payload.len())).unwrap();
        if last {
            conn.send_text("done");
        }
    }

    fn close(&mut self, _: ConnId, _: Path, reason: CloseReason<'_>) {
        self.told.send(format!("closed {}", reason.code())).unwrap();
    }

    fn turn(&mut self, shard: &mut Shard<'_, Path>) -> Option<Duration> {
        if let Some(to) = self.connect.take() {
            shard.connect(to, ClientRequest::default(), Path::Client);
        }
        None
    }
}

struct Running {
    addr: SocketAddr,
    remote: Remote,
    handle: ServerHandle,
    told: Receiver<String>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(driver: DriverChoice, config: DeflateConfig, connects: bool) -> Self {
        Self::start_shards(1, driver, config, connects)
    }

    fn start_shards(shards: usize, driver: DriverChoice, config: DeflateConfig, connects: bool) -> Self {
        let addr: ListenAddr = "127.0.0.1:0".parse().unwrap();
        let limits =
            Limits { max_message_bytes: 300_000, max_broadcast_sends_per_turn: 3, ..Limits::default() };
        let server = Server::builder()
            .listen(addr)
            .shards(shards)
            .cores([])
            .driver(driver)
            .limits(limits)
            .deadlines(Deadlines { drain_ms: 200, ..Deadlines::default() })
            .compression(Compression::Deflate(config))
            .bind()
            .unwrap();
        let ListenAddr::Tcp(addr) = server.local_addrs()[0] else { panic!("TCP") };
        let (handle, remote) = (server.handle(), server.remote());
        let (teller, told) = channel();
        let thread = std::thread::spawn(move || {
            let service = |_: &_| Service {
                told: teller.clone(),
                connect: connects.then_some(addr),
                prepared: Prepared::text(prose(3_000)),
            };
            server.run(service).unwrap();
        });
        Self { addr, remote, handle, told, thread: Some(thread) }
    }

    fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        self.remote.write_metrics(&mut text);
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
        line.and_then(|line| line.split(' ').nth(1)).and_then(|value| value.parse().ok()).unwrap()
    }

    /// The metric as soon as it is this; the counters follow at the end of a turn.
    fn await_metric(&self, name: &str, value: u64) {
        for _ in 0..500 {
            if self.metric(name) == value {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{name} is {}, not {value}", self.metric(name));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop();
        let result = self.thread.take().unwrap().join();
        assert!(result.is_ok() || std::thread::panicking(), "the server panicked");
    }
}

/// A client of the codec's.
struct Peer {
    stream: TcpStream,
    codec: Codec,
    params: Option<DeflateParams>,
}

impl Peer {
    fn connect(server: &Running, path: &str, config: &DeflateConfig) -> Self {
        let mut stream = TcpStream::connect(server.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut handshake = ClientHandshake::new("localhost", path, [7; 16])
            .unwrap()
            .deflate(DeflateOffer::new(config, true));
        let mut request = Vec::new();
        handshake.write_request(&mut request);
        stream.write_all(&request).unwrap();
        let mut response = Vec::new();
        let established = loop {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            response.push(byte[0]);
            if let Some(established) = handshake.check_response(&response).unwrap() {
                break established;
            }
        };
        let mut codec = Codec::client(1 << 20, || MASK);
        if let Some(params) = established.deflate {
            codec = codec.with_deflate(params, config);
        }
        Self { stream, codec, params: established.deflate }
    }

    fn send(&mut self, message: &str) {
        self.codec.writer().send(Message::Text(message)).unwrap();
        let bytes = std::mem::take(self.codec.output());
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next messages, and all the bytes that carried them.
    fn receive(&mut self, count: usize) -> (Vec<String>, Vec<u8>) {
        let (mut seen, mut wire) = (Vec::new(), Vec::new());
        while seen.len() < count {
            let mut bytes = [0; 64 << 10];
            let len = match self.stream.read(&mut bytes) {
                // read(2) with a timeout is not restarted after a signal.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result.unwrap(),
            };
            assert!(len > 0, "the server ended the connection; seen {seen:?}");
            wire.extend_from_slice(&bytes[..len]);
            let feed = self.codec.feed(&mut bytes[..len], |event, _| match event {
                Event::Message(Message::Text(text)) => seen.push(text.to_owned()),
                Event::Close { code, .. } => seen.push(format!("close {}", code.unwrap())),
                other => panic!("{other:?}"),
            });
            feed.unwrap();
        }
        (seen, wire)
    }

    fn echo(&mut self, message: &str) -> usize {
        self.send(message);
        let (seen, wire) = self.receive(1);
        assert!(seen[0] == message);
        wire.len()
    }
}

fn prose(len: usize) -> String {
    let mut state = 12_345_u32;
    let mut out = String::new();
    while out.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.push_str(&format!("{{\"id\":{},\"price\":{}}},", state >> 20, state >> 24));
    }
    out.truncate(len);
    out
}

fn drivers() -> Vec<DriverChoice> {
    if std::env::var_os("RINGWIRE_SKIP_URING").is_some_and(|value| value == "1") {
        eprintln!("skipped on uring: RINGWIRE_SKIP_URING=1");
        return vec![DriverChoice::Epoll];
    }
    vec![DriverChoice::Uring, DriverChoice::Epoll]
}

fn on_each_driver(config: &DeflateConfig, test: impl Fn(&Running)) {
    for driver in drivers() {
        test(&Running::start(driver, config.clone(), false));
    }
}

fn keeping() -> DeflateConfig {
    DeflateConfig { takeover: true, ..DeflateConfig::default() }
}

fn deflated(message: &str) -> Vec<u8> {
    let mut out = Vec::new();
    Deflater::new(6, 15).compress(message.as_bytes(), false, &mut out);
    out
}

fn fragment(b0: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let head = FrameHead { fin: true, rsv1: false, opcode: Opcode::Text, mask: Some(MASK) };
    encode_frame(&mut out, head, payload);
    out[0] = b0;
    out
}

#[test]
fn echoes_and_owns_nothing_in_between() {
    on_each_driver(&DeflateConfig::default(), |server| {
        let mut peers: Vec<Peer> =
            (0..20).map(|_| Peer::connect(server, "/", &DeflateConfig::default())).collect();
        for message in [prose(100), prose(1_000), prose(70_000), prose(290_000), "ö".repeat(90_000)] {
            for peer in &mut peers {
                let wire = peer.echo(&message);
                assert!(message.len() < 128 || wire * 2 < message.len(), "{wire} of {}", message.len());
            }
        }
        server.await_metric("ringwire_busy_connections", 0);
        assert_eq!(server.metric("ringwire_inflaters_lent"), 0);
        assert_eq!(server.metric("ringwire_deflate_takeover_bytes"), 0);
        assert_eq!(server.metric("ringwire_messages_deflated_total"), 80);
        assert!(server.metric("ringwire_inflated_bytes_total") > 20 * 500_000);
    });
}

#[test]
fn takeover_is_owned_out_of_a_budget() {
    let per_connection = Deflater::memory_bytes(15) + ringwire::ws::deflate::Inflater::MEMORY_BYTES;
    let config = DeflateConfig { max_takeover_bytes: 2 * per_connection as u32, ..keeping() };
    on_each_driver(&config, |server| {
        let mut first = Peer::connect(server, "/", &keeping());
        let mut second = Peer::connect(server, "/", &keeping());
        let message = prose(2_000);
        for peer in [&mut first, &mut second] {
            assert!(peer.params.unwrap().server.takeover && peer.params.unwrap().client.takeover);
            let fresh = peer.echo(&message);
            assert!(peer.echo(&message) * 4 < fresh, "the window is kept");
        }
        server.await_metric("ringwire_deflate_takeover_bytes", 2 * per_connection as u64);
        let mut third = Peer::connect(server, "/", &keeping());
        assert!(!third.params.unwrap().server.takeover && !third.params.unwrap().client.takeover);
        assert_eq!(third.echo(&message), third.echo(&message));
        drop(first);
        server.await_metric("ringwire_deflate_takeover_bytes", per_connection as u64);
        let mut fourth = Peer::connect(server, "/", &keeping());
        assert!(fourth.params.unwrap().server.takeover, "the budget came back");
        fourth.echo(&message);
        drop((second, third, fourth));
        server.await_metric("ringwire_deflate_takeover_bytes", 0);
    });
}

#[test]
fn messages_in_parts_borrow_inflaters_up_to_the_limit() {
    let config = DeflateConfig { max_inflaters: 2, ..DeflateConfig::default() };
    on_each_driver(&config, |server| {
        let mut peers: Vec<Peer> = (0..5).map(|_| Peer::connect(server, "/", &config)).collect();
        let message = prose(200_000);
        let bytes = deflated(&message);
        let (begin, end) = bytes.split_at(bytes.len() / 2);
        for peer in &mut peers {
            peer.stream.write_all(&fragment(0x41, begin)).unwrap();
        }
        server.await_metric("ringwire_inflates_held_total", 3);
        assert_eq!(server.metric("ringwire_inflaters_lent"), 2);
        // One that vanishes gives back what it borrowed.
        peers.remove(0);
        server.await_metric("ringwire_inflaters_lent", 1);
        for peer in &mut peers {
            peer.stream.write_all(&fragment(0x00, &end[..100])).unwrap();
            peer.stream.write_all(&fragment(0x80, &end[100..])).unwrap();
            let (seen, _) = peer.receive(1);
            assert!(seen[0] == message);
        }
        server.await_metric("ringwire_inflaters_lent", 0);
        server.await_metric("ringwire_busy_connections", 0);
    });
}

#[test]
fn bombs_and_corrupt_streams_end_their_connection_only() {
    on_each_driver(&DeflateConfig::default(), |server| {
        let mut bystander = Peer::connect(server, "/", &DeflateConfig::default());
        let bomb = deflated(&"0".repeat(8 << 20));
        let truncated = deflated(&prose(500));
        for (payload, code) in [(&bomb[..], 1009), (&truncated[..100], 1007), (b"\xff\xff", 1007)] {
            let mut peer = Peer::connect(server, "/", &DeflateConfig::default());
            let mut wire = Vec::new();
            encode_deflated(&mut wire, Kind::Text, payload, Some(MASK));
            peer.stream.write_all(&wire).unwrap();
            assert_eq!(peer.receive(1).0, [format!("close {code}")]);
            assert_eq!(server.told.recv_timeout(Duration::from_secs(20)).unwrap(), format!("closed {code}"));
            bystander.echo(&prose(400));
        }
        server.await_metric("ringwire_inflaters_lent", 0);
    });
}

#[test]
fn fragments_are_streamed_as_they_inflate() {
    on_each_driver(&DeflateConfig::default(), |server| {
        let mut peer = Peer::connect(server, "/stream", &DeflateConfig::default());
        // Far more than max_message_bytes, of which little is held at any time.
        let mut wire = Vec::new();
        encode_deflated(&mut wire, Kind::Text, &deflated(&"0".repeat(1 << 20)), Some(MASK));
        encode_message(&mut wire, Kind::Text, b"plain", Some(MASK));
        peer.stream.write_all(&wire).unwrap();
        assert_eq!(peer.receive(2).0, ["done", "done"]);
        let told: Vec<String> = server.told.try_iter().collect();
        assert_eq!(told.len(), 18, "{told:?}");
        assert_eq!(told[0], "fragment of 65536 true false");
        assert!(told[1..16].iter().all(|line| line == "fragment of 65536 false false"));
        assert_eq!(told[16], "fragment of 0 false true");
        assert_eq!(told[17], "fragment of 5 true true");
    });
}

#[test]
fn the_handler_decides_for_a_connection_and_for_a_message() {
    on_each_driver(&keeping(), |server| {
        assert_eq!(Peer::connect(server, "/plain", &keeping()).params, None);
        for config in [keeping(), DeflateConfig::default()] {
            let mut peer = Peer::connect(server, "/sends", &config);
            let message = prose(3_000);
            for _ in 0..3 {
                peer.send(&message);
                let (seen, wire) = peer.receive(4);
                assert!(seen == [&message[..], &message[..], &message[..], "short"]);
                assert_eq!(wire[0], 0xc1, "compressed");
                let plain = wire.windows(message.len()).position(|window| window == message.as_bytes());
                let plain = plain.expect("the second one is not");
                assert_eq!(wire[plain - 4], 0x81);
                assert_eq!(wire[plain + message.len()], 0xc1, "the third one is");
                assert!(wire.ends_with(b"\x81\x05short"));
            }
        }
    });
}

#[test]
fn prepared_messages_go_out_through_remote() {
    struct Greeter(Remote, Prepared);
    impl Handler for Greeter {
        type State = ();
        fn upgrade(&mut self, _: &Request<'_>) -> Upgrade<()> {
            Upgrade::accept(())
        }
        fn open(&mut self, conn: &mut Conn<'_, ()>) {
            self.0.send_prepared(conn.id(), &self.1).unwrap();
        }
        fn message(&mut self, _: &mut Conn<'_, ()>, _: Message<'_>) {}
    }
    let server = Server::builder()
        .listen("127.0.0.1:0".parse::<ListenAddr>().unwrap())
        .shards(1)
        .cores([])
        .compression(Compression::Deflate(DeflateConfig::default()))
        .bind()
        .unwrap();
    let ListenAddr::Tcp(addr) = server.local_addrs()[0] else { panic!("TCP") };
    let (handle, remote, prepared) = (server.handle(), server.remote(), Prepared::text(prose(2_000)));
    let (_, told) = channel();
    let running = Running {
        addr,
        remote,
        handle,
        told,
        thread: Some(std::thread::spawn(move || {
            server.run(|info| Greeter(info.remote.clone(), prepared.clone())).unwrap();
        })),
    };
    let small = DeflateConfig { max_peer_window_bits: 9, ..DeflateConfig::default() };
    let sizes = [&small, &DeflateConfig::default(), &small].map(|config| {
        let (seen, wire) = Peer::connect(&running, "/", config).receive(1);
        assert!(seen[0] == prose(2_000));
        wire.len()
    });
    assert_eq!(sizes[0], sizes[2]);
    running.await_metric("ringwire_messages_deflated_total", 3);
    let headers = 3 * 4;
    let sum = sizes.iter().sum::<usize>() as u64;
    assert_eq!(running.metric("ringwire_deflated_bytes_sent_total"), sum - headers);
    assert!(sizes[1] < sizes[0] && sizes[0] < 2_000, "each window has its own: {sizes:?}");
}

#[test]
fn a_message_to_all_reaches_whoever_compresses_in_its_way() {
    let per_connection = Deflater::memory_bytes(15) + ringwire::ws::deflate::Inflater::MEMORY_BYTES;
    let config = DeflateConfig { max_takeover_bytes: 2 * per_connection as u32, ..keeping() };
    let small = DeflateConfig { max_peer_window_bits: 9, ..DeflateConfig::default() };
    for (driver, shards) in drivers().into_iter().flat_map(|driver| [(driver, 1), (driver, 2)]) {
        let server = Running::start_shards(shards, driver, config.clone(), false);
        let mut peers: Vec<Peer> = Vec::new();
        for offer in [&keeping(), &DeflateConfig::default(), &small, &small] {
            for path in ["/", "/plain", "/"] {
                peers.push(Peer::connect(&server, path, offer));
            }
        }
        let messages = [prose(2_000), "short".to_owned(), prose(120_000), prose(500), prose(2_000)];
        for message in &messages {
            server.remote.broadcast(&Prepared::text(message.as_str()), 0).unwrap();
        }
        let mut sizes = std::collections::BTreeMap::new();
        for peer in &mut peers {
            let (seen, wire) = peer.receive(messages.len());
            assert!(seen == messages, "{:?}", seen.iter().map(String::len).collect::<Vec<_>>());
            let way = peer.params.map(|params| (params.server.bits, params.server.takeover));
            let others = sizes.entry(way).or_insert(wire.len());
            assert_eq!(*others, wire.len(), "{way:?}");
            peer.echo("and on");
        }
        assert!(sizes[&None] > 124_500, "{sizes:?}");
        assert!(
            sizes.len() == 4 && sizes.iter().all(|(way, bytes)| way.is_none() || bytes * 2 < sizes[&None]),
            "{sizes:?}"
        );
    }
}

#[test]
fn the_client_role_compresses() {
    for config in [DeflateConfig::default(), keeping()] {
        for driver in drivers() {
            let server = Running::start(driver, config.clone(), true);
            let told: Vec<String> =
                (0..3).map(|_| server.told.recv_timeout(Duration::from_secs(20)).unwrap()).collect();
            assert_eq!(told[..2], ["client compresses: true", "client got its echo"], "{told:?}");
            server.await_metric("ringwire_messages_deflated_total", 2);
            server.await_metric("ringwire_deflate_takeover_bytes", 0);
        }
    }
}
