//! A session with its buffers: WebSocket over any stream, without the engine.
//!
//! Still sans-IO: the caller reads bytes, [`feeds`](Codec::feed) them, and writes what has gathered
//! in [`Codec::output`]. Pings are answered and a Close frame is echoed by the codec.

use super::carry::{MAX_CARRY, wanted};
use super::deflate::{DeflateParams, Deflater, InflateLimits, Inflater, Inflating};
use super::frame::{encode_close, encode_deflated, encode_message, encode_ping, encode_pong};
use super::session::{Item, Session, State};
use super::text::validated;
use super::{CloseCode, DecodeLimits, Kind, Role, Violation};
use crate::config::DeflateConfig;
use std::fmt;

/// A whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// UTF-8.
    Text(&'a str),
    /// Any bytes.
    Binary(&'a [u8]),
}

impl<'a> Message<'a> {
    /// Its kind and its bytes.
    ///
    /// ```
    /// use ringwire::{Message, ws::Kind};
    /// assert_eq!(Message::Text("hi").parts(), (Kind::Text, b"hi".as_slice()));
    /// ```
    #[inline]
    pub fn parts(self) -> (Kind, &'a [u8]) {
        match self {
            Self::Text(text) => (Kind::Text, text.as_bytes()),
            Self::Binary(bytes) => (Kind::Binary, bytes),
        }
    }
}

/// What [`Codec::feed`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message, its fragments joined.
    Message(Message<'a>),
    /// A ping; its pong stands in the output already.
    Ping(&'a [u8]),
    /// A pong.
    Pong(&'a [u8]),
    /// The peer closes; the answer stands in the output already. Nothing comes after.
    Close {
        /// `None` if the peer gave none.
        code: Option<CloseCode>,
        /// Empty if the peer gave none.
        reason: &'a str,
    },
}

/// A message was not sent because a Close frame has been: no data may follow it (RFC 6455 §5.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing;

impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not sent: this end has closed the connection; open a new one")
    }
}

impl std::error::Error for Closing {}

type MaskSource = Box<dyn FnMut() -> [u8; 4] + Send>;

/// The sending half of a [`Codec`].
pub struct Writer {
    output: Vec<u8>,
    next_mask: Option<MaskSource>,
    close_sent: bool,
    deflate: Option<Box<Deflating>>,
}

/// What the sending half needs to compress.
struct Deflating {
    deflater: Deflater,
    takeover: bool,
    min_bytes: usize,
    scratch: Vec<u8>,
}

impl Writer {
    /// Appends a message to the output.
    ///
    /// # Errors
    /// [`Closing`] after [`close`](Self::close) or the peer's Close frame.
    pub fn send(&mut self, message: Message<'_>) -> Result<(), Closing> {
        if self.close_sent {
            return Err(Closing);
        }
        let mask = self.mask();
        let (kind, bytes) = match message {
            Message::Text(text) => (Kind::Text, text.as_bytes()),
            Message::Binary(bytes) => (Kind::Binary, bytes),
        };
        if let Some(deflate) = &mut self.deflate
            && bytes.len() >= deflate.min_bytes
            && deflate.deflater.compress(bytes, deflate.takeover, &mut deflate.scratch)
        {
            encode_deflated(&mut self.output, kind, &deflate.scratch, mask);
        } else {
            encode_message(&mut self.output, kind, bytes, mask);
        }
        Ok(())
    }

    /// Appends a ping with the first 125 bytes of `payload`.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn ping(&mut self, payload: &[u8]) -> Result<(), Closing> {
        if self.close_sent {
            return Err(Closing);
        }
        let mask = self.mask();
        encode_ping(&mut self.output, payload, mask);
        Ok(())
    }

    /// Appends a Close frame, as [`encode_close`](super::encode_close) does; a second one does nothing.
    pub fn close(&mut self, code: Option<CloseCode>, reason: &str) {
        if !self.close_sent {
            self.close_sent = true;
            let mask = self.mask();
            encode_close(&mut self.output, code, reason, mask);
        }
    }

    fn pong(&mut self, payload: &[u8]) {
        if !self.close_sent {
            let mask = self.mask();
            encode_pong(&mut self.output, payload, mask);
        }
    }

    fn mask(&mut self) -> Option<[u8; 4]> {
        self.next_mask.as_mut().map(|next| next())
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("output_bytes", &self.output.len())
            .field("close_sent", &self.close_sent)
            .finish_non_exhaustive()
    }
}

