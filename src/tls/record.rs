//! The record layer after the handshake: records opened where they lie, and sealed into the send buffer.
//!
//! Plain transformations of slices with keys that rustls derived (RFC 8446 §5, RFC 5246 §6.2). The
//! contract: each sequence number is used once, and what does not authenticate ends the connection.

use super::TlsFailure;
use super::alert::{self, Alert};
use aws_lc_rs::aead::{self, Aad, LessSafeKey, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::crypto::cipher::{Iv, Nonce, make_tls12_aad, make_tls13_aad};
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{
    ConnectionTrafficSecrets, ContentType, ExtractedSecrets, ProtocolVersion, SupportedCipherSuite,
};
use std::fmt;
use std::ops::Range;

/// Type, version and length.
pub(super) const HEADER_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
/// The part of TLS 1.2's AES-GCM nonce that a record carries (RFC 5288 §3).
const EXPLICIT_BYTES: usize = 8;
/// Plaintext bytes of one record (RFC 8446 §5.1).
pub(super) const MAX_PLAIN_BYTES: usize = 16 << 10;
/// Bytes that an encrypted record of TLS 1.3 may be longer than that (RFC 8446 §5.2).
const MAX_EXPANSION_BYTES: usize = 256;
/// Bytes that a record is longer than what it holds, at most.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + EXPLICIT_BYTES + 1 + TAG_BYTES;
/// Records in a row that bring no data: beyond it they are an attack on the processor.
const MAX_QUIET_RECORDS: u8 = 32;

const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Tls12,
    Tls13,
}

/// Keys of one direction.
struct Half {
    secrets: ConnectionTrafficSecrets,
    /// What is derived from them, some 600 bytes: made when it is needed.
    key: Option<LessSafeKey>,
    /// Of the next record.
    sequence: u64,
}

/// What derives the next keys, and whose end this is.
enum Schedule {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
}

/// The keys of an open connection.
pub(super) struct Records {
    version: Version,
    receiving: Half,
    sending: Half,
    /// Records after which the sending key must be changed (RFC 8446 §5.5).
    pub(super) max_records: u64,
    /// TLS 1.3 only: in TLS 1.2 keys do not change.
    schedule: Option<Box<Schedule>>,
    is_server: bool,
    /// Records in a row without data.
    quiet: u8,
    /// The peer asked for new keys, or ours have been used up.
    update_owed: bool,
    /// The kernel has the sending keys: nothing is sealed here any more.
    pub(super) kernel_seals: bool,
    /// To be sent as a record of its own, where the kernel seals.
    pub(super) owed_alert: Option<Alert>,
}

/// What a record held.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Data, in the record at this place.
    Data(Range<usize>),
    /// Nothing that concerns the caller.
    Nothing,
    /// The peer will send no more.
    CloseNotify,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Whole records at the front of `buf`: the length of the first, or `None` if it is not whole.
pub(super) fn record_bytes(buf: &[u8]) -> Result<Option<usize>, Alert> {
    let Some(header) = buf.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let whole = HEADER_BYTES + body_bytes(header)?;
    Ok((buf.len() >= whole).then_some(whole))
}

/// Bytes that the first record of `buf` lacks, as far as is known; 0 if it is whole.
pub(super) fn missing_bytes(buf: &[u8]) -> usize {
    match buf.first_chunk::<HEADER_BYTES>() {
        None => HEADER_BYTES - buf.len(),
        // A header that makes no sense is found out when the record is opened.
        Some(header) => (HEADER_BYTES + body_bytes(header).unwrap_or(0)).saturating_sub(buf.len()),
    }
}

fn body_bytes(header: &[u8; HEADER_BYTES]) -> Result<usize, Alert> {
    let [kind, major, _, high, low] = *header;
    if !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&kind) {
        return Err(alert::UNEXPECTED_MESSAGE);
    }
    if major != 3 {
        return Err(alert::DECODE_ERROR);
    }
    let bytes = usize::from(u16::from_be_bytes([high, low]));
    // RFC 5246 §6.2.3 allows so much more; less is allowed in TLS 1.3, which is looked at when it is opened.
    if bytes > MAX_PLAIN_BYTES + 2_048 { Err(alert::RECORD_OVERFLOW) } else { Ok(bytes) }
}

impl Records {
    /// Takes over a server's connection from rustls, whose handshake is done.
    pub(super) fn server(
        secrets: ExtractedSecrets,
        connection: KernelConnection<ServerConnectionData>,
    ) -> Self {
        let (version, suite) = (connection.protocol_version(), connection.negotiated_cipher_suite());
        Self::new(secrets, version, suite, Schedule::Server(connection))
    }

