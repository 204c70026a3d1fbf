//! Compressed messages as transcripts (RFC 7692 §6, §7.2): bytes in, events out.
//!
//! miniz, an independent implementation, is the oracle both ways.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use proptest::collection::vec;
use proptest::prelude::*;
use ringwire::DeflateConfig;
use ringwire::ws::deflate::{DeflateParams, Deflater, Window};
use ringwire::ws::{
    CloseCode, Closing, Codec, Event, FrameHead, Kind, Message, Opcode, Role, State, Violation, encode_frame,
};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A line of the transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Close(Option<CloseCode>),
    Broke(Violation),
}

fn text(text: &str) -> Seen {
    Seen::Text(text.to_owned())
}

const LENT: Window = Window { bits: 15, takeover: false };
const NO_TAKEOVER: DeflateParams = DeflateParams { server: LENT, client: LENT };
const TAKEOVER: DeflateParams = DeflateParams { server: Window::FULL, client: Window::FULL };

fn all_sizes() -> DeflateConfig {
    DeflateConfig { min_bytes: 0, ..DeflateConfig::default() }
}

fn server(params: DeflateParams) -> Codec {
    Codec::server(1 << 20).with_deflate(params, &all_sizes())
}

fn client(params: DeflateParams) -> Codec {
    Codec::client(1 << 20, || MASK).with_deflate(params, &all_sizes())
}

fn feed(codec: &mut Codec, bytes: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut bytes = bytes.to_vec();
    let result = codec.feed(&mut bytes, |event, _| {
        seen.push(match event {
            Event::Message(Message::Text(text)) => Seen::Text(text.to_owned()),
            Event::Message(Message::Binary(bytes)) => Seen::Binary(bytes.to_vec()),
            Event::Ping(bytes) | Event::Pong(bytes) => Seen::Ping(bytes.to_vec()),
            Event::Close { code, .. } => Seen::Close(code),
        });
    });
    seen.extend(result.err().map(Seen::Broke));
    seen
}

/// A frame with these first bits; masked as a client's.
fn masked(b0: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let head = FrameHead { fin: true, rsv1: false, opcode: Opcode::Text, mask: Some(MASK) };
    encode_frame(&mut out, head, payload);
    out[0] = b0;
    out
}

/// What a server makes of a client's compressed text message with this payload.
fn takes(params: DeflateParams, payload: &[u8]) -> Vec<Seen> {
    feed(&mut server(params), &masked(0xc1, payload))
}

/// miniz, as a peer that compresses.
struct Oracle(Compress);

impl Oracle {
    fn new() -> Self {
        Self(Compress::new(Compression::new(6), false))
    }

    fn deflate(&mut self, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(message.len() * 2 + 64);
        self.0.compress_vec(message, &mut out, FlushCompress::Sync).unwrap();
        assert!(out.ends_with(&[0, 0, 0xff, 0xff]), "{out:?}");
        out.truncate(out.len() - 4);
        out
    }
}

fn deflate(message: &[u8]) -> Vec<u8> {
    Oracle::new().deflate(message)
}

/// miniz, as a peer that inflates; with `takeover` it is used for message after message.
fn oracle_inflate(stream: &mut Decompress, deflated: &[u8], len: usize) -> Vec<u8> {
    let input = [deflated, &[0, 0, 0xff, 0xff]].concat();
    let mut out = Vec::with_capacity(len + 64);
    stream.decompress_vec(&input, &mut out, FlushDecompress::Sync).unwrap();
    out
}

/// Inflates with a window of just this size, so that what refers beyond it comes out wrong.
fn inflate_within(window_bits: u8, deflated: &[u8]) -> Vec<u8> {
    use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags::*};
    let mut window = vec![0xa5; 1 << window_bits];
    let input = [deflated, &[0, 0, 0xff, 0xff]].concat();
    let (mut state, mut at, mut position, mut out) = (DecompressorOxide::new(), 0, 0, Vec::new());
    loop {
        let flags = TINFL_FLAG_HAS_MORE_INPUT;
        let (_, read, wrote) = decompress(&mut state, &input[at..], &mut window, position, flags);
        at += read;
        out.extend_from_slice(&window[position..position + wrote]);
        position = (position + wrote) & (window.len() - 1);
        if wrote == 0 {
            assert_eq!(at, input.len());
            return out;
        }
    }
}

