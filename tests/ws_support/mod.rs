//! What the frame tests share: bytes in, a transcript out.

#![allow(dead_code, reason = "each test crate uses its part")]

use ringwire::ws::{
    CloseCode, DecodeLimits, FrameHead, Item, Kind, MAX_CARRY, Opcode, Role, Session, Violation,
    encode_frame, wanted,
};

/// A line of the transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<CloseCode>, String),
    Broke(Violation),
}

pub fn text(text: &str) -> Seen {
    Seen::Text(text.to_owned())
}

/// Reads as a connection does: the rest of each read is carried in front of the next one.
pub struct Reader {
    pub session: Session,
    pub limits: DecodeLimits,
    carry: Vec<u8>,
    message: Vec<u8>,
    inside: bool,
    pub seen: Vec<Seen>,
}

impl Reader {
    pub fn new(role: Role) -> Self {
        Self::with_limits(role, DecodeLimits::default())
    }

    pub fn with_limits(role: Role, limits: DecodeLimits) -> Self {
        let (carry, message, seen) = (Vec::new(), Vec::new(), Vec::new());
        Self { session: Session::new(role), limits, carry, message, inside: false, seen }
    }

    /// One read of the transport.
    pub fn read(&mut self, bytes: &[u8]) {
        let mut input = bytes.to_vec();
        let mut at = 0;
        while !self.carry.is_empty() {
            let take = wanted(&self.carry).min(input.len() - at);
            self.carry.extend_from_slice(&input[at..at + take]);
            at += take;
            let mut carry = std::mem::take(&mut self.carry);
            let mut carry_at = 0;
            self.decode_next(&mut carry, &mut carry_at);
            if carry_at == 0 {
                assert!(take == 0 || wanted(&carry) > 0, "a whole carry is taken");
                self.carry = carry;
                if at == input.len() {
                    return;
                }
            } else {
                assert_eq!(carry_at, carry.len(), "nothing is left of a carry that was completed");
            }
        }
        while self.decode_next(&mut input, &mut at) {}
        self.carry = input.split_off(at);
        assert!(self.carry.len() < MAX_CARRY, "{} bytes left over", self.carry.len());
        assert!(self.carry.is_empty() || wanted(&self.carry) > 0, "complete, yet left over");
    }

    fn decode_next(&mut self, input: &mut [u8], at: &mut usize) -> bool {
        let before = *at;
        let item = match self.session.decode(input, at, &self.limits) {
            Ok(Some(item)) => item,
            Ok(None) => return false,
            Err(violation) => {
                self.seen.push(Seen::Broke(violation));
                return true;
            }
        };
        assert!(before <= *at && *at <= input.len());
        match item {
            Item::Message { kind, payload } => {
                assert!(!self.inside, "a whole message inside another");
                self.seen.push(message(kind, input[payload].to_vec()));
            }
            Item::Piece { kind, payload, first, last } => {
                assert_eq!(first, !self.inside);
                assert!(last || !payload.is_empty(), "an empty piece that says nothing");
                assert!(!(first && last), "that is a whole message");
                self.message.extend_from_slice(&input[payload]);
                self.inside = !last;
                if last {
                    let whole = std::mem::take(&mut self.message);
                    self.seen.push(message(kind, whole));
                }
            }
            Item::Deflated { .. } => panic!("compressed, but nothing was agreed upon"),
            Item::Ping { payload } => self.seen.push(Seen::Ping(input[payload].to_vec())),
            Item::Pong { payload } => self.seen.push(Seen::Pong(input[payload].to_vec())),
            Item::Close { code, reason } => {
                let reason = String::from_utf8(input[reason].to_vec()).expect("a valid reason");
                self.seen.push(Seen::Close(code, reason));
            }
        }
        true
    }
}

fn message(kind: Kind, payload: Vec<u8>) -> Seen {
    match kind {
        Kind::Text => Seen::Text(String::from_utf8(payload).expect("validated text")),
        Kind::Binary => Seen::Binary(payload),
    }
}

/// The transcript of one read.
pub fn transcript(role: Role, bytes: &[u8]) -> Vec<Seen> {
    let mut reader = Reader::new(role);
    reader.read(bytes);
    reader.seen
}

pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame; FIN, RSV and opcode as given in `b0`.
pub fn masked(b0: u8, payload: &[u8]) -> Vec<u8> {
    frame(b0, payload, Some(MASK))
}

pub fn frame(b0: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = Vec::new();
    encode_frame(&mut out, FrameHead { fin: true, rsv1: false, opcode: Opcode::Text, mask }, payload);
    out[0] = b0;
    out
}
