//! Messages that are sent out of the receive buffer in which they came: the same bytes in the same
//! order as by copy, and no buffer kept by who does not read.

use crate::peer::{binary, close, frame, text};
use crate::stage::{Setup, Stage};
use ringwire::Limits;
use std::time::Duration;

const ANSWERED: &str = "ringwire_messages_answered_in_place_total";

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251 + seed) as u8).collect()
}

on_every_driver! {
    fn a_message_that_came_whole_is_answered_where_it_lies(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        // The lengths around each form of the header, text and binary.
        for (seed, bytes) in [4_095, 4_096, 4_097, 16_384, 30_000].into_iter().cycle().take(50).enumerate() {
            let message = pattern(bytes, seed);
            peer.send(&binary(&message));
            peer.expect_binary(&message);
            let line = "ä".repeat(bytes / 2);
            peer.send(&text(&line));
            peer.expect_text(&line);
        }
        // Those that lie across two buffers are not, nor are the short ones.
        let answered = stage.metric(ANSWERED);
        assert!((30..=80).contains(&answered), "{answered} of 100");
        stage.wait_metric("ringwire_messages_sent_total", 100);
        peer.bye();
    }

    fn what_is_sent_behind_an_answer_follows_it(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/twice?tag=a");
        for seed in 0..20 {
            let message = pattern(5_000, seed);
            peer.send(&binary(&message));
            peer.expect_binary(&message);
            peer.expect_text("and more");
            peer.expect_binary(&message);
        }
        assert!(stage.metric(ANSWERED) > 0);
        // It was never told that somebody has to wait.
        assert!(!stage.notes.of("a").contains(&"drain".to_owned()));
        peer.bye();
    }

    fn many_at_once_keep_their_order(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        for round in 0..10 {
            let messages: Vec<_> = (0..30).map(|at| pattern(10 + at * 611, at + round)).collect();
            let mut bytes = Vec::new();
            for message in &messages {
                bytes.extend(frame(0x89, b"p"));
                bytes.extend(binary(message));
            }
            peer.send_in_background(bytes);
            let mut pongs = 0;
            let mut next = messages.iter();
            while next.len() > 0 {
                match peer.next_frame() {
                    (0x8a, payload) => pongs += usize::from(payload == b"p"),
                    (opcode, payload) => assert!(opcode == 0x82 && payload == *next.next().unwrap()),
                }
            }
            assert!((1..=30).contains(&pongs));
        }
        peer.bye();
    }

    fn a_close_behind_an_answer_comes_last(on) {
        let stage = Stage::plain(on);
        for seed in 0..5 {
            let mut peer = stage.open("/echo-and-close");
            let message = pattern(20_000, seed);
            peer.send(&binary(&message));
            peer.expect_binary(&message);
            peer.expect_close(4003);
            peer.send(&close(4003, ""));
            peer.expect_fin();
        }
        assert!(stage.metric(ANSWERED) > 0);
    }

    fn who_does_not_read_keeps_no_buffer(on) {
        // Fewer buffers than peers that do not read.
        let limits = Limits { receive_buffers: 4, receive_buffer_bytes: 32 << 10, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let message = pattern(9_000, 1);
        let mut deaf: Vec<_> = (0..12)
            .map(|_| {
                let mut peer = stage.narrow_peer();
                peer.upgrade("/");
                peer.stop_reading();
                peer
            })
            .collect();
        // Until nobody takes any more, while another is served.
        let mut other = stage.open("/");
        let mut sent = vec![0; deaf.len()];
        let mut round = 0;
        while stage.metric("ringwire_outbox_bytes") < 12 * 20_000 {
            for (peer, sent) in deaf.iter_mut().zip(&mut sent) {
                peer.send(&binary(&message));
                *sent += 1;
            }
            other.send(&binary(&message));
            other.expect_binary(&message);
            round += 1;
            assert!(round < 2_000, "they take it all");
        }
        assert!(stage.metric(ANSWERED) > 0);
        other.check_echo("still served");
        for (peer, sent) in deaf.iter_mut().zip(sent) {
            peer.start_reading();
            (0..sent).for_each(|_| peer.expect_binary(&message));
        }
        stage.wait_metric("ringwire_outbox_bytes", 0);
        stage.pass(Duration::from_millis(1));
        deaf.into_iter().for_each(crate::peer::Peer::bye);
    }
}
