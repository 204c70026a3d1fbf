//! Connections that the service opens itself: the client role.

use crate::far_end::{accept_for, client_frame, request, switch};
use crate::peer::{ACCEPT, Peer, bare, binary, close};
use crate::service::Ask;
use crate::stage::{On, Setup, Stage};
use ringwire::{ClientRequest, Deadlines, Limits, Prepared};
use std::collections::HashSet;
use std::net::SocketAddr;

fn connect(stage: &Stage, to: SocketAddr, path: &str, tag: &str) {
    let request = ClientRequest {
        path: path.to_owned(),
        subprotocols: vec!["chat".to_owned()],
        origin: Some("http://origin.test".to_owned()),
        headers: vec![("X-Note".to_owned(), "outbound".to_owned())],
        ..ClientRequest::default()
    };
    stage.ask(Ask::Connect { to, request, tag: tag.to_owned() });
}

on_every_driver! {
    /// A client masks each frame by itself (RFC 6455 §5.3): of a message to many nothing is shared.
    fn messages_to_many_are_masked_one_by_one(on) {
        let stage = Stage::plain(on);
        let mut listener = stage.listen();
        let mut far_ends: Vec<Peer> = (0..3)
            .map(|number| {
                let tag = format!("c{number}");
                connect(&stage, listener.addr, "/", &tag);
                let mut far = listener.accept();
                let head = request(&mut far);
                far.send(switch(&accept_for(&head)).as_bytes());
                stage.wait(&tag, "open");
                far
            })
            .collect();
        let prepared = Prepared::text("to many");
        for _ in 0..2 {
            stage.remote.broadcast(&prepared, 0).unwrap();
        }
        let mut masks = HashSet::new();
        for far in far_ends.iter_mut().flat_map(|far| [client_frame(far), client_frame(far)]) {
            let (b0, mask, payload) = far;
            assert_eq!((b0, payload.as_slice()), (0x81, &b"to many"[..]));
            assert!(masks.insert(mask), "a mask was used twice");
        }
    }

    /// What is sent in two parts comes as one, whatever its length.
    fn joined_messages_are_whole(on) {
        let stage = Stage::plain(on);
        let mut listener = stage.listen();
        connect(&stage, listener.addr, "/joined", "out");
        let mut far = listener.accept();
        let head = request(&mut far);
        far.send(switch(&accept_for(&head)).as_bytes());
        stage.wait("out", "open");
        let mut near = stage.peer();
        near.upgrade("/joined");
        let mut masks = HashSet::new();
        for len in 7..=125_usize {
            let message: Vec<u8> = (0..len).map(|at| (at * 7 + len) as u8).collect();
            far.send(&bare(0x82, &message));
            near.send(&binary(&message));
            for _ in 0..2 {
                let (b0, mask, payload) = client_frame(&mut far);
                assert_eq!((b0, &payload), (0x82, &message), "{len} bytes");
                masks.insert(mask);
                near.expect_binary(&message);
            }
        }
        assert!(masks.len() > 200, "a key for each frame");
    }

    fn opens_speaks_and_closes(on) {
        let stage = Stage::plain(on);
        let mut listener = stage.listen();
        connect(&stage, listener.addr, "/greet", "out");
        let mut far = listener.accept();
        let head = request(&mut far);
        assert!(head.starts_with("GET /greet HTTP/1.1\r\n"), "{head}");
        for line in ["Sec-WebSocket-Protocol: chat", "Origin: http://origin.test", "X-Note: outbound"] {
            assert!(head.contains(line), "{head}");
        }
        // The answer and a first message in one segment.
        far.send(&[switch(&accept_for(&head)).as_bytes(), &bare(0x81, b"early")].concat());
        let (_, first_mask, welcome) = client_frame(&mut far);
        assert_eq!(welcome, b"welcome");
        let (b0, second_mask, echo) = client_frame(&mut far);
        assert_eq!((b0, echo.as_slice()), (0x81, &b"early"[..]));
        assert_ne!(first_mask, second_mask, "a fresh key for each frame (CVE-2025-10148)");
        far.send(&bare(0x81, b"!frames 3 in three"));
        let frames: Vec<_> = (0..3).map(|_| client_frame(&mut far)).collect();
        let said: Vec<_> = frames.iter().map(|(b0, _, payload)| (*b0, payload.as_slice())).collect();
        assert_eq!(said, [(0x01, &b"in "[..]), (0x00, b"thr"), (0x80, b"ee")]);
        let masks: HashSet<_> = frames.iter().map(|(_, mask, _)| mask).collect();
        assert_eq!(masks.len(), 3, "a key for each frame, not for each message");
        far.send(&bare(0x89, b"ping"));
        let (b0, _, payload) = client_frame(&mut far);
        assert_eq!((b0, payload.as_slice()), (0x8a, &b"ping"[..]));
        far.send(&bare(0x88, &1000_u16.to_be_bytes()));
        let (b0, _, payload) = client_frame(&mut far);
        assert_eq!((b0, payload), (0x88, 1000_u16.to_be_bytes().to_vec()));
        // A client leaves the first FIN to the server (RFC 6455 §7.1.1).
        far.expect_silence(std::time::Duration::from_millis(50));
        far.half_close();
        far.expect_end();
        assert!(stage.closed("out")[1].starts_with("close Peer"));
        stage.wait_metric("ringwire_connections", 0);
    }

    fn tells_when_nobody_listens(on) {
        let stage = Stage::plain(on);
        let listener = stage.listen();
        let addr = listener.addr;
        drop(listener);
        connect(&stage, addr, "/", "out");
        stage.until("the connect fails", || !stage.notes.of("out").is_empty());
        assert!(stage.notes.of("out")[0].contains("ConnectionRefused"), "{:?}", stage.notes.of("out"));
    }

    fn tells_when_the_answer_is_no_websocket(on) {
        let stage = Stage::plain(on);
        let mut listener = stage.listen();
        let answers = [
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "HTTP/1.1 404 Not Found\r\n\r\n".to_owned(),
            "SSH-2.0-OpenSSH_9.9\r\n\r\n".to_owned(),
            switch(ACCEPT),
            switch("").replace("Upgrade: websocket\r\n", ""),
            format!("HTTP/1.1 101 Switching Protocols\r\n{}", "A: b\r\n".repeat(10_000)),
        ];
        for (number, answer) in answers.iter().enumerate() {
            let tag = format!("out{number}");
            connect(&stage, listener.addr, "/", &tag);
            let mut far = listener.accept();
            request(&mut far);
            far.send(answer.as_bytes());
            far.read_to_end();
            stage.until("the connect fails", || !stage.notes.of(&tag).is_empty());
            let told = &stage.notes.of(&tag)[0];
            assert!(told.starts_with("connect failed: Handshake("), "{told}");
        }
        stage.wait_metric("ringwire_connections", 0);
    }

    fn tells_when_the_far_end_hangs_up(on) {
        let stage = Stage::plain(on);
        let mut listener = stage.listen();
        connect(&stage, listener.addr, "/", "fin");
        let mut far = listener.accept();
        request(&mut far);
        far.send(b"HTTP/1.1 101 Swi");
        far.half_close();
        stage.until("the connect fails", || !stage.notes.of("fin").is_empty());
        assert_eq!(stage.notes.of("fin"), ["connect failed: Disconnected"]);
        connect(&stage, listener.addr, "/", "reset");
        let mut far = listener.accept();
        request(&mut far);
        far.reset();
        stage.until("the connect fails", || !stage.notes.of("reset").is_empty());
        assert_eq!(stage.notes.of("reset"), ["connect failed: Disconnected"]);
    }

    fn does_not_wait_for_an_answer_for_ever(on) {
        let deadlines = Deadlines { head_ms: 150, ..Deadlines::default() };
        let stage = Stage::new(on, Setup { deadlines, ..Setup::default() });
        let mut listener = stage.listen();
        connect(&stage, listener.addr, "/", "out");
        let mut far = listener.accept();
        request(&mut far);
        far.expect_end();
        stage.until("the connect fails", || !stage.notes.of("out").is_empty());
        assert_eq!(stage.notes.of("out"), ["connect failed: Timeout"]);
        stage.wait_metric("ringwire_connections", 0);
    }

    fn refuses_a_request_that_cannot_be_sent(on) {
        let stage = Stage::plain(on);
        let listener = stage.listen();
        let request = ClientRequest { path: "no path".to_owned(), ..ClientRequest::default() };
        stage.ask(Ask::Connect { to: listener.addr, request, tag: "out".to_owned() });
        stage.until("the connect fails", || !stage.notes.of("out").is_empty());
        assert_eq!(stage.notes.of("out"), ["connect failed: Request(Path)"]);
    }

    /// Slots are promised to connects under way, and nobody else gets them.
    fn keeps_to_the_limit(on) {
        let limits = Limits { max_connections: 3, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let mut listener = stage.listen();
        let mut witness = stage.open("/");
        for tag in ["one", "two", "three"] {
            stage.notes.lock().asks.push_back(Ask::Connect {
                to: listener.addr,
                request: ClientRequest::default(),
                tag: tag.to_owned(),
            });
        }
        // These come while the connects are under way.
        let late: Vec<Peer> = (0..5).map(|_| stage.peer()).collect();
        witness.check_echo("turn");
        let mut far: Vec<Peer> = Vec::new();
        stage.until("one has no slot", || {
            ["one", "two", "three"].iter().any(|tag| !stage.notes.of(tag).is_empty())
        });
        let full = ["one", "two", "three"].iter().filter(|tag| stage.notes.of(tag).contains(&"connect failed: Full".to_owned()));
        let opened = 3 - full.count();
        for _ in 0..opened {
            let mut peer = listener.accept();
            let head = request(&mut peer);
            peer.send(switch(&accept_for(&head)).as_bytes());
            far.push(peer);
        }
        witness.check_echo("unharmed");
        assert!(stage.metric("ringwire_connections") <= 3);
        for mut peer in far {
            peer.send(&bare(0x88, b""));
            client_frame(&mut peer);
        }
        drop(late);
        stage.wait_metric("ringwire_connections", 1);
    }

    fn connects_under_way_end_with_the_server(on) {
        let mut stage = Stage::plain(on);
        let mut listener = stage.listen();
        connect(&stage, listener.addr, "/", "answered-never");
        let mut far = listener.accept();
        request(&mut far);
        stage.shutdown();
        stage.ended();
        assert_eq!(stage.notes.of("answered-never"), ["connect failed: Disconnected"]);
    }
}

/// Two ends of this crate's own: the service connects to itself.
fn talks_to_itself(on: On) {
    let stage = Stage::plain(on);
    let addr = stage.addr().unwrap();
    let request = ClientRequest { path: "/silent?tag=server".to_owned(), ..ClientRequest::default() };
    stage.ask(Ask::Connect { to: addr, request, tag: "client".to_owned() });
    stage.wait("server", "open");
    stage.wait("client", "open");
    for bytes in [0, 125, 126, 65_536, 1 << 20] {
        stage.ask(Ask::Send { id: stage.id("client"), bytes });
    }
    stage.wait_metric("ringwire_messages_received_total", 5);
    stage.wait_metric("ringwire_message_bytes_received_total", 125 + 126 + 65_536 + (1 << 20));
    stage.ask(Ask::Close { id: stage.id("client"), code: 4005 });
    let events = stage.closed("server");
    assert!(events.last().unwrap().contains("Some(CloseCode(4005))"), "{events:?}");
    assert_eq!(stage.closed("client").last().unwrap(), "close Local");
    let _ = close;
}

/// What it is connected from is what the server sees.
fn connects_from_a_chosen_address(on: On) {
    let stage = Stage::plain(on);
    let addr = stage.addr().unwrap();
    for (tag, source) in [("first", "127.0.0.9"), ("second", "127.1.2.3")] {
        let request = ClientRequest {
            path: format!("/whence?tag={tag}"),
            source: Some(source.parse().unwrap()),
            ..ClientRequest::default()
        };
        stage.ask(Ask::Connect { to: addr, request, tag: format!("to-{tag}") });
        stage.wait(tag, "open");
        let notes = stage.notes.of(tag);
        assert!(notes.iter().any(|note| note.starts_with(&format!("from {source}:"))), "{notes:?}");
    }
    let source = Some("::1".parse().unwrap());
    let request = ClientRequest { source, ..ClientRequest::default() };
    stage.ask(Ask::Connect { to: addr, request, tag: "other-family".to_owned() });
    stage.until("the connect fails", || !stage.notes.of("other-family").is_empty());
    assert!(stage.notes.of("other-family")[0].contains("different families"));
}

#[test]
fn uring_connects_from_a_chosen_address() {
    crate::stage::run(On::Uring, connects_from_a_chosen_address);
}

#[test]
fn epoll_connects_from_a_chosen_address() {
    connects_from_a_chosen_address(On::Epoll);
}

#[test]
fn uring_talks_to_itself() {
    crate::stage::run(On::Uring, talks_to_itself);
}

#[test]
fn epoll_talks_to_itself() {
    talks_to_itself(On::Epoll);
}
