//! TLS as bytes in, bytes out: rustls makes the handshake, and what follows are records that are opened
//! where they lie and sealed straight into the send buffer.
//!
//! Touches no socket; files of certificates are read by [`TlsConfig`] alone. The contract of a
//! [`Connection`]: its caller gives it the peer's bytes in order, keeps those that were not used, and
//! sends in order what was written.
//!
//! # Why the records are not rustls' own
//!
//! rustls 0.23 copies what it opens into a vector for each record, and builds each record that it sends
//! in another. Its interface for kernel TLS hands over the keys instead, and keeps deriving new ones. So
//! an echo of 26 bytes takes 220 ns of opening and sealing and no allocation, where rustls' unbuffered
//! connection takes 360 ns and two (AES-256-GCM, AVX-512); and a connection that has been silent for long
//! keeps its secrets, some 1.1 KB with rustls' own state, but not the 1.3 KB of tables derived from them,
//! where rustls' connection is 2.4 KB.

mod alert;
mod config;
mod handshake;
mod pem;
mod record;
#[cfg(test)]
mod tests;

pub use alert::Alert;
pub use config::{ClientAuth, KernelTls, TlsClient, TlsConfig, TlsConfigBuilder};
pub use pem::Pem;

use handshake::{Handshake, Step};
use record::{Content, Records};
use rustls::ConnectionTrafficSecrets;
use rustls::pki_types::{CertificateDer, ServerName};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a handshake that a peer may send before it must make sense: rustls' own bound on one
/// message, and a record around it.
pub(crate) const MAX_HANDSHAKE_BYTES: usize = 80 << 10;

/// Plaintext bytes of the largest record.
pub(crate) const MAX_RECORD_BYTES: usize = record::MAX_PLAIN_BYTES;

/// Bytes that a sealed record is longer than its plaintext, at most.
pub(crate) const MAX_RECORD_OVERHEAD_BYTES: usize = record::OVERHEAD_BYTES;

/// Why TLS ended a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsFailure {
    /// The peer's: what it sent first is plain HTTP.
    PlainHttp,
    /// The peer's, or the two ends share no version, cipher suite or certificate they trust: the
    /// handshake failed. In rustls' words.
    Handshake(String),
    /// The peer's: a record that makes no sense or is not authentic; it is told this.
    Record(Alert),
    /// The peer ended it and told this.
    Told(Alert),
    /// Nobody's: the keys of a TLS 1.2 connection have been used up, after 2^24 records.
    Exhausted,
    /// Nobody's: keys were to be changed that the kernel had been given ([`KernelTls`]).
    KernelKeys,
    /// The host's: the cryptographic library failed.
    Internal,
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PlainHttp => f.write_str("the peer speaks plain HTTP"),
            Self::Handshake(text) => write!(f, "the TLS handshake failed: {text}"),
            Self::Record(alert) => write!(f, "the peer sent a TLS record that is not valid ({alert})"),
            Self::Told(alert) => write!(f, "the peer ended TLS: {alert}"),
            Self::Exhausted => f.write_str("the connection's TLS keys have been used up: connect again"),
            Self::KernelKeys => f.write_str("the kernel could not be given new TLS keys: connect again"),
            Self::Internal => f.write_str("the cryptographic library failed"),
        }
    }
}

impl std::error::Error for TlsFailure {}

impl From<Alert> for TlsFailure {
    fn from(alert: Alert) -> Self {
        Self::Record(alert)
    }
}

impl From<rustls::Error> for TlsFailure {
    fn from(error: rustls::Error) -> Self {
        Self::Handshake(error.to_string())
    }
}

/// The version of a TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// What the handshake of a connection found out. A handler is shown it by
/// [`Request::tls`](crate::Request::tls); nothing of it is kept for an open WebSocket.
#[derive(Clone, Debug)]
pub struct TlsInfo {
    server_name: Option<String>,
    alpn: Option<Vec<u8>>,
    version: TlsVersion,
    cipher_suite: &'static str,
    is_resumed: bool,
    certificates: Vec<CertificateDer<'static>>,
}

impl TlsInfo {
    /// The host that the client asked for (SNI, RFC 6066 §3), in lower case.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The protocol agreed upon (ALPN, RFC 7301): `http/1.1`, or `None` if the client offered none.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// TLS 1.2 or 1.3.
    pub fn version(&self) -> TlsVersion {
        self.version
    }

