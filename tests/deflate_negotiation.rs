//! The rules of RFC 7692 §5 and §7.1 as tables: header in, header out.

use ringwire::http::{HEADER_SLOT, Headers, parse_request};
use ringwire::ws::client::{ClientError, ClientHandshake};
use ringwire::ws::deflate::{AnswerError, DeflateAnswer, DeflateOffer, DeflateParams, Window};
use ringwire::ws::extension::parse;
use ringwire::ws::handshake::evaluate;
use ringwire::{DeflateConfig, OriginPolicy};

fn keeping() -> DeflateConfig {
    DeflateConfig { takeover: true, ..DeflateConfig::default() }
}

fn answer(config: &DeflateConfig, offers: &str) -> Option<String> {
    let offers = parse(offers).map(|offer| offer.expect("the grammar holds"));
    DeflateAnswer::choose(offers, config, true).map(|answer| answer.to_string())
}

#[test]
fn the_server_answers_without_takeover_by_default() {
    let table = [
        ("", ""),
        ("; client_max_window_bits", ""),
        ("; client_max_window_bits=12", "; client_max_window_bits=12"),
        ("; client_max_window_bits=\"12\"", "; client_max_window_bits=12"),
        // Whoever asks for a bound is told it, also where it bounds nothing (§7.1.2.1).
        ("; server_max_window_bits=15", "; server_max_window_bits=15"),
        ("; server_max_window_bits=9", "; server_max_window_bits=9"),
        ("; server_max_window_bits=8", "; server_max_window_bits=8"),
        ("; server_no_context_takeover; client_no_context_takeover", ""),
        (
            "; client_max_window_bits; server_max_window_bits=10; client_no_context_takeover",
            "; server_max_window_bits=10",
        ),
    ];
    for (offer, extra) in table {
        let expected =
            format!("permessage-deflate; server_no_context_takeover; client_no_context_takeover{extra}");
        let offer = format!("permessage-deflate{offer}");
        assert_eq!(answer(&DeflateConfig::default(), &offer).as_deref(), Some(&*expected), "{offer}");
    }
}

#[test]
fn the_server_answers_with_takeover_where_it_is_set() {
    let small = DeflateConfig { max_window_bits: 11, max_peer_window_bits: 10, ..keeping() };
    let table = [
        (&keeping(), "", ""),
        (&keeping(), "; server_no_context_takeover", "; server_no_context_takeover"),
        (&keeping(), "; client_no_context_takeover", "; client_no_context_takeover"),
        (&keeping(), "; client_max_window_bits", ""),
        // Nothing but its own window may be asked of a client that does not mention the parameter.
        (&small, "", "; server_max_window_bits=11"),
        (&small, "; client_max_window_bits", "; server_max_window_bits=11; client_max_window_bits=10"),
        (&small, "; client_max_window_bits=9", "; server_max_window_bits=11; client_max_window_bits=9"),
        (&small, "; server_max_window_bits=9", "; server_max_window_bits=9"),
        (&small, "; server_max_window_bits=13", "; server_max_window_bits=11"),
    ];
    for (config, offer, extra) in table {
        let expected = format!("permessage-deflate{extra}");
        let offer = format!("permessage-deflate{offer}");
        assert_eq!(answer(config, &offer).as_deref(), Some(&*expected), "{offer}");
    }
    let offers = parse("permessage-deflate").filter_map(Result::ok);
    let spent = DeflateAnswer::choose(offers, &keeping(), false).expect("served without takeover");
    assert_eq!(
        spent.params(),
        DeflateParams {
            server: Window { bits: 15, takeover: false },
            client: Window { bits: 15, takeover: false }
        }
    );
}

#[test]
fn the_server_declines_what_is_malformed() {
    for offer in [
        "; server_max_window_bits",
        "; server_max_window_bits=7",
        "; server_max_window_bits=16",
        "; server_max_window_bits=08",
        "; server_max_window_bits=010",
        "; server_max_window_bits=1",
        "; server_max_window_bits=15x",
        "; client_max_window_bits=7",
        "; client_max_window_bits=16",
        "; client_max_window_bits=+9",
        "; client_max_window_bits=99999999999999999999",
        "; server_no_context_takeover=true",
        "; client_no_context_takeover=1",
        "; server_no_context_takeover; server_no_context_takeover",
        "; client_max_window_bits; client_max_window_bits=10",
        "; server_max_window_bits=10; server_max_window_bits=10",
        "; unknown",
        "; unknown=1; server_no_context_takeover",
    ] {
        assert_eq!(answer(&keeping(), &format!("permessage-deflate{offer}")), None, "{offer}");
    }
    assert_eq!(answer(&keeping(), "x-webkit-deflate-frame"), None);
    assert_eq!(answer(&keeping(), ""), None);
}

