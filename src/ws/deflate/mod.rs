//! permessage-deflate (RFC 7692): what two ends agree upon, and messages through it.
//!
//! Sans-IO as the rest of the protocol, and without state of a connection: [`Inflater`] and
//! [`Deflater`] are lent to a message, or owned by a connection that agreed upon takeover. The one
//! contract: both ends use the [`DeflateParams`] that the handshake settled.

mod inflate;
mod negotiate;
mod shrink;

pub use inflate::{InflateLimits, Inflater, Inflating, Step};
pub use negotiate::{AnswerError, DeflateAnswer, DeflateOffer};
pub use shrink::Deflater;

use super::Role;

/// The extension's registered name.
pub const PERMESSAGE_DEFLATE: &str = "permessage-deflate";

/// How one end compresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Size of the LZ77 window as a power of two, 8 to 15 (RFC 7692 §7.1.2).
    pub bits: u8,
    /// Whether the window outlives a message ("context takeover", §7.1.1).
    pub takeover: bool,
}

impl Window {
    /// 32 KiB, kept from message to message: what is assumed where nothing is said.
    pub const FULL: Self = Self { bits: 15, takeover: true };

    const fn pack(self) -> u32 {
        (self.bits - 8) as u32 | (self.takeover as u32) << 3
    }

    const fn unpack(bits: u32) -> Self {
        Self { bits: 8 + (bits & 7) as u8, takeover: bits & 8 != 0 }
    }
}

/// What the two ends of a connection agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeflateParams {
    /// Messages of the server.
    pub server: Window,
    /// Messages of the client.
    pub client: Window,
}

impl DeflateParams {
    /// How `role` compresses what it sends.
    pub const fn outgoing(self, role: Role) -> Window {
        match role {
            Role::Server => self.server,
            Role::Client => self.client,
        }
    }

    /// How what `role` receives is compressed.
    pub const fn incoming(self, role: Role) -> Window {
        match role {
            Role::Server => self.client,
            Role::Client => self.server,
        }
    }

    /// Eight bits, for the session's word.
    pub(super) const fn pack(self) -> u32 {
        self.server.pack() | self.client.pack() << 4
    }

    pub(super) const fn unpack(bits: u32) -> Self {
        Self { server: Window::unpack(bits), client: Window::unpack(bits >> 4) }
    }
}

/// What every message ends with on the compressor's side and not on the wire: an empty stored block
/// without its first three bits (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_and_unpacks() {
        for server in 8..=15 {
            for client in 8..=15 {
                for takeover in [(false, false), (false, true), (true, false), (true, true)] {
                    let params = DeflateParams {
                        server: Window { bits: server, takeover: takeover.0 },
                        client: Window { bits: client, takeover: takeover.1 },
                    };
                    assert!(params.pack() < 256);
                    assert_eq!(DeflateParams::unpack(params.pack()), params);
                }
            }
        }
    }
}
