//! Messages larger than a receive buffer: what is sent of them, in which order, and what follows
//! them at once.

use crate::peer::{Peer, binary, close, frame, text};
use crate::stage::{Setup, Stage};
use ringwire::{Deadlines, Limits};
use std::time::Duration;

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251 + seed) as u8).collect()
}

/// What the service sends at `/variations` for one message.
fn expect_variations(peer: &mut Peer, message: &[u8]) {
    peer.expect_text("before");
    peer.expect_binary(message);
    peer.expect_binary(message);
    peer.expect_binary(&message[1..]);
    peer.expect_text("after");
}

on_every_driver! {
    fn a_message_is_sent_twice_in_part_and_between_others(on) {
        // A turn may bring all three messages, each of which is answered by three times its bytes.
        let limits = Limits { max_outbox_bytes: 16 << 20, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let mut peer = stage.open("/variations");
        for bytes in [100, 5_000, 65_000, 65_535, 65_536, 70_000, 150_000, 700_000] {
            let messages: Vec<_> = (0..3).map(|seed| pattern(bytes, seed)).collect();
            peer.send_in_background(messages.iter().flat_map(|message| binary(message)).collect());
            for message in &messages {
                expect_variations(&mut peer, message);
            }
        }
        // In fragments nobody knows at the beginning how long it gets.
        let message = pattern(200_000, 5);
        let (head, tail) = message.split_at(1_000);
        peer.send_in_background([frame(0x02, head), frame(0x80, tail)].concat());
        expect_variations(&mut peer, &message);
        let (head, tail) = message[..3_000].split_at(1_000);
        peer.send_pieces([&frame(0x02, head)[..], &frame(0x80, tail)[..]]);
        expect_variations(&mut peer, &message[..3_000]);
        peer.bye();
    }

    fn what_follows_a_large_frame_is_heard_at_once(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        for bytes in [65_536, 131_072, 200_000, 300_000, 1 << 20] {
            let message = pattern(bytes, 0);
            let whole = binary(&message);
            // Cut anywhere.
            for left in [0, 1, 16_383, 16_384, 16_385, 40_000, 65_536, bytes - 1] {
                let (most, rest) = whole.split_at(whole.len() - left);
                peer.send(most);
                stage.pass(Duration::from_millis(3));
                peer.send_in_background([rest, &frame(0x89, b"there?")].concat());
                peer.expect_binary(&message);
                peer.expect(b"\x8a\x06there?");
                peer.check_echo("and on");
            }
        }
        let mut bytes = binary(&pattern(300_000, 0));
        bytes.extend(close(1000, "done"));
        peer.send_in_background(bytes);
        peer.expect_binary(&pattern(300_000, 0));
        peer.expect_close(1000);
        peer.expect_fin();
    }

    fn a_text_in_many_receive_buffers_is_judged_as_a_whole(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        // Characters lie across all the places where it may be cut.
        for lead in 0..4 {
            let message = "a".repeat(lead) + &"€🙂ß".repeat(30_000);
            peer.send_in_background(text(&message));
            peer.expect_text(&message);
            let (head, rest) = message.as_bytes().split_at(101_001);
            let (middle, tail) = rest.split_at(80_002);
            let frames = [frame(0x01, head), frame(0x89, b"?"), frame(0x00, middle), frame(0x80, tail)];
            peer.send_in_background(frames.concat());
            peer.expect(b"\x8a\x01?");
            peer.expect_text(&message);
        }
        peer.bye();
        for wrong in [90_000, 140_000, 199_999] {
            let mut message = vec![b'a'; 200_000];
            message[wrong] = 0xe2; // nothing of that character follows
            let mut peer = stage.open("/");
            peer.send_in_background([frame(0x81, &message), text("not heard")].concat());
            peer.expect_failed(1007);
        }
    }

    fn an_end_inside_a_large_frame_is_seen(on) {
        let stage = Stage::plain(on);
        let whole = binary(&pattern(1 << 20, 0));
        for (number, bytes) in [100, 70_000, 200_000, 900_000].into_iter().enumerate() {
            let (tag, target) = (format!("{number}"), format!("/?tag={number}"));
            let mut peer = stage.open(&target);
            peer.send(&whole[..bytes]);
            stage.pass(Duration::from_millis(3));
            peer.half_close();
            assert_eq!(stage.closed(&tag).last().unwrap(), "close Disconnected");
            peer.expect_end();
        }
    }

    fn a_peer_that_sends_a_large_frame_slowly_is_alive(on) {
        let deadlines = Deadlines { idle_ms: 60, pong_ms: 800, ..Deadlines::default() };
        let stage = Stage::new(on, Setup { deadlines, ..Setup::default() });
        let mut peer = stage.open("/");
        let message = pattern(400_000, 3);
        let whole = binary(&message);
        let (head, tail) = whole.split_at(100_000);
        peer.send(head);
        // Each piece is a sign of life, for longer than a ping and its pong may take.
        for piece in tail[..60].chunks(2) {
            stage.pass(Duration::from_millis(40));
            peer.send(piece);
        }
        peer.send_in_background(tail[60..].to_vec());
        loop {
            let (b0, payload) = peer.next_frame();
            if b0 == 0x82 {
                assert!(payload == message);
                break;
            }
            // On a busy host a piece may come late.
            assert_eq!((b0, payload.len()), (0x89, 4), "a ping, with its time");
        }
        peer.check_echo("and on");
    }

    fn a_slow_reader_gets_every_large_echo(on) {
        let limits = Limits { max_outbox_bytes: 8 << 20, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let mut peer = stage.narrow_peer();
        peer.upgrade("/");
        peer.stop_reading();
        let all = (0..12).flat_map(|seed| binary(&pattern(1 << 20, seed))).collect();
        peer.send_in_background(all);
        stage.until("receiving pauses", || stage.metric("ringwire_receive_pauses_total") > 0);
        peer.start_reading();
        for seed in 0..12 {
            peer.expect_binary(&pattern(1 << 20, seed));
        }
        peer.check_echo("and on");
    }

    fn a_large_message_beyond_the_outbox_is_dropped_whole(on) {
        let limits = Limits { max_outbox_bytes: 300_000, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let mut peer = stage.open("/?tag=a");
        peer.send_in_background(binary(&pattern(300_001, 0)));
        stage.wait("a", "echo Dropped");
        peer.send_in_background(binary(&pattern(250_000, 0)));
        peer.expect_binary(&pattern(250_000, 0));
        peer.send(&text("!backpressure"));
        peer.expect_text("0");
    }
}
