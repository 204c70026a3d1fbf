//! Handshakes whose steps are taken elsewhere: nothing is lost meanwhile, and what comes back too late harms
//! nobody. `RINGWIRE_TLS_THREADS=2` has all of this suite's handshakes taken so.

use crate::client_tls::{ClientTls, HOST, client_config};
use crate::peer::Peer;
use crate::stage::{On, Setup, Stage};
use ringwire::sim::Faults;
use ringwire::{Deadlines, Limits};
use rustls::version::{TLS12, TLS13};

fn helped(on: On, more: Setup) -> Stage {
    Stage::new(on, Setup { tls_threads: 2, ..more })
}

fn hello() -> Vec<u8> {
    ClientTls::with(&client_config(&[&TLS13], None), HOST).take_outgoing()
}

fn ended(peer: &mut Peer) {
    peer.expect_any_end();
}

/// Nothing is away any more, and a new one is served.
fn unharmed(stage: &Stage) {
    stage.wait_metric("ringwire_connections", 0);
    stage.wait_metric("ringwire_tls_steps_away", 0);
    stage.wait_metric("ringwire_tls_handshakes_under_way", 0);
    stage.open("/").check_echo("unharmed");
}

on_every_driver! {
    fn steps_come_back(on) {
        let stage = helped(on, Setup::default());
        for version in [&TLS12, &TLS13] {
            let config = client_config(&[version], None);
            let mut crowd: Vec<_> =
                (0..20).map(|_| stage.peer().within(ClientTls::with(&config, HOST))).collect();
            for peer in &mut crowd {
                let hello = peer.tls().take_outgoing();
                peer.send_raw(&hello);
            }
            for mut peer in crowd {
                peer.shake();
                peer.upgrade("/");
                peer.check_echo("in");
                peer.bye();
            }
        }
        stage.wait_metric("ringwire_tls_handshakes_total", 40);
        assert!(stage.metric("ringwire_tls_steps_helped_total") >= 80, "two steps each");
        assert_eq!(stage.metric("ringwire_tls_steps_in_vain_total"), 0);
        unharmed(&stage);
    }

    /// More at once than may be away.
    fn what_finds_no_room_waits(on) {
        let stage = helped(on, Setup::default());
        let mut crowd: Vec<_> = (0..200).map(|_| stage.peer()).collect();
        for peer in &mut crowd {
            let hello = peer.tls().take_outgoing();
            peer.send_raw(&hello);
        }
        for peer in &mut crowd {
            peer.shake();
        }
        stage.wait_metric("ringwire_tls_connections", 200);
        drop(crowd);
        unharmed(&stage);
    }

    fn an_end_meanwhile_is_not_forgotten(on) {
        let stage = helped(on, Setup::default());
        let mut peers: Vec<_> = (0..10).map(|_| stage.peer().bare()).collect();
        for peer in &mut peers {
            peer.send(&hello());
            peer.half_close();
        }
        peers.iter_mut().for_each(ended);
        stage.wait_metric("ringwire_tls_failures_total", 10);
        unharmed(&stage);
    }

    /// Records that follow before the step is back are taken in order.
    fn bytes_that_come_meanwhile_are_kept(on) {
        let stage = helped(on, Setup::default());
        let mut peers: Vec<_> = (0..10).map(|_| stage.peer().bare()).collect();
        for peer in &mut peers {
            // A step that fails when it is looked at, behind one that does not.
            peer.send(&hello());
            peer.send(b"\x16\x03\x03\xff\xff");
        }
        peers.iter_mut().for_each(ended);
        stage.wait_metric("ringwire_tls_failures_total", 10);
        unharmed(&stage);
    }

    /// Slots change hands while steps of those who had them are away.
    fn a_slot_is_used_anew_meanwhile(on) {
        let limits = Limits { max_connections: 4, ..Limits::default() };
        let stage = helped(on, Setup { limits, ..Setup::default() });
        let hello = hello();
        for _ in 0..40 {
            let peers: Vec<_> = (0..4)
                .map(|_| {
                    let mut peer = stage.peer().bare();
                    peer.send(&hello);
                    peer
                })
                .collect();
            peers.into_iter().for_each(Peer::reset);
            let mut peer = stage.open("/");
            peer.check_echo("in somebody's place");
            peer.bye();
        }
        unharmed(&stage);
    }

    fn the_cap_holds(on) {
        let limits = Limits { max_tls_handshakes: 2, ..Limits::default() };
        let stage = helped(on, Setup { limits, ..Setup::default() });
        let mut first = [stage.peer().bare(), stage.peer().bare()];
        first.iter_mut().for_each(|peer| peer.send(&hello()));
        stage.wait_metric("ringwire_tls_steps_helped_total", 2);
        stage.wait_metric("ringwire_tls_handshakes_under_way", 2);
        stage.peer().bare().expect_any_end();
        stage.wait_metric("ringwire_tls_handshakes_refused_total", 1);
        drop(first);
        unharmed(&stage);
    }

    fn the_deadline_holds(on) {
        let deadlines = Deadlines { tls_ms: 300, ..Deadlines::default() };
        let stage = helped(on, Setup { deadlines, ..Setup::default() });
        let mut peers = [stage.peer().bare(), stage.peer().bare()];
        peers.iter_mut().for_each(|peer| peer.send(&hello()));
        peers.iter_mut().for_each(ended);
        stage.wait_metric("ringwire_tls_timeouts_total", 2);
    }

    fn a_server_ends_while_steps_are_away(on) {
        for graceful in [false, true] {
            let deadlines = Deadlines { drain_ms: 300, ..Deadlines::default() };
            let mut stage = helped(on, Setup { deadlines, ..Setup::default() });
            let mut peers: Vec<_> = (0..60).map(|_| stage.peer().bare()).collect();
            peers.iter_mut().for_each(|peer| peer.send(&hello()));
            if graceful { stage.shutdown() } else { stage.stop() }
            stage.ended();
            peers.iter_mut().for_each(ended);
        }
    }
}

/// Their time is over before the step is back, and others have their slots by then.
#[test]
fn what_comes_back_too_late_finds_another_in_its_place() {
    for seed in 0..20 {
        let limits = Limits { max_connections: 4, ..Limits::default() };
        let deadlines = Deadlines { tls_ms: 20, ..Deadlines::default() };
        let faults = Faults { reset_permille: 0, send_error_permille: 0, ..Faults::rough() };
        let stage = helped(On::Sim, Setup { limits, deadlines, faults, seed, ..Setup::default() });
        let mut peers: Vec<_> = (0..40).map(|_| stage.peer().bare()).collect();
        peers.iter_mut().for_each(|peer| peer.send(&hello()));
        stage.wait_metric("ringwire_connections", 0);
        assert!(stage.metric("ringwire_tls_steps_in_vain_total") > 0);
        peers.iter_mut().for_each(ended);
        stage.wait_metric("ringwire_tls_steps_away", 0);
        stage.wait_metric("ringwire_tls_handshakes_under_way", 0);
    }
}
