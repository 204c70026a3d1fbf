//! Requests answered later: long polling, and handshakes on which the decision is out.

use crate::peer::{Peer, text, upgrade_request};
use crate::stage::{Setup, Stage};
use ringwire::Ticket;
use ringwire::http::Response;
use std::time::Duration;

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn ticket(stage: &Stage, tag: &str) -> Ticket {
    stage.until(&format!("{tag} waits"), || stage.notes.lock().tickets.contains_key(tag));
    stage.notes.lock().tickets[tag]
}

/// A request that waits.
fn ask(stage: &Stage, tag: &str) -> (Peer, Ticket) {
    let mut peer = stage.peer();
    peer.send(get(&format!("/later?tag={tag}")).as_bytes());
    let ticket = ticket(stage, tag);
    (peer, ticket)
}

/// A handshake that waits.
fn knock(stage: &Stage, tag: &str, more: &str) -> (Peer, Ticket) {
    let mut peer = stage.peer();
    peer.send(upgrade_request(&format!("/later?tag={tag}"), more).as_bytes());
    let ticket = ticket(stage, tag);
    (peer, ticket)
}

fn answer(stage: &Stage, ticket: Ticket, text: &str) {
    stage.remote.respond(ticket, Response::text(200, text.to_owned())).unwrap();
}

