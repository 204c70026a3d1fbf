//! ringwire and tungstenite listen to the same bytes and must tell the same.
//!
//! Random conversations, some of them damaged, cut into random reads. Both report the same messages
//! and control frames and come to the same verdict. Where they may differ is listed in [`Difference`],
//! each with its reason, and each of them must occur, so that the list stays true.

use ringwire::sim::SimRng;
use ringwire::ws::{
    CloseCode, Codec, Event, Kind, Opcode, Role, Violation, encode_close, encode_fragment, encode_message,
    encode_ping, encode_pong,
};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use tungstenite::error::{CapacityError, Error};
use tungstenite::protocol::{self, WebSocket, WebSocketConfig};

const CONVERSATIONS: u64 = 4_000;
const MAX_MESSAGE_BYTES: usize = 1_000;

/// Why the two may differ on the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    /// ringwire judges a header as soon as it is there, and text byte by byte; tungstenite waits for the
    /// whole frame. With the rest of the frame tungstenite comes to the same verdict.
    WaitsForTheFrame,
    /// A length in a longer form than it needs: RFC 6455 §5.2 demands the shortest ("the minimal number
    /// of bytes MUST be used"); tungstenite takes any. On a control frame, which holds 125 bytes at
    /// most, any longer form is one too many.
    LongLengthTaken,
    /// A frame that is malformed and too big. RFC 6455 does not say which comes first: ringwire
    /// answers 1002, for the header is wrong whatever the limit; tungstenite looks at the size first.
    MalformedAndTooBig,
    /// Close code 1014 (bad gateway) is registered with IANA and taken by ringwire; tungstenite, older
    /// than the registration, refuses it.
    BadGateway,
    /// A Close frame with a code that may not be sent and a reason that is not UTF-8: 1002 for the code,
    /// which comes first, or 1007 for the reason. RFC 6455 leaves the choice.
    CodeBeforeReason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// More may come.
    Open,
    Closed(Option<u16>, String),
    /// To be failed with this code.
    Failed(u16),
}

type Transcript = (Vec<Heard>, Verdict);

fn ringwire_hears(role: Role, reads: &[&[u8]]) -> (Transcript, Option<Violation>) {
    let mut codec = match role {
        Role::Server => Codec::server(MAX_MESSAGE_BYTES as u32),
        Role::Client => Codec::client(MAX_MESSAGE_BYTES as u32, || [1, 2, 3, 4]),
    };
    let (mut heard, mut verdict) = (Vec::new(), Verdict::Open);
    for read in reads {
        let result = codec.feed(&mut read.to_vec(), |event, _| match event {
            Event::Message(ringwire::Message::Text(text)) => heard.push(Heard::Text(text.to_owned())),
            Event::Message(ringwire::Message::Binary(bytes)) => heard.push(Heard::Binary(bytes.to_owned())),
            Event::Ping(payload) => heard.push(Heard::Ping(payload.to_owned())),
            Event::Pong(payload) => heard.push(Heard::Pong(payload.to_owned())),
            Event::Close { code, reason } => {
                verdict = Verdict::Closed(code.map(|code| code.0), reason.to_owned());
            }
        });
        if let Err(violation) = result {
            return ((heard, Verdict::Failed(violation.close_code().0)), Some(violation));
        }
    }
    ((heard, verdict), None)
}

/// A stream that yields these reads, then would block; what is written to it is dropped.
struct Reads<'a>(Vec<&'a [u8]>);

impl Read for Reads<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let Some(read) = self.0.first_mut() {
            if read.is_empty() {
                self.0.remove(0);
                continue;
            }
            let len = read.len().min(buf.len());
            buf[..len].copy_from_slice(&read[..len]);
            *read = &read[len..];
            return Ok(len);
        }
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Reads<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4_096)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
}

fn their_role(role: Role) -> protocol::Role {
    match role {
        Role::Server => protocol::Role::Server,
        Role::Client => protocol::Role::Client,
    }
}

