//! One far end: what it says, what it hears, and whether the two agree with the handler's ledger.

use super::service::{Ending, Life, Service};
use crate::frame_decode::record;
use crate::input::Input;
use crate::model::{self, Heard};
use crate::seeds::upgrade_request;
use crate::ws_support::Seen;
use ringwire::http::{HEADER_SLOT, HeadScanner, Headers, MAX_HEADERS, parse_request};
use ringwire::sim::SimPeer;
use ringwire::ws::deflate::{DeflateOffer, DeflateParams, Deflater};
use ringwire::ws::extension;
use ringwire::ws::handshake::evaluate;
use ringwire::ws::{
    CloseCode, Codec, FrameHead, Kind, Opcode, Role, encode_close, encode_fragment, encode_frame,
    encode_message, encode_ping,
};
use ringwire::{DeflateConfig, OriginPolicy, PeerAddr};

pub const MAX_MESSAGE_BYTES: u32 = 600;
/// How messages begin that do not stand in a handler's ledger.
pub const REMOTE: &str = "\u{1}remote";

pub struct Peer {
    far: SimPeer,
    pub addr: PeerAddr,
    /// Which end it is of a WebSocket.
    role: Role,
    /// Everything it wrote and heard.
    said: Vec<u8>,
    heard: Vec<u8>,
    /// Bytes of `said` in front of its frames, if it began with a handshake.
    said_head: Option<usize>,
    /// It broke the connection, or went: it need not hear all.
    gone: bool,
    /// It stopped reading once: `write_ms` may have ended it.
    stalled: bool,
    write_ended: bool,
}

impl Peer {
    pub fn new(far: SimPeer) -> Self {
        let addr = far.addr();
        let [said, heard] = Default::default();
        let (gone, stalled, write_ended) = Default::default();
        let (role, said_head) = (Role::Client, None);
        Self { far, addr, role, said, heard, said_head, gone, stalled, write_ended }
    }

    /// A client that begins with a handshake as it should be.
    pub fn upgrading(far: SimPeer, how: u8) -> Self {
        let mut peer = Self::new(far);
        let path = ["GET / ", "GET /stream ", "GET /chat ", "GET /no ", "GET /odd "][usize::from(how % 5)];
        let mut request = String::from_utf8(upgrade_request()).expect("ASCII").replacen("GET / ", path, 1);
        if how >= 8 {
            let offer = OFFERS[usize::from(how % 4)];
            request.insert_str(request.len() - 2, &format!("Sec-WebSocket-Extensions: {offer}\r\n"));
        }
        peer.write(request.as_bytes());
        peer.said_head = Some(request.len());
        peer
    }

    /// A server that an outbound connection has reached.
    pub fn serving(far: SimPeer) -> Self {
        Self { role: Role::Server, ..Self::new(far) }
    }

    fn write(&mut self, bytes: &[u8]) {
        if !self.gone && !self.write_ended {
            self.far.write(bytes);
            self.said.extend_from_slice(bytes);
        }
    }

    fn mask(&self) -> Option<[u8; 4]> {
        (self.role == Role::Client).then_some([0x37, 0xfa, 0x21, 0x3d])
    }

    pub fn operate(&mut self, op: u8, how: u8, input: &mut Input<'_>) {
        let mask = self.mask();
        let mut out = Vec::new();
        match op {
            1 => out.extend_from_slice(input.slice()),
            2 => {
                let kind = if how == 0 { Kind::Text } else { Kind::Binary };
                let text = input.text();
                let times = if how > 8 { usize::from(how) } else { 1 };
                (0..times).for_each(|_| encode_message(&mut out, kind, text.as_bytes(), mask));
            }
            3 => {
                // Refers to nothing before it, so it is right with and without takeover.
                let text = input.text().repeat(usize::from(how) + 1);
                let mut payload = Vec::new();
                Deflater::new(6, 9).compress(text.as_bytes(), false, &mut payload);
                let head = FrameHead { fin: how < 14, rsv1: true, opcode: Opcode::Text, mask };
                encode_frame(&mut out, head, &payload);
            }
            4 => {
                let text = input.text();
                let cut = usize::from(input.byte()).min(text.len());
                encode_fragment(&mut out, Opcode::Text, false, &text.as_bytes()[..cut], mask);
                (0..how).for_each(|n| encode_ping(&mut out, &[n], mask));
                encode_fragment(&mut out, Opcode::Continuation, how != 15, &text.as_bytes()[cut..], mask);
            }
            5 => {
                self.far.shutdown_write();
                self.write_ended = true;
            }
            6 => {
                self.far.stop_reading();
                self.stalled = true;
            }
            7 => self.far.start_reading(),
            8 => {
                match how {
                    0..=7 => self.far.reset(),
                    _ => self.far.vanish(),
                }
                self.gone = true;
            }
            14 => out = self.answer(how, input),
            15 if how == 0 => encode_ping(&mut out, input.slice(), mask),
            15 => {
                let code = input.pick([1000, 1001, 1002, 3000, 4999]);
                encode_close(&mut out, Some(CloseCode(code)), &input.text(), mask);
            }
            _ => {}
        }
        if !out.is_empty() {
            self.write(&out);
        }
    }

