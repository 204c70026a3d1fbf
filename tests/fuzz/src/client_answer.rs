//! The client's handshake: any answer under any cut, and whatever a caller may ask for must be
//! understood by our own server.

use crate::input::{Input, reads};
use ringwire::OriginPolicy;
use ringwire::http::{HEADER_SLOT, HeadScanner, Headers, MAX_HEADERS, parse_request};
use ringwire::ws::client::{ClientError, ClientHandshake, Established};
use ringwire::ws::handshake::evaluate;

/// The key of RFC 6455 §1.3, whose answer is known.
const KEY: [u8; 16] = *b"the sample nonce";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// As the client documents it.
const MAX_RESPONSE_HEAD_BYTES: usize = 16 << 10;

/// Input: flags, a cut (2 bytes), then an answer; or (flag bit 0) slices of a caller's request.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.byte();
    let cut = input.u16();
    if flags & 1 == 0 { take_answer(input.rest(), cut) } else { ask(input, cut) }
}

fn client() -> ClientHandshake {
    let client = ClientHandshake::new("server.example", "/", KEY).expect("a host and a path");
    client.protocol("chat").and_then(|client| client.protocol("superchat")).expect("two tokens")
}

fn answer_in_pieces(bytes: &[u8], cut: u16) -> Result<Option<Established>, ClientError> {
    let (mut client, mut have) = (client(), 0);
    for read in reads(bytes, cut) {
        have += read.len();
        match client.check_response(&bytes[..have]) {
            Ok(None) => {}
            verdict => return verdict,
        }
    }
    Ok(None)
}

fn take_answer(bytes: &[u8], cut: u16) {
    let verdict = client().check_response(bytes);
    assert_eq!(verdict, answer_in_pieces(bytes, cut));
    match verdict {
        Ok(None) => assert!(bytes.len() < MAX_RESPONSE_HEAD_BYTES),
        Ok(Some(Established { consumed, subprotocol, .. })) => {
            let head = String::from_utf8_lossy(&bytes[..consumed]);
            assert!(
                head.trim_start().starts_with("HTTP/1.1 101")
                    || head.trim_start().starts_with("HTTP/1.0 101")
            );
            assert!(head.ends_with("\r\n\r\n") && head.contains(ACCEPT), "{head}");
            assert_eq!(head.trim_start_matches("\r\n").matches("\r\n\r\n").count(), 1, "{head}");
            assert!(subprotocol.is_none_or(|chosen| ["chat", "superchat"].contains(&&*chosen)));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What the client lets its caller ask for, the server can read, and reads the same.
fn ask(mut input: Input<'_>, cut: u16) {
    let (host, path) = (input.text(), format!("/{}", input.text()));
    let Ok(mut client) = ClientHandshake::new(&host, &path, KEY) else { return };
    let mut protocols = Vec::new();
    let mut fields = Vec::new();
    while !input.is_empty() && fields.len() + protocols.len() < 20 {
        let (kind, text) = (input.byte(), input.text());
        let next = match kind % 3 {
            0 => client.clone().protocol(&text).inspect(|_| protocols.push(text)),
            1 => client.clone().origin(&text),
            _ => {
                let value = input.text();
                client.clone().header(text.clone(), value.clone()).inspect(|_| fields.push((text, value)))
            }
        };
        client = next.unwrap_or(client);
    }
    let mut request = Vec::new();
    client.write_request(&mut request);
    assert_eq!(HeadScanner::default().scan(&request, 1 << 20), Ok(Some(request.len())));
    let mut slots = [HEADER_SLOT; MAX_HEADERS];
    let head = parse_request(&request, &mut slots).expect("our server reads our client's request");
    assert_eq!((head.target(), head.header("host")), (&*path, Some(&*host)));
    let offer = evaluate(&head, &OriginPolicy::Any).expect("our server takes our client's request");
    assert!(offer.protocols().eq(&protocols));
    for (name, value) in &fields {
        assert!(head.values(name).any(|other| other == value.as_bytes()), "{name}: {value}");
    }

    let mut response = Vec::new();
    let chosen = protocols.get(usize::from(cut) % 20).map(String::as_str);
    offer.write_response(&mut response, chosen, &Headers::default()).expect("it was offered");
    let head_bytes = response.len();
    response.extend_from_slice(b"\x81\x00");
    let established = client.check_response(&response).expect("our own answer").expect("it is whole");
    assert_eq!((established.consumed, established.subprotocol.as_deref()), (head_bytes, chosen));
}