fn tungstenite_hears(role: Role, reads: &[&[u8]]) -> Transcript {
    let mut socket = WebSocket::from_raw_socket(Reads(reads.to_vec()), their_role(role), Some(config()));
    let mut heard = Vec::new();
    loop {
        match socket.read() {
            Ok(protocol::Message::Text(text)) => heard.push(Heard::Text(text.to_string())),
            Ok(protocol::Message::Binary(bytes)) => heard.push(Heard::Binary(bytes.to_vec())),
            Ok(protocol::Message::Ping(payload)) => heard.push(Heard::Ping(payload.to_vec())),
            Ok(protocol::Message::Pong(payload)) => heard.push(Heard::Pong(payload.to_vec())),
            Ok(protocol::Message::Frame(frame)) => panic!("never when reading: {frame}"),
            Ok(protocol::Message::Close(None)) => return (heard, Verdict::Closed(None, String::new())),
            Ok(protocol::Message::Close(Some(frame))) => {
                // So it tells of a code that may not be sent.
                let refused = frame.reason == "Protocol violation";
                let code = u16::from(frame.code);
                let closed = || Verdict::Closed(Some(code), frame.reason.to_string());
                return (heard, if refused { Verdict::Failed(1002) } else { closed() });
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return (heard, Verdict::Open);
            }
            Err(Error::Protocol(_)) => return (heard, Verdict::Failed(1002)),
            Err(Error::Utf8(_)) => return (heard, Verdict::Failed(1007)),
            Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => {
                return (heard, Verdict::Failed(1009));
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// How the two transcripts of `bytes` differ. Panics if that is on no list.
fn compare(seed: u64, role: Role, bytes: &[u8], reads: &[&[u8]]) -> Option<Difference> {
    let (ours, violation) = ringwire_hears(role, reads);
    let mut theirs = tungstenite_hears(role, reads);
    if ours == theirs {
        return None;
    }
    if let (Some(_), Verdict::Open) = (violation, &theirs.1) {
        let mut patient = bytes.to_vec();
        for _ in 0..3 {
            // Its first bytes, its length, its payload.
            let len = patient.len() + missing(&patient).min(MAX_MESSAGE_BYTES);
            patient.resize(len, 0);
        }
        theirs = tungstenite_hears(role, &[&patient]);
        if ours == theirs {
            return Some(Difference::WaitsForTheFrame);
        }
    }
    let same_so_far = theirs.0.starts_with(&ours.0);
    let difference = match (violation, &ours.1, &theirs.1) {
        (Some(_), Verdict::Failed(1002), Verdict::Failed(1009)) if ours.0 == theirs.0 => {
            Difference::MalformedAndTooBig
        }
        (Some(Violation::LengthNotMinimal | Violation::ControlTooLong), ..) if same_so_far => {
            Difference::LongLengthTaken
        }
        (None, Verdict::Closed(Some(1014), _), Verdict::Failed(1002)) if ours.0 == theirs.0 => {
            Difference::BadGateway
        }
        (Some(Violation::CloseCodeInvalid), _, Verdict::Failed(1007)) if ours.0 == theirs.0 => {
            Difference::CodeBeforeReason
        }
        _ => {
            panic!("seed {seed}, {role:?}, {bytes:02x?}:\n{ours:?} ({violation:?}), tungstenite\n{theirs:?}")
        }
    };
    Some(difference)
}

/// Bytes that the last frame lacks.
fn missing(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(&[_, b1]) = bytes.get(at..at + 2) {
        let extended = [0, 2, 8][usize::from(b1 & 0x7f).saturating_sub(125)];
        let header = 2 + extended + if b1 & 0x80 != 0 { 4 } else { 0 };
        let length = match (bytes.get(at + 2..at + 2 + extended), extended) {
            (Some(_), 0) => u64::from(b1 & 0x7f),
            (Some(length), _) => length.iter().fold(0, |length, &byte| length << 8 | u64::from(byte)),
            (None, _) => 0,
        };
        at = at.saturating_add(header).saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
    }
    match bytes.len().checked_sub(at) {
        Some(rest) => 2 - rest,
        None => at - bytes.len(),
    }
}

/// What one peer says, as it may be.
fn conversation(rng: &mut SimRng, listener: Role) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..rng.between(1, 6) {
        let mut mask = || (listener == Role::Server).then(|| (rng.next_u64() as u32).to_le_bytes());
        let masks = [mask(), mask(), mask(), mask()];
        let kind = if rng.permille(500) { Kind::Text } else { Kind::Binary };
        let payload = payload(rng, kind);
        match rng.below(8) {
            0..4 => encode_message(&mut out, kind, &payload, masks[0]),
            4..6 => {
                let mut cuts = [0; 2].map(|_| rng.below(payload.len() as u64 + 1) as usize);
                cuts.sort_unstable();
                encode_fragment(&mut out, kind.opcode(), false, &payload[..cuts[0]], masks[0]);
                if rng.permille(300) {
                    encode_ping(&mut out, b"between", masks[1]);
                }
                encode_fragment(&mut out, Opcode::Continuation, false, &payload[cuts[0]..cuts[1]], masks[2]);
                encode_fragment(&mut out, Opcode::Continuation, true, &payload[cuts[1]..], masks[3]);
            }
            6 => encode_ping(&mut out, &payload, masks[0]),
            _ => encode_pong(&mut out, &payload, masks[0]),
        }
    }
    if rng.permille(400) {
        let codes = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999, 0];
        let code = codes[rng.below(codes.len() as u64) as usize];
        let mask = (listener == Role::Server).then(|| (rng.next_u64() as u32).to_le_bytes());
        encode_close(&mut out, Some(CloseCode(code)), "good-bye, 世界", mask);
        encode_message(&mut out, Kind::Text, b"after the end", mask);
    }
    out
}

/// Up to a little more than the limit; text is UTF-8, except sometimes.
fn payload(rng: &mut SimRng, kind: Kind) -> Vec<u8> {
    let most = [20, 130, MAX_MESSAGE_BYTES as u64 + 20][rng.below(8).saturating_sub(5) as usize];
    let len = rng.below(most) as usize;
    if kind == Kind::Binary {
        return (0..len).map(|_| rng.next_u64() as u8).collect();
    }
    let alphabet = ['a', 'z', 'ß', '€', '世', '😀'];
    let text: String = (0..len / 2).map(|_| alphabet[rng.below(6) as usize]).collect();
    let mut bytes = text.into_bytes();
    if rng.permille(60) && !bytes.is_empty() {
        let at = rng.below(bytes.len() as u64) as usize;
        match rng.permille(500) {
            true => bytes[at] = rng.next_u64() as u8,
            false => bytes.truncate(at),
        }
    }
    bytes
}

/// Changes a byte, a header, or the length; or cuts the end off.
fn damage(rng: &mut SimRng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.between(1, 2) {
        let at = rng.below(bytes.len() as u64) as usize;
        match rng.below(6) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[0] = rng.next_u64() as u8,
            2 => bytes[1] = rng.next_u64() as u8,
            // A frame of our own in front: any header, any length form.
            3 => {
                let length = [0, 20, 126, 0xffff, 1 << 16, 1 << 40, 1 << 63][rng.below(7) as usize];
                let b0 = [0x81, 0x82, 0x01, 0x00, 0x89, 0xc2, 0x83][rng.below(7) as usize];
                let masked = bytes[1] & 0x80;
                let mut frame = match rng.permille(500) {
                    true => [&[b0, masked | 127], &u64::to_be_bytes(length)[..]].concat(),
                    false => [&[b0, masked | 126], &(length as u16).to_be_bytes()[..]].concat(),
                };
                frame.resize(frame.len() + usize::from(masked >> 5), 0);
                bytes.splice(..0, frame);
            }
            // A Close frame with any code, or half of one.
            4 => {
                let masked = bytes[1] & 0x80;
                let body = [rng.below(20) as u8, rng.next_u64() as u8, b'!', 0xff];
                let body = &body[..rng.between(1, 4) as usize];
                let mut frame = vec![0x88, masked | body.len() as u8];
                frame.resize(2 + usize::from(masked >> 5), 0);
                frame.extend_from_slice(body);
                bytes.splice(..0, frame);
            }
            _ => bytes.truncate(at.max(2)),
        }
    }
}

fn cut<'a>(rng: &mut SimRng, bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let most = [1, 7, 200, bytes.len() as u64][rng.below(4) as usize];
    let (mut reads, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let (read, after) = rest.split_at(rng.between(1, most.min(rest.len() as u64)) as usize);
        reads.push(read);
        rest = after;
    }
    reads
}

