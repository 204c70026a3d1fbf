//! Who is let in, and what is said to who is not.

use crate::peer::{Peer, upgrade_request};
use crate::stage::{On, Setup, Stage};
use ringwire::{Admission, Deadlines};
use std::time::Duration;

fn with(on: On, admission: Admission) -> Stage {
    Stage::new(on, Setup { admission, shards: 2, ..Setup::default() })
}

/// The peer is answered before it has asked.
fn expect_turned_away(peer: &mut Peer) {
    peer.shake();
    let answer = peer.expect_refused(503);
    assert_eq!(answer.header("Retry-After"), Some("5"));
}

fn refusals(stage: &Stage) -> u64 {
    stage.metric("ringwire_admission_refused_total")
}

on_every_driver! {
    /// The limit is the server's, however its shards share the connections.
    fn so_many_in_all(on) {
        let stage = with(on, Admission { max_connections: 5, ..Admission::default() });
        let mut inside: Vec<Peer> = (0..5).map(|_| stage.open("/")).collect();
        for _ in 0..3 {
            expect_turned_away(&mut stage.peer());
        }
        assert_eq!(refusals(&stage), 3);
        for peer in &mut inside {
            peer.check_echo("unharmed");
        }
        inside.pop().unwrap().bye();
        stage.wait_metric("ringwire_connections", 4);
        let mut late = stage.open("/");
        late.check_echo("at last");
        expect_turned_away(&mut stage.peer());
    }

    fn so_many_of_one_address(on) {
        let stage = with(on, Admission { max_connections_per_address: 3, ..Admission::default() });
        if on == On::Sim {
            // There each peer has an address of its own.
            let mut peers: Vec<Peer> = (0..20).map(|_| stage.open("/")).collect();
            peers.iter_mut().for_each(|peer| peer.check_echo("welcome"));
            return;
        }
        let inside: Vec<Peer> = (0..3).map(|_| stage.open("/")).collect();
        expect_turned_away(&mut stage.peer());
        // Whoever leaves makes room, however it leaves.
        let mut kept = Vec::new();
        for peer in inside {
            stage.wait_metric("ringwire_connections", 3);
            peer.reset();
            stage.wait_metric("ringwire_connections", 2);
            let again = stage.open("/");
            expect_turned_away(&mut stage.peer());
            again.bye();
            stage.wait_metric("ringwire_connections", 2);
            kept.push(stage.open("/"));
        }
        assert_eq!(refusals(&stage), 4);
    }

    fn so_many_per_second(on) {
        let stage = with(on, Admission { max_accepts_per_second: 1, ..Admission::default() });
        let mut inside = stage.open("/");
        expect_turned_away(&mut stage.peer());
        inside.check_echo("unharmed");
        stage.pass(Duration::from_millis(1_100));
        stage.open("/").check_echo("a second later");
    }

    /// Who does not say what it wants keeps others out, up to the deadline and no longer.
    fn so_many_handshakes_at_once(on) {
        let admission = Admission { max_handshakes: 3, ..Admission::default() };
        let deadlines = Deadlines { head_ms: 1_000, ..Deadlines::default() };
        let stage = Stage::new(on, Setup { admission, deadlines, ..Setup::default() });
        // An open connection and one kept alive are no handshakes any more.
        let mut open = stage.open("/");
        let mut kept = stage.peer();
        kept.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
        kept.expect_http(200);
        let mut slow: Vec<Peer> = (0..3).map(|_| stage.peer()).collect();
        slow.iter_mut().for_each(|peer| peer.send(b"GET"));
        stage.wait_metric("ringwire_connections", 5);
        expect_turned_away(&mut stage.peer());
        open.check_echo("unharmed");
        stage.pass(Duration::from_millis(1_100));
        stage.wait_metric("ringwire_connections", 1);
        stage.open("/").check_echo("they gave up");
        drop(slow);
    }

    /// Whose request is on its way already is answered all the same.
    fn a_request_on_its_way_is_answered(on) {
        let stage = with(on, Admission { max_connections: 1, ..Admission::default() });
        let mut inside = stage.open("/");
        for _ in 0..10 {
            let mut peer = stage.peer();
            peer.send(upgrade_request("/", "").as_bytes());
            expect_turned_away(&mut peer);
        }
        inside.check_echo("unharmed");
        stage.wait_metric("ringwire_upgrades_total", 1);
    }

    /// Answers are bounded as well: peers who do not hang up are closed unanswered.
    fn answers_are_bounded(on) {
        let deadlines = Deadlines { close_ms: 60_000, ..Deadlines::default() };
        let admission = Admission { max_connections: 1, ..Admission::default() };
        let stage = Stage::new(on, Setup { admission, deadlines, ..Setup::default() });
        let mut inside = stage.open("/");
        let mut outside: Vec<Peer> = (0..300).map(|_| stage.peer()).collect();
        stage.wait_metric("ringwire_admission_refused_total", 300);
        // Within TLS so many in a second are answered, and the host's time passes by itself.
        let highest = if crate::TLS { 236 } else { 44 };
        let unanswered = stage.metric("ringwire_admission_unanswered_total");
        let lowest = if on == On::Sim { highest } else { 44 };
        assert!((lowest..=highest).contains(&unanswered), "{unanswered} of 300 unanswered");
        stage.wait_metric("ringwire_connections", 301 - unanswered);
        outside.pop().unwrap().expect_any_end();
        inside.check_echo("unharmed");
    }
}
