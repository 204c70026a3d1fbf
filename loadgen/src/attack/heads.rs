//! Attacks on whoever reads request heads: too large, too slow, ambiguous, or hard to parse.

use super::arena::{Arena, Fault, Verdict, bad, skipped};
use super::peer::{Answer, Peer, Reaction, upgrade_request};
use super::wait::{Waiter, wait};
use std::time::{Duration, Instant};

/// More than any server should take for a head, and than the kernel keeps for one that stopped reading.
const ENDLESS_BYTES: usize = 16 << 20;
/// Sent in single bytes.
const SINGLE_BYTES: usize = 64 << 10;
/// An answer to a whole request takes no longer, however hard it is to parse.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Times that a slow answer is asked for.
const TRIES: usize = 3;

/// Heads without end.
pub fn size(arena: &mut Arena<'_>) {
    let begin = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", arena.target.path, arena.target.host);
    endless(arena, "a field", &(begin.clone() + "X: "), |_| "a".repeat(1 << 16));
    endless(arena, "fields", &begin, |n| {
        (n * 6_000..(n + 1) * 6_000).map(|field| format!("X-{field}: y\r\n")).collect()
    });
    endless(arena, "fields of one name", &begin, |_| "Sec-WebSocket-Protocol: a\r\n".repeat(3_000));
    endless(arena, "a target", "GET /", |_| "a".repeat(1 << 16));
    endless(arena, "a method", "", |_| "A".repeat(1 << 16));
    arena.probe("a good head in single bytes", |arena| {
        let mut peer = arena.connect()?;
        for byte in upgrade_request(arena.target, "").as_bytes() {
            peer.send(&[*byte], arena.patience());
        }
        match peer.answer(arena.patience()) {
            Ok(answer) if answer.opens() => {}
            Ok(answer) => return bad(format!("answered {}", answer.status)),
            Err(reaction) => return bad(reaction.to_string()),
        }
        peer.echo("opened byte by byte", arena.patience())?;
        Ok("101".to_owned())
    });
    arena.probe("64 KiB in single bytes", |arena| {
        let mut peer = arena.connect()?;
        peer.send((begin + "X: ").as_bytes(), arena.patience());
        let start = Instant::now();
        for number in 0..SINGLE_BYTES {
            if peer.send(b"a", arena.patience()) == 0 {
                break;
            }
            if number % 4_096 == 0 {
                arena.glance()?;
            }
        }
        let seen = match peer.ended() {
            Some(_) => refusal(&mut peer, arena.patience()).unwrap_or_else(|reaction| reaction.to_string()),
            None => "waits for more".to_owned(),
        };
        Ok(format!("{seen}, after {} ms", start.elapsed().as_millis()))
    });
}

/// Sends `begin` and then chunks until the server has had enough.
fn endless(arena: &mut Arena<'_>, name: &str, begin: &str, chunk: impl Fn(usize) -> String) {
    arena.probe(&format!("{name} without end"), |arena| {
        let mut peer = arena.connect()?;
        let mut sent = peer.send(begin.as_bytes(), arena.patience());
        for number in 0.. {
            let chunk = chunk(number);
            let taken = peer.send(chunk.as_bytes(), arena.patience());
            sent += taken;
            if taken < chunk.len() || sent > ENDLESS_BYTES || !peer.unread_http().is_empty() {
                break;
            }
        }
        if sent > ENDLESS_BYTES && peer.unread_http().is_empty() {
            return bad(format!("took {} MiB of it", sent >> 20));
        }
        match refusal(&mut peer, arena.patience()) {
            Ok(seen) => Ok(seen),
            Err(Reaction::Silence(_)) if peer.ends(arena.options.timeout) => Ok("dropped".to_owned()),
            Err(reaction) => bad(reaction.to_string()),
        }
    });
}

/// A status from 400 on, or the end.
fn refusal(peer: &mut Peer, patience: Duration) -> Result<String, Reaction> {
    match peer.answer(patience) {
        Ok(answer) if answer.status >= 400 => Ok(answer.status.to_string()),
        Ok(answer) => Err(Reaction::Broken(format!("answered {}", answer.status))),
        Err(Reaction::Dropped) => Ok("dropped".to_owned()),
        Err(reaction) => Err(reaction),
    }
}

/// Heads that take their time.
pub fn slow(arena: &mut Arena<'_>) {
    let request = upgrade_request(arena.target, "");
    let most = &request[..request.len() - 2];
    let mut waiters = Vec::new();
    for (name, begin, drip) in [
        ("silence", "", ""),
        ("half a head", &request[..request.len() / 2], ""),
        ("a head without its end", most, ""),
        ("a byte each second", most, "X"),
    ] {
        let peer = arena.connect().map(|mut peer| {
            peer.send(begin.as_bytes(), arena.patience());
            peer
        });
        waiters.push(Waiter::new(name, peer, drip.as_bytes()));
    }
    arena.probe("meanwhile", |arena| {
        wait(arena, &mut waiters).map(|()| "others are served".to_owned()).map_err(Fault::Bad)
    });
    for waiter in waiters {
        arena.probe(waiter.name, |arena| {
            let mut peer = waiter.peer?;
            let Some(ended) = waiter.ended else {
                let timeout = arena.options.timeout.as_secs_f64();
                return bad(format!("still open after {timeout:.1} s; --timeout waits longer"));
            };
            // No ordinary handshake is over so soon that it could be ended by then.
            if ended < Duration::from_millis(50) {
                return bad(format!("ended after {} ms", ended.as_millis()));
            }
            let seen = match peer.answer(Duration::ZERO) {
                Ok(answer) => answer.status.to_string(),
                Err(_) => "dropped".to_owned(),
            };
            Ok(format!("{seen} after {:.1} s", ended.as_secs_f64()))
        });
    }
}