/// One end of a WebSocket connection after its opening handshake.
///
/// ```
/// use ringwire::ws::{Codec, Event, Message};
///
/// let mut server = Codec::server(1 << 20);
/// let mut client = Codec::client(1 << 20, || [1, 2, 3, 4]); // from a CSPRNG in earnest
/// client.writer().send(Message::Text("hello"))?;
///
/// let mut wire = std::mem::take(client.output());
/// server.feed(&mut wire, |event, writer| {
///     if let Event::Message(message) = event {
///         let _ = writer.send(message); // echo
///     }
/// })?;
/// assert_eq!(server.output(), b"\x81\x05hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Codec {
    session: Session,
    limits: DecodeLimits,
    carry: [u8; MAX_CARRY],
    carry_len: usize,
    assembly: Vec<u8>,
    inflate: Option<Box<Inflate>>,
    writer: Writer,
}

/// What the receiving half needs to inflate.
#[derive(Debug)]
struct Inflate {
    inflater: Inflater,
    takeover: bool,
    limits: InflateLimits,
    message: Inflating,
}

/// An assembly buffer beyond this is given back after its message.
const KEEP_ASSEMBLY_BYTES: usize = 64 << 10;

/// Bytes inflated at a time.
const INFLATE_STEP_BYTES: usize = 4 << 10;

impl Codec {
    /// The server's end. Messages beyond `max_message_bytes` close the connection with 1009.
    pub fn server(max_message_bytes: u32) -> Self {
        Self::new(Role::Server, max_message_bytes, None)
    }

    /// The client's end. `next_mask` is called once for each frame sent and must draw from a
    /// CSPRNG: whoever can predict masks chooses the bytes on the wire (RFC 6455 §5.3, §10.3).
    pub fn client(max_message_bytes: u32, next_mask: impl FnMut() -> [u8; 4] + Send + 'static) -> Self {
        Self::new(Role::Client, max_message_bytes, Some(Box::new(next_mask)))
    }

    fn new(role: Role, max_message_bytes: u32, next_mask: Option<MaskSource>) -> Self {
        Self {
            session: Session::new(role),
            limits: DecodeLimits { max_message_bytes, stream: false },
            carry: [0; MAX_CARRY],
            carry_len: 0,
            assembly: Vec::new(),
            inflate: None,
            writer: Writer { output: Vec::new(), next_mask, close_sent: false, deflate: None },
        }
    }

    /// Compresses and inflates as the handshake agreed to (RFC 7692); of `config`, level, least size
    /// and ratio count. A compressor and a decompressor are kept for as long as the codec lives.
    pub fn with_deflate(mut self, params: DeflateParams, config: &DeflateConfig) -> Self {
        let role = self.session.role();
        let (ours, theirs) = (params.outgoing(role), params.incoming(role));
        self.session.agree_deflate(params);
        self.inflate = Some(Box::new(Inflate {
            inflater: Inflater::new(),
            takeover: theirs.takeover,
            limits: InflateLimits {
                max_message_bytes: self.limits.max_message_bytes.into(),
                max_ratio: config.max_ratio,
            },
            message: Inflating::new(Kind::Binary),
        }));
        self.writer.deflate = Some(Box::new(Deflating {
            deflater: Deflater::new(config.level, ours.bits),
            takeover: ours.takeover,
            min_bytes: config.min_bytes as usize,
            scratch: Vec::new(),
        }));
        self
    }

    /// Where the closing handshake stands. At [`State::Closed`] write the rest of the output and
    /// close the transport.
    pub fn state(&self) -> State {
        let mut session = self.session;
        if self.writer.close_sent {
            session.close_sent();
        }
        session.state()
    }