    /// Takes over a client's.
    pub(super) fn client(
        secrets: ExtractedSecrets,
        connection: KernelConnection<ClientConnectionData>,
    ) -> Self {
        let (version, suite) = (connection.protocol_version(), connection.negotiated_cipher_suite());
        Self::new(secrets, version, suite, Schedule::Client(connection))
    }

    fn new(
        secrets: ExtractedSecrets,
        version: ProtocolVersion,
        suite: SupportedCipherSuite,
        schedule: Schedule,
    ) -> Self {
        let version = if version == ProtocolVersion::TLSv1_3 { Version::Tls13 } else { Version::Tls12 };
        let max_records = match suite {
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
        };
        let is_server = matches!(schedule, Schedule::Server(_));
        let half = |(sequence, secrets)| Half { secrets, key: None, sequence };
        Self {
            version,
            receiving: half(secrets.rx),
            sending: half(secrets.tx),
            max_records,
            schedule: (version == Version::Tls13).then(|| Box::new(schedule)),
            is_server,
            quiet: 0,
            update_owed: false,
            kernel_seals: false,
            owed_alert: None,
        }
    }

    /// Whether a record is to be sent that nothing but the protocol asks for.
    pub(super) fn owes_update(&self) -> bool {
        self.update_owed
    }

    /// Forgets what can be derived again.
    pub(super) fn cool(&mut self) {
        self.receiving.key = None;
        self.sending.key = None;
    }

    /// Opens a whole record in place. Warnings to the peer are appended to `out`.
    pub(super) fn open(&mut self, record: &mut [u8], out: &mut Vec<u8>) -> Result<Content, TlsFailure> {
        let (kind, plain) = self.receiving.open(self.version, record)?;
        if kind == APPLICATION_DATA && !plain.is_empty() {
            self.quiet = 0;
            return Ok(Content::Data(plain));
        }
        self.opened(kind, &record[plain], out)
    }

    /// Takes what a record without data held, which was opened here or by the kernel.
    pub(super) fn opened(
        &mut self,
        kind: u8,
        content: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Content, TlsFailure> {
        self.quiet += 1;
        if self.quiet > MAX_QUIET_RECORDS {
            return Err(alert::UNEXPECTED_MESSAGE.into());
        }
        // Of these kinds there are no empty records (RFC 8446 §5.1).
        if content.is_empty() && matches!(kind, ALERT | HANDSHAKE) {
            return Err(alert::UNEXPECTED_MESSAGE.into());
        }
        match kind {
            APPLICATION_DATA => Ok(Content::Nothing),
            ALERT => self.on_alert(content),
            HANDSHAKE if self.version == Version::Tls13 => self.on_handshake(content),
            HANDSHAKE => self.on_renegotiation(content, out),
            _ => Err(alert::UNEXPECTED_MESSAGE.into()),
        }
    }

    /// Seals `plain` in records of at most `record_bytes`, behind what `out` holds.
    pub(super) fn seal(
        &mut self,
        plain: &[u8],
        record_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), TlsFailure> {
        for chunk in plain.chunks(record_bytes.min(MAX_PLAIN_BYTES)) {
            self.update_if_owed(out)?;
            self.sending.seal(self.version, APPLICATION_DATA, chunk, out)?;
        }
        Ok(())
    }

    /// Seals an alert, or leaves it for the kernel to seal.
    pub(super) fn seal_alert(&mut self, alert: Alert, out: &mut Vec<u8>) -> Result<(), TlsFailure> {
        if self.kernel_seals {
            self.owed_alert = Some(alert);
            return Ok(());
        }
        self.sending.seal(self.version, ALERT, &alert.to_bytes(), out)
    }

    /// TLS 1.3 or 1.2, and of the sending or the receiving half the next record's number and the keys.
    pub(super) fn keys(&self, sending: bool) -> (bool, u64, &ConnectionTrafficSecrets) {
        let half = if sending { &self.sending } else { &self.receiving };
        (self.version == Version::Tls13, half.sequence, &half.secrets)
    }

    /// Changes the sending key where the peer asked for it or it has been used long enough.
    pub(super) fn update_if_owed(&mut self, out: &mut Vec<u8>) -> Result<(), TlsFailure> {
        if !self.update_owed && self.sending.sequence < self.max_records {
            return Ok(());
        }
        // In TLS 1.2 a connection ends here.
        let Some(schedule) = &mut self.schedule else { return Err(TlsFailure::Exhausted) };
        let (sequence, secrets) = match &mut **schedule {
            Schedule::Server(connection) => connection.update_tx_secret(),
            Schedule::Client(connection) => connection.update_tx_secret(),
        }?;
        self.sending.seal(self.version, HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], out)?;
        self.sending = Half { secrets, key: None, sequence };
        self.update_owed = false;
        Ok(())
    }

