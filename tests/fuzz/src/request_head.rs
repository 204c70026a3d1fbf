//! Request heads out of arbitrary bytes, under any cut, against a slow scanner.
//!
//! What is parsed must read the same when it is written again: no line of a head means one thing
//! here and another to whoever reads the log.

use crate::input::{Input, reads};
use ringwire::http::{Body, HEADER_SLOT, Head, HeadError, HeadScanner, MAX_HEADERS, Response, parse_request};
use ringwire::ws::handshake;
use ringwire::{OriginPolicy, ws};

/// Input: flags (limits), a cut (2 bytes), then requests, one behind the other.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.byte();
    let max_head_bytes = [64, 512, 16 << 10, 1 << 20][usize::from(flags & 3)];
    let max_headers = [1, 8, 64, MAX_HEADERS][usize::from(flags >> 2 & 3)];
    let cut = input.u16();
    let mut rest = input.rest();
    while !rest.is_empty() {
        let found = HeadScanner::default().scan(rest, max_head_bytes);
        assert_eq!(found, scan_slowly(rest, max_head_bytes));
        assert_eq!(found, scan_in_pieces(rest, max_head_bytes, cut));
        let Ok(Some(head_bytes)) = found else { break };
        let (head, after) = rest.split_at(head_bytes);
        let body_bytes = match parse(head, max_headers) {
            Ok(body) => body,
            Err(_) => break,
        };
        rest = after.get(usize::try_from(body_bytes).unwrap_or(usize::MAX)..).unwrap_or_default();
    }
}

/// As the scanner's documentation has it, line by line.
fn scan_slowly(bytes: &[u8], max_head_bytes: u32) -> Result<Option<usize>, HeadError> {
    let max_head_bytes = max_head_bytes as usize;
    let (mut end, mut begun) = (0, false);
    for line in bytes[..bytes.len().min(max_head_bytes)].split_inclusive(|&byte| byte == b'\n') {
        end += line.len();
        match line.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r")) {
            None => break,
            Some(None) => return Err(HeadError::BareLineFeed),
            Some(Some(b"")) if begun => return Ok(Some(end)),
            Some(Some(line)) => begun |= !line.is_empty(),
        }
    }
    if bytes.len() >= max_head_bytes { Err(HeadError::TooLarge) } else { Ok(None) }
}

fn scan_in_pieces(bytes: &[u8], max_head_bytes: u32, cut: u16) -> Result<Option<usize>, HeadError> {
    let (mut scanner, mut have) = (HeadScanner::default(), 0);
    for read in reads(bytes, cut) {
        have += read.len();
        match scanner.scan(&bytes[..have], max_head_bytes) {
            Ok(None) => {}
            found => return found,
        }
    }
    Ok(None)
}

/// Parses one head and returns how many bytes of body follow.
fn parse(bytes: &[u8], max_headers: usize) -> Result<u64, HeadError> {
    let mut slots = [HEADER_SLOT; MAX_HEADERS];
    let head = match parse_request(bytes, &mut slots[..max_headers]) {
        Ok(head) => head,
        Err(error) => {
            check_refusal(&error.into(), error.status());
            return Err(error);
        }
    };
    assert!(head.headers().len() <= max_headers);
    check_parts(&head);
    check_upgrade(&head);

    let mut again = format!("{} {} HTTP/1.{}\r\n", head.method(), head.target(), head.minor_version());
    let mut again = std::mem::take(&mut again).into_bytes();
    for (name, value) in head.headers() {
        again.extend_from_slice(name.as_bytes());
        again.extend_from_slice(b": ");
        again.extend_from_slice(value);
        again.extend_from_slice(b"\r\n");
    }
    again.extend_from_slice(b"\r\n");
    let mut slots = [HEADER_SLOT; MAX_HEADERS];
    let reread = parse_request(&again, &mut slots[..max_headers]).expect("what was parsed can be read again");
    assert!(head.headers().eq(reread.headers()));
    assert_eq!(summary(&head), summary(&reread));
    Ok(head.content_length())
}

