//! The scenario `attack`: does to a server what has brought others down, and says what it did.
//!
//! Works against any WebSocket server that echoes. A row of [`ROWS`] is an attack or accident and
//! has several probes; each is judged by what any good server may do, so that failing a connection
//! by a Close frame or by cutting it are alike. After each probe a newcomer and a bystander must be
//! served promptly. No wait is longer than [`Options::timeout`].

mod arena;
mod bystander;
mod closing;
mod command;
mod crowds;
mod deflate;
mod floods;
mod frames;
mod handshake;
mod heads;
pub mod peer;
mod text;
mod wait;

use crate::result::{Attack, AttackRow};
use crate::target::Target;
use arena::Arena;
pub use command::{AttackArgs, attack, quick};
use std::time::{Duration, Instant};

/// How to attack.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of rows; empty for all.
    pub only: Vec<String>,
    /// How long a deadline of the server's may take.
    pub timeout: Duration,
    /// What the server says to be the largest message it takes; `None` finds it out.
    pub max_message_bytes: Option<u64>,
    /// Connections of storms.
    pub connections: usize,
    /// The server's process.
    pub pid: Option<u32>,
}

/// An attack, before it is made.
pub struct Row {
    /// For `--only`.
    pub name: &'static str,
    /// What is done to the server.
    pub attack: &'static str,
    /// What a good server does.
    pub wanted: &'static str,
    run: fn(&mut Arena<'_>),
}

/// All rows, in the order in which they run.
pub const ROWS: &[Row] = &[
    Row {
        name: "handshake",
        attack: "requests that are no good handshake: method, version, key, Host, Upgrade, Connection",
        wanted: "4xx (426 for the version) and no WebSocket; a plain request is answered",
        run: handshake::basics,
    },
    Row {
        name: "head-size",
        attack: "request heads without end, in large pieces and byte by byte (CVE-2023-43669, CVE-2024-37890)",
        wanted: "a cap on bytes and fields: 4xx or the end; a good head in single bytes is understood",
        run: heads::size,
    },
    Row {
        name: "slow-head",
        attack: "connections that say nothing, or one byte of a head each second (Slowloris)",
        wanted: "408 or the end, by a deadline",
        run: heads::slow,
    },
    Row {
        name: "head-injection",
        attack: "CR, LF and NUL inside of header fields, folded lines, spaces before colons",
        wanted: "400, or an answer that repeats none of it",
        run: heads::injection,
    },
    Row {
        name: "header-lists",
        attack: "subprotocol and extension lists that backtracking parsers die of (CVE-2021-32640, CVE-2020-7662)",
        wanted: "an answer at once, whichever it is",
        run: heads::lists,
    },
    Row {
        name: "upgrade-body",
        attack: "upgrades with a body, with Content-Length beside Transfer-Encoding, and bytes pipelined behind \
                 a refused one (CVE-2026-2833, RFC 9931)",
        wanted: "400 and the end; what follows is neither a frame nor a request",
        run: handshake::body,
    },
    Row {
        name: "cross-origin",
        attack: "a page of another site opens a socket (CVE-2026-44211)",
        wanted: "403, unless the server's owner wants any page",
        run: handshake::origin,
    },
    Row {
        name: "framing",
        attack: "reserved opcodes and bits, lengths not in their shortest form, fragments out of order",
        wanted: "1002",
        run: frames::framing,
    },
    Row {
        name: "masks",
        attack: "frames without a mask, and with masks as an attacker would choose them (CVE-2025-10148)",
        wanted: "1002 without a mask; any mask is taken off, and the server's own frames have none",
        run: frames::masks,
    },
    Row {
        name: "control-frames",
        attack: "control frames that are fragmented or longer than 125 bytes, or stand inside of a message",
        wanted: "1002; inside of a message they are legal",
        run: frames::control,
    },
    Row {
        name: "utf8",
        attack: "text that is not UTF-8, cut anywhere",
        wanted: "1007, and never an echo",
        run: text::invalid,
    },
    Row {
        name: "huge-length",
        attack: "frames that declare 2^64-1, 2^63 or 2^62 bytes, or more than the largest message \
                 (CVE-2020-27813, CVE-2020-13935, CVE-2026-27889)",
        wanted: "1002 or 1009 before anything is allocated",
        run: frames::huge_lengths,
    },
    Row {
        name: "stale-bytes",
        attack: "messages, pings and Close frames of every size, cut anywhere (CVE-2026-45736)",
        wanted: "what was sent comes back, and not a byte that was not",
        run: text::stale_bytes,
    },
    Row {
        name: "fragments",
        attack: "a message of a million empty fragments, or of as many of one byte (CVE-2026-48779, \
                 CVE-2026-12151, CVE-2026-65623)",
        wanted: "an echo, or 1008 or 1009; others are served meanwhile, and memory stays",
        run: floods::fragments,
    },
    Row {
        name: "pings",
        attack: "a million pings, by one that takes the pongs and by one that does not",
        wanted: "the last ping is answered; nothing piles up, and others are served",
        run: floods::pings,
    },
    Row {
        name: "deaf-peer",
        attack: "a peer that sends and never reads",
        wanted: "it is not read from, or it is closed; others are served; what was taken comes back in order",
        run: floods::deaf_peer,
    },
    Row {
        name: "deflate-offers",
        attack: "window bits out of range, unknown and repeated parameters (CVE-2026-2229)",
        wanted: "the offer is declined, or the handshake refused (RFC 7692 §7.1)",
        run: deflate::offers,
    },
    Row {
        name: "deflate-streams",
        attack: "compressed messages that are broken, or compressed where they may not be",
        wanted: "1002 or 1007",
        run: deflate::streams,
    },
    Row {
        name: "zip-bomb",
        attack: "kilobytes that inflate beyond the largest message (CVE-2016-10544, CVE-2026-39804, CVE-2026-1526)",
        wanted: "1009 while inflating; memory stays",
        run: deflate::bombs,
    },
    Row {
        name: "closing",
        attack: "half frames, Close frames cut anywhere, bytes behind a Close, both close at once, bad codes",
        wanted: "the right code once, then the end, and no echo after it",
        run: closing::closing,
    },
    Row {
        name: "in-flight",
        attack: "connections that die with answers under way, and newcomers in their places at once",
        wanted: "nobody gets another's bytes",
        run: crowds::in_flight,
    },
    Row {
        name: "noise",
        attack: "random bytes instead of heads and frames",
        wanted: "the end, or nothing; others are served",
        run: frames::noise,
    },
    Row {
        name: "churn",
        attack: "connections that open and close at once, in every way there is",
        wanted: "each is closed in good order, and others are served",
        run: crowds::churn,
    },
    Row {
        name: "accept-storm",
        attack: "many connect, say half of a request and leave, or stay and say nothing",
        wanted: "whoever was there is served; newcomers as soon as the storm is over",
        run: crowds::accept_storm,
    },
    Row {
        name: "half-messages",
        attack: "many begin a message at once and leave it there: receive buffers are what they take",
        wanted: "others are served, and whoever goes on gets its echo",
        run: crowds::half_messages,
    },
    Row {
        name: "reconnect-storm",
        attack: "all clients lose their connections and come back at once",
        wanted: "all are served",
        run: crowds::reconnect_storm,
    },
    Row {
        name: "vanishing",
        attack: "peers that answer neither pings nor Close frames, and messages that do not end",
        wanted: "closed by a deadline",
        run: closing::vanishing,
    },
    Row {
        name: "left-behind",
        attack: "a look at the server's process after all of it",
        wanted: "as many descriptors as before",
        run: crowds::left_behind,
    },
];

/// Attacks a server and tells of each row when it is over.
///
/// # Errors
/// In words, if there is no server that echoes.
pub fn run(
    target: &Target,
    options: &Options,
    progress: &mut dyn FnMut(&AttackRow),
) -> Result<Attack, String> {
    let mut arena = Arena::enter(target, options)?;
    let mut rows = Vec::new();
    let mut gone_since = None;
    let chosen = |row: &&Row| options.only.is_empty() || options.only.iter().any(|name| name == row.name);
    for row in ROWS.iter().filter(chosen) {
        let begin = Instant::now();
        let (outcome, seen) = match gone_since {
            Some(culprit) => ("skipped", format!("the server is gone since `{culprit}`")),
            None => {
                arena.begin();
                (row.run)(&mut arena);
                arena.end()
            }
        };
        if arena.gone {
            gone_since.get_or_insert(row.name);
        }
        let row = AttackRow {
            name: row.name.to_owned(),
            attack: row.attack.to_owned(),
            wanted: row.wanted.to_owned(),
            seen,
            outcome: outcome.to_owned(),
            duration_s: begin.elapsed().as_secs_f64(),
        };
        progress(&row);
        rows.push(row);
    }
    Ok(Attack { rows })
}
