//! Keys given to the kernel: what goes on as before, what ends, and what is counted. Where the kernel has no
//! TLS, and in the simulation, all of it is refused, and the service seals and opens records itself.

use crate::client_tls::{ClientTls, HOST, client_config, server_builder};
use crate::peer::{Peer, close, text};
use crate::stage::{On, Setup, Stage};
use ringwire::{KernelTls, ListenAddr, Server, ServerError, doctor};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, Error, RootCertStore, SupportedCipherSuite};
use std::sync::Arc;

/// The service, and whether its kernel takes keys.
fn stage(on: On) -> (Stage, bool) {
    let tls = Some(server_builder().kernel(KernelTls::Auto).build().unwrap());
    (Stage::new(on, Setup { tls, ..Setup::default() }), on != On::Sim && doctor::kernel_tls().is_ok())
}

/// A client that knows one cipher suite.
fn with_suite(stage: &Stage, suite: SupportedCipherSuite) -> Peer {
    let mut provider = default_provider();
    provider.cipher_suites = vec![suite];
    let mut roots = RootCertStore::empty();
    roots.add(crate::client_tls::Identity::of_the_server().certificate.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let version = if suite.tls13().is_some() { &TLS13 } else { &TLS12 };
    let config = builder.with_protocol_versions(&[version]).unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    stage.peer().within(ClientTls::with(&config, HOST))
}

const SUITES: [SupportedCipherSuite; 6] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

on_every_driver! {
    fn every_suite_goes_on_with_the_kernel_or_without(on) {
        let (stage, has_kernel) = stage(on);
        for suite in SUITES {
            let mut peer = with_suite(&stage, suite);
            peer.upgrade("/");
            for bytes in [1, 5, 1_000, 5_000, 16_384, 70_000, 300_000] {
                peer.check_echo(&"k".repeat(bytes));
            }
            peer.bye();
        }
        let taken = if has_kernel { SUITES.len() as u64 } else { 0 };
        stage.wait_metric("ringwire_tls_kernel_sending_total", taken);
        stage.wait_metric("ringwire_tls_kernel_receiving_total", taken);
        stage.wait_metric("ringwire_tls_kernel_refused_total", SUITES.len() as u64 - taken);
        // Data lies in the lease as a plain connection's does.
        assert_eq!(stage.metric("ringwire_messages_answered_in_place_total") > 0, has_kernel);
        stage.wait_metric("ringwire_connections", 0);
        assert_eq!(stage.metric("ringwire_tls_truncations_total"), 0);
    }

    fn records_come_as_they_like(on) {
        let (stage, _) = stage(on);
        for suite in SUITES {
            let mut peer = with_suite(&stage, suite);
            // The request's record arrives in pieces, and with it the first message.
            peer.shake();
            let request = crate::peer::upgrade_request("/", "");
            let sealed = [peer.tls().seal(request.as_bytes()), peer.tls().seal(&text("early"))].concat();
            peer.send_raw_pieces(sealed.chunks(50));
            peer.expect_http_head(101);
            peer.expect_text("early");
            let sealed: Vec<u8> = (0..30).flat_map(|n| peer.tls().seal(&text(&n.to_string()))).collect();
            peer.send_raw_pieces(sealed.chunks(7));
            (0..30).for_each(|n| peer.expect_text(&n.to_string()));
            peer.bye();
        }
    }

    fn both_ends_may_end_it(on) {
        let (stage, _) = stage(on);
        let mut peer = stage.open("/close-at-message");
        peer.send(&text("now"));
        peer.expect_close(1000);
        peer.send(&close(1000, ""));
        peer.expect_any_end();
        assert!(peer.tls().is_ended());
        // Nothing but close_notify.
        let mut peer = stage.open("/?tag=a");
        peer.check_echo("before");
        let end = peer.tls().end();
        peer.send_raw(&end);
        peer.expect_any_end();
        assert!(peer.tls().is_ended());
        assert_eq!(stage.closed("a").last().unwrap(), "close Disconnected");
        stage.wait_metric("ringwire_connections", 0);
        assert_eq!(stage.metric("ringwire_tls_truncations_total"), 0);
    }

    fn an_end_without_close_notify_is_counted(on) {
        let (stage, _) = stage(on);
        let mut peer = stage.open("/?tag=a");
        peer.check_echo("before");
        let mut cut = peer.bare();
        cut.half_close();
        assert_eq!(stage.closed("a").last().unwrap(), "close Disconnected");
        stage.wait_metric("ringwire_tls_truncations_total", 1);
    }

    fn a_record_changed_on_the_way_is_told(on) {
        let (stage, _) = stage(on);
        let mut peer = stage.open("/?tag=a");
        peer.check_echo("before");
        let good = peer.tls().seal(&text("good"));
        let mut sealed = peer.tls().seal(&text("changed"));
        sealed[10] ^= 1;
        peer.send_raw(&[good, sealed].concat());
        peer.expect_text("good");
        peer.expect_any_end();
        assert_eq!(peer.tls().error, Some(Error::AlertReceived(AlertDescription::BadRecordMac)));
        assert_eq!(stage.closed("a").last().unwrap(), "close Disconnected");
        stage.wait_metric("ringwire_tls_bad_records_total", 1);
        stage.wait_metric("ringwire_connections", 0);
    }

    fn new_keys_end_what_the_kernel_has(on) {
        let (stage, has_kernel) = stage(on);
        let mut peer = stage.peer().within(ClientTls::with(&client_config(&[&TLS13], None), HOST));
        peer.upgrade("/?tag=a");
        peer.check_echo("with the first keys");
        peer.tls().connection().refresh_traffic_keys().unwrap();
        if has_kernel {
            let update = peer.tls().take_outgoing();
            peer.send_raw(&update);
            peer.expect_any_end();
            assert!(peer.tls().is_ended(), "in good order");
            assert_eq!(stage.closed("a").last().unwrap(), "close Disconnected");
        } else {
            peer.check_echo("with the next keys");
            peer.bye();
        }
        stage.wait_metric("ringwire_connections", 0);
        stage.wait_metric("ringwire_tls_kernel_key_ends_total", has_kernel.into());
    }
}

#[test]
fn required_means_that_there_is_no_other_way() {
    let tls = server_builder().kernel(KernelTls::Required).build().unwrap();
    let listen: ListenAddr = "127.0.0.1:0".parse().unwrap();
    let bound = Server::builder().listen_tls(listen, tls).bind();
    match doctor::kernel_tls() {
        Ok(()) => drop(bound.unwrap()),
        Err(why) => assert!(matches!(bound, Err(ServerError::Config(text)) if text == why)),
    }
}