fn summary<'a>(head: &Head<'a>) -> impl PartialEq + std::fmt::Debug + use<'a> {
    let target = (head.method(), head.path(), head.query(), head.authority());
    (target, head.minor_version(), head.body(), head.keep_alive())
}

fn check_parts(head: &Head<'_>) {
    let token = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte))
    };
    assert!(head.method().bytes().all(|byte| byte.is_ascii_graphic()), "method {:?}", head.method());
    assert!(!head.target().contains(|c: char| c.is_ascii_control() || c == ' '), "{:?}", head.target());
    assert!(head.minor_version() <= 1);
    for (name, value) in head.headers() {
        assert!(token(name), "field name {name:?}");
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{name}: {value:?}");
        let first = head.headers().find(|(other, _)| other.eq_ignore_ascii_case(name));
        assert_eq!(head.header_bytes(&name.to_ascii_uppercase()), first.map(|(_, value)| value));
    }
    let hosts = head.values("host").count();
    assert!(hosts == 1 || (hosts == 0 && head.minor_version() == 0), "{hosts} hosts");
    match head.target() {
        "*" => assert_eq!(head.method(), "OPTIONS"),
        target if target.starts_with('/') => {
            let query = head.query().map(|query| format!("?{query}")).unwrap_or_default();
            assert_eq!(format!("{}{query}", head.path()), target);
        }
        _ if head.method() == "CONNECT" => {}
        _ => assert!(head.path().starts_with('/'), "path {:?} of {:?}", head.path(), head.target()),
    }
    let encoded = head.values("transfer-encoding").count();
    let lengths: Vec<&[u8]> = head.values("content-length").collect();
    assert_eq!(encoded, 0, "nobody reads such a body");
    match (head.body(), &*lengths) {
        (Body::None, []) => {}
        (Body::None, [zeros]) => assert!(zeros.iter().all(|&digit| digit == b'0')),
        (Body::Length(bytes), [digits]) => {
            let digits = String::from_utf8_lossy(digits);
            assert_eq!(digits.trim_start_matches('0'), bytes.to_string());
        }
        (body, lengths) => panic!("{body:?} out of {lengths:?}"),
    }
    for name in ["session", ""] {
        let _ = head.cookie(name);
    }
}

/// The verdict on an upgrade is one of 101, 400, 403 and 426, and can be written.
fn check_upgrade(head: &Head<'_>) {
    match handshake::evaluate(head, &OriginPolicy::SameOrigin) {
        Ok(offer) => {
            assert!(handshake::is_upgrade(head) && head.method() == "GET");
            let chosen = offer.protocols().last();
            let mut out = Vec::new();
            offer.write_response(&mut out, chosen, &Default::default()).expect("it was offered");
            let lines = out.iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(lines, 5 + usize::from(chosen.is_some()), "{}", String::from_utf8_lossy(&out));
            for protocol in offer.protocols() {
                assert!(protocol.bytes().all(|byte| byte.is_ascii_graphic() && byte != b','));
            }
        }
        Err(refusal) => {
            assert!([400, 403, 426].contains(&refusal.status()));
            check_refusal(&refusal.into(), refusal.status());
            let same = handshake::evaluate(head, &OriginPolicy::Any).err();
            let foreign = refusal == ws::handshake::Refusal::OriginForeign;
            assert!(same == Some(refusal) || foreign, "{refusal:?}, but {same:?} for any origin");
        }
    }
}

fn check_refusal(response: &Response, status: u16) {
    let mut out = Vec::new();
    response.encode(&mut out, false, true);
    assert!(out.starts_with(format!("HTTP/1.1 {status} ").as_bytes()));
    assert!(out.windows(19).any(|part| part == b"Connection: close\r\n") || status == 426);
}
