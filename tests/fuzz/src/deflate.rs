//! permessage-deflate: any bytes inflate alike under any cut and as miniz, another implementation,
//! inflates them; what is compressed comes back; two ends always agree about what they agreed.

use crate::frame_decode::record;
use crate::input::{Input, reads};
use crate::ws_support::Seen;
use flate2::{Decompress, FlushDecompress, Status};
use ringwire::DeflateConfig;
use ringwire::ws::deflate::{
    DeflateAnswer, DeflateOffer, DeflateParams, Deflater, InflateLimits, Inflater, Inflating, Window,
};
use ringwire::ws::{Codec, Kind, Message, State, Violation, extension};

const MAX_MESSAGE_BYTES: u32 = 300_000;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Input: what to do, a cut (2 bytes), and what it takes.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (how, cut) = (input.byte(), input.u16());
    match how % 4 {
        0 => inflate_anything(how, cut, input.rest()),
        1 => come_back(input),
        2 => converse(cut, input),
        _ => negotiate(input),
    }
}

fn inflate(
    inflater: &mut Inflater,
    kind: Kind,
    reads: &[&[u8]],
    room: usize,
    limits: &InflateLimits,
) -> Result<Vec<u8>, Violation> {
    let (mut message, mut all, mut out) = (Inflating::new(kind), Vec::new(), vec![0; room]);
    let nothing: &[&[u8]] = &[&[]];
    let reads = if reads.is_empty() { nothing } else { reads };
    for (n, read) in reads.iter().enumerate() {
        let (mut read, ends) = (*read, n + 1 == reads.len());
        loop {
            let step = message.step(inflater, &mut read, ends, &mut out, limits)?;
            assert!(step.written <= room);
            all.extend_from_slice(&out[..step.written]);
            assert!(all.len() as u64 <= limits.max_message_bytes, "the cap holds while inflating");
            if step.done {
                assert!(read.is_empty());
                break;
            }
            assert!(step.written > 0, "no progress");
        }
    }
    Ok(all)
}

fn inflate_anything(how: u8, cut: u16, bytes: &[u8]) {
    let kind = if how & 4 == 0 { Kind::Binary } else { Kind::Text };
    let max_message_bytes = [100, 70_000, 1 << 20][usize::from(how >> 3) % 3];
    let limits = InflateLimits { max_message_bytes, max_ratio: if how & 0x80 == 0 { 0 } else { 100 } };
    let room = [1, 7, 1_000, 1 << 16][usize::from(how >> 5 & 3)];
    let mut inflater = Inflater::new();
    let whole = inflate(&mut inflater, kind, &[bytes], 1 << 16, &limits);
    inflater.reset();
    let pieces = inflate(&mut inflater, kind, &reads(bytes, cut), room.max(bytes.len() / 64), &limits);
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces),
        // Which limit is met first may depend on the steps, not that one is.
        (Err(_), Err(_)) => {}
        _ => panic!("whole {:?}, in pieces {:?}", whole.map(|w| w.len()), pieces.map(|p| p.len())),
    }
    // What miniz makes of the same message, unless it ends a stream, which only few know to go on from.
    let mut miniz = Decompress::new(false);
    let mut theirs = Vec::with_capacity(max_message_bytes as usize + 1_000);
    let message = [bytes, &[0x00, 0x00, 0xff, 0xff]].concat();
    let status = miniz.decompress_vec(&message, &mut theirs, FlushDecompress::Sync);
    match (whole, status) {
        (Ok(ours), Ok(Status::Ok | Status::BufError)) => assert_eq!(ours, theirs),
        (Ok(_), Ok(Status::StreamEnd)) | (Err(_), Ok(_)) => {}
        (Ok(ours), Err(error)) => panic!("{} bytes out of what miniz refuses: {error}", ours.len()),
        (Err(violation), Err(_)) => assert_ne!(violation.close_code().0, 1000),
    }
}

/// Messages through one compressor, with and without takeover, back through both decompressors.
fn come_back(mut input: Input<'_>) {
    let (level, bits) = (input.byte() % 12, 8 + input.byte() % 8);
    let takeover = input.byte() & 1 != 0;
    let mut deflater = Deflater::new(level, bits);
    let mut inflater = Inflater::new();
    let mut miniz = Decompress::new(false);
    let limits = InflateLimits { max_message_bytes: MAX_MESSAGE_BYTES.into(), max_ratio: 0 };
    let mut compressed = Vec::new();
    while !input.is_empty() {
        let message = input.slice().repeat(1 + usize::from(input.byte()));
        let worth_it = deflater.compress(&message, takeover, &mut compressed);
        assert!(worth_it || !takeover, "the window would be lost");
        assert!(takeover || !worth_it || compressed.len() < message.len());
        if !takeover {
            inflater.reset();
            miniz.reset(false);
        }
        let back = inflate(&mut inflater, Kind::Binary, &[&compressed], 1 << 16, &limits);
        assert_eq!(back.as_ref(), Ok(&message));
        let mut theirs = Vec::with_capacity(message.len() + 64);
        compressed.extend_from_slice(&[0x00, 0x00, 0xff, 0xff]);
        miniz.decompress_vec(&compressed, &mut theirs, FlushDecompress::Sync).expect("a sound stream");
        assert_eq!(theirs, message);
    }
}

