//! Responses that go on: event streams and other bodies, what they are sent and how they end.

use crate::peer::{Peer, text};
use crate::stage::{Setup, Stage};
use ringwire::{CloseCode, Deadlines, Limits, Prepared, Subscribe};
use std::time::Duration;

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// The head of a response in chunks.
#[track_caller]
fn begin(peer: &mut Peer, target: &str) {
    peer.send(get(target).as_bytes());
    let answer = peer.expect_http(200);
    assert_eq!(answer.header("Transfer-Encoding"), Some("chunked"), "{}", answer.head);
    assert_eq!(answer.header("Connection"), Some("close"), "{}", answer.head);
    assert_eq!(answer.header("Content-Length"), None, "{}", answer.head);
}

#[track_caller]
fn listen(stage: &Stage, tag: &str) -> Peer {
    let mut peer = stage.peer();
    begin(&mut peer, &format!("/events?tag={tag}"));
    peer.expect_chunk("id: 1\nevent: hello\ndata: welcome\n\n");
    peer
}

on_every_driver! {
    fn sends_events(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        peer.send(get("/events?tag=a").as_bytes());
        let answer = peer.expect_http(200);
        assert_eq!(answer.header("Content-Type"), Some("text/event-stream"));
        assert_eq!(answer.header("Cache-Control"), Some("no-store"));
        peer.expect_chunk("id: 1\nevent: hello\ndata: welcome\n\n");
        let id = stage.id("a");
        stage.remote.send_text(id, "one\ntwo").unwrap();
        peer.expect_chunk("data: one\ndata: two\n\n");
        stage.remote.send_text(id, "").unwrap();
        peer.expect_chunk("data: \n\n");
        stage.remote.send_binary(id, vec![0xff, 0, 0xfe]).unwrap();
        peer.expect_chunk("data: /wD+\n\n");
        let prepared = Prepared::text_with_event_id("three", "3");
        stage.remote.send_prepared(id, &prepared).unwrap();
        peer.expect_chunk("id: 3\ndata: three\n\n");
        stage.wait_metric("ringwire_streams", 1);
        stage.wait_metric("ringwire_websockets", 0);
        stage.remote.close(id, CloseCode::NORMAL, "").unwrap();
        peer.expect_chunk("");
        peer.expect_fin();
        assert_eq!(stage.closed("a"), ["open", "close Local"]);
        stage.wait_metric("ringwire_streams", 0);
    }

    /// Subscribers are subscribers, whatever carries their messages.
    fn events_come_from_topics(on) {
        let stage = Stage::plain(on);
        let mut stream = listen(&stage, "a");
        stage.remote.subscribe(stage.id("a"), "news/#", Subscribe::new()).unwrap();
        let mut peer = stage.open("/?tag=b");
        peer.order("!sub news/1", "Ok(true)");
        peer.order("!pub news/1 others : from a WebSocket", "Ok(())");
        stream.expect_chunk("data: from a WebSocket\n\n");
        stage.remote.publish("news/1", &Prepared::text_with_event_id("from afar", "7")).unwrap();
        stream.expect_chunk("id: 7\ndata: from afar\n\n");
        peer.expect_text("from afar");
        stage.remote.close(stage.id("a"), CloseCode::NORMAL, "").unwrap();
        stream.expect_chunk("");
        stage.closed("a");
        stage.wait_metric("ringwire_subscriptions", 1);
    }

    fn sends_a_body_piece_by_piece(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        begin(&mut peer, "/body?tag=a");
        peer.expect_chunk("begin ");
        let id = stage.id("a");
        stage.remote.send_text(id, "middle\n").unwrap();
        // An empty chunk would be the end.
        stage.remote.send_text(id, "").unwrap();
        stage.remote.send_binary(id, vec![b'x'; 100_000]).unwrap();
        peer.expect_chunk("middle\n");
        assert_eq!(peer.next_chunk(), [b'x'; 100_000]);
        stage.remote.close(id, CloseCode::NORMAL, "").unwrap();
        peer.expect_chunk("");
        peer.expect_fin();
        assert_eq!(stage.closed("a"), ["open", "close Local"]);
    }

    /// HTTP/1.0 knows no chunks: the body ends with the connection.
    fn ends_with_the_connection_for_http_1_0(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        peer.send(b"GET /events?tag=a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let answer = peer.expect_http(200);
        assert_eq!(answer.header("Transfer-Encoding"), None);
        assert_eq!(answer.header("Connection"), Some("close"));
        peer.expect(b"id: 1\nevent: hello\ndata: welcome\n\n");
        stage.remote.send_prepared(stage.id("a"), &Prepared::text_with_event_id("x", "2")).unwrap();
        peer.expect(b"id: 2\ndata: x\n\n");
        stage.remote.close(stage.id("a"), CloseCode::NORMAL, "").unwrap();
        peer.expect_fin();
        let mut peer = stage.peer();
        peer.send(b"GET /body?tag=b HTTP/1.0\r\n\r\n");
        peer.expect_http(200);
        peer.expect(b"begin ");
        stage.remote.send_text(stage.id("b"), "end").unwrap();
        stage.remote.close(stage.id("b"), CloseCode::NORMAL, "").unwrap();
        peer.expect(b"end");
        peer.expect_fin();
    }

    fn gives_the_head_alone_where_that_is_all(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        peer.send(b"HEAD /body?tag=a HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(peer.expect_http_head(200).header("X-Kind"), Some("body"));
        peer.expect_fin();
        let mut peer = stage.peer();
        peer.send((get("/no-body?tag=a") + &get("/hello")).as_bytes());
        peer.expect_http(204);
        assert_eq!(peer.expect_http(200).body, b"hello\n");
        assert!(stage.notes.of("a").is_empty(), "nothing was opened");
    }

    /// Requests behind it are not served, however many: the response is the connection's last.
    fn discards_what_comes_behind(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        peer.send((get("/hello") + &get("/events?tag=a") + &get("/hello?never")).as_bytes());
        assert_eq!(peer.expect_http(200).body, b"hello\n");
        peer.expect_http(200);
        peer.expect_chunk("id: 1\nevent: hello\ndata: welcome\n\n");
        peer.send_in_background(get("/hello?never").repeat(20_000).into_bytes());
        stage.pass(Duration::from_millis(30));
        stage.remote.send_text(stage.id("a"), "still here").unwrap();
        peer.expect_chunk("data: still here\n\n");
        stage.wait_metric("ringwire_http_requests_total", 2);
        // Nothing of it is kept.
        stage.wait_metric("ringwire_busy_connections", 0);
        drop(peer);
        stage.closed("a");
    }

    fn is_told_what_goes_to_all(on) {
        let stage = Stage::new(on, Setup { shards: 2, ..Setup::default() });
        let mut socket = stage.open("/?tag=w");
        let mut streams: Vec<Peer> = (0..4).map(|n| listen(&stage, &format!("p{n}"))).collect();
        stage.remote.broadcast(&Prepared::text_with_event_id("for all", "7"), 0).unwrap();
        stage.remote.broadcast(&Prepared::text("again"), 0).unwrap();
        socket.expect_text("for all");
        socket.expect_text("again");
        for stream in &mut streams {
            stream.expect_chunk("id: 7\ndata: for all\n\n");
            stream.expect_chunk("data: again\n\n");
        }
    }

    fn hears_topics_as_a_socket_does(on) {
        let stage = Stage::new(on, Setup { shards: 2, ..Setup::default() });
        let mut socket = stage.open("/?tag=w");
        let mut streams: Vec<Peer> = (0..4).map(|n| listen(&stage, &format!("p{n}"))).collect();
        for tag in ["w", "p0", "p1", "p2", "p3"] {
            stage.remote.subscribe(stage.id(tag), "feed", Subscribe::new()).unwrap();
        }
        for number in 1..=20 {
            let message = Prepared::text_with_event_id(format!("message {number}"), number.to_string());
            stage.remote.publish("feed", &message).unwrap();
        }
        for number in 1..=20 {
            socket.expect_text(&format!("message {number}"));
            for stream in &mut streams {
                stream.expect_chunk(&format!("id: {number}\ndata: message {number}\n\n"));
            }
        }
        stage.remote.unsubscribe(stage.id("p0"), "feed").unwrap();
        stage.settle();
        stage.remote.publish("feed", &Prepared::text("last")).unwrap();
        streams[1].expect_chunk("data: last\n\n");
        streams[0].expect_silence(Duration::from_millis(20));
        drop(streams);
        stage.wait_metric("ringwire_streams", 0);
        stage.wait_metric("ringwire_subscriptions", 1);
    }

    fn knows_when_its_peer_has_gone(on) {
        let stage = Stage::plain(on);
        let (gone, reset) = (listen(&stage, "gone"), listen(&stage, "reset"));
        let mut half = listen(&stage, "half");
        drop(gone);
        reset.reset();
        half.half_close();
        for tag in ["gone", "reset", "half"] {
            assert_eq!(stage.closed(tag), ["open", "close Disconnected"]);
        }
        half.expect_fin();
        stage.wait_metric("ringwire_connections", 0);
        stage.wait_metric("ringwire_streams", 0);
        assert_eq!(stage.metric("ringwire_disconnects_total"), 0);
    }

    fn breaks_silence_by_comments(on) {
        let deadlines = Deadlines { event_idle_ms: 100, ..Deadlines::default() };
        let stage = Stage::new(on, Setup { deadlines, ..Setup::default() });
        let mut events = listen(&stage, "a");
        let mut body = stage.peer();
        begin(&mut body, "/body?tag=b");
        body.expect_chunk("begin ");
        for _ in 0..3 {
            events.expect_chunk(":\n\n");
        }
        body.expect_silence(Duration::from_millis(50));
        assert!(stage.metric("ringwire_comments_sent_total") >= 3);
        assert_eq!(stage.metric("ringwire_pings_sent_total"), 0);
    }

    fn bounds_what_waits_for_a_slow_reader(on) {
        let limits = Limits { max_outbox_bytes: 100_000, pause_receive_bytes: 20_000, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let mut peer = stage.narrow_peer();
        begin(&mut peer, "/events?tag=a");
        peer.expect_chunk("id: 1\nevent: hello\ndata: welcome\n\n");
        peer.stop_reading();
        let mut sent = 0_u64;
        stage.until("the outbox is full", || {
            stage.remote.send_text(stage.id("a"), format!("{sent:0>10000}")).unwrap();
            sent += 1;
            stage.until("it is taken", || stage.metric("ringwire_mailbox_commands_total") == sent);
            stage.metric("ringwire_messages_dropped_total") > 0
        });
        assert!(stage.metric("ringwire_outbox_bytes") <= 100_000);
        peer.start_reading();
        let taken = stage.metric("ringwire_messages_sent_total") - 1;
        let mut numbers = Vec::new();
        for _ in 0..taken {
            let chunk = String::from_utf8(peer.next_chunk()).unwrap();
            numbers.push(chunk["data: ".len()..].trim_end().parse::<u64>().unwrap());
        }
        assert!(numbers.is_sorted() && numbers[0] == 0, "{numbers:?}");
        stage.wait("a", "drain");
        stage.remote.send_text(stage.id("a"), "and on").unwrap();
        peer.expect_chunk("data: and on\n\n");
    }

    fn ends_whom_takes_nothing(on) {
        let deadlines = Deadlines { write_ms: 150, ..Deadlines::default() };
        let stage = Stage::new(on, Setup { deadlines, ..Setup::default() });
        let mut peer = stage.narrow_peer();
        begin(&mut peer, "/body?tag=a");
        peer.stop_reading();
        let id = stage.id("a");
        assert!(stage.closed_while("a", || stage.remote.send_binary(id, vec![0; 500_000]).unwrap()));
        assert_eq!(stage.closed("a").last().unwrap(), "close Timeout(Write)");
    }

    fn ends_whole_when_the_server_goes(on) {
        let mut stage = Stage::plain(on);
        let mut events = listen(&stage, "a");
        let mut body = stage.peer();
        begin(&mut body, "/body?tag=b");
        body.expect_chunk("begin ");
        let mut late = stage.open("/?tag=w");
        stage.shutdown();
        for peer in [&mut events, &mut body] {
            peer.expect_chunk("");
            peer.expect_fin();
        }
        late.expect_close(1001);
        late.send(&text("too late"));
        drop((events, body, late));
        stage.ended();
        assert_eq!(stage.notes.of("a"), ["open", "close Shutdown"]);
        assert_eq!(stage.notes.of("b"), ["open", "close Shutdown"]);
    }

    /// As any connection: its 64 bytes, and nothing else while nothing happens.
    fn holds_nothing_while_idle(on) {
        let stage = Stage::plain(on);
        let peers: Vec<Peer> = (0..50).map(|n| listen(&stage, &format!("p{n}"))).collect();
        stage.wait_metric("ringwire_busy_connections", 0);
        stage.wait_metric("ringwire_streams", peers.len() as u64);
    }
}
