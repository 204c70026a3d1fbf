//! Certificates and keys from PEM, and whether they can be used: errors name the file.
//!
//! The only part of this room that reads files and the time of day.

use crate::error::TlsError;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// PEM text (RFC 7468), by path or as it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// A file, which is read again by [`TlsConfig::reload`](crate::TlsConfig::reload).
    File(PathBuf),
    /// The text itself.
    Text(Vec<u8>),
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It may be a key.
        write!(f, "Pem({})", self.name())
    }
}

impl From<PathBuf> for Pem {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&std::path::Path> for Pem {
    fn from(path: &std::path::Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<Vec<u8>> for Pem {
    fn from(text: Vec<u8>) -> Self {
        Self::Text(text)
    }
}

impl From<String> for Pem {
    fn from(text: String) -> Self {
        Self::Text(text.into_bytes())
    }
}

impl Pem {
    /// How errors name it.
    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Text(_) => "PEM text".to_owned(),
        }
    }

    fn wrong(&self, reason: impl Into<String>) -> TlsError {
        TlsError::Unusable { what: self.name(), reason: reason.into() }
    }

    fn text(&self) -> Result<Vec<u8>, TlsError> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => {
                std::fs::read(path).map_err(|error| TlsError::Read { path: path.clone(), error })
            }
        }
    }

    /// All certificates, of which there is at least one.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.text()?).collect();
        match certificates {
            Ok(certificates) if certificates.is_empty() => Err(self.wrong("there is no certificate in it")),
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(self.wrong(format!("it is not valid PEM: {error}"))),
        }
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.text()?).map_err(|error| {
            self.wrong(format!(
                "there is no private key in it that can be read ({error}): it must not be encrypted"
            ))
        })
    }

    /// Certificates to verify others by.
    pub(super) fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| self.wrong(error.to_string()))?;
        }
        Ok(roots)
    }
}

/// A chain and its key, if they belong together and are valid now.
pub(super) fn certified_key(
    chain: &Pem,
    key: &Pem,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let certificates = chain.certificates()?;
    for certificate in &certificates {
        check_validity(chain, certificate)?;
    }
    let private = provider
        .key_provider
        .load_private_key(key.private_key()?)
        .map_err(|error| key.wrong(format!("the key cannot be used: {error}")))?;
    let certified = CertifiedKey::new(certificates, private);
    match certified.keys_match() {
        // Of some keys it cannot be told.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(key.wrong(format!("the key does not belong to the certificate in {}", chain.name())))
        }
        Err(error) => Err(chain.wrong(error.to_string())),
    }
}

fn check_validity(pem: &Pem, certificate: &CertificateDer<'_>) -> Result<(), TlsError> {
    let Some((begin, end)) = validity(certificate) else {
        return Err(pem.wrong("it is not an X.509 certificate"));
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let days = |time: Duration| time.as_secs() / 86_400;
    if now > end {
        return Err(pem
            .wrong(format!("the certificate expired {} days ago: renew it", days(now.saturating_sub(end)))));
    }
    if now < begin {
        let ahead = days(begin.saturating_sub(now));
        return Err(
            pem.wrong(format!("the certificate is valid in {ahead} days only: is this host's clock right?"))
        );
    }
    Ok(())
}

/// From when and until when a certificate is valid (RFC 5280 §4.1.2.5), since 1970.
fn validity(certificate: &[u8]) -> Option<(Duration, Duration)> {
    let mut certificate = certificate;
    let mut outer = content(&mut certificate, SEQUENCE)?;
    let mut signed = content(&mut outer, SEQUENCE)?;
    // Version, which may be missing; serial number; algorithm; issuer.
    if signed.first() == Some(&VERSION) {
        content(&mut signed, VERSION)?;
    }
    content(&mut signed, INTEGER)?;
    content(&mut signed, SEQUENCE)?;
    content(&mut signed, SEQUENCE)?;
    let mut validity = content(&mut signed, SEQUENCE)?;
    Some((time(&mut validity)?, time(&mut validity)?))
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// Takes an element of this kind from the front of DER (X.690 §8.1).
fn content<'a>(der: &mut &'a [u8], kind: u8) -> Option<&'a [u8]> {
    let (&[found, first], rest) = der.split_first_chunk()?;
    let length_bytes = if first < 0x80 { 0 } else { usize::from(first & 0x7f) };
    if found != kind || length_bytes > 3 {
        return None;
    }
    let (length, rest) = rest.split_at_checked(length_bytes)?;
    let long = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (content, rest) = rest.split_at_checked(if length_bytes == 0 { first.into() } else { long })?;
    *der = rest;
    Some(content)
}

/// `YYMMDDHHMMSSZ`, or with four digits of the year.
fn time(der: &mut &[u8]) -> Option<Duration> {
    let kind = *der.first()?;
    let text = content(der, kind)?.strip_suffix(b"Z")?;
    let pair = |at: usize| -> Option<u64> {
        let digits = text.get(at..at + 2)?;
        digits.iter().try_fold(0, |n, digit| digit.is_ascii_digit().then(|| n * 10 + u64::from(digit - b'0')))
    };
    let (year, at) = match kind {
        // RFC 5280 §4.1.2.5.1.
        UTC_TIME => (if pair(0)? < 50 { 2000 + pair(0)? } else { 1900 + pair(0)? }, 2),
        GENERALIZED_TIME => (pair(0)? * 100 + pair(2)?, 4),
        _ => return None,
    };
    let (month, day) = (pair(at)?.clamp(1, 12), pair(at + 2)?);
    // Days since 1970 of the proleptic Gregorian calendar, counted in years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    let days = days.saturating_sub(719_469);
    let seconds = pair(at + 4)? * 3_600 + pair(at + 6)? * 60 + pair(at + 8)?;
    Some(Duration::from_secs(days * 86_400 + seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(kind: u8, content: &[u8]) -> Vec<u8> {
        [&[kind, content.len() as u8], content].concat()
    }

    #[test]
    fn times_are_read() {
        let seconds = |kind, text: &[u8]| time(&mut &element(kind, text)[..]).map(|time| time.as_secs());
        assert_eq!(seconds(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(seconds(UTC_TIME, b"000229235959Z"), Some(951_868_799));
        assert_eq!(seconds(GENERALIZED_TIME, b"20240301000001Z"), Some(1_709_251_201));
        assert_eq!(seconds(UTC_TIME, b"491231235959Z"), Some(2_524_607_999));
        assert_eq!(seconds(UTC_TIME, b"4912312359Z"), None);
        assert_eq!(seconds(UTC_TIME, b"4912312359xxZ"), None);
        assert_eq!(seconds(SEQUENCE, b"491231235959Z"), None);
    }

    #[test]
    fn lengths_of_der_are_bounded_by_the_input() {
        assert_eq!(content(&mut &[SEQUENCE, 0x81, 1, 7, 9][..], SEQUENCE), Some(&[7][..]));
        for wrong in
            [&[SEQUENCE, 2, 1][..], &[SEQUENCE, 0x84, 0, 0, 0, 1, 7], &[SEQUENCE, 0x82, 1], &[2, 1, 1]]
        {
            assert_eq!(content(&mut &wrong[..], SEQUENCE), None, "{wrong:?}");
        }
    }
}
