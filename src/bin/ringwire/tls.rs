//! `serve --tls`: the certificate, one made on the spot for loopback if none is given, and SIGHUP.

use clap::{Args, ValueEnum};
use ringwire::{KernelTls, ListenAddr, ServerBuilder, TlsConfig, TlsConfigBuilder, doctor};
use std::error::Error;
use std::io::{self, Write as _};
use std::path::PathBuf;

#[derive(Debug, Default, Args)]
pub struct TlsOptions {
    /// Speak TLS: https:// and wss://. Without --cert, on loopback only, by a certificate made on the spot that
    /// signs itself.
    #[arg(long)]
    tls: bool,

    /// Certificate and the chain behind it, in PEM; SIGHUP reads it again. Implies --tls.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// The certificate's private key, in PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// Threads that take the steps of TLS handshakes off the shards, on cores that no shard has, if there are any.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=ringwire::MAX_SHARDS as i64))]
    tls_threads: u16,

    /// Give keys to the kernel once handshakes are done, where it has TLS (Linux 6.0 with the module `tls`);
    /// `required` fails where it has not.
    #[arg(long, value_name = "HOW", value_enum, num_args = 0..=1, default_missing_value = "auto")]
    ktls: Option<Ktls>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ktls {
    /// Where it can.
    Auto,
    /// Or not at all.
    Required,
}

impl TlsOptions {
    /// With as many threads for TLS as were asked for.
    pub fn helped(&self, builder: ServerBuilder) -> ServerBuilder {
        builder.tls_threads(self.tls_threads.into())
    }

    /// What listeners speak TLS with, if they do.
    pub fn config(self, addrs: &[ListenAddr]) -> Result<Option<TlsConfig>, Box<dyn Error>> {
        let is_on = self.tls || self.cert.is_some();
        let builder = match self.ktls {
            Some(_) if !is_on => return Err("--ktls is for TLS: give --tls, or --cert and --key".into()),
            Some(how) => with_kernel(how),
            None => TlsConfig::builder(),
        };
        if let (Some(cert), Some(key)) = (self.cert, self.key) {
            return Ok(Some(builder.certificate(cert, key).build()?));
        }
        if !is_on {
            return Ok(None);
        }
        let is_local = |addr: &ListenAddr| match addr {
            ListenAddr::Tcp(addr) => addr.ip().is_loopback(),
            ListenAddr::Unix(_) => true,
        };
        if let Some(open) = addrs.iter().find(|addr| !is_local(addr)) {
            return Err(format!(
                "--tls on {open}: give --cert and --key, as nobody would trust a certificate made on the spot"
            )
            .into());
        }
        let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(hosts)?;
        let config = builder.certificate(made.cert.pem(), made.signing_key.serialize_pem());
        Ok(Some(config.build()?))
    }
}

fn with_kernel(how: Ktls) -> TlsConfigBuilder {
    if let (Ktls::Auto, Err(why)) = (how, doctor::kernel_tls()) {
        eprintln!("ringwire: warning: --ktls does nothing here: {why}");
    }
    TlsConfig::builder().kernel(match how {
        Ktls::Auto => KernelTls::Auto,
        Ktls::Required => KernelTls::Required,
    })
}

/// SIGHUP: the files may have been renewed.
pub fn reload(config: &TlsConfig) {
    match config.reload() {
        // Who read stderr may be gone, and eprintln! would end the thread of the signals.
        Ok(()) => _ = writeln!(io::stderr(), "ringwire: certificates were read again"),
        Err(error) => _ = writeln!(io::stderr(), "ringwire: certificates stay as they are: {error}"),
    }
}