    /// A server's answer to the handshake that was heard: right, or with a byte changed.
    fn answer(&mut self, how: u8, input: &mut Input<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        let Ok(Some(head_bytes)) = HeadScanner::default().scan(&self.heard, 1 << 16) else { return out };
        if self.role == Role::Client || !self.said.is_empty() {
            return out;
        }
        let mut slots = [HEADER_SLOT; MAX_HEADERS];
        let head = parse_request(&self.heard[..head_bytes], &mut slots).expect("our own request");
        let offer = evaluate(&head, &OriginPolicy::Any).expect("our own request");
        offer.write_response(&mut out, None, &Headers::default()).expect("no subprotocol");
        if how > 7 {
            let at = usize::from(input.byte()) % out.len();
            out[at] ^= input.byte();
        } else {
            self.said_head = Some(out.len());
        }
        out
    }

    pub fn hear(&mut self) {
        self.heard.extend(self.far.read());
    }

    pub fn read_on(&mut self) {
        if !self.gone {
            self.far.start_reading();
        }
    }

    /// Compares with the handler's ledger what was said and heard. `unique`: no other peer has this
    /// address, as those of one listener do. `hurried`: connections may have ended in the middle of
    /// things.
    pub fn check(&self, service: &Service, unique: bool, hurried: bool) {
        let lives: Vec<&Life> = service.lives.values().filter(|life| life.addr == self.addr).collect();
        let frames = match self.role {
            Role::Client => after_responses(&self.heard),
            Role::Server => HeadScanner::default().scan(&self.heard, 1 << 16).ok().flatten(),
        };
        let Some(frames) = frames else { return };
        let deflate = match self.role {
            Role::Client => agreed(&self.heard[..frames]),
            // It agrees to nothing, unless the input made up an answer of its own.
            Role::Server if self.said_head.is_none() => return,
            Role::Server => None,
        };
        let heard = listen(self.role, &self.heard[frames..], None, deflate);
        let is_fault = |seen: &Seen| matches!(seen, Seen::Broke(_));
        assert!(!heard.seen.iter().any(is_fault), "misspoken: {:?}", heard.seen);
        let closed = heard.seen.iter().find_map(|seen| match seen {
            Seen::Close(code, _) => Some(*code),
            _ => None,
        });
        if closed.is_some() {
            assert_eq!(heard.whole_frames, self.heard.len() - frames, "something follows Close");
        }
        let ([life], true) = (&*lives, unique) else { return };
        self.check_heard(life, &heard, closed, hurried);
        if let Some(head) = self.said_head {
            self.check_said(life, head, deflate, closed, hurried);
        }
    }

    fn check_heard(&self, life: &Life, heard: &Heard, closed: Option<Option<CloseCode>>, hurried: bool) {
        let messages = |seen: &[Seen]| -> Vec<Seen> {
            let counts = |seen: &&Seen| match seen {
                Seen::Text(text) => !text.starts_with(REMOTE),
                Seen::Binary(_) => true,
                _ => false,
            };
            seen.iter().filter(counts).cloned().collect()
        };
        let (promised, came) = (messages(&life.sent), messages(&heard.seen));
        assert!(promised.starts_with(&came), "promised {promised:?}, heard {came:?}");
        let lives_on = life.ended.is_none() && !self.gone && !self.far.saw_reset() && !hurried;
        if closed.is_some() || lives_on {
            assert_eq!(promised, came, "something promised is missing");
        }
        assert!(!(lives_on && life.wants_drain), "drain is owed");
    }

