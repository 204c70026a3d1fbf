//! Plain HTTP beside the WebSockets: statuses, bodies, keep-alive, pipelining.

use crate::peer::{Peer, text, upgrade_request};
use crate::stage::{Setup, Stage};
use ringwire::Limits;

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[track_caller]
fn refused(stage: &Stage, request: &[u8], status: u16) {
    let mut peer = stage.peer();
    peer.send(request);
    peer.expect_refused(status);
}

#[track_caller]
fn hello(peer: &mut Peer) {
    assert_eq!(peer.expect_http(200).body, b"hello\n");
}

on_every_driver! {
    fn keeps_the_connection(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        for _ in 0..3 {
            peer.send(get("/hello").as_bytes());
            hello(&mut peer);
        }
        peer.send(get("/nowhere").as_bytes());
        assert_eq!(peer.expect_http(404).body, b"not here\n");
        peer.send(b"DELETE /hello HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(peer.expect_http(405).header("Allow"), Some("GET, HEAD"));
        // A WebSocket on the same connection, after all.
        peer.upgrade("/");
        peer.check_echo("upgraded");
    }

    fn closes_where_either_side_asks(on) {
        let stage = Stage::plain(on);
        for request in [
            "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "GET /hello HTTP/1.0\r\n\r\n",
            "GET /bye HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            let mut peer = stage.peer();
            peer.send(request.as_bytes());
            peer.send(get("/hello").as_bytes());
            peer.expect_refused(200);
        }
        let mut peer = stage.peer();
        peer.send(b"GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        hello(&mut peer);
        peer.send(get("/hello").as_bytes());
        hello(&mut peer);
        stage.wait_metric("ringwire_connections", 1);
    }

    fn answers_head_without_a_body(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        peer.send(b"HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\n");
        peer.send(get("/hello").as_bytes());
        assert_eq!(peer.expect_http_head(200).header("Content-Length"), Some("6"));
        hello(&mut peer);
        peer.send(b"HEAD /bytes?100000 HTTP/1.1\r\nHost: a\r\n\r\n");
        peer.send(get("/hello").as_bytes());
        assert_eq!(peer.expect_http_head(200).header("Content-Length"), Some("100000"));
        hello(&mut peer);
    }

    fn answers_a_pipeline_in_order(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        let sizes = [0, 1, 5_000, 17, 100_000, 3];
        let requests: String = sizes.iter().map(|bytes| get(&format!("/bytes?{bytes}"))).collect();
        // Cut inside the third request.
        let (head, tail) = requests.as_bytes().split_at(requests.len() / 2);
        peer.send_pieces([head, tail]);
        for bytes in sizes {
            assert_eq!(peer.expect_http(200).body.len(), bytes);
        }
        // An upgrade at the end of a pipeline.
        let pipeline = get("/hello") + &upgrade_request("/", "");
        peer.send(&[pipeline.into_bytes(), text("last")].concat());
        hello(&mut peer);
        peer.expect_http(101);
        peer.expect_text("last");
    }

    fn takes_bodies_of_known_length(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        let post = |body: &str| {
            format!("POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        peer.send((post("one") + &post("") + &post("three")).as_bytes());
        for body in ["one", "", "three"] {
            assert_eq!(peer.expect_http(200).body, body.as_bytes());
        }
        let long = "x".repeat(60_000);
        peer.send_pieces(post(&long).as_bytes().chunks(9_999));
        assert_eq!(peer.expect_http(200).body, long.as_bytes());
        peer.send_pieces(post("byte by byte").as_bytes().chunks(1));
        assert_eq!(peer.expect_http(200).body, b"byte by byte");
        peer.send(get("/hello").as_bytes());
        hello(&mut peer);
    }

    fn says_go_on_to_who_waits_for_it(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        let head = "POST /post HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
        peer.send(head.as_bytes());
        peer.expect(b"HTTP/1.1 100 Continue\r\n\r\n");
        peer.send(b"bo");
        peer.expect_silence(std::time::Duration::from_millis(20));
        peer.send(b"dy");
        assert_eq!(peer.expect_http(200).body, b"body");
        // Who does not wait is not told.
        peer.send(format!("{head}body").as_bytes());
        assert_eq!(peer.expect_http(200).body, b"body");
    }

    fn refuses_what_it_cannot_serve(on) {
        let stage = Stage::plain(on);
        let mut witness = stage.open("/");
        refused(&stage, b"nonsense\r\n\r\n", 400);
        let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n";
        if crate::TLS {
            refused(&stage, hello, 400);
        } else {
            // Who speaks TLS is told in TLS: a fatal alert, protocol_version.
            let mut peer = stage.peer();
            peer.send(hello);
            peer.expect(b"\x15\x03\x01\x00\x02\x02\x46");
            peer.expect_fin();
            stage.wait_metric("ringwire_tls_on_plain_port_total", 1);
        }
        refused(&stage, b"GET / HTTP/1.1\r\n\r\n", 400);
        refused(&stage, b"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n", 400);
        refused(&stage, b"GET / HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n", 400);
        refused(&stage, b"GET / HTTP/1.1\nHost: a\n\n", 400);
        refused(&stage, b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505);
        refused(&stage, b"POST /post HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 501);
        refused(&stage, b"POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400);
        refused(&stage, b"POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n", 413);
        let huge = b"POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n";
        refused(&stage, huge, 413);
        witness.check_echo("unharmed");
        stage.wait_metric("ringwire_connections", 1);
    }

    fn refuses_heads_beyond_the_limits(on) {
        let limits = Limits { max_head_bytes: 1_000, max_headers: 10, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let head = |bytes: usize| {
            let rest = "GET /hello HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
            format!("GET /hello HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(bytes - rest))
        };
        let mut peer = stage.peer();
        peer.send(head(1_000).as_bytes());
        hello(&mut peer);
        refused(&stage, head(1_001).as_bytes(), 431);
        refused(&stage, &[b'x'; 1_001], 431);
        let fields = |count: usize| "A: b\r\n".repeat(count - 1);
        let mut peer = stage.peer();
        peer.send(format!("GET /hello HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(10)).as_bytes());
        hello(&mut peer);
        refused(&stage, format!("GET /hello HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(11)).as_bytes(), 431);
    }

    /// A client that pipelines and does not read: its requests wait, and none is lost.
    fn puts_requests_off_until_answers_are_taken(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.narrow_peer();
        peer.stop_reading();
        let requests: String = (0..60).map(|n| get(&format!("/bytes?{}", 200_000 + n))).collect();
        peer.send_in_background(requests.into_bytes());
        stage.until("receiving pauses", || stage.metric("ringwire_receive_pauses_total") > 0);
        stage.pass(std::time::Duration::from_millis(50));
        let served = stage.metric("ringwire_http_requests_total");
        assert!(served < 60, "{served} answers are queued for who takes none");
        assert!(stage.metric("ringwire_outbox_bytes") < 1 << 20);
        peer.start_reading();
        for n in 0..60 {
            assert_eq!(peer.expect_http(200).body.len(), 200_000 + n);
        }
        peer.send(get("/hello").as_bytes());
        hello(&mut peer);
    }

    fn answers_put_off_requests_after_fin(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.narrow_peer();
        peer.stop_reading();
        let requests: String = (0..40).map(|n| get(&format!("/bytes?{}", 200_000 + n))).collect();
        peer.send(requests.as_bytes());
        peer.half_close();
        stage.until("receiving pauses", || stage.metric("ringwire_receive_pauses_total") > 0);
        stage.pass(std::time::Duration::from_millis(50));
        peer.start_reading();
        for n in 0..40 {
            assert_eq!(peer.expect_http(200).body.len(), 200_000 + n);
        }
        peer.expect_fin();
        stage.wait_metric("ringwire_connections", 0);
    }
}
