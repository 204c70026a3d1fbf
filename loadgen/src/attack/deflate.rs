//! permessage-deflate (RFC 7692): offers that are none, streams that are broken, and bombs.

use super::arena::{Arena, Fault, Verdict, bad};
use super::frames::find_limit;
use super::peer::{Answer, Peer, Reaction, frame, text, upgrade_request};
use ringwire::ws::deflate::Deflater;
use ringwire::ws::extension;

/// Content that cannot be inflated, or a protocol error.
const BROKEN: &[u16] = &[1002, 1007, 1008];
const TOO_BIG: &[u16] = &[1002, 1008, 1009];
const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n";
/// What ends a compressed message on the compressor's side (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// The most that a bomb inflates to.
const MAX_BOMB_BYTES: u64 = 512 << 20;

/// The value that agrees upon the extension, if any does.
fn agreed(answer: &Answer) -> Option<&str> {
    answer.values("sec-websocket-extensions").find(|value| value.contains("permessage-deflate"))
}

/// A WebSocket with compression, if the server offers it.
fn open(arena: &Arena<'_>) -> Result<Peer, Fault> {
    let mut peer = arena.connect()?;
    peer.send(upgrade_request(arena.target, OFFER).as_bytes(), arena.patience());
    match peer.answer(arena.patience()) {
        Ok(answer) if answer.opens() && agreed(&answer).is_some() => Ok(peer),
        Ok(answer) if answer.opens() => Err(Fault::Skipped("the server does not compress".to_owned())),
        Ok(answer) => Err(Fault::Bad(format!("answered {} to a good offer", answer.status))),
        Err(reaction) => Err(Fault::Bad(reaction.to_string())),
    }
}

/// Offers that must be declined; without compression the server has to survive them all the same.
pub fn offers(arena: &mut Arena<'_>) {
    for params in [
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=0",
        "server_max_window_bits=08",
        "server_max_window_bits=-9",
        "server_max_window_bits=1e1",
        "server_max_window_bits=4294967304",
        "server_max_window_bits",
        "server_max_window_bits=\"\"",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=99999999999999999999",
        "client_max_window_bits=x",
        "server_no_context_takeover=1",
        "client_no_context_takeover=true",
        "server_no_context_takeover; server_no_context_takeover",
        "server_max_window_bits=10; server_max_window_bits=11",
        "client_max_window_bits; client_max_window_bits",
        "unknown",
        "unknown=1",
        "server_max_window_bits=10; unknown",
        "=8",
        ";",
    ] {
        arena.probe(&format!("\"{params}\""), |arena| {
            let (mut peer, answer) =
                match offer(arena, &format!("Sec-WebSocket-Extensions: permessage-deflate; {params}\r\n"))? {
                    Ok(opened) => opened,
                    Err(refused) => return Ok(refused),
                };
            if let Some(value) = agreed(&answer) {
                return bad(format!("agreed: {value}"));
            }
            peer.echo("without compression", arena.patience())?;
            Ok("declined".to_owned())
        });
    }
    for bits in 8..=15 {
        let params = format!("permessage-deflate; server_max_window_bits={bits}");
        arena.probe(&format!("a window of {bits} bits"), |arena| {
            let (mut peer, answer) = match offer(arena, &format!("Sec-WebSocket-Extensions: {params}\r\n"))? {
                Ok(opened) => opened,
                Err(refused) => return bad(format!("answered {refused} to a good offer")),
            };
            let seen = match agreed(&answer) {
                None => "declined".to_owned(),
                Some(value) => window(value, bits)?,
            };
            let message = "the same again, ".repeat(500);
            peer.echo(&message, arena.patience())?;
            Ok(seen)
        });
    }
}

/// `Err` is how the handshake was refused.
fn offer(arena: &Arena<'_>, line: &str) -> Result<Result<(Peer, Answer), String>, Fault> {
    let mut peer = arena.connect()?;
    peer.send(upgrade_request(arena.target, line).as_bytes(), arena.patience());
    match peer.answer(arena.patience()) {
        Ok(answer) if answer.opens() => Ok(Ok((peer, answer))),
        Ok(answer) if answer.status >= 400 => Ok(Err(answer.status.to_string())),
        Err(Reaction::Dropped) => Ok(Err("dropped".to_owned())),
        Ok(answer) => Err(Fault::Bad(format!("answered {}", answer.status))),
        Err(reaction) => Err(Fault::Bad(reaction.to_string())),
    }
}

/// The server must use no larger window than it was asked for, and say so (RFC 7692 §7.1.2.1).
fn window(value: &str, asked: u8) -> Verdict {
    let mut extensions = extension::parse(value).map_while(Result::ok);
    let agreed = extensions.next().and_then(|extension| {
        let param = extension.params().find(|(name, _)| *name == "server_max_window_bits");
        param.and_then(|(_, bits)| bits?.parse::<u8>().ok())
    });
    match agreed {
        Some(8..=15) if agreed <= Some(asked) => Ok("agreed".to_owned()),
        _ => bad(format!("agreed upon another one: {value}")),
    }
}

