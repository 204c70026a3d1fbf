//! Decoding equals itself under every split of the input into reads.
//!
//! Streams of messages, fragments and control frames are built, some of them damaged, and read
//! whole, in every two parts, byte by byte, and in random parts. The transcripts must be one.

mod ws_support;

use proptest::collection::vec;
use proptest::prelude::*;
use ringwire::ws::{CloseCode, DecodeLimits, State, encode_ping, encode_pong};
use ringwire::ws::{
    Codec, Event, Kind, Message, Opcode, Role, encode_close, encode_fragment, encode_message,
};
use ws_support::{Reader, Seen};

/// What the sender does, and so what the receiver must see.
#[derive(Clone, Debug)]
enum Step {
    Whole(Payload),
    /// Cut at these places (modulo its length), with a ping after the first fragment.
    Fragmented(Payload, Vec<usize>, Option<Vec<u8>>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

#[derive(Clone, Debug)]
enum Payload {
    Text(String),
    Binary(Vec<u8>),
}

impl Payload {
    fn kind(&self) -> Kind {
        match self {
            Self::Text(_) => Kind::Text,
            Self::Binary(_) => Kind::Binary,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    fn seen(&self) -> Seen {
        match self {
            Self::Text(text) => Seen::Text(text.clone()),
            Self::Binary(bytes) => Seen::Binary(bytes.clone()),
        }
    }
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        "[a-zäß€😀]{0,12}".prop_map(Payload::Text),
        "[a-z日本語😀]{30,90}".prop_map(Payload::Text),
        vec(any::<u8>(), 0..40).prop_map(Payload::Binary),
        vec(any::<u8>(), 120..132).prop_map(Payload::Binary),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let control = || prop_oneof![4 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 120..126)];
    prop_oneof![
        3 => payload().prop_map(Step::Whole),
        3 => (payload(), vec(any::<usize>(), 1..5), proptest::option::of(control()))
            .prop_map(|(payload, cuts, ping)| Step::Fragmented(payload, cuts, ping)),
        1 => control().prop_map(Step::Ping),
        1 => control().prop_map(Step::Pong),
    ]
}

/// The bytes that `role` receives, and what it must see of them.
fn script(role: Role, steps: &[Step], close: Option<u16>, seed: u32) -> (Vec<u8>, Vec<Seen>) {
    let mut key = seed | 1;
    let mut mask = || {
        key = key.wrapping_mul(0x9e37_79b1).rotate_left(7);
        (role == Role::Server).then_some(key.to_le_bytes())
    };
    let (mut out, mut seen) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Whole(payload) => {
                encode_message(&mut out, payload.kind(), payload.bytes(), mask());
                seen.push(payload.seen());
            }
            Step::Fragmented(payload, cuts, ping) => {
                let bytes = payload.bytes();
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
                cuts.sort_unstable();
                let mut from = 0;
                for (i, &cut) in cuts.iter().enumerate() {
                    let opcode = if i == 0 { payload.kind().opcode() } else { Opcode::Continuation };
                    encode_fragment(&mut out, opcode, false, &bytes[from..cut], mask());
                    from = cut;
                    if let (0, Some(ping)) = (i, ping) {
                        encode_ping(&mut out, ping, mask());
                        seen.push(Seen::Ping(ping.clone()));
                    }
                }
                encode_fragment(&mut out, Opcode::Continuation, true, &bytes[from..], mask());
                seen.push(payload.seen());
            }
            Step::Ping(payload) => {
                encode_ping(&mut out, payload, mask());
                seen.push(Seen::Ping(payload.clone()));
            }
            Step::Pong(payload) => {
                encode_pong(&mut out, payload, mask());
                seen.push(Seen::Pong(payload.clone()));
            }
        }
    }
    if let Some(code) = close {
        encode_close(&mut out, Some(CloseCode(code)), "good-bye, 世界", mask());
        seen.push(Seen::Close(Some(CloseCode(code)), "good-bye, 世界".to_owned()));
    }
    (out, seen)
}

fn read_in<'a>(role: Role, reads: impl IntoIterator<Item = &'a [u8]>) -> Vec<Seen> {
    let limits = DecodeLimits { max_message_bytes: 4_096, stream: false };
    let mut reader = Reader::with_limits(role, limits);
    for read in reads {
        reader.read(read);
    }
    reader.seen
}

/// The same through the codec with its own buffers.
fn feed_in<'a>(role: Role, reads: impl IntoIterator<Item = &'a [u8]>) -> Vec<Seen> {
    let mut codec = match role {
        Role::Server => Codec::server(4_096),
        Role::Client => Codec::client(4_096, || [1, 2, 3, 4]),
    };
    let mut seen = Vec::new();
    for read in reads {
        let result = codec.feed(&mut read.to_vec(), |event, _| {
            seen.push(match event {
                Event::Message(Message::Text(text)) => Seen::Text(text.to_owned()),
                Event::Message(Message::Binary(bytes)) => Seen::Binary(bytes.to_owned()),
                Event::Ping(payload) => Seen::Ping(payload.to_owned()),
                Event::Pong(payload) => Seen::Pong(payload.to_owned()),
                Event::Close { code, reason } => Seen::Close(code, reason.to_owned()),
            });
        });
        if let Err(violation) = result {
            seen.push(Seen::Broke(violation));
        }
    }
    seen
}

fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(bytes.len());
    let mut from = 0;
    cuts.iter().map(|&cut| &bytes[std::mem::replace(&mut from, cut)..cut]).collect()
}