    /// For sending; what is sent gathers in the [`output`](Self::output).
    pub fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }

    /// Bytes for the peer, in order. Write them and clear the vector, or drain what was written.
    /// It grows by at most the answers to what is fed and by what is sent: an owner who does not
    /// write it must stop feeding.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.writer.output
    }

    /// Takes bytes as they came, cut anywhere, and reports each event, in order, with the writer to
    /// answer on. All of `input` is consumed; its content is changed.
    ///
    /// # Errors
    /// What the peer did wrong. The Close frame that tells it stands in the output: write it, then
    /// close the transport.
    pub fn feed(
        &mut self,
        input: &mut [u8],
        mut on_event: impl FnMut(Event<'_>, &mut Writer),
    ) -> Result<(), Violation> {
        let result = self.decode(input, &mut on_event);
        if let Err(violation) = result {
            self.writer.close(Some(violation.close_code()), violation.as_str());
            self.carry_len = 0;
            self.assembly = Vec::new();
        }
        result
    }

    fn decode(
        &mut self,
        input: &mut [u8],
        on_event: &mut impl FnMut(Event<'_>, &mut Writer),
    ) -> Result<(), Violation> {
        let mut at = 0;
        while self.carry_len > 0 {
            let have = self.carry_len;
            let take = wanted(&self.carry[..have]).min(input.len() - at);
            self.carry[have..have + take].copy_from_slice(&input[at..at + take]);
            at += take;
            self.carry_len += take;
            let mut carry = self.carry;
            let carry = &mut carry[..self.carry_len];
            let mut carry_at = 0;
            let item = self.session.decode(carry, &mut carry_at, &self.limits)?;
            if carry_at > 0 {
                self.carry_len = 0;
            } else if at == input.len() {
                return Ok(());
            }
            if let Some(item) = item {
                self.deliver(item, carry, on_event)?;
            }
        }
        while let Some(item) = self.session.decode(input, &mut at, &self.limits)? {
            self.deliver(item, input, on_event)?;
        }
        let rest = &input[at..];
        self.carry[..rest.len()].copy_from_slice(rest);
        self.carry_len = rest.len();
        Ok(())
    }

    fn deliver(
        &mut self,
        item: Item,
        input: &[u8],
        on_event: &mut impl FnMut(Event<'_>, &mut Writer),
    ) -> Result<(), Violation> {
        match item {
            Item::Message { kind, payload } => on_event(message(kind, &input[payload]), &mut self.writer),
            Item::Piece { kind, payload, last, .. } => {
                self.assembly.extend_from_slice(&input[payload]);
                if last {
                    self.deliver_assembly(kind, on_event);
                }
            }
            Item::Deflated { kind, payload, first, last } => {
                let inflated = self.inflate(kind, &input[payload], first, last);
                inflated.inspect_err(|_| self.session.fail())?;
                if last {
                    self.deliver_assembly(kind, on_event);
                }
            }
            Item::Ping { payload } => {
                self.writer.pong(&input[payload.clone()]);
                on_event(Event::Ping(&input[payload]), &mut self.writer);
            }
            Item::Pong { payload } => on_event(Event::Pong(&input[payload]), &mut self.writer),
            Item::Close { code, reason } => {
                self.writer.close(code, "");
                on_event(Event::Close { code, reason: validated(&input[reason]) }, &mut self.writer);
            }
        }
        Ok(())
    }

    fn deliver_assembly(&mut self, kind: Kind, on_event: &mut impl FnMut(Event<'_>, &mut Writer)) {
        on_event(message(kind, &self.assembly), &mut self.writer);
        self.assembly.clear();
        self.assembly.shrink_to(KEEP_ASSEMBLY_BYTES);
    }

    /// Appends a piece of a compressed message to the assembly.
    fn inflate(&mut self, kind: Kind, mut piece: &[u8], first: bool, last: bool) -> Result<(), Violation> {
        let Some(inflate) = &mut self.inflate else { unreachable!("only an agreed session inflates") };
        if first {
            inflate.message = Inflating::new(kind);
            if !inflate.takeover {
                inflate.inflater.reset();
            }
        }
        loop {
            let start = self.assembly.len();
            self.assembly.resize(start + INFLATE_STEP_BYTES, 0);
            let out = &mut self.assembly[start..];
            let step = inflate.message.step(&mut inflate.inflater, &mut piece, last, out, &inflate.limits)?;
            self.assembly.truncate(start + step.written);
            if step.done {
                return Ok(());
            }
        }
    }
}

fn message(kind: Kind, payload: &[u8]) -> Event<'_> {
    Event::Message(match kind {
        Kind::Text => Message::Text(validated(payload)),
        Kind::Binary => Message::Binary(payload),
    })
}
