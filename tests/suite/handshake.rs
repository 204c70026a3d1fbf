//! The opening handshake: what is let in, what is refused and how, and what the handler sees of it.

use crate::peer::{KEY, Peer, text, upgrade_request};
use crate::stage::{Setup, Stage};
use ringwire::OriginPolicy;

/// One refused request, on a connection of its own.
#[track_caller]
fn refused(stage: &Stage, request: &str, status: u16) {
    let mut peer = stage.peer();
    peer.send(request.as_bytes());
    // What follows a refused request is not read as another one.
    peer.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    peer.expect_refused(status);
}

fn with_origin(stage: &Stage, origin: Option<&str>) -> Peer {
    let mut peer = stage.peer();
    let line = origin.map(|origin| format!("Origin: {origin}\r\n")).unwrap_or_default();
    peer.send(upgrade_request("/", &line).as_bytes());
    peer
}

on_every_driver! {
    fn opens_and_echoes(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/?tag=a");
        peer.check_echo("hello");
        peer.bye();
        assert_eq!(
            stage.closed("a"),
            ["upgrade", "open", "close Peer { code: Some(CloseCode(1000)), reason: \"\" }"]
        );
    }

    fn refuses_what_is_no_valid_upgrade(on) {
        let stage = Stage::plain(on);
        let mut witness = stage.open("/");
        let good = upgrade_request("/?tag=refused", "");
        let without = |line: &str| {
            let changed = good.replace(line, "");
            assert_ne!(changed, good);
            changed
        };
        refused(&stage, &without(&format!("Sec-WebSocket-Key: {KEY}\r\n")), 400);
        refused(&stage, &good.replace(KEY, "c2hvcnQ="), 400);
        refused(&stage, &good.replace(KEY, "not base64 at all !!"), 400);
        refused(&stage, &good.replace("\r\n\r\n", &format!("\r\nSec-WebSocket-Key: {KEY}\r\n\r\n")), 400);
        refused(&stage, &without("Connection: Upgrade\r\n"), 400);
        refused(&stage, &without("Host: ringwire.test\r\n"), 400);
        refused(&stage, &good.replace("\r\n\r\n", "\r\nHost: other.test\r\n\r\n"), 400);
        refused(&stage, &good.replace("GET", "POST"), 400);
        refused(&stage, &good.replace("HTTP/1.1", "HTTP/2.0"), 505);
        refused(&stage, &good.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: a b\r\n\r\n"), 400);
        refused(&stage, &good.replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: ;;\r\n\r\n"), 400);
        refused(&stage, &good.replace("Host: ringwire.test", "Host ringwire.test"), 400);
        refused(&stage, &good.replace("Upgrade: websocket", "Upgrade : websocket"), 400);
        refused(&stage, &good.replace("\r\n", "\n"), 400);
        witness.check_echo("unharmed");
        assert!(stage.notes.of("refused").is_empty(), "no handler was asked");
    }

    fn names_the_version_it_speaks(on) {
        let stage = Stage::plain(on);
        for request in [
            upgrade_request("/", "").replace("Version: 13", "Version: 8"),
            upgrade_request("/", "").replace("Sec-WebSocket-Version: 13\r\n", ""),
        ] {
            let mut peer = stage.peer();
            peer.send(request.as_bytes());
            let answer = peer.expect_refused(426);
            assert_eq!(answer.header("Sec-WebSocket-Version"), Some("13"));
        }
    }

    /// CVE-2026-2833: what framing says a body is must not become a request or a frame.
    fn refuses_an_upgrade_with_a_body(on) {
        let stage = Stage::plain(on);
        for (framing, status) in [
            ("Content-Length: 5\r\n", 400),
            ("Transfer-Encoding: chunked\r\n", 501),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", 400),
            ("Content-Length: 0x5\r\n", 400),
        ] {
            refused(&stage, &upgrade_request("/", framing), status);
        }
        stage.open("/").check_echo("unharmed");
    }

    fn shows_headers_and_cookies_to_the_handler(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        let more = "X-Note: seen\r\nCookie: a=b; session=s3cret; c=d\r\n";
        peer.send(upgrade_request("/set-cookie?tag=a", more).as_bytes());
        let answer = peer.expect_http(101);
        assert_eq!(answer.header("Set-Cookie"), Some("seen=1"));
        stage.wait("a", "open");
        assert_eq!(stage.notes.of("a"), ["upgrade", "x-note seen", "cookie s3cret", "open"]);
    }

    fn tells_the_handler_who_is_there(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        peer.send(&text("!peer"));
        let (_, payload) = peer.next_frame();
        let addr: std::net::SocketAddr = String::from_utf8(payload).unwrap().parse().unwrap();
        assert!(addr.ip().is_loopback() || stage.sim().is_some(), "{addr}");
    }

    fn agrees_on_a_subprotocol(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        peer.send(upgrade_request("/chat", "Sec-WebSocket-Protocol: soap, chat.v2, chat\r\n").as_bytes());
        assert_eq!(peer.expect_http(101).header("Sec-WebSocket-Protocol"), Some("chat.v2"));
        peer.check_echo("in chat.v2");
        // None is offered: none is named.
        assert_eq!(stage.peer().upgrade("/").header("Sec-WebSocket-Protocol"), None);
        refused(&stage, &upgrade_request("/chat", "Sec-WebSocket-Protocol: soap\r\n"), 400);
        // A service's own mistake must not become the client's.
        refused(&stage, &upgrade_request("/unoffered", "Sec-WebSocket-Protocol: soap\r\n"), 500);
        refused(&stage, &upgrade_request("/unoffered?tag=b", ""), 500);
        assert_eq!(stage.notes.of("b"), ["upgrade"], "what is not opened is not closed");
    }

    fn lets_the_handler_refuse(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        peer.send(upgrade_request("/members?tag=a", "").as_bytes());
        // Frames that were sent ahead are for nobody.
        peer.send(&text("sent too early"));
        let answer = peer.expect_refused(401);
        assert_eq!(answer.header("WWW-Authenticate"), Some("Basic"));
        assert_eq!(answer.body, b"who are you?\n");
        assert_eq!(stage.notes.of("a"), ["upgrade"]);
    }

    /// CVE-2026-44211: any page could have driven the socket.
    fn keeps_other_sites_pages_out(on) {
        let stage = Stage::plain(on);
        with_origin(&stage, Some("http://evil.test")).expect_refused(403);
        with_origin(&stage, Some("null")).expect_refused(403);
        with_origin(&stage, Some("http://ringwire.test.evil.test")).expect_refused(403);
        with_origin(&stage, Some("http://ringwire.test")).expect_http(101);
        with_origin(&stage, None).expect_http(101);
        let mut twice = stage.peer();
        let lines = "Origin: http://ringwire.test\r\nOrigin: http://evil.test\r\n";
        twice.send(upgrade_request("/", lines).as_bytes());
        twice.expect_refused(400);
    }

    fn lets_listed_origins_in(on) {
        let origins = vec!["https://app.test".to_owned()];
        let origin = OriginPolicy::Allow { origins, require: true };
        let stage = Stage::new(on, Setup { origin, ..Setup::default() });
        with_origin(&stage, Some("https://app.test")).expect_http(101);
        with_origin(&stage, Some("http://app.test")).expect_refused(403);
        with_origin(&stage, Some("http://ringwire.test")).expect_refused(403);
        with_origin(&stage, None).expect_refused(403);
    }

    fn lets_any_origin_in_where_that_is_asked_for(on) {
        let stage = Stage::new(on, Setup { origin: OriginPolicy::Any, ..Setup::default() });
        with_origin(&stage, Some("http://anywhere.test")).expect_http(101);
    }

    /// CVE-2024-37890 and others: a head may come in any pieces.
    fn takes_a_head_byte_by_byte(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        let request = upgrade_request("/", "");
        peer.send_pieces(request.as_bytes().chunks(1));
        peer.expect_http(101);
        peer.check_echo("patient");
    }

    fn takes_frames_that_come_with_the_request(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        let mut bytes = upgrade_request("/greet", "").into_bytes();
        bytes.extend(text("eager"));
        let (most, rest) = (bytes.split_at(bytes.len() - 3).0.to_vec(), bytes[bytes.len() - 3..].to_vec());
        peer.send(&most);
        peer.send(&rest);
        peer.expect_http(101);
        peer.expect_text("welcome");
        peer.expect_text("eager");
    }

    fn spreads_connections_over_shards(on) {
        let stage = Stage::new(on, Setup { shards: 2, ..Setup::default() });
        let mut peers: Vec<Peer> = (0..40).map(|_| stage.open("/")).collect();
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.check_echo(&number.to_string());
        }
        assert_eq!(stage.remote.open_connections(), 40);
        for peer in peers {
            peer.bye();
        }
        stage.wait_metric("ringwire_connections", 0);
    }
}
