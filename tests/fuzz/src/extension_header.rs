//! `Sec-WebSocket-Extensions` and its neighbours out of arbitrary text: what is parsed reads the same
//! when it is written again, the handshake agrees with the parser, and time is linear.

use crate::input::Input;
use ringwire::OriginPolicy;
use ringwire::http::{HEADER_SLOT, MAX_HEADERS, parse_request};
use ringwire::ws::extension::{self, Extension, MalformedExtensions};
use ringwire::ws::handshake::{Refusal, evaluate};
use std::hint::black_box;
use std::time::Duration;

type Parsed<'a> = Result<Vec<Extension<'a>>, MalformedExtensions>;

/// Input: flags, then the header's value. Flags: bit 0 the value goes through a whole handshake,
/// bit 1 as `Sec-WebSocket-Protocol`, bit 2 as `Origin`; all of the low five bits set: time.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.byte();
    let bytes = input.rest();
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let parsed: Parsed<'_> = extension::parse(text).collect();
    check_parsed(text, &parsed);
    if flags & 0x1f == 0x1f {
        check_time(text);
    }
    let is_value = bytes.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
    if !is_value {
        return;
    }
    if flags & 1 != 0 {
        let refusal = handshake("Sec-WebSocket-Extensions", text).err();
        assert_eq!(refusal, parsed.is_err().then_some(Refusal::Extensions), "{text:?}");
    }
    if flags & 2 != 0 {
        check_protocols(text);
    }
    if flags & 4 != 0 {
        check_origin(text);
    }
}

fn check_parsed(text: &str, parsed: &Parsed<'_>) {
    let Ok(extensions) = parsed else {
        // The first error is the last item.
        let items: Vec<_> = extension::parse(text).collect();
        assert!(
            items.split_last().is_some_and(|(last, rest)| last.is_err() && rest.iter().all(Result::is_ok))
        );
        return;
    };
    let is_token = |text: &str| {
        let is_separator = |byte| b"\"(),/:;<=>?@[\\]{}".contains(&byte);
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !is_separator(byte))
    };
    let mut again = Vec::new();
    for extension in extensions {
        assert!(is_token(extension.name), "{:?}", extension.name);
        let mut written = extension.name.to_owned();
        for (name, value) in extension.params() {
            assert!(is_token(name), "parameter {name:?}");
            written += "; ";
            written += name;
            if let Some(value) = value {
                assert!(is_token(&value), "{name}={value:?}");
                written += "=";
                written += &value;
            }
        }
        again.push(written);
    }
    let again = again.join(", ");
    let reread: Parsed<'_> = extension::parse(&again).collect();
    let reread = reread.expect("what was parsed can be read again");
    assert_eq!(extensions.len(), reread.len());
    for (one, other) in extensions.iter().zip(&reread) {
        assert_eq!(one.name, other.name);
        assert!(one.params().eq(other.params()));
    }
}

/// 256 KiB take some 10 ms, with instrumentation. Anything that looks at the rest again for each item
/// takes seconds.
fn check_time(text: &str) {
    const BYTES: usize = 256 << 10;
    const MOST: Duration = Duration::from_millis(500);
    if text.is_empty() {
        return;
    }
    let text = text.repeat(BYTES / text.len() + 1);
    let start = busy_time();
    let params = extension::parse(&text).flatten().flat_map(|extension| extension.params());
    black_box(params.count());
    let took = busy_time().saturating_sub(start);
    assert!(took < MOST, "{BYTES} bytes took {took:?}");
}

/// Time this thread has spent on a processor (Linux, proc(5)): the wall's clock tells nothing on a
/// busy machine. 0 where the kernel does not say.
fn busy_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// A request that lacks nothing, with one more field.
fn handshake(name: &str, value: &str) -> Result<Vec<String>, Refusal> {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: server.example:8080\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{name}: {value}\r\n\r\n"
    );
    let mut slots = [HEADER_SLOT; MAX_HEADERS];
    let head = parse_request(request.as_bytes(), &mut slots).expect("the value has no control characters");
    let offer = evaluate(&head, &OriginPolicy::SameOrigin)?;
    Ok(offer.protocols().map(str::to_owned).collect())
}

fn check_protocols(text: &str) {
    let elements: Vec<&str> =
        text.split(',').map(|part| part.trim_matches([' ', '\t'])).filter(|part| !part.is_empty()).collect();
    match handshake("Sec-WebSocket-Protocol", text) {
        Ok(protocols) => assert_eq!(protocols, elements),
        Err(refusal) => {
            let odd = |byte| !u8::is_ascii_graphic(&byte) || b"\"(),/:;<=>?@[\\]{}".contains(&byte);
            assert_eq!(refusal, Refusal::Protocols);
            assert!(elements.iter().any(|element| element.bytes().any(odd)), "{text:?} is a list of tokens");
        }
    }
}

/// Who is let in as of the same origin names this host and port and nothing more.
fn check_origin(text: &str) {
    let admitted = match handshake("Origin", text) {
        Ok(_) => true,
        Err(refusal) => {
            assert_eq!(refusal, Refusal::OriginForeign);
            false
        }
    };
    let text = text.trim_matches([' ', '\t']).to_ascii_lowercase();
    let port = text.strip_prefix("http://").or(text.strip_prefix("https://"));
    let port = port.and_then(|rest| rest.strip_prefix("server.example:"));
    let same = port.is_some_and(|port| {
        port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse() == Ok(8080)
    });
    assert_eq!(admitted, same, "{text:?}");
}
