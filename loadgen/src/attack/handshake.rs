//! The opening handshake: what must not open a WebSocket, and what must not follow a refusal.

use super::arena::{Arena, Verdict, bad};
use super::peer::{KEY, Reaction, frame, text, upgrade_request};

/// Handshakes that are none (RFC 6455 §4.2.1).
pub fn basics(arena: &mut Arena<'_>) {
    let good = upgrade_request(arena.target, "");
    let key = format!("Sec-WebSocket-Key: {KEY}");
    let host = format!("Host: {}\r\n", arena.target.host);
    let changed = |from: &str, to: &str| good.replace(from, to);
    // Whether the answer must be an error; else it must only not be 101.
    let requests = [
        ("no upgrade", false, changed("Upgrade: websocket\r\nConnection: Upgrade\r\n", "")),
        ("upgrade to something else", false, changed("Upgrade: websocket", "Upgrade: webrocket")),
        ("no Connection", false, changed("Connection: Upgrade\r\n", "")),
        ("Connection: keep-alive", false, changed("Connection: Upgrade", "Connection: keep-alive")),
        ("HTTP/1.0", false, changed("HTTP/1.1", "HTTP/1.0")),
        ("POST", false, changed("GET ", "POST ")),
        ("HEAD", false, changed("GET ", "HEAD ")),
        ("HTTP/9.9", true, changed("HTTP/1.1", "HTTP/9.9")),
        ("HTTP/2 preface", true, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("no Host", true, changed(&host, "")),
        ("two Hosts", true, changed(&host, &host.repeat(2))),
        ("a Host with a space", true, changed(&host, &host.replace("\r\n", " x\r\n"))),
        ("no key", true, changed(&format!("{key}\r\n"), "")),
        ("a key of 15 bytes", true, changed(KEY, "dGhlIHNhbXBsZSBub25j")),
        ("a key of 17 bytes", true, changed(KEY, "dGhlIHNhbXBsZSBub25jZWU=")),
        ("a key that is no base64", true, changed(KEY, "dGhlIHNhbXBsZSBub2!jZQ==")),
        ("two keys", true, changed(&key, &format!("{key}\r\n{key}"))),
    ];
    for (name, must_fail, request) in requests {
        arena.probe(name, |arena| {
            let mut peer = arena.connect()?;
            peer.send(request.as_bytes(), arena.patience());
            match peer.answer(arena.patience()) {
                Ok(answer) if answer.status == 101 => bad("answered 101"),
                Ok(answer) if must_fail && answer.status < 400 => bad(format!("answered {}", answer.status)),
                Ok(answer) => Ok(answer.status.to_string()),
                Err(Reaction::Dropped) => Ok("dropped".to_owned()),
                Err(reaction) => bad(reaction.to_string()),
            }
        });
    }
    for (name, version) in [("version 7", "7"), ("version 14", "14"), ("version x", "x"), ("no version", "")]
    {
        arena.probe(name, |arena| {
            let line = "Sec-WebSocket-Version: 13\r\n";
            let other = if version.is_empty() { String::new() } else { line.replace("13", version) };
            let mut peer = arena.connect()?;
            peer.send(good.replace(line, &other).as_bytes(), arena.patience());
            match peer.answer(arena.patience()) {
                Ok(answer) if answer.status < 400 => bad(format!("answered {}", answer.status)),
                // The server must say which version it speaks (RFC 6455 §4.4).
                Ok(answer)
                    if version == "14"
                        && !answer.values("sec-websocket-version").any(|v| v.contains("13")) =>
                {
                    bad(format!("{} without Sec-WebSocket-Version", answer.status))
                }
                Ok(answer) => Ok(answer.status.to_string()),
                Err(Reaction::Dropped) => Ok("dropped".to_owned()),
                Err(reaction) => bad(reaction.to_string()),
            }
        });
    }
}

/// Bytes where there should be none: bodies of upgrades, and what follows a refused one.
pub fn body(arena: &mut Arena<'_>) {
    let smuggled = text("smuggled");
    let length = smuggled.len();
    let with = |arena: &Arena<'_>, more: &str, body: &[u8]| {
        [upgrade_request(arena.target, more).as_bytes(), body].concat()
    };
    let body = with(arena, &format!("Content-Length: {length}\r\n"), &smuggled);
    arena.probe("a body that is a frame", |arena| smuggles(arena, &body, true));
    let chunk = [format!("{length:x}\r\n").as_bytes(), &smuggled, b"\r\n0\r\n\r\n"].concat();
    let chunked = with(arena, "Transfer-Encoding: chunked\r\n", &chunk);
    arena.probe("a chunked body", |arena| smuggles(arena, &chunked, true));
    for (name, more) in [
        ("Content-Length beside Transfer-Encoding", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ("two Content-Lengths", "Content-Length: 0\r\nContent-Length: 5\r\n"),
        ("a list of Content-Lengths", "Content-Length: 0, 5\r\n"),
        ("a negative Content-Length", "Content-Length: -5\r\n"),
        ("a Content-Length with a sign", "Content-Length: +5\r\n"),
        ("an endless Content-Length", "Content-Length: 99999999999999999999\r\n"),
        ("an unknown Transfer-Encoding", "Transfer-Encoding: xchunked\r\n"),
    ] {
        let request = with(arena, more, b"0\r\n\r\n");
        arena.probe(name, |arena| smuggles(arena, &[&request[..], &smuggled].concat(), false));
    }
    arena.probe("frames in the segment of the head", |arena| {
        let mut peer = arena.connect()?;
        peer.send(&with(arena, "", &smuggled), arena.patience());
        match peer.answer(arena.patience()) {
            Ok(answer) if answer.opens() => match peer.reaction(arena.patience()) {
                Reaction::Message(_, bytes) if bytes == b"smuggled" => Ok("echoed".to_owned()),
                Reaction::Silence(_) => bad("lost them"),
                other => Ok(other.to_string()),
            },
            Ok(answer) => Ok(answer.status.to_string()),
            Err(reaction) => Ok(reaction.to_string()),
        }
    });
    let get = format!("GET /smuggled HTTP/1.1\r\nHost: {}\r\n\r\n", arena.target.host);
    let refused = upgrade_request(arena.target, "").replace("Version: 13", "Version: 99");
    let keyless = upgrade_request(arena.target, "").replace(KEY, "no key");
    for (name, head, rest) in [
        ("a request behind a refused upgrade", &refused, get.as_bytes()),
        ("a request behind a key that is none", &keyless, get.as_bytes()),
        ("frames behind a refused upgrade", &refused, &smuggled[..]),
    ] {
        let whole = [head.as_bytes(), rest].concat();
        arena.probe(name, |arena| answered_once(arena, &whole));
    }
}

/// The server may refuse; if it does not, `smuggled` must not be taken for a frame. `skips` says
/// that it may also read over the body as it is declared.
fn smuggles(arena: &Arena<'_>, request: &[u8], skips: bool) -> Verdict {
    let mut peer = arena.connect()?;
    peer.send(request, arena.patience());
    match peer.answer(arena.patience()) {
        Ok(answer) if answer.opens() && skips => {
            peer.send(&frame(0x82, b"after the body"), arena.patience());
            match peer.reaction(arena.patience()) {
                Reaction::Message(_, bytes) if bytes == b"after the body" => {
                    Ok("skipped the body".to_owned())
                }
                Reaction::Close(_) | Reaction::Dropped => Ok("closed".to_owned()),
                other => bad(format!("took the body for a frame: {other}")),
            }
        }
        Ok(answer) if answer.status < 400 => bad(format!("answered {}", answer.status)),
        Ok(answer) => Ok(answer.status.to_string()),
        Err(Reaction::Dropped) => Ok("dropped".to_owned()),
        Err(reaction) => bad(reaction.to_string()),
    }
}

/// One error, and what follows is nobody's request.
fn answered_once(arena: &Arena<'_>, request: &[u8]) -> Verdict {
    let mut peer = arena.connect()?;
    peer.send(request, arena.patience());
    let status = match peer.answer(arena.patience()) {
        Ok(answer) if answer.status < 400 => return bad(format!("answered {}", answer.status)),
        Ok(answer) => answer.status.to_string(),
        Err(Reaction::Dropped) => return Ok("dropped".to_owned()),
        Err(reaction) => return bad(reaction.to_string()),
    };
    let ended = peer.ends(arena.patience());
    let rest = String::from_utf8_lossy(peer.unread_http());
    match rest.lines().any(|line| line.starts_with("HTTP/1.")) {
        true => bad(format!("{status}, and then answered what followed")),
        false if ended => Ok(format!("{status} and the end")),
        false => bad(format!("{status}, and stays open")),
    }
}

/// Pages of other sites (RFC 6455 §10.2).
pub fn origin(arena: &mut Arena<'_>) {
    let host = arena.target.host.clone();
    let name_only = host.split(':').next().unwrap_or(&host);
    for (name, origin) in [
        ("another site", "https://evil.example".to_owned()),
        ("null", "null".to_owned()),
        ("this host as a prefix", format!("http://{name_only}.evil.example")),
        ("this host as user", format!("http://{host}@evil.example")),
        ("this host as path", format!("http://evil.example/{host}")),
        ("another port", format!("http://{name_only}:1")),
    ] {
        arena.probe(name, |arena| refuses_origin(arena, &format!("Origin: {origin}\r\n")));
    }
    let twice = format!("Origin: http://{host}\r\nOrigin: https://evil.example\r\n");
    arena.probe("two origins", |arena| refuses_origin(arena, &twice));
    arena.probe("its own site", |arena| {
        let mut peer = arena.connect()?;
        let own = format!("Origin: http://{host}\r\n");
        peer.send(upgrade_request(arena.target, &own).as_bytes(), arena.patience());
        // Its owner's list of origins may lack it.
        match peer.answer(arena.patience()) {
            Ok(answer) => Ok(answer.status.to_string()),
            Err(reaction) => bad(reaction.to_string()),
        }
    });
}

fn refuses_origin(arena: &Arena<'_>, more: &str) -> Verdict {
    let mut peer = arena.connect()?;
    peer.send(upgrade_request(arena.target, more).as_bytes(), arena.patience());
    match peer.answer(arena.patience()) {
        Ok(answer) if answer.status < 400 => bad(format!("answered {}", answer.status)),
        Ok(answer) => Ok(answer.status.to_string()),
        Err(Reaction::Dropped) => Ok("dropped".to_owned()),
        Err(reaction) => bad(reaction.to_string()),
    }
}
