//! Messages that go to many: encoded once, and compressed once for each size of window.

use super::frame::{RSV1, encode_deflated, encode_message};
use super::{Kind, Message};
use crate::http::Event;
use bytes::Bytes;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// A message to be sent to many connections, on any thread. Clones share it.
///
/// The frame is encoded when it is first needed, and compressed when it first goes to a connection
/// that compresses; connections with the same window size share the result. A connection that keeps
/// its window between messages compresses for itself.
///
/// ```
/// use ringwire::{Message, Prepared};
/// let news = Prepared::text("goal!");
/// assert_eq!(news.message(), Message::Text("goal!"));
/// let same = news.clone(); // for another thread
/// # drop(same);
/// ```
#[derive(Clone)]
pub struct Prepared(Arc<Inner>);

struct Inner {
    message: Source,
    plain: OnceLock<Bytes>,
    /// By the window's bits, from 8.
    deflated: [OnceLock<Bytes>; 8],
    /// As a chunk.
    event: OnceLock<Bytes>,
    event_id: Option<Box<str>>,
}

enum Source {
    Text(String),
    Binary(Bytes),
    /// Another shard's, or that of all shards.
    Same(Prepared),
}

impl Inner {
    fn new(message: Source) -> Self {
        let (plain, deflated, event) = Default::default();
        Self { message, plain, deflated, event, event_id: None }
    }
}

impl Prepared {
    /// A text message.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Source::Text(text.into()))
    }

    /// A binary message.
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self::new(Source::Binary(bytes.into()))
    }

    /// A text message that goes to streams of events ([`Response::events`](crate::http::Response::events))
    /// with this id, from which a client that comes again goes on.
    pub fn text_with_event_id(text: impl Into<String>, id: impl Into<String>) -> Self {
        let id = Some(id.into().into_boxed_str());
        Self(Arc::new(Inner { event_id: id, ..Inner::new(Source::Text(text.into())) }))
    }

    fn new(message: Source) -> Self {
        Self(Arc::new(Inner::new(message)))
    }

    /// What is sent.
    pub fn message(&self) -> Message<'_> {
        match &self.0.message {
            Source::Text(text) => Message::Text(text),
            Source::Binary(bytes) => Message::Binary(bytes),
            Source::Same(origin) => origin.message(),
        }
    }

    pub(crate) fn parts(&self) -> (Kind, &[u8]) {
        match self.message() {
            Message::Text(text) => (Kind::Text, text.as_bytes()),
            Message::Binary(bytes) => (Kind::Binary, bytes),
        }
    }

    /// The same message with frames of its own. Encoding and compressing are still done once.
    pub(crate) fn for_shard(&self) -> Self {
        let origin = match &self.0.message {
            Source::Same(origin) => origin,
            _ => self,
        };
        Self::new(Source::Same(origin.clone()))
    }

    /// Bytes it holds, but for its frames.
    pub(crate) fn held_bytes(&self) -> usize {
        size_of::<Inner>() + self.parts().1.len()
    }

    /// The server's frame.
    pub(crate) fn plain(&self) -> &Bytes {
        self.0.plain.get_or_init(|| {
            if let Source::Same(origin) = &self.0.message {
                return Bytes::copy_from_slice(origin.plain());
            }
            let (kind, payload) = self.parts();
            let mut frame = Vec::with_capacity(super::header_len(payload.len(), false) + payload.len());
            encode_message(&mut frame, kind, payload, None);
            frame.into()
        })
    }

    /// A text message as one chunk with one event.
    pub(crate) fn event(&self) -> Option<&Bytes> {
        let (Message::Text(text), id) = (self.message(), self.event_id()) else { return None };
        Some(self.0.event.get_or_init(|| {
            let event = Event::data(text);
            let event = id.map_or(event, |id| event.id(id));
            let mut chunk = Vec::with_capacity(event.max_bytes() + 32);
            event.encode_chunk(&mut chunk);
            chunk.into()
        }))
    }

    fn event_id(&self) -> Option<&str> {
        match &self.0.message {
            Source::Same(origin) => origin.event_id(),
            _ => self.0.event_id.as_deref(),
        }
    }

    /// Compressed payload bytes of a frame of this message, if it is compressed.
    pub(crate) fn deflated_bytes(&self, frame: &[u8]) -> Option<usize> {
        match *frame {
            [b0, b1, ..] if b0 & RSV1 != 0 => Some(frame.len() - header_bytes(b1)),
            _ => None,
        }
    }

    /// The server's frame for a window of 8 to 15 bits; `compress` makes it small, or returns `None`
    /// if it cannot.
    pub(crate) fn deflated<T: AsRef<[u8]>>(
        &self,
        window_bits: u8,
        compress: impl FnOnce(&[u8]) -> Option<T>,
    ) -> &Bytes {
        self.0.deflated[usize::from(window_bits.clamp(8, 15) - 8)].get_or_init(|| {
            if let Source::Same(origin) = &self.0.message {
                return Bytes::copy_from_slice(origin.deflated(window_bits, compress));
            }
            let (kind, payload) = self.parts();
            match compress(payload) {
                Some(deflated) => {
                    let mut frame = Vec::with_capacity(deflated.as_ref().len() + super::MAX_HEADER);
                    encode_deflated(&mut frame, kind, deflated.as_ref(), None);
                    frame.into()
                }
                None => self.plain().clone(),
            }
        })
    }
}

/// Bytes of an unmasked frame's header whose second byte is `b1`.
const fn header_bytes(b1: u8) -> usize {
    match b1 {
        0..=125 => 2,
        126 => 4,
        _ => 10,
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Prepared").field(&self.message()).finish()
    }
}
