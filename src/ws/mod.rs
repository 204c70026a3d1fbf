//! The WebSocket protocol (RFC 6455), sans-IO and for both roles: bytes in, events out.
//!
//! Nothing here holds a descriptor, reads a clock or draws random numbers; time, masks and keys are
//! the caller's inputs and every buffer is the caller's. The layers, from the bottom:
//!
//! - [`encode_message`] and its kin write frames;
//! - [`Session`] is the 24-byte state of one connection and decodes frames where they lie;
//! - [`deflate`] compresses and inflates messages (RFC 7692), where both ends agreed to;
//! - [`handshake`] (server) and [`client`] open a connection;
//! - [`Codec`] bundles a session with buffers, for whoever drives it over streams of their own.

mod carry;
mod close;
mod codec;
mod frame;
mod limits;
mod session;
pub(crate) mod text;

pub mod client;
pub mod deflate;
pub mod extension;
pub mod handshake;
mod origin;
mod prepared;

pub use carry::{MAX_CARRY, wanted};
pub use close::{CloseCode, Violation};
pub use codec::{Closing, Codec, Event, Message, Writer};
pub(crate) use frame::{
    BRIEF_ROOM, MAX_BRIEF, encode_brief, encode_in_frames, encode_joined_masked, encode_plain,
};
pub use frame::{
    FrameHead, Kind, MAX_CONTROL_PAYLOAD, MAX_HEADER, Opcode, Role, encode_close, encode_deflated,
    encode_fragment, encode_frame, encode_message, encode_ping, encode_pong, header_len, write_header,
};
pub use limits::DecodeLimits;
pub(crate) use origin::is_same_origin;
pub use prepared::Prepared;
pub use session::{Item, Session, State};
