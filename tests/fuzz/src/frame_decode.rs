//! Frames out of arbitrary bytes: `Session` and `Codec`, under any cut, against the model.

use crate::input::{Input, reads};
use crate::model;
use crate::ws_support::{Reader, Seen};
use ringwire::ws::{Codec, DecodeLimits, Event, Message, Role, State};

/// Input: flags (role, streaming, limit), a cut (2 bytes), then what is received.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.byte();
    let role = if flags & 1 == 0 { Role::Server } else { Role::Client };
    let max_message_bytes = [64, 1_000, 1 << 20, u32::MAX][usize::from(flags >> 2 & 3)];
    let limits = DecodeLimits { max_message_bytes, stream: flags & 2 != 0 };
    let cut = input.u16();
    let bytes = input.rest();

    let limit = (!limits.stream).then_some(max_message_bytes);
    let expected = model::listen(role, bytes, limit).seen;
    for reads in [vec![bytes], reads(bytes, cut)] {
        let mut reader = Reader::with_limits(role, limits);
        reads.iter().for_each(|read| reader.read(read));
        assert_eq!(reader.seen, expected, "session");
        let ended = matches!(expected.last(), Some(Seen::Close(..) | Seen::Broke(_)));
        let state = if ended { State::CloseReceived } else { State::Open };
        assert_eq!(reader.session.state(), state);
        if !limits.stream {
            assert_eq!(feed(role, max_message_bytes, &reads), expected, "codec");
        }
    }
}

fn feed(role: Role, max_message_bytes: u32, reads: &[&[u8]]) -> Vec<Seen> {
    let mut codec = match role {
        Role::Server => Codec::server(max_message_bytes),
        Role::Client => Codec::client(max_message_bytes, || [1, 2, 3, 4]),
    };
    let mut seen = Vec::new();
    for read in reads {
        if let Err(violation) = codec.feed(&mut read.to_vec(), |event, _| seen.push(record(event))) {
            seen.push(Seen::Broke(violation));
        }
    }
    seen
}

/// An event as a line of the transcript.
pub fn record(event: Event<'_>) -> Seen {
    match event {
        Event::Message(Message::Text(text)) => Seen::Text(text.to_owned()),
        Event::Message(Message::Binary(bytes)) => Seen::Binary(bytes.to_owned()),
        Event::Ping(payload) => Seen::Ping(payload.to_owned()),
        Event::Pong(payload) => Seen::Pong(payload.to_owned()),
        Event::Close { code, reason } => Seen::Close(code, reason.to_owned()),
    }
}
