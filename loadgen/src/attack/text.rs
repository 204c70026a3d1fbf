//! Content: text that is none, and bytes that nobody sent.

use super::arena::{Arena, bad};
use super::peer::{Reaction, close, frame};
use std::time::Duration;

/// Content that does not fit its kind; or, for who does not tell, an error or a policy violation.
const CONTENT: &[u16] = &[1002, 1007, 1008];
/// A server that fails fast has done so by then.
const FAST: Duration = Duration::from_millis(100);

/// RFC 6455 §8.1.
pub fn invalid(arena: &mut Arena<'_>) {
    let texts: [(&str, &[u8]); 12] = [
        ("a lone continuation byte", b"a\x80b"),
        ("a byte that never stands in UTF-8", b"a\xffb"),
        ("a character cut off", b"abc\xe2\x82"),
        ("an overlong slash", b"\xc0\xaf"),
        ("an overlong NUL", b"\xe0\x80\x80"),
        ("a surrogate", b"\xed\xa0\x80"),
        ("a pair of surrogates", b"\xed\xa0\xbd\xed\xb8\x80"),
        ("beyond U+10FFFF", b"\xf4\x90\x80\x80"),
        ("five bytes", b"\xf8\x88\x80\x80\x80"),
        ("behind 63 good bytes", b"...............................................................\xff"),
        ("behind a good character", "µ\u{10ffff}".as_bytes()),
        ("in the second half", b"0123456789abcdef0123456789abcdef\xe2\x28\xa1"),
    ];
    for (name, bytes) in texts {
        if std::str::from_utf8(bytes).is_ok() {
            // Shows that it is not text as such that is refused.
            arena.must_echo("text that is UTF-8", &[&frame(0x81, bytes)], &[bytes]);
            let pieces: Vec<Vec<u8>> = (0..bytes.len())
                .map(|at| frame(if at == 0 { 0x01 } else { 0x00 }, &bytes[at..=at]))
                .chain([frame(0x80, b"")])
                .collect();
            arena.must_echo("a byte in each fragment", &[&pieces.concat()], &[bytes]);
            continue;
        }
        arena.must_fail(name, &[&frame(0x81, bytes)], CONTENT);
        let split = bytes.len() / 2;
        let fragments = [frame(0x01, &bytes[..split]), frame(0x80, &bytes[split..])];
        arena.must_fail(&format!("{name}, in fragments"), &[&fragments[0], &fragments[1]], CONTENT);
    }
    arena.probe("a message that is not yet whole", |arena| {
        let mut peer = arena.open("")?;
        peer.send(&frame(0x01, b"abc\xffdef"), arena.patience());
        match peer.reaction(FAST) {
            Reaction::Silence(_) => {
                // Who waits for the end of the message may, but has to see it then.
                peer.send(&frame(0x80, b"."), arena.patience());
                arena.failed(&mut peer, CONTENT).map(|seen| format!("{seen}, at the end of the message"))
            }
            Reaction::Close(Some(code)) if CONTENT.contains(&code) => Ok(format!("close {code} at once")),
            Reaction::Dropped => Ok("dropped at once".to_owned()),
            other => bad(other.to_string()),
        }
    });
    let reason = close(1000, b"bye \xff");
    arena.must_fail("a Close whose reason is not UTF-8", &[&reason], CONTENT);
}

/// Every size, cut at several places: the echo is what was sent.
pub fn stale_bytes(arena: &mut Arena<'_>) {
    let content = |size: usize, salt: usize| -> Vec<u8> {
        (0..size).map(|at| ((at + salt) * 31 % 251) as u8).collect()
    };
    let around = [125, 126, 4_096, 16_384, 32_768, 65_535, 65_536, 131_072, 200_000];
    let sizes: Vec<usize> =
        (0..=300).chain(around.into_iter().flat_map(|size| size - 1..=size + 1)).collect();
    arena.probe("messages", |arena| {
        let mut peer = arena.open("")?;
        for size in &sizes {
            let payload = content(*size, size + 1);
            let bytes = frame(0x82, &payload);
            for cut in [bytes.len(), 1, 3, 7, bytes.len() / 2, bytes.len() - 1] {
                let (first, second) = bytes.split_at(cut.min(bytes.len()));
                peer.send(first, arena.patience());
                if !second.is_empty() && size % 16 == 0 {
                    // Long enough for the server to look at the half of it.
                    std::thread::sleep(Duration::from_millis(2));
                }
                peer.send(second, arena.patience());
                match peer.reaction(arena.patience()) {
                    Reaction::Message(_, echo) if echo == payload => {}
                    Reaction::Message(_, echo) => {
                        let at = echo.iter().zip(&payload).take_while(|(a, b)| a == b).count();
                        let len = echo.len();
                        return bad(format!("{size} bytes cut at {cut}: {len} came, wrong from byte {at}"));
                    }
                    other => return bad(format!("{size} bytes cut at {cut}: {other}")),
                }
            }
        }
        Ok(format!("{} echoes are what was sent", sizes.len() * 6))
    });
    arena.probe("pings", |arena| {
        let mut peer = arena.open("")?;
        for size in 0..=125 {
            let payload = content(size, 7);
            let bytes = frame(0x89, &payload);
            let (first, second) = bytes.split_at(bytes.len() / 2);
            let before = peer.pongs;
            peer.send(first, arena.patience());
            peer.send(second, arena.patience());
            if !peer.pong_beyond(before, arena.patience()) {
                return bad(format!("no pong of {size} bytes: {}", peer.reaction(Duration::ZERO)));
            }
            if peer.last_pong != payload {
                return bad(format!("the pong of {size} bytes is not what was sent"));
            }
        }
        Ok("126 pongs are what was sent".to_owned())
    });
    arena.probe("a short message behind a long one", |arena| {
        let mut peer = arena.open("")?;
        for size in [100_000, 1, 5_000, 3, 100, 0] {
            let payload = content(size, size);
            let split = size / 2;
            peer.send(&frame(0x02, &payload[..split]), arena.patience());
            peer.send(&frame(0x80, &payload[split..]), arena.patience());
            match peer.reaction(arena.patience()) {
                Reaction::Message(_, echo) if echo == payload => {}
                other => return bad(format!("{size} bytes: {other}")),
            }
        }
        Ok("echoed".to_owned())
    });
}
