//! What is no TLS, not all of it, or too much: who is told what, and that nothing is left behind.

use crate::client_tls::{ClientTls, HOST, client_config};
use crate::peer::{Peer, text, upgrade_request};
use crate::stage::{On, Setup, Stage};
use ringwire::{Deadlines, Limits};
use rustls::version::TLS13;
use rustls::{AlertDescription, Error};
use std::time::Duration;

/// A fatal alert in the clear.
fn alert(description: AlertDescription) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description.into()]
}

/// One who has not begun with TLS.
fn bare(stage: &Stage) -> Peer {
    stage.peer().bare()
}

/// The first message of a handshake.
fn hello() -> Vec<u8> {
    ClientTls::with(&client_config(&[&TLS13], None), HOST).take_outgoing()
}

/// Nobody is there any more, and a new one is served.
fn unharmed(stage: &Stage) {
    stage.wait_metric("ringwire_connections", 0);
    stage.wait_metric("ringwire_tls_handshakes_under_way", 0);
    stage.open("/").check_echo("unharmed");
}

on_every_driver! {
    fn plain_http_is_answered_in_http(on) {
        let stage = Stage::plain(on);
        for request in [upgrade_request("/", ""), "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()] {
            let mut peer = bare(&stage);
            peer.send(request.as_bytes());
            let answer = peer.expect_refused(400);
            assert!(String::from_utf8(answer.body).unwrap().contains("https://"));
        }
        // And who has said all at once.
        let mut peer = bare(&stage);
        peer.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        peer.half_close();
        peer.expect_http(400);
        peer.expect_any_end();
        stage.wait_metric("ringwire_tls_plain_http_total", 3);
        unharmed(&stage);
    }

    fn garbage_is_answered_by_an_alert(on) {
        let stage = Stage::plain(on);
        let mut peer = bare(&stage);
        peer.send(b"\x00\xff no TLS at all");
        peer.expect(&alert(AlertDescription::DecodeError));
        peer.expect_fin();
        // A handshake record that holds none, and one that is longer than records may be.
        for wire in [&b"\x16\x03\x01\x00\x05\x63\x00\x00\x01\x00"[..], b"\x16\x03\x01\xff\xff\x01"] {
            let mut peer = bare(&stage);
            peer.send(wire);
            assert_eq!(peer.take(2), [21, 3]);
            peer.expect_any_end();
        }
        stage.wait_metric("ringwire_tls_failures_total", 3);
        unharmed(&stage);
    }

    fn handshakes_that_break_off_leave_nothing(on) {
        let stage = Stage::plain(on);
        let hello = hello();
        for bytes in [0, 1, 5, 6, hello.len() / 2, hello.len() - 1] {
            let mut peer = bare(&stage);
            peer.send(&hello[..bytes]);
            peer.half_close();
            peer.expect_any_end();
        }
        for bytes in [1, hello.len() - 1, hello.len()] {
            let mut peer = bare(&stage);
            peer.send(&hello[..bytes]);
            stage.settle();
            peer.reset();
        }
        unharmed(&stage);
    }

    fn handshakes_have_their_time(on) {
        let deadlines = Deadlines { tls_ms: 1_000, ..Deadlines::default() };
        let stage = Stage::new(on, Setup { deadlines, ..Setup::default() });
        let hello = hello();
        let mut silent = bare(&stage);
        let mut half = bare(&stage);
        half.send(&hello[..100]);
        let mut whole = bare(&stage);
        whole.send(&hello);
        for peer in [&mut silent, &mut half, &mut whole] {
            peer.expect_any_end();
        }
        stage.wait_metric("ringwire_tls_timeouts_total", 3);
        unharmed(&stage);
        // Who is through has more time.
        let mut peer = stage.peer();
        peer.shake();
        stage.pass(Duration::from_millis(1_300));
        peer.upgrade("/");
        peer.check_echo("still there");
    }

    fn one_too_many_is_cut(on) {
        let limits = Limits { max_tls_handshakes: 2, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let first = [bare(&stage), bare(&stage)];
        stage.wait_metric("ringwire_tls_handshakes_under_way", 2);
        bare(&stage).expect_any_end();
        stage.wait_metric("ringwire_tls_handshakes_refused_total", 1);
        first.into_iter().for_each(Peer::reset);
        unharmed(&stage);
    }

    fn a_handshake_that_does_not_end_is_cut(on) {
        let stage = Stage::plain(on);
        let mut peer = bare(&stage);
        // One message, longer than any, in as many records as it takes.
        let mut flood = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff".to_vec();
        flood.resize(5 + 0x4000, 7);
        let more = [&b"\x16\x03\x01\x40\x00"[..], &[7; 0x4000]].concat();
        flood.extend(more.repeat(40));
        peer.send_in_background(flood);
        peer.expect_any_end();
        unharmed(&stage);
    }

    fn a_record_changed_on_the_way_ends_the_connection(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/?tag=a");
        peer.check_echo("before");
        let mut sealed = peer.tls().seal(&text("changed"));
        sealed[10] ^= 1;
        peer.send_raw(&sealed);
        peer.expect_any_end();
        assert_eq!(peer.tls().error, Some(Error::AlertReceived(AlertDescription::BadRecordMac)));
        assert_eq!(stage.closed("a").last().unwrap(), "close Disconnected");
        stage.wait_metric("ringwire_tls_bad_records_total", 1);
        unharmed(&stage);
    }

    fn an_answer_comes_before_the_alert(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        let good = peer.tls().seal(&text("good"));
        peer.send_raw(&[&good[..], b"\x17\x03\x03\x00\x20", &[7; 32]].concat());
        peer.expect_text("good");
        peer.expect_any_end();
        assert_eq!(peer.tls().error, Some(Error::AlertReceived(AlertDescription::BadRecordMac)));
        unharmed(&stage);
    }

    fn plain_bytes_within_tls_end_it(on) {
        let stage = Stage::plain(on);
        for (wire, told) in [
            (&b"GET / HTTP/1.1\r\n"[..], AlertDescription::UnexpectedMessage),
            (b"\x17\x03\x03\xff\xff", AlertDescription::RecordOverflow),
            (b"\x17\x09\x03\x00\x30", AlertDescription::DecodeError),
        ] {
            let mut peer = stage.open("/");
            peer.send_raw(wire);
            peer.expect_any_end();
            assert_eq!(peer.tls().error, Some(Error::AlertReceived(told)));
        }
        unharmed(&stage);
    }

    /// An end that anybody on the way could make is not the peer's.
    fn an_end_without_close_notify_is_counted(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/?tag=a");
        peer.check_echo("before");
        let mut cut = peer.bare();
        cut.half_close();
        assert_eq!(stage.closed("a").last().unwrap(), "close Disconnected");
        stage.wait_metric("ringwire_tls_truncations_total", 1);
        let mut peer = stage.open("/?tag=b");
        peer.check_echo("before");
        peer.half_close();
        peer.expect_any_end();
        assert!(peer.tls().is_ended());
        assert_eq!(stage.closed("b").last().unwrap(), "close Disconnected");
        stage.wait_metric("ringwire_tls_truncations_total", 1);
        unharmed(&stage);
    }
}

/// A record that does not become whole is kept once, and its peer is taken for silent.
#[test]
fn half_a_record_is_no_sign_of_life() {
    let deadlines = Deadlines { idle_ms: 1_000, pong_ms: 500, ..Deadlines::default() };
    let stage = Stage::new(On::Sim, Setup { deadlines, ..Setup::default() });
    let mut peer = stage.open("/?tag=a");
    let sealed = peer.tls().seal(&text(&"x".repeat(1_000)));
    for byte in &sealed[..900] {
        peer.send_raw(&[*byte]);
        stage.pass(Duration::from_millis(8));
    }
    assert_eq!(stage.closed("a").last().unwrap(), "close Timeout(Pong)");
}
