//! What a TLS listener or client is told: certificates, whom to trust, and how to change that later.
//!
//! Reads files when it is built or reloaded, never on a shard. The contract: what cannot work is an error
//! here, and a reload that fails leaves everything as it was.

use super::pem::{Pem, certified_key};
use crate::error::TlsError;
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, RwLock};

/// The protocol within: a WebSocket begins as HTTP/1.1 (RFC 6455 §4.1).
const ALPN: &[u8] = b"http/1.1";

/// Whether clients show certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    #[default]
    Off,
    /// They are asked; one that is shown must descend from these. The handler decides about those
    /// who show none ([`Request::tls`](crate::Request::tls)).
    Optional(Pem),
    /// Without one that descends from these the handshake fails.
    Required(Pem),
}

/// Whether the kernel seals and opens the records of a listener's connections, once their handshakes are
/// done (Linux 6.0 with the module `tls`): messages are sent and received as on a plain connection.
///
/// A key update ends such a connection, with close_notify: the peer is to connect again
/// (`ringwire_tls_kernel_key_ends_total`). Few peers make one before 2^24 records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelTls {
    /// It does not.
    #[default]
    Off,
    /// It does where it can. Where it cannot, ringwire does, which is counted
    /// (`ringwire_tls_kernel_refused_total`) and logged.
    Auto,
    /// As `Auto`, but a kernel without TLS is an error of [`ServerBuilder::bind`](crate::ServerBuilder::bind).
    Required,
}

/// Collects what a TLS listener is to be. See [`TlsConfig::builder`].
#[derive(Clone, Debug, Default)]
pub struct TlsConfigBuilder {
    certificates: Vec<(Pem, Pem)>,
    client_auth: ClientAuth,
    kernel: KernelTls,
}

impl TlsConfigBuilder {
    /// Adds a certificate, with the chain behind it, and its key, each in PEM: paths or text. Of several,
    /// a client gets the first one that is valid for the host it asks for (SNI), else the first.
    pub fn certificate(mut self, chain: impl Into<Pem>, key: impl Into<Pem>) -> Self {
        self.certificates.push((chain.into(), key.into()));
        self
    }

