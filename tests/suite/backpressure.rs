//! Peers that read slowly or not at all: bounded memory, nothing lost, nobody else delayed.

use crate::peer::{binary, frame, text};
use crate::stage::{Setup, Stage};
use ringwire::Limits;
use std::time::Duration;

fn small() -> Setup {
    let limits = Limits {
        max_outbox_bytes: 100_000,
        pause_receive_bytes: 20_000,
        // A turn's echoes fit the outbox above the pause.
        receive_buffer_bytes: 4_096,
        max_receive_bytes_per_turn: 32_768,
        ..Limits::default()
    };
    Setup { limits, ..Setup::default() }
}

on_every_driver! {
    fn echoes_megabytes_to_a_slow_reader(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.narrow_peer();
        peer.upgrade("/?tag=a");
        let message = |n: u32| (0..64 << 10).map(|at: u32| (at ^ n) as u8).collect::<Vec<u8>>();
        let all: Vec<u8> = (0..128).flat_map(|n| binary(&message(n))).collect();
        assert!(all.len() > 8 << 20);
        peer.stop_reading();
        peer.send_in_background(all);
        stage.until("receiving pauses", || stage.metric("ringwire_receive_pauses_total") > 0);
        let queued = stage.metric("ringwire_outbox_bytes");
        assert!(queued <= 4 << 20, "{queued} bytes are queued");
        peer.start_reading();
        for n in 0..128 {
            peer.expect_binary(&message(n));
            if n % 16 == 0 {
                stage.pass(Duration::from_millis(3));
            }
        }
        assert_eq!(stage.notes.of("a").iter().filter(|event| event.starts_with("echo")).count(), 0);
        peer.bye();
    }

    fn tells_what_became_of_each_message(on) {
        let stage = Stage::new(on, small());
        let mut peer = stage.open("/?tag=a");
        // Nothing is in flight: what fits is sent, the rest is dropped.
        peer.send(&text("!burst 15 10000"));
        stage.wait("a", "burst 9 0 6");
        for number in 0..9_u32 {
            let (_, payload) = peer.next_frame();
            assert_eq!(payload[..4], number.to_be_bytes());
        }
        stage.wait("a", "drain");
        stage.wait_metric("ringwire_messages_dropped_total", 6);
        peer.check_echo("and on");
    }

    fn queues_behind_what_is_in_flight_and_tells_of_the_end(on) {
        let stage = Stage::new(on, small());
        let mut peer = stage.narrow_peer();
        peer.upgrade("/send-at-drain?tag=a");
        peer.stop_reading();
        // Fill what lies between, which may take all that is queued a few times, then the outbox.
        let (mut sent, mut dropped) = (0, 0);
        stage.until("the outbox stays full", || {
            stage.remote.send_binary(stage.id("a"), vec![7; 10_000]).unwrap();
            sent += 1;
            stage.until("it is taken", || stage.metric("ringwire_mailbox_commands_total") == sent);
            let now_dropped = stage.metric("ringwire_messages_dropped_total");
            if now_dropped == std::mem::replace(&mut dropped, now_dropped) {
                return false;
            }
            stage.pass(Duration::from_millis(20));
            stage.metric("ringwire_outbox_bytes") > 80_000
        });
        assert!(stage.metric("ringwire_outbox_bytes") <= 100_000 + 4_096);
        let drains = || stage.notes.of("a").iter().filter(|event| *event == "drain").count();
        let drained = drains();
        stage.pass(Duration::from_millis(20));
        assert_eq!(drains(), drained, "nothing is taken");
        peer.start_reading();
        let mut taken = 0;
        while taken < sent - dropped {
            match peer.next_frame() {
                (0x82, payload) => {
                    assert!(payload == [7; 10_000]);
                    taken += 1;
                }
                (_, payload) => assert_eq!(payload, b"drained"),
            }
        }
        peer.expect_text("drained");
        assert!(drains() > drained);
        stage.wait_metric("ringwire_outbox_bytes", 0);
        peer.check_echo("and on");
    }

    /// A full outbox drops messages, not what the protocol owes.
    fn control_frames_have_room_of_their_own(on) {
        let stage = Stage::new(on, small());
        let mut peer = stage.open("/?tag=a");
        peer.send(&[text("!burst 20 10000"), frame(0x89, b"pinged"), text("!close 4000 full")].concat());
        for _ in 0..9 {
            assert_eq!(peer.next_frame().1.len(), 10_000);
        }
        peer.expect(b"\x8a\x06pinged");
        assert_eq!(peer.expect_close(4000), "full");
    }

    fn a_message_larger_than_the_outbox_is_dropped_whole(on) {
        let stage = Stage::new(on, small());
        let mut peer = stage.open("/?tag=a");
        peer.send(&binary(&[1; 100_001]));
        stage.wait("a", "echo Dropped");
        peer.check_echo("and on");
    }

    /// Who reads nothing, beside who does: the one must not cost the other.
    fn one_that_does_not_read_harms_nobody(on) {
        let stage = Stage::plain(on);
        let mut witness = stage.open("/");
        let mut deaf: Vec<_> = (0..8)
            .map(|number| {
                let mut peer = stage.narrow_peer();
                peer.upgrade(&format!("/?tag=deaf{number}"));
                peer.stop_reading();
                peer.send_in_background(binary(&vec![number; 1 << 20]).repeat(12));
                peer
            })
            .collect();
        stage.until("all are paused", || stage.metric("ringwire_receive_pauses_total") >= 8);
        for number in 0..100 {
            witness.check_echo(&number.to_string());
        }
        let queued = stage.metric("ringwire_outbox_bytes");
        assert!(queued < 8 * (4 << 20), "{queued} bytes queued");
        for (number, peer) in deaf.iter_mut().enumerate() {
            peer.start_reading();
            for _ in 0..12 {
                peer.expect_binary(&vec![number as u8; 1 << 20]);
            }
        }
        stage.wait_metric("ringwire_outbox_bytes", 0);
    }

    /// Receiving goes on when there is room again, though the outbox is never quite empty.
    fn pauses_and_resumes_many_times(on) {
        let stage = Stage::new(on, small());
        let mut peer = stage.narrow_peer();
        peer.upgrade("/?tag=a");
        peer.send_in_background((0..2_000_u32).flat_map(|n| binary(&[&n.to_be_bytes()[..], &[0; 3_000]].concat())).collect());
        for number in 0..2_000_u32 {
            if number % 200 == 0 {
                peer.stop_reading();
                stage.pass(Duration::from_millis(2));
                peer.start_reading();
            }
            assert_eq!(peer.next_frame().1[..4], number.to_be_bytes());
        }
        peer.check_echo("and on");
    }
}