#[test]
fn both_tell_the_same() {
    let mut differences = BTreeMap::new();
    let mut verdicts = BTreeMap::new();
    for seed in 0..CONVERSATIONS {
        let mut rng = SimRng::new(seed);
        let role = if rng.permille(600) { Role::Server } else { Role::Client };
        let mut bytes = conversation(&mut rng, role);
        if rng.permille(500) {
            damage(&mut rng, &mut bytes);
        }
        let reads = cut(&mut rng, &bytes);
        *differences.entry(compare(seed, role, &bytes, &reads)).or_insert(0) += 1;
        let verdict = match ringwire_hears(role, &reads).0.1 {
            Verdict::Open => "open".to_owned(),
            Verdict::Closed(..) => "closed".to_owned(),
            Verdict::Failed(code) => code.to_string(),
        };
        *verdicts.entry(verdict).or_insert(0) += 1;
    }
    println!("{verdicts:?}\n{differences:?}");
    let often = |count: Option<&u64>| count.is_some_and(|&count| count >= CONVERSATIONS / 50);
    assert!(["open", "closed", "1002", "1007", "1009"].iter().all(|&verdict| often(verdicts.get(verdict))));
    let agreed = differences.remove(&None).unwrap_or(0);
    assert!(agreed > CONVERSATIONS * 3 / 4, "they agree on {agreed} only: {differences:?}");
    assert_eq!(differences.len(), 5, "a difference that does not occur is no difference: {differences:?}");
}

