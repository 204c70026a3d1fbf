//! Work to be counted in instructions rather than timed: the codec, and a whole turn of a shard in
//! simulation. `tests/instructions/run` runs it under valgrind; by itself it only does the work.
//!
//! `instructions CASE ROUNDS`; without arguments every case once. Answers are asserted.

use ringwire::sim::{SimPeer, Simulation};
use ringwire::ws::client::ClientHandshake;
use ringwire::ws::{CloseCode, DecodeLimits, Item, Kind, Role, Session, encode_close, encode_message};
use ringwire::{Conn, Handler, Message, Request, Upgrade};
use std::hint::black_box;

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
/// A world in which a shard hands over its sends when the turn ends, as on io_uring, and one in which a send is tried
/// when it is asked for, as on epoll.
const AT_THE_END: u64 = 2;
const AT_ONCE: u64 = 1;
const LIMITS: DecodeLimits = DecodeLimits { max_message_bytes: 1 << 20, stream: false };

/// A case by its name: what one round of it does, for messages of so many bytes.
enum Case {
    Decode(Role, Kind, Vec<u8>),
    Encode(Vec<u8>, Option<[u8; 4]>),
    /// Echoes of so many messages in one turn, in the world of that seed.
    Turn(Vec<u8>, usize, u64),
    /// Connections that open, as a browser opens one, and close.
    Handshakes,
}

fn case(name: &str) -> Option<Case> {
    let ascii = |bytes: usize| (0..bytes).map(|at| b'a' + (at % 26) as u8).collect::<Vec<u8>>();
    let cjk = "指輪を一つずつ線で結ぶ。".repeat(4).into_bytes()[..123].to_vec();
    Some(match name {
        "decode/text/20" => Case::Decode(Role::Server, Kind::Text, ascii(20)),
        "decode/binary/20" => Case::Decode(Role::Server, Kind::Binary, ascii(20)),
        "decode/cjk/123" => Case::Decode(Role::Server, Kind::Text, cjk),
        "decode/unmasked/text/20" => Case::Decode(Role::Client, Kind::Text, ascii(20)),
        "decode/unmasked/cjk/123" => Case::Decode(Role::Client, Kind::Text, cjk),
        "decode/unmasked/binary/20" => Case::Decode(Role::Client, Kind::Binary, ascii(20)),
        "decode/text/16384" => Case::Decode(Role::Server, Kind::Text, ascii(16_384)),
        "decode/binary/16384" => Case::Decode(Role::Server, Kind::Binary, ascii(16_384)),
        "encode/20" => Case::Encode(ascii(20), None),
        "encode/masked/20" => Case::Encode(ascii(20), Some(MASK)),
        "encode/512" => Case::Encode(ascii(512), None),
        "turn/1x20" => Case::Turn(ascii(20), 1, AT_THE_END),
        "turn/128x20" => Case::Turn(ascii(20), 128, AT_THE_END),
        "turn/1x16384" => Case::Turn(ascii(16_384), 1, AT_THE_END),
        "turn/at-once/1x20" => Case::Turn(ascii(20), 1, AT_ONCE),
        "turn/handshake" => Case::Handshakes,
        _ => return None,
    })
}

/// All of them; `tests/instructions/run` asks for this list.
const CASES: &[&str] = &[
    "decode/text/20",
    "decode/binary/20",
    "decode/cjk/123",
    "decode/unmasked/text/20",
    "decode/unmasked/cjk/123",
    "decode/unmasked/binary/20",
    "decode/text/16384",
    "decode/binary/16384",
    "encode/20",
    "encode/masked/20",
    "encode/512",
    "turn/1x20",
    "turn/128x20",
    "turn/1x16384",
    "turn/at-once/1x20",
    "turn/handshake",
];

struct Echo;

impl Handler for Echo {
    type State = ();

    fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<()> {
        Upgrade::accept(())
    }

    fn message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        conn.send(message);
    }
}

/// The same work `rounds` times, so that the difference between two runs is that of the rounds.
/// Returns messages done.
fn run(case: &Case, rounds: usize) -> usize {
    match case {
        Case::Decode(role, kind, payload) => decode(*role, *kind, payload, rounds),
        Case::Encode(payload, mask) => encode(payload, *mask, rounds),
        Case::Turn(payload, messages, seed) => turns(payload, *messages, *seed, rounds),
        Case::Handshakes => handshakes(rounds),
    }
}

// Functions of their own: in one, what a case is compiled to would depend on the others.
#[inline(never)]
fn decode(role: Role, kind: Kind, payload: &[u8], rounds: usize) -> usize {
    let mut session = Session::new(role);
    let mut input = Vec::new();
    // A mask of zeros is the same work, and leaves the frame as it is for the next round.
    let mask = (role == Role::Server).then_some([0; 4]);
    encode_message(&mut input, kind, payload, mask);
    let mut messages = 0;
    for _ in 0..rounds {
        let mut at = 0;
        while let Some(item) = session.decode(black_box(&mut input), &mut at, &LIMITS).expect("valid frames")
        {
            let Item::Message { payload: range, .. } = item else { panic!("a message was sent") };
            messages += usize::from(input[range].len() == payload.len());
        }
    }
    messages
}

#[inline(never)]
fn encode(payload: &[u8], mask: Option<[u8; 4]>, rounds: usize) -> usize {
    let mut out = Vec::with_capacity(payload.len() + 64);
    for _ in 0..rounds {
        out.clear();
        encode_message(black_box(&mut out), Kind::Binary, black_box(payload), mask);
    }
    rounds * usize::from(out.len() > payload.len())
}

fn connect(simulation: &mut Simulation<Echo>) -> SimPeer {
    let mut peer = simulation.connect();
    let handshake = ClientHandshake::new("localhost", "/", [7; 16]).expect("a valid request");
    let mut request = Vec::new();
    handshake.write_request(&mut request);
    peer.write(&request);
    simulation.run();
    assert!(peer.read().starts_with(b"HTTP/1.1 101"));
    peer
}

#[inline(never)]
fn turns(payload: &[u8], messages: usize, seed: u64, rounds: usize) -> usize {
    let mut simulation = Simulation::builder(seed).build(|_| Echo);
    let mut peer = connect(&mut simulation);
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    for _ in 0..messages {
        encode_message(&mut request, Kind::Binary, payload, Some(MASK));
        encode_message(&mut answer, Kind::Binary, payload, None);
    }
    for _ in 0..rounds {
        peer.write(&request);
        simulation.run();
        assert!(peer.read() == answer, "every message comes back");
    }
    rounds * messages
}

#[inline(never)]
fn handshakes(rounds: usize) -> usize {
    let mut simulation = Simulation::builder(AT_THE_END).build(|_| Echo);
    let mut close = Vec::new();
    encode_close(&mut close, Some(CloseCode::NORMAL), "", Some(MASK));
    for _ in 0..rounds {
        let mut peer = connect(&mut simulation);
        peer.write(&close);
        simulation.run();
        assert!(peer.read().starts_with(&[0x88, 2]), "the close is answered");
        simulation.run();
        assert_eq!(simulation.connections(), 0);
    }
    rounds
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    match &arguments[..] {
        [list] if list == "list" => CASES.iter().for_each(|name| println!("{name}")),
        [name, rounds] => {
            let case = case(name).expect("a case by that name");
            let messages = run(&case, rounds.parse().expect("a number of rounds"));
            println!("{messages}");
        }
        _ => {
            for name in CASES {
                let messages = run(&case(name).expect("a case by that name"), 10);
                assert!(messages >= 10, "{name}");
            }
        }
    }
}
