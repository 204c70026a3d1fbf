//! The handshake, by rustls' unbuffered connections, up to the keys of the records that follow.
//!
//! Bytes in, bytes out. The contract: after [`Step::Done`], [`Handshake::finish`] is called before anything
//! else of the peer is looked at.

use super::record::Records;
use super::{TlsFailure, TlsInfo, TlsVersion, config};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, HandshakeKind, ProtocolVersion, ServerConfig};
use std::fmt;
use std::sync::Arc;

/// Room for one handshake record at a time; most are smaller.
const ENCODE_BYTES: usize = 4 << 10;

/// One end's handshake.
pub(super) enum Handshake {
    /// With the host that was asked for.
    Server(UnbufferedServerConnection, Option<String>),
    Client(UnbufferedClientConnection),
}

/// Where it stands.
#[derive(Debug)]
pub(super) enum Step {
    Wait,
    Done,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").finish_non_exhaustive()
    }
}

/// Makes a function for each role: they have the same methods, but no trait in common.
macro_rules! advance {
    ($name:ident, $connection:ty) => {
        fn $name(
            connection: &mut $connection,
            input: &mut [u8],
            used: &mut usize,
            out: &mut Vec<u8>,
            early: &mut Vec<u8>,
        ) -> Result<Step, TlsFailure> {
            loop {
                let UnbufferedStatus { discard, state, .. } =
                    connection.process_tls_records(&mut input[*used..]);
                let mut step = None;
                match state {
                    Ok(ConnectionState::EncodeTlsData(mut data)) => append(out, |room| data.encode(room))?,
                    Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                    Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                        while let Some(record) = traffic.next_record() {
                            early.extend_from_slice(record?.payload);
                        }
                    }
                    Ok(ConnectionState::BlockedHandshake) => step = Some(Step::Wait),
                    Ok(ConnectionState::WriteTraffic(_)) => step = Some(Step::Done),
                    Ok(_) => return Err(TlsFailure::Handshake("the peer closed it".to_owned())),
                    Err(error) => {
                        // What the peer is told waits to be encoded. Beyond that rustls must not be
                        // called: it would look for messages where it saw them before.
                        while connection.wants_write()
                            && let Ok(ConnectionState::EncodeTlsData(mut data)) =
                                connection.process_tls_records(&mut []).state
                        {
                            append(out, |room| data.encode(room))?;
                        }
                        return Err(error.into());
                    }
                }
                *used += discard;
                // What comes next is for the record layer, and must not be opened here.
                if !connection.is_handshaking() && !connection.wants_write() {
                    return Ok(Step::Done);
                }
                if let Some(step) = step {
                    return Ok(step);
                }
            }
        }
    };
}

advance!(advance_server, UnbufferedServerConnection);
advance!(advance_client, UnbufferedClientConnection);

impl Handshake {
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, TlsFailure> {
        Ok(Self::Server(UnbufferedServerConnection::new(config)?, None))
    }

    pub(super) fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, TlsFailure> {
        Ok(Self::Client(UnbufferedClientConnection::new(config, name)?))
    }

    /// Takes records from `input`, where `used` stands, and appends to `out` what the peer is to be
    /// sent, an alert included if this fails. Data that came along goes to `early`.
    pub(super) fn advance(
        &mut self,
        input: &mut [u8],
        used: &mut usize,
        out: &mut Vec<u8>,
        early: &mut Vec<u8>,
    ) -> Result<Step, TlsFailure> {
        match self {
            Self::Server(connection, name) => {
                let done = advance_server(connection, input, used, out, early);
                *name = config::take_asked_name().or_else(|| name.take());
                done
            }
            Self::Client(connection) => advance_client(connection, input, used, out, early),
        }
    }

    /// The keys, and what was found out.
    pub(super) fn finish(self) -> Result<(Records, TlsInfo), TlsFailure> {
        match self {
            Self::Server(connection, name) => {
                let info = info(&connection, name);
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                Ok((Records::server(secrets, kernel), info))
            }
            Self::Client(connection) => {
                let info = info(&connection, None);
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                Ok((Records::client(secrets, kernel), info))
            }
        }
    }
}

fn info(connection: &CommonState, server_name: Option<String>) -> TlsInfo {
    let suite = connection.negotiated_cipher_suite();
    TlsInfo {
        server_name,
        alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => TlsVersion::Tls13,
            _ => TlsVersion::Tls12,
        },
        cipher_suite: suite.and_then(|suite| suite.suite().as_str()).unwrap_or("unknown"),
        is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        certificates: connection.peer_certificates().map(<[_]>::to_vec).unwrap_or_default(),
    }
}

/// Gives `encode` the room it asks for at the end of `out`.
fn append(
    out: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), TlsFailure> {
    let begin = out.len();
    let mut room = ENCODE_BYTES;
    loop {
        out.resize(begin + room, 0);
        match encode(&mut out[begin..]) {
            Ok(bytes) => {
                out.truncate(begin + bytes);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(wanted)) => room = wanted.required_size,
            Err(EncodeError::AlreadyEncoded) => {
                out.truncate(begin);
                return Ok(());
            }
        }
    }
}
