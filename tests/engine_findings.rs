//! What fuzzing found in the engine, as transcripts. `Simulation::run` checks the engine's books.

use ringwire::sim::{SimPeer, Simulation};
use ringwire::ws::deflate::Deflater;
use ringwire::ws::{CloseCode, FrameHead, Kind, Opcode, encode_frame, encode_message};
use ringwire::{
    Compression, Conn, ConnId, DeflateConfig, Handler, Limits, Message, Request, SendResult, Upgrade,
};

const MASK: Option<[u8; 4]> = Some([0x37, 0xfa, 0x21, 0x3d]);

/// Echoes, and keeps the last connection's id and what became of its messages.
#[derive(Default)]
struct Echo(Option<ConnId>, Vec<Outcome>);

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Send(SendResult),
    Drain,
}

impl Handler for Echo {
    type State = ();

    fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<()> {
        Upgrade::accept(())
    }

    fn open(&mut self, conn: &mut Conn<'_, ()>) {
        self.0 = Some(conn.id());
    }

    fn message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        self.1.push(Outcome::Send(conn.send(message)));
    }

    fn drain(&mut self, _conn: &mut Conn<'_, ()>) {
        self.1.push(Outcome::Drain);
    }
}

/// A shard with one inflater for messages that are not whole.
fn shard() -> Simulation<Echo> {
    let config = DeflateConfig { max_inflaters: 1, min_bytes: 1_000, ..DeflateConfig::default() };
    let limits = Limits { max_outbox_bytes: 100, ..Limits::default() };
    Simulation::<Echo>::builder(1)
        .limits(limits)
        .compression(Compression::Deflate(config))
        .build(|_| Echo::default())
}

fn open(shard: &mut Simulation<Echo>) -> SimPeer {
    let mut peer = shard.connect();
    peer.write(
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
          Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
    );
    shard.run();
    let answer = String::from_utf8(peer.read()).expect("a head");
    assert!(answer.contains("\r\nSec-WebSocket-Extensions: permessage-deflate"), "{answer}");
    peer
}

/// "Hello" compressed, in two frames.
fn halves() -> [Vec<u8>; 2] {
    let mut payload = Vec::new();
    Deflater::new(1, 15).compress(b"Hello", false, &mut payload);
    let (head, tail) = payload.split_at(3);
    let first = FrameHead { fin: false, rsv1: true, opcode: Opcode::Text, mask: MASK };
    let mut halves = [Vec::new(), Vec::new()];
    encode_frame(&mut halves[0], first, head);
    encode_frame(&mut halves[1], FrameHead::whole(Opcode::Continuation, MASK), tail);
    halves
}

#[test]
fn a_violation_inside_a_compressed_message_gives_the_inflater_back() {
    let mut shard = shard();
    let mut peer = open(&mut shard);
    peer.write(&halves()[0]);
    shard.run();
    peer.write(b"\x81\x80\x00\x00\x00\x00");
    shard.run();
    assert_eq!(&peer.read()[2..4], b"\x03\xea");
    assert_eq!(shard.connections(), 1, "it lingers");
}

#[test]
fn a_compressed_message_that_ends_after_our_close_gives_the_inflater_back() {
    let mut shard = shard();
    let mut peer = open(&mut shard);
    peer.write(&halves()[0]);
    shard.run();
    let id = shard.handler().0.expect("it is open");
    shard.remote().close(id, CloseCode::NORMAL, "").expect("it is open");
    shard.run();
    assert_eq!(peer.read(), b"\x88\x02\x03\xe8");
    peer.write(&halves()[1]);
    shard.run();
    assert_eq!(peer.read(), b"", "nobody listens");
}

#[test]
fn a_message_that_never_fits_owes_no_drain() {
    let mut shard = shard();
    let mut peer = open(&mut shard);
    let say = |peer: &mut SimPeer, sizes: &[usize]| {
        let mut frames = Vec::new();
        sizes.iter().for_each(|&size| encode_message(&mut frames, Kind::Binary, &vec![7; size], MASK));
        peer.write(&frames);
    };
    say(&mut peer, &[200]);
    shard.run();
    say(&mut peer, &[50]);
    shard.run();
    use Outcome::{Drain, Send};
    assert_eq!(shard.handler().1, [Send(SendResult::Dropped), Send(SendResult::Sent)]);

    shard.handler().1.clear();
    say(&mut peer, &[50, 60]);
    shard.run();
    assert_eq!(shard.handler().1, [Send(SendResult::Sent), Send(SendResult::Dropped), Drain]);
}