#[test]
fn the_server_takes_the_first_offer_that_it_can_serve() {
    let taken = |offers: &str| answer(&keeping(), offers);
    assert_eq!(
        taken("permessage-deflate; server_max_window_bits=10, permessage-deflate").as_deref(),
        Some("permessage-deflate; server_max_window_bits=10")
    );
    assert_eq!(
        taken(
            "permessage-deflate; server_max_window_bits=99, permessage-deflate; client_no_context_takeover"
        )
        .as_deref(),
        Some("permessage-deflate; client_no_context_takeover")
    );
    assert_eq!(
        taken("permessage-bzip2; level=9, PerMessage-Deflate").as_deref(),
        Some("permessage-deflate"),
        "tokens are compared without case"
    );
}

fn settle(config: &DeflateConfig, answer: &str) -> Result<DeflateParams, AnswerError> {
    let answer = parse(answer).next().expect("one").expect("the grammar holds");
    DeflateOffer::new(config, true).settle(&answer)
}

#[test]
fn the_client_offers_what_it_wants() {
    let offer = |config: &DeflateConfig, takeover| DeflateOffer::new(config, takeover).to_string();
    assert_eq!(offer(&keeping(), true), "permessage-deflate; client_max_window_bits");
    let lent = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                client_max_window_bits";
    assert_eq!(offer(&DeflateConfig::default(), true), lent);
    assert_eq!(offer(&keeping(), false), lent, "the budget is spent");
    let small = DeflateConfig { max_window_bits: 9, max_peer_window_bits: 10, ..keeping() };
    assert_eq!(
        offer(&small, true),
        "permessage-deflate; server_max_window_bits=10; client_max_window_bits=9"
    );
}

#[test]
fn the_client_settles_on_valid_answers() {
    let window = |bits, takeover| Window { bits, takeover };
    let small = DeflateConfig { max_window_bits: 9, max_peer_window_bits: 10, ..keeping() };
    let table = [
        (&keeping(), "permessage-deflate", Window::FULL, Window::FULL),
        (&keeping(), "permessage-deflate; server_no_context_takeover", window(15, false), Window::FULL),
        (&keeping(), "permessage-deflate; client_no_context_takeover", Window::FULL, window(15, false)),
        (&keeping(), "permessage-deflate; client_max_window_bits=8", Window::FULL, window(8, true)),
        (&keeping(), "permessage-deflate; server_max_window_bits=8", window(8, true), Window::FULL),
        (&small, "permessage-deflate; server_max_window_bits=10", window(10, true), window(9, true)),
        (
            &DeflateConfig::default(),
            "permessage-deflate; server_no_context_takeover",
            window(15, false),
            window(15, false),
        ),
    ];
    for (config, answer, server, client) in table {
        assert_eq!(settle(config, answer), Ok(DeflateParams { server, client }), "{answer}");
    }
}

#[test]
fn the_client_refuses_answers_that_do_not_follow_from_its_offer() {
    let parameter = |name: &str| Err(AnswerError::Parameter(name.to_owned()));
    let small = DeflateConfig { max_peer_window_bits: 10, ..keeping() };
    let table = [
        (&keeping(), "; client_max_window_bits", parameter("client_max_window_bits")),
        (&keeping(), "; client_max_window_bits=7", parameter("client_max_window_bits")),
        (&keeping(), "; server_max_window_bits", parameter("server_max_window_bits")),
        (&keeping(), "; server_max_window_bits=16", parameter("server_max_window_bits")),
        (&keeping(), "; foo=bar", parameter("foo")),
        (&keeping(), "; server_no_context_takeover=0", parameter("server_no_context_takeover")),
        (
            &keeping(),
            "; client_no_context_takeover; client_no_context_takeover",
            parameter("client_no_context_takeover"),
        ),
        (&small, "", Err(AnswerError::WindowTooLarge)),
        (&small, "; server_max_window_bits=11", Err(AnswerError::WindowTooLarge)),
        (&DeflateConfig::default(), "", Err(AnswerError::KeepsWindow)),
    ];
    for (config, answer, expected) in table {
        assert_eq!(settle(config, &format!("permessage-deflate{answer}")), expected, "{answer}");
    }
}

