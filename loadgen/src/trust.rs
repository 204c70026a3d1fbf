//! Whose certificates a load over `wss://` accepts.
//!
//! Made once for each worker. The contract: nothing is accepted unseen but with `--insecure`, which only
//! this program knows.

use ringwire::TlsClient;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// Whom to believe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trust {
    /// Nobody: no target speaks TLS.
    #[default]
    Nobody,
    /// Certificates that descend from these, in PEM.
    Roots(String),
    /// Whoever answers.
    Anybody,
}

impl Trust {
    /// What the command line says.
    ///
    /// # Errors
    /// In words, if targets speak TLS and nobody is trusted, or the file cannot be read.
    pub fn choose(any_tls: bool, insecure: bool, roots: Option<&Path>) -> Result<Self, String> {
        match roots {
            _ if insecure => Ok(Self::Anybody),
            None if any_tls => {
                Err("wss:// needs --ca FILE, or --insecure to believe whoever answers".to_owned())
            }
            None => Ok(Self::Nobody),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
                TlsClient::new(text.clone()).map_err(|error| format!("{}: {error}", path.display()))?;
                Ok(Self::Roots(text))
            }
        }
    }

    /// For the engine's client role.
    pub fn client(&self) -> Option<TlsClient> {
        match self {
            Self::Nobody => None,
            // They have been read once.
            Self::Roots(text) => TlsClient::new(text.clone()).ok(),
            Self::Anybody => {
                let provider = Arc::new(aws_lc_rs::default_provider());
                let verifier = Arc::new(AnyCertificate(provider.clone()));
                let builder =
                    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
                let config = builder.ok()?.dangerous().with_custom_certificate_verifier(verifier);
                Some(TlsClient::from_rustls(config.with_no_client_auth()))
            }
        }
    }
}

/// Accepts every certificate whose key the server has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_believed_unasked() {
        assert!(Trust::choose(true, false, None).unwrap_err().contains("--insecure"));
        assert_eq!(Trust::choose(false, false, None), Ok(Trust::Nobody));
        assert!(Trust::Nobody.client().is_none());
        assert!(Trust::choose(true, true, None).unwrap().client().is_some());
        let missing = Trust::choose(true, false, Some(Path::new("nowhere/ca.pem")));
        assert!(missing.unwrap_err().starts_with("nowhere/ca.pem: "));
    }
}
