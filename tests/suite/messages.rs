//! Messages: every size, fragments, streams, control frames between.

use crate::peer::{Peer, bare, binary, frame, text};
use crate::stage::Stage;
use std::time::Duration;

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn letters(bytes: usize) -> String {
    (0..bytes).map(|at| char::from(b'a' + (at % 26) as u8)).collect()
}

/// Lines as the service's stream mode answers them: first and last as bits, then the payload.
fn streamed(peer: &mut Peer, bytes: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut marks, mut payload) = (Vec::new(), Vec::new());
    while payload.len() < bytes || marks.last().is_none_or(|mark| mark & 1 == 0) {
        let (_, line) = peer.next_frame();
        marks.push(line[0] - b'0');
        payload.extend_from_slice(&line[1..]);
    }
    (marks, payload)
}

on_every_driver! {
    fn echoes_every_size(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        for bytes in (0..=300).chain([65_535, 65_536, 65_537, 200_000, 1 << 20]) {
            peer.send_in_background(binary(&pattern(bytes)));
            peer.expect_binary(&pattern(bytes));
            peer.send_in_background(text(&letters(bytes)));
            peer.expect_text(&letters(bytes));
        }
    }

    fn echoes_many_at_once_in_order(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        let mut batch = Vec::new();
        for number in 0..3_000 {
            batch.extend(text(&format!("message {number}")));
        }
        peer.send_in_background(batch);
        for number in 0..3_000 {
            peer.expect_text(&format!("message {number}"));
        }
    }

    fn sends_messages_in_frames(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        for (bytes, line, frames) in [
            (4, "twelve bytes", &[(0x01, "twel"), (0x00, "ve b"), (0x80, "ytes")][..]),
            (5, "twelve bytes", &[(0x01, "twelv"), (0x00, "e byt"), (0x80, "es")]),
            (12, "twelve bytes", &[(0x81, "twelve bytes")]),
            (1, "ü", &[(0x01, "\u{c3}"), (0x80, "\u{bc}")]),
            (1, "", &[(0x81, "")]),
        ] {
            peer.send(&text(&format!("!frames {bytes} {line}")));
            for (b0, part) in frames {
                // Each character stands for a byte.
                let part: Vec<u8> = part.chars().map(|char| char as u8).collect();
                peer.expect(&bare(*b0, &part));
            }
            peer.check_echo("whole again");
        }
    }

    fn takes_frames_in_any_pieces(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        let bytes: Vec<u8> =
            [text("grüße"), frame(0x89, b"ping"), binary(&pattern(300)), text("")].concat();
        for size in [1, 2, 3, 5, 7] {
            peer.send_pieces(bytes.chunks(size));
            peer.expect_text("grüße");
            peer.expect(&bare(0x8a, b"ping"));
            peer.expect_binary(&pattern(300));
            peer.expect_text("");
        }
    }

    fn joins_fragments_around_control_frames(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        peer.send(&frame(0x01, "grü".as_bytes()));
        peer.send(&frame(0x89, b"one"));
        peer.send(&frame(0x00, b""));
        peer.send(&frame(0x8a, b"unasked"));
        // A character may be cut by a fragment's end.
        peer.send(&frame(0x00, &"ß".as_bytes()[..1]));
        peer.send(&frame(0x89, b"two"));
        peer.expect(&[bare(0x8a, b"one"), bare(0x8a, b"two")].concat());
        peer.expect_silence(Duration::from_millis(20));
        peer.send(&frame(0x80, &"ße".as_bytes()[1..]));
        peer.expect_text("grüße");
        peer.check_echo("and on");
    }

    fn streams_fragments_to_a_handler_that_wants_them(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/stream");
        peer.send(&text("whole"));
        peer.expect_binary(b"3whole");
        peer.send(&frame(0x01, b"head "));
        assert_eq!(streamed_some(&mut peer, 5), "head ");
        peer.send(&frame(0x80, b"tail"));
        let (marks, payload) = streamed(&mut peer, 4);
        assert_eq!((payload.as_slice(), marks.last().unwrap() & 1), (&b"tail"[..], 1));
        // Larger than max_message_bytes: a stream is not kept.
        let bytes = pattern(3 << 20);
        peer.send_in_background(binary(&bytes));
        let (marks, payload) = streamed(&mut peer, bytes.len());
        assert!(payload == bytes);
        assert!(marks[0] & 2 != 0 && marks[1..].iter().all(|mark| mark & 2 == 0), "one is the first");
        assert_eq!(marks.iter().filter(|mark| **mark & 1 != 0).count(), 1, "one is the last");
    }

    fn answers_pings(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        for payload in [&b""[..], b"x", &[0xff; 125]] {
            peer.send(&frame(0x89, payload));
            peer.expect(&bare(0x8a, payload));
        }
        peer.send(&text("!ping hello?"));
        peer.expect(&bare(0x89, b"hello?"));
        peer.send(&frame(0x8a, b"hello?"));
        peer.check_echo("still here");
    }

    /// Of many pings at once the last is answered in any case (RFC 6455 §5.5.3), wherever the reads cut.
    fn answers_the_last_of_many_pings(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        for count in [16, 17, 40, 100] {
            let pings: Vec<u8> = (0..count).flat_map(|n: u32| frame(0x89, format!("ping {n}").as_bytes())).collect();
            let (head, tail) = pings.split_at(pings.len() - 7);
            peer.send(head);
            peer.send(tail);
            let last = bare(0x8a, format!("ping {}", count - 1).as_bytes());
            let mut pongs = 0;
            let mut next = 0;
            loop {
                let (b0, payload) = peer.next_frame();
                assert_eq!(b0, 0x8a);
                pongs += 1;
                let number: u32 = String::from_utf8(payload.clone()).unwrap()[5..].parse().unwrap();
                assert!(number >= next, "in order");
                next = number + 1;
                if bare(0x8a, &payload) == last {
                    break;
                }
            }
            assert!(pongs <= count);
        }
        peer.check_echo("and on");
    }
}

/// The payloads of fragments until that many bytes came.
fn streamed_some(peer: &mut Peer, bytes: usize) -> String {
    let mut payload = Vec::new();
    while payload.len() < bytes {
        let (_, line) = peer.next_frame();
        payload.extend_from_slice(&line[1..]);
    }
    String::from_utf8(payload).unwrap()
}

/// The ping that is one too many comes in two reads of one turn.
#[test]
fn answers_a_withheld_ping_that_was_carried() {
    let faults = ringwire::sim::Faults::none();
    let stage = Stage::new(crate::stage::On::Sim, crate::stage::Setup { faults, ..Default::default() });
    let mut peer = stage.open("/");
    for count in 15..40_u32 {
        let pings: Vec<u8> = (0..count).flat_map(|n| frame(0x89, format!("ping {n}").as_bytes())).collect();
        let (head, tail) = pings.split_at(pings.len() - 7);
        peer.send(head);
        peer.send(tail);
        let mut last = Vec::new();
        while last != format!("ping {}", count - 1).as_bytes() {
            let (b0, payload) = peer.next_frame();
            assert_eq!(b0, 0x8a);
            last = payload;
        }
    }
}
