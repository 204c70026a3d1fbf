//! How connections end: close handshakes, violations, and ends without a word.

use crate::peer::{Peer, bare, binary, close, frame, text};
use crate::stage::{Setup, Stage};
use ringwire::{Deadlines, Limits};

/// What breaks the protocol, and the code it is told.
fn violations() -> Vec<(&'static str, Vec<u8>, u16)> {
    let header = |bytes: &[u8]| bytes.to_vec();
    vec![
        ("rsv1", frame(0xc1, b"x"), 1002),
        ("rsv2", frame(0xa1, b"x"), 1002),
        ("rsv3", frame(0x91, b"x"), 1002),
        ("opcode 3", frame(0x83, b"x"), 1002),
        ("opcode 7", frame(0x87, b"x"), 1002),
        ("opcode 11", frame(0x8b, b"x"), 1002),
        ("opcode 15", frame(0x8f, b"x"), 1002),
        ("unmasked", bare(0x81, b"x"), 1002),
        ("fragmented ping", frame(0x09, b"x"), 1002),
        ("fragmented close", frame(0x08, b""), 1002),
        ("long ping", frame(0x89, &[b'x'; 126]), 1002),
        ("long close", frame(0x88, &[b'x'; 126]), 1002),
        ("16-bit length of 125", header(&[0x82, 0xfe, 0, 125, 1, 2, 3, 4]), 1002),
        ("64-bit length of 65,535", header(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4]), 1002),
        ("top bit of the length", header(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]), 1002),
        (
            "all bits of the length",
            header(&[0x82, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4]),
            1002,
        ),
        ("length of 2^62", header(&[0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]), 1009),
        ("one byte too long", header(&[0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1, 1, 2, 3, 4]), 1009),
        ("continuation of nothing", frame(0x80, b"x"), 1002),
        ("message inside a message", [frame(0x01, b"x"), frame(0x81, b"y")].concat(), 1002),
        ("binary inside a text", [frame(0x01, b"x"), frame(0x02, b"y")].concat(), 1002),
        ("text that is not UTF-8", frame(0x81, b"\xc3\x28"), 1007),
        ("text cut inside a character", frame(0x81, b"\xe2\x82"), 1007),
        ("surrogate", frame(0x81, b"\xed\xa0\x80"), 1007),
        ("fragments that are not UTF-8", [frame(0x01, b"\xf0"), frame(0x00, b"\x28")].concat(), 1007),
        ("fragments cut inside a character", [frame(0x01, b"\xe2"), frame(0x80, b"\x82")].concat(), 1007),
        ("close of one byte", frame(0x88, b"\x03"), 1002),
        ("close code 999", close(999, ""), 1002),
        ("close code 1004", close(1004, ""), 1002),
        ("close code 1005", close(1005, ""), 1002),
        ("close code 1006", close(1006, ""), 1002),
        ("close code 1015", close(1015, ""), 1002),
        ("close code 2999", close(2999, ""), 1002),
        ("close code 5000", close(5000, ""), 1002),
        ("close reason that is not UTF-8", frame(0x88, b"\x03\xe8\xff"), 1007),
    ]
}

