//! Inflating messages (RFC 7692 §7.2.2), in steps of the caller's choice and within bounds.

use super::TAIL;
use crate::simd::Utf8;
use crate::ws::{Kind, Violation};
use std::fmt;
use zlib_rs::{Inflate, InflateFlush, Status};

/// Inflated bytes of a message before its ratio is judged.
const RATIO_GRACE_BYTES: u64 = 64 << 10;

/// [`TAIL`], and behind it an empty stored block, which an intact stream takes as such. After a
/// truncated one the tail may look like an end of its block, but inside a byte: what is left of that
/// byte are ones, and with them the stored block becomes an error or a final block.
const TAIL_AND_PROBE: [u8; 9] = [TAIL[0], TAIL[1], TAIL[2], TAIL[3], 0x00, 0x00, 0x00, 0xff, 0xff];

/// Inflates one message at a time.
pub struct Inflater {
    stream: Inflate,
}

impl Inflater {
    /// Bytes that a decompressor holds: the largest window and the state.
    pub const MEMORY_BYTES: usize = (32 << 10) + (16 << 10);

    /// A decompressor for streams with windows of any size.
    pub fn new() -> Self {
        Self { stream: Inflate::new(false, 15) }
    }

    /// Forgets the window, and the stream if it was corrupt.
    pub fn reset(&mut self) {
        self.stream.reset(false);
    }

    /// Inflates some of `input` into `out`. Returns the bytes written and whether that is all there
    /// is to say about `input`; with `ends`, `input` is the end of the message.
    fn inflate(&mut self, input: &mut &[u8], ends: bool, out: &mut [u8]) -> Result<(usize, bool), Violation> {
        let mut written = 0;
        loop {
            let call = self.call(input, &mut out[written..], InflateFlush::NoFlush)?;
            *input = &input[call.read..];
            written += call.wrote;
            if call.stream_end {
                self.begin_stream(&out[..written])?;
            }
            if written == out.len() {
                return Ok((written, false));
            } else if input.is_empty() {
                break;
            } else if call.read == 0 && call.wrote == 0 {
                return Err(Violation::CorruptDeflate);
            }
        }
        if ends {
            self.take_tail(&mut out[written..])?;
        }
        Ok((written, true))
    }

    /// The message is whole if what follows is taken for what it is, and says nothing.
    fn take_tail(&mut self, room: &mut [u8]) -> Result<(), Violation> {
        let (tail, probe) = (TAIL.len(), TAIL_AND_PROBE.len() - TAIL.len());
        for (input, read) in [(&TAIL_AND_PROBE[..], tail), (&TAIL_AND_PROBE[tail..], probe)] {
            let call = self.call(input, room, InflateFlush::Block)?;
            if call.read != read || call.wrote > 0 || call.stream_end {
                return Err(Violation::CorruptDeflate);
            }
        }
        Ok(())
    }

    fn call(&mut self, input: &[u8], out: &mut [u8], flush: InflateFlush) -> Result<Call, Violation> {
        let (before_in, before_out) = (self.stream.total_in(), self.stream.total_out());
        let status = self.stream.decompress(input, out, flush).map_err(|_| Violation::CorruptDeflate)?;
        Ok(Call {
            read: (self.stream.total_in() - before_in) as usize,
            wrote: (self.stream.total_out() - before_out) as usize,
            stream_end: status == Status::StreamEnd,
        })
    }

    /// After a block with BFINAL a new stream follows (§7.2.3.4). It may refer to what has been `said`
    /// in this step; who ends streams begins with a fresh window in practice.
    fn begin_stream(&mut self, said: &[u8]) -> Result<(), Violation> {
        self.stream.reset(false);
        self.stream.set_dictionary(said).map(drop).map_err(|_| Violation::CorruptDeflate)
    }
}

/// What one call of the engine did.
struct Call {
    read: usize,
    wrote: usize,
    stream_end: bool,
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

/// Bounds on an inflated message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InflateLimits {
    /// Inflated bytes; beyond it [`Violation::MessageTooBig`].
    pub max_message_bytes: u64,
    /// Inflated bytes for each compressed one, judged from the 65,536th on; beyond it
    /// [`Violation::DeflateRatio`]. 0: no bound.
    pub max_ratio: u32,
}

/// What [`Inflating::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the message now in the output. Text is valid so far.
    pub written: usize,
    /// All of the input is inflated; otherwise call again.
    pub done: bool,
}

/// A message on its way through an [`Inflater`]: counts its bytes and validates its text.
///
/// ```
/// use ringwire::ws::Kind;
/// use ringwire::ws::deflate::{InflateLimits, Inflater, Inflating};
///
/// let limits = InflateLimits { max_message_bytes: 1 << 20, max_ratio: 0 };
/// let (mut inflater, mut message, mut out) = (Inflater::new(), Inflating::new(Kind::Text), [0; 64]);
/// let mut input: &[u8] = &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]; // RFC 7692 §7.2.3.1
/// let step = message.step(&mut inflater, &mut input, true, &mut out, &limits)?;
/// assert!(step.done);
/// assert_eq!(&out[..step.written], b"Hello");
/// # Ok::<(), ringwire::ws::Violation>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Inflating {
    kind: Kind,
    utf8: Utf8,
    deflated_bytes: u64,
    inflated_bytes: u64,
}

impl Inflating {
    /// A message that begins.
    pub fn new(kind: Kind) -> Self {
        Self { kind, utf8: Utf8::default(), deflated_bytes: 0, inflated_bytes: 0 }
    }

    /// Text or binary.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Inflates some of `input` into `out`, which is not empty, and moves `input` on. `ends` says
    /// that the message ends with `input`; say so at every call for it. Call until
    /// [`done`](Step::done).
    ///
    /// # Errors
    /// The connection is to be failed. The inflater needs a [`reset`](Inflater::reset).
    pub fn step(
        &mut self,
        inflater: &mut Inflater,
        input: &mut &[u8],
        ends: bool,
        out: &mut [u8],
        limits: &InflateLimits,
    ) -> Result<Step, Violation> {
        // One byte beyond the limit tells that it is exceeded.
        let room = limits.max_message_bytes.saturating_sub(self.inflated_bytes).saturating_add(1);
        let room = usize::try_from(room).map_or(out.len(), |room| room.min(out.len()));
        let before = input.len();
        let (written, done) = inflater.inflate(input, ends, &mut out[..room])?;
        self.deflated_bytes += (before - input.len()) as u64;
        self.inflated_bytes += written as u64;
        if self.inflated_bytes > limits.max_message_bytes {
            return Err(Violation::MessageTooBig);
        }
        let allowed = self.deflated_bytes.saturating_mul(limits.max_ratio.into()).max(RATIO_GRACE_BYTES);
        if limits.max_ratio > 0 && self.inflated_bytes > allowed {
            return Err(Violation::DeflateRatio);
        }
        if self.kind == Kind::Text {
            self.utf8.validate(&out[..written]).map_err(|_| Violation::InvalidUtf8)?;
            if ends && done {
                self.utf8.finish().map_err(|_| Violation::InvalidUtf8)?;
            }
        }
        Ok(Step { written, done })
    }
}