/// Heads that are read in two ways, or that would be written into the answer.
pub fn injection(arena: &mut Arena<'_>) {
    let good = upgrade_request(arena.target, "");
    let with = |more: &str| upgrade_request(arena.target, more);
    // What is not as RFC 9112 has it must be refused, or be harmless.
    let requests = [
        ("a space before a colon", true, good.replace("Sec-WebSocket-Key:", "Sec-WebSocket-Key :")),
        ("a line without a colon", true, with("injected\r\n")),
        ("a space in a field's name", true, with("X y: z\r\n")),
        ("a field without a name", true, with(": z\r\n")),
        ("a second request line", true, good.replacen("\r\n", "\r\nGET /injected HTTP/1.1\r\n", 1)),
        ("a folded line", false, with("X: a\r\n injected: b\r\n")),
        ("a folded subprotocol", false, with("Sec-WebSocket-Protocol: a\r\n\tinjected: b\r\n")),
        ("CR in a value", false, with("Sec-WebSocket-Protocol: a\rinjected: b\r\n")),
        ("LF in a value", false, with("Sec-WebSocket-Protocol: a\ninjected: b\r\n")),
        ("NUL in a value", false, with("Sec-WebSocket-Protocol: a\0injected: b\r\n")),
        ("an encoded CR LF in the target", false, good.replace(" HTTP/1.1", "?%0d%0ainjected:%20b HTTP/1.1")),
        ("lines that end in LF", false, good.replace("\r\n", "\n")),
        ("an empty line first", false, format!("\r\n{good}")),
        ("bytes that are not ASCII", false, with("X: \u{ff}\u{2028}\r\n")),
    ];
    for (name, must_refuse, request) in requests {
        arena.probe(name, |arena| tricky(arena, &request, must_refuse));
    }
}

fn tricky(arena: &Arena<'_>, request: &str, must_refuse: bool) -> Verdict {
    let mut peer = arena.connect()?;
    peer.send(request.as_bytes(), arena.patience());
    // For a server that knows no other end of a line than CR LF, one with LF only never ends.
    let patience = if must_refuse { arena.patience() } else { AT_ONCE.min(arena.patience()) };
    match peer.answer(patience) {
        Ok(answer) if answer.values("injected").next().is_some() => bad("repeats it as a field of its own"),
        Ok(answer) if answer.opens() && !must_refuse => {
            peer.echo("as usual", arena.patience())?;
            Ok("101".to_owned())
        }
        Ok(answer) if answer.status < 400 && must_refuse => bad(format!("answered {}", answer.status)),
        Ok(answer) => Ok(answer.status.to_string()),
        Err(Reaction::Dropped) => Ok("dropped".to_owned()),
        Err(Reaction::Silence(_)) if !must_refuse => Ok("waits for more".to_owned()),
        Err(reaction) => bad(reaction.to_string()),
    }
}

/// Lists that are hard for those who track back.
pub fn lists(arena: &mut Arena<'_>) {
    let values = [
        ("spaces", format!("Sec-WebSocket-Protocol: a{}b", " ".repeat(14_000))),
        ("protocols", format!("Sec-WebSocket-Protocol: {}", "a,".repeat(7_000))),
        ("commas", format!("Sec-WebSocket-Protocol: {}", ",".repeat(14_000))),
        ("an open quote", format!("Sec-WebSocket-Extensions: a; b=\"{}", "\\c".repeat(7_000))),
        ("quoted commas", format!("Sec-WebSocket-Extensions: a; b=\"{}\"", "\\,".repeat(7_000))),
        ("parameters", format!("Sec-WebSocket-Extensions: a{}", "; b".repeat(4_500))),
        ("offers", format!("Sec-WebSocket-Extensions: {}", "permessage-deflate, ".repeat(700))),
        ("separators", format!("Sec-WebSocket-Extensions: {}", "a;".repeat(7_000))),
        ("cookies", format!("Cookie: {}", "a=b; ".repeat(2_800))),
        ("upgrades", format!("Upgrade: {}", "x,".repeat(7_000))),
    ];
    for (name, value) in values {
        let request = upgrade_request(arena.target, &format!("{value}\r\n"));
        arena.probe(name, |arena| {
            let (mut answer, mut took) = timed(arena, &request)?;
            for _ in 1..TRIES {
                // A busy host is slow once; whoever tracks back is slow each time.
                if took > AT_ONCE {
                    (answer, took) = timed(arena, &request)?;
                }
            }
            if took > AT_ONCE {
                return bad(format!("took {:.1} s, {TRIES} times", took.as_secs_f64()));
            }
            match answer {
                Ok(answer) => Ok(answer.status.to_string()),
                Err(Reaction::Dropped) => Ok("dropped".to_owned()),
                Err(Reaction::Silence(time)) => skipped(format!("no answer within {} s", time.as_secs())),
                Err(reaction) => bad(reaction.to_string()),
            }
        });
    }
}

/// The answer to a request, and how long it took.
fn timed(arena: &Arena<'_>, request: &str) -> Result<(Result<Answer, Reaction>, Duration), String> {
    let mut peer = arena.connect()?;
    let begin = Instant::now();
    peer.send(request.as_bytes(), arena.patience());
    let answer = peer.answer(arena.patience());
    Ok((answer, begin.elapsed()))
}