/// Text with repetitions near and far.
fn prose(len: usize, seed: u32) -> Vec<u8> {
    let words = ["price", "volume", "bid", "ask", "{\"id\":", "},", "true", "null", "4711", "ringwire "];
    let mut state = seed | 1;
    let mut out = Vec::new();
    while out.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.extend_from_slice(words[(state >> 16) as usize % words.len()].as_bytes());
        out.push(b'a' + (state >> 27) as u8 % 26);
    }
    out.truncate(len);
    out
}

/// Bytes that do not shrink.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    })
    .take(len)
    .collect()
}

#[test]
fn example_of_one_message_7_2_3_1() {
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(takes(NO_TAKEOVER, &hello), [text("Hello")]);
    let mut client = client(NO_TAKEOVER);
    assert_eq!(feed(&mut client, &[&[0xc1, 0x07][..], &hello].concat()), [text("Hello")]);
    let fragments = [&[0x41, 0x03, 0xf2, 0x48, 0xcd][..], &[0x80, 0x04, 0xc9, 0xc9, 0x07, 0x00]].concat();
    assert_eq!(feed(&mut client, &fragments), [text("Hello")]);
}

#[test]
fn example_of_a_shared_window_7_2_3_2() {
    let first = masked(0xc1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
    let second = masked(0xc1, &[0xf2, 0x00, 0x11, 0x00, 0x00]);
    let both = [first, second].concat();
    assert_eq!(feed(&mut server(TAKEOVER), &both), [text("Hello"), text("Hello")]);
    // Without takeover the second one refers to nothing.
    assert_eq!(
        feed(&mut server(NO_TAKEOVER), &both),
        [text("Hello"), Seen::Broke(Violation::CorruptDeflate)]
    );
}

#[test]
fn example_of_a_block_without_compression_7_2_3_3() {
    let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
    assert_eq!(takes(NO_TAKEOVER, &stored), [text("Hello")]);
}

#[test]
fn example_of_a_final_block_7_2_3_4() {
    let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    assert_eq!(takes(NO_TAKEOVER, &last), [text("Hello")]);
    let twice = [masked(0xc1, &last), masked(0xc1, &last)].concat();
    for params in [NO_TAKEOVER, TAKEOVER] {
        assert_eq!(feed(&mut server(params), &twice), [text("Hello"), text("Hello")]);
    }
    // Two final blocks in one message; the second refers to the first.
    let again = [&last[..7], &[0xf3, 0x00, 0x11, 0x00, 0x00]].concat();
    assert_eq!(takes(NO_TAKEOVER, &again), [text("HelloHello")]);
}

#[test]
fn example_of_two_blocks_in_one_message_7_2_3_5() {
    let blocks = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(takes(NO_TAKEOVER, &blocks), [text("Hello")]);
}

#[test]
fn empty_messages_7_2_3_6() {
    for params in [NO_TAKEOVER, TAKEOVER] {
        assert_eq!(takes(params, &[0x00]), [text("")]);
        assert_eq!(takes(params, &[0x03, 0x00, 0x00]), [text("")], "a final block of nothing");
        let mut peer = server(params);
        let conversation =
            [masked(0xc1, &[0x00]), masked(0xc2, &deflate(b"then this")), masked(0xc1, &[0x00])].concat();
        assert_eq!(feed(&mut peer, &conversation), [text(""), Seen::Binary(b"then this".to_vec()), text("")]);
    }
    // Ours: with takeover compressed as one byte, without takeover not worth it.
    for (params, wire) in [(TAKEOVER, &[0xc1, 0x01, 0x00][..]), (NO_TAKEOVER, &[0x81, 0x00])] {
        let mut ours = server(params);
        ours.writer().send(Message::Text("")).unwrap();
        assert_eq!(ours.output(), wire);
        assert_eq!(feed(&mut client(params), wire), [text("")]);
    }
}

#[test]
fn rsv1_marks_the_first_frame_of_a_data_message_and_nothing_else() {
    let broke = [Seen::Broke(Violation::ReservedBits)];
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    // Not agreed upon.
    assert_eq!(feed(&mut Codec::server(1 << 20), &masked(0xc1, &hello)), broke);
    for b0 in [0xc8, 0xc9, 0xca] {
        assert_eq!(feed(&mut server(NO_TAKEOVER), &masked(b0, b"")), broke, "control {b0:#x}");
    }
    for b0 in [0xa1, 0x91, 0xe1, 0xd1, 0xf1, 0xc3, 0xcb] {
        assert_eq!(feed(&mut server(NO_TAKEOVER), &masked(b0, &hello)), broke, "{b0:#x}");
    }
    for first in [0x41, 0x01] {
        let begin: &[u8] = if first == 0x41 { &hello[..3] } else { b"Hel" };
        let fragments = [masked(first, begin), masked(0xc0, &hello[3..])].concat();
        assert_eq!(feed(&mut server(NO_TAKEOVER), &fragments), broke, "continuation after {first:#x}");
    }
    let stray = masked(0xc0, &hello);
    assert_eq!(feed(&mut server(NO_TAKEOVER), &stray), broke);
}

#[test]
fn compressed_and_plain_messages_mix() {
    for params in [NO_TAKEOVER, TAKEOVER] {
        let mut oracle = Oracle::new();
        let first = oracle.deflate(b"the first");
        let fourth = if params == TAKEOVER { oracle.deflate(b"the fourth") } else { deflate(b"the fourth") };
        let wire = [
            masked(0xc1, &first),
            masked(0x81, "plain, schön".as_bytes()),
            masked(0x01, b"fragmented "),
            masked(0x89, b"ping"),
            masked(0x80, b"plain"),
            masked(0x42, &fourth[..4]),
            masked(0x89, b"between"),
            masked(0x00, b""),
            masked(0x80, &fourth[4..]),
            masked(0x88, &1000_u16.to_be_bytes()),
        ];
        let expected = [
            text("the first"),
            text("plain, schön"),
            Seen::Ping(b"ping".to_vec()),
            text("fragmented plain"),
            Seen::Ping(b"between".to_vec()),
            Seen::Binary(b"the fourth".to_vec()),
            Seen::Close(Some(CloseCode::NORMAL)),
        ];
        assert_eq!(feed(&mut server(params), &wire.concat()), expected);
        let mut bytewise = server(params);
        let seen: Vec<Seen> = wire.concat().iter().flat_map(|byte| feed(&mut bytewise, &[*byte])).collect();
        assert_eq!(seen, expected);
    }
}

#[test]
fn corrupt_and_truncated_streams_get_1007() {
    let message = prose(2_000, 1);
    let whole = deflate(&message);
    assert_eq!(takes(NO_TAKEOVER, &whole), [Seen::Text(String::from_utf8(message).unwrap())]);
    let corrupt = [Seen::Broke(Violation::CorruptDeflate)];
    assert_eq!(Violation::CorruptDeflate.close_code(), CloseCode::INVALID_PAYLOAD);
    for cut in 1..whole.len() {
        let seen = takes(NO_TAKEOVER, &whole[..cut]);
        assert_eq!(seen, corrupt, "{cut} of {} bytes", whole.len());
    }
    for payload in [&b""[..], b"\xff", b"\x06", b"\x07garbage", b"\x00\x05\x00\xfa\xfeHello\x00"] {
        assert_eq!(takes(NO_TAKEOVER, payload), corrupt, "{payload:?}");
    }
    // Bytes behind the end of the stream.
    let mut trailing = deflate(b"Hello");
    trailing.extend_from_slice(b"\x00\x00\xff\xff");
    assert_eq!(takes(NO_TAKEOVER, &trailing), corrupt);
    let mut server = server(NO_TAKEOVER);
    feed(&mut server, &masked(0xc1, b"\xff\xff"));
    assert_eq!(server.state(), State::Closed);
    assert_eq!(&server.output()[2..4], 1007_u16.to_be_bytes());
    assert_eq!(server.writer().send(Message::Text("more")), Err(Closing));
    assert_eq!(feed(&mut server, &masked(0x81, b"ignored")), []);
}

#[test]
fn text_is_validated_as_it_is_inflated() {
    let invalid = [Seen::Broke(Violation::InvalidUtf8)];
    assert_eq!(takes(NO_TAKEOVER, &deflate(b"caf\xc3")), invalid);
    assert_eq!(takes(NO_TAKEOVER, &deflate(b"caf\xff")), invalid);
    assert_eq!(feed(&mut server(NO_TAKEOVER), &masked(0xc2, &deflate(b"caf\xff"))).len(), 1);
    // Of a message in fragments, before its end has come.
    let mut bad = vec![b'x'; 3_000];
    bad[100] = 0xff;
    let mut noisy = prose(6_000, 3);
    noisy.splice(100..100, [0xc0]);
    for message in [bad, noisy] {
        let deflated = deflate(&message);
        let first = masked(0x41, &deflated[..deflated.len() - 1]);
        assert_eq!(feed(&mut server(NO_TAKEOVER), &first), invalid);
    }
    // A character that spans fragments and steps of the inflater.
    let wide = "日本語テキスト".repeat(3_000);
    let deflated = deflate(wide.as_bytes());
    for cut in [1, 10, deflated.len() / 2, deflated.len() - 1] {
        let fragments = [masked(0x41, &deflated[..cut]), masked(0x80, &deflated[cut..])].concat();
        assert_eq!(feed(&mut server(NO_TAKEOVER), &fragments), [text(&wide)]);
    }
}

#[test]
fn a_bomb_gets_1009_while_it_inflates() {
    let bomb = deflate(&vec![b'0'; 16 << 20]);
    assert!(bomb.len() < 20_000, "{}", bomb.len());
    let mut server = Codec::server(100_000).with_deflate(NO_TAKEOVER, &all_sizes());
    let mut wire = masked(0x41, &bomb[..1_000]);
    assert_eq!(feed(&mut server, &wire), [Seen::Broke(Violation::MessageTooBig)], "before its end");
    assert_eq!(&server.output()[2..4], 1009_u16.to_be_bytes());
    // At the limit, and one beyond.
    for (len, taken) in [(100_000, true), (100_001, false)] {
        let mut server = Codec::server(100_000).with_deflate(NO_TAKEOVER, &all_sizes());
        wire = masked(0xc2, &deflate(&vec![0; len]));
        let expected = if taken { Seen::Binary(vec![0; len]) } else { Seen::Broke(Violation::MessageTooBig) };
        assert_eq!(feed(&mut server, &wire), [expected]);
    }
    // What does not shrink may be larger on the wire than the limit.
    let noise = noise(100_000);
    let mut server = Codec::server(100_000).with_deflate(NO_TAKEOVER, &all_sizes());
    let deflated = deflate(&noise);
    assert!(deflated.len() > 100_000);
    assert_eq!(feed(&mut server, &masked(0xc2, &deflated)), [Seen::Binary(noise)]);
    // But not by much, whatever it inflates to.
    let empty_blocks = [0, 0, 0, 0xff, 0xff].repeat(30_000);
    let mut server = Codec::server(100_000).with_deflate(NO_TAKEOVER, &all_sizes());
    assert_eq!(feed(&mut server, &masked(0xc2, &empty_blocks)), [Seen::Broke(Violation::MessageTooBig)]);
}

#[test]
fn the_ratio_is_bounded_where_it_is_set() {
    let config = DeflateConfig { max_ratio: 100, ..all_sizes() };
    let zeros = |len| masked(0xc2, &deflate(&vec![0; len]));
    let server = || Codec::server(1 << 20).with_deflate(NO_TAKEOVER, &config);
    assert_eq!(feed(&mut server(), &zeros(60_000)), [Seen::Binary(vec![0; 60_000])], "small is free");
    assert_eq!(feed(&mut server(), &zeros(500_000)), [Seen::Broke(Violation::DeflateRatio)]);
    let prose = prose(500_000, 9);
    assert_eq!(feed(&mut server(), &masked(0xc2, &deflate(&prose))), [Seen::Binary(prose)]);
    assert_eq!(Violation::DeflateRatio.close_code(), CloseCode::MESSAGE_TOO_BIG);
}

#[test]
fn the_oracle_reads_what_we_write_with_every_window() {
    let mut messages = vec![b"Hello".to_vec(), vec![b'a'; 100_000], prose(300, 1), prose(70_000, 2)];
    messages.push(noise(5_000));
    messages.push([prose(300, 5), noise(260), prose(300, 5), noise(510), prose(300, 5)].concat());
    let mut out = Vec::new();
    for bits in 8..=15 {
        for level in 1..=9 {
            let mut lent = Deflater::new(level, bits);
            let mut kept = Deflater::new(level, bits);
            let mut peer = Decompress::new(false);
            for message in &messages {
                lent.compress(message, false, &mut out);
                assert!(inflate_within(bits, &out) == *message, "{bits} bits, level {level}");
                assert!(kept.compress(message, true, &mut out), "takeover sends whatever comes out");
                assert!(oracle_inflate(&mut peer, &out, message.len()) == *message);
            }
        }
    }
}

#[test]
fn what_does_not_shrink_is_sent_as_it_is() {
    let noise = noise(4_000);
    let (mut lent, mut kept) = (server(NO_TAKEOVER), server(TAKEOVER));
    lent.writer().send(Message::Binary(&noise)).unwrap();
    kept.writer().send(Message::Binary(&noise)).unwrap();
    assert_eq!((lent.output()[0], kept.output()[0]), (0x82, 0xc2));
    let config = DeflateConfig::default();
    let mut server = Codec::server(1 << 20).with_deflate(NO_TAKEOVER, &config);
    server.writer().send(Message::Binary(&vec![0; config.min_bytes as usize - 1])).unwrap();
    assert_eq!(server.output()[0], 0x82, "below min_bytes");
    server.output().clear();
    server.writer().send(Message::Binary(&vec![0; config.min_bytes as usize])).unwrap();
    assert_eq!(server.output()[0], 0xc2);
}

#[test]
fn takeover_makes_the_second_message_small() {
    let message = String::from_utf8(prose(1_000, 7)).unwrap();
    let sizes = |params| {
        let (mut server, mut client) = (server(params), client(params));
        [0; 2].map(|_| {
            server.writer().send(Message::Text(&message)).unwrap();
            let wire = std::mem::take(server.output());
            assert_eq!(feed(&mut client, &wire), [text(&message)]);
            wire.len()
        })
    };
    let [first, second] = sizes(NO_TAKEOVER);
    assert_eq!(first, second);
    let [first, second] = sizes(TAKEOVER);
    assert!(second * 10 < first, "{first}, {second}");
}

#[test]
fn a_codec_moves_between_threads() {
    fn assert_send<T: Send>() {}
    assert_send::<Codec>();
}

fn params() -> impl Strategy<Value = DeflateParams> {
    let window = || (8..=15_u8, any::<bool>()).prop_map(|(bits, takeover)| Window { bits, takeover });
    (window(), window()).prop_map(|(server, client)| DeflateParams { server, client })
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..200),
        (0..3_000_usize, any::<u32>()).prop_map(|(len, seed)| prose(len, seed)),
        (0..20_000_usize, any::<u32>()).prop_map(|(len, seed)| prose(len, seed)),
        (0..3_000_usize).prop_map(|len| vec![b'z'; len]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Both roles, any parameters, any split into reads: what is sent is what is seen.
    #[test]
    fn round_trips(
        params in params(),
        level in 1..=9_u8,
        messages in vec(payload(), 1..6),
        cuts in vec(any::<usize>(), 0..8),
    ) {
        let config = DeflateConfig { level, ..all_sizes() };
        for role in [Role::Server, Role::Client] {
            let mut server = Codec::server(1 << 20).with_deflate(params, &config);
            let mut client = Codec::client(1 << 20, || MASK).with_deflate(params, &config);
            let (from, to) = match role {
                Role::Server => (&mut client, &mut server),
                Role::Client => (&mut server, &mut client),
            };
            for message in &messages {
                from.writer().send(Message::Binary(message)).unwrap();
            }
            let wire = std::mem::take(from.output());
            let expected: Vec<Seen> = messages.iter().cloned().map(Seen::Binary).collect();
            prop_assert!(reads(to, &wire, &cuts) == expected, "{:?}", role);
        }
    }

    /// What miniz compresses, in fragments anywhere and reads anywhere.
    #[test]
    fn takes_the_oracles_fragments(
        takeover in any::<bool>(),
        messages in vec((payload(), vec(any::<usize>(), 0..4)), 1..5),
        cuts in vec(any::<usize>(), 0..8),
    ) {
        let mut oracle = Oracle::new();
        let (mut wire, mut expected) = (Vec::new(), Vec::new());
        for (message, fragments) in &messages {
            if !takeover {
                oracle = Oracle::new();
            }
            let deflated = oracle.deflate(message);
            let mut ends: Vec<usize> = fragments.iter().map(|at| at % (deflated.len() + 1)).collect();
            ends.sort_unstable();
            ends.push(deflated.len());
            let mut from = 0;
            for (i, &end) in ends.iter().enumerate() {
                let fin = if i + 1 == ends.len() { 0x80 } else { 0 };
                let kind = if i == 0 { 0x42 } else { 0 };
                wire.extend(masked(fin | kind, &deflated[from..end]));
                from = end;
            }
            expected.push(Seen::Binary(message.clone()));
        }
        let params = if takeover { TAKEOVER } else { NO_TAKEOVER };
        prop_assert!(reads(&mut server(params), &wire, &cuts) == expected);
    }

    /// Whatever comes in a compressed message, there is a verdict and no more than the limit.
    #[test]
    fn takes_any_bytes(bytes in vec(any::<u8>(), 0..300), flips in vec(any::<(usize, u8)>(), 0..4), kind in 1..=2_u8) {
        let mut damaged = deflate(&prose(1_000, 3));
        for (at, xor) in flips {
            let at = at % damaged.len();
            damaged[at] ^= xor;
        }
        for payload in [bytes, damaged] {
            let mut server = Codec::server(10_000).with_deflate(TAKEOVER, &all_sizes());
            let seen = feed(&mut server, &masked(0xc0 | kind, &payload));
            prop_assert_eq!(seen.len(), 1);
            match &seen[0] {
                Seen::Text(text) => prop_assert!(text.len() <= 10_000),
                Seen::Binary(bytes) => prop_assert!(bytes.len() <= 10_000),
                Seen::Broke(violation) => prop_assert!(matches!(
                    violation,
                    Violation::CorruptDeflate | Violation::MessageTooBig | Violation::InvalidUtf8
                )),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}

/// The transcript of the wire cut into reads at these places.
fn reads(codec: &mut Codec, wire: &[u8], cuts: &[usize]) -> Vec<Seen> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (wire.len() + 1)).collect();
    ends.sort_unstable();
    ends.push(wire.len());
    let mut from = 0;
    let mut seen = Vec::new();
    for end in ends {
        seen.extend(feed(codec, &wire[from..end]));
        from = end;
    }
    seen
}

#[test]
fn the_kinds_of_payload_are_kept() {
    let mut ours = client(NO_TAKEOVER);
    let long = "längerer Text ".repeat(40);
    ours.writer().send(Message::Text(&long)).unwrap();
    ours.writer().send(Message::Binary(long.as_bytes())).unwrap();
    let wire = std::mem::take(ours.output());
    assert_eq!(wire[0], 0xc0 | Kind::Text.opcode() as u8);
    assert_eq!(feed(&mut server(NO_TAKEOVER), &wire), [text(&long), Seen::Binary(long.as_bytes().to_vec())]);
}