/// A whole handshake between the two roles.
fn handshake(client: &DeflateConfig, server: &DeflateConfig) -> (Option<DeflateParams>, String) {
    let mut handshake = ClientHandshake::new("example.org", "/", *b"the sample nonce")
        .unwrap()
        .deflate(DeflateOffer::new(client, true));
    let (mut request, mut response) = (Vec::new(), Vec::new());
    handshake.write_request(&mut request);
    let mut slots = [HEADER_SLOT; 16];
    let head = parse_request(&request, &mut slots).unwrap();
    let mut offer = evaluate(&head, &OriginPolicy::SameOrigin).unwrap();
    let agreed = offer.agree_deflate(server, true);
    offer.write_response(&mut response, None, &Headers::default()).unwrap();
    let established = handshake.check_response(&response).unwrap().expect("whole");
    assert_eq!(agreed, established.deflate, "both ends understand the same");
    (agreed, String::from_utf8(response).unwrap())
}

#[test]
fn both_roles_come_to_the_same_parameters() {
    let mut agreed = 0;
    for client in configs() {
        for server in configs() {
            let (params, response) = handshake(&client, &server);
            let params = params.expect("our offers can be served");
            assert!(params.server.bits <= server.max_window_bits.min(client.max_peer_window_bits));
            assert!(params.client.bits <= client.max_window_bits.min(server.max_peer_window_bits));
            assert_eq!(params.server.takeover, client.takeover && server.takeover);
            assert_eq!(response.matches("Sec-WebSocket-Extensions").count(), 1);
            agreed += 1;
        }
    }
    assert_eq!(agreed, 18 * 18);
}

fn configs() -> Vec<DeflateConfig> {
    let mut configs = Vec::new();
    for takeover in [false, true] {
        for max_window_bits in [8, 11, 15] {
            for max_peer_window_bits in [8, 12, 15] {
                configs.push(DeflateConfig {
                    takeover,
                    max_window_bits,
                    max_peer_window_bits,
                    ..DeflateConfig::default()
                });
            }
        }
    }
    configs
}

#[test]
fn the_client_fails_the_handshake_over_a_bad_answer() {
    let check = |offer: bool, extensions: &str| {
        let mut handshake = ClientHandshake::new("example.org", "/", *b"the sample nonce").unwrap();
        if offer {
            handshake = handshake.deflate(DeflateOffer::new(&keeping(), true));
        }
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n{extensions}\r\n"
        );
        handshake.check_response(response.as_bytes()).map(|established| established.unwrap().deflate)
    };
    let field = |value: &str| format!("Sec-WebSocket-Extensions: {value}\r\n");
    assert_eq!(check(true, ""), Ok(None));
    assert!(check(true, &field("permessage-deflate")).unwrap().is_some());
    assert_eq!(check(false, &field("permessage-deflate")), Err(ClientError::Extension));
    assert_eq!(check(true, &field("permessage-bzip2")), Err(ClientError::Extension));
    assert_eq!(check(true, &field("permessage-deflate, permessage-deflate")), Err(ClientError::Extension));
    assert_eq!(check(true, &field("permessage-deflate").repeat(2)), Err(ClientError::Extension));
    assert_eq!(check(true, &field("permessage-deflate; =")), Err(ClientError::Extension));
    let error = check(true, &field("permessage-deflate; server_max_window_bits=4")).unwrap_err();
    assert_eq!(error, ClientError::Deflate(AnswerError::Parameter("server_max_window_bits".to_owned())));
    assert!(error.to_string().contains("server_max_window_bits"), "{error}");
}

#[test]
fn nothing_is_agreed_upon_unless_asked() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; bogus\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    let mut slots = [HEADER_SLOT; 16];
    let head = parse_request(request, &mut slots).unwrap();
    let mut offer = evaluate(&head, &OriginPolicy::SameOrigin).unwrap();
    let mut response = Vec::new();
    offer.write_response(&mut response, None, &Headers::default()).unwrap();
    assert!(!String::from_utf8(response).unwrap().contains("Extensions"));
    let params = offer.agree_deflate(&keeping(), true).expect("the second header is served");
    assert_eq!(params, DeflateParams { server: Window::FULL, client: Window::FULL });
    assert_eq!(offer.agree_deflate(&keeping(), true), offer.deflate());
}
