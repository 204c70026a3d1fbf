//! What happened lately in a simulated world, for the message of a failing test.
//!
//! Keeps the last lines as plain values and formats only when asked, and a running hash over all
//! lines since the start: two runs with one hash did the same.

use std::collections::VecDeque;
use std::fmt::Write;

/// Lines kept.
const CAPACITY: usize = 512;

/// The ring of lines.
#[derive(Debug)]
pub(super) struct Trace {
    lines: VecDeque<Line>,
    hash: u64,
    total: u64,
}

#[derive(Debug)]
struct Line {
    at_ns: u64,
    wire: Option<u32>,
    what: &'static str,
    n: u64,
}

impl Trace {
    pub(super) fn new() -> Self {
        Self { lines: VecDeque::new(), hash: 0xCBF2_9CE4_8422_2325, total: 0 }
    }

    /// Notes that `what` happened, on a connection or to the driver as a whole, with the number
    /// that says most about it.
    pub(super) fn note(&mut self, at_ns: u64, wire: Option<u32>, what: &'static str, n: u64) {
        for word in [at_ns, wire.map_or(u64::MAX, u64::from), n] {
            self.mix(word);
        }
        for byte in what.bytes() {
            self.mix(u64::from(byte));
        }
        if self.lines.len() == CAPACITY {
            self.lines.pop_front();
        }
        self.lines.push_back(Line { at_ns, wire, what, n });
        self.total += 1;
    }

    /// FNV-1a's step, over words.
    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01B3).rotate_left(17);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// One line each, oldest first.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let dropped = self.total - self.lines.len() as u64;
        if dropped > 0 {
            let _ = writeln!(text, "({dropped} earlier lines)");
        }
        for Line { at_ns, wire, what, n } in &self.lines {
            let (ms, rest) = (at_ns / 1_000_000, at_ns % 1_000_000);
            let _ = match wire {
                Some(wire) => writeln!(text, "{ms:>8}.{rest:06} ms  #{wire:<4} {what} {n}"),
                None => writeln!(text, "{ms:>8}.{rest:06} ms  driver {what} {n}"),
            };
        }
        text
    }
}
