//! What goes on within TLS beside messages: resumption, new keys, keys set aside, and many at once.

use crate::client_tls::{ClientTls, HOST, client_config};
use crate::peer::text;
use crate::stage::{On, Setup, Stage};
use ringwire::sim::Faults;
use ringwire::{Admission, Limits, ProxyProtocol};
use rustls::version::{TLS12, TLS13};

on_every_driver! {
    fn sessions_are_resumed(on) {
        let stage = Stage::plain(on);
        for version in [&TLS12, &TLS13] {
            let config = client_config(&[version], None);
            for resumed in [false, true] {
                let tag = format!("{:?}-{resumed}", version.version);
                let mut peer = stage.peer().within(ClientTls::with(&config, HOST));
                peer.upgrade(&format!("/tls?tag={tag}"));
                assert!(stage.notes.of(&tag)[1].contains(&format!("resumed: {resumed}")));
                // Tickets come with what is read.
                peer.check_echo("hello");
                peer.bye();
            }
        }
        stage.wait_metric("ringwire_tls_resumed_total", 2);
        stage.wait_metric("ringwire_tls_handshakes_total", 4);
    }

    fn new_keys_are_taken_and_answered(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer().within(ClientTls::with(&client_config(&[&TLS13], None), HOST));
        peer.upgrade("/");
        for round in 0..50 {
            peer.tls().connection().refresh_traffic_keys().unwrap();
            peer.check_echo(&format!("with the keys of round {round}"));
        }
        // Whoever asks for nothing but new keys is cut.
        let mut updates = Vec::new();
        for _ in 0..40 {
            peer.tls().connection().refresh_traffic_keys().unwrap();
            updates.extend(peer.tls().take_outgoing());
        }
        peer.send_raw(&updates);
        peer.expect_any_end();
        stage.wait_metric("ringwire_connections", 0);
    }

    /// A message that ends its record could be answered out of the receive buffer, but not in the clear.
    fn nothing_is_answered_out_of_the_receive_buffer(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        for bytes in [4_096, 8_000, 16_000] {
            for _ in 0..3 {
                peer.check_echo(&"s".repeat(bytes));
            }
        }
        assert_eq!(stage.metric("ringwire_messages_answered_in_place_total"), 0);
        peer.bye();
    }

    fn keys_set_aside_come_back(on) {
        let limits = Limits { max_tls_ready: 2, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let mut peers: Vec<_> = (0..6).map(|_| stage.open("/")).collect();
        for round in 0..5 {
            for peer in &mut peers {
                peer.check_echo(&format!("round {round}"));
            }
            assert!(stage.metric("ringwire_tls_ready") <= 2);
        }
        stage.wait_metric("ringwire_tls_connections", 6);
        peers.into_iter().for_each(|peer| peer.bye());
    }

    fn a_crowd_is_let_in_step_by_step(on) {
        let limits = Limits { max_tls_handshakes_per_turn: 1, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let mut early = stage.open("/");
        let mut crowd: Vec<_> = (0..40).map(|_| stage.peer()).collect();
        for peer in &mut crowd {
            let hello = peer.tls().take_outgoing();
            peer.send_raw(&hello);
        }
        early.check_echo("not forgotten");
        for mut peer in crowd {
            peer.shake();
            peer.upgrade("/");
            peer.check_echo("in");
            peer.bye();
        }
    }

    /// A load balancer says who is behind it before TLS begins.
    fn a_trusted_proxy_speaks_first(on) {
        let from = vec!["0.0.0.0/0".parse().unwrap()];
        let admission = Admission { proxies: ProxyProtocol { from, unix: false }, ..Admission::default() };
        let stage = Stage::new(on, Setup { admission, ..Setup::default() });
        let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 443\r\n";
        for (tag, cut) in [("whole", header.len()), ("cut", 9)] {
            let mut peer = stage.peer();
            let hello = peer.tls().take_outgoing();
            let all = [&header[..], &hello].concat();
            let (first, rest) = all.split_at(cut);
            peer.send_raw_pieces([first, rest]);
            peer.shake();
            peer.upgrade(&format!("/whence?tag={tag}"));
            assert_eq!(stage.notes.of(tag)[1], "from 192.0.2.7:50000");
            peer.bye();
        }
        // Who says nothing is not let in.
        let mut peer = stage.peer();
        peer.shake();
        peer.expect_any_end();
        stage.wait_metric("ringwire_proxy_headers_invalid_total", 1);
        stage.wait_metric("ringwire_connections", 0);
    }

    fn bytes_come_as_they_like(on) {
        let stage = Stage::plain(on);
        for version in [&TLS12, &TLS13] {
            let mut peer = stage.peer().within(ClientTls::with(&client_config(&[version], None), HOST));
            let hello = peer.tls().take_outgoing();
            peer.send_raw_pieces(hello.chunks(29));
            peer.shake();
            peer.upgrade("/");
            let sealed = [peer.tls().seal(&text("first")), peer.tls().seal(&text(&"y".repeat(125)))].concat();
            peer.send_raw_pieces(sealed.chunks(7));
            peer.expect_text("first");
            peer.expect_text(&"y".repeat(125));
            peer.bye();
        }
    }
}

/// Reads cut anywhere, short sends, delays: the seed decides.
#[test]
fn messages_survive_a_rough_network() {
    for seed in 0..30 {
        let faults = Faults { reset_permille: 0, send_error_permille: 0, ..Faults::rough() };
        let stage = Stage::new(On::Sim, Setup { faults, seed, ..Setup::default() });
        let mut peers: Vec<_> = (0..3).map(|_| stage.open("/")).collect();
        for bytes in [1, 1_399, 16_384, 100_000] {
            for peer in &mut peers {
                peer.check_echo(&"z".repeat(bytes));
            }
        }
        peers.into_iter().for_each(|peer| peer.bye());
    }
}
