//! Each rule of RFC 6455 §5 and §7 as a transcript: bytes in, events out.

mod ws_support;

use ringwire::ws::*;
use ws_support::*;

fn server(frames: &[Vec<u8>]) -> Vec<Seen> {
    transcript(Role::Server, &frames.concat())
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    masked(0x88, &[&code.to_be_bytes(), reason].concat())
}

#[test]
fn examples_of_section_5_7() {
    let client = |bytes: &[u8]| transcript(Role::Client, bytes);
    assert_eq!(client(b"\x81\x05Hello"), [text("Hello")]);
    assert_eq!(server(&[b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58".to_vec()]), [text("Hello")]);
    assert_eq!(client(b"\x01\x03Hel\x80\x02lo"), [text("Hello")]);
    assert_eq!(client(b"\x89\x05Hello"), [Seen::Ping(b"Hello".to_vec())]);
    assert_eq!(
        server(&[b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58".to_vec()]),
        [Seen::Pong(b"Hello".to_vec())]
    );
    let binary = [7; 256];
    assert_eq!(client(&[b"\x82\x7e\x01\x00", &binary[..]].concat()), [Seen::Binary(binary.to_vec())]);
    let binary = vec![7; 65_536];
    assert_eq!(
        client(&[b"\x82\x7f\0\0\0\0\0\x01\0\0", &binary[..]].concat()),
        [Seen::Binary(binary.clone())]
    );
}

#[test]
fn messages_of_every_length_form() {
    for len in [0, 1, 5, 6, 124, 125, 126, 127, 65_535, 65_536, 70_000] {
        let payload: Vec<u8> = (0..len).map(|i| b'a' + (i % 26) as u8).collect();
        let expected = text(std::str::from_utf8(&payload).unwrap());
        let expected = [expected];
        assert_eq!(server(&[masked(0x81, &payload)]), expected, "{len}");
        assert_eq!(transcript(Role::Client, &frame(0x81, &payload, None)), expected, "{len}");
        assert_eq!(server(&[masked(0x82, &payload)]), [Seen::Binary(payload)], "{len}");
    }
}

#[test]
fn control_frames_stand_between_fragments() {
    assert_eq!(
        server(&[
            masked(0x01, b"Hel"),
            masked(0x89, b"are you there"),
            masked(0x00, b""),
            masked(0x8a, b""),
            masked(0x80, b"lo"),
            masked(0x82, b"next"),
        ]),
        [
            Seen::Ping(b"are you there".to_vec()),
            Seen::Pong(vec![]),
            text("Hello"),
            Seen::Binary(b"next".to_vec()),
        ]
    );
}

#[test]
fn empty_fragments_are_legal() {
    let empty = masked(0x00, b"");
    assert_eq!(server(&[masked(0x01, b""), masked(0x80, b"")]), [text("")]);
    assert_eq!(server(&[masked(0x01, b""), empty.clone(), masked(0x80, b"all")]), [text("all")]);
    assert_eq!(server(&[masked(0x02, b"all"), empty, masked(0x80, b"")]), [Seen::Binary(b"all".to_vec())]);
}

#[test]
fn what_breaks_a_rule() {
    use Violation::*;
    let long_form = |b1, len: &[u8]| [&[0x82, b1], len, &MASK[..]].concat();
    let cases: &[(&str, Vec<Vec<u8>>, Violation)] = &[
        ("rsv1", vec![masked(0xc1, b"x")], ReservedBits),
        ("rsv2", vec![masked(0xa1, b"x")], ReservedBits),
        ("rsv3", vec![masked(0x91, b"x")], ReservedBits),
        ("rsv1 on a ping", vec![masked(0xc9, b"x")], ReservedBits),
        ("opcode 3", vec![masked(0x83, b"x")], UnknownOpcode),
        ("opcode 7, no fin", vec![masked(0x07, b"x")], UnknownOpcode),
        ("opcode 11", vec![masked(0x8b, b"x")], UnknownOpcode),
        ("opcode 15", vec![masked(0x8f, b"x")], UnknownOpcode),
        ("no mask", vec![frame(0x81, b"x", None)], Unmasked),
        ("no mask, long", vec![frame(0x82, &[0; 200], None)], Unmasked),
        ("no mask on a ping", vec![frame(0x89, b"x", None)], Unmasked),
        ("ping in fragments", vec![masked(0x09, b"x")], FragmentedControl),
        ("close in fragments", vec![masked(0x08, b"")], FragmentedControl),
        ("ping of 126 bytes", vec![masked(0x89, &[0; 126])], ControlTooLong),
        ("close of 65,536 bytes", vec![masked(0x88, &[0; 65_536])], ControlTooLong),
        ("125 in two bytes", vec![long_form(0xfe, &[0, 125])], LengthNotMinimal),
        ("0 in two bytes", vec![long_form(0xfe, &[0, 0])], LengthNotMinimal),
        ("65,535 in eight bytes", vec![long_form(0xff, &0xffff_u64.to_be_bytes())], LengthNotMinimal),
        ("top bit", vec![long_form(0xff, &(1_u64 << 63).to_be_bytes())], LengthOutOfRange),
        ("all bits", vec![long_form(0xff, &u64::MAX.to_be_bytes())], LengthOutOfRange),
        ("2^62 bytes", vec![long_form(0xff, &(1_u64 << 62).to_be_bytes())], MessageTooBig),
        ("2^63-1 bytes", vec![long_form(0xff, &(u64::MAX >> 1).to_be_bytes())], MessageTooBig),
        ("continues nothing", vec![masked(0x80, b"x")], UnexpectedContinuation),
        ("continues a whole", vec![masked(0x81, b"x"), masked(0x00, b"x")], UnexpectedContinuation),
        ("text in text", vec![masked(0x01, b"x"), masked(0x81, b"y")], MessageInsideMessage),
        ("binary in empty text", vec![masked(0x01, b""), masked(0x02, b"y")], MessageInsideMessage),
        ("not utf-8", vec![masked(0x81, b"\xff")], InvalidUtf8),
        ("surrogate", vec![masked(0x81, b"\xed\xa0\x80")], InvalidUtf8),
        ("overlong", vec![masked(0x81, b"\xc0\xaf")], InvalidUtf8),
        ("beyond unicode", vec![masked(0x81, b"\xf4\x90\x80\x80")], InvalidUtf8),
        ("ends in a character", vec![masked(0x81, b"\xe2\x82")], InvalidUtf8),
        ("ends in one, in fragments", vec![masked(0x01, b"\xe2"), masked(0x80, b"\x82")], InvalidUtf8),
        ("long text", vec![masked(0x81, &[&[b'a'; 300][..], b"\xff"].concat())], InvalidUtf8),
        ("close of one byte", vec![masked(0x88, b"\x03")], CloseBodyTruncated),
        ("close 999", vec![close(999, b"")], CloseCodeInvalid),
        ("close 1004", vec![close(1004, b"")], CloseCodeInvalid),
        ("close 1005", vec![close(1005, b"")], CloseCodeInvalid),
        ("close 1006", vec![close(1006, b"")], CloseCodeInvalid),
        ("close 1015", vec![close(1015, b"")], CloseCodeInvalid),
        ("close 5000", vec![close(5000, b"")], CloseCodeInvalid),
        ("close reason", vec![close(1000, b"\xff")], CloseReasonNotUtf8),
        ("close reason, cut", vec![close(1000, b"\xe2\x82")], CloseReasonNotUtf8),
    ];
    for (what, frames, violation) in cases {
        let last = server(frames).pop();
        assert_eq!(last, Some(Seen::Broke(*violation)), "{what}");
        let mut after = frames.clone();
        after.push(masked(0x81, b"ignored"));
        assert_eq!(server(&after).pop(), last, "{what}: nothing comes after");
    }
    assert_eq!(transcript(Role::Client, &masked(0x81, b"x")), [Seen::Broke(Masked)]);
    assert_eq!(transcript(Role::Client, &frame(0x81, b"\xe2\x82", None)), [Seen::Broke(InvalidUtf8)]);
    assert_eq!(transcript(Role::Client, &masked(0x89, b"x")), [Seen::Broke(Masked)]);
}

#[test]
fn two_bytes_are_judged_without_the_rest() {
    for (bytes, violation) in [
        (&[0xc1, 0x80], Violation::ReservedBits),
        (&[0x83, 0xff], Violation::UnknownOpcode),
        (&[0x81, 0x7f], Violation::Unmasked),
        (&[0x89, 0xfe], Violation::ControlTooLong),
        (&[0x80, 0xfe], Violation::UnexpectedContinuation),
    ] {
        assert_eq!(transcript(Role::Server, bytes), [Seen::Broke(violation)], "{bytes:x?}");
    }
}

#[test]
fn items_before_a_violation_are_delivered() {
    assert_eq!(
        server(&[masked(0x81, b"one"), masked(0x89, b"two"), masked(0x83, b"")]),
        [text("one"), Seen::Ping(b"two".to_vec()), Seen::Broke(Violation::UnknownOpcode)]
    );
}

#[test]
fn text_fails_at_the_first_impossible_byte() {
    let mut reader = Reader::new(Role::Server);
    let whole = masked(0x81, b"abc\xf4\x90 and much more to come");
    reader.read(&whole[..6 + 4]);
    assert_eq!(reader.seen, []);
    reader.read(&whole[6 + 4..6 + 5]);
    assert_eq!(reader.seen, [Seen::Broke(Violation::InvalidUtf8)]);
    assert_eq!(reader.session.state(), State::CloseReceived);
}

#[test]
fn sizes_are_judged_from_the_header() {
    let limits = DecodeLimits { max_message_bytes: 10, stream: false };
    let read = |frames: &[&[u8]]| {
        let mut reader = Reader::with_limits(Role::Server, limits);
        reader.read(&frames.concat());
        reader.seen
    };
    let too_big = [Seen::Broke(Violation::MessageTooBig)];
    assert_eq!(read(&[&masked(0x81, b"ten bytes!")]), [text("ten bytes!")]);
    assert_eq!(read(&[&masked(0x81, b"eleven byte")[..6]]), too_big);
    assert_eq!(read(&[&masked(0x01, b"12345"), &masked(0x80, b"67890")]), [text("1234567890")]);
    assert_eq!(read(&[&masked(0x01, b"12345"), &masked(0x80, b"678901")[..6]]), too_big);
    assert_eq!(read(&[&masked(0x02, &[0; 300])[..8]]), too_big);
    // Each message has the limit to itself, and control frames have no part in it.
    let again = masked(0x81, b"ten bytes!");
    let ping = masked(0x89, &[0; 125]);
    assert_eq!(read(&[&again, &ping, &again]).len(), 3);
}

#[test]
fn a_stream_has_no_size() {
    let limits = DecodeLimits { max_message_bytes: 10, stream: true };
    let mut reader = Reader::with_limits(Role::Server, limits);
    let text_of_40 = "forty bytes of text, in pieces as it goes";
    let [first, rest] = [&text_of_40[..20], &text_of_40[20..]];
    reader.read(&masked(0x01, first.as_bytes()));
    reader.read(&masked(0x80, rest.as_bytes()));
    reader.read(&masked(0x81, text_of_40.as_bytes()));
    assert_eq!(reader.seen, [text(text_of_40), text(text_of_40)]);

    let mut session = Session::new(Role::Server);
    let header = [&[0x02, 0xff], &(u64::MAX >> 1).to_be_bytes()[..], &MASK].concat();
    let mut input = [header.clone(), vec![0; 3]].concat();
    let mut at = 0;
    let piece = |payload, first| Ok(Some(Item::Piece { kind: Kind::Binary, payload, first, last: false }));
    assert_eq!(session.decode(&mut input, &mut at, &limits), piece(14..17, true));
    assert_eq!(session.decode(&mut input, &mut at, &limits), Ok(None));
    at = 0;
    assert_eq!(session.decode(&mut [0; 5], &mut at, &limits), piece(0..5, false));
    assert!(session.is_inside_message());
}

#[test]
fn a_header_from_the_carry_and_a_payload_from_the_buffer_are_one_message() {
    let limits = DecodeLimits::default();
    for len in [20, 200, 70_000] {
        let frame = masked(0x82, &vec![9; len]);
        let mut header = frame[..frame.len() - len].to_vec();
        let mut payload = frame[frame.len() - len..].to_vec();
        let mut session = Session::new(Role::Server);
        let mut at = 0;
        assert_eq!(session.decode(&mut header[..1], &mut at, &limits), Ok(None));
        assert_eq!((at, wanted(&header[..1])), (0, 1));
        assert_eq!(wanted(&header[..2]), header.len() - 2);
        assert_eq!(session.decode(&mut header, &mut at, &limits), Ok(None));
        assert_eq!((at, wanted(&header)), (header.len(), 0));
        at = 0;
        let message = Item::Message { kind: Kind::Binary, payload: 0..len };
        assert_eq!(session.decode(&mut payload, &mut at, &limits), Ok(Some(message)));
        assert_eq!(payload, vec![9; len]);
    }
}

#[test]
fn closing_handshakes() {
    let limits = DecodeLimits::default();
    assert_eq!(server(&[close(1000, b"bye")]), [Seen::Close(Some(CloseCode::NORMAL), "bye".into())]);
    assert_eq!(server(&[masked(0x88, b"")]), [Seen::Close(None, String::new())]);
    assert_eq!(server(&[close(4999, &[b'r'; 123])]).len(), 1);
    // Data after a Close frame, in the same read and in the next.
    let mut reader = Reader::new(Role::Server);
    reader.read(&[close(1001, b""), masked(0x81, b"late"), vec![0xff; 9]].concat());
    reader.read(&masked(0x81, b"later"));
    assert_eq!(reader.seen, [Seen::Close(Some(CloseCode::GOING_AWAY), String::new())]);
    assert_eq!(reader.session.state(), State::CloseReceived);
    reader.session.close_sent();
    assert_eq!(reader.session.state(), State::Closed);
    // We close first: messages on their way still come, then the peer's Close frame.
    let mut reader = Reader::new(Role::Server);
    reader.session.close_sent();
    assert_eq!(reader.session.state(), State::CloseSent);
    reader.read(&[masked(0x81, b"crossed"), masked(0x01, b"Hel"), masked(0x80, b"lo")].concat());
    reader.read(&close(1000, b""));
    assert_eq!(
        reader.seen,
        [text("crossed"), text("Hello"), Seen::Close(Some(CloseCode::NORMAL), String::new())]
    );
    assert_eq!(reader.session.state(), State::Closed);
    // A Close frame inside a fragmented message ends it unfinished.
    assert_eq!(
        server(&[masked(0x01, b"Hel"), close(1000, b""), masked(0x80, b"lo")]),
        [Seen::Close(Some(CloseCode::NORMAL), String::new())]
    );
    // After a violation too, everything is consumed.
    let mut session = Session::new(Role::Server);
    let mut input = [masked(0x83, b"x"), masked(0x81, b"y")].concat();
    let mut at = 0;
    assert_eq!(session.decode(&mut input, &mut at, &limits), Err(Violation::UnknownOpcode));
    assert_eq!(session.decode(&mut input, &mut at, &limits), Ok(None));
    assert_eq!(at, input.len());
}

#[test]
fn every_violation_has_its_code_and_fits_a_close_frame() {
    use Violation::*;
    for (violation, code) in [
        (ReservedBits, 1002),
        (UnknownOpcode, 1002),
        (Unmasked, 1002),
        (Masked, 1002),
        (FragmentedControl, 1002),
        (ControlTooLong, 1002),
        (LengthNotMinimal, 1002),
        (LengthOutOfRange, 1002),
        (UnexpectedContinuation, 1002),
        (MessageInsideMessage, 1002),
        (InvalidUtf8, 1007),
        (MessageTooBig, 1009),
        (CloseBodyTruncated, 1002),
        (CloseCodeInvalid, 1002),
        (CloseReasonNotUtf8, 1007),
    ] {
        assert_eq!(violation.close_code(), CloseCode(code), "{violation}");
        assert!(violation.to_string().len() <= 123, "{violation}");
    }
}

#[test]
fn encoded_close_frames_are_valid() {
    let encoded = |code: Option<u16>, reason: &str| {
        let mut out = Vec::new();
        encode_close(&mut out, code.map(CloseCode), reason, None);
        out
    };
    assert_eq!(encoded(None, "unsaid"), b"\x88\x00");
    assert_eq!(encoded(Some(1005), "unsaid"), b"\x88\x00");
    assert_eq!(encoded(Some(1001), ""), b"\x88\x02\x03\xe9");
    // 41 characters of 3 bytes are 123 bytes, a 42nd has no room.
    for reason in ["€".repeat(41), "€".repeat(42), "€".repeat(41) + "x", "a".to_owned() + &"€".repeat(41)]
    {
        match &transcript(Role::Client, &encoded(Some(1000), &reason))[..] {
            [Seen::Close(Some(CloseCode::NORMAL), sent)] => {
                assert!(reason.starts_with(sent) && sent.len() > 120, "{sent}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn encoders_write_the_header_they_announce() {
    for len in (0..300).chain([65_535, 65_536, 65_537]) {
        let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
        for mask in [None, Some(MASK)] {
            let mut out = b"before".to_vec();
            encode_message(&mut out, Kind::Binary, &payload, mask);
            assert_eq!(out.len(), 6 + header_len(len, mask.is_some()) + len);
            let role = if mask.is_some() { Role::Server } else { Role::Client };
            assert_eq!(transcript(role, &out[6..]), [Seen::Binary(payload.clone())], "{len}");
            let mut header = [0; MAX_HEADER];
            let written = write_header(&mut header, FrameHead::whole(Opcode::Binary, mask), len);
            assert_eq!(out[6..6 + written], header[..written]);
            assert_eq!(&out[..6], b"before");
        }
    }
}

#[test]
fn control_encoders_keep_to_125_bytes() {
    let mut out = Vec::new();
    encode_ping(&mut out, &[1; 200], Some(MASK));
    encode_pong(&mut out, &[2; 126], Some(MASK));
    assert_eq!(transcript(Role::Server, &out), [Seen::Ping(vec![1; 125]), Seen::Pong(vec![2; 125])]);
}

#[test]
fn a_million_empty_fragments_cost_nothing_to_hold() {
    let mut input = masked(0x01, b"");
    for _ in 0..1_000_000 {
        input.extend_from_slice(&masked(0x00, b""));
    }
    input.extend_from_slice(&masked(0x80, b"done"));
    let mut reader = Reader::new(Role::Server);
    reader.read(&input);
    assert_eq!(reader.seen, [text("done")]);
}

#[test]
fn rsv1_is_ready_for_compression() {
    let mut out = Vec::new();
    let head = FrameHead { fin: false, rsv1: true, opcode: Opcode::Text, mask: None };
    encode_frame(&mut out, head, b"x");
    assert_eq!(out, b"\x41\x01x");
}