/// Compressed frames that must fail the connection, beside some that are legal.
pub fn streams(arena: &mut Arena<'_>) {
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]; // RFC 7692 §7.2.3.1
    let good: [(&str, Vec<u8>, &[u8]); 5] = [
        ("Hello", frame(0xc1, &hello), b"Hello"),
        ("Hello in fragments", [frame(0x41, &hello[..3]), frame(0x80, &hello[3..])].concat(), b"Hello"),
        ("Hello in a stored block", frame(0xc1, b"\x00\x05\x00\xfa\xffHello\x00"), b"Hello"),
        ("nothing", frame(0xc1, &[0x00]), b""),
        ("not compressed", text("plain"), b"plain"),
    ];
    for (name, bytes, message) in good {
        arena.probe(name, |arena| {
            let mut peer = open(arena)?;
            peer.send(&bytes, arena.patience());
            match peer.reaction(arena.patience()) {
                Reaction::Message(_, echo) if echo == message => Ok("echoed".to_owned()),
                other => bad(other.to_string()),
            }
        });
    }
    let broken = [
        ("a reserved type of block", frame(0xc1, &[0x07, 0x00])),
        ("lengths that differ", frame(0xc1, b"\x00\x05\x00\x00\x00Hello")),
        ("a distance before the beginning", frame(0xc2, &[0x02, 0x02, 0x00, 0x00])),
        ("random bytes", frame(0xc2, &[0xde, 0xad, 0xbe, 0xef, 0xfe, 0xed, 0xfa, 0xce])),
        ("RSV1 on a continuation", [frame(0x41, &hello[..3]), frame(0xc0, &hello[3..])].concat()),
        ("RSV1 on a ping", frame(0xc9, &hello)),
        ("RSV2 beside RSV1", frame(0xe1, &hello)),
        ("text that inflates to no UTF-8", frame(0xc1, b"\x00\x02\x00\xfd\xff\xff\xfe\x00")),
    ];
    for (name, bytes) in broken {
        arena.probe(name, |arena| {
            let mut peer = open(arena)?;
            peer.send(&bytes, arena.patience());
            arena.failed(&mut peer, BROKEN)
        });
    }
}

/// Zeros, compressed by parts that are each whole, so that any number of them can follow each other.
fn bomb(bytes: u64) -> Vec<u8> {
    const PART: usize = 1 << 20;
    let mut part = Vec::new();
    Deflater::new(9, 15).compress(&vec![0; PART], false, &mut part);
    part.extend_from_slice(&TAIL);
    let mut bomb = part.repeat(bytes.div_ceil(PART as u64) as usize);
    bomb.truncate(bomb.len() - TAIL.len());
    bomb
}

/// Little that becomes much.
pub fn bombs(arena: &mut Arena<'_>) {
    let target = |arena: &mut Arena<'_>| -> Result<(Peer, Vec<u8>, String), Fault> {
        let peer = open(arena)?;
        let (_, refused) = find_limit(arena)?;
        let bytes = refused.unwrap_or(0).max(32 << 20) * 4;
        if bytes > MAX_BOMB_BYTES {
            return Err(Fault::Skipped(format!("messages of {bytes} bytes are legal here")));
        }
        let bomb = bomb(bytes);
        let words = format!("{} kB for {} MB", bomb.len() / 1_000, bytes / 1_000_000);
        Ok((peer, bomb, words))
    };
    arena.probe("in one frame", |arena| {
        let (mut peer, bomb, words) = target(arena)?;
        peer.send(&frame(0xc2, &bomb), arena.options.timeout);
        failed(arena, &mut peer, &words)
    });
    arena.probe("in fragments", |arena| {
        let (mut peer, bomb, words) = target(arena)?;
        let (first, rest) = bomb.split_at(bomb.len().min(1_000));
        peer.send(&frame(0x42, first), arena.patience());
        for piece in rest.chunks(1_000) {
            if peer.send(&frame(0x00, piece), arena.options.timeout) == 0 {
                break;
            }
        }
        peer.send(&frame(0x80, b""), arena.patience());
        failed(arena, &mut peer, &words)
    });
    arena.probe("many at once, each within the limit", |arena| {
        let (taken, _) = find_limit(arena)?;
        let bytes = taken.min(1 << 20);
        let bomb = bomb(bytes);
        let mut peers = Vec::new();
        for _ in 0..20 {
            let mut peer = open(arena)?;
            peer.send(&frame(0xc2, &bomb), arena.options.timeout);
            peers.push(peer);
        }
        arena.glance()?;
        for mut peer in peers {
            match peer.reaction(arena.options.timeout) {
                Reaction::Message(_, echo) if echo.iter().all(|byte| *byte == 0) => {}
                // There may be a limit to the ratio.
                Reaction::Close(Some(code)) if TOO_BIG.contains(&code) => {}
                Reaction::Dropped => {}
                other => return bad(other.to_string()),
            }
        }
        Ok("each echoed or refused".to_owned())
    });
}

fn failed(arena: &Arena<'_>, peer: &mut Peer, words: &str) -> Verdict {
    match peer.reaction(arena.options.timeout) {
        Reaction::Close(Some(code)) if TOO_BIG.contains(&code) => Ok(format!("close {code} ({words})")),
        Reaction::Dropped => Ok(format!("dropped ({words})")),
        other => bad(format!("{words}: {other}")),
    }
}