on_every_driver! {
    fn answers_from_another_thread(on) {
        let stage = Stage::new(on, Setup { shards: 2, ..Setup::default() });
        let mut asked: Vec<(Peer, Ticket)> = (0..6).map(|n| ask(&stage, &format!("p{n}"))).collect();
        stage.wait_metric("ringwire_requests_deferred", 6);
        stage.wait_metric("ringwire_busy_connections", 0);
        std::thread::scope(|scope| {
            for (number, (_, ticket)) in asked.iter().enumerate() {
                let (remote, ticket) = (stage.remote.clone(), *ticket);
                scope.spawn(move || remote.respond(ticket, Response::text(200, format!("to {number}"))));
            }
        });
        for (number, (peer, _)) in asked.iter_mut().enumerate() {
            assert_eq!(peer.expect_http(200).body, format!("to {number}").as_bytes());
            peer.send(get("/hello").as_bytes());
            assert_eq!(peer.expect_http(200).body, b"hello\n");
        }
        stage.wait_metric("ringwire_requests_deferred", 0);
    }

    fn asks_the_handler_when_nothing_answers_in_time(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        peer.send(get("/later?tag=a&ms=60").as_bytes());
        assert_eq!(peer.expect_http(504).body, b"too late\n");
        assert_eq!(stage.notes.of("a"), ["later", "expired"]);
        // The ticket is nobody's now: not the next request's either.
        let late = ticket(&stage, "a");
        peer.send(get("/later?tag=b").as_bytes());
        stage.wait("b", "later");
        answer(&stage, late, "for a");
        peer.expect_silence(Duration::from_millis(30));
        answer(&stage, ticket(&stage, "b"), "for b");
        assert_eq!(peer.expect_http(200).body, b"for b");
        stage.wait_metric("ringwire_mailbox_stale_total", 1);
        stage.wait_metric("ringwire_requests_expired_total", 1);
    }

    fn lets_the_pipeline_wait_its_turn(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        let pipeline = [get("/hello"), get("/later?tag=a"), get("/bytes?5"), get("/later?tag=b"), get("/bytes?7")];
        peer.send(pipeline.concat().as_bytes());
        assert_eq!(peer.expect_http(200).body, b"hello\n");
        let first = ticket(&stage, "a");
        peer.send(get("/bytes?9").as_bytes());
        peer.expect_silence(Duration::from_millis(30));
        stage.wait_metric("ringwire_http_requests_total", 2);
        answer(&stage, first, "first");
        assert_eq!(peer.expect_http(200).body, b"first");
        assert_eq!(peer.expect_http(200).body.len(), 5);
        let second = ticket(&stage, "b");
        peer.expect_silence(Duration::from_millis(30));
        answer(&stage, second, "second");
        assert_eq!(peer.expect_http(200).body, b"second");
        assert_eq!(peer.expect_http(200).body.len(), 7);
        assert_eq!(peer.expect_http(200).body.len(), 9);
        stage.wait_metric("ringwire_busy_connections", 0);
    }

    /// Who sends on while it waits is not read from.
    fn keeps_little_of_what_comes_meanwhile(on) {
        let stage = Stage::plain(on);
        let (mut peer, ticket) = ask(&stage, "a");
        let requests = get("/hello").repeat(200_000);
        peer.send_in_background(requests.into_bytes());
        stage.until("receiving pauses", || stage.metric("ringwire_receive_pauses_total") > 0);
        stage.pass(Duration::from_millis(50));
        stage.wait_metric("ringwire_http_requests_total", 1);
        answer(&stage, ticket, "at last");
        assert_eq!(peer.expect_http(200).body, b"at last");
        for _ in 0..1_000 {
            assert_eq!(peer.expect_http(200).body, b"hello\n");
        }
    }

    fn gives_a_head_to_head(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        peer.send(b"HEAD /later?tag=a HTTP/1.1\r\nHost: a\r\n\r\n");
        answer(&stage, ticket(&stage, "a"), "12345");
        assert_eq!(peer.expect_http_head(200).header("Content-Length"), Some("5"));
        peer.send(b"GET /later?tag=b HTTP/1.0\r\n\r\n");
        answer(&stage, ticket(&stage, "b"), "last");
        assert_eq!(peer.expect_refused(200).body, b"last");
    }

    fn tells_when_nobody_waits_any_more(on) {
        let stage = Stage::plain(on);
        let ((gone, _), (reset, _), (mut half, late)) = (ask(&stage, "gone"), ask(&stage, "reset"), ask(&stage, "half"));
        drop(gone);
        reset.reset();
        half.half_close();
        for tag in ["gone", "reset", "half"] {
            stage.wait(tag, "abandoned");
        }
        answer(&stage, late, "too late");
        half.expect_end();
        stage.wait_metric("ringwire_connections", 0);
        stage.wait_metric("ringwire_requests_abandoned_total", 3);
        stage.wait_metric("ringwire_requests_deferred", 0);
    }

    fn a_dropped_responder_answers(on) {
        let stage = Stage::plain(on);
        let (mut peer, ticket) = ask(&stage, "a");
        drop(stage.remote.responder(ticket));
        peer.expect_http(500);
        peer.send(get("/later?tag=b").as_bytes());
        let ticket = self::ticket(&stage, "b");
        stage.remote.responder(ticket).respond(Response::text(200, "kept")).unwrap();
        assert_eq!(peer.expect_http(200).body, b"kept");
        stage.settle();
        assert_eq!(stage.metric("ringwire_mailbox_stale_total"), 0);
    }

    fn accepts_a_handshake_later(on) {
        let stage = Stage::plain(on);
        let (mut peer, ticket) = knock(&stage, "a", "Sec-WebSocket-Protocol: chat\r\n");
        // Against the rules, but nothing is lost.
        peer.send(&text("early"));
        peer.expect_silence(Duration::from_millis(30));
        assert_eq!(stage.notes.of("a"), ["upgrade"]);
        stage.remote.accept(ticket).unwrap();
        assert_eq!(peer.expect_http(101).header("Sec-WebSocket-Protocol"), Some("chat"));
        peer.expect_text("early");
        peer.check_echo("and on");
        peer.bye();
        assert_eq!(stage.closed("a")[..2], ["upgrade", "open"]);
    }

    fn refuses_a_handshake_later(on) {
        let stage = Stage::plain(on);
        let (mut peer, ticket) = knock(&stage, "a", "");
        stage.remote.respond(ticket, Response::text(403, "no\n")).unwrap();
        assert_eq!(peer.expect_refused(403).body, b"no\n");
        let (mut peer, ticket) = knock(&stage, "b", "");
        drop(stage.remote.responder(ticket));
        peer.expect_refused(500);
        let mut peer = stage.peer();
        peer.send(upgrade_request("/later?tag=c&ms=50", "").as_bytes());
        peer.expect_refused(504);
        assert_eq!(stage.notes.of("c"), ["upgrade", "expired"]);
        let (peer, _) = knock(&stage, "d", "");
        drop(peer);
        stage.wait("d", "abandoned");
        stage.wait_metric("ringwire_upgrades_refused_total", 3);
        assert_eq!(stage.metric("ringwire_upgrades_total"), 0);
    }

    fn accepts_no_plain_request(on) {
        let stage = Stage::plain(on);
        let (mut peer, ticket) = ask(&stage, "a");
        stage.remote.accept(ticket).unwrap();
        peer.expect_http(500);
        peer.send(get("/hello").as_bytes());
        assert_eq!(peer.expect_http(200).body, b"hello\n");
    }

    fn leaves_nobody_waiting_when_the_server_goes(on) {
        let mut stage = Stage::plain(on);
        let ((mut plain, _), (mut handshake, _)) = (ask(&stage, "a"), knock(&stage, "b", ""));
        stage.shutdown();
        plain.expect_refused(503);
        handshake.expect_refused(503);
        drop((plain, handshake));
        stage.ended();
        assert_eq!(stage.notes.of("a"), ["later", "abandoned"]);
        assert_eq!(stage.notes.of("b"), ["upgrade", "abandoned"]);
    }

    fn tells_of_who_waited_when_the_server_stops(on) {
        let mut stage = Stage::plain(on);
        let (peer, _) = ask(&stage, "a");
        stage.stop();
        stage.ended();
        drop(peer);
        assert_eq!(stage.notes.of("a"), ["later", "abandoned"]);
    }
}
