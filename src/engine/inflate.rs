//! From compressed frames to the handler (RFC 7692 §7.2.2).
//!
//! The compressed bytes lie in the receive buffer; they are inflated step by step into the core's
//! one buffer for it. A message that fits there is handed out from there; a larger one, or one that
//! comes in parts, goes on as uncompressed pieces do.

use super::receive::{self, deliver};
use crate::handler::{Conn, Handler};
use crate::ws::deflate::{Inflater, Inflating};
use crate::ws::{Kind, State, Violation};

/// A compressed message of which more is to come.
#[derive(Debug)]
pub struct Job {
    message: Inflating,
    inflater: Option<Inflater>,
    /// Compressed bytes, while there is no inflater for them.
    held: Vec<u8>,
    /// Something of it has gone to the handler, or to the assembly.
    begun: bool,
}

impl Job {
    /// Compressed bytes kept.
    pub fn held_bytes(&self) -> usize {
        self.held.capacity()
    }

    /// What is to be given back if the message does not come to its end.
    pub fn into_inflater(self) -> Option<Inflater> {
        self.inflater
    }
}

/// Takes part of a compressed message. On an error the connection is to be failed.
pub(super) fn piece<H: Handler>(
    handler: &mut H,
    conn: &mut Conn<'_, H::State>,
    kind: Kind,
    payload: &[u8],
    first: bool,
    last: bool,
) -> Result<(), Violation> {
    let mut job = if first {
        Job { message: Inflating::new(kind), inflater: None, held: Vec::new(), begun: false }
    } else {
        match conn.common.received(conn.slot).and_then(|received| received.inflating.take()) {
            Some(job) => *job,
            // Its beginning was not taken, as the connection was closing.
            None => return Ok(()),
        }
    };
    if first && !last {
        let tick = conn.common.tick;
        conn.common.receive(conn.slot).assembly_since = tick;
    }
    let (index, takeover) = (conn.token.slot, conn.slot.session.peer_keeps_window());
    if job.inflater.is_none() {
        job.inflater = conn.common.deflate.lend(index, takeover, last);
    }
    let Some(inflater) = &mut job.inflater else { return hold(conn, job, payload) };
    let mut held = std::mem::take(&mut job.held);
    let mut input = payload;
    if !held.is_empty() {
        held.extend_from_slice(payload);
        input = &held;
    }
    let mut out = conn.common.deflate.take_step();
    let inflated =
        inflate(handler, conn, &mut job.message, inflater, &mut job.begun, &mut input, last, &mut out);
    conn.common.deflate.return_step(out);
    if !last && inflated.is_ok() {
        conn.common.receive(conn.slot).inflating = Some(Box::new(job));
    } else if let Some(inflater) = job.inflater {
        conn.common.deflate.take_back(index, takeover, inflater);
    }
    inflated
}

/// Keeps compressed bytes until the message is whole.
fn hold<S>(conn: &mut Conn<'_, S>, mut job: Job, payload: &[u8]) -> Result<(), Violation> {
    if job.held.is_empty() {
        conn.common.stats.inflates_held.add(1);
    }
    job.held.extend_from_slice(payload);
    if job.held.len() > conn.common.limits.max_message_bytes as usize {
        return Err(Violation::MessageTooBig);
    }
    conn.common.receive(conn.slot).inflating = Some(Box::new(job));
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the parts of one job, borrowed apart")]
fn inflate<H: Handler>(
    handler: &mut H,
    conn: &mut Conn<'_, H::State>,
    message: &mut Inflating,
    inflater: &mut Inflater,
    begun: &mut bool,
    input: &mut &[u8],
    last: bool,
    out: &mut [u8],
) -> Result<(), Violation> {
    let max = match conn.streams_fragments() {
        true => u64::MAX,
        false => conn.common.limits.max_message_bytes.into(),
    };
    let limits = conn.common.deflate.inflate_limits(max);
    let deflated_bytes = input.len() as u64;
    loop {
        let step = message.step(inflater, input, last, out, &limits)?;
        let (chunk, ends) = (&out[..step.written], step.done && last);
        conn.common.stats.inflated_bytes.add(step.written as u64);
        let first = !std::mem::replace(begun, *begun || !chunk.is_empty());
        if first && ends {
            deliver::<true, H>(handler, conn, message.kind(), chunk);
        } else if !chunk.is_empty() || ends {
            receive::piece(handler, conn, message.kind(), chunk, first, ends);
        }
        // A handler of fragments may have closed the connection: it hears no more.
        if step.done || conn.slot.session.state() != State::Open {
            conn.common.stats.deflated_bytes_received.add(deflated_bytes);
            return Ok(());
        }
    }
}