    /// A record of this type, whatever it holds.
    #[cfg(test)]
    pub(super) fn seal_as(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) {
        self.sending.seal(self.version, kind, content, out).unwrap();
    }

    /// A message of the handshake, out of its time.
    #[cfg(test)]
    pub(super) fn seal_handshake(&mut self, message: &[u8], out: &mut Vec<u8>) {
        self.sending.seal(self.version, HANDSHAKE, message, out).unwrap();
    }

    fn on_alert(&mut self, content: &[u8]) -> Result<Content, TlsFailure> {
        let &[level, description] = content else { return Err(alert::DECODE_ERROR.into()) };
        match Alert(description) {
            alert::CLOSE_NOTIFY => Ok(Content::CloseNotify),
            // A message to users (RFC 8446 §6.1); in TLS 1.2 other warnings are none of ours.
            alert::USER_CANCELED => Ok(Content::Nothing),
            _ if self.version == Version::Tls12 && level == alert::WARNING => Ok(Content::Nothing),
            told => Err(TlsFailure::Told(told)),
        }
    }

    /// Whether the peer's next records have other keys, which the kernel that opens them would have to
    /// be given (it takes new ones since Linux 6.14).
    pub(super) fn is_key_update(&self, kind: u8, content: &[u8]) -> bool {
        self.version == Version::Tls13 && kind == HANDSHAKE && content.first() == Some(&KEY_UPDATE)
    }

    /// TLS 1.3: new keys, and for a client tickets, which it has no use for. Messages are whole within
    /// their record: nobody cuts these. New keys come last in it (RFC 8446 §5.1).
    fn on_handshake(&mut self, content: &[u8]) -> Result<Content, TlsFailure> {
        let mut rest = content;
        while let [NEW_SESSION_TICKET, high, middle, low, more @ ..] = rest {
            if self.is_server {
                return Err(alert::UNEXPECTED_MESSAGE.into());
            }
            let bytes = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
            rest = more.get(bytes..).ok_or(alert::DECODE_ERROR)?;
        }
        if let &[KEY_UPDATE, 0, 0, 1, request] = rest {
            if request > 1 {
                return Err(alert::ILLEGAL_PARAMETER.into());
            }
            let Some(schedule) = &mut self.schedule else { return Err(alert::UNEXPECTED_MESSAGE.into()) };
            let (sequence, secrets) = match &mut **schedule {
                Schedule::Server(connection) => connection.update_rx_secret(),
                Schedule::Client(connection) => connection.update_rx_secret(),
            }?;
            self.receiving = Half { secrets, key: None, sequence };
            if request == 1 && self.kernel_seals {
                return Err(TlsFailure::KernelKeys);
            }
            self.update_owed |= request == 1;
            return Ok(Content::Nothing);
        }
        if rest.is_empty() { Ok(Content::Nothing) } else { Err(alert::UNEXPECTED_MESSAGE.into()) }
    }

    /// TLS 1.2: refused, by a warning that need not end the connection (RFC 5246 §7.2.2).
    fn on_renegotiation(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<Content, TlsFailure> {
        let hello = if self.is_server { CLIENT_HELLO } else { 0 };
        if content.first() != Some(&hello) || self.quiet > 1 {
            return Err(alert::UNEXPECTED_MESSAGE.into());
        }
        self.seal_alert(alert::NO_RENEGOTIATION, out)?;
        Ok(Content::Nothing)
    }
}

impl Half {
    fn iv(&self) -> Result<&Iv, TlsFailure> {
        match &self.secrets {
            ConnectionTrafficSecrets::Aes128Gcm { iv, .. }
            | ConnectionTrafficSecrets::Aes256Gcm { iv, .. }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { iv, .. } => Ok(iv),
            _ => Err(TlsFailure::Internal),
        }
    }

    fn ready(&mut self) -> Result<&LessSafeKey, TlsFailure> {
        if self.key.is_none() {
            let (algorithm, key) = match &self.secrets {
                ConnectionTrafficSecrets::Aes128Gcm { key, .. } => (&aead::AES_128_GCM, key),
                ConnectionTrafficSecrets::Aes256Gcm { key, .. } => (&aead::AES_256_GCM, key),
                ConnectionTrafficSecrets::Chacha20Poly1305 { key, .. } => (&aead::CHACHA20_POLY1305, key),
                _ => return Err(TlsFailure::Internal),
            };
            let unbound = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| TlsFailure::Internal)?;
            self.key = Some(LessSafeKey::new(unbound));
        }
        self.key.as_ref().ok_or(TlsFailure::Internal)
    }