/// Reads `bytes` in every way and returns what was seen in one of them, which is what was seen in all.
fn read_every_way(role: Role, bytes: &[u8], cuts: &[Vec<usize>]) -> Vec<Seen> {
    let whole = read_in(role, [bytes]);
    for at in 0..=bytes.len() {
        let halves: [&[u8]; 2] = bytes.split_at(at).into();
        assert_eq!(read_in(role, halves), whole, "in two, at {at}");
    }
    assert_eq!(read_in(role, bytes.chunks(1)), whole, "byte by byte");
    assert_eq!(feed_in(role, [bytes]), whole, "codec");
    assert_eq!(feed_in(role, bytes.chunks(1)), whole, "codec, byte by byte");
    for cuts in cuts {
        let reads = pieces(bytes, cuts);
        assert_eq!(read_in(role, reads.iter().copied()), whole, "cut at {cuts:?}");
        assert_eq!(feed_in(role, reads), whole, "codec, cut at {cuts:?}");
    }
    whole
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![2 => Just(Role::Server), 1 => Just(Role::Client)]
}

fn cuts() -> impl Strategy<Value = Vec<Vec<usize>>> {
    vec(vec(any::<usize>(), 0..12), 4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_sent_is_seen(
        role in role(),
        steps in vec(step(), 0..6),
        close in proptest::option::of(prop_oneof![Just(1000), Just(3999), 1007..1015u16]),
        seed in any::<u32>(),
        cuts in cuts(),
    ) {
        let (bytes, expected) = script(role, &steps, close, seed);
        prop_assert_eq!(read_every_way(role, &bytes, &cuts), expected);
    }

    #[test]
    fn damage_is_seen_alike(
        role in role(),
        steps in vec(step(), 1..5),
        seed in any::<u32>(),
        damage in vec((any::<usize>(), any::<u8>()), 1..4),
        keep in any::<usize>(),
        cuts in cuts(),
    ) {
        let (mut bytes, _) = script(role, &steps, Some(1000), seed);
        for (at, xor) in damage {
            let at = at % bytes.len();
            bytes[at] ^= xor;
        }
        bytes.truncate(bytes.len() - keep % 3);
        read_every_way(role, &bytes, &cuts);
    }

    #[test]
    fn garbage_is_seen_alike(
        role in role(),
        start in prop_oneof![Just(0x81u8), Just(0x01), Just(0x82), Just(0x88), Just(0x89), any::<u8>()],
        bytes in vec(any::<u8>(), 0..200),
        cuts in cuts(),
    ) {
        read_every_way(role, &[&[start], &bytes[..]].concat(), &cuts);
    }

    #[test]
    fn large_messages_in_reads_of_any_size(
        len in 60_000..200_000usize,
        fragments in vec(any::<usize>(), 0..4),
        reads in vec(any::<usize>(), 0..10),
        seed in any::<u32>(),
    ) {
        let payload = Payload::Text("Grüße, 世界! 😀".chars().cycle().take(len / 2).collect());
        let step = match fragments.is_empty() {
            true => Step::Whole(payload),
            false => Step::Fragmented(payload, fragments, None),
        };
        let (bytes, expected) = script(Role::Server, &[step], None, seed);
        let mut reader = Reader::new(Role::Server);
        for read in pieces(&bytes, &reads) {
            reader.read(read);
        }
        prop_assert_eq!(reader.seen, expected);
    }
}

#[test]
fn a_close_frame_is_echoed_once_and_violations_are_told() {
    let mut server = Codec::server(100);
    let mut client = Codec::client(100, || [9, 8, 7, 6]);
    client.writer().send(Message::Text("last")).unwrap();
    client.writer().close(Some(CloseCode::NORMAL), "done");
    client.writer().close(Some(CloseCode::GOING_AWAY), "again");
    assert_eq!(client.state(), State::CloseSent);
    assert!(client.writer().send(Message::Text("late")).is_err());

    let mut events = Vec::new();
    let mut wire = std::mem::take(client.output());
    server.feed(&mut wire, |event, _| events.push(format!("{event:?}"))).unwrap();
    assert_eq!(
        events,
        ["Message(Text(\"last\"))", "Close { code: Some(CloseCode(1000)), reason: \"done\" }"]
    );
    assert_eq!(server.output(), b"\x88\x02\x03\xe8");
    assert_eq!(server.state(), State::Closed);

    let mut wire = std::mem::take(server.output());
    client.feed(&mut wire, |_, writer| assert!(writer.ping(b"").is_err())).unwrap();
    assert_eq!((client.state(), client.output().len()), (State::Closed, 0));

    let mut server = Codec::server(100);
    assert!(server.feed(&mut [0x81, 0x00], |_, _| panic!("no event")).is_err());
    assert_eq!(server.output(), b"\x88\x1c\x03\xeaclient frame is not masked");
    assert_eq!(server.state(), State::Closed);
}

#[test]
fn a_ping_is_answered_before_what_the_handler_says() {
    let mut server = Codec::server(100);
    let mut ping = ws_support::masked(0x89, b"beat");
    server
        .feed(&mut ping, |event, writer| {
            assert_eq!(event, Event::Ping(b"beat"));
            writer.send(Message::Binary(b"x")).unwrap();
        })
        .unwrap();
    assert_eq!(server.output(), b"\x8a\x04beat\x82\x01x");
}
