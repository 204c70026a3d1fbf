//! Two codecs that talk to each other over a wire that damages bytes.
//!
//! Whatever is fed, what a codec reports is what the model hears in the same bytes, and what it
//! writes is a conversation without fault that ends with its Close frame.

use crate::frame_decode::record;
use crate::input::{Input, reads};
use crate::model;
use crate::ws_support::Seen;
use ringwire::ws::{
    CloseCode, Codec, Event, Message, Opcode, Role, State, Writer, encode_fragment, encode_ping,
};

const MAX_MESSAGE_BYTES: u32 = 600;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

struct End {
    role: Role,
    codec: Codec,
    /// All it ever wrote.
    said: Vec<u8>,
    /// Of that, what is on its way, damaged or not.
    wire: Vec<u8>,
    /// All it was ever fed.
    fed: Vec<u8>,
    /// What it reported.
    seen: Vec<Seen>,
    state: State,
}

/// Input: operations, each a byte and what it takes.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut ends = [
        End::new(Role::Server, Codec::server(MAX_MESSAGE_BYTES)),
        End::new(Role::Client, Codec::client(MAX_MESSAGE_BYTES, || MASK)),
    ];
    while !input.is_empty() {
        let op = input.byte();
        let side = usize::from(op >> 7);
        operate(op & 0x7f, &mut ends, side, &mut input);
        ends.iter_mut().for_each(End::check);
    }
    for side in [0, 1, 0, 1] {
        let wire = std::mem::take(&mut ends[side].wire);
        ends[1 - side].feed(&wire, 0, false);
        ends[1 - side].check();
    }
    ends.iter().for_each(End::check_words);
}

fn operate(op: u8, ends: &mut [End; 2], side: usize, input: &mut Input<'_>) {
    let end = &mut ends[side];
    match op % 10 {
        0 => end.send(Message::Text(&input.text())),
        1 => end.send(Message::Binary(&vec![input.byte(); usize::from(input.u16() % 1_000)])),
        2 => {
            let was_open = end.is_open();
            let sent = end.codec.writer().ping(input.slice());
            assert_eq!(sent.is_ok(), was_open);
        }
        3 => {
            let code = CloseCode(input.pick([1000, 1001, 1005, 1009, 3000, 4999, 5000, 0]));
            end.codec.writer().close(Some(code).filter(|code| code.0 > 0), &input.text());
        }
        4 | 5 => {
            let have = end.wire.len();
            let len = if op % 10 == 4 { have } else { usize::from(input.byte()).min(have) };
            let bytes: Vec<u8> = end.wire.drain(..len).collect();
            let cut = input.u16();
            ends[1 - side].feed(&bytes, cut, op & 0x40 != 0);
        }
        6 => {
            let at = usize::from(input.u16());
            if let Some(byte) = end.wire.get_mut(at) {
                *byte ^= input.byte().max(1);
            }
        }
        7 => {
            let at = usize::from(input.u16()).min(end.wire.len());
            let to = (at + input.below(16)).min(end.wire.len());
            end.wire.splice(at..to, input.slice().iter().copied());
        }
        // The writer leaves fragments and odd pings to the encoders; the output is the caller's.
        8 if end.is_open() => {
            let (mask, text) = (end.mask(), input.text());
            let cut = usize::from(input.byte()).min(text.len());
            let (head, tail) = text.as_bytes().split_at(cut);
            encode_fragment(end.codec.output(), Opcode::Text, false, head, mask);
            encode_ping(end.codec.output(), input.slice(), mask);
            encode_fragment(end.codec.output(), Opcode::Continuation, true, tail, mask);
        }
        8 => {}
        _ => {
            // A long run of one message.
            let (text, times) = (input.text(), input.below(40));
            for _ in 0..times {
                end.send(Message::Text(&text));
            }
        }
    }
}

impl End {
    fn new(role: Role, codec: Codec) -> Self {
        let [said, wire, fed] = Default::default();
        Self { role, codec, said, wire, fed, seen: Vec::new(), state: State::Open }
    }

    fn mask(&self) -> Option<[u8; 4]> {
        (self.role == Role::Client).then_some(MASK)
    }

    fn is_open(&self) -> bool {
        self.codec.state() == State::Open
    }

    fn send(&mut self, message: Message<'_>) {
        let was_open = self.is_open();
        assert_eq!(self.codec.writer().send(message).is_ok(), was_open);
    }

    fn feed(&mut self, bytes: &[u8], cut: u16, talks_back: bool) {
        self.fed.extend_from_slice(bytes);
        for read in reads(bytes, cut) {
            let seen = &mut self.seen;
            let mut on_event = |event: Event<'_>, writer: &mut Writer| {
                let event = record(event);
                if let (Seen::Text(text), true) = (&event, talks_back) {
                    let _ = writer.send(Message::Text(text));
                    if text.ends_with('!') {
                        writer.close(Some(CloseCode(4000)), text);
                    }
                }
                seen.push(event);
            };
            if let Err(violation) = self.codec.feed(&mut read.to_vec(), &mut on_event) {
                self.seen.push(Seen::Broke(violation));
                assert_eq!(self.codec.state(), State::Closed, "a violation is answered at once");
            }
        }
    }

    /// After every operation.
    fn check(&mut self) {
        let written = std::mem::take(self.codec.output());
        self.said.extend_from_slice(&written);
        self.wire.extend_from_slice(&written);
        let state = self.codec.state();
        match (self.state, state) {
            (before, now) if before == now => {}
            (State::Open, State::CloseSent | State::Closed) | (State::CloseSent, State::Closed) => {}
            (before, now) => panic!("{:?} went from {before:?} to {now:?}", self.role),
        }
        self.state = state;
        let over = matches!(self.seen.last(), Some(Seen::Close(..) | Seen::Broke(_)));
        assert_eq!(over, state == State::Closed, "{:?} in {state:?}", self.role);
    }

    /// At the end: nothing was misheard, and nothing was misspoken.
    fn check_words(&self) {
        let heard = model::listen(self.role, &self.fed, Some(MAX_MESSAGE_BYTES));
        assert_eq!(self.seen, heard.seen, "{:?} heard", self.role);
        let listener = if self.role == Role::Server { Role::Client } else { Role::Server };
        let said = model::listen(listener, &self.said, None);
        assert_eq!(said.whole_frames, self.said.len(), "{:?} said {:?}", self.role, said.seen);
        let closed = matches!(said.seen.last(), Some(Seen::Close(..)));
        assert_eq!(closed, matches!(self.state, State::CloseSent | State::Closed));
    }
}