    fn explicit_bytes(&self, version: Version) -> usize {
        let counts = matches!(self.secrets, ConnectionTrafficSecrets::Chacha20Poly1305 { .. });
        if version == Version::Tls13 || counts { 0 } else { EXPLICIT_BYTES }
    }

    fn next_sequence(&mut self) -> Result<u64, TlsFailure> {
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1).ok_or(TlsFailure::Exhausted)?;
        Ok(sequence)
    }

    /// Opens a whole record; tells its type and where its content is.
    fn open(&mut self, version: Version, record: &mut [u8]) -> Result<(u8, Range<usize>), TlsFailure> {
        let (header, body) = record.split_at_mut(HEADER_BYTES);
        let explicit_bytes = self.explicit_bytes(version);
        if version == Version::Tls13 && header[0] != APPLICATION_DATA {
            return Err(alert::UNEXPECTED_MESSAGE.into());
        }
        if version == Version::Tls13 && body.len() > MAX_PLAIN_BYTES + MAX_EXPANSION_BYTES {
            return Err(alert::RECORD_OVERFLOW.into());
        }
        if body.len() < explicit_bytes + TAG_BYTES {
            return Err(alert::BAD_RECORD_MAC.into());
        }
        let sequence = self.next_sequence()?;
        let mut nonce = Nonce::new(self.iv()?, sequence).0;
        let (explicit, sealed) = body.split_at_mut(explicit_bytes);
        if !explicit.is_empty() {
            nonce[..4].copy_from_slice(&self.iv()?.as_ref()[..4]);
            nonce[4..].copy_from_slice(explicit);
        }
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let bytes = sealed.len() - TAG_BYTES;
        let key = self.ready()?;
        let opened = match version {
            Version::Tls13 => key.open_in_place(nonce, Aad::from(make_tls13_aad(sealed.len())), sealed),
            Version::Tls12 => {
                let kind = ContentType::from(header[0]);
                let aad = make_tls12_aad(sequence, kind, ProtocolVersion::TLSv1_2, bytes);
                key.open_in_place(nonce, Aad::from(aad), sealed)
            }
        };
        let plain = opened.map_err(|_| alert::BAD_RECORD_MAC)?;
        let begin = HEADER_BYTES + explicit_bytes;
        let (kind, bytes) = match version {
            Version::Tls12 => (header[0], bytes),
            Version::Tls13 => {
                // Padding is zeros behind the type, and no excuse for more than that (RFC 8446 §5.4).
                if plain.len() > MAX_PLAIN_BYTES + 1 {
                    return Err(alert::RECORD_OVERFLOW.into());
                }
                let at = plain.iter().rposition(|byte| *byte != 0).ok_or(alert::UNEXPECTED_MESSAGE)?;
                (plain[at], at)
            }
        };
        if bytes > MAX_PLAIN_BYTES {
            return Err(alert::RECORD_OVERFLOW.into());
        }
        Ok((kind, begin..begin + bytes))
    }

    /// Appends one record.
    fn seal(
        &mut self,
        version: Version,
        kind: u8,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), TlsFailure> {
        let explicit_bytes = self.explicit_bytes(version);
        let sequence = self.next_sequence()?;
        let nonce = Nonce::new(self.iv()?, sequence).0;
        let inner_kind = [kind];
        let (outer_kind, hidden): (u8, &[u8]) = match version {
            Version::Tls13 => (APPLICATION_DATA, &inner_kind),
            Version::Tls12 => (kind, &[]),
        };
        let body = explicit_bytes + plain.len() + hidden.len() + TAG_BYTES;
        let [high, low] = (body as u16).to_be_bytes();
        out.extend_from_slice(&[outer_kind, 3, 3, high, low]);
        out.extend_from_slice(&nonce[nonce.len() - explicit_bytes..]);
        let begin = out.len();
        out.resize(begin + plain.len() + hidden.len() + TAG_BYTES, 0);
        let (sealed, tail) = out[begin..].split_at_mut(plain.len());
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let key = self.ready()?;
        match version {
            Version::Tls13 => {
                let aad = Aad::from(make_tls13_aad(body));
                key.seal_out_of_place_scatter(nonce, aad, plain, sealed, hidden, tail)
            }
            Version::Tls12 => {
                let kind = ContentType::from(kind);
                let aad = make_tls12_aad(sequence, kind, ProtocolVersion::TLSv1_2, plain.len());
                key.seal_out_of_place_scatter(nonce, Aad::from(aad), plain, sealed, hidden, tail)
            }
        }
        .map_err(|_| TlsFailure::Internal)
    }
}
