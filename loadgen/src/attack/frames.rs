//! Frames that no client may send, lengths that no message has, and noise.

use super::arena::{Arena, bad, send_pieces};
use super::peer::{MASK, Reaction, bare, frame, text, upgrade_request};
use ringwire::ws::{FrameHead, MAX_HEADER, Opcode, write_header};
use std::time::Duration;

/// Protocol error; or, for who does not tell, policy violation (RFC 6455 §7.4.1).
const PROTOCOL: &[u16] = &[1002, 1008];
/// Too big; or, where the length itself is out of range, protocol error.
const TOO_BIG: &[u16] = &[1002, 1008, 1009];
/// Servers that take more than this were asked in vain for their limit.
const MAX_LIMIT_BYTES: u64 = 1 << 32;
/// A header that is refused is refused by then.
const AT_ONCE: Duration = Duration::from_millis(500);

/// What RFC 6455 §5.2 and §5.4 forbid.
pub fn framing(arena: &mut Arena<'_>) {
    for opcode in (3..=7).chain(11..=15) {
        arena.must_fail(&format!("opcode {opcode}"), &[&frame(0x80 | opcode, b"x")], PROTOCOL);
    }
    for (name, bits) in [("RSV1", 0x40), ("RSV2", 0x20), ("RSV3", 0x10), ("all RSV", 0x70)] {
        arena.must_fail(&format!("{name} on text"), &[&frame(0x81 | bits, b"x")], PROTOCOL);
        arena.must_fail(&format!("{name} on a ping"), &[&frame(0x89 | bits, b"x")], PROTOCOL);
    }
    let forms: [(&str, &[u8]); 5] = [
        ("125 bytes in the 16-bit form", &[126, 0, 125]),
        ("0 bytes in the 16-bit form", &[126, 0, 0]),
        ("125 bytes in the 64-bit form", &[127, 0, 0, 0, 0, 0, 0, 0, 125]),
        ("65,535 bytes in the 64-bit form", &[127, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
        ("a Close of 2 bytes in the 16-bit form", &[126, 0, 2]),
    ];
    for (name, form) in forms {
        let length = form.iter().skip(1).fold(0, |length, byte| length << 8 | usize::from(*byte));
        let (b0, first, payload) = match name.contains("Close") {
            true => (0x88, &[0x03, 0xe8][..], 0),
            false => (0x82, &[][..], length),
        };
        let mut bytes = vec![b0, form[0] | 0x80];
        bytes.extend_from_slice(&form[1..]);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(first);
        bytes.resize(bytes.len() + payload, 0);
        not_minimal(arena, name, &bytes);
    }
    arena.must_fail("a continuation of nothing", &[&frame(0x80, b"x")], PROTOCOL);
    arena.must_fail("an unfinished continuation of nothing", &[&frame(0x00, b"x")], PROTOCOL);
    let inside = [frame(0x01, b"a"), frame(0x81, b"b")];
    arena.must_fail("text inside of a message", &[&inside[0], &inside[1]], PROTOCOL);
    let inside = [frame(0x02, b"a"), frame(0x02, b"b")].concat();
    arena.must_fail("a second beginning", &[&inside], PROTOCOL);
    let after = [frame(0x01, b"a"), frame(0x80, b"b"), frame(0x80, b"c")].concat();
    arena.probe("a continuation behind the last", |arena| {
        let mut peer = arena.open("")?;
        peer.send(&after, arena.patience());
        // The message itself was good and may come back first.
        match peer.reaction(arena.patience()) {
            Reaction::Message(_, bytes) if bytes == b"ab" => arena.failed(&mut peer, PROTOCOL),
            Reaction::Close(Some(code)) if PROTOCOL.contains(&code) => Ok(format!("close {code}")),
            Reaction::Dropped => Ok("dropped".to_owned()),
            other => bad(other.to_string()),
        }
    });
}

/// A server may be lenient here as long as it reads the same bytes (RFC 6455 §5.2 binds the sender).
fn not_minimal(arena: &mut Arena<'_>, name: &str, bytes: &[u8]) {
    arena.probe(name, |arena| {
        let mut peer = arena.open("")?;
        peer.send(bytes, arena.patience());
        match peer.reaction(arena.patience()) {
            Reaction::Close(Some(code)) if PROTOCOL.contains(&code) => Ok(format!("close {code}")),
            Reaction::Dropped => Ok("dropped".to_owned()),
            Reaction::Close(Some(1000)) if name.contains("Close") => Ok("taken".to_owned()),
            Reaction::Message(_, echo)
                if echo.len() + 8 <= bytes.len() && echo.iter().all(|byte| *byte == 0) =>
            {
                Ok("taken".to_owned())
            }
            other => bad(other.to_string()),
        }
    });
}

/// RFC 6455 §5.1 and §5.3.
pub fn masks(arena: &mut Arena<'_>) {
    for (name, bytes) in [
        ("text", bare(0x81, b"bare")),
        ("an empty message", bare(0x82, b"")),
        ("a ping", bare(0x89, b"bare")),
        ("a Close", bare(0x88, &[0x03, 0xe8])),
        ("a large message", bare(0x82, &[7; 70_000])),
    ] {
        arena.must_fail(&format!("{name} without a mask"), &[&bytes], PROTOCOL);
    }
    let mixed = [frame(0x01, b"a"), bare(0x80, b"b")].concat();
    arena.must_fail("a continuation without a mask", &[&mixed], PROTOCOL);
    for mask in [[0, 0, 0, 0], [0xff; 4], *b"GET ", MASK] {
        // What the payload looks like on the wire is of the attacker's choice.
        let payload = b"GET /script.js HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let mut bytes = vec![0x82, 0x80 | payload.len() as u8];
        bytes.extend_from_slice(&mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        arena.must_echo(&format!("mask {mask:02x?}"), &[&bytes], &[payload]);
    }
}

/// RFC 6455 §5.5.
pub fn control(arena: &mut Arena<'_>) {
    for (name, b0) in [("ping", 0x09), ("pong", 0x0a), ("Close", 0x08)] {
        arena.must_fail(&format!("a fragmented {name}"), &[&frame(b0, &[0x03, 0xe8])], PROTOCOL);
        let long = [&[0x03, 0xe8][..], &[b'x'; 124]].concat();
        arena.must_fail(&format!("a {name} of 126 bytes"), &[&frame(0x80 | b0, &long)], PROTOCOL);
        let large = frame(0x80 | b0, &[0x03; 65_536]);
        let (head, rest) = large.split_at(14);
        arena.must_fail(&format!("a {name} of 65,536 bytes"), &[head, rest], PROTOCOL);
    }
    let pong_inside = [frame(0x01, b"be"), frame(0x8a, b"unasked"), frame(0x80, b"gun")].concat();
    arena.must_echo("a pong inside of a message", &[&pong_inside], &[b"begun"]);
    arena.must_echo("pongs nobody asked for", &[&frame(0x8a, b"").repeat(1_000)], &[]);
    arena.probe("a ping inside of a message", |arena| {
        let mut peer = arena.open("")?;
        send_pieces(&mut peer, &[&frame(0x01, b"be"), &frame(0x89, b"inside")], arena.patience());
        if !peer.pong_beyond(0, arena.patience()) {
            return bad(format!("no pong: {}", peer.reaction(Duration::ZERO)));
        }
        peer.send(&frame(0x80, b"gun"), arena.patience());
        match peer.reaction(arena.patience()) {
            Reaction::Message(_, bytes) if bytes == b"begun" && peer.last_pong == b"inside" => {
                Ok("answered".to_owned())
            }
            other => bad(other.to_string()),
        }
    });
    arena.probe("a Close inside of a message", |arena| {
        let mut peer = arena.open("")?;
        peer.send(&[frame(0x01, b"be"), frame(0x88, &[0x03, 0xe8])].concat(), arena.patience());
        match peer.reaction(arena.patience()) {
            Reaction::Close(_) | Reaction::Dropped => Ok("closed".to_owned()),
            other => bad(other.to_string()),
        }
    });
}

/// Lengths that must not size an allocation.
pub fn huge_lengths(arena: &mut Arena<'_>) {
    let head = |length: u64| [&[0x82, 0xff][..], &length.to_be_bytes(), &MASK].concat();
    for (name, length) in [
        ("2^64-1 bytes", u64::MAX),
        ("2^63 bytes", 1 << 63),
        ("2^63-1 bytes", (1 << 63) - 1),
        ("2^62 bytes", 1 << 62),
    ] {
        arena.must_fail(name, &[&head(length)], TOO_BIG);
        // In a continuation it is added to what came before: a sum that may overflow.
        let mut after = head(length);
        after[0] = 0x00;
        let pieces: [&[u8]; 2] = [&frame(0x02, &[1; 200]), &after];
        arena.must_fail(&format!("{name} in a continuation"), &pieces, TOO_BIG);
    }
    arena.probe("more than the largest message", |arena| {
        let (taken, refused) = find_limit(arena)?;
        match refused {
            None => bad(format!("frames of {taken} bytes are begun and not refused")),
            Some(refused) => Ok(format!("takes {taken} bytes, refuses {refused}")),
        }
    });
}

/// The bytes of a message that the server takes, and of one that it refuses at its header.
pub fn find_limit(arena: &mut Arena<'_>) -> Result<(u64, Option<u64>), String> {
    if let Some(limits) = arena.limits {
        return Ok(limits);
    }
    let (mut taken, mut refused) = (1_024, MAX_LIMIT_BYTES);
    if let Some(limit) = arena.options.max_message_bytes {
        (taken, refused) = (limit, limit + 1);
    }
    let refuses = |arena: &Arena<'_>, bytes: u64| -> Result<bool, String> {
        let mut peer = arena.open("")?;
        let mut head = [0; MAX_HEADER];
        let len = write_header(&mut head, FrameHead::whole(Opcode::Binary, Some(MASK)), bytes as usize);
        peer.send(&head[..len], arena.patience());
        let reaction = peer.reaction(AT_ONCE.min(arena.patience()));
        Ok(matches!(reaction, Reaction::Close(_) | Reaction::Dropped))
    };
    let mut limits = (taken, None);
    if refuses(arena, refused)? {
        while arena.options.max_message_bytes.is_none() && refused / 2 > taken {
            let middle = 1 << ((taken.ilog2() + refused.ilog2()) / 2);
            if refuses(arena, middle + 1)? {
                refused = middle + 1;
            } else {
                taken = middle;
            }
        }
        limits = (taken, Some(refused));
    } else {
        limits.0 = refused;
    }
    arena.limits = Some(limits);
    Ok(limits)
}

/// Random bytes.
pub fn noise(arena: &mut Arena<'_>) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        // xorshift64*: arbitrary, and the same in every run.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    };
    let mut noise = move || -> Vec<u8> { (0..random() % 400 + 1).map(|_| random() as u8).collect() };
    arena.probe("instead of frames", |arena| {
        for _ in 0..200 {
            let mut peer = arena.open("")?;
            peer.send(&noise(), arena.patience());
            peer.half_close();
        }
        Ok("survived".to_owned())
    });
    arena.probe("instead of heads", |arena| {
        for number in 0..200 {
            let mut peer = arena.connect()?;
            let mut bytes = upgrade_request(arena.target, "").into_bytes();
            match number % 2 {
                0 => bytes = noise(),
                // A good head with some of it replaced.
                _ => noise().iter().enumerate().step_by(37).for_each(|(at, byte)| {
                    let len = bytes.len();
                    bytes[(at * 7) % len] = *byte;
                }),
            }
            peer.send(&bytes, arena.patience());
            peer.half_close();
        }
        Ok("survived".to_owned())
    });
    arena.must_fail("HTTP on a WebSocket", &[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], PROTOCOL);
    arena.must_fail("TLS on a WebSocket", &[&[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]], PROTOCOL);
    arena.probe("a WebSocket frame instead of a request", |arena| {
        let mut peer = arena.connect()?;
        peer.send(&[text("hello"), b"\r\n\r\n".to_vec()].concat(), arena.patience());
        match peer.answer(arena.patience()) {
            Ok(answer) if answer.status >= 400 => Ok(answer.status.to_string()),
            Err(Reaction::Dropped) => Ok("dropped".to_owned()),
            Ok(answer) => bad(format!("answered {}", answer.status)),
            Err(reaction) => bad(reaction.to_string()),
        }
    });
}
