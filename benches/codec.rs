//! Decoding and encoding beside bare copies and beside other crates, answers asserted.
//!
//! `cargo bench --bench codec` runs criterion and then prints the ratios, which come out of rounds
//! in which the contestants take turns; `cargo bench --bench codec -- ratios` prints only those.

use criterion::{BenchmarkId, Criterion, Throughput};
use ringwire::ws::{DecodeLimits, Item, Kind, Role, Session, encode_message};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
/// A receive buffer's worth of frames.
const BUFFER_BYTES: usize = 64 << 10;
const LIMITS: DecodeLimits = DecodeLimits { max_message_bytes: 1 << 20, stream: false };

/// Frames of one kind and size, as a client sends them.
struct Traffic {
    kind: Kind,
    payload: Vec<u8>,
    wire: Vec<u8>,
    frames: usize,
}

impl Traffic {
    fn new(kind: Kind, payload_bytes: usize, mask: [u8; 4]) -> Self {
        let payload: Vec<u8> = (0..payload_bytes).map(|i| b'a' + (i % 26) as u8).collect();
        let frames = (BUFFER_BYTES / (payload_bytes + 6)).max(1);
        let mut wire = Vec::new();
        for _ in 0..frames {
            encode_message(&mut wire, kind, &payload, Some(mask));
        }
        Self { kind, payload, wire, frames }
    }

    fn name(&self) -> String {
        format!("{:?} {} B", self.kind, self.payload.len())
    }
}

/// Decodes the buffer and hands every payload over. Returns messages and their bytes.
fn decode(session: &mut Session, input: &mut [u8]) -> (usize, usize) {
    let (mut at, mut messages, mut bytes) = (0, 0, 0);
    while let Some(item) = session.decode(input, &mut at, &LIMITS).expect("valid frames") {
        if let Item::Message { payload, .. } = item {
            messages += 1;
            bytes += black_box(&input[payload]).len();
        }
    }
    (messages, bytes)
}

/// The least anybody could do: read each length, copy the payload.
fn bare_copy(input: &[u8], out: &mut [u8]) -> (usize, usize) {
    let (mut at, mut messages, mut bytes) = (0, 0, 0);
    while at < input.len() {
        let (header, len) = match input[at + 1] & 0x7f {
            126 => (8, usize::from(u16::from_be_bytes([input[at + 2], input[at + 3]]))),
            len => (6, usize::from(len)),
        };
        let payload = at + header..at + header + len;
        at = payload.end;
        out[..len].copy_from_slice(&input[payload]);
        bytes += black_box(&mut out[..len]).len();
        messages += 1;
    }
    (messages, bytes)
}

/// A peer that sends the same traffic for ever.
struct Endless {
    wire: Vec<u8>,
    at: usize,
}

impl Endless {
    fn fill(&mut self, out: &mut [u8]) -> usize {
        let len = out.len().min(self.wire.len() - self.at);
        out[..len].copy_from_slice(&self.wire[self.at..self.at + len]);
        self.at = (self.at + len) % self.wire.len();
        len
    }
}

impl Read for Endless {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        Ok(self.fill(out))
    }
}

impl Write for Endless {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let len = out.remaining().min(self.wire.len() - self.at);
        out.put_slice(&self.wire[self.at..self.at + len]);
        self.at = (self.at + len) % self.wire.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Reads a round of frames and returns messages and their bytes.
type Contestant = Box<dyn FnMut() -> (usize, usize)>;

/// In place over one buffer. The mask is zero, so that the text is the same from round to round.
fn ours(traffic: &Traffic) -> Contestant {
    let mut input = Traffic::new(traffic.kind, traffic.payload.len(), [0; 4]).wire;
    let mut session = Session::new(Role::Server);
    Box::new(move || decode(&mut session, black_box(&mut input)))
}

/// The client's end of the same traffic, which comes unmasked.
fn ours_as_client(traffic: &Traffic) -> Contestant {
    let mut input = Vec::new();
    for _ in 0..traffic.frames {
        encode_message(&mut input, traffic.kind, &traffic.payload, None);
    }
    let mut session = Session::new(Role::Client);
    Box::new(move || decode(&mut session, black_box(&mut input)))
}

/// With the copy from the transport that the other crates pay as well.
fn ours_from_stream(traffic: &Traffic) -> Contestant {
    let mut stream = Endless { wire: traffic.wire.clone(), at: 0 };
    let mut input = vec![0; traffic.wire.len()];
    let mut session = Session::new(Role::Server);
    Box::new(move || {
        stream.fill(&mut input);
        decode(&mut session, black_box(&mut input))
    })
}

fn bare(traffic: &Traffic) -> Contestant {
    let input = traffic.wire.clone();
    let mut out = vec![0; traffic.payload.len()];
    Box::new(move || bare_copy(black_box(&input), &mut out))
}

fn with_tungstenite(traffic: &Traffic) -> Contestant {
    use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
    let stream = Endless { wire: traffic.wire.clone(), at: 0 };
    let config = WebSocketConfig::default().read_buffer_size(128 << 10);
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, Some(config));
    let frames = traffic.frames;
    Box::new(move || {
        let mut bytes = 0;
        for _ in 0..frames {
            bytes += black_box(socket.read().expect("valid frames")).len();
        }
        (frames, bytes)
    })
}

