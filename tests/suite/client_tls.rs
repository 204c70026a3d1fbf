//! TLS for the [`Peer`](crate::peer::Peer): rustls' buffered connection, which shares no record
//! layer with the server under test. And the certificate that both ends know.

#![cfg_attr(not(feature = "tls"), allow(dead_code))]

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::{Arc, OnceLock};

/// The host that the certificate is for.
pub const HOST: &str = "ringwire.test";

/// A certificate and its key, signed by itself.
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    pub certificate_pem: String,
    pub key_pem: String,
    pub key: Vec<u8>,
}

impl Identity {
    /// One for these hosts, of a key whose signatures are all of one length: so are the handshakes then.
    pub fn of(hosts: &[&str]) -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let params = CertificateParams::new(hosts.iter().map(|host| host.to_string()).collect::<Vec<_>>());
        let certificate = params.unwrap().self_signed(&key).unwrap();
        Self {
            certificate_pem: certificate.pem(),
            certificate: certificate.der().clone(),
            key_pem: key.serialize_pem(),
            key: key.serialize_der(),
        }
    }

    /// The server's.
    pub fn of_the_server() -> &'static Self {
        static SERVER: OnceLock<Identity> = OnceLock::new();
        SERVER.get_or_init(|| Self::of(&[HOST, "localhost", "127.0.0.1"]))
    }
}

/// What the server listens with. `RINGWIRE_KERNEL_TLS=1` gives its keys to the kernel (`tests/ktls/run`).
#[cfg(feature = "tls")]
pub fn server_config() -> ringwire::TlsConfig {
    static CONFIG: OnceLock<ringwire::TlsConfig> = OnceLock::new();
    let asked = std::env::var_os("RINGWIRE_KERNEL_TLS").is_some_and(|value| value == "1");
    let kernel = if asked { ringwire::KernelTls::Required } else { ringwire::KernelTls::Off };
    CONFIG.get_or_init(|| server_builder().kernel(kernel).build().unwrap()).clone()
}

/// The same, not yet built.
#[cfg(feature = "tls")]
pub fn server_builder() -> ringwire::TlsConfigBuilder {
    let server = Identity::of_the_server();
    ringwire::TlsConfig::builder().certificate(server.certificate_pem.clone(), server.key_pem.clone())
}

/// One end of TLS, without a socket.
pub struct ClientTls {
    connection: Connection,
    is_fresh: bool,
    /// Why it failed.
    pub error: Option<rustls::Error>,
}

impl Default for ClientTls {
    fn default() -> Self {
        static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
        Self::with(CONFIG.get_or_init(|| client_config(&[&TLS13, &TLS12], None)), HOST)
    }
}

/// A client's configuration that trusts the server, and shows an identity if it has one.
pub fn client_config(
    versions: &[&'static rustls::SupportedProtocolVersion],
    identity: Option<&Identity>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(Identity::of_the_server().certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { certificate, key, .. }) => {
            let key = PrivateKeyDer::try_from(key.clone()).unwrap();
            builder.with_client_auth_cert(vec![certificate.clone()], key).unwrap()
        }
    })
}

impl ClientTls {
    pub fn with(config: &Arc<ClientConfig>, host: &str) -> Self {
        let name = host.to_owned().try_into().unwrap();
        Self::of(Connection::Client(ClientConnection::new(config.clone(), name).unwrap()))
    }

    /// The far end of a connection that the service opened.
    pub fn serving() -> Self {
        let Identity { certificate, key, .. } = Identity::of_the_server();
        let key = PrivateKeyDer::try_from(key.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13, &TLS12]);
        let config = builder.unwrap().with_no_client_auth().with_single_cert(vec![certificate.clone()], key);
        Self::of(Connection::Server(ServerConnection::new(Arc::new(config.unwrap())).unwrap()))
    }

    fn of(mut connection: Connection) -> Self {
        connection.set_buffer_limit(None);
        Self { connection, is_fresh: true, error: None }
    }

    /// Whether nothing has been sent yet.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Whether the handshake is done, or has failed.
    pub fn is_done(&self) -> bool {
        !self.connection.is_handshaking() || self.error.is_some()
    }

    /// Whether the far end has said that it sends no more.
    pub fn is_ended(&mut self) -> bool {
        matches!(self.connection.reader().read(&mut [0]), Ok(0))
    }

    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// What waits to be sent.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        self.is_fresh = false;
        let mut out = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut out).unwrap();
        }
        out
    }

    /// Bytes for the wire.
    pub fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.connection.writer().write_all(bytes).unwrap();
        self.take_outgoing()
    }

    /// The last bytes for the wire.
    pub fn end(&mut self) -> Vec<u8> {
        self.connection.send_close_notify();
        self.take_outgoing()
    }

    /// Takes bytes from the wire, appends what they hold, and tells what is to be answered.
    pub fn open(&mut self, mut wire: &[u8], plain: &mut Vec<u8>) -> Vec<u8> {
        while !wire.is_empty() && self.error.is_none() {
            if self.connection.read_tls(&mut wire).unwrap() == 0 {
                // Nothing is heard after close_notify.
                break;
            }
            self.error = self.connection.process_new_packets().err();
            match self.connection.reader().read_to_end(plain) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
                _ => {}
            }
        }
        self.take_outgoing()
    }
}