    /// Whether clients show certificates; default [`ClientAuth::Off`].
    pub fn client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.client_auth = client_auth;
        self
    }

    /// Whether the kernel seals and opens records; default [`KernelTls::Off`]. It is settled by
    /// [`build`](Self::build): neither [`TlsConfig::reload`] nor [`TlsConfig::replace`] changes it.
    pub fn kernel(mut self, kernel: KernelTls) -> Self {
        self.kernel = kernel;
        self
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// Names the file and says why it cannot be used: it is missing, the certificate has expired, the key
    /// is another's.
    pub fn build(self) -> Result<TlsConfig, TlsError> {
        let ticketer = aws_lc_rs::Ticketer::new().map_err(|_| TlsError::NoRandomness)?;
        let current = self.server_config(&ticketer)?;
        let kernel = self.kernel;
        let (plan, current) = (Mutex::new(self), RwLock::new(current));
        Ok(TlsConfig(Arc::new(Shared { plan, current, ticketer, kernel })))
    }

    fn server_config(&self, ticketer: &Arc<dyn ProducesTickets>) -> Result<Arc<ServerConfig>, TlsError> {
        if self.certificates.is_empty() {
            return Err(TlsError::NoCertificate);
        }
        let provider = provider();
        let certificates: Result<Vec<_>, _> = self
            .certificates
            .iter()
            .map(|(chain, key)| certified_key(chain, key, &provider).map(Arc::new))
            .collect();
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(internal)?;
        let verifier = |roots: &Pem| -> Result<_, TlsError> {
            Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots.roots()?), provider.clone()))
        };
        let builder = match &self.client_auth {
            ClientAuth::Off => builder.with_no_client_auth(),
            ClientAuth::Optional(roots) => builder.with_client_cert_verifier(
                verifier(roots)?.allow_unauthenticated().build().map_err(internal)?,
            ),
            ClientAuth::Required(roots) => {
                builder.with_client_cert_verifier(verifier(roots)?.build().map_err(internal)?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName(certificates?)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Sessions are resumed by tickets: nothing is kept for them here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ticketer.clone();
        config.enable_secret_extraction = true;
        Ok(Arc::new(config))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn internal(error: impl fmt::Display) -> TlsError {
    TlsError::Unusable { what: "the TLS configuration".to_owned(), reason: error.to_string() }
}

/// What TLS listeners serve with: TLS 1.2 and 1.3, for HTTP/1.1 (ALPN). Sessions are resumed by stateless
/// tickets, whose keys change every six hours. Cheap to clone: clones share what
/// [`reload`](Self::reload) changes, and a listener keeps one.
///
/// ```no_run
/// use ringwire::{ListenAddr, Server, TlsConfig};
/// use std::path::Path;
///
/// let tls = TlsConfig::builder().certificate(Path::new("cert.pem"), Path::new("key.pem")).build()?;
/// let addr: ListenAddr = "0.0.0.0:443".parse()?;
/// let builder = Server::builder().listen_tls(addr, tls.clone());
/// // The files have been renewed:
/// tls.reload()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct TlsConfig(Arc<Shared>);

struct Shared {
    plan: Mutex<TlsConfigBuilder>,
    current: RwLock<Arc<ServerConfig>>,
    /// Outlives reloads, so that sessions do.
    ticketer: Arc<dyn ProducesTickets>,
    kernel: KernelTls,
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig").finish_non_exhaustive()
    }
}

impl TlsConfig {
    /// Begins a configuration.
    pub fn builder() -> TlsConfigBuilder {
        TlsConfigBuilder::default()
    }

    /// Reads the files again. Handshakes from here on use what they hold now; connections that are
    /// open stay as they are.
    ///
    /// # Errors
    /// As [`TlsConfigBuilder::build`]; then nothing has changed.
    pub fn reload(&self) -> Result<(), TlsError> {
        let plan = self.0.plan.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.put(plan.server_config(&self.0.ticketer)?);
        Ok(())
    }

    /// Serves with something else from here on, as [`reload`](Self::reload) does.
    ///
    /// # Errors
    /// As [`TlsConfigBuilder::build`]; then nothing has changed.
    pub fn replace(&self, with: TlsConfigBuilder) -> Result<(), TlsError> {
        let mut plan = self.0.plan.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.put(with.server_config(&self.0.ticketer)?);
        *plan = with;
        Ok(())
    }

    /// Whether the kernel seals and opens records.
    pub fn kernel(&self) -> KernelTls {
        self.0.kernel
    }

    fn put(&self, config: Arc<ServerConfig>) {
        *self.0.current.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = config;
    }

    /// For a connection that begins now.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.0.current.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

thread_local! {
    /// The host that the hello just looked at asks for: rustls' unbuffered connections do not tell.
    static ASKED_NAME: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The host that the client asked for, after its hello has been taken on this thread.
pub(super) fn take_asked_name() -> Option<String> {
    ASKED_NAME.take()
}

/// Certificates, the first of which is for those who ask for no host or another's.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let first = self.0.first()?;
        ASKED_NAME.set(hello.server_name().map(str::to_owned));
        if self.0.len() > 1
            && let Some(name) = hello.server_name().and_then(|name| ServerName::try_from(name).ok())
        {
            let fits = |certified: &&Arc<CertifiedKey>| {
                let parsed = certified.end_entity_cert().and_then(ParsedCertificate::try_from);
                parsed.is_ok_and(|certificate| verify_server_name(&certificate, &name).is_ok())
            };
            return Some(self.0.iter().find(fits).unwrap_or(first).clone());
        }
        Some(first.clone())
    }
}

/// How connections that this end opens use TLS: whom they trust, and what they show.
///
/// ```no_run
/// use ringwire::{ClientRequest, TlsClient};
/// use std::path::Path;
///
/// let tls = TlsClient::new(Path::new("/etc/ssl/certs/ca-certificates.crt"))?;
/// let request = ClientRequest { host: "example.org".into(), tls: Some(tls), ..ClientRequest::default() };
/// # Ok::<(), ringwire::TlsError>(())
/// ```
#[derive(Clone)]
pub struct TlsClient(Arc<ClientConfig>);

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").finish_non_exhaustive()
    }
}

impl TlsClient {
    /// Trusts servers whose certificates descend from these.
    ///
    /// # Errors
    /// If there are none, or they cannot be read.
    pub fn new(roots: impl Into<Pem>) -> Result<Self, TlsError> {
        Self::with(roots.into().roots()?, None)
    }

    /// Shows this certificate to servers that ask for one as well.
    ///
    /// # Errors
    /// As [`TlsConfigBuilder::build`].
    pub fn with_certificate(
        roots: impl Into<Pem>,
        chain: impl Into<Pem>,
        key: impl Into<Pem>,
    ) -> Result<Self, TlsError> {
        Self::with(roots.into().roots()?, Some((chain.into(), key.into())))
    }

    fn with(roots: RootCertStore, shown: Option<(Pem, Pem)>) -> Result<Self, TlsError> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(internal)?
            .with_root_certificates(roots);
        Ok(Self::from_rustls(match shown {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let certified = Arc::new(certified_key(&chain, &key, &provider)?);
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
            }
        }))
    }

    /// Uses a configuration made with rustls 0.23 itself, but for ALPN, which is `http/1.1`.
    pub fn from_rustls(mut config: ClientConfig) -> Self {
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Tickets that come later are not kept.
        config.resumption = Resumption::disabled();
        config.enable_secret_extraction = true;
        Self(Arc::new(config))
    }

    pub(super) fn rustls(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }
}
