//! Much of what is legal in small amounts: fragments, pings, and messages that nobody reads.

use super::arena::{Arena, Verdict, bad, skipped};
use super::frames::find_limit;
use super::peer::{Peer, Reaction, frame};
use std::time::{Duration, Instant};

const MILLION: usize = 1_000_000;
/// Frames of one send.
const BATCH: usize = 10_000;
/// Not so much as one byte is taken for so long: the server reads no more.
const BLOCKED: Duration = Duration::from_secs(1);
/// A flood is over after so many times the timeout, however much the server takes.
const FLOOD_TIMEOUTS: u32 = 4;
/// Bytes of messages that a peer sends without reading one.
const UNREAD_BYTES: usize = 64 << 20;
/// Growth beyond it says that what a peer does not read is kept for it.
const KEPT_BYTES: u64 = 40 << 20;
/// A server may have had enough: by policy, by size, or because it is busy.
const ENOUGH: &[u16] = &[1002, 1008, 1009, 1011, 1013];

/// Messages in very many pieces.
pub fn fragments(arena: &mut Arena<'_>) {
    arena.probe("a million empty fragments", |arena| {
        let mut peer = arena.open("")?;
        peer.send(&frame(0x01, b"be"), arena.patience());
        batches(arena, &mut peer, &frame(0x00, b""))?;
        peer.send(&frame(0x80, b"gun"), arena.patience());
        whole_or_enough(arena, &mut peer, b"begun")
    });
    arena.probe("a million fragments of one byte", |arena| {
        let mut peer = arena.open("")?;
        peer.send(&frame(0x02, b"x"), arena.patience());
        batches(arena, &mut peer, &frame(0x00, b"x"))?;
        peer.send(&frame(0x80, b"x"), arena.patience());
        whole_or_enough(arena, &mut peer, &[b'x'; MILLION + 2])
    });
    arena.probe("fragments beyond the largest message", |arena| {
        let (_, refused) = find_limit(arena)?;
        let beyond = refused.map_or(UNREAD_BYTES, |bytes| bytes as usize).max(1 << 16);
        if beyond > 4 * UNREAD_BYTES {
            return skipped(format!("messages of {beyond} bytes are legal here"));
        }
        let mut peer = arena.open("")?;
        let piece = vec![b'x'; 1 << 16];
        peer.send(&frame(0x02, &piece), arena.patience());
        let piece = frame(0x00, &piece);
        for _ in 0..beyond >> 16 {
            if peer.send(&piece, arena.options.timeout) < piece.len() {
                break;
            }
        }
        arena.failed(&mut peer, ENOUGH)
    });
}

/// A million of a frame, while the bystander looks on. Ends early if the server has had enough.
fn batches(arena: &mut Arena<'_>, peer: &mut Peer, frame: &[u8]) -> Result<(), String> {
    let (batch, begin) = (frame.repeat(BATCH), Instant::now());
    for number in 0..MILLION / BATCH {
        if begin.elapsed() > FLOOD_TIMEOUTS * arena.options.timeout {
            let seconds = begin.elapsed().as_secs();
            return Err(format!("took only {} of them in {seconds} s", number * BATCH));
        }
        let sent = peer.send(&batch, arena.options.timeout);
        if sent < batch.len() && peer.ended().is_none() {
            let timeout = arena.options.timeout.as_secs_f64();
            return Err(format!("took nothing for {timeout} s after {} of them", number * BATCH));
        }
        if sent < batch.len() {
            break;
        }
        if number % 10 == 0 {
            arena.glance()?;
        }
    }
    Ok(())
}

fn whole_or_enough(arena: &Arena<'_>, peer: &mut Peer, message: &[u8]) -> Verdict {
    match peer.reaction(arena.options.timeout) {
        Reaction::Message(_, bytes) if bytes == message => Ok("echoed whole".to_owned()),
        Reaction::Message(_, bytes) => bad(format!("sent {} other bytes back", bytes.len())),
        Reaction::Close(Some(code)) if ENOUGH.contains(&code) => Ok(format!("close {code}")),
        Reaction::Dropped => Ok("dropped".to_owned()),
        other => bad(other.to_string()),
    }
}

