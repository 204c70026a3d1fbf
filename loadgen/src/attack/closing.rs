//! How connections end: in good order, in bad order, and not at all.

use super::arena::{Arena, Fault, Verdict, bad, send_pieces, skipped};
use super::peer::{Peer, Reaction, close, frame, text, upgrade_request};
use super::wait::{Waiter, wait};

const PROTOCOL: &[u16] = &[1002, 1008];

/// RFC 6455 §5.5.1, §7.
pub fn closing(arena: &mut Arena<'_>) {
    for (name, bytes) in [
        ("1000", close(1000, b"bye")),
        ("no code", frame(0x88, b"")),
        ("a reason of 123 bytes", close(1000, &[b'r'; 123])),
        ("1001", close(1001, b"")),
        ("1003", close(1003, b"")),
        ("1007", close(1007, b"")),
        ("1011", close(1011, b"")),
        ("3000", close(3000, b"")),
        ("4999", close(4999, b"")),
    ] {
        arena.probe(&format!("Close with {name}"), |arena| {
            let mut peer = arena.open("")?;
            peer.send(&bytes, arena.patience());
            closed(arena, &mut peer)
        });
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        arena.must_fail(&format!("code {code}"), &[&close(code, b"")], PROTOCOL);
    }
    arena.must_fail("a code of one byte", &[&frame(0x88, &[3])], PROTOCOL);
    arena.probe("a Close in single bytes", |arena| {
        let mut peer = arena.open("")?;
        let bytes = close(1000, b"slowly");
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        send_pieces(&mut peer, &pieces, arena.patience());
        closed(arena, &mut peer)
    });
    let rest: [(&str, Vec<u8>); 4] = [
        ("text", text("late")),
        ("a second Close", close(1001, b"again")),
        ("a ping", frame(0x89, b"late")),
        ("garbage", vec![0xff; 300]),
    ];
    for (name, late) in rest {
        arena.probe(&format!("{name} behind a Close"), |arena| {
            let mut peer = arena.open("")?;
            peer.send(&[close(1000, b""), late].concat(), arena.patience());
            let seen = closed(arena, &mut peer)?;
            if peer.pongs > 0 { bad("answered it") } else { Ok(seen) }
        });
    }
    arena.probe("both close at once", |arena| {
        let mut peer = arena.open("")?;
        peer.mute = true;
        // The first makes the server close; ours is on its way by then.
        peer.send(&[frame(0x83, b""), close(1000, b"")].concat(), arena.patience());
        match peer.reaction(arena.patience()) {
            Reaction::Close(Some(code)) if PROTOCOL.contains(&code) => {}
            Reaction::Dropped => return Ok("dropped".to_owned()),
            other => return bad(other.to_string()),
        }
        end_without_message(arena, &mut peer).map(|end| format!("one Close, then {end}"))
    });
    halves(arena);
}

/// Connections whose peer says no more, somewhere in the middle.
fn halves(arena: &mut Arena<'_>) {
    let whole = frame(0x82, &[b'x'; 300]);
    for (name, bytes) in [
        ("nothing", &[][..]),
        ("one byte of a header", &whole[..1]),
        ("half a header", &whole[..3]),
        ("a header", &whole[..8]),
        ("half a payload", &whole[..150]),
        ("half a message", &frame(0x01, b"never whole")),
        ("half a ping", &frame(0x89, b"ping")[..8]),
        ("half a Close", &close(1000, b"")[..7]),
    ] {
        arena.probe(&format!("{name}, then FIN"), |arena| {
            let mut peer = arena.open("")?;
            peer.send(bytes, arena.patience());
            peer.half_close();
            end_without_message(arena, &mut peer)
        });
        arena.probe(&format!("{name}, then a reset"), |arena| {
            let mut peer = arena.open("")?;
            peer.send(bytes, arena.patience());
            peer.reset();
            Ok("survived".to_owned())
        });
    }
    let request = upgrade_request(arena.target, "");
    arena.probe("half a head, then FIN", |arena| {
        let mut peer = arena.connect()?;
        peer.send(&request.as_bytes()[..request.len() / 2], arena.patience());
        peer.half_close();
        match peer.ends(arena.options.timeout) {
            true => Ok("ended".to_owned()),
            false => bad("stays open"),
        }
    });
}

/// A Close frame without an error, and then the end (RFC 6455 §7.1.1: the server's first).
fn closed(arena: &Arena<'_>, peer: &mut Peer) -> Verdict {
    match peer.reaction(arena.patience()) {
        Reaction::Close(Some(1002)) => return bad("close 1002"),
        Reaction::Close(_) => {}
        Reaction::Dropped => return bad("dropped without a Close frame"),
        other => return bad(other.to_string()),
    }
    end_without_message(arena, peer).map(|end| format!("Close, then {end}"))
}

/// The connection ends, and no message comes before.
fn end_without_message(arena: &Arena<'_>, peer: &mut Peer) -> Verdict {
    match peer.reaction(arena.options.timeout) {
        Reaction::Dropped => Ok("the end".to_owned()),
        Reaction::Close(_) if peer.ends(arena.options.timeout) => Ok("Close and the end".to_owned()),
        other => bad(other.to_string()),
    }
}

/// Whoever says nothing more is noticed by deadlines only.
pub fn vanishing(arena: &mut Arena<'_>) {
    let mute = |more: &[u8]| {
        arena.open("").map(|mut peer| {
            peer.mute = true;
            peer.send(more, arena.patience());
            peer
        })
    };
    let begun = |payload: &[u8]| {
        arena.open("").map(|mut peer| {
            peer.send(&frame(0x02, payload), arena.patience());
            peer
        })
    };
    let mut waiters = [
        Waiter::new("who ignores pings", mute(b""), b""),
        Waiter::new("who does not answer a Close", mute(&frame(0x83, b"")), b""),
        Waiter::new("half a frame and no more", mute(&frame(0x82, &[0; 1_000])[..500]), b""),
        Waiter::new("a message without end, silent", begun(b"x"), b""),
        Waiter::new("a message without end, a byte each second", begun(b"x"), &frame(0x00, b"x")),
    ];
    arena.probe("meanwhile", |arena| {
        wait(arena, &mut waiters).map(|()| "others are served".to_owned()).map_err(Fault::Bad)
    });
    for waiter in waiters {
        let timeout = arena.options.timeout.as_secs_f64();
        arena.probe(waiter.name, |_| {
            waiter.peer?;
            match (waiter.pinged, waiter.ended) {
                (Some(pinged), Some(ended)) => {
                    Ok(format!("ping after {:.1} s, the end after {:.1} s", seconds(pinged), seconds(ended)))
                }
                (None, Some(ended)) => Ok(format!("the end after {:.1} s", seconds(ended))),
                (Some(_), None) if waiter.name.starts_with("who") => {
                    bad(format!("pinged, and still open {timeout:.1} s after it"))
                }
                _ if waiter.name.contains("Close") => bad(format!("still open after {timeout:.1} s")),
                _ => skipped(format!("nothing came within {timeout:.1} s (--timeout waits longer)")),
            }
        });
    }
}

fn seconds(time: std::time::Duration) -> f64 {
    time.as_secs_f64()
}