fn with_fastwebsockets(traffic: &Traffic) -> Contestant {
    use fastwebsockets::{Role, WebSocket};
    let stream = Endless { wire: traffic.wire.clone(), at: 0 };
    let mut socket = WebSocket::after_handshake(stream, Role::Server);
    let frames = traffic.frames;
    Box::new(move || {
        let mut round = Box::pin(async {
            let mut bytes = 0;
            for _ in 0..frames {
                bytes += black_box(socket.read_frame().await.expect("valid frames")).payload.len();
            }
            (frames, bytes)
        });
        match round.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(read) => read,
            Poll::Pending => unreachable!("the stream never waits"),
        }
    })
}

type Make = fn(&Traffic) -> Contestant;

const DECODERS: [(&str, Make); 6] = [
    ("ringwire", ours),
    ("ringwire as client", ours_as_client),
    ("bare loop", bare),
    ("ringwire from stream", ours_from_stream),
    ("tungstenite", with_tungstenite),
    ("fastwebsockets", with_fastwebsockets),
];

fn encoder(traffic: &Traffic) -> Contestant {
    let (kind, payload, frames) = (traffic.kind, traffic.payload.clone(), traffic.frames);
    let mut out = Vec::with_capacity(2 * BUFFER_BYTES);
    Box::new(move || {
        out.clear();
        for _ in 0..frames {
            encode_message(black_box(&mut out), kind, black_box(&payload), None);
        }
        (frames, frames * payload.len())
    })
}

/// What encoding costs at least: the payload's copy.
fn bare_extend(traffic: &Traffic) -> Contestant {
    let (payload, frames) = (traffic.payload.clone(), traffic.frames);
    let mut out = Vec::with_capacity(2 * BUFFER_BYTES);
    Box::new(move || {
        out.clear();
        for _ in 0..frames {
            black_box(&mut out).extend_from_slice(black_box(&payload));
        }
        (frames, frames * payload.len())
    })
}

const ENCODERS: [(&str, Make); 2] = [("encode", encoder), ("extend_from_slice", bare_extend)];

fn traffics() -> [Traffic; 4] {
    [(Kind::Text, 20), (Kind::Text, 120), (Kind::Text, 1_000), (Kind::Binary, 16 << 10)]
        .map(|(kind, len)| Traffic::new(kind, len, MASK))
}

/// What is decoded is what was encoded, before anything is timed.
fn assert_answers(traffic: &Traffic) {
    let mut input = traffic.wire.clone();
    let (mut at, mut session) = (0, Session::new(Role::Server));
    while let Some(item) = session.decode(&mut input, &mut at, &LIMITS).expect("valid frames") {
        match item {
            Item::Message { kind, payload } => {
                assert_eq!((kind, &input[payload]), (traffic.kind, &traffic.payload[..]));
            }
            other => panic!("{other:?}"),
        }
    }
    for (name, make) in DECODERS.into_iter().chain(ENCODERS) {
        let expected = (traffic.frames, traffic.frames * traffic.payload.len());
        assert_eq!(make(traffic)(), expected, "{name}");
    }
}

fn criterion_benches() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for (group, contestants) in [("decode", &DECODERS[..]), ("encode", &ENCODERS[..])] {
        let mut group = criterion.benchmark_group(group);
        for traffic in traffics() {
            group.throughput(Throughput::Elements(traffic.frames as u64));
            for (name, make) in contestants {
                let mut run = make(&traffic);
                group.bench_function(BenchmarkId::new(*name, traffic.name()), |b| b.iter(&mut run));
            }
        }
        group.finish();
    }
    criterion.final_summary();
}

/// Median nanoseconds per frame of each contestant; they take turns, so that a slow moment of the
/// machine is everybody's.
fn interleaved(traffic: &Traffic, contestants: &[(&str, Make)]) -> Vec<f64> {
    const ROUNDS: usize = 401;
    let mut runs: Vec<Contestant> = contestants.iter().map(|(_, make)| make(traffic)).collect();
    let mut times = vec![Vec::with_capacity(ROUNDS); runs.len()];
    for _ in 0..ROUNDS {
        for (run, times) in runs.iter_mut().zip(&mut times) {
            let start = Instant::now();
            black_box(run());
            times.push(start.elapsed().as_nanos() as f64 / traffic.frames as f64);
        }
    }
    times
        .iter_mut()
        .map(|times| {
            times.sort_unstable_by(f64::total_cmp);
            times[ROUNDS / 2]
        })
        .collect()
}

fn print_ratios() {
    println!("\nratios: median ns per frame, contestants taking turns");
    for traffic in traffics() {
        let [ours, client, bare, from_stream, tungstenite, fastwebsockets] =
            interleaved(&traffic, &DECODERS)[..].try_into().expect("six contestants");
        println!(
            "decode {:>14}: {ours:7.2} = {:.2} x bare loop ({bare:.2}), as client {client:.2}; {from_stream:7.2} from a stream: \
             {:.1} x tungstenite's speed ({tungstenite:.1}), {:.1} x fastwebsockets' ({fastwebsockets:.1})",
            traffic.name(),
            ours / bare,
            tungstenite / from_stream,
            fastwebsockets / from_stream,
        );
    }
    for traffic in traffics() {
        let [ours, bare] = interleaved(&traffic, &ENCODERS)[..].try_into().expect("two contestants");
        println!(
            "encode {:>14}: {ours:7.2} = {:.2} x extend_from_slice ({bare:.2})",
            traffic.name(),
            ours / bare
        );
    }
}

fn main() {
    traffics().iter().for_each(assert_answers);
    if !std::env::args().any(|argument| argument == "ratios") {
        criterion_benches();
    }
    print_ratios();
}