on_every_driver! {
    fn fails_each_violation_with_its_code(on) {
        let stage = Stage::plain(on);
        let mut witness = stage.open("/");
        for (name, bytes, code) in violations() {
            eprintln!("{name}");
            let mut peer = stage.open(&format!("/?tag={}", name.replace(' ', "-")));
            peer.send(&text("before"));
            peer.send(&bytes);
            // Nothing after a violation is read.
            peer.send(&text("after"));
            peer.expect_text("before");
            peer.expect_failed(code);
            let events = stage.closed(&name.replace(' ', "-"));
            assert_eq!(events.len(), 3, "{events:?}");
            assert!(events[2].starts_with("close Violation("), "{events:?}");
            witness.check_echo(name);
        }
    }

    /// A verdict does not depend on how the bytes were cut.
    fn fails_each_violation_that_comes_byte_by_byte(on) {
        let stage = Stage::plain(on);
        for (name, bytes, code) in violations() {
            eprintln!("{name}");
            let mut peer = stage.open("/");
            peer.send_pieces(bytes.chunks(1));
            peer.expect_failed(code);
        }
    }

    fn limits_messages_whatever_their_form(on) {
        let limits = Limits { max_message_bytes: 1_000, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let mut peer = stage.open("/");
        peer.send(&binary(&[1; 1_000]));
        peer.expect_binary(&[1; 1_000]);
        peer.send(&[frame(0x02, &[2; 500]), frame(0x80, &[2; 500])].concat());
        peer.expect_binary(&[2; 1_000]);
        peer.send(&binary(&[1; 1_001]));
        peer.expect_failed(1009);
        let mut peer = stage.open("/");
        peer.send(&[frame(0x02, &[2; 500]), frame(0x80, &[2; 501])].concat());
        peer.expect_failed(1009);
    }

    fn answers_a_close(on) {
        let stage = Stage::plain(on);
        for (tag, sent, answer, told) in [
            ("a", close(1000, "done"), bare(0x88, b"\x03\xe8"), "Peer { code: Some(CloseCode(1000)), reason: \"done\" }"),
            ("b", frame(0x88, b""), bare(0x88, b""), "Peer { code: None, reason: \"\" }"),
            ("c", close(4999, "grüße"), bare(0x88, b"\x13\x87"), "Peer { code: Some(CloseCode(4999)), reason: \"grüße\" }"),
            ("d", close(1001, &"x".repeat(123)), bare(0x88, b"\x03\xe9"), ""),
        ] {
            let mut peer = stage.open(&format!("/?tag={tag}"));
            peer.send(&sent);
            peer.expect(&answer);
            peer.expect_fin();
            let events = stage.closed(tag);
            assert!(events[2].contains(told), "{events:?}");
        }
    }

    fn closes_and_waits_for_the_answer(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/?tag=a");
        peer.send(&text("!close 4000 so long"));
        assert_eq!(peer.expect_close(4000), "so long");
        // What was under way is no longer delivered, and pings are no longer answered.
        peer.send(&[text("late"), frame(0x89, b"late")].concat());
        peer.send(&close(4000, ""));
        peer.expect_fin();
        assert_eq!(stage.closed("a"), ["upgrade", "open", "send after close Closed", "close Local"]);
    }

    /// Short messages that came at once: some before the one at which the handler closes, some after.
    fn closes_in_the_middle_of_what_came_at_once(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/?tag=a");
        let after: Vec<_> = (0..40).map(|number| text(&format!("after {number}"))).collect();
        peer.send(&[text("one"), text("two"), text("!close 4000 so long"), after.concat()].concat());
        peer.expect_text("one");
        peer.expect_text("two");
        assert_eq!(peer.expect_close(4000), "so long");
        peer.send(&close(4000, ""));
        peer.expect_fin();
        assert_eq!(stage.closed("a"), ["upgrade", "open", "send after close Closed", "close Local"]);
    }

    /// What is in order is answered before what is not.
    fn answers_what_came_before_a_violation(on) {
        let stage = Stage::plain(on);
        let violations = [frame(0x81, b"\xc3\x28"), frame(0x83, b"unknown opcode"), bare(0x81, b"unmasked")];
        for (violation, code) in violations.into_iter().zip([1007, 1002, 1002]) {
            let mut peer = stage.open("/");
            let before: Vec<_> = (0..40).map(|number| text(&format!("before {number}"))).collect();
            peer.send(&[before.concat(), violation, text("after")].concat());
            for number in 0..40 {
                peer.expect_text(&format!("before {number}"));
            }
            peer.expect_failed(code);
        }
    }

    /// Both Close frames cross: each is the other's answer (RFC 6455 §7.1.3).
    fn both_close_at_once(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/?tag=a");
        peer.send(&[text("!close 4000 mine"), close(1000, "theirs")].concat());
        peer.expect_close(4000);
        peer.expect_fin();
        assert_eq!(stage.closed("a").last().unwrap(), "close Local");
    }

    fn takes_a_close_in_pieces(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/?tag=a");
        peer.send(&text("first"));
        peer.send_pieces(close(1000, "goodbye").chunks(1));
        peer.expect_text("first");
        peer.expect_failed(1000);
        assert!(stage.closed("a")[2].contains("goodbye"));
    }

    fn hears_nothing_after_a_close(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/log?tag=a");
        peer.send(&[close(1000, ""), text("after"), frame(0x89, b"after"), close(1001, ""), vec![0xff; 50]].concat());
        peer.expect_failed(1000);
        peer.send(&text("long after"));
        let events = stage.closed("a");
        assert_eq!(events.len(), 3, "{events:?}");
    }

    fn hears_nothing_of_half_a_frame(on) {
        let stage = Stage::plain(on);
        let frame = text("never whole");
        for cut in 1..frame.len() {
            let tag = format!("cut{cut}");
            let mut peer = stage.open(&format!("/log?tag={tag}"));
            peer.send(&frame[..cut]);
            peer.half_close();
            peer.expect_end();
            assert_eq!(stage.closed(&tag)[1..], ["open", "close Disconnected"]);
        }
    }

    fn notices_a_fin_without_a_close(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/?tag=a");
        peer.send(&text("last words"));
        peer.half_close();
        // What was asked is answered all the same.
        peer.expect_text("last words");
        peer.expect_fin();
        assert_eq!(stage.closed("a"), ["upgrade", "open", "close Disconnected"]);
        stage.wait_metric("ringwire_connections", 0);
    }

    fn notices_a_reset(on) {
        let stage = Stage::plain(on);
        let mut witness = stage.open("/");
        for number in 0..20 {
            let tag = format!("r{number}");
            let mut peer = stage.open(&format!("/?tag={tag}"));
            peer.send(&binary(&[0; 5_000]));
            peer.reset();
            assert_eq!(stage.closed(&tag), ["upgrade", "open", "close Disconnected"]);
        }
        witness.check_echo("unharmed");
        stage.wait_metric("ringwire_connections", 1);
    }

    fn survives_every_way_to_leave_a_handshake(on) {
        let stage = Stage::plain(on);
        let request = crate::peer::upgrade_request("/?tag=never", "");
        for cut in [0, 1, 10, request.len() - 1] {
            let mut peer = stage.peer();
            peer.send(&request.as_bytes()[..cut]);
            peer.half_close();
            peer.expect_end();
            let mut peer = stage.peer();
            peer.send(&request.as_bytes()[..cut]);
            peer.reset();
        }
        stage.wait_metric("ringwire_connections", 0);
        assert!(stage.notes.of("never").is_empty());
        stage.open("/").check_echo("unharmed");
    }

    /// Receiving was paused when the connection ended: the peer's FIN is seen all the same.
    fn hangs_up_after_a_pause(on) {
        let deadlines = Deadlines { close_ms: 60_000, ..Deadlines::default() };
        let stage = Stage::new(on, Setup { deadlines, ..Setup::default() });
        let mut peer = stage.narrow_peer();
        peer.stop_reading();
        let last = "GET /bytes?3000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let request = "GET /bytes?3000000 HTTP/1.1\r\nHost: a\r\n\r\n";
        peer.send(&[request.as_bytes(), last.as_bytes(), &[b'x'; 10_000]].concat());
        stage.until("receiving pauses", || stage.metric("ringwire_receive_pauses_total") > 0);
        peer.start_reading();
        peer.expect_http(200);
        peer.expect_refused(200);
        drop(peer);
        stage.wait_metric("ringwire_connections", 0);
    }

    /// A Close frame and the end of its connection in one breath.
    fn takes_a_close_followed_by_fin(on) {
        let stage = Stage::plain(on);
        let mut peer: Peer = stage.open("/?tag=a");
        peer.send(&close(1000, ""));
        peer.half_close();
        peer.expect_failed(1000);
        assert!(stage.closed("a")[2].starts_with("close Peer"));
        stage.wait_metric("ringwire_connections", 0);
    }
}