    fn check_said(
        &self,
        life: &Life,
        head: usize,
        deflate: Option<DeflateParams>,
        closed: Option<Option<CloseCode>>,
        hurried: bool,
    ) {
        let listener = if self.role == Role::Client { Role::Server } else { Role::Client };
        let limit = (!life.streams).then_some(MAX_MESSAGE_BYTES);
        let Some(frames) = self.said.get(head..) else { return };
        let said = listen(listener, frames, limit, deflate);
        let is_message = |seen: &&Seen| matches!(seen, Seen::Text(_) | Seen::Binary(_));
        let messages: Vec<Seen> = said.seen.iter().filter(is_message).cloned().collect();
        assert!(messages.starts_with(&life.received), "said {messages:?}, received {:?}", life.received);
        let lives_on = life.ended.is_none() && !life.closing && closed.is_none();
        if lives_on && !self.gone && !self.far.saw_reset() && !hurried {
            assert_eq!(messages, life.received, "something said was not received");
        }
        match (life.ended, said.seen.last()) {
            (Some(Ending::Violation(code)), Some(Seen::Broke(violation))) => {
                assert_eq!(code, violation.close_code());
                let must_be_told = !self.gone && !self.stalled && !self.far.saw_reset() && !hurried;
                assert!(!must_be_told || closed.is_some(), "{violation:?}, and nothing is said");
                // Unless this end had closed before.
                let told = closed.flatten();
                assert!(life.closing || hurried || told.is_none_or(|told| told == code || told.0 >= 4000));
            }
            (Some(Ending::Violation(code)), last) => panic!("failed with {code}, but {last:?} was said"),
            _ => {}
        }
    }
}

const OFFERS: [&str; 4] = [
    "permessage-deflate",
    "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
    "permessage-deflate; client_max_window_bits=9; server_max_window_bits=9",
    "x-unknown, permessage-deflate; client_max_window_bits",
];

/// What a listener hears; of compressed messages by our own codec, which has an oracle elsewhere.
fn listen(role: Role, bytes: &[u8], limit: Option<u32>, deflate: Option<DeflateParams>) -> Heard {
    let Some(params) = deflate else { return model::listen(role, bytes, limit) };
    let limit = limit.unwrap_or(u32::MAX);
    let codec = match role {
        Role::Server => Codec::server(limit),
        Role::Client => Codec::client(limit, || [1, 2, 3, 4]),
    };
    let mut seen = Vec::new();
    let mut codec = codec.with_deflate(params, &DeflateConfig::default());
    let result = codec.feed(&mut bytes.to_vec(), |event, _| seen.push(record(event)));
    seen.extend(result.err().map(Seen::Broke));
    Heard { seen, whole_frames: bytes.len() }
}

/// What the two ends agreed upon about compression, by the answer in `heard`.
fn agreed(heard: &[u8]) -> Option<DeflateParams> {
    let heard = std::str::from_utf8(heard).expect("our heads are ASCII");
    let answer = heard.lines().rev().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "))?;
    let answer = extension::parse(answer).next()?.expect("our own answer");
    let config = DeflateConfig { takeover: true, ..DeflateConfig::default() };
    Some(DeflateOffer::new(&config, true).settle(&answer).expect("an answer to every offer"))
}

/// Where frames begin: behind plain responses and a 101.
fn after_responses(heard: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let head_bytes = HeadScanner::default().scan(&heard[at..], 1 << 16).ok().flatten()?;
        let head = std::str::from_utf8(&heard[at..at + head_bytes]).expect("our heads are ASCII");
        at += head_bytes;
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|head| head.get(..3)).expect("a status");
        if status == "101" {
            return Some(at);
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.map_or(0, |length| length.parse().expect("a length"));
        // The answer to a HEAD has a length and no body; no body here looks like a head.
        if !heard[at..].starts_with(b"HTTP/1.1 ") {
            at += length;
        }
        if at >= heard.len() {
            return None;
        }
    }
}
