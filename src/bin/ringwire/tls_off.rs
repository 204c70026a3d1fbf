//! What stands in for `tls.rs` where the feature `tls` is off: no option, no TLS.

use clap::Args;
use ringwire::{ListenAddr, ServerBuilder};
use std::convert::Infallible;
use std::error::Error;

#[derive(Debug, Default, Args)]
pub struct TlsOptions {}

impl TlsOptions {
    pub fn helped(&self, builder: ServerBuilder) -> ServerBuilder {
        builder
    }

    pub fn config(self, _addrs: &[ListenAddr]) -> Result<Option<Infallible>, Box<dyn Error>> {
        Ok(None)
    }
}

pub fn reload(config: &Infallible) {
    match *config {}
}
