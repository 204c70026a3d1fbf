//! Deadlines: whoever takes too long is let go, and nobody who does not.

use crate::peer::{binary, close, frame, text, upgrade_request};
use crate::service::Ask;
use crate::stage::{On, Setup, Stage};
use ringwire::{Deadlines, Limits};
use std::time::Duration;

fn with(on: On, deadlines: Deadlines) -> Stage {
    Stage::new(on, Setup { deadlines, ..Setup::default() })
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

on_every_driver! {
    /// Slowloris: one byte now and then does not buy time.
    fn ends_slow_heads(on) {
        let stage = with(on, Deadlines { head_ms: 600, ..Deadlines::default() });
        let mut witness = stage.open("/");
        let mut silent = stage.peer();
        let mut slow = stage.peer();
        for byte in upgrade_request("/", "").as_bytes().chunks(1).take(6) {
            slow.send(byte);
            stage.pass(ms(150));
        }
        slow.expect_refused(408);
        silent.expect_fin();
        witness.check_echo("unharmed");
        stage.wait_metric("ringwire_connections", 1);
    }

    fn ends_slow_bodies_and_idle_keep_alive(on) {
        let stage = with(on, Deadlines { head_ms: 500, ..Deadlines::default() });
        let mut slow = stage.peer();
        slow.send(b"POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
        let mut idle = stage.peer();
        idle.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
        idle.expect_http(200);
        idle.expect_fin();
        slow.expect_refused(408);
    }

    /// The head's deadline does not hang over a response that is read slowly.
    fn lets_responses_be_read_slowly(on) {
        // Also the time to read what the kernels hold, and to ask again, on a busy host.
        let stage = with(on, Deadlines { head_ms: 500, ..Deadlines::default() });
        let mut peer = stage.narrow_peer();
        peer.stop_reading();
        let request = b"GET /bytes?8000000 HTTP/1.1\r\nHost: a\r\n\r\n";
        peer.send(request);
        stage.pass(ms(1_500));
        peer.start_reading();
        assert_eq!(peer.expect_http(200).body.len(), 8_000_000);
        peer.send(request);
        assert_eq!(peer.expect_http(200).body.len(), 8_000_000);
    }

    fn pings_the_idle_and_ends_the_dead(on) {
        let stage = with(on, Deadlines { idle_ms: 150, pong_ms: 150, ..Deadlines::default() });
        let mut peer = stage.open("/?tag=dead");
        peer.expect_ping();
        peer.expect_end();
        assert_eq!(stage.closed("dead")[2], "close Timeout(Pong)");
        stage.wait_metric("ringwire_connections", 0);
    }

    /// A pong that comes at once counts as well as one that comes late. The next ping comes in time, however
    /// long a pong may take.
    fn keeps_who_answers_pings(on) {
        for pong_ms in [1_000, 120_000, 0] {
            let stage = with(on, Deadlines { idle_ms: 60, pong_ms, ..Deadlines::default() });
            let mut peer = stage.open("/?tag=a");
            for _ in 0..20 {
                let payload = peer.expect_ping();
                peer.send(&frame(0x8a, &payload));
            }
            peer.check_echo("alive");
            assert_eq!(stage.notes.of("a"), ["upgrade", "open"]);
        }
    }

    /// Nor is anybody asked again who has not answered yet.
    fn waits_for_a_pong_as_long_as_it_may_take(on) {
        let stage = with(on, Deadlines { idle_ms: 60, pong_ms: 2_000, ..Deadlines::default() });
        let mut peer = stage.open("/?tag=late");
        let payload = peer.expect_ping();
        stage.pass(ms(300));
        assert_eq!(stage.metric("ringwire_pings_sent_total"), 1);
        peer.send(&frame(0x8a, &payload));
        peer.expect_ping();
        assert_eq!(stage.metric("ringwire_pings_sent_total"), 2);
        peer.expect_end();
        assert_eq!(stage.closed("late")[2], "close Timeout(Pong)");
    }

    /// Any sign of life is one, and only silence is asked.
    fn does_not_ping_the_busy(on) {
        let stage = with(on, Deadlines { idle_ms: 1_500, pong_ms: 500, ..Deadlines::default() });
        let mut peer = stage.open("/?tag=a");
        for number in 0..20 {
            peer.check_echo(&number.to_string());
            stage.pass(ms(100));
        }
        assert_eq!(stage.metric("ringwire_pings_sent_total"), 0);
    }

    fn ends_who_does_not_answer_a_close(on) {
        let stage = with(on, Deadlines { close_ms: 150, ..Deadlines::default() });
        let mut peer = stage.open("/?tag=a");
        peer.send(&text("!close 1000"));
        peer.expect_close(1000);
        peer.expect_end();
        assert_eq!(stage.closed("a").last().unwrap(), "close Timeout(Close)");
    }

    /// A close that was asked for between messages is bounded as well.
    fn ends_who_does_not_answer_a_close_from_a_turn(on) {
        let stage = with(on, Deadlines { close_ms: 150, ..Deadlines::default() });
        let mut peer = stage.open("/?tag=a");
        stage.pass(ms(30));
        stage.ask(Ask::Close { id: stage.id("a"), code: 4000 });
        peer.expect_close(4000);
        peer.expect_end();
        assert_eq!(stage.closed("a").last().unwrap(), "close Timeout(Close)");
    }

    /// After both Close frames the peer's FIN is waited for, not for ever.
    fn ends_who_does_not_hang_up(on) {
        let stage = with(on, Deadlines { close_ms: 150, ..Deadlines::default() });
        let mut peer = stage.open("/?tag=a");
        peer.send(&close(1000, ""));
        peer.expect_failed(1000);
        assert!(stage.closed("a")[2].starts_with("close Peer"), "told at once");
        stage.wait_metric("ringwire_connections", 0);
    }

    fn ends_who_takes_nothing(on) {
        let stage = with(on, Deadlines { write_ms: 200, ..Deadlines::default() });
        let mut witness = stage.open("/");
        let mut peer = stage.narrow_peer();
        peer.upgrade("/?tag=a");
        peer.stop_reading();
        // More than any socket's buffers hold.
        for _ in 0..4 {
            peer.send(&text("!burst 3 1000000"));
        }
        assert_eq!(stage.closed("a").last().unwrap(), "close Timeout(Write)");
        witness.check_echo("unharmed");
        stage.wait_metric("ringwire_connections", 1);
        stage.wait_metric("ringwire_outbox_bytes", 0);
    }

    fn ends_messages_that_do_not_end(on) {
        let stage = with(on, Deadlines { assembly_ms: 200, ..Deadlines::default() });
        let mut witness = stage.open("/");
        let starts = [
            ("fragment", frame(0x01, b"begun")),
            ("empty-fragment", frame(0x01, b"")),
            ("header", binary(b"0123456789")[..6].to_vec()),
            ("payload", binary(b"0123456789")[..9].to_vec()),
        ];
        for (tag, start) in starts {
            let mut peer = stage.open(&format!("/?tag={tag}"));
            peer.send(&start);
            peer.expect_failed(1008);
            assert_eq!(stage.closed(tag).last().unwrap(), "close Timeout(Assembly)", "{tag}");
        }
        witness.check_echo("unharmed");
    }

    /// The clock of a message begins with the message, whatever the connection did before.
    fn gives_every_message_its_own_time(on) {
        let stage = with(on, Deadlines { assembly_ms: 1_500, ..Deadlines::default() });
        stage.pass(ms(2_000));
        let mut peer = stage.open("/?tag=a");
        for round in 0..16 {
            let message = binary(b"in two pieces");
            // The header in two reads, then the payload in two.
            let cuts = [&message[..3], &message[3..6], &message[6..10], &message[10..]];
            let (last, first) = cuts.split_last().unwrap();
            for piece in first {
                peer.send(piece);
                stage.pass(ms(20));
            }
            peer.send(last);
            peer.expect_binary(b"in two pieces");
            // An empty first fragment has no payload to go by.
            peer.send(&[text("between"), frame(0x01, b"")].concat());
            peer.expect_text("between");
            stage.pass(ms(50));
            peer.send(&frame(0x80, b"end"));
            peer.expect_text("end");
            assert_eq!(stage.notes.of("a"), ["upgrade", "open"], "round {round}");
        }
    }

    fn streams_may_take_their_time(on) {
        let stage = with(on, Deadlines { assembly_ms: 80, ..Deadlines::default() });
        let mut peer = stage.open("/stream?tag=a");
        peer.send(&frame(0x01, b"slow"));
        peer.expect_binary(b"2slow");
        stage.pass(ms(250));
        peer.send(&frame(0x80, b"ly"));
        peer.expect_binary(b"1ly");
    }

    /// Deadlines that are off stay off.
    fn zero_turns_deadlines_off(on) {
        let deadlines = Deadlines { head_ms: 0, idle_ms: 0, assembly_ms: 0, ..Deadlines::default() };
        let stage = with(on, deadlines);
        let mut http = stage.peer();
        http.send(b"GET /hel");
        let mut peer = stage.open("/?tag=a");
        peer.send(&frame(0x01, b"slow"));
        stage.pass(ms(300));
        http.send(b"lo HTTP/1.1\r\nHost: a\r\n\r\n");
        http.expect_http(200);
        peer.send(&frame(0x80, b"ly"));
        peer.expect_text("slowly");
    }

    /// A reader that is slow but steady is not silent, though its pongs wait with its messages.
    fn keeps_slow_readers_it_does_not_read_from(on) {
        let limits = Limits { pause_receive_bytes: 10_000, ..Limits::default() };
        let deadlines = Deadlines { idle_ms: 100, pong_ms: 800, ..Deadlines::default() };
        let stage = Stage::new(on, Setup { limits, deadlines, ..Setup::default() });
        let mut peer = stage.narrow_peer();
        peer.upgrade("/?tag=a");
        peer.stop_reading();
        for _ in 0..3 {
            peer.send(&text("!burst 3 1000000"));
        }
        stage.until("receiving pauses", || stage.metric("ringwire_receive_pauses_total") > 0);
        stage.pass(ms(1_300));
        assert_eq!(stage.notes.of("a").last().unwrap().split(' ').next(), Some("burst"), "still there");
        peer.start_reading();
        let mut bytes = 0;
        while bytes < 3_000_000 {
            let (b0, payload) = peer.next_frame();
            if b0 == 0x89 {
                peer.send(&frame(0x8a, b""));
            }
            bytes += payload.len();
        }
    }
}