/// What one of the two writes, the other hears.
#[test]
fn each_understands_the_other() {
    for seed in 0..300 {
        let mut rng = SimRng::new(seed);
        let mut messages = Vec::new();
        for _ in 0..rng.between(1, 8) {
            let kind = if rng.permille(500) { Kind::Text } else { Kind::Binary };
            let bytes = payload(&mut rng, kind);
            if bytes.len() > MAX_MESSAGE_BYTES {
                continue;
            }
            messages.push(match (kind, String::from_utf8(bytes.clone())) {
                (Kind::Text, Ok(text)) => Heard::Text(text),
                _ if bytes.len() <= 125 => Heard::Ping(bytes),
                _ => Heard::Binary(bytes),
            });
        }
        let expected = (messages.clone(), Verdict::Closed(Some(4000), "done".to_owned()));
        for listener in [Role::Server, Role::Client] {
            let ours = ringwire_says(listener, &messages);
            assert_eq!(tungstenite_hears(listener, &cut(&mut rng, &ours)), expected, "seed {seed}");
            let theirs = tungstenite_says(listener, &messages);
            assert_eq!(ringwire_hears(listener, &cut(&mut rng, &theirs)).0, expected, "seed {seed}");
        }
    }
}

fn ringwire_says(listener: Role, messages: &[Heard]) -> Vec<u8> {
    let mut codec = match listener {
        Role::Server => Codec::client(0, || [0x37, 0xfa, 0x21, 0x3d]),
        Role::Client => Codec::server(0),
    };
    let writer = codec.writer();
    for message in messages {
        let sent = match message {
            Heard::Text(text) => writer.send(ringwire::Message::Text(text)),
            Heard::Binary(bytes) => writer.send(ringwire::Message::Binary(bytes)),
            Heard::Ping(payload) | Heard::Pong(payload) => writer.ping(payload),
        };
        assert_eq!(sent, Ok(()));
    }
    writer.close(Some(CloseCode(4000)), "done");
    std::mem::take(codec.output())
}

fn tungstenite_says(listener: Role, messages: &[Heard]) -> Vec<u8> {
    let role = match listener {
        Role::Server => protocol::Role::Client,
        Role::Client => protocol::Role::Server,
    };
    let mut socket = WebSocket::from_raw_socket(io::Cursor::new(Vec::new()), role, Some(config()));
    for message in messages.iter().cloned() {
        let message = match message {
            Heard::Text(text) => protocol::Message::text(text),
            Heard::Binary(bytes) => protocol::Message::binary(bytes),
            Heard::Ping(payload) | Heard::Pong(payload) => protocol::Message::Ping(payload.into()),
        };
        socket.send(message).expect("a cursor takes all");
    }
    let frame = protocol::CloseFrame { code: 4000.into(), reason: "done".into() };
    socket.close(Some(frame)).expect("a cursor takes all");
    socket.into_inner().into_inner()
}
