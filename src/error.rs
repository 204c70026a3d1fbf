//! Errors that reach whoever runs a server. A leaf. Each says whose fault it is and what to do next;
//! what peers do wrong is [`Violation`](crate::ws::Violation) instead and ends their connection only.

use crate::config::ListenAddr;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a server does not start, or stopped by itself.
#[derive(Debug)]
pub enum ServerError {
    /// The caller's: the configuration makes no sense.
    Config(String),
    /// The host's or the caller's: an address cannot be listened on.
    Listen {
        /// Which one.
        addr: ListenAddr,
        /// Why.
        error: io::Error,
    },
    /// The caller's: certificates or keys cannot be used.
    Tls(TlsError),
    /// The host's: the driver asked for cannot run, or none can.
    Driver(String),
    /// The host's: threads cannot be started.
    Threads(io::Error),
    /// The host's: a shard failed while it ran. Its connections are lost.
    Shard {
        /// Which one.
        shard: usize,
        /// Why.
        error: io::Error,
    },
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(text) => write!(f, "invalid configuration: {text}"),
            // The error names the address and what to do.
            Self::Listen { error, .. } => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
            Self::Driver(text) => write!(f, "no driver: {text}"),
            Self::Threads(error) => write!(f, "no threads for TLS: {error}"),
            Self::Shard { shard, error } => write!(f, "shard {shard} failed: {error}"),
        }
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen { error, .. } | Self::Shard { error, .. } | Self::Threads(error) => Some(error),
            Self::Tls(error) => error.source(),
            Self::Config(_) | Self::Driver(_) => None,
        }
    }
}

impl From<TlsError> for ServerError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

/// Why certificates or keys cannot be used: the caller's fault.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// A server was given none.
    NoCertificate,
    /// A file cannot be read.
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What was given makes no sense, or not now.
    Unusable {
        /// The file, or `PEM text`.
        what: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The host's: it gives no random bytes.
    NoRandomness,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str("TLS needs a certificate and its key: give them"),
            Self::Read { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Unusable { what, reason } => write!(f, "{what}: {reason}"),
            Self::NoRandomness => f.write_str("this host gives no random bytes"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { error, .. } => Some(error),
            _ => None,
        }
    }
}
