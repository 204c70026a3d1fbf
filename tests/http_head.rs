//! Request heads: what is found, what is refused, and that no byte costs twice.

use proptest::prelude::*;
use ringwire::OriginPolicy;
use ringwire::http::*;
use ringwire::ws::client::ClientHandshake;
use ringwire::ws::handshake;
use std::time::{Duration, Instant};

fn parsed<T>(request: &str, then: impl FnOnce(Head<'_>) -> T) -> Result<T, HeadError> {
    let mut slots = [HEADER_SLOT; MAX_HEADERS];
    parse_request(request.as_bytes(), &mut slots).map(then)
}

fn refused(lines: &str) -> HeadError {
    let request = lines.replace('\n', "\r\n") + "\r\n\r\n";
    parsed(&request, |head| format!("{head:?}")).expect_err(lines)
}

fn accepted<T>(lines: &str, then: impl FnOnce(Head<'_>) -> T) -> T {
    let request = lines.replace('\n', "\r\n") + "\r\n\r\n";
    parsed(&request, then).expect(lines)
}

#[test]
fn the_end_is_found_wherever_the_reads_are_cut() {
    let request = b"\r\nGET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\nGET /next";
    let end = request.len() - b"GET /next".len();
    for step in 1..request.len() {
        let mut scanner = HeadScanner::default();
        let found = (1..).map(|i| (i * step).min(request.len())).find_map(|len| {
            let found = scanner.scan(&request[..len], 1_000).expect("a head in order");
            assert!(found.is_some() || len < end, "missed with {len} bytes, step {step}");
            found
        });
        assert_eq!(found, Some(end), "step {step}");
    }
}

#[test]
fn the_limit_counts_whole_heads() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nmore";
    let len = request.len() - 4;
    let scan = |bytes: &[u8], limit: usize| HeadScanner::default().scan(bytes, limit as u32);
    assert_eq!(scan(request, len), Ok(Some(len)));
    assert_eq!(scan(request, len - 1), Err(HeadError::TooLarge));
    assert_eq!(scan(&request[..len - 1], len), Ok(None));
    assert_eq!(scan(&request[..len - 1], len - 1), Err(HeadError::TooLarge));
    assert_eq!(scan(&[b'a'; 1_000], 100), Err(HeadError::TooLarge));
    assert_eq!(scan(b"\r\n".repeat(100).as_slice(), 100), Err(HeadError::TooLarge));
}

#[test]
fn bare_line_feeds_are_refused() {
    for head in ["\n", "GET / HTTP/1.1\n\n", "GET / HTTP/1.1\r\nHost: a\n\r\n", "GET / HTTP/1.1\r\n\n"] {
        assert_eq!(
            HeadScanner::default().scan(head.as_bytes(), 100),
            Err(HeadError::BareLineFeed),
            "{head:?}"
        );
    }
}

#[test]
fn a_head_in_byte_steps_costs_as_much_per_byte_as_a_short_one() {
    // Quadratic scanning would make 16 times the bytes cost 256 times; 100 leaves room for a busy host.
    let cost = |len: usize| {
        let head = [b"GET / HTTP/1.1\r\n".as_slice(), &b"x: yyyyyyyyyyyy\r\n".repeat(len / 17)].concat();
        let once = || {
            let start = Instant::now();
            let mut scanner = HeadScanner::default();
            for end in 0..head.len() {
                assert_eq!(scanner.scan(&head[..end], u32::MAX), Ok(None));
            }
            start.elapsed()
        };
        (0..5).map(|_| once()).min().unwrap().max(Duration::from_micros(1))
    };
    let (short, long) = (cost(20_000), cost(320_000));
    assert!(long < 100 * short, "{long:?} for 16 times the bytes of {short:?}");
}

#[test]
fn parts_of_a_request() {
    let request = "GET /chat/7?room=%20x&y HTTP/1.1\nHost: example.org:9001\nCookie: a=1; session=\"q\"; b\n\
                   cookie: late=2\nConnection: keep-alive, Upgrade\nconnection: X-Foo\nX-Raw: caf\u{e9}";
    accepted(request, |head| {
        assert_eq!((head.method(), head.minor_version()), ("GET", 1));
        assert_eq!(head.target(), "/chat/7?room=%20x&y");
        assert_eq!((head.path(), head.query()), ("/chat/7", Some("room=%20x&y")));
        assert_eq!(head.header("HOST"), Some("example.org:9001"));
        assert_eq!(head.authority(), Some("example.org:9001"));
        assert_eq!(head.header("absent"), None);
        assert_eq!(head.header("x-raw"), Some("café"));
        let cookies = ["a", "session", "late", "b", "A"].map(|name| head.cookie(name));
        assert_eq!(cookies, [Some("1"), Some("q"), Some("2"), None, None]);
        let tokens = ["upgrade", "KEEP-ALIVE", "x-foo", "close", "keep"];
        let listed = tokens.map(|token| head.has_token("Connection", token));
        assert_eq!(listed, [true, true, true, false, false]);
        assert_eq!(head.headers().len(), 6);
        assert_eq!((head.body(), head.content_length()), (Body::None, 0));
    });
}

#[test]
fn values_that_are_not_utf8_are_not_taken_for_absent() {
    let mut slots = [HEADER_SLOT; 4];
    let head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nOrigin: \xff\r\n\r\n", &mut slots).unwrap();
    assert_eq!((head.header("origin"), head.header_bytes("origin")), (None, Some(&b"\xff"[..])));
}

#[test]
fn forms_of_the_target() {
    for (target, path, query, authority) in [
        ("/", "/", None, "a"),
        ("/?", "/", Some(""), "a"),
        ("//x/y", "//x/y", None, "a"),
        ("/go?to=http://b/c", "/go", Some("to=http://b/c"), "a"),
        ("http://b:80/c?d", "/c", Some("d"), "b:80"),
        ("http://b", "/", None, "b"),
        ("http://b?d", "/", Some("d"), "b"),
    ] {
        accepted(&format!("GET {target} HTTP/1.1\nHost: a"), |head| {
            assert_eq!(
                (head.path(), head.query(), head.authority()),
                (path, query, Some(authority)),
                "{target}"
            );
        });
    }
    accepted("OPTIONS * HTTP/1.1\nHost: a", |head| assert_eq!(head.path(), "*"));
    accepted("CONNECT b:443 HTTP/1.1\nHost: a", |head| assert_eq!(head.method(), "CONNECT"));
    for target in ["*", "b:443", "chat", "http:///x", "http://u@b/", "/a#b", "1://b/"] {
        assert_eq!(refused(&format!("GET {target} HTTP/1.1\nHost: a")), HeadError::RequestLine, "{target}");
    }
}

#[test]
fn keep_alive_follows_the_version() {
    for (request, keep) in [
        ("GET / HTTP/1.1\nHost: a", true),
        ("GET / HTTP/1.1\nHost: a\nConnection: Close", false),
        ("GET / HTTP/1.1\nHost: a\nConnection: x, close", false),
        ("GET / HTTP/1.0", false),
        ("GET / HTTP/1.0\nConnection: Keep-Alive", true),
        ("GET / HTTP/1.0\nConnection: keep-alive, close", false),
    ] {
        assert_eq!(accepted(request, |head| head.keep_alive()), keep, "{request}");
    }
}

#[test]
fn bodies_are_framed_or_refused() {
    let body = |lines: &str| accepted(&format!("POST / HTTP/1.1\nHost: a{lines}"), |head| head.body());
    assert_eq!(body(""), Body::None);
    assert_eq!(body("\nContent-Length: 0"), Body::None);
    assert_eq!(body("\nContent-Length: 0012"), Body::Length(12));
    assert_eq!(body("\ncontent-length: 18446744073709551615"), Body::Length(u64::MAX));
    use HeadError::*;
    for (lines, error) in [
        ("\nContent-Length: -1", ContentLengthInvalid),
        ("\nContent-Length: +1", ContentLengthInvalid),
        ("\nContent-Length: 1, 1", ContentLengthInvalid),
        ("\nContent-Length:", ContentLengthInvalid),
        ("\nContent-Length: 0x10", ContentLengthInvalid),
        ("\nContent-Length: 18446744073709551616", ContentLengthInvalid),
        ("\nContent-Length: 5\nContent-Length: 5", ContentLengthInvalid),
        ("\nContent-Length: 5\nContent-Length: 6", ContentLengthInvalid),
        ("\nContent-Length: 5\nTransfer-Encoding: chunked", LengthAndEncoding),
        ("\nTransfer-Encoding: identity\nContent-Length: 0", LengthAndEncoding),
        ("\nTransfer-Encoding: chunked", EncodingUnsupported),
        ("\nTransfer-Encoding: gzip", EncodingUnsupported),
        ("\nTransfer-Encoding:", EncodingUnsupported),
    ] {
        assert_eq!(refused(&format!("POST / HTTP/1.1\nHost: a{lines}")), error, "{lines}");
    }
    assert_eq!(refused("POST / HTTP/1.0\nTransfer-Encoding: chunked"), EncodingInHttp10);
}

#[test]
fn heads_that_are_refused() {
    use HeadError::*;
    for (lines, error) in [
        ("GET / HTTP/1.1", HostMissing),
        ("GET / HTTP/1.1\nHost: a\nHost: a", HostRepeated),
        ("GET / HTTP/1.0\nHost: a\nHost: b", HostRepeated),
        ("GET / HTTP/1.1\nHost:", HostInvalid),
        ("GET / HTTP/1.1\nHost: a b", HostInvalid),
        ("GET / HTTP/1.1\nHost: a, b", HostInvalid),
        ("GET / HTTP/1.1\nHost: u@a", HostInvalid),
        ("GET / HTTP/1.1\nHost: a/b", HostInvalid),
        ("GET / HTTP/1.1\nHost: a:b", HostInvalid),
        ("GET / HTTP/1.1\nHost: a:123456", HostInvalid),
        ("GET / HTTP/1.1\nHost: [::1", HostInvalid),
        ("GET / HTTP/1.1\nHost: [::1]x", HostInvalid),
        ("GET / HTTP/2.0\nHost: a", Version),
        ("PRI * HTTP/2.0", Version),
        ("GET / HTTP/1.2\nHost: a", Version),
        ("GET /", RequestLine),
        ("GET  / HTTP/1.1\nHost: a", RequestLine),
        ("GET / HTTP/1.1 \nHost: a", RequestLine),
        ("G\u{1}T / HTTP/1.1\nHost: a", RequestLine),
        ("GET /\u{7f} HTTP/1.1\nHost: a", RequestLine),
        ("GET / HTTP/1.1\nHost : a", HeaderLine),
        ("GET / HTTP/1.1\n Host: a", HeaderLine),
        ("GET / HTTP/1.1\nHost: a\n folded", HeaderLine),
        ("GET / HTTP/1.1\nHost: a\n: x", HeaderLine),
        ("GET / HTTP/1.1\nHost: a\nX: a\u{0}b", HeaderLine),
        ("GET / HTTP/1.1\nHost: a\nX: a\rb", HeaderLine),
        ("GET / HTTP/1.1\nHost: a\nnonsense", HeaderLine),
    ] {
        assert_eq!(refused(lines), error, "{lines:?}");
    }
}

#[test]
fn fields_are_counted() {
    let request = |fields: usize| {
        let fields: String = (1..fields).map(|i| format!("X-{i}: y\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
    };
    let parse = |fields: usize, limit: usize| {
        let (request, mut slots) = (request(fields), [HEADER_SLOT; MAX_HEADERS]);
        parse_request(request.as_bytes(), &mut slots[..limit]).map(|head| head.headers().len())
    };
    assert_eq!(parse(64, 64), Ok(64));
    assert_eq!(parse(65, 64), Err(HeadError::TooManyHeaders));
    assert_eq!(parse(128, 128), Ok(128));
    assert_eq!(parse(5_000, 128), Err(HeadError::TooManyHeaders));
}

#[test]
fn what_follows_a_head_is_not_part_of_it() {
    assert_eq!(parsed("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", |_| ()), Err(HeadError::HeaderLine));
    assert_eq!(parsed("GET / HTTP/1.1\r\nHost: a\r\n", |_| ()), Err(HeadError::HeaderLine));
}

#[test]
fn errors_are_answered_with_their_status_and_a_close() {
    let mut out = Vec::new();
    Response::from(HeadError::TooLarge).encode(&mut out, false, true);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Connection: close\r\nContent-Length: 67\r\n\r\n\
         The request head is too large. Send fewer or shorter header fields."
    );
}

fn encoded(response: &Response, head_only: bool, keep_alive: bool) -> String {
    let mut out = Vec::new();
    response.encode(&mut out, head_only, keep_alive);
    String::from_utf8(out).unwrap()
}

#[test]
fn responses() {
    let ok = Response::text(200, "ok").header("Cache-Control", "no-store");
    assert_eq!(
        encoded(&ok, false, true),
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n\
         Connection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
    );
    let head = encoded(&ok, true, false);
    assert!(head.ends_with("Connection: close\r\nContent-Length: 2\r\n\r\n"), "{head}");
    assert_eq!(
        encoded(&Response::new(204), false, true),
        "HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n"
    );
    assert_eq!(
        encoded(&Response::new(599).closing(), false, true),
        "HTTP/1.1 599 \r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!([0, 101, 199, 600].map(|status| Response::new(status).status()), [500; 4]);
}

#[test]
fn nothing_is_injected() {
    let try_header = |name: &'static str, value: &'static str| Response::new(200).try_header(name, value);
    for value in ["a\r\nb: c", "a\nb", "a\rb", "a\0b", " a", "a ", "\u{7f}"] {
        assert_eq!(try_header("X-A", value), Err(InvalidHeader::Value), "{value:?}");
    }
    for name in ["", "X A", "X:A", "X\r\nA", "X-Ä"] {
        assert_eq!(try_header(name, "a"), Err(InvalidHeader::Name), "{name:?}");
    }
    for name in ["Content-Length", "connection", "Transfer-Encoding", "Upgrade", "sec-websocket-accept"] {
        assert_eq!(try_header(name, "a"), Err(InvalidHeader::Managed), "{name}");
    }
    assert!(try_header("X-A", "").is_ok());
    assert!(try_header("X-A", "a\tb ä").is_ok());
}

/// Lines that look like a head, with something wrong in most of them.
fn rough_head() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just("GET / HTTP/1.1\r\n".to_owned()),
        Just("HTTP/1.1 101 X\r\n".to_owned()),
        Just("\r\n".to_owned()),
        Just("\n".to_owned()),
        "[A-Z]{0,4} [/*:a-z?#%.]{0,8} HTTP/[0-2]\\.[0-2]\r\n",
        "(Host|Origin|Cookie|Connection|Upgrade|Content-Length|Transfer-Encoding): [a-z0-9:;=,/\\[\\]\" ]{0,12}\r\n",
        "Sec-WebSocket-(Key|Version|Protocol|Extensions): [a-zA-Z0-9=;,\" ]{0,24}\r\n",
        "[ -~\u{80}-\u{90}\t]{0,20}(\r\n|\r|\n)",
    ];
    proptest::collection::vec(line, 0..8).prop_map(|lines| (lines.concat() + "\r\n").into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rough_heads_are_judged_alike_in_any_split(bytes in rough_head(), step in 1..9usize) {
        let whole = HeadScanner::default().scan(&bytes, 4_096);
        let mut scanner = HeadScanner::default();
        let mut ends = (1..).map(|i| (i * step).min(bytes.len()));
        let split = loop {
            let end = ends.next().unwrap();
            match scanner.scan(&bytes[..end], 4_096) {
                Ok(None) if end < bytes.len() => {}
                result => break result,
            }
        };
        prop_assert_eq!(split, whole);
        if let Ok(Some(len)) = whole {
            read_every_part(&bytes[..len]);
        }
    }

    #[test]
    fn garbage_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = HeadScanner::default().scan(&bytes, 200);
        read_every_part(&bytes);
    }
}

/// Whatever is let through can be asked anything.
fn read_every_part(bytes: &[u8]) {
    let mut slots = [HEADER_SLOT; MAX_HEADERS];
    if let Ok(head) = parse_request(bytes, &mut slots) {
        assert!(head.path().len() <= head.target().len().max(1));
        let asked = (head.query(), head.cookie("a"), head.keep_alive(), head.content_length());
        assert!(head.minor_version() == 0 || head.authority().is_some(), "{asked:?}");
        for policy in [OriginPolicy::SameOrigin, OriginPolicy::Any] {
            if let Ok(offer) = handshake::evaluate(&head, &policy) {
                assert!(handshake::is_upgrade(&head));
                assert!(offer.protocols().all(|protocol| !protocol.is_empty()));
            }
        }
    }
    let mut client = ClientHandshake::new("a", "/", [0; 16]).unwrap();
    assert!(!matches!(client.check_response(bytes), Ok(Some(_))), "established by chance");
}
