//! The opening handshake from both ends, as transcripts.

use proptest::prelude::*;
use ringwire::OriginPolicy;
use ringwire::http::{HEADER_SLOT, Head, Headers, MAX_HEADERS, Response, parse_request};
use ringwire::ws::client::{ClientError, ClientHandshake, Established, InvalidRequest};
use ringwire::ws::extension::{self, MalformedExtensions};
use ringwire::ws::handshake::{NotOffered, Offer, Refusal, evaluate, is_upgrade};
use std::time::{Duration, Instant};

const REQUEST: &str = "GET /chat HTTP/1.1
Host: server.example.com
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
Origin: http://server.example.com
Sec-WebSocket-Protocol: chat, superchat
Sec-WebSocket-Version: 13";

fn with_head<T>(lines: &str, then: impl FnOnce(&Head<'_>) -> T) -> T {
    let request = lines.replace('\n', "\r\n") + "\r\n\r\n";
    let mut slots = [HEADER_SLOT; MAX_HEADERS];
    then(&parse_request(request.as_bytes(), &mut slots).expect(lines))
}

fn offered<T>(lines: &str, then: impl FnOnce(Offer<'_>) -> T) -> Result<T, Refusal> {
    with_head(lines, |head| evaluate(head, &OriginPolicy::SameOrigin).map(then))
}

fn refused(lines: &str) -> Option<Refusal> {
    offered(lines, |_| ()).err()
}

#[test]
fn the_example_of_section_1_2() {
    let out = offered(REQUEST, |offer| {
        assert_eq!(offer.head().path(), "/chat");
        assert_eq!(offer.protocols().collect::<Vec<_>>(), ["chat", "superchat"]);
        assert_eq!(offer.extensions().count(), 0);
        let mut out = Vec::new();
        let mut headers = Headers::default();
        headers.push("Set-Cookie", "a=1").unwrap();
        offer.write_response(&mut out, Some("chat"), &headers).unwrap();
        String::from_utf8(out).unwrap()
    });
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                    Sec-WebSocket-Protocol: chat\r\nSet-Cookie: a=1\r\n\r\n";
    assert_eq!(out.as_deref(), Ok(expected));
}

#[test]
fn what_clients_send_in_earnest() {
    for request in [
        REQUEST.replace("Upgrade: websocket", "upgrade: WebSocket"),
        REQUEST.replace("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
        REQUEST.replace("Connection: Upgrade", "Connection: keep-alive\nConnection: upgrade"),
        REQUEST.replace("Upgrade: websocket", "Upgrade: h2c, websocket"),
        REQUEST.replace("\nOrigin: http://server.example.com", ""),
        REQUEST.replace("Origin: http:", "Origin: https:"),
        REQUEST.replace("Sec-WebSocket-Protocol: chat, superchat\n", ""),
        REQUEST.replace("chat, superchat", ""),
        REQUEST.replace("chat, superchat", ",chat,,superchat ,"),
        REQUEST.replace("chat, superchat", "chat\nSec-WebSocket-Protocol: superchat"),
        REQUEST.replace("bm9uY2U=", "bm9uY2V="),
        REQUEST.to_owned() + "\nContent-Length: 0",
        REQUEST.to_owned() + "\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    ] {
        assert_eq!(refused(&request), None, "{request}");
        assert!(with_head(&request, is_upgrade));
    }
}

#[test]
fn what_is_refused() {
    use Refusal::*;
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    for (from, to, refusal) in [
        ("GET", "POST", Method),
        ("GET", "get", Method),
        ("HTTP/1.1", "HTTP/1.0", HttpVersion),
        ("Upgrade: websocket", "Upgrade: websockets", NoUpgrade),
        ("Upgrade: websocket\n", "", NoUpgrade),
        ("Connection: Upgrade", "Connection: keep-alive", NoConnectionUpgrade),
        ("Connection: Upgrade\n", "", NoConnectionUpgrade),
        ("Version: 13", "Version: 8", Version),
        ("Version: 13", "Version: 013", Version),
        ("Version: 13", "Version: 13, 8", Version),
        ("\nSec-WebSocket-Version: 13", "", Version),
        ("Version: 13", "Version: 13\nSec-WebSocket-Version: 13", VersionRepeated),
        (key, "X: y", Key),
        (key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ", Key),
        (key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZTE=", Key),
        (key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j", Key),
        (key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j*Q==", Key),
        (
            key,
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            Key,
        ),
        ("chat, superchat", "chat; superchat", Protocols),
        ("chat, superchat", "chat, \"superchat\"", Protocols),
        ("chat, superchat", "ch\u{e4}t", Protocols),
        ("chat, superchat", "chat\nSec-WebSocket-Extensions: a;", Extensions),
        ("chat, superchat", "chat\nContent-Length: 5", Body),
        ("http://server.example.com", "http://evil.example", OriginForeign),
        ("http://server.example.com", "null", OriginForeign),
        ("http://server.example.com", "", OriginForeign),
        (
            "http://server.example.com",
            "http://server.example.com\nOrigin: http://evil.example",
            OriginRepeated,
        ),
    ] {
        let request = REQUEST.replacen(from, to, 1);
        assert_ne!(request, REQUEST, "{from}");
        assert_eq!(refused(&request), Some(refusal), "{request}");
    }
}

#[test]
fn an_upgrade_in_http_1_0_is_a_plain_request() {
    assert!(!with_head(&REQUEST.replace("HTTP/1.1", "HTTP/1.0"), is_upgrade));
    assert!(!with_head("GET / HTTP/1.1\nHost: a\nUpgrade: h2c", is_upgrade));
}

#[test]
fn refusals_are_answered() {
    let answer = |refusal: Refusal| {
        let mut out = Vec::new();
        Response::from(refusal).encode(&mut out, false, true);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        answer(Refusal::Version),
        "HTTP/1.1 426 Upgrade Required\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nConnection: close, upgrade\r\n\
         Content-Length: 49\r\n\r\nThis server speaks Sec-WebSocket-Version 13 only."
    );
    assert!(answer(Refusal::OriginForeign).starts_with("HTTP/1.1 403 Forbidden\r\n"));
    assert!(answer(Refusal::Key).contains("\r\nConnection: close\r\n"));
}

#[test]
fn a_subprotocol_that_was_not_offered_is_not_sent() {
    let result = offered(REQUEST, |offer| {
        let mut out = Vec::new();
        let results = ["other", "Chat", "chat\r\nX: y", ""]
            .map(|name| offer.write_response(&mut out, Some(name), &Headers::default()));
        (results, out)
    });
    assert_eq!(result, Ok(([Err(NotOffered); 4], Vec::new())));
}

#[test]
fn extension_lists() {
    let parse = |value: &str| -> Result<Vec<String>, MalformedExtensions> {
        let shown = |extension: extension::Extension<'_>| {
            let params = extension.params().map(|(name, value)| match value {
                Some(value) => format!(";{name}={value}"),
                None => format!(";{name}"),
            });
            extension.name.to_owned() + &params.collect::<String>()
        };
        extension::parse(value).map(|extension| extension.map(shown)).collect()
    };
    for (value, expected) in [
        ("", &[][..]),
        (" , ,", &[]),
        ("a", &["a"]),
        ("a, b ,c", &["a", "b", "c"]),
        ("a;b;c=d", &["a;b;c=d"]),
        (" a ; b = c\t;d , e", &["a;b=c;d", "e"]),
        ("a; b=\"c\"", &["a;b=c"]),
        ("a; b=\"c\\d\\e\"; f", &["a;b=cde;f"]),
        (
            "permessage-deflate; client_max_window_bits; server_max_window_bits=10, permessage-deflate",
            &["permessage-deflate;client_max_window_bits;server_max_window_bits=10", "permessage-deflate"],
        ),
    ] {
        assert_eq!(
            parse(value).as_deref(),
            Ok(&expected.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..]),
            "{value}"
        );
    }
    for value in [
        ";",
        "a;",
        "a;;b",
        "a b",
        "a=b",
        "a;=b",
        "a;b=",
        "a;b=\"",
        "a;b=\"c",
        "a;b=\"\"",
        "a;b=\"c d\"",
        "a;b=\"c\"d",
        "a;b=\"c\\",
        "a;b=c=d",
        "\"a\"",
        "a;b='c\u{e4}'",
        "\u{e4}",
        "a;b=\"\\\u{e4}\"",
        "a, b;",
    ] {
        assert_eq!(parse(value), Err(MalformedExtensions), "{value}");
    }
}

#[test]
fn blown_up_lists_cost_linear_time() {
    // Quadratic work would make 16 times the bytes cost 256 times; 100 leaves room for a busy host.
    let shapes: [fn(usize) -> String; 6] = [
        |n| "a".repeat(n),
        |n| "a,".repeat(n / 2),
        |n| ",".repeat(n),
        |n| "a".to_owned() + &";b".repeat(n / 2),
        |n| "a;b=\"".to_owned() + &"\\c".repeat(n / 2) + "\"",
        |n| "a".to_owned() + &" ".repeat(n) + "b",
    ];
    for shape in shapes {
        let cost = |n: usize| {
            let value = shape(n);
            let once = || {
                let start = Instant::now();
                let params: usize = extension::parse(&value).flatten().map(|e| e.params().count()).sum();
                assert!(params <= n);
                start.elapsed()
            };
            (0..5).map(|_| once()).min().unwrap().max(Duration::from_micros(20))
        };
        let (short, long) = (cost(25_000), cost(400_000));
        assert!(long < 100 * short, "{}…: {long:?} for 16 times the bytes of {short:?}", &shape(9));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_list_ends(value in "[a-c;,=\"\\\\ \té]{0,40}") {
        for extension in extension::parse(&value).flatten() {
            prop_assert!(!extension.name.is_empty());
            prop_assert!(extension.params().count() <= value.len());
        }
    }

    #[test]
    fn the_server_takes_what_the_client_writes(key in any::<[u8; 16]>(), cut in any::<prop::sample::Index>()) {
        let mut client = client_with(key);
        let mut request = Vec::new();
        client.write_request(&mut request);
        let mut slots = [HEADER_SLOT; MAX_HEADERS];
        let head = parse_request(&request, &mut slots).unwrap();
        let offer = evaluate(&head, &OriginPolicy::SameOrigin).unwrap();
        let mut response = Vec::new();
        offer.write_response(&mut response, Some("v2"), &Headers::default()).unwrap();
        let consumed = response.len();
        response.extend_from_slice(b"\x81\x02hi");
        prop_assert_eq!(client.check_response(&response[..cut.index(consumed)]), Ok(None));
        let established = Established { consumed, subprotocol: Some("v2".to_owned()), deflate: None };
        prop_assert_eq!(client.check_response(&response), Ok(Some(established)));
    }
}

fn client_with(key: [u8; 16]) -> ClientHandshake {
    ClientHandshake::new("example.org:9001", "/chat?x=1", key)
        .and_then(|client| client.protocol("v1")?.protocol("v2"))
        .and_then(|client| client.origin("http://example.org:9001")?.header("Cookie".into(), "a=1".into()))
        .expect("a request in order")
}

#[test]
fn the_client_writes_one_request() {
    let mut out = Vec::new();
    client_with(*b"the sample nonce").write_request(&mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "GET /chat?x=1 HTTP/1.1\r\nHost: example.org:9001\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: v1, v2\r\nOrigin: http://example.org:9001\r\nCookie: a=1\r\n\r\n"
    );
}

#[test]
fn the_client_refuses_to_write_nonsense() {
    let new = |host: &str, path: &str| ClientHandshake::new(host, path, [0; 16]).err();
    assert_eq!(new("a\r\nX: y", "/"), Some(InvalidRequest::Host));
    assert_eq!(new("", "/"), Some(InvalidRequest::Host));
    for path in ["", "chat", "/a b", "/a\r\nX: y", "/a#b", "/ä"] {
        assert_eq!(new("a", path), Some(InvalidRequest::Path), "{path}");
    }
    let client = || ClientHandshake::new("[::1]:80", "/", [0; 16]).unwrap();
    assert_eq!(client().protocol("a b").err(), Some(InvalidRequest::Protocol));
    assert_eq!(client().protocol("a").unwrap().protocol("a").err(), Some(InvalidRequest::Protocol));
    assert_eq!(client().origin("http://a\r\nX: y").err(), Some(InvalidRequest::Origin));
    for name in ["Host", "sec-websocket-key", "Connection", "X Y"] {
        assert!(client().header(name.into(), "a".into()).is_err(), "{name}");
    }
}

#[test]
fn the_client_judges_the_response() {
    const RESPONSE: &str = "HTTP/1.1 101 Switching Protocols
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    let check = |lines: &str| {
        let response = lines.replace('\n', "\r\n") + "\r\n\r\n";
        client_with(*b"the sample nonce").check_response(response.as_bytes())
    };
    assert!(matches!(check(RESPONSE), Ok(Some(Established { subprotocol: None, .. }))));
    use ClientError::*;
    let redirect = Redirect { status: 302, location: Some("/b".into()) };
    for (from, to, error) in [
        ("101 Switching Protocols", "302 Found\nLocation: /b", redirect),
        ("101 Switching Protocols", "403 Forbidden", Status(403)),
        ("101 Switching Protocols", "200 OK", Status(200)),
        ("Upgrade: websocket", "Upgrade: h2c", NotUpgraded),
        ("Connection: Upgrade", "Connection: close", NotUpgraded),
        ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "s3pPLMBiTxaQ9kYGzzhZRbK+xOO=", Accept),
        ("Sec-WebSocket-Accept", "X-Accept", Accept),
        ("xOo=", "xOo=\nSec-WebSocket-Protocol: v3", Subprotocol),
        ("xOo=", "xOo=\nSec-WebSocket-Protocol: v1, v2", Subprotocol),
        ("xOo=", "xOo=\nSec-WebSocket-Protocol: v1\nSec-WebSocket-Protocol: v2", Subprotocol),
        ("xOo=", "xOo=\nSec-WebSocket-Extensions: permessage-deflate", Extension),
    ] {
        assert_eq!(check(&RESPONSE.replacen(from, to, 1)), Err(error), "{to}");
    }
    assert!(matches!(check("SSH-2.0-OpenSSH"), Err(Malformed(_))));
    assert!(matches!(check(&"x".repeat(20_000)), Err(Malformed(_))));
}