    /// By its registered name, as `TLS13_AES_128_GCM_SHA256`.
    pub fn cipher_suite(&self) -> &'static str {
        self.cipher_suite
    }

    /// Whether an earlier session went on (RFC 8446 §2.2).
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// The peer's certificates in DER, its own first: they have been verified ([`ClientAuth`]). Empty
    /// if it gave none.
    pub fn peer_certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.certificates.iter().map(AsRef::as_ref)
    }
}

/// What the bytes at the front of the input were.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Data, in the input at this place.
    Data(Range<usize>),
    /// The rest is not a whole record.
    Wait,
    /// The peer has said that it sends no more.
    Closed,
}

/// Where a handshake stands.
#[derive(Debug)]
pub(crate) enum Shaken {
    /// More must come from the peer.
    Wait,
    /// It is done. The data, if any, came with the peer's last message.
    Done(Box<TlsInfo>, Vec<u8>),
}

#[derive(Debug)]
enum Stage {
    /// Nothing has come; a server's connection is made when something does.
    Fresh(Arc<rustls::ServerConfig>),
    Handshake(Box<Handshake>),
    Open(Records),
    /// Another has it, who takes a step of the handshake.
    Lent,
    Failed,
}

/// One connection's TLS.
#[derive(Debug)]
pub(crate) struct Connection {
    stage: Stage,
}

impl Connection {
    /// A server's end.
    pub(crate) fn server(config: &TlsConfig) -> Self {
        Self { stage: Stage::Fresh(config.current()) }
    }

    /// A client's end, which writes its first message to `out`.
    pub(crate) fn client(
        config: &TlsClient,
        name: ServerName<'static>,
        out: &mut Vec<u8>,
    ) -> Result<Self, TlsFailure> {
        let mut handshake = Handshake::client(config.rustls(), name)?;
        let (mut used, mut early) = (0, Vec::new());
        handshake.advance(&mut [], &mut used, out, &mut early)?;
        Ok(Self { stage: Stage::Handshake(Box::new(handshake)) })
    }

    /// Whether the handshake is done.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// Whether it is under way.
    pub(crate) fn is_shaking(&self) -> bool {
        matches!(self.stage, Stage::Fresh(_) | Stage::Handshake(_) | Stage::Lent)
    }

    /// Gives all of it away for a step of the handshake, until it is put back in place of this.
    pub(crate) fn lend(&mut self) -> Self {
        Self { stage: std::mem::replace(&mut self.stage, Stage::Lent) }
    }

    /// Whether it is to be put back.
    pub(crate) fn is_lent(&self) -> bool {
        matches!(self.stage, Stage::Lent)
    }

    /// Goes on with the handshake. `input` is all that has come and was not used; `used` counts what
    /// need not be kept. What the peer is to be sent, alerts included, is appended to `out`.
    pub(crate) fn shake(
        &mut self,
        input: &mut [u8],
        used: &mut usize,
        out: &mut Vec<u8>,
    ) -> Result<Shaken, TlsFailure> {
        let stage = std::mem::replace(&mut self.stage, Stage::Failed);
        let mut handshake = match stage {
            Stage::Fresh(config) => {
                if looks_like_http(input) {
                    return Err(TlsFailure::PlainHttp);
                }
                Box::new(Handshake::server(config)?)
            }
            Stage::Handshake(handshake) => handshake,
            Stage::Open(_) | Stage::Lent | Stage::Failed => return Err(TlsFailure::Internal),
        };
        let mut early = Vec::new();
        match handshake.advance(input, used, out, &mut early)? {
            Step::Wait => {
                self.stage = Stage::Handshake(handshake);
                Ok(Shaken::Wait)
            }
            Step::Done => {
                let (records, info) = handshake.finish()?;
                self.stage = Stage::Open(records);
                Ok(Shaken::Done(Box::new(info), early))
            }
        }
    }

    /// Gives a handshake up that asks for too much, and tells the peer so in the clear.
    pub(crate) fn abandon(&mut self, out: &mut Vec<u8>) {
        self.stage = Stage::Failed;
        let [level, description] = alert::DECODE_ERROR.to_bytes();
        out.extend_from_slice(&[21, 3, 3, 0, 2, level, description]);
    }

    /// Bytes of the record begun in `kept` that are still to come; 0 if it is whole.
    pub(crate) fn missing_bytes(kept: &[u8]) -> usize {
        record::missing_bytes(kept)
    }

