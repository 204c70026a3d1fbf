//! Connections this core opens: the client role.

use super::Core;
use super::slot::Phase;
use crate::driver::{Driver, PeerAddr, Token};
use crate::handler::{ClientRequest, Handler};
#[cfg(feature = "tls")]
use crate::tls::TlsFailure;
use crate::ws::Role;
use crate::ws::client::{ClientError, ClientHandshake, InvalidRequest};
use crate::ws::deflate::DeflateOffer;
use std::fmt;
use std::io;
use std::net::SocketAddr;

/// Why an outbound connection did not come about.
#[derive(Debug)]
pub enum ConnectError {
    /// The request itself is at fault: the caller's.
    Request(InvalidRequest),
    /// This host could not reach the other, or it refused.
    Io(io::Error),
    /// The server answered, but not with a WebSocket.
    Handshake(ClientError),
    /// The TLS handshake failed: by this end's check of the certificate, or by the server.
    #[cfg(feature = "tls")]
    Tls(TlsFailure),
    /// The server did not answer within `head_ms`.
    Timeout,
    /// The server ended the connection before it answered, or this end is going away.
    Disconnected,
    /// [`Limits::max_connections`](crate::Limits::max_connections) is reached.
    Full,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => write!(f, "the request is invalid: {error}"),
            Self::Io(error) => write!(f, "cannot connect: {error}"),
            Self::Handshake(error) => write!(f, "no WebSocket there: {error}"),
            #[cfg(feature = "tls")]
            Self::Tls(error) => error.fmt(f),
            Self::Timeout => f.write_str("the server did not answer the handshake in time"),
            Self::Disconnected => f.write_str("the connection ended before the handshake was answered"),
            Self::Full => f.write_str("no slot is free: raise max_connections or add shards"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// An outbound connection asked for.
#[derive(Debug)]
pub struct Connect<S> {
    pub(crate) to: SocketAddr,
    pub(crate) request: ClientRequest,
    pub(crate) state: S,
}

impl ClientRequest {
    fn handshake(
        &self,
        to: SocketAddr,
        key: [u8; 16],
        deflate: Option<DeflateOffer>,
    ) -> Result<ClientHandshake, InvalidRequest> {
        let host = if self.host.is_empty() { to.to_string() } else { self.host.clone() };
        let path = if self.path.is_empty() { "/" } else { &self.path };
        let mut handshake = ClientHandshake::new(&host, path, key)?;
        for subprotocol in &self.subprotocols {
            handshake = handshake.protocol(subprotocol)?;
        }
        if let Some(origin) = &self.origin {
            handshake = handshake.origin(origin)?;
        }
        for (name, value) in &self.headers {
            handshake = handshake.header(name.clone(), value.clone())?;
        }
        Ok(match deflate.filter(|_| !self.no_compression) {
            Some(offer) => handshake.deflate(offer),
            None => handshake,
        })
    }
}

impl<D: Driver, H: Handler> Core<D, H> {
    /// Hands the connections asked for to the driver.
    #[inline(never)]
    pub(super) fn start_connects(&mut self) {
        for connect in std::mem::take(&mut self.connects) {
            if self.common.draining {
                self.handler.connect_failed(connect.state, ConnectError::Disconnected);
                continue;
            }
            if !self.has_room() {
                self.handler.connect_failed(connect.state, ConnectError::Full);
                continue;
            }
            let (to, source) = (connect.to, connect.request.source);
            let tag = self.connecting.insert(connect) as u64;
            self.driver.connect(to, source, tag);
            self.pause_accept_if_full();
        }
    }

    pub(super) fn on_connected(&mut self, tag: u64, result: io::Result<D::Socket>) {
        let Some(connect) = self.connecting.try_remove(tag as usize) else {
            // The core has stopped and told the handler so.
            return if let Ok(socket) = result {
                self.driver.refuse(socket)
            };
        };
        let socket = match result {
            Ok(socket) if self.common.draining => {
                self.driver.refuse(socket);
                return self.handler.connect_failed(connect.state, ConnectError::Disconnected);
            }
            Ok(socket) => socket,
            Err(error) => {
                self.handler.connect_failed(connect.state, ConnectError::Io(error));
                return self.fill_room();
            }
        };
        let deflate = self.common.deflate.offer();
        let handshake = match self.common.entropy.key() {
            Ok(key) => connect.request.handshake(connect.to, key, deflate).map_err(ConnectError::Request),
            Err(error) => Err(ConnectError::Io(error)),
        };
        let secured = self.common.tls.prepare(&connect.request, connect.to);
        let (handshake, secured) = match handshake.and_then(|handshake| Ok((handshake, secured?))) {
            Ok(both) => both,
            Err(error) => {
                self.driver.refuse(socket);
                self.handler.connect_failed(connect.state, error);
                return self.fill_room();
            }
        };
        let token = self.insert(PeerAddr::Ip(connect.to), Phase::Connecting, Role::Client);
        self.driver.attach(token, socket);
        let Some((slot, state)) = self.table.get(token) else { return };
        *state = Some(connect.state);
        self.common.secure(slot, token, secured);
        self.common.append(slot, token, 512, |out| handshake.write_request(out));
        self.common.receive(slot).handshake = Some(Box::new(handshake));
        self.arm_within(token, self.common.deadlines.head_ms);
    }

    /// Ends a connection whose handshake did not succeed.
    pub(super) fn fail_connect(&mut self, token: Token, error: ConnectError) {
        let Some((slot, state)) = self.table.get(token) else { return };
        self.common.enter(slot, Phase::Closing);
        self.driver.close(token);
        if let Some(state) = state.take() {
            self.handler.connect_failed(state, error);
        }
    }
}