/// Pings that ask for more answers than can be sent.
pub fn pings(arena: &mut Arena<'_>) {
    arena.probe("who takes the pongs", |arena| {
        let mut peer = arena.open("")?;
        batches(arena, &mut peer, &frame(0x89, b""))?;
        last_ping(arena, &mut peer)
    });
    arena.probe("who does not", |arena| {
        let mut peer = arena.open("")?;
        let batch = frame(0x89, &[b'p'; 125]).repeat(BATCH / 10);
        let (mut cut, mut taken, begin) = (0, 0, Instant::now());
        for number in 0..MILLION / (BATCH / 10) {
            let sent = peer.send_deaf(&batch, BLOCKED);
            taken += sent;
            if sent < batch.len() {
                cut = sent;
                break;
            }
            if number % 100 == 0 {
                arena.glance()?;
            }
            if begin.elapsed() > FLOOD_TIMEOUTS * arena.options.timeout {
                break;
            }
        }
        arena.glance()?;
        if let Some(grown) = arena.grown().filter(|grown| *grown > KEPT_BYTES) {
            return bad(format!("keeps pongs for it: {} MB more memory", grown / 1_000_000));
        }
        if peer.ended().is_none() && cut > 0 {
            // The half of a frame that was sent wants its other half.
            peer.send(&batch[cut..], arena.options.timeout);
        }
        let seen = last_ping(arena, &mut peer)?;
        Ok(format!("{seen}; {} MB of pings taken", taken / 1_000_000))
    });
}

/// The last ping must be answered (RFC 6455 §5.5.3), unless the server has had enough.
fn last_ping(arena: &Arena<'_>, peer: &mut Peer) -> Verdict {
    peer.send(&frame(0x89, b"the last"), arena.options.timeout);
    while peer.last_pong != b"the last" {
        if peer.pongs > MILLION as u64 + 1 {
            return bad(format!("{} pongs, more than there were pings", peer.pongs));
        }
        // As long as some come, the last may still be behind them.
        if !peer.pong_beyond(peer.pongs, arena.options.timeout) {
            return match peer.reaction(Duration::ZERO) {
                Reaction::Close(Some(code)) if ENOUGH.contains(&code) => Ok(format!("close {code}")),
                Reaction::Dropped => Ok("dropped".to_owned()),
                other => bad(format!("{} pongs, the last of them not: {other}", peer.pongs)),
            };
        }
    }
    Ok(format!("{} pongs, the last of them too", peer.pongs))
}

/// A peer that sends and does not read, and then does.
pub fn deaf_peer(arena: &mut Arena<'_>) {
    for (name, size) in [("messages of 16 KiB", 16 << 10), ("messages of 100 bytes", 100)] {
        arena.probe(name, |arena| deaf(arena, size));
    }
}

fn deaf(arena: &mut Arena<'_>, size: usize) -> Verdict {
    let mut peer = arena.open("")?;
    let message = |number: usize| {
        let mut payload = vec![number as u8; size];
        payload[..8].copy_from_slice(&(number as u64).to_be_bytes());
        payload
    };
    let before = arena.grown().unwrap_or(0);
    let per_batch = (1 << 20) / size;
    let (mut sent, mut batches) = (0, 0);
    let mut batch = Vec::new();
    let cut = loop {
        batch.clear();
        for number in 0..per_batch {
            batch.extend(frame(0x82, &message(batches * per_batch + number)));
        }
        batches += 1;
        let taken = peer.send_deaf(&batch, BLOCKED);
        sent += taken;
        arena.glance()?;
        if taken < batch.len() || sent > UNREAD_BYTES {
            break taken;
        }
    };
    let grown = arena.grown().map(|grown| grown.saturating_sub(before));
    let took_all = cut == batch.len();
    if took_all && grown.is_none_or(|grown| grown > KEPT_BYTES) {
        let more = grown.map_or(String::new(), |grown| format!(", {} MB more memory", grown / 1_000_000));
        return bad(format!("took {} MB from a peer that reads nothing{more}", sent / 1_000_000));
    }
    if peer.ended().is_some() {
        return Ok(format!("dropped after {} MB", sent / 1_000_000));
    }
    // From here on it reads, and what was taken has to come.
    peer.send(&batch[cut..], arena.options.timeout);
    for number in 0..batches * per_batch {
        match peer.reaction(arena.options.timeout) {
            Reaction::Message(_, bytes) if bytes == message(number) => {}
            Reaction::Message(..) => return bad(format!("answer {number} is another one")),
            Reaction::Close(Some(code)) if ENOUGH.contains(&code) => return Ok(format!("close {code}")),
            Reaction::Dropped => return Ok(format!("dropped after {number} answers")),
            other => return bad(format!("answer {number}: {other}")),
        }
    }
    let what = if took_all { "takes" } else { "is not read from beyond" };
    Ok(format!("{what} {} MB; then all answers came in order", sent / 1_000_000))
}