    /// Opens records from `at` on, up to one with data, and moves `at` behind it. Warnings to the peer
    /// are appended to `out`.
    #[inline]
    pub(crate) fn open(
        &mut self,
        input: &mut [u8],
        at: &mut usize,
        out: &mut Vec<u8>,
    ) -> Result<Opened, TlsFailure> {
        let Stage::Open(records) = &mut self.stage else { return Err(TlsFailure::Internal) };
        while let Some(bytes) = record::record_bytes(&input[*at..])? {
            let begin = *at;
            *at += bytes;
            match records.open(&mut input[begin..*at], out)? {
                Content::Data(range) => return Ok(Opened::Data(begin + range.start..begin + range.end)),
                Content::Nothing => {}
                Content::CloseNotify => return Ok(Opened::Closed),
            }
        }
        Ok(Opened::Wait)
    }

    /// Appends `plain` to `out`, in records of at most `record_bytes` of it.
    #[inline]
    pub(crate) fn seal(
        &mut self,
        plain: &[u8],
        record_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), TlsFailure> {
        match &mut self.stage {
            Stage::Open(records) => records.seal(plain, record_bytes, out),
            _ => Err(TlsFailure::Internal),
        }
    }

    /// Appends the last record: what ended the connection, or that it ends in good order.
    pub(crate) fn seal_end(&mut self, failure: Option<&TlsFailure>, out: &mut Vec<u8>) {
        let alert = match failure {
            None | Some(TlsFailure::Exhausted | TlsFailure::KernelKeys) => alert::CLOSE_NOTIFY,
            Some(TlsFailure::Record(alert)) => *alert,
            Some(TlsFailure::Told(_)) => return,
            Some(_) => alert::INTERNAL_ERROR,
        };
        if let Stage::Open(records) = &mut self.stage {
            // Keys that are used up cannot say so.
            let _ = records.seal_alert(alert, out);
        }
    }

    /// Whether a record is to be sent that only the protocol asks for.
    pub(crate) fn owes(&self) -> bool {
        matches!(&self.stage, Stage::Open(records) if records.owes_update() || records.owed_alert.is_some())
    }

    /// The keys of the sending or the receiving half, with the number of the next record, and whether this
    /// is TLS 1.3; once the handshake is done.
    pub(crate) fn keys(&self, sending: bool) -> Option<(bool, u64, &ConnectionTrafficSecrets)> {
        match &self.stage {
            Stage::Open(records) => Some(records.keys(sending)),
            _ => None,
        }
    }

    /// The kernel has the sending keys: from here on nothing is sealed, and what would be is left for
    /// [`take_alert`](Self::take_alert).
    pub(crate) fn leave_sealing(&mut self) {
        if let Stage::Open(records) = &mut self.stage {
            records.kernel_seals = true;
            records.cool();
        }
    }

    /// The alert to be sent as a record of its own, with its type.
    pub(crate) fn take_alert(&mut self) -> Option<(u8, [u8; 2])> {
        match &mut self.stage {
            Stage::Open(records) => records.owed_alert.take().map(|alert| (record::ALERT, alert.to_bytes())),
            _ => None,
        }
    }

    /// Takes a record without data that the kernel has opened.
    pub(crate) fn opened(&mut self, kind: u8, content: &[u8]) -> Result<Opened, TlsFailure> {
        let Stage::Open(records) = &mut self.stage else { return Err(TlsFailure::Internal) };
        if records.is_key_update(kind, content) {
            return Err(TlsFailure::KernelKeys);
        }
        Ok(match records.opened(kind, content, &mut Vec::new())? {
            Content::CloseNotify => Opened::Closed,
            Content::Data(_) | Content::Nothing => Opened::Wait,
        })
    }

    /// What is told to a peer whose record the kernel could not open.
    pub(crate) fn bad_record() -> TlsFailure {
        alert::BAD_RECORD_MAC.into()
    }

    /// Appends what is owed.
    pub(crate) fn pay(&mut self, out: &mut Vec<u8>) -> Result<(), TlsFailure> {
        match &mut self.stage {
            Stage::Open(records) => records.update_if_owed(out),
            _ => Ok(()),
        }
    }

    /// Forgets what can be derived again: it has been silent.
    pub(crate) fn cool(&mut self) {
        if let Stage::Open(records) = &mut self.stage {
            records.cool();
        }
    }
}

/// Methods are upper-case words; no TLS record begins with a letter.
fn looks_like_http(input: &[u8]) -> bool {
    input.iter().take(3).all(u8::is_ascii_uppercase) && !input.is_empty()
}