fn params(byte: u8, bits: u8) -> DeflateParams {
    let window = |bits, takeover| Window { bits: 8 + bits % 8, takeover };
    DeflateParams { server: window(bits, byte & 1 != 0), client: window(bits >> 4, byte & 2 != 0) }
}

/// Two codecs that agreed upon compression; the wire may damage a byte.
fn converse(cut: u16, mut input: Input<'_>) {
    let params = params(input.byte(), input.byte());
    let config = DeflateConfig { min_bytes: u32::from(input.byte()), ..DeflateConfig::default() };
    let mut server = Codec::server(MAX_MESSAGE_BYTES).with_deflate(params, &config);
    let mut client = Codec::client(MAX_MESSAGE_BYTES, || MASK).with_deflate(params, &config);
    while !input.is_empty() && server.state() == State::Open && client.state() == State::Open {
        let op = input.byte();
        let (from, to) = if op & 1 == 0 { (&mut server, &mut client) } else { (&mut client, &mut server) };
        let text = String::from_utf8_lossy(input.slice()).repeat(usize::from(op >> 4) * 20 + 1);
        let message = if op & 2 == 0 { Message::Text(&text) } else { Message::Binary(text.as_bytes()) };
        from.writer().send(message).expect("it is open");
        let mut wire = std::mem::take(from.output());
        let damage = if op & 12 == 12 { usize::from(input.u16()) % wire.len() } else { wire.len() };
        wire.iter_mut().skip(damage).take(1).for_each(|byte| *byte ^= 0x11);
        let mut seen = Vec::new();
        for read in reads(&wire, cut) {
            let result = to.feed(&mut read.to_vec(), |event, _| seen.push(record(event)));
            if let Err(violation) = result {
                assert_eq!(to.state(), State::Closed);
                seen.push(Seen::Broke(violation));
            }
        }
        if damage == wire.len() {
            let sent = match message {
                Message::Text(text) => Seen::Text(text.to_owned()),
                Message::Binary(bytes) => Seen::Binary(bytes.to_owned()),
            };
            assert_eq!(seen, [sent]);
        } else {
            // A window that is not what it should be makes nonsense of all that follows.
            return;
        }
    }
}

/// Any offer gets an answer that stands on its own; our own offer and answer make one agreement.
fn negotiate(mut input: Input<'_>) {
    let config = |input: &mut Input<'_>| DeflateConfig {
        max_window_bits: input.byte() % 17,
        max_peer_window_bits: input.byte() % 17,
        takeover: input.byte() & 1 != 0,
        ..DeflateConfig::default()
    };
    let (ours, theirs) = (config(&mut input), config(&mut input));
    let budget = input.byte();
    let offer = DeflateOffer::new(&theirs, budget & 1 != 0);
    let text = offer.to_string();
    let offers = extension::parse(&text).map(|offer| offer.expect("our own offer"));
    let answer = DeflateAnswer::choose(offers, &ours, budget & 2 != 0).expect("our own offer");
    let text = answer.to_string();
    let parsed: Vec<_> = extension::parse(&text).map(|answer| answer.expect("our own answer")).collect();
    assert_eq!(parsed.len(), 1, "{text}");
    let (server, client) = (answer.params(), offer.settle(&parsed[0]).expect("our own answer"));
    assert_eq!(server.server, client.server, "of the server's messages");
    assert!(client.client.bits <= server.client.bits && (8..=15).contains(&client.client.bits));
    assert!(
        server.client.takeover || !client.client.takeover,
        "the server forgets what the client refers to"
    );

    let any = String::from_utf8_lossy(input.rest()).into_owned();
    let offers = extension::parse(&any).map_while(Result::ok);
    if let Some(answer) = DeflateAnswer::choose(offers, &ours, budget & 2 != 0) {
        let DeflateParams { server, client } = answer.params();
        assert!((8..=15).contains(&server.bits) && (8..=15).contains(&client.bits), "{answer}");
        assert!(ours.takeover || !(server.takeover || client.takeover));
    }
    for answer in extension::parse(&any).map_while(Result::ok) {
        if let Ok(params) = offer.settle(&answer) {
            assert!((8..=15).contains(&params.server.bits) && (8..=15).contains(&params.client.bits));
        }
    }
}
